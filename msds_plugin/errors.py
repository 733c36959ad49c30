"""The exceptions of this package that are not plain ``ValueError`` or ``TypeError``, and the checks that raise the rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import torch
from torch import Tensor

from .windows import Windows

#: How far outside [0, 1] a value may lie: resampling and lossy codecs overshoot by less than a quarter of an 8-bit step.
RANGE_TOLERANCE = 1e-3


_values_checked = ContextVar("values_checked", default=True)


class WeightsNotFoundError(FileNotFoundError):
    """A backbone's pretrained weights are neither on this machine nor to be had from their source."""


class WeightsFileError(ValueError):
    """A file of weights cannot be read, or holds the weights of something else."""


class MissingDependencyError(ImportError):
    """An optional package is needed for what was asked; the message says how to install it."""


@contextmanager
def values_unchecked() -> Iterator[None]:
    """Accept images with values outside [0, 1], as those that a network in training produces."""
    token = _values_checked.set(False)
    try:
        yield
    finally:
        _values_checked.reset(token)


def checked_already(*images: Tensor | Windows) -> AbstractContextManager[None]:
    """A context for parts and averages of images whose values were looked at; those read in windows are as they are read.

    A context, since the check is made by a wrapped metric, of any kind, and may not be an option of all of them.
    """
    known = all(isinstance(image, Tensor) for image in images) and not torch.compiler.is_compiling()
    return values_unchecked() if known else nullcontext()


def looks_at_values() -> bool:
    """Whether a check may read values now: under ``torch.compile`` and ``torch.func`` they are not there."""
    return not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())


def check_has_values(tensor: Tensor, name: str = "image") -> None:
    """Raise a ValueError for a tensor on ``meta``."""
    if tensor.is_meta:
        raise ValueError(f"{name} is on the device meta and so has no values: make it on a device such as cpu or cuda")


def check_image(image: Tensor, name: str = "image") -> None:
    """Raise a clear error unless ``image`` is a float RGB batch (N, 3, H, W) with values in [0, 1].

    The values are not looked at where gradients flow into the image (an image that is being optimised may leave [0, 1] for
    a while) nor under ``torch.compile`` and ``torch.func`` (reading them would break the graph).

    Raises:
        TypeError: not a tensor, or not of a floating-point type.
        ValueError: another shape, no image at all, on ``meta``, or values that are not finite or not in [0, 1].
    """
    if not isinstance(image, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor of shape (N, 3, H, W), got {type(image).__name__}")
    if image.dim() != 4 or image.shape[1] != 3:
        raise ValueError(
            f"{name} must be RGB of shape (N, 3, H, W), got {tuple(image.shape)}; "
            "repeat a grey channel three times, drop an alpha channel, and add a batch dimension to a single image"
        )
    if not image.is_floating_point():
        raise TypeError(f"{name} must hold floating-point values in [0, 1], got {image.dtype}: convert and divide by 255")
    if image.shape[0] == 0:
        raise ValueError(f"{name} is an empty batch: {tuple(image.shape)}")
    if not looks_at_values() or not _values_checked.get() or image.requires_grad or image.numel() == 0:
        return
    check_has_values(image, name)
    low, high = (value.item() for value in image.detach().aminmax())
    # Written so that NaN fails too.
    if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):
        raise ValueError(
            f"{name} must have values in [0, 1], got [{low:.4g}, {high:.4g}]; "
            "divide 8-bit values by 255, undo any normalisation, and clamp what a resize overshoots"
        )


def check_size(image: Tensor | Windows, smallest: int, levels: int = 1, name: str = "image") -> None:
    """Raise a ValueError that names the size and the largest number of levels that fits, unless every level is large enough.

    Args:
        image: (N, C, H, W).
        smallest: the shortest side in pixels that the coarsest level may have.
        levels: number of pyramid levels, each half the size of the one before.
    """
    height, width = image.shape[-2:]
    short = min(height, width)
    if short >> (levels - 1) >= smallest:
        return
    fits = 0
    while short >> fits >= smallest:
        fits += 1
    raise ValueError(too_small(image, fits, levels, f"below the smallest input of {smallest} x {smallest}", name))


def too_small(image: Tensor | Windows, fits: int, levels: int, reason: str, name: str = "image") -> str:
    """The message for an image whose level ``fits``, counted from 0, is the first that is too small."""
    height, width = image.shape[-2:]
    advice = f"use levels={fits} or a larger image" if fits else "no number of levels fits: use a larger image"
    return (
        f"{name} of {height} x {width} pixels is too small: level {fits} of {levels} would be "
        f"{height >> fits} x {width >> fits}, {reason}; {advice}"
    )


def check_source(image: Tensor | Windows, name: str = "image") -> None:
    """Raise a clear error unless ``image`` is a batch as :func:`check_image` wants it, or can be read in windows of one."""
    if isinstance(image, Tensor) or not isinstance(image, Windows):
        check_image(image, name)
    elif len(image.shape) != 4 or image.shape[1] != 3 or image.shape[0] == 0:
        raise ValueError(f"{name} must be RGB of shape (N, 3, H, W), got {tuple(image.shape)}")


def check_pair(x: Tensor | Windows, y: Tensor | Windows) -> None:
    """Raise a clear error unless two batches can be compared image by image; their sizes may differ."""
    if isinstance(x, Tensor) and isinstance(y, Tensor) and x.device != y.device:
        raise ValueError(f"x is on {x.device} and y on {y.device}: move one of them")
    check_source(x, "the distorted image x")
    check_source(y, "the reference image y")
    if x.shape[0] != y.shape[0]:
        raise ValueError(f"x has {x.shape[0]} images and y has {y.shape[0]}: one reference per distorted image is needed")
    if isinstance(x, Tensor) and isinstance(y, Tensor) and x.dtype != y.dtype:
        raise TypeError(f"x is {x.dtype} and y is {y.dtype}: convert one of them")
