"""Image files to tensors."""

from __future__ import annotations

import io
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import simplejpeg
import tifffile
from PIL import Image, UnidentifiedImageError

from . import profiles
from .damage import check_png, whole_files_only
from .deep import read_deep
from .formats import hint, register_plugins
from .jxl import read_header
from .samples import MAX_PIXELS, Array, ImageFileError, Reading, Samples, colour, to_colours, turn
from .tiff import Tags, is_tiff, tags_of
from .tiff_parts import Parts

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["ImageFileError", "Picture", "Reading", "decode", "decode_pair", "read_image", "size_of", "to_tensor"]

_DEFAULT = Reading()
_BYTE = Samples(8, "unsigned", 3)

#: What a run says once, by what happened to a file.
TRANSPARENT = "has transparent pixels: they are laid over the background (white unless --background names another)"
FRAMES = "holds several frames or pages: the first is taken"
INKS = "is CMYK with a colour profile: converted to sRGB by it"


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded file.

    Attributes:
        colours: (H, W, 1 or 3), uint8 or uint16, to be divided by 255 or 65535, or float32 in 0 to 1.
        profile: its ICC profile, which has not been applied.
        notes: what a user should know of how it was read.
    """

    colours: Array
    profile: bytes | None = None
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width, channels."""
        return self.colours.shape

    def in_srgb(self) -> Picture:
        """The same in sRGB; what has no profile is sRGB already."""
        if self.profile is None:
            return self
        return replace(self, colours=profiles.to_srgb(self.colours, self.profile), profile=None)


def decode(path: str | os.PathLike[str], reading: Reading = _DEFAULT) -> Picture:
    """An image file, as it is to be shown: turned by its EXIF orientation, transparent pixels laid over a background.

    Bits per value, their kind, white-is-zero, planes and alpha are what the file says, in every format. Grey stays one
    channel. Of several frames the first is taken.

    Raises:
        ImageFileError: no such file, not an image, damaged (also where a decoder only warns), too large, or of values whose
            range the file does not say (signed, 32 bits, floating-point) and ``reading.peak`` neither.
    """
    try:
        _check_file(path)
        if is_tiff(Path(path)):
            return _decode_tiff(Path(path), reading)
        return _decode(Path(path).read_bytes(), reading)
    except Exception as error:  # a damaged file raises whatever its decoder runs into
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ImageFileError(f"cannot read {path}: {reason or type(error).__name__}{hint(path, error)}") from error


def decode_pair(
    distorted: str | os.PathLike[str], reference: str | os.PathLike[str], reading: Reading = _DEFAULT
) -> tuple[Picture, Picture]:
    """Two files as they are compared: in sRGB where their colour profiles differ.

    Raises:
        ImageFileError: as :func:`decode`.
        ValueError: a profile that cannot be used.
    """
    x, y = decode(distorted, reading), decode(reference, reading)
    return (x, y) if x.profile == y.profile else (x.in_srgb(), y.in_srgb())


def size_of(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Height and width of an image file as it is shown, of which only the header is read.

    Raises:
        Exception: whatever is wrong with the file; :func:`decode` says it in words.
    """
    _check_file(path)
    if is_tiff(Path(path)):
        with tifffile.TiffFile(path) as file:
            tags = tags_of(file)
        (width, height), turned = tags.size, tags.orientation >= 5
    else:
        with _open(Path(path).read_bytes()) as image:
            (width, height), turned = image.size, (_orientation(image) or 1) >= 5
    return (width, height) if turned else (height, width)


def _has_frames(image: Image.Image, content: bytes) -> bool:
    if image.format == "JXL":  # whose plugin does not say
        return read_header(content).animated
    return bool(getattr(image, "is_animated", False))


def _orientation(image: Image.Image) -> int | None:
    return None if image.format == "JXL" else image.getexif().get(0x0112)  # its decoder has turned it


def _check_file(path: str | os.PathLike[str]) -> None:
    if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
        raise ValueError("it is a folder" if os.path.isdir(path) else "it is not a regular file")


def _decode(content: bytes, reading: Reading) -> Picture:
    with whole_files_only(), _open(content) as image:
        reading.check_size(*image.size)
        chunks = check_png(content) if image.format == "PNG" else set()
        notes: tuple[str, ...] = (FRAMES,) if _has_frames(image, content) else ()
        deep = read_deep(content, image.format or "")
        if deep is not None:
            if b"eXIf" in chunks and "exif" not in image.info:  # it stands behind the pixels
                image.load()
            values, samples = deep
        else:
            values, samples, more = _by_pillow(image, content)
            notes += more
        colours, transparent = to_colours(values, samples, reading)
        orientation = _orientation(image)
        profile = None if INKS in notes else image.info.get("icc_profile") or None
    notes += (TRANSPARENT,) if transparent else ()
    return Picture(turn(colours, orientation), profile, notes)


def _by_pillow(image: Image.Image, content: bytes) -> tuple[Array, Samples, tuple[str, ...]]:
    """Values, what they are, and notes."""
    profile = image.info.get("icc_profile")
    if image.format in ("JPEG", "MPO"):
        if image.mode in ("L", "RGB"):
            # The same pixels as Pillow's, of the same library, but its warnings are errors.
            values = simplejpeg.decode_jpeg(content, "GRAY" if image.mode == "L" else "RGB", strict=True)
            return values, replace(_BYTE, colours=values.shape[2]), ()
        simplejpeg.decode_jpeg(content, "CMYK", strict=True)
    image.load()
    mode = image.mode
    if mode == "F" or mode == "I":
        kind: Any = "floating-point" if mode == "F" else "signed"
        return np.array(image)[..., None], Samples(32, kind, 1), ()
    if mode.startswith("I;16"):
        return np.array(image).astype(np.uint16)[..., None], Samples(16, "unsigned", 1), ()
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return np.array(image.convert("RGBA")), replace(_BYTE, alpha=3), ()
    if mode in ("L", "1"):
        return np.array(image.convert("L"))[..., None], replace(_BYTE, colours=1), ()
    if mode == "CMYK" and profile:
        return np.array(profiles.cmyk_to_srgb(image, profile)), _BYTE, (INKS,)
    return np.array(image.convert("RGB")), _BYTE, ()


def _open(content: bytes) -> Image.Image:
    """Pillow's ``Image.open`` without its check of the size, which depends on a setting of the whole process."""
    if not content:
        raise ValueError("the file is empty")
    register_plugins()
    stream, reason = io.BytesIO(content), ""
    for name in Image.ID:
        factory, accept = Image.OPEN[name]
        stream.seek(0)
        try:
            accepted = accept is None or accept(content[:16])
            if not accepted or isinstance(accepted, str):  # a string says why not
                continue
            return factory(stream, "")
        except Exception as error:  # plugins have many for what is not of their format
            reason = f" ({name}: {error})" if accept is not None and str(error) else reason
    raise UnidentifiedImageError(f"it is not an image of a known format, or its header is damaged{reason}")


def _decode_tiff(path: Path, reading: Reading) -> Picture:
    with tifffile.TiffFile(path) as file:
        tags = tags_of(file)
        width, height = tags.size
        reading.check_size(width, height)
        tags.samples.white(reading)  # before the work
        stored = Parts(file, reading.max_pixels).read((0, height), (0, width))
    colours, transparent = to_colours(tags.unfold(stored), tags.samples, reading)
    return Picture(turn(colours, tags.orientation), tags.profile, tiff_notes(tags, transparent))


def tiff_notes(tags: Tags, transparent: bool) -> tuple[str, ...]:
    """What is to be said of a TIFF."""
    said = ((FRAMES, tags.frames > 1), (INKS, tags.inks), (TRANSPARENT, transparent))
    return tuple(note for note, holds in said if holds)


def to_tensor(pixels: Picture | Array, device: str | torch.device = "cpu") -> Tensor:
    """What :func:`decode` gave, or an array (H, W, 1 or 3) of bytes, as (1, 3, H, W), float32 in [0, 1]."""
    import torch

    colours = pixels.colours if isinstance(pixels, Picture) else pixels
    largest = None if colours.dtype == np.float32 else torch.tensor(float(np.iinfo(colours.dtype).max), device=device)
    known = colours.astype(np.int32) if colours.dtype == np.uint16 else colours
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
