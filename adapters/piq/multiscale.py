"""Every full-reference metric of piq on a pyramid: ``piq.MultiScale(piq.LPIPS())``, ``piq.MultiScale(piq.ssim)``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Any

from piq.utils import _reduce
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from ...multiscale import Fusion
from ...multiscale import MultiScale as _MultiScale
from ..common.per_image import score_each, variant

REDUCTIONS = ("none", "mean", "sum")


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
        self.multiscale = _MultiScale(_PerImage(metric, options), levels, fusion)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The fused scores of ``x`` beside references ``y``, reduced over the batch."""
        return _reduce(self.multiscale(x, y), self.reduction)


class _PerImage(nn.Module):
    def __init__(self, metric: Callable[..., Tensor], options: dict[str, Any]) -> None:
        super().__init__()
        self.metric = _without_reduction(metric, options)
        if isinstance(metric, partial):
            options = {**metric.keywords, **options}
            metric = metric.func
        named: Any = metric if hasattr(metric, "__qualname__") else type(metric)
        self.kind = variant(f"{named.__module__.partition('.')[0]}.{named.__qualname__}", options)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return score_each(self.metric, x, y)


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
