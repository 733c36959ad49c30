"""Image files to tensors, and pairs of files to images that can be compared."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate

from msds_plugin.adapters.images.codecs import decode_content, open_content, orientation_of
from msds_plugin.adapters.images.colours import (
    MAX_PIXELS,
    Array,
    ImageFileError,
    Reading,
    colour,
    luma,
    naming,
    to_bytes,
    to_srgb,
)
from msds_plugin.adapters.images.large import FRAMES, INKS, TRANSPARENT, LargeImage, is_large, is_tiff, tiff_size
from msds_plugin.adapters.images.listing import PLUGINS, readable_suffixes
from msds_plugin.adapters.images.notes import Notes
from msds_plugin.adapters.images.pairs import Pair

__all__ = [
    "FRAMES",
    "INKS",
    "TRANSPARENT",
    "ImageFileError",
    "Opened",
    "Picture",
    "Reading",
    "alike",
    "colour",
    "decode",
    "open_distorted",
    "open_image",
    "open_pair",
    "open_reference",
    "preview",
    "read_image",
    "reconcile",
    "size_of",
    "to_tensor",
]

#: Pixels by which the sizes of two images may differ to be compared after a crop.
NEARLY = 8
_DEFAULT = Reading()
_LOG = logging.getLogger("msds_plugin")


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded file.

    Attributes:
        colours: (H, W, 1 or 3), uint8 or uint16, to be divided by 255 or 65535, or float32 in 0 to 1.
        profile: its colour profile, which has not been applied; None for sRGB.
        notes: what a user should know of how it was read.
        channel: what :func:`to_tensor` makes of it, see :class:`Reading`.
    """

    colours: Array
    profile: bytes | None = None
    notes: tuple[str, ...] = ()
    channel: str = "rgb"

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width, channels."""
        return self.colours.shape

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.colours.shape[0], self.colours.shape[1]

    def in_srgb(self) -> Picture:
        """The same in sRGB; what has no profile is sRGB already.

        Raises:
            ValueError: the profile cannot be used.
        """
        if self.profile is None:
            return self
        return replace(self, colours=to_srgb(self.colours, self.profile), profile=None)

    def crop(self, top: int, left: int, height: int, width: int) -> Picture:
        """A part of it."""
        return replace(self, colours=self.colours[top : top + height, left : left + width])

    def resized(self, size: tuple[int, int]) -> Picture:
        """The same with another height and width, of the same type.

        By the kernel of MATLAB's ``imresize`` and Pillow: cubic with a = -0.5, widened where the image shrinks. Values are
        clipped, and integers rounded once, after both directions.
        """
        values = torch.from_numpy(self.colours.astype(np.float64)).permute(2, 0, 1).unsqueeze(0)
        found = interpolate(values, size, mode="bicubic", align_corners=False, antialias=True)[0].permute(1, 2, 0).numpy()
        kind = self.colours.dtype
        whole = np.issubdtype(kind, np.integer)
        found = np.rint(found).clip(0, np.iinfo(kind).max) if whole else found.clip(0, 1)
        return replace(self, colours=found.astype(kind))


Opened: TypeAlias = Picture | LargeImage
_Image = TypeVar("_Image", Picture, LargeImage, Picture | LargeImage)


def decode(path: str | os.PathLike[str], reading: Reading = _DEFAULT) -> Picture:
    """An image file, as it is to be shown: turned by its EXIF orientation, transparent pixels laid over a background.

    Bits per value, their kind, white-is-zero, planes and alpha are what the file says, in every format. Grey stays one
    channel. Of several frames the first is taken. Nothing is cut off or resized.

    Raises:
        ImageFileError: no such file, not an image, damaged (also where a decoder only warns), too large, or of values whose
            range the file does not say (signed, 32 bits, floating-point) and ``reading.peak`` neither.
    """
    with naming(path):
        _check_file(path)
        if is_tiff(path):
            image = LargeImage(path, reading)
            colours, notes = image.decode()
            return Picture(colours, image.profile, notes, reading.channel)
        try:
            return Picture(*decode_content(Path(path).read_bytes(), reading), reading.channel)
        except UnidentifiedImageError as error:
            raise ValueError(f"{error}{_hint(path)}") from error


def size_of(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Height and width of an image file as it is shown, of which only the header is read.

    Raises:
        Exception: whatever is wrong with the file; :func:`decode` says it in words.
    """
    _check_file(path)
    if is_tiff(path):
        return tiff_size(path)
    content = Path(path).read_bytes()
    with open_content(content) as image:
        return image.size if orientation_of(image, content) in (5, 6, 7, 8) else image.size[::-1]


def to_tensor(pixels: Picture | Array, device: str | torch.device = "cpu") -> Tensor:
    """What :func:`decode` gave, or an array (H, W, 1 or 3) of bytes, as (1, 3, H, W), float32 in [0, 1]."""
    colours = pixels.colours if isinstance(pixels, Picture) else pixels
    if isinstance(pixels, Picture) and pixels.channel == "y":
        colours = luma(colours)
    largest = None if colours.dtype == np.float32 else torch.tensor(float(np.iinfo(colours.dtype).max), device=device)
    known = colours.astype(np.int32) if colours.dtype == np.uint16 else np.ascontiguousarray(colours)
    image = torch.from_numpy(known).to(device).permute(2, 0, 1).unsqueeze(0).contiguous().float()
    # Divided by a tensor: by a number, a GPU multiplies by its reciprocal, which rounds differently.
    return (image if largest is None else image / largest).expand(-1, 3, -1, -1)


def read_image(
    path: str | os.PathLike[str], peak: float | None = None, background: str = "white", max_pixels: int = MAX_PIXELS
) -> Tensor:
    """An image file as RGB, (1, 3, H, W), float32 in [0, 1]: for opaque 8-bit files the same numbers that pyiqa reads.

    Args:
        path: the file.
        peak: the value that is white, for signed, 32-bit or floating-point files, which are refused without.
        background: what transparent pixels are laid over, by name or as ``#rrggbb``.
        max_pixels: larger images are refused.

    Raises:
        ImageFileError: as :func:`decode`; names the file and the cause.
        ValueError: a background that is no colour, or a peak or limit that is not positive.
    """
    return to_tensor(decode(path, Reading(peak, colour(background), max_pixels))).contiguous()


def open_image(path: str | os.PathLike[str], reading: Reading = _DEFAULT, half: str = "") -> Opened:
    """An image file, decoded, or ready to be read in windows if it is a large TIFF; cut as ``reading`` says.

    Args:
        path: the file.
        reading: what it does not say.
        half: ``left`` or ``right`` for that half of it.

    Raises:
        ImageFileError: as :func:`decode`, or nothing is left of it.
    """
    return without_border(_open(path, reading, half), reading.crop_border, path)


def open_reference(pair: Pair, reading: Reading = _DEFAULT) -> Opened:
    """The reference of a pair, to be shared by all pairs that have it and the same ``half``; see :func:`open_image`."""
    return open_image(pair.reference, reading, pair.half)


def open_distorted(pair: Pair, reading: Reading, reference: Opened) -> Opened:
    """The distorted image of a pair, in the size of its reference if ``reading.resize``; see :func:`open_image`.

    Raises:
        ImageFileError: as :func:`open_image`; also a large TIFF that would have to be resized.
    """
    other = {"": "", "left": "right", "right": "left"}[pair.half]
    image = _open(pair.distorted, reading, other)
    border = reading.crop_border
    size = reference.size[0] + 2 * border, reference.size[1] + 2 * border
    if reading.resize and image.size != size:
        if isinstance(image, LargeImage):
            raise ImageFileError(f"cannot resize {pair.distorted}: TIFFs of its size are read in windows")
        image = image.resized(size)
    return without_border(image, border, pair.distorted)


def open_pair(
    pair: Pair, reading: Reading = _DEFAULT, note: Callable[[str], object] | Notes = _LOG.warning
) -> tuple[Opened, Opened]:
    """Two files as they are compared, (distorted, reference): cut and resized as ``reading`` says, in sRGB where their colour
    profiles differ.

    Args:
        pair: the files.
        reading: what they do not say.
        note: called with what a user should know; a :class:`Notes` that several calls share says each kind once.

    Raises:
        ImageFileError: as :func:`open_image`.
        ValueError: a profile that cannot be used.
    """
    notes = note if isinstance(note, Notes) else Notes(note)
    y = open_reference(pair, reading)
    x = open_distorted(pair, reading, y)
    notes.say(pair.reference, y)
    notes.say(pair.distorted, x)
    found = reconcile(x, y)
    if x.profile != y.profile:
        notes.say_profiles(pair.distorted, pair.reference)
    return found


def reconcile(distorted: _Image, reference: _Image) -> tuple[_Image, _Image]:
    """Both images as they are where their colour profiles agree, else both in sRGB.

    Raises:
        ValueError: a profile that cannot be used.
    """
    if distorted.profile == reference.profile:
        return distorted, reference
    return distorted.in_srgb(), reference.in_srgb()


def alike(distorted: _Image, reference: _Image) -> tuple[_Image, _Image]:
    """Two images in one size, for metrics that compare pixel by pixel: sizes that differ by at most 8 pixels are cut to the
    part that both have from the top left corner on.

    Raises:
        ValueError: sizes that differ by more.
    """
    sizes = distorted.size, reference.size
    if sizes[0] == sizes[1]:
        return distorted, reference
    if max(abs(one - other) for one, other in zip(*sizes, strict=True)) > NEARLY:
        (height, width), (reference_height, reference_width) = sizes
        raise ValueError(
            f"its size is {width} x {height}, that of its reference {reference_width} x {reference_height}: give images of one "
            "size, or let it be resized (--resize, resize=)"
        )
    height, width = (min(one, other) for one, other in zip(*sizes, strict=True))
    return distorted.crop(0, 0, height, width), reference.crop(0, 0, height, width)


def preview(path: str | os.PathLike[str], side: int, reading: Reading = _DEFAULT) -> Image.Image:
    """An image file as RGB in sRGB, at most ``side`` pixels on each side, for people to look at.

    Raises:
        ImageFileError: it cannot be read.
    """
    large = LargeImage(path, reading) if is_large(path) else None
    picture = Picture(large.thin(2 * side), large.profile) if large else decode(path, reading)
    with naming(path):
        colours = to_bytes(picture.in_srgb().colours)
    image = Image.fromarray(np.ascontiguousarray(np.broadcast_to(colours, (*colours.shape[:2], 3))))
    image.thumbnail((side, side))
    return image


def _open(path: str | os.PathLike[str], reading: Reading, half: str = "") -> Opened:
    """A file or a half of it, cut to multiples of ``reading.mod_crop``."""
    image: Opened = LargeImage(path, reading) if is_large(path) else decode(path, reading)
    height, width = image.size
    if half:
        if width % 2:
            raise ImageFileError(f"cannot cut {path} into halves: it is {width} pixels wide")
        image = image.crop(0, 0 if half == "left" else width // 2, height, width // 2)
    return mod_cropped(image, reading.mod_crop)


def mod_cropped(image: _Image, multiple: int) -> _Image:
    """The top left part whose height and width are multiples of a number."""
    height, width = (side - side % multiple for side in image.size)
    return image if (height, width) == image.size else image.crop(0, 0, height, width)


def without_border(image: _Image, border: int, what: object) -> _Image:
    """An image without so many pixels on each side.

    Raises:
        ImageFileError: nothing is left; names ``what`` it is.
    """
    height, width = image.size
    if min(height, width) <= 2 * border:
        raise ImageFileError(f"cannot cut {border} pixels off each side of {what}: {width} x {height} pixels are left of it")
    return image.crop(border, border, height - 2 * border, width - 2 * border) if border else image


def _check_file(path: str | os.PathLike[str]) -> None:
    if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
        raise ValueError("it is a folder" if os.path.isdir(path) else "it is not a regular file")


def _hint(path: str | os.PathLike[str]) -> str:
    """What to install for a file that cannot be opened, or to do with it; empty where its suffix is one that is read."""
    suffix = Path(path).suffix.lower()
    if not suffix or suffix in readable_suffixes():
        return ""
    if any(suffix in suffixes for suffixes in PLUGINS.values()):
        return f"; {suffix} files are read with a plugin: pip install 'msds-plugin[formats]'"
    return f"; convert it to PNG or TIFF ({suffix} is none of the formats that Pillow reads)"
