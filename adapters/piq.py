"""The registered metrics in piq, ``piq.msds(x, y)`` and ``piq.MSDSLoss()``, and ``piq.MultiScale`` for piq's own.

All are also to be imported from here.
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable, Hashable
from copy import copy
from functools import lru_cache, partial
from math import isfinite
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import piq
from piq.utils import _reduce, _validate_input
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from msds_plugin import registry
from msds_plugin.adapters.names import class_name, function_name
from msds_plugin.adapters.wrap import Held, ToolkitMetric, variant
from msds_plugin.checks import check_has_values
from msds_plugin.metric import Metric
from msds_plugin.msds import Fusion
from msds_plugin.msds import MultiScale as _MultiScale

REDUCTIONS = ("none", "mean", "sum")


class MetricLoss(_Loss):
    """A registered metric as a loss by piq's conventions; its subclasses say which metric.

    The loss is 1 - similarity (a metric whose lower scores are better is its own loss): 0 for identical images. It follows the
    device and the type of its input; half precision is computed in float32. The metric is no sub-module (see
    :class:`~msds_plugin.adapters.wrap.Held`): its weights are in no checkpoint and no optimiser.

    Args:
        data_range: largest value an image can have: 1.0 or 255.
        reduction: ``'none'`` (N,), ``'mean'`` or ``'sum'``.
        options: those of the metric: levels, fusion, backbone, weights, layers, ... ``backbone`` may also be a live metric
            of piq or pyiqa that holds a VGG16 (``piq.LPIPS()``); both then have the very same convolutions.

    Shape:
        x, y: (N, 3, H, W) or (N, 1, H, W), values in [0, data_range]; the sizes of x and y may differ.

    Raises:
        AssertionError: input that piq's own checks refuse (shapes, range).
        ValueError: an unknown reduction, an image too small, unknown options.
    """

    metric_name: ClassVar[str]

    def __init__(self, data_range: float = 1.0, reduction: str = "mean", **options: Any) -> None:
        super().__init__()
        self.reduction = _check_reduction(reduction)
        if data_range <= 0:
            raise ValueError(f"data_range must be the largest value an image can have, got {data_range}")
        self.data_range = data_range
        self._held = Held(self.metric_name, options)
        self._held.register_trained(self)

    @property
    def metric(self) -> Metric:
        """The metric itself."""
        return self._held.metric

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of distorted images ``x`` beside references ``y``, reduced over the batch."""
        row = registry.get(self.metric_name)
        score = self.score(x, y)
        loss = score if row.lower_is_better else (row.best if isfinite(row.best) else 0) - score
        return _reduce(loss, self.reduction)

    def score(self, x: Tensor, y: Tensor) -> Tensor:
        """The metric's own scores (N,)."""
        for name, image in (("x", x), ("y", y)):
            check_has_values(image, name)
        if x.device != y.device:
            raise ValueError(f"x is on {x.device} and y on {y.device}: move one of them")
        try:
            _validate_input([x, y], dim_range=(4, 4), data_range=(0, self.data_range), size_range=(0, 2))
        except AssertionError as error:
            advice = "; divide 8-bit values by 255 or pass data_range=255, and clamp what a network or a resize overshoots"
            raise AssertionError(f"{error}{advice if 'values' in str(error) else ''}") from error
        for image in (x, y):
            if image.shape[1] not in (1, 3):
                raise AssertionError(f"Expected RGB or grey images (N, 3 or 1, H, W), got {tuple(image.shape)}")
        self._held.take_trained(self)
        return self._held(x / self.data_range, y / self.data_range)


class Function(Protocol):
    """A metric as a function of one batch."""

    def __call__(self, x: Tensor, y: Tensor, data_range: float = 1.0, reduction: str = "mean", **options: Any) -> Tensor:
        """The reduced score of distorted images ``x`` beside references ``y``; arguments and errors of :class:`MetricLoss`.

        The network is built at the first call and kept, unless an option is a file, a tensor or a module.
        """


# Made from the registry below; stated here for type checkers and editors.
if TYPE_CHECKING:
    deepssim: Function
    DeepSSIMLoss = MetricLoss
    deepssim_lite: Function
    DeepSSIMLiteLoss = MetricLoss
    deepssim_fast: Function
    DeepSSIMFastLoss = MetricLoss
    deepssim_lite_fast: Function
    DeepSSIMLiteFastLoss = MetricLoss
    msds: Function
    MSDSLoss = MetricLoss
    msds_lite: Function
    MSDSLiteLoss = MetricLoss
    msds_fast: Function
    MSDSFastLoss = MetricLoss
    msds_lite_fast: Function
    MSDSLiteFastLoss = MetricLoss
    msds_auto: Function
    MSDSAutoLoss = MetricLoss
    msds_hybrid: Function
    MSDSHybridLoss = MetricLoss
    msds_align: Function
    MSDSAlignLoss = MetricLoss
    msds_retarget: Function
    MSDSRetargetLoss = MetricLoss
    spips: Function
    SPIPSLoss = MetricLoss


def _check_reduction(reduction: str) -> str:
    if reduction not in REDUCTIONS:
        raise ValueError(f"unknown reduction {reduction!r}: choose from {', '.join(REDUCTIONS)}")
    return reduction


def _score(metric_name: str, x: Tensor, y: Tensor, data_range: float, reduction: str, options: dict[str, Any]) -> Tensor:
    _check_reduction(reduction)
    options = {"data_range": data_range, **{key: _hashable(value) for key, value in options.items()}}
    # Kept between calls is only what its options tell apart: no random weights, and no file, whose content may change.
    known = all(isinstance(value, str | float | int | tuple | None) and not _is_file(value) for value in options.values())
    if not known or options.get("weights", "imagenet") is None:
        return _reduce(_losses[metric_name](**options).score(x, y), reduction)
    place = (x.device, x.dtype) if isinstance(x, Tensor) else ()  # a network is never moved under another thread
    return _reduce(_kept(metric_name, tuple(sorted(options.items())), place).score(x, y), reduction)


@lru_cache(maxsize=8)
def _kept(metric_name: str, options: tuple[tuple[str, Any], ...], place: Hashable) -> MetricLoss:
    return _losses[metric_name](**dict(options))


def _hashable(value: Any) -> Any:
    if isinstance(value, list | Tensor | np.ndarray) and np.ndim(value) == 1:
        return tuple(value if isinstance(value, list) else value.tolist())
    return value


def _is_file(value: object) -> bool:
    return isinstance(value, str) and os.path.isfile(value)


_losses: dict[str, type[MetricLoss]] = {}


class MultiScale(_Loss):
    r"""A full-reference loss or function of piq on an image pyramid.

    .. math:: \sum_l w_l\, m(x_l, y_l), \qquad w_l \ge 0, \quad \sum_l w_l = 1.

    Direction, range and range of the images are those of what is wrapped: a loss stays a loss, a similarity a similarity.
    The levels are fused for each image, and the fused scores are reduced; a loss given is therefore not asked for its own
    reduction (it is left as it is: a shallow copy with the same weights and ``reduction='none'`` does the work).

    Args:
        metric: a loss (``piq.LPIPS()``) or a function (``piq.ssim``).
        levels: number of levels, at least 1.
        fusion: weights of the levels, non-negative, scaled to sum to one; None for equal weights.
        reduction: ``'none'`` (N,), ``'mean'`` or ``'sum'``; None for that of the loss, for a function ``'mean'``.
        options: of a function: ``data_range`` and the like. Those of a loss are given to the loss itself.

    Shape:
        x, y: (N, C, H, W), as the metric takes them.

    Raises:
        ValueError: an unknown reduction, another number of weights than levels, an image too small for the levels or, on a
            level, for the metric.
        TypeError: a class instead of a loss, or options that are not the function's.

    Source: D. Kang et al., "MSDS: Deep Structural Similarity with Multiscale Representation", 2026 (arXiv 2604.19159).

    Example:
        >>> import piq, torch
        >>> x = torch.rand(2, 3, 64, 64)
        >>> MultiScale(piq.SSIMLoss(), levels=2)(x, x)
        tensor(0.)
        >>> MultiScale(piq.ssim, levels=2, reduction="none", data_range=255)(x * 255, x * 255)
        tensor([1., 1.])
    """

    def __init__(
        self,
        metric: Callable[..., Tensor],
        levels: int = 3,
        fusion: Fusion = None,
        reduction: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.reduction = getattr(metric, "reduction", "mean") if reduction is None else reduction
        if self.reduction not in REDUCTIONS:
            raise ValueError(f"unknown reduction {self.reduction!r}: choose from {', '.join(REDUCTIONS)}")
        self.multiscale = _MultiScale(_per_image(metric, options), levels, fusion)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The fused scores of ``x`` beside references ``y``, reduced over the batch."""
        return _reduce(self.multiscale(x, y), self.reduction)


def _per_image(metric: Callable[..., Tensor], options: dict[str, Any]) -> ToolkitMetric:
    """The metric without its own reduction, named with its options."""
    function = _without_reduction(metric, options)
    named: Any = type(metric) if isinstance(metric, nn.Module) else metric
    if isinstance(metric, partial):
        named, options = metric.func, {**metric.keywords, **options}
    return ToolkitMetric(function, variant(f"{named.__module__.partition('.')[0]}.{named.__qualname__}", options))


def _without_reduction(metric: Callable[..., Tensor], options: dict[str, Any]) -> Callable[[Tensor, Tensor], Tensor]:
    if isinstance(metric, type):
        raise TypeError(f"{metric.__name__} is a class: wrap a loss made from it, {metric.__name__}()")
    if not isinstance(metric, nn.Module):
        inspect.signature(metric).bind(None, None, **options)
        takes_reduction = "reduction" in inspect.signature(metric).parameters
        return partial(metric, **options, reduction="none") if takes_reduction else partial(metric, **options)
    if options:
        raise TypeError(f"{', '.join(options)}: give the options of a loss to the loss itself, {type(metric).__name__}(...)")
    if not hasattr(metric, "reduction"):
        return metric
    per_image = copy(metric)
    per_image.reduction = "none"  # type: ignore[assignment]
    for name, function in vars(metric).items():  # some losses keep their function with the reduction in it
        if isinstance(function, partial) and "reduction" in function.keywords:
            setattr(per_image, name, partial(function, reduction="none"))
    return per_image


def attach() -> None:
    """Add ``MultiScale`` and every metric of :mod:`msds_plugin.registry` to piq, now and as they come.

    A metric ``my-metric`` titled ``My-Metric`` becomes ``piq.my_metric`` and ``piq.MyMetricLoss``. A second time does
    nothing.
    """
    _export("MultiScale", MultiScale)
    registry.subscribe(_add)


def _add(row: registry.Metric) -> None:
    _kept.cache_clear()
    if row.name in _losses:
        return  # registered again: both look the name up
    better = "lower" if row.lower_is_better else "higher"
    documentation = f"{row.title}, {better} is better: {row.summary}; see MetricLoss.\n\nSource: {row.citation or 'not given'}"
    loss = type(
        f"{class_name(row)}Loss", (MetricLoss,), {"metric_name": row.name, "__doc__": documentation, "__module__": __name__}
    )

    def function(x: Tensor, y: Tensor, data_range: float = 1.0, reduction: str = "mean", **options: Any) -> Tensor:
        return _score(row.name, x, y, data_range, reduction, options)

    function.__name__ = function.__qualname__ = function_name(row)
    function.__doc__ = documentation
    _losses[row.name] = loss
    for value in (function, loss):
        globals().setdefault(value.__name__, value)
        _export(value.__name__, value)


def _export(name: str, value: object) -> None:
    if getattr(piq, name, value) is not value:
        warnings.warn(
            f"piq has {name!r} already: it is left alone, and msds_plugin's is not added there",
            RuntimeWarning,
            stacklevel=3,
        )
        return
    setattr(piq, name, value)


attach()
