"""Checks of images, and of what is given beside them, that raise a ``ValueError`` or ``TypeError``."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from msds_plugin.windows import Image, Windows

#: How far outside [0, 1] a value may lie: resampling and lossy codecs overshoot by less than a quarter of an 8-bit step.
RANGE_TOLERANCE = 1e-3

HALF = (torch.float16, torch.bfloat16)


def check_has_values(tensor: Tensor, name: str = "image") -> None:
    """Raise a ValueError for a tensor on ``meta``."""
    if tensor.is_meta:
        raise ValueError(f"{name} is on the device meta and so has no values: make it on a device such as cpu or cuda")


def value_range(tensor: Tensor) -> tuple[float, float] | None:
    """Smallest and largest value; None under ``torch.compile`` and ``torch.func``, where there are no values to read."""
    if torch.compiler.is_compiling() or tensor.numel() == 0:
        return None
    try:
        low, high = tensor.detach().aminmax()
        return low.item(), high.item()
    except RuntimeError:  # a batch of torch.func.vmap
        return None


def is_true(condition: Tensor) -> bool:
    """Whether it is; also where there are no values to read, as for :func:`value_range`."""
    if torch.compiler.is_compiling():
        return True
    try:
        return bool(condition)
    except RuntimeError:
        return True


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
    if image.requires_grad:
        return
    check_has_values(image, name)
    check_range(image, name)


def check_range(image: Tensor, name: str = "image", tolerance: float = RANGE_TOLERANCE) -> None:
    """Raise a ValueError unless all values lie in [0, 1], up to ``tolerance``."""
    found = value_range(image)
    if found is None:
        return
    if not all(map(math.isfinite, found)):
        raise ValueError(f"{name} must have values in [0, 1], got values that are not finite (NaN or infinity)")
    if found[0] < -tolerance or found[1] > 1 + tolerance:
        raise ValueError(
            f"{name} must have values in [0, 1], got [{found[0]:.4g}, {found[1]:.4g}]; "
            "divide 8-bit values by 255, undo any normalisation, and clamp what a resize overshoots"
        )


def check_size(image: Image, smallest: int, levels: int = 1, name: str = "image") -> None:
    """Raise a ValueError that names the size and the largest number of levels that fits, unless every level is large enough.

    Args:
        image: (N, C, H, W).
        smallest: the shortest side in pixels that the coarsest level may have.
        levels: number of pyramid levels, each half the size of the one before.
    """
    short = min(image.shape[-2:])
    if short >> (levels - 1) >= smallest:
        return
    fits = 0
    while short >> fits >= smallest:
        fits += 1
    raise ValueError(too_small(image, fits, levels, f"below the smallest input of {smallest} x {smallest}", name))


def too_small(image: Image, fits: int, levels: int, reason: str, name: str = "image") -> str:
    """The message for an image whose level ``fits``, counted from 0, is the first that is too small."""
    height, width = image.shape[-2:]
    if levels == 1:
        return f"{name} of {height} x {width} pixels is too small: it is {reason}; use a larger image"
    advice = f"use levels={fits} or a larger image" if fits else "no number of levels fits: use a larger image"
    return (
        f"{name} of {height} x {width} pixels is too small: level {fits} of {levels} would be "
        f"{height >> fits} x {width >> fits}, {reason}; {advice}"
    )


def check_source(image: Image, name: str = "image") -> None:
    """Raise a clear error unless ``image`` is a batch as :func:`check_image` wants it, or can be read in windows of one."""
    if isinstance(image, Tensor) or not isinstance(image, Windows):
        check_image(image, name)
    elif len(image.shape) != 4 or image.shape[1] != 3 or image.shape[0] == 0:
        raise ValueError(f"{name} must be RGB of shape (N, 3, H, W), got {tuple(image.shape)}")


def check_batches(x: Image, y: Image) -> None:
    """Raise a clear error unless two batches hold equally many images on one device and of one type.

    Half precision beside float32 is accepted: it is what autocast makes of one of them.
    """
    if x.shape[0] != y.shape[0]:
        raise ValueError(f"x has {x.shape[0]} images and y has {y.shape[0]}: one reference per distorted image is needed")
    if not (isinstance(x, Tensor) and isinstance(y, Tensor)):
        return
    if x.device != y.device:
        raise ValueError(f"x is on {x.device} and y on {y.device}: move one of them")
    wide = {image.dtype for image in (x, y) if image.dtype not in HALF}
    if len(wide) > 1 or (x.dtype != y.dtype and wide == {torch.float64}):
        raise TypeError(f"x is {x.dtype} and y is {y.dtype}: convert one of them")


def check_pair(x: Image, y: Image) -> None:
    """Raise a clear error unless two batches can be compared image by image; their sizes may differ."""
    check_source(x, "the distorted image x")
    check_source(y, "the reference image y")
    check_batches(x, y)


def check_aligned(x: Image, y: Image, what: str) -> None:
    """Raise a ValueError unless the images of two batches have one size."""
    if tuple(x.shape[-2:]) != tuple(y.shape[-2:]):
        sizes = " and ".join(f"{height} x {width}" for height, width in (x.shape[-2:], y.shape[-2:]))
        raise ValueError(
            f"{what} compares pixel by pixel and needs images of one size, got {sizes}: "
            "msds-align, msds-retarget and msds-fast take any two sizes"
        )
