"""Any metric by name, ours or pyiqa's, behind one face."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from .. import registry
from ..errors import MissingDependencyError
from ..representation import Representation
from . import attach


class Representing(Protocol):
    """A metric that can represent an image once and compare it often."""

    def represent(self, image: Tensor) -> Representation:
        """What is to be kept of images."""

    def compare(self, a: Representation, b: Representation) -> Tensor:
        """Scores (N,) of two representations."""


@dataclass(frozen=True)
class Scorer:
    """A metric that is ready to score.

    Attributes:
        name: as it was asked for.
        lower_is_better: direction.
        score: (distorted, reference), each (N, 3, H, W) in [0, 1] on ``device``, to (N,).
        device: where images must be.
        module: the metric itself.
    """

    name: str
    lower_is_better: bool
    score: Callable[[Tensor, Tensor], Tensor]
    device: torch.device
    module: nn.Module

    @property
    def representing(self) -> Representing | None:
        """The metric, if an image can be represented once and compared often."""
        return cast(Representing, self.module) if hasattr(self.module, "compare") else None


def create_scorer(name: str, device: str | torch.device | None = None, **options: Any) -> Scorer:
    """Build a metric by its name, in our registry first, then among pyiqa's.

    Args:
        name: ``msds``, ``deepssim-fast``, ... or, with pyiqa installed, any name of ``pyiqa.list_models()``, among them
            ``ms-<name>`` for the full-reference metric ``<name>`` on a pyramid.
        device: None for the GPU if there is one.
        options: those of the metric.

    Raises:
        ValueError: no metric of this name; names the nearest.
        MissingDependencyError: the name is not ours, and pyiqa is not installed.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if name in registry.names():
        metric = registry.create(name, **options).to(device).eval()
        return Scorer(name, registry.get(name).lower_is_better, metric, device, metric)
    try:
        import pyiqa
    except ImportError as error:
        raise MissingDependencyError(
            f"no metric named {name!r} here ({', '.join(registry.names())}); "
            f"pyiqa's metrics need pyiqa ({error}): pip install 'msds-plugin[pyiqa]'"
        ) from error
    attach()  # for the ms- forms of metrics that have come straight into pyiqa
    known = pyiqa.list_models()
    if name not in known:
        near = difflib.get_close_matches(name, known) or registry.names()
        raise ValueError(f"no metric named {name!r}; did you mean {', '.join(near)}?")
    model = pyiqa.create_metric(name, device=device, **options)

    def score(distorted: Tensor, reference: Tensor) -> Tensor:
        scores = model(distorted, reference) if model.metric_mode == "FR" else model(distorted)
        return cast(Tensor, scores).reshape(-1).expand(len(distorted))

    return Scorer(name, bool(model.lower_better), score, device, model)
