"""The registered metrics in pyiqa, ``pyiqa.create_metric("msds")``, and every full-reference metric on a pyramid."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from typing import Any

import torch
from pyiqa.default_model_configs import DEFAULT_CONFIGS
from pyiqa.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from ... import registry
from ...errors import values_unchecked
from ..common.borrow import with_borrowed_weights
from . import multiscale as pyiqa_multiscale


class PyiqaMetric(nn.Module):
    """A metric by pyiqa's conventions: (target, reference) to (N, 1), grey images taken as RGB."""

    def __init__(self, metric: nn.Module) -> None:
        super().__init__()
        self.metric = metric

    @property
    def smallest(self) -> int:
        """Shortest side of an image, in pixels."""
        return getattr(self.metric, "smallest", 1)

    def forward(self, x: Tensor, y: Tensor, **options: Any) -> Tensor:
        """Scores (N, 1) of distorted images ``x`` beside references ``y``, (N, 3 or 1, H, W) in [0, 1]."""
        x, y = (image.expand(-1, 3, -1, -1) if image.shape[1] == 1 else image for image in (x, y))
        # pyiqa has looked at the range, except for a loss (the only case with gradients enabled), where it may be left.
        with values_unchecked() if torch.is_grad_enabled() else nullcontext():
            return self.metric(x, y, **options).reshape(-1, 1)


def attach() -> None:
    """Register every metric of :mod:`msds_plugin.registry` in pyiqa, now and as they come, and the ``ms-`` forms.

    Called again, it registers the ``ms-`` forms of metrics that have come straight into pyiqa's own table since.
    """
    registry.subscribe(_add)
    pyiqa_multiscale.refresh()


def _add(metric: registry.Metric) -> None:
    arch = f"msds_plugin:{metric.name}"
    taken = DEFAULT_CONFIGS.get(metric.name)
    if taken is not None and taken["metric_opts"]["type"] != arch:
        warnings.warn(
            f"pyiqa has a metric named {metric.name!r} already: it is left alone, and msds_plugin's is not registered there",
            RuntimeWarning,
            stacklevel=2,
        )
        return

    def build(**options: Any) -> PyiqaMetric:
        # By name, so that a metric registered again under its name is the one that is built.
        return PyiqaMetric(registry.create(metric.name, **with_borrowed_weights(options)))

    build.__name__ = arch  # pyiqa's registry files it under this; before 0.1.16 it takes no other name
    if taken is None:
        ARCH_REGISTRY.register(build)
    DEFAULT_CONFIGS[metric.name] = {
        "metric_opts": {"type": arch},
        "metric_mode": "FR",
        "lower_better": metric.lower_is_better,
        "score_range": ", ".join(f"{bound:g}" for bound in metric.score_range),
    }
    pyiqa_multiscale.refresh()
