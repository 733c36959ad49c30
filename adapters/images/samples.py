"""The one rule by which the values in a file become colours between 0 and 1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import ImageColor

Array: TypeAlias = npt.NDArray[Any]

#: Pixels of an image that is read as a whole, at most: twice what Pillow calls a decompression bomb.
MAX_PIXELS = 178_956_970


class ImageFileError(ValueError):
    """An image file that cannot be read."""


@dataclass(frozen=True)
class Reading:
    """What the user states about the files, since they do not say it.

    Attributes:
        peak: the value that is white in files of signed, 32-bit or floating-point values; None to refuse these. Files of
            unsigned integers of up to 16 bits have a peak of their own, 2^bits - 1, whatever is stated here.
        background: what transparent pixels are laid over, RGB in 0 to 255.
        max_pixels: of a file that is read as a whole; more is refused, as a small file may unfold to fill the memory.

    Raises:
        ValueError: a peak that is not positive and finite, colours outside 0 to 255, a limit below one.
    """

    peak: float | None = None
    background: tuple[int, int, int] = (255, 255, 255)
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if self.peak is not None and not (math.isfinite(self.peak) and self.peak > 0):
            raise ValueError(f"peak must be a positive number, got {self.peak}")
        if len(self.background) != 3 or not all(0 <= value <= 255 for value in self.background):
            raise ValueError(f"background must be three values in 0 to 255, got {self.background}")
        if self.max_pixels < 1:
            raise ValueError(f"max_pixels must be at least 1, got {self.max_pixels}")

    def check_size(self, width: int, height: int) -> None:
        """Raise a ValueError where an image is larger than ``max_pixels``."""
        if width * height > self.max_pixels:
            raise ValueError(
                f"{width} x {height} pixels are more than the limit of {self.max_pixels}: if you trust the file, raise it "
                f"(--max-pixels {width * height}, max_pixels=), or convert it to TIFF, which is read in windows"
            )


def colour(text: str) -> tuple[int, int, int]:
    """A colour by its name or as ``#rrggbb``, RGB in 0 to 255.

    Raises:
        ValueError: neither of these.

    Example:
        >>> colour("white"), colour("#102030")
        ((255, 255, 255), (16, 32, 48))
    """
    red, green, blue = ImageColor.getcolor(text, "RGB")  # type: ignore[misc]
    return red, green, blue


@dataclass(frozen=True)
class Samples:
    """What a file says of its values.

    Attributes:
        bits: per value.
        kind: how they are to be understood.
        colours: 1 for grey, 3 for RGB; further channels follow them.
        white_is_zero: 0 is white, and the peak black.
        alpha: the channel of the opacity; None if there is none.
        premultiplied: the colours are multiplied by the opacity already.
        peak: white, where the format states another value than 2^bits - 1.
    """

    bits: int
    kind: Literal["unsigned", "signed", "floating-point"]
    colours: int
    white_is_zero: bool = False
    alpha: int | None = None
    premultiplied: bool = False
    peak: int | None = None

    def white(self, reading: Reading) -> float:
        """The value that becomes 1.

        Raises:
            ValueError: the file has no such value, and the user states none.
        """
        if self.kind == "unsigned" and self.bits <= 16:
            return float(self.peak or 2**self.bits - 1)
        if reading.peak is None:
            raise ValueError(
                f"it holds {self.kind} values of {self.bits} bits, and no file says which of them is white: state it "
                "(--peak, peak=), or save it with unsigned integers of 8 or 16 bits"
            )
        return reading.peak


def to_colours(values: Array, samples: Samples, reading: Reading) -> tuple[Array, bool]:
    """Values of a file, (H, W, channels), as colours (H, W, 1 or 3), and whether any was transparent.

    Whole bytes stay uint8 and 16-bit values uint16, both to be divided by their largest value; all else comes divided, as
    float32 in 0 to 1. Transparent pixels are laid over the background.

    Raises:
        ValueError: the range is not known, or values are outside what was stated.
    """
    white = samples.white(reading)
    values = values.astype(np.uint8) if values.dtype == np.bool_ else values
    colours = values[..., : samples.colours]
    if samples.kind != "unsigned" or samples.bits > 16 or samples.peak is not None:
        _check_range(values[..., : max(samples.colours, (samples.alpha or 0) + 1)], white)
    if samples.white_is_zero:
        colours = (white - colours).astype(values.dtype)
    if samples.alpha is not None and (opacity := values[..., samples.alpha, None]).min() < white:
        return _over(_divided(colours, white), _divided(opacity, white), samples.premultiplied, reading.background), True
    if values.dtype in (np.uint8, np.uint16) and white == np.iinfo(values.dtype).max:
        return np.ascontiguousarray(colours), False
    return _divided(colours, white), False


def unit(colours: Array) -> Array:
    """What :func:`to_colours` gave, as float32 in 0 to 1."""
    return colours if colours.dtype == np.float32 else _divided(colours, float(np.iinfo(colours.dtype).max))


def to_bytes(colours: Array) -> Array:
    """The same rounded to whole bytes."""
    return colours if colours.dtype == np.uint8 else np.rint(unit(colours) * np.float32(255)).astype(np.uint8)


def _divided(values: Array, white: float) -> Array:
    exact = np.float32 if values.dtype.itemsize <= 2 else np.float64  # which holds every value as it is
    return (values.astype(exact) / exact(white)).astype(np.float32)


def _check_range(values: Array, white: float) -> None:
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= white):  # nor NaN
        raise ValueError(f"it holds values from {low:g} to {high:g}, outside 0 to the peak of {white:g}")


def _over(colours: Array, opacity: Array, premultiplied: bool, background: tuple[int, int, int]) -> Array:
    behind = np.array(background, np.float32) / np.float32(255)
    if len(set(background)) == 1:
        behind = behind[:1]  # grey stays grey
    shown = colours if premultiplied else colours * opacity
    return np.clip(shown + behind * (1 - opacity), 0, 1).astype(np.float32)


def turn(values: Array, orientation: int | None) -> Array:
    """(H, W, ...) as an EXIF orientation says that it is to be shown; what is no orientation changes nothing."""
    if orientation is None or not 2 <= orientation <= 8:
        return values
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(values[::rows, ::columns])
