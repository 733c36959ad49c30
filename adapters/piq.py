"""The registered metrics in piq, ``piq.msds(x, y)`` and ``piq.MSDSLoss()``, and ``piq.MultiScale`` for piq's own.

All are also to be imported from here. A function keeps its network between calls, unless an option is a file, a list, a
tensor or a module.
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable
from copy import copy
from functools import lru_cache, partial
from math import inf, isfinite
from typing import TYPE_CHECKING, Any, ClassVar

import piq
from piq.utils import _reduce, _validate_input
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from msds_plugin import registry
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
        TypeError: no tensors, unknown options, or integers without ``data_range=255``.
        ValueError: an unknown reduction, an empty batch, an image too small.
    """

    metric_name: ClassVar[str]
    fusion_logits: Tensor | None

    def __init__(self, data_range: float = 1.0, reduction: str = "mean", **options: Any) -> None:
        super().__init__()
        self.reduction = _check_reduction(reduction)
        if not 0 < data_range < inf:
            raise ValueError(f"data_range must be the largest value an image can have, got {data_range}")
        self.data_range = data_range
        self._held = Held(self.metric_name, options)
        self.register_parameter("fusion_logits", self._held.trained)

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
            self._check(image, name)
        try:
            _validate_input([x, y], dim_range=(4, 4), data_range=(0, self.data_range), size_range=(0, 2))
        except AssertionError as error:
            advice = "; divide 8-bit values by 255 or pass data_range=255, and clamp what a network or a resize overshoots"
            raise AssertionError(f"{error}{advice if 'values' in str(error) else ''}") from error
        return self._held(x / self.data_range, y / self.data_range, self.fusion_logits)

    def _check(self, image: Tensor, name: str) -> None:
        if not isinstance(image, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor (N, 3 or 1, H, W), got {type(image).__name__}")
        check_has_values(image, name)
        if image.dim() == 4 and image.shape[1] not in (1, 3):
            raise AssertionError(f"Expected RGB or grey images (N, 3 or 1, H, W), got {tuple(image.shape)}")
        if image.numel() == 0:
            raise ValueError(f"{name} is an empty batch: {tuple(image.shape)}")
        if self.data_range == 1 and not image.is_floating_point():
            raise TypeError(f"{name} holds {image.dtype}: pass data_range=255, or convert and divide by 255")


if TYPE_CHECKING:  # functions and losses are made from the registry below

    def __getattr__(name: str) -> Any: ...


def _check_reduction(reduction: str) -> str:
    if reduction not in REDUCTIONS:
        raise ValueError(f"unknown reduction {reduction!r}: choose from {', '.join(REDUCTIONS)}")
    return reduction


_losses: dict[str, type[MetricLoss]] = {}


def _loss(metric_name: str, options: dict[str, Any]) -> MetricLoss:
    """The loss behind a function; one that its options fully tell is kept: no random weights, no file, which may change."""
    plain = all(isinstance(value, str | float | int | tuple | None) for value in options.values())
    files = any(isinstance(value, str) and os.path.isfile(value) for value in options.values())
    if not plain or files or options.get("weights", "imagenet") is None:
        return _losses[metric_name](**options)
    return _kept(metric_name, tuple(sorted(options.items())))


@lru_cache(maxsize=8)
def _kept(metric_name: str, options: tuple[tuple[str, Any], ...]) -> MetricLoss:
    return _losses[metric_name](**dict(options))


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
        self.reduction = _check_reduction(getattr(metric, "reduction", "mean") if reduction is None else reduction)
        self.multiscale = _MultiScale(_per_image(metric, options), levels, fusion)
        self.higher_is_better = not self.multiscale.lower_is_better

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The fused scores of ``x`` beside references ``y``, reduced over the batch."""
        return _reduce(self.multiscale(x, y), self.reduction)


def _per_image(metric: Callable[..., Tensor], options: dict[str, Any]) -> ToolkitMetric:
    """The metric without its own reduction, named with its options."""
    if isinstance(metric, type):
        raise TypeError(f"{metric.__name__} is a class: wrap a loss made from it, {metric.__name__}()")
    if isinstance(metric, nn.Module):
        if options:
            kind = type(metric).__name__
            raise TypeError(f"{', '.join(options)}: give the options of a loss to the loss itself, {kind}(...)")
        return ToolkitMetric(_loss_per_image(metric), _named(type(metric), {}), lower_is_better=True)
    signature = inspect.signature(metric)
    signature.bind(None, None, **options)
    reduction = {"reduction": "none"} if "reduction" in signature.parameters else {}
    stated = metric.keywords if isinstance(metric, partial) else {}
    own = metric.func if isinstance(metric, partial) else metric
    return ToolkitMetric(partial(metric, **options, **reduction), _named(own, {**stated, **options}))


def _named(metric: Any, options: dict[str, Any]) -> str:
    name = getattr(metric, "__qualname__", type(metric).__qualname__)  # an object that can be called has none
    return variant(f"{metric.__module__.partition('.')[0]}.{name}", options)


def _loss_per_image(loss: nn.Module) -> nn.Module:
    if not hasattr(loss, "reduction"):
        return loss
    per_image = copy(loss)
    per_image.reduction = "none"  # type: ignore[assignment]
    for name, function in vars(loss).items():  # some losses keep their function with the reduction in it
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
    attributes = {"metric_name": row.name, "__doc__": documentation, "__module__": __name__}
    loss = _losses[row.name] = type(f"{row.class_name}Loss", (MetricLoss,), attributes)

    def function(x: Tensor, y: Tensor, data_range: float = 1.0, reduction: str = "mean", **options: Any) -> Tensor:
        _check_reduction(reduction)
        return _reduce(_loss(row.name, {"data_range": data_range, **options}).score(x, y), reduction)

    function.__name__ = function.__qualname__ = row.function_name
    function.__doc__ = documentation
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
