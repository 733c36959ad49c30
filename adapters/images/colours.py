"""The one rule by which the values in a file become colours between 0 and 1, and colour profiles."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageColor

Array: TypeAlias = npt.NDArray[Any]

# What a run says once, by what happened to a file.
TRANSPARENT = "has transparent pixels: they are laid over the background (white unless --background names another)"
FRAMES = "holds several frames or pages: the first is taken"
INKS = "is CMYK with a colour profile: converted to sRGB by it"

#: Pixels of an image that is read as a whole, at most: twice what Pillow calls a decompression bomb.
MAX_PIXELS = 178_956_970


class ImageFileError(ValueError):
    """An image file that cannot be read."""


@contextmanager
def naming(what: object) -> Iterator[None]:
    """Turn whatever is raised, as decoders of damaged files raise anything, into an ImageFileError that says what was read."""
    try:
        yield
    except ImageFileError:
        raise
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ImageFileError(f"cannot read {what}: {str(reason) or type(error).__name__}") from error


@dataclass(frozen=True)
class Reading:
    """What the user states about the files, and which part of the images is compared.

    Raises:
        ValueError: a value that is out of its range.
    """

    #: The value that is white in files of signed, 32-bit or floating-point values; None to refuse these. Files of unsigned
    #: integers of up to 16 bits have a peak of their own, 2^bits - 1, whatever is stated here.
    peak: float | None = None
    #: What transparent pixels are laid over, RGB in 0 to 255.
    background: tuple[int, int, int] = (255, 255, 255)
    #: Of a file that is read as a whole; more is refused, as a small file may unfold to fill the memory.
    max_pixels: int = MAX_PIXELS
    #: Pixels that are cut off each side, last of all; in super-resolution usually the scale.
    crop_border: int = 0
    #: Height and width are cut, at the bottom and on the right, to multiples of it, first of all.
    mod_crop: int = 1
    #: Resize the distorted image to the size of its reference.
    resize: bool = False
    #: ``y`` for the luma of BT.601 in 16/255 to 235/255, as an image of three equal channels.
    channel: Literal["rgb", "y"] = "rgb"

    def __post_init__(self) -> None:
        rules = {
            "peak": (self.peak is None or 0 < self.peak < math.inf, "a positive number"),
            "background": (len(self.background) == 3 and all(0 <= each <= 255 for each in self.background), "RGB in 0 to 255"),
            "max_pixels": (self.max_pixels >= 1, "at least 1"),
            "crop_border": (self.crop_border >= 0, "at least 0"),
            "mod_crop": (self.mod_crop >= 1, "at least 1"),
            "channel": (self.channel in ("rgb", "y"), "rgb or y"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise ValueError(f"{name} must be {rule}, got {getattr(self, name)}")

    def check_size(self, width: int, height: int) -> None:
        """Raise a ValueError where an image is larger than ``max_pixels``."""
        if width * height > self.max_pixels:
            raise ValueError(
                f"{width} x {height} pixels are more than the limit of {self.max_pixels}: if you trust the file, raise it "
                f"(--max-pixels {width * height}, max_pixels=), or convert it to TIFF, which is read in windows"
            )


def colour(text: str) -> tuple[int, int, int]:
    """A colour by its name or as ``#rrggbb``, RGB in 0 to 255; a ValueError for another text.

    Example:
        >>> colour("white"), colour("#102030")
        ((255, 255, 255), (16, 32, 48))
    """
    return ImageColor.getrgb(text)[:3]


@dataclass(frozen=True)
class Samples:
    """What a file says of its values."""

    bits: int
    kind: Literal["unsigned", "signed", "floating-point"]
    colours: int  # 1 for grey, 3 for RGB; further channels follow them
    white_is_zero: bool = False
    alpha: int | None = None  # the channel of the opacity
    premultiplied: bool = False  # the colours, by the opacity
    peak: int | None = None  # white, where the format states another value than 2^bits - 1

    def white(self, reading: Reading) -> float:
        """The value that becomes 1; a ValueError where the file has none and the user states none."""
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
    float32 in 0 to 1. Transparent pixels are laid over the background. Values outside the stated range are a ValueError.
    """
    white = samples.white(reading)
    values = values.astype(np.uint8) if values.dtype == np.bool_ else values
    colours = values[..., : samples.colours]
    if samples.kind != "unsigned" or samples.bits > 16 or samples.peak is not None:
        counted = values[..., : max(samples.colours, (samples.alpha or 0) + 1)]
        low, high = counted.min(), counted.max()
        if not (low >= 0 and high <= white):  # nor NaN
            raise ValueError(f"it holds values from {low:g} to {high:g}, outside 0 to the peak of {white:g}")
    if samples.white_is_zero:
        colours = (white - colours).astype(values.dtype)
    if samples.alpha is not None and (opacity := values[..., samples.alpha, None]).min() < white:
        return over(_divided(colours, white), _divided(opacity, white), reading.background, samples.premultiplied), True
    if values.dtype in (np.uint8, np.uint16) and white == np.iinfo(values.dtype).max:
        return np.ascontiguousarray(colours), False
    return _divided(colours, white), False


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded file.

    Attributes:
        colours: (H, W, 1 or 3), as of :func:`to_colours`.
        profile: its colour profile, which has not been applied; None for sRGB.
        notes: what a user should know of how it was read.
        channel: what becomes of it as a tensor, see :class:`Reading`.
        orientation: by which it has been turned, see :func:`turn`.
    """

    colours: Array
    profile: bytes | None = None
    notes: tuple[str, ...] = ()
    channel: str = "rgb"
    orientation: int | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.colours.shape[0], self.colours.shape[1]

    def in_srgb(self) -> Picture:
        """The same in sRGB; what has no profile is sRGB already. A ValueError if the profile cannot be used."""
        return self if self.profile is None else replace(self, colours=to_srgb(self.colours, self.profile), profile=None)

    def crop(self, top: int, left: int, height: int, width: int) -> Picture:
        """A part of it."""
        return replace(self, colours=self.colours[top : top + height, left : left + width])


def unit(colours: Array) -> Array:
    """What :func:`to_colours` gave, as float32 in 0 to 1."""
    return colours if colours.dtype == np.float32 else _divided(colours, float(np.iinfo(colours.dtype).max))


def to_bytes(colours: Array) -> Array:
    """The same rounded to whole bytes."""
    return colours if colours.dtype == np.uint8 else np.rint(unit(colours) * np.float32(255)).astype(np.uint8)


def to_pillow(colours: Array) -> Image.Image:
    """The same as an image of bytes, grey or RGB."""
    values = to_bytes(colours)
    return Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)


def luma(colours: Array) -> Array:
    """Colours (H, W, 1 or 3) as luma of BT.601, (H, W, 1), float32 in 16/255 to 235/255, not rounded; by the digits of MATLAB's
    ``rgb2ycbcr``, which super-resolution is evaluated with.
    """
    weights = np.array([65.481, 128.553, 24.966])
    rgb = unit(colours).astype(np.float64)
    weighted = rgb * weights.sum() if rgb.shape[2] == 1 else (rgb @ weights)[..., None]
    return ((weighted + 16) / 255).astype(np.float32)


def turn(values: Array, orientation: int | None) -> Array:
    """(H, W, ...) as an EXIF orientation says that it is to be shown; what is no orientation changes nothing."""
    if orientation is None or orientation not in range(2, 9):
        return values
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(values[::rows, ::columns])


def _divided(values: Array, white: float) -> Array:
    exact = np.float32 if values.dtype.itemsize <= 2 else np.float64  # which holds every value as it is
    return (values.astype(exact) / exact(white)).astype(np.float32)


def over(colours: Array, opacity: Array, background: tuple[int, int, int], premultiplied: bool = False) -> Array:
    """Colours and opacity in 0 to 1, laid over a background."""
    behind = np.array(background, np.float32) / np.float32(255)
    if len(set(background)) == 1:
        behind = behind[:1]  # grey stays grey
    shown = colours if premultiplied else colours * opacity
    return np.clip(shown + behind * (1 - opacity), 0, 1).astype(np.float32)


# Colour profiles: files of equal ones, or of none, are compared as they are; others as sRGB.

_D65, _C, _DCI = (0.3127, 0.3290), (0.310, 0.316), (0.314, 0.351)
_SRGB_PRIMARIES = (0.640, 0.330, 0.300, 0.600, 0.150, 0.060)
#: White and primaries by their code points (ITU-T H.273).
_PRIMARIES = {
    **dict.fromkeys((1, 2), (_D65, _SRGB_PRIMARIES)),  # 2 is unspecified
    4: (_C, (0.67, 0.33, 0.21, 0.71, 0.14, 0.08)),
    5: (_D65, (0.64, 0.33, 0.29, 0.60, 0.15, 0.06)),
    **dict.fromkeys((6, 7), (_D65, (0.630, 0.340, 0.310, 0.595, 0.155, 0.070))),
    8: (_C, (0.681, 0.319, 0.243, 0.692, 0.145, 0.049)),
    9: (_D65, (0.708, 0.292, 0.170, 0.797, 0.131, 0.046)),
    11: (_DCI, (0.680, 0.320, 0.265, 0.690, 0.150, 0.060)),
    12: (_D65, (0.680, 0.320, 0.265, 0.690, 0.150, 0.060)),
    22: (_D65, (0.630, 0.340, 0.295, 0.605, 0.155, 0.077)),
}
#: Exponents by code point; None for the curve of sRGB, which viewers take for the cameras' curves of BT.709, 601 and 2020, too.
_GAMMA = {4: 2.2, 5: 2.8, 8: 1.0, **dict.fromkeys((1, 2, 6, 13, 14, 15))}
_FOREIGN = b"code points "


def cicp_profile(primaries: int, transfer: int, full_range: bool = True) -> bytes | None:
    """The profile that code points of ITU-T H.273 stand for; None for sRGB. High dynamic range and unknown code points have
    none: they give a text that :func:`to_srgb` refuses, so that such files are compared with their like only.
    """
    if primaries in _PRIMARIES and transfer in _GAMMA and full_range:
        return rgb_profile(*_PRIMARIES[primaries], _GAMMA[transfer])
    names = {16: " (PQ)", 18: " (HLG)"}
    return _FOREIGN + f"{primaries}/{transfer}{names.get(transfer, '')}{'' if full_range else ', narrow range'}".encode()


@lru_cache(64)
def rgb_profile(white: tuple[float, ...], primaries: tuple[float, ...], gamma: float | None) -> bytes | None:
    """The ICC profile of RGB with a white point (x, y), primaries (x and y of red, green, blue) and an exponent, of which None
    is the curve of sRGB; None for sRGB, also where the values are near its own.
    """
    # 1/0.45455, which files of sRGB state as their gamma.
    exponent = None if gamma is None or abs(gamma - 2.2) < 0.02 else gamma
    if exponent is None and np.allclose((*white, *primaries), (*_D65, *_SRGB_PRIMARIES), atol=0.002):
        return None
    levels = np.linspace(0, 1, 4096)
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    linear = linear if exponent is None else levels**exponent
    curve = np.rint(linear * 65535).astype(np.uint16)
    corners = [value for at in (0, 2, 4) for value in (*primaries[at : at + 2], 1.0)]
    try:
        return bytes(imagecodecs.cms_profile("rgb", whitepoint=[*white, 1.0], primaries=corners, transferfunction=curve))
    except imagecodecs.CmsError:  # values that are no colours, which viewers pass over
        return None


def to_srgb(colours: Array, profile: bytes) -> Array:
    """Colours (H, W, 1 or 3) from a profile to sRGB, (H, W, 3), by littlecms with its perceptual intent. Bytes stay bytes; what
    is deeper becomes float32. A profile that is damaged, or for other colours, is a ValueError.
    """
    if profile.startswith(_FOREIGN):
        raise ValueError(f"its colours have the {profile.decode()}, which cannot be converted to sRGB: convert the file")
    space, grey = profile[16:20].strip().decode("latin-1"), colours.shape[2] == 1
    if space not in ("RGB", "GRAY") or (space == "GRAY" and not grey):
        raise ValueError(f"its colour profile is for {space}, its pixels are {'grey' if grey else 'RGB'}")
    if space == "RGB" and grey:
        colours = np.repeat(colours, 3, axis=2)
    try:
        return _converted(colours, profile)
    except Exception as error:  # littlecms' own, by either library
        raise ValueError(f"its colour profile cannot be used: {error}") from error


def _converted(colours: Array, profile: bytes) -> Array:
    if colours.dtype == np.uint8:
        return np.array(apply_profile(to_pillow(colours), profile))
    grey = colours.shape[2] == 1
    values = np.ascontiguousarray(unit(colours)[..., 0] if grey else unit(colours))
    srgb, space = imagecodecs.cms_profile("srgb"), "minisblack" if grey else "rgb"
    # In floating point: tables of 16 bits are wrong by up to 5/255.
    return np.asarray(imagecodecs.cms_transform(values, profile, srgb, colorspace=space, outcolorspace="rgb")).clip(0, 1)


@lru_cache(64)
def icc_profile(profile: bytes) -> bytes | None:
    """The profile that a file holds; None where it holds none, and for sRGB: it changes no colour by a thousandth."""
    if profile[16:20] != b"RGB ":
        return profile or None
    levels = np.linspace(0, 1, 9, dtype=np.float32)
    grid = np.stack(np.meshgrid(levels, levels, levels), 3).reshape(81, 9, 3)
    try:
        return None if np.abs(_converted(grid, profile) - grid).max() < 1e-3 else profile
    except Exception:  # damaged, which matters only where it has to be applied
        return profile


@lru_cache(16)
def _transform(profile: bytes, mode: str) -> Any:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")


def apply_profile(image: Image.Image, profile: bytes) -> Image.Image:
    """An image of bytes, of inks, grey or RGB, as RGB by its profile."""
    return ImageCms.applyTransform(image, _transform(profile, image.mode)) or image
