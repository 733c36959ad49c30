"""The metrics as functions of one batch, which mirror the classes."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from torch import Tensor

from ... import registry
from .held import Held


def full_reference(
    preds: Tensor, target: Tensor, name: str, reduction: Literal["mean", "none"] = "mean", **options: Any
) -> Tensor:
    """What :class:`~msds_plugin.adapters.torchmetrics.FullReference` of this name gives for one batch.

    A scalar, or (N,) without reduction.

    The metric is built anew at each call; in a loop use the class.

    Example:
        >>> import torch
        >>> x = torch.rand(2, 3, 64, 64)
        >>> full_reference(x, x, "deepssim", "none", backbone="alexnet", weights=None)
        tensor([1., 1.])
    """
    if reduction not in ("mean", "none"):
        raise ValueError(f"reduction must be 'mean' or 'none', got {reduction!r}")
    scores = Held(name, options)(preds, target)
    return scores.double().mean().float() if reduction == "mean" else scores


class Functional(Protocol):
    """A metric as a function of one batch: see :func:`full_reference`."""

    def __call__(self, preds: Tensor, target: Tensor, reduction: Literal["mean", "none"] = "mean", **options: Any) -> Tensor:
        """A scalar, or (N,) without reduction."""


def _functional(name: str) -> Functional:
    def function(preds: Tensor, target: Tensor, reduction: Literal["mean", "none"] = "mean", **options: Any) -> Tensor:
        return full_reference(preds, target, name, reduction, **options)

    metric = registry.get(name)
    function.__name__ = function.__qualname__ = name.replace("-", "_")
    function.__doc__ = f"{metric.title} of one batch, {'lower' if metric.lower_is_better else 'higher'} is better."
    return function


deepssim = _functional("deepssim")
deepssim_lite = _functional("deepssim-lite")
deepssim_fast = _functional("deepssim-fast")
deepssim_lite_fast = _functional("deepssim-lite-fast")
msds = _functional("msds")
msds_lite = _functional("msds-lite")
msds_fast = _functional("msds-fast")
msds_lite_fast = _functional("msds-lite-fast")
msds_hybrid = _functional("msds-hybrid")
msds_align = _functional("msds-align")
msds_retarget = _functional("msds-retarget")
