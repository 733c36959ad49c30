"""Image files other than TIFF: Pillow, and imagecodecs where Pillow would cut values to 8 bits or pass over damage."""

from __future__ import annotations

import io
import math
import re
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import imagecodecs
import numpy as np
import simplejpeg
from PIL import Image, ImageFile, UnidentifiedImageError

from msds_plugin.adapters.images.colours import (
    Array,
    Reading,
    Samples,
    cicp_profile,
    cmyk_to_srgb,
    rgb_profile,
    to_colours,
    turn,
)
from msds_plugin.adapters.images.large import FRAMES, INKS, TRANSPARENT
from msds_plugin.adapters.images.listing import register_plugins

_BYTE = Samples(8, "unsigned", 3)


def open_content(content: bytes) -> Image.Image:
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


def orientation_of(image: Image.Image, content: bytes) -> int | None:
    """As EXIF counts them."""
    if image.format == "JXL":  # its decoder has turned it
        return None
    # A PNG decodes its pixels to look for EXIF behind them.
    there = image.format != "PNG" or b"eXIf" in content
    return (image.getexif() if there else Image.Image.getexif(image)).get(0x0112)


def decode_content(content: bytes, reading: Reading) -> tuple[Array, bytes | None, tuple[str, ...]]:
    """A file's colours (H, W, 1 or 3), turned as they are to be shown, its colour profile, and notes.

    Raises:
        Exception: whatever a decoder runs into.
    """
    with _whole_files_only(), open_content(content) as image:
        reading.check_size(*image.size)
        several = getattr(image, "is_animated", False)
        reader = _DEEP.get(image.format or "")
        found = reader(content) if reader else None
        if image.format == "JXL":
            decoded = imagecodecs.jpegxl_decode(content)
            several = decoded.shape[:2] != image.size[::-1]  # which Pillow's plugin does not say
            found = _jpegxl(decoded[0] if several else decoded, np.asarray(image))
        inks = found is None and image.mode == "CMYK" and bool(image.info.get("icc_profile"))
        values, samples = found or _by_pillow(image, content)
        colours, transparent = to_colours(values, samples, reading)
        colours = turn(colours, orientation_of(image, content))
        profile = None if inks else _profile(image, content)
    said = ((FRAMES, several), (INKS, inks), (TRANSPARENT, transparent))
    return colours, profile, tuple(note for note, holds in said if holds)


def _by_pillow(image: Image.Image, content: bytes) -> tuple[Array, Samples]:
    profile = image.info.get("icc_profile")
    if image.format in ("JPEG", "MPO"):
        if image.mode in ("L", "RGB"):
            # The same pixels as Pillow's, of the same library, but its warnings are errors.
            values = simplejpeg.decode_jpeg(content, "GRAY" if image.mode == "L" else "RGB", strict=True)
            return values, replace(_BYTE, colours=values.shape[2])
        simplejpeg.decode_jpeg(content, "CMYK", strict=True)
    image.load()
    mode = image.mode
    if mode in ("F", "I"):
        return np.array(image)[..., None], Samples(32, "floating-point" if mode == "F" else "signed", 1)
    if mode.startswith("I;16"):
        return np.array(image).astype(np.uint16)[..., None], Samples(16, "unsigned", 1)
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return np.array(image.convert("RGBA")), replace(_BYTE, alpha=3)
    if mode in ("L", "1"):
        return np.array(image.convert("L"))[..., None], replace(_BYTE, colours=1)
    if mode == "CMYK" and profile:
        return np.array(cmyk_to_srgb(image, profile)), _BYTE
    return np.array(image.convert("RGB")), _BYTE


def _profile(image: Image.Image, content: bytes) -> bytes | None:
    """The ICC profile, or the one that other statements about the colours stand for; None for sRGB."""
    info = image.info
    place = content.find(b"\0\0\0\4cICP", 0, content.find(b"IDAT")) if image.format == "PNG" else -1
    if place >= 0:  # before all others, by the specification
        primaries, transfer, _, full_range = content[place + 8 : place + 12]
        return cicp_profile(primaries, transfer, bool(full_range))
    if info.get("icc_profile"):
        return bytes(info["icc_profile"])
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


# Values that Pillow would cut to 8 bits, or stretch to 8.


def _of_channels(values: Array, bits: int, peak: int | None = None) -> tuple[Array, Samples]:
    values = values if values.ndim == 3 else values[..., None]
    channels = values.shape[2]
    if channels > 4:
        raise ValueError(f"it has {channels} channels, of which it does not say what they are")
    kind: Any = {"f": "floating-point", "i": "signed"}.get(values.dtype.kind, "unsigned")
    alpha = channels - 1 if channels in (2, 4) else None
    return values, Samples(bits, kind, 3 if channels >= 3 else 1, alpha=alpha, peak=peak)


def _png(content: bytes) -> tuple[Array, Samples]:
    if b"IEND\xaeB`\x82" not in content:
        raise ValueError("the file is truncated")
    return _of_channels(imagecodecs.png_decode(content), max(content[24], 8))  # libpng finds damage that Pillow passes over


def _jpeg2000(content: bytes) -> tuple[Array, Samples] | None:
    start = content.find(b"\xff\x4f\xff\x51")
    if start < 0:
        raise ValueError("it has no JPEG 2000 codestream")
    count = int.from_bytes(content[start + 40 : start + 42], "big")
    depths = {content[start + 42 + 3 * i] for i in range(count)}
    if depths <= set(range(8)):
        return None
    if len(depths) > 1:
        raise ValueError("its channels are of different depths: save it with one")
    return _of_channels(imagecodecs.jpeg2k_decode(content), (depths.pop() & 127) + 1)


def _avif(content: bytes) -> tuple[Array, Samples] | None:
    start = content.find(b"av1C")
    flags = content[start + 6] if start >= 0 else 0
    if not flags & 0x40:
        return None
    values = imagecodecs.avif_decode(content)
    return _of_channels(values if values.ndim < 4 else values[0], 12 if flags & 0x20 else 10)


def _heif(content: bytes) -> tuple[Array, Samples] | None:
    import pillow_heif

    image = pillow_heif.open_heif(content, convert_hdr_to_8bit=False)
    if not image.mode.endswith(";16"):
        return None
    bits = image.info["bit_depth"]
    return _of_channels(np.asarray(image) >> (16 - bits), bits)  # it comes multiplied up to 16 bits


def _jpegxl(values: Array, shown: Array) -> tuple[Array, Samples]:
    """Values as imagecodecs gives them, and as Pillow does."""
    largest, shown_largest = float(values.max()), float(shown.max())
    if values.dtype.kind == "f" or largest == 0:
        return _of_channels(values, 8 * values.itemsize)
    # No decoder says how many bits the values have. imagecodecs gives them as they are, Pillow brings white to 255 or 65535.
    if shown_largest < 2 and values.dtype != np.uint8:
        raise ValueError("it is too dark to tell how many bits its values have: convert it to PNG or TIFF")
    return _of_channels(values, round(math.log2(largest * np.iinfo(shown.dtype).max / shown_largest + 1)))


def _netpbm(content: bytes) -> tuple[Array, Samples] | None:
    kind = content[:2]
    if kind not in (b"P2", b"P3", b"P5", b"P6"):
        return None
    header = re.match(rb"P\d(?:\s+|#[^\n]*\n)+(\d+)(?:\s+|#[^\n]*\n)+(\d+)(?:\s+|#[^\n]*\n)+(\d+)(?:#[^\n]*\n)?\s", content)
    if header is None or int(header[3]) == 255:
        return None
    width, height, peak = map(int, header.groups())
    if not 0 < peak <= 65535:
        raise ValueError(f"its largest value is given as {peak}; 1 to 65535 are possible")
    channels = 3 if kind in (b"P3", b"P6") else 1
    size = width * height * channels
    if kind in (b"P2", b"P3"):
        text = re.sub(rb"#[^\n]*", b"", content[header.end() :]).split()
        values = np.array(text[:size], dtype=np.int64)
    else:
        values = np.frombuffer(content, ">u2" if peak > 255 else "u1", offset=header.end())[:size]
    if values.size < size:
        raise ValueError("the file is truncated")
    values = values.reshape(height, width, channels)
    if values.min() < 0 or values.max() > peak:
        raise ValueError(f"it holds values up to {values.max()}, more than its stated peak of {peak}")
    return _of_channels(values.astype(np.uint16), 16, peak)


def _sgi(content: bytes) -> None:
    if content[3] == 2:
        raise ValueError("SGI files of 16 bits cannot be read without loss: convert it to TIFF or PNG")


def _fits(content: bytes) -> None:
    header = re.search(rb"BITPIX *= *(-?\d+)", content[:2880])
    if header is not None and int(header[1]) != 8:
        raise ValueError(f"FITS files of {header[1].decode()} bits have scales of their own: convert it to TIFF or PNG")


#: By Pillow's name of the format: values and what they are, or None for what Pillow reads as it is.
_DEEP: dict[str, Any] = {
    "PNG": _png,
    "JPEG2000": _jpeg2000,
    "AVIF": _avif,
    "HEIF": _heif,
    "PPM": _netpbm,
    "SGI": _sgi,
    "FITS": _fits,
}
