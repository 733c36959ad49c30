"""Image files to tensors, and pairs of files to images that can be compared."""

from __future__ import annotations

import math
import os
import stat
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate

from msds_plugin.adapters.images.codecs import decode_content, open_content, orientation_of
from msds_plugin.adapters.images.colours import MAX_PIXELS, Array, colour, luma, naming, to_pillow
from msds_plugin.adapters.images.colours import ImageFileError as ImageFileError
from msds_plugin.adapters.images.colours import Picture as Picture
from msds_plugin.adapters.images.colours import Reading as Reading
from msds_plugin.adapters.images.large import LargeImage, tiff_size
from msds_plugin.adapters.images.listing import PLUGINS, readable_suffixes
from msds_plugin.adapters.images.pairs import Pair

#: Pixels from which on a TIFF is read in windows: as a tensor it would take 12 bytes for each.
LARGE = 64_000_000
#: Pixels by which the sizes of two images may differ to be compared after a crop.
NEARLY = 8
# What is to be said of a pair.
PROFILES = "have different colour profiles (none counts as sRGB): both are converted to sRGB"
SIZES = "differ in size by a few pixels: metrics that compare pixel by pixel get the top left part that both have"
_DEFAULT = Reading()

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
            return LargeImage(path, reading).decode()
        try:
            return decode_content(Path(path).read_bytes(), reading)
        except UnidentifiedImageError as error:
            raise ValueError(f"{error}{_hint(Path(path).suffix.lower())}") from error


def size_of(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Height and width of an image file as it is shown, of which only the header is decoded; any error if it is damaged."""
    _check_file(path)
    if is_tiff(path):
        return tiff_size(path)
    content = Path(path).read_bytes()
    with open_content(content) as image:
        return image.size if orientation_of(image, content) in (5, 6, 7, 8) else image.size[::-1]


def is_tiff(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as a TIFF does."""
    with open(path, "rb") as file:
        return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def is_large(path: str | os.PathLike[str]) -> bool:
    """Whether it is a TIFF of at least :data:`LARGE` pixels."""
    try:
        return Path(path).is_file() and is_tiff(path) and math.prod(tiff_size(path)) >= LARGE
    except Exception:  # tifffile has many for a damaged file; who reads it next says what is wrong
        return False


def to_tensor(pixels: Picture | Array, device: str | torch.device = "cpu") -> Tensor:
    """What :func:`decode` gave, or an array (H, W, 1 or 3) of bytes, as (1, 3, H, W), float32 in [0, 1]."""
    colours = pixels.colours if isinstance(pixels, Picture) else pixels
    if isinstance(pixels, Picture) and pixels.channel == "y":
        colours = luma(colours)
    known = colours.astype(np.int32) if colours.dtype == np.uint16 else np.ascontiguousarray(colours)
    image = torch.from_numpy(known).to(device).permute(2, 0, 1).unsqueeze(0).contiguous().float()
    if colours.dtype != np.float32:
        # By a tensor: by a number, a GPU multiplies by its reciprocal, which rounds differently.
        image = image / torch.tensor(float(np.iinfo(colours.dtype).max), device=device)
    return image.expand(-1, 3, -1, -1)


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


def open_image(path: str | os.PathLike[str], reading: Reading = _DEFAULT, half: str = "", like: Opened | None = None) -> Opened:
    """An image file, or the ``left`` or ``right`` half of it: decoded, or to be read in windows if it is a large TIFF; cut, and
    resized to the size of another, as ``reading`` says.

    Raises:
        ImageFileError: as :func:`decode`, nothing is left of it, or a large TIFF would have to be resized.
    """
    image: Opened = LargeImage(path, reading) if is_large(path) else decode(path, reading)
    if half:
        height, width = image.size
        if width % 2:
            raise ImageFileError(f"cannot cut {path} into halves: it is {width} pixels wide")
        image = image.crop(0, 0 if half == "left" else width // 2, height, width // 2)
    return cut(image, reading, path, like)


def open_side(pair: Pair, reading: Reading = _DEFAULT, reference: Opened | None = None) -> Opened:
    """The reference of a pair, which all pairs with it and the same ``half`` may share; given that, the distorted image."""
    if reference is None:
        return open_image(pair.reference, reading, pair.half)
    return open_image(pair.distorted, reading, {"": "", "left": "right", "right": "left"}[pair.half], reference)


def open_pair(pair: Pair, reading: Reading = _DEFAULT, notes: Notes | None = None) -> tuple[Opened, Opened]:
    """Two files as they are compared, (distorted, reference): cut and resized as ``reading`` says, in sRGB where their colour
    profiles differ; ``notes`` are told what a user should know.

    Raises:
        ImageFileError: as :func:`open_image`.
        ValueError: a profile that cannot be used.
    """
    y = open_side(pair, reading)
    x = open_side(pair, reading, y)
    if notes is not None:
        notes.say(pair.reference, *y.notes)
        notes.say(pair.distorted, *x.notes)
        if x.profile != y.profile:
            notes.say(f"{pair.distorted} and {pair.reference}", PROFILES)
    return reconcile(x, y)


def reconcile(distorted: _Image, reference: _Image) -> tuple[_Image, _Image]:
    """Both images as they are where their colour profiles agree, else both in sRGB."""
    return (distorted, reference) if distorted.profile == reference.profile else (distorted.in_srgb(), reference.in_srgb())


def cut(image: _Image, reading: Reading, what: object, like: _Image | None = None) -> _Image:
    """An image, which errors call ``what``: cut to multiples of ``mod_crop``, if ``resize`` resized like another that is cut
    already, and without its border.
    """
    border = reading.crop_border
    height, width = (side - side % reading.mod_crop for side in image.size)
    if not height or not width:
        sides = f"{image.size[1]} x {image.size[0]}"
        raise ImageFileError(f"cannot cut {what} to multiples of {reading.mod_crop} pixels: it has {sides}")
    if (height, width) != image.size:
        image = image.crop(0, 0, height, width)
    if like is not None and reading.resize:
        height, width = (side + 2 * border for side in like.size)
        if (height, width) != image.size:
            if isinstance(image, LargeImage):
                raise ImageFileError(f"cannot resize {what}: TIFFs of its size are read in windows")
            image = resized(image, (height, width))
    if min(height, width) <= 2 * border:
        raise ImageFileError(f"cannot cut {border} pixels off each side of {what}, which has {width} x {height}")
    return image.crop(border, border, height - 2 * border, width - 2 * border) if border else image


def resized(image: Picture, size: tuple[int, int]) -> Picture:
    """An image with another height and width, by the kernel of MATLAB's ``imresize`` and Pillow: cubic with a = -0.5, wider
    where the image shrinks. Values are clipped, and integers rounded once, after both directions.
    """
    values = torch.from_numpy(image.colours.astype(np.float64)).permute(2, 0, 1).unsqueeze(0)
    found = interpolate(values, size, mode="bicubic", align_corners=False, antialias=True)[0].permute(1, 2, 0).numpy()
    kind = image.colours.dtype
    found = found.clip(0, 1) if kind.kind == "f" else np.rint(found).clip(0, np.iinfo(kind).max)
    return replace(image, colours=found.astype(kind))


def alike(distorted: _Image, reference: _Image) -> tuple[_Image, _Image]:
    """Two images in one size, for metrics that compare pixel by pixel: sizes that differ by at most 8 pixels are cut to the
    part that both have from the top left corner on.

    Raises:
        ValueError: sizes that differ by more.
    """
    if distorted.size == reference.size:
        return distorted, reference
    (height, width), (reference_height, reference_width) = distorted.size, reference.size
    if max(abs(height - reference_height), abs(width - reference_width)) > NEARLY:
        raise ValueError(
            f"its size is {width} x {height}, that of its reference {reference_width} x {reference_height}: give images of one "
            "size, or let it be resized (--resize, resize=)"
        )
    both = 0, 0, min(height, reference_height), min(width, reference_width)
    return distorted.crop(*both), reference.crop(*both)


def preview(path: str | os.PathLike[str], side: int, reading: Reading = _DEFAULT) -> Image.Image:
    """An image file as RGB in sRGB, at most ``side`` pixels on each side, for people to look at."""
    large = LargeImage(path, reading) if is_large(path) else None
    picture = Picture(large.thin(2 * side), large.profile) if large else decode(path, reading)
    with naming(path):
        image = to_pillow(picture.in_srgb().colours).convert("RGB")
    image.thumbnail((side, side))
    return image


class Notes:
    """What a run says of how it read its files: the first note of each kind, with what it is about; threads may share it."""

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell = tell
        self._told: set[str] = set()
        self._lock = threading.Lock()

    def say(self, about: object, *notes: str) -> None:
        """Pass on the notes that have not been told yet."""
        with self._lock:
            new = [note for note in dict.fromkeys(notes) if note not in self._told]
            self._told.update(new)
        for note in new:
            self._tell(f"{about} {note}; said once, for all files like this")


def _check_file(path: str | os.PathLike[str]) -> None:
    if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
        raise ValueError("it is a folder" if os.path.isdir(path) else "it is not a regular file")


def _hint(suffix: str) -> str:
    """What to install for a file that cannot be opened, or to do with it; empty where its suffix is one that is read."""
    if not suffix or suffix in readable_suffixes():
        return ""
    if any(suffix in suffixes for suffixes in PLUGINS.values()):
        return f"; {suffix} files are read with a plugin: pip install 'msds-plugin[formats]'"
    return f"; convert it to PNG or TIFF ({suffix} is none of the formats that Pillow reads)"
