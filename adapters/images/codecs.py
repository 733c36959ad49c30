"""Image files other than TIFF: Pillow, and imagecodecs where Pillow would cut values to 8 bits or pass over damage."""

from __future__ import annotations

import io
import math
import re
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import imagecodecs
import numpy as np
import simplejpeg
from PIL import Image, ImageFile, UnidentifiedImageError

from msds_plugin.adapters.images.colours import (
    FRAMES,
    INKS,
    TRANSPARENT,
    Array,
    Picture,
    Reading,
    Samples,
    apply_profile,
    cicp_profile,
    icc_profile,
    rgb_profile,
    to_colours,
    turn,
)
from msds_plugin.adapters.images.listing import NOT_READ, register_plugins


def open_content(content: bytes) -> Image.Image:
    """Pillow's ``Image.open`` without its check of the size, which depends on a setting of the whole process."""
    if not content:
        raise ValueError("the file is empty")
    if content.startswith(b"version https://git-lfs"):
        raise ValueError("it is only the pointer of Git LFS to the image: git lfs pull fetches that")
    register_plugins()
    stream, reason = io.BytesIO(content), ""
    for name in Image.ID:
        if name in NOT_READ:
            continue
        factory, accept = Image.OPEN[name]
        stream.seek(0)
        try:
            accepted = accept is None or accept(content[:16])
            if accepted and not isinstance(accepted, str):  # a string says why not
                return factory(stream, "")
        except Exception as error:  # plugins have many for what is not of their format
            what = str(error).partition(". ")[0]
            reason = f" ({name}: {what})" if accept is not None and what else reason
    raise UnidentifiedImageError(f"it is not an image of a known format, or its header is damaged{reason}")


def orientation_of(image: Any, content: bytes | None = None) -> int | None:
    """As EXIF counts them, of a file's content or an image in memory; None also where the EXIF block is damaged, which viewers
    pass over.
    """
    if image.format == "JXL" and not image.jpeg:  # its header counts, by which its decoder has turned it
        return None
    # A PNG decodes its pixels to look for EXIF behind them.
    there = image.format != "PNG" or content is None or b"eXIf" in content
    try:
        found: int | None = (image.getexif() if there else Image.Image.getexif(image)).get(0x0112)
    except Exception:
        return None
    return found


def decode_content(content: bytes, reading: Reading) -> Picture:
    """What is in a file, turned as it is to be shown; raises whatever a decoder runs into."""
    if size := jpegxl_size(content):
        reading.check_size(*size)
    with _whole_files_only(), open_content(content) as image:
        reading.check_size(*image.size)
        reader = _DEEP.get(image.format or "")
        found = reader(image, content) if reader else None
        several = getattr(image, "is_animated", False)
        inks = found is None and image.mode == "CMYK" and bool(image.info.get("icc_profile"))
        values, samples = found or _by_pillow(image, content)
        colours, transparent = to_colours(values, samples, reading)
        notes = (FRAMES,) * several + (INKS,) * inks + (TRANSPARENT,) * transparent
        profile, turned = None if inks else profile_of(image, content), orientation_of(image, content)
        return Picture(turn(colours, turned), profile, notes, reading.channel, turned)


def _by_pillow(image: Image.Image, content: bytes) -> tuple[Array, Samples]:
    if image.format in ("JPEG", "MPO"):
        # The same pixels as Pillow's, of the same library, but its warnings are errors.
        space = {"L": "GRAY", "RGB": "RGB"}.get(image.mode)
        values = simplejpeg.decode_jpeg(content, space or "CMYK", strict=True)
        if space:
            return _of_channels(values, 8)
    return values_of(image)


def values_of(image: Image.Image) -> tuple[Array, Samples]:
    """The values of an image in memory, or that Pillow decodes now; inks with a profile as RGB."""
    image.load()
    profile, mode = image.info.get("icc_profile"), image.mode
    if mode in ("F", "I"):
        return np.array(image)[..., None], Samples(32, "floating-point" if mode == "F" else "signed", 1)
    if mode.startswith("I;16"):
        return _of_channels(np.array(image).astype(np.uint16), 16)
    if mode == "CMYK" and profile:
        return _of_channels(np.array(apply_profile(image, profile)), 8)
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _of_channels(np.array(image.convert("RGBA")), 8)
    return _of_channels(np.array(image.convert("L" if mode in ("L", "1") else "RGB")), 8)


def profile_of(image: Image.Image, content: bytes = b"") -> bytes | None:
    """The ICC profile, or the one that other statements about the colours stand for; None for sRGB.

    Without ``content``, the file's, some of those are not known.
    """
    info = image.info
    place = content.find(b"\0\0\0\4cICP", 0, content.find(b"IDAT")) if image.format == "PNG" else -1
    if place >= 0:  # before all others, by the specification
        primaries, transfer, _, full_range = content[place + 8 : place + 12]
        return cicp_profile(primaries, transfer, bool(full_range))
    if info.get("icc_profile"):
        return icc_profile(bytes(info["icc_profile"]))
    if image.format == "PNG" and "srgb" not in info and ("gamma" in info or "chromaticity" in info):
        corners = info.get("chromaticity") or (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
        gamma = 1 / info["gamma"] if info.get("gamma") else None
        return rgb_profile(tuple(corners[:2]), tuple(corners[2:]), gamma)
    place = content.find(b"colrnclx") if image.format in ("AVIF", "HEIF") else -1
    return cicp_profile(*struct.unpack_from(">HH", content, place + 8)) if place >= 0 else None


_lock = threading.Lock()
_reading = 0
_tolerant = False


@contextmanager
def _whole_files_only() -> Iterator[None]:
    """Have Pillow refuse truncated files, in any number of threads; after the last of them its setting is as before.

    pyiqa, once imported, has Pillow fill the missing part of a truncated file with grey, in every program.
    """
    global _reading, _tolerant
    with _lock:
        _reading += 1
        # Also while others read: the program may have set it again in the meantime.
        _tolerant = ImageFile.LOAD_TRUNCATED_IMAGES or (_tolerant and _reading > 1)
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        with _lock:
            _reading -= 1
            if _reading == 0 and _tolerant:
                ImageFile.LOAD_TRUNCATED_IMAGES = True


# Values that Pillow would cut to 8 bits, or stretch to 8: what they are, or None for what it reads as it is.

_Deep: TypeAlias = tuple[Array, Samples] | None


def _of_channels(values: Array, bits: int) -> tuple[Array, Samples]:
    values = values if values.ndim == 3 else values[..., None]
    channels = values.shape[2]
    if channels > 4:
        raise ValueError(f"it has {channels} channels, of which it does not say what they are")
    kind: Any = {"f": "floating-point", "i": "signed"}.get(values.dtype.kind, "unsigned")
    return values, Samples(bits, kind, 3 if channels >= 3 else 1, alpha=channels - 1 if channels in (2, 4) else None)


def _png(image: Image.Image, content: bytes) -> _Deep:
    if b"IEND\xaeB`\x82" not in content:
        raise ValueError("the file is truncated")
    return _of_channels(imagecodecs.png_decode(content), max(content[24], 8))  # libpng finds damage that Pillow passes over


def _jpeg2000(image: Image.Image, content: bytes) -> _Deep:
    start = content.index(b"\xff\x4f\xff\x51")  # of the codestream
    depths = set(content[start + 42 : start + 42 + 3 * int.from_bytes(content[start + 40 : start + 42], "big") : 3])
    if depths == {7} or image.mode == "P":  # of other depths Pillow shifts the values, or cuts them
        return None
    if len(depths) > 1:
        raise ValueError("its channels are of different depths: save it with one")
    return _of_channels(imagecodecs.jpeg2k_decode(content), (depths.pop() & 127) + 1)


def _avif(image: Image.Image, content: bytes) -> _Deep:
    flags = content[content.index(b"av1C") + 6]
    if not flags & 0x40:
        return None
    values = imagecodecs.avif_decode(content)
    return _of_channels(values if values.ndim < 4 else values[0], 12 if flags & 0x20 else 10)


def _heif(image: Image.Image, content: bytes) -> _Deep:
    import pillow_heif

    deep = pillow_heif.open_heif(content, convert_hdr_to_8bit=False)
    if not deep.mode.endswith(";16"):
        return None
    bits = deep.info["bit_depth"]
    return _of_channels(np.asarray(deep) >> (16 - bits), bits)  # it comes multiplied up to 16 bits


def jpegxl_size(content: bytes) -> tuple[int, int] | None:
    """Width and height by the header of a JPEG XL, as Pillow's plugin decodes the pixels when it opens one; else None."""
    if not (content.startswith(b"\xff\x0a") or content[4:8] == b"JXL "):
        return None
    start = content.find(b"\xff\x0a", max(content.find(b"jxlc"), content.find(b"jxlp"), 0)) + 2
    bits = int.from_bytes(content[start : start + 16], "little")

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << count) - 1), bits >> count
        return value

    def side(in_eighths: int) -> int:
        return 8 * take(5) + 8 if in_eighths else take((9, 13, 18, 30)[take(2)]) + 1

    in_eighths = take(1)
    height = side(in_eighths)
    part, of = ((0, 1), (1, 1), (6, 5), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[take(3)]
    return height * part // of or side(in_eighths), height


def _jpegxl(image: Any, content: bytes) -> _Deep:
    if image.jpeg:  # a JPEG without its loss, which the plugin restores
        return None
    values, shown = imagecodecs.jpegxl_decode(content), np.asarray(image)
    if values.shape[:2] != shown.shape[:2]:
        values, image.is_animated = values[0], True  # which Pillow's plugin does not say
    if values.dtype == np.uint8 and shown.sum() < 1.5 * values.sum():
        return None  # 8 bits, which are Pillow's. Of a lossy file the two differ by one, in the dark as much as by a depth
    largest, shown_largest = float(values.max()), float(shown.max())
    if values.dtype.kind == "f" or largest == 0:
        return _of_channels(values, 8 * values.itemsize)
    # No decoder says how many bits the values have. imagecodecs gives them as they are, Pillow brings white to 255 or 65535.
    if shown_largest < 2 and values.dtype != np.uint8:
        raise ValueError("it is too dark to tell how many bits its values have: convert it to PNG or TIFF")
    return _of_channels(values, round(math.log2(largest * np.iinfo(shown.dtype).max / shown_largest + 1)))


def _netpbm(image: Any, content: bytes) -> _Deep:
    decoder, _, start, form = image.tile[0]
    peak = form[1] if isinstance(form, tuple) else 65535 if form == "I;16B" else 255
    if image.mode not in ("L", "I", "RGB") or peak == 255:
        return None
    shape = (image.height, image.width, len(image.getbands()))
    size, width = math.prod(shape), 2 if peak > 255 else 1
    if decoder == "ppm_plain":
        values = np.array(re.sub(rb"#[^\n]*", b"", content[start:]).split()[:size], np.int64)
    else:
        values = np.frombuffer(content[start : start + size * width], f">u{width}")
    if values.size < size:
        raise ValueError("the file is truncated")
    return values.reshape(shape), Samples(16, "unsigned", shape[2], peak=peak)


def _bytes_only(image: Any, content: bytes) -> _Deep:
    signed_or_real = getattr(image, "pixel_format", "") in ("BC5S", "BC6H", "BC6HS")
    if {"SGI": content[3] == 2, "FITS": image.mode != "L", "DDS": signed_or_real}[image.format]:
        raise ValueError(f"{image.format} files of other than 8 bits cannot be read without loss: convert it to TIFF or PNG")
    return None


def _pcx(image: Image.Image, content: bytes) -> _Deep:
    grey_by_header = content[68:70] == b"\2\0"
    if image.mode == "L" and not grey_by_header and content[-769:-768] != b"\x0c":  # Pillow takes indices for grey then
        raise ValueError("the file is truncated: its palette is not there")
    return None


_DEEP: dict[str, Callable[[Image.Image, bytes], _Deep]] = {
    "PNG": _png,
    "JPEG2000": _jpeg2000,
    "AVIF": _avif,
    "HEIF": _heif,
    "JXL": _jpegxl,
    "PPM": _netpbm,
    "SGI": _bytes_only,
    "FITS": _bytes_only,
    "DDS": _bytes_only,
    "PCX": _pcx,
}
