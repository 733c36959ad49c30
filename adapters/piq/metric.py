"""The registered metrics in piq, ``piq.msds(x, y)`` and ``piq.MSDSLoss()``, and ``piq.MultiScale`` for piq's own.

All are also to be imported from here.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Hashable
from copy import deepcopy
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import piq
import torch
from piq.utils import _reduce, _validate_input
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from ... import registry
from ...errors import check_has_values
from ...weights import file_identity
from ..common.borrow import with_borrowed_weights
from .multiscale import REDUCTIONS, MultiScale

__all__ = ["DeepSSIMLoss", "MSDSLoss", "MultiScale", "attach", "deepssim", "msds"]


class MetricLoss(_Loss):
    """A registered metric as a loss by piq's conventions; its subclasses say which metric.

    The loss is 1 - similarity (a metric whose lower scores are better is its own loss): 0 for identical images. The module
    follows the device and the type of its input; half precision is computed in float32.

    Args:
        data_range: largest value an image can have: 1.0 or 255.
        reduction: ``'none'`` (N,), ``'mean'`` or ``'sum'``.
        options: those of the metric: levels, fusion, backbone, weights, layers, ... ``backbone`` may also be a live metric
            of piq or pyiqa that holds a VGG16 (``piq.LPIPS()``); its weights are then used, on a CPU without a copy until
            either metric is changed.

    Shape:
        x, y: (N, 3, H, W) or (N, 1, H, W), values in [0, data_range]; the sizes of x and y may differ.

    Raises:
        AssertionError: input that piq's own checks refuse (shapes, range).
        ValueError: an unknown reduction, an image too small, unknown options.
    """

    metric_name: ClassVar[str]

    def __init__(self, data_range: float = 1.0, reduction: str = "mean", **options: Any) -> None:
        super().__init__()
        if reduction not in REDUCTIONS:
            raise ValueError(f"unknown reduction {reduction!r}: choose from {', '.join(REDUCTIONS)}")
        if data_range <= 0:
            raise ValueError(f"data_range must be the largest value an image can have, got {data_range}")
        self.data_range = data_range
        self.reduction = reduction
        self.metric = registry.create(self.metric_name, **with_borrowed_weights(options))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of distorted images ``x`` beside references ``y``, reduced over the batch."""
        metric = registry.get(self.metric_name)
        score = self.score(x, y)
        loss = score if metric.lower_is_better else (metric.best if metric.best < float("inf") else 0) - score
        return _reduce(loss, self.reduction)

    def score(self, x: Tensor, y: Tensor) -> Tensor:
        """The metric's own scores (N,)."""
        for name, image in (("x", x), ("y", y)):
            check_has_values(image, name)
        if x.device != y.device:
            raise ValueError(f"x is on {x.device} and y on {y.device}: move one of them")
        _validate_input([x, y], dim_range=(4, 4), data_range=(0, self.data_range), size_range=(0, 2))
        for image in (x, y):
            if image.shape[1] not in (1, 3):
                raise AssertionError(f"Expected RGB or grey images (N, 3 or 1, H, W), got {tuple(image.shape)}")
        x, y = (image.float() if image.dtype in (torch.float16, torch.bfloat16) else image for image in (x, y))
        x, y = (image.expand(-1, 3, -1, -1) / self.data_range for image in (x, y))
        return self._metric_like(x)(x, y)

    def _metric_like(self, x: Tensor) -> nn.Module:
        """The metric on the device and in the type of ``x``.

        Another thread, or a backward pass that is still to come, may need the weights as they are: they are replaced, not
        converted in place. What is trained stays the same parameter, as its optimiser knows it.
        """
        metric = self.metric
        place = next(chain(metric.parameters(), metric.buffers()), x)
        if (place.device, place.dtype) == (x.device, x.dtype):
            return metric
        trained: dict[int, Any] = {id(parameter): parameter for parameter in metric.parameters() if parameter.requires_grad}
        moved = deepcopy(metric, trained).to(x)
        self.metric = moved
        return moved


class DeepSSIMLoss(MetricLoss):
    """1 - DeepSSIM, in [0, 2]; see :class:`MetricLoss` for the arguments.

    Source: Zhang et al., IEEE TPAMI 2025 (arXiv 2412.19553).
    """

    metric_name = "deepssim"


class MSDSLoss(MetricLoss):
    """1 - MSDS, in [0, 2]; see :class:`MetricLoss` for the arguments.

    Source: Kang et al., 2026 (arXiv 2604.19159).
    """

    metric_name = "msds"


_losses: dict[str, type[MetricLoss]] = {"deepssim": DeepSSIMLoss, "msds": MSDSLoss}


@lru_cache(maxsize=8)
def _kept(metric_name: str, options: tuple[tuple[str, Any], ...], others: tuple[Hashable, ...]) -> MetricLoss:
    return _losses[metric_name](**dict(options))


def _hashable(value: Any) -> Any:
    if isinstance(value, list | Tensor | np.ndarray) and np.ndim(value) == 1:
        return tuple(value if isinstance(value, list) else value.tolist())
    return str(value) if isinstance(value, Path) else value


def _score(metric_name: str, x: Tensor, y: Tensor, data_range: float, reduction: str, options: dict[str, Any]) -> Tensor:
    if reduction not in REDUCTIONS:
        raise ValueError(f"unknown reduction {reduction!r}: choose from {', '.join(REDUCTIONS)}")
    options = {"data_range": data_range} | {key: _hashable(value) for key, value in options.items()}
    # Kept between calls is only what its options tell apart: neither random weights nor a module given as backbone.
    plain = all(isinstance(value, str | float | int | tuple | None) for value in options.values())
    keep = plain and options.get("weights", "imagenet") is not None
    if not keep:
        return _reduce(_losses[metric_name](**options).score(x, y), reduction)
    # A file counts by its content: one that has changed is another option. A network is never moved under another thread.
    files = [file_identity(value) for value in options.values() if isinstance(value, str) and os.path.isfile(value)]
    place = (x.device, x.dtype) if isinstance(x, Tensor) else ()
    return _reduce(_kept(metric_name, tuple(sorted(options.items())), (*files, *place)).score(x, y), reduction)


def deepssim(x: Tensor, y: Tensor, data_range: float = 1.0, reduction: str = "mean", **options: Any) -> Tensor:
    """DeepSSIM of distorted images ``x`` beside references ``y``; higher is better, 1 for identical images.

    Arguments and errors are those of :class:`MetricLoss`. The network is built at the first call and kept.
    """
    return _score("deepssim", x, y, data_range, reduction, options)


def msds(x: Tensor, y: Tensor, data_range: float = 1.0, reduction: str = "mean", **options: Any) -> Tensor:
    """MSDS of distorted images ``x`` beside references ``y``; higher is better, 1 for identical images.

    Arguments and errors are those of :class:`MetricLoss`. The network is built at the first call and kept.
    """
    return _score("msds", x, y, data_range, reduction, options)


_functions: dict[str, Callable[..., Tensor]] = {"deepssim": deepssim, "msds": msds}


def __getattr__(name: str) -> Any:
    """The functions and losses of metrics that were registered, for imports and for pickle."""
    known: dict[str, Any] = {value.__name__: value for table in (_losses, _functions) for value in table.values()}
    if name in known:
        return known[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def attach() -> None:
    """Add ``MultiScale`` and every metric of :mod:`msds_plugin.registry` to piq, now and as they come.

    A metric ``my-metric`` titled ``My-Metric`` becomes ``piq.my_metric`` and ``piq.MyMetricLoss``. A second time does
    nothing.
    """
    _export("MultiScale", MultiScale)
    registry.subscribe(_add)


def _add(metric: registry.Metric) -> None:
    _kept.cache_clear()
    loss_name = "".join(part for part in metric.title if part.isalnum()) + "Loss"
    function_name = "".join(part if part.isalnum() else "_" for part in metric.name)
    if metric.name not in _losses:
        documentation = f"{metric.summary}; see MetricLoss for the arguments.\n\nSource: {metric.citation or 'not given'}"
        attributes = {"metric_name": metric.name, "__doc__": documentation, "__module__": __name__}
        _losses[metric.name] = type(loss_name, (MetricLoss,), attributes)

        def function(x: Tensor, y: Tensor, data_range: float = 1.0, reduction: str = "mean", **options: Any) -> Tensor:
            return _score(metric.name, x, y, data_range, reduction, options)

        function.__name__ = function.__qualname__ = function_name
        function.__doc__ = documentation
        _functions[metric.name] = function
    _export(function_name, _functions[metric.name])
    _export(loss_name, _losses[metric.name])


def _export(name: str, value: object) -> None:
    if getattr(piq, name, value) is not value:
        warnings.warn(
            f"piq has {name!r} already: it is left alone, and msds_plugin's is not added there",
            RuntimeWarning,
            stacklevel=3,
        )
        return
    setattr(piq, name, value)
