"""A metric of any origin behind one face, ready to score."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from ...multiscale import MultiScale
from ...representation import Representation
from ...windows import Windows


class Representing(Protocol):
    """A metric that can represent an image once and compare it often."""

    def represent(self, image: Tensor | Windows) -> Representation:
        """What is to be kept of images."""

    def compare(self, a: Representation, b: Representation) -> Tensor:
        """Scores (N,) of two representations."""


class MetricUnavailableError(RuntimeError):
    """A metric of a toolkit that cannot be made here."""


@dataclass(frozen=True)
class Scorer:
    """A metric that is ready to score.

    Attributes:
        name: as it was asked for; where another backbone was chosen than the name stands for, with that in parentheses.
        lower_is_better: direction.
        score: (distorted, reference), each (N, 3, H, W) in [0, 1] on ``device``, to (N,).
        device: where images must be.
        module: the metric itself.
        options: what it was made with; None where that is not known.
    """

    name: str
    lower_is_better: bool
    score: Callable[[Tensor, Tensor], Tensor]
    device: torch.device
    module: nn.Module
    options: Mapping[str, Any] | None = None

    @property
    def representing(self) -> Representing | None:
        """The metric, if an image can be represented once and compared often."""
        inner = self.module.metric if isinstance(self.module, MultiScale) else self.module
        return cast(Representing, self.module) if hasattr(inner, "represent") and hasattr(inner, "compare") else None


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """The device of this name; None for the GPU if there is one.

    Raises:
        ValueError: there is no such device here.
    """
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:  # which of them depends on how torch was built
        raise ValueError(f"no device {str(device)!r} here: {str(error).splitlines()[0]}") from error
    return chosen
