"""The metrics as functions of one batch, which mirror the classes."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

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


def deepssim(preds: Tensor, target: Tensor, reduction: Literal["mean", "none"] = "mean", **options: Any) -> Tensor:
    """DeepSSIM of one batch, higher is better."""
    return full_reference(preds, target, "deepssim", reduction, **options)


def deepssim_lite(preds: Tensor, target: Tensor, reduction: Literal["mean", "none"] = "mean", **options: Any) -> Tensor:
    """DeepSSIM-Lite of one batch, lower is better."""
    return full_reference(preds, target, "deepssim-lite", reduction, **options)


def deepssim_fast(preds: Tensor, target: Tensor, reduction: Literal["mean", "none"] = "mean", **options: Any) -> Tensor:
    """DeepSSIM-Fast of one batch, higher is better."""
    return full_reference(preds, target, "deepssim-fast", reduction, **options)


def deepssim_lite_fast(preds: Tensor, target: Tensor, reduction: Literal["mean", "none"] = "mean", **options: Any) -> Tensor:
    """DeepSSIM-Lite-Fast of one batch, lower is better."""
    return full_reference(preds, target, "deepssim-lite-fast", reduction, **options)


def msds(preds: Tensor, target: Tensor, reduction: Literal["mean", "none"] = "mean", **options: Any) -> Tensor:
    """MSDS of one batch, higher is better."""
    return full_reference(preds, target, "msds", reduction, **options)


def msds_lite(preds: Tensor, target: Tensor, reduction: Literal["mean", "none"] = "mean", **options: Any) -> Tensor:
    """MSDS-Lite of one batch, lower is better."""
    return full_reference(preds, target, "msds-lite", reduction, **options)


def msds_fast(preds: Tensor, target: Tensor, reduction: Literal["mean", "none"] = "mean", **options: Any) -> Tensor:
    """MSDS-Fast of one batch, higher is better."""
    return full_reference(preds, target, "msds-fast", reduction, **options)


def msds_lite_fast(preds: Tensor, target: Tensor, reduction: Literal["mean", "none"] = "mean", **options: Any) -> Tensor:
    """MSDS-Lite-Fast of one batch, lower is better."""
    return full_reference(preds, target, "msds-lite-fast", reduction, **options)


def msds_hybrid(preds: Tensor, target: Tensor, reduction: Literal["mean", "none"] = "mean", **options: Any) -> Tensor:
    """MSDS-Hybrid of one batch, higher is better."""
    return full_reference(preds, target, "msds-hybrid", reduction, **options)


def msds_align(preds: Tensor, target: Tensor, reduction: Literal["mean", "none"] = "mean", **options: Any) -> Tensor:
    """MSDS-Align of one batch, higher is better."""
    return full_reference(preds, target, "msds-align", reduction, **options)


def msds_retarget(preds: Tensor, target: Tensor, reduction: Literal["mean", "none"] = "mean", **options: Any) -> Tensor:
    """MSDS-Retarget of one batch, higher is better."""
    return full_reference(preds, target, "msds-retarget", reduction, **options)
