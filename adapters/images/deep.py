"""Files of more than 8 bits per channel, which Pillow would cut to 8."""

from __future__ import annotations

import re
from typing import Any

import imagecodecs
import numpy as np

from .jxl import read_header
from .samples import Array, Samples


def read_deep(content: bytes, format: str) -> tuple[Array, Samples] | None:
    """The values of a file, (H, W, channels), and what they are; None for one of at most 8 bits, or of another format.

    Args:
        content: of the file.
        format: as Pillow calls it.

    Raises:
        ValueError: a file of this depth that cannot be read without loss.
        Exception: the codec's, for a damaged file.
    """
    reader = _READERS.get(format)
    return None if reader is None else reader(content)


def _of_channels(values: Array, bits: int, peak: int | None = None) -> tuple[Array, Samples]:
    values = values if values.ndim == 3 else values[..., None]
    channels = values.shape[2]
    if channels > 4:
        raise ValueError(f"it has {channels} channels, of which it does not say what they are")
    signed = np.issubdtype(values.dtype, np.signedinteger)
    kind: Any = "floating-point" if np.issubdtype(values.dtype, np.floating) else "signed" if signed else "unsigned"
    alpha = channels - 1 if channels in (2, 4) else None
    return values, Samples(bits, kind, 3 if channels >= 3 else 1, alpha=alpha, peak=peak)


def _png(content: bytes) -> tuple[Array, Samples] | None:
    depth, colours = content[24], content[25]
    # Grey of 2 or 4 bits with a transparent value, too: Pillow scales the grey but not that value.
    if depth == 16:
        return _of_channels(imagecodecs.png_decode(content), 16)
    if depth < 8 and colours == 0 and b"tRNS" in content:
        return _of_channels(imagecodecs.png_decode(content), 8)
    return None


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
    depth = depths.pop()
    return _of_channels(imagecodecs.jpeg2k_decode(content), (depth & 127) + 1)


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


def _jpegxl(content: bytes) -> tuple[Array, Samples] | None:
    header = read_header(content)
    if header.bits <= 8 and not header.floating:
        return None
    values = imagecodecs.jpegxl_decode(content)
    return _of_channels(values if values.ndim < 4 else values[0], header.bits)


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


_READERS = {
    "PNG": _png,
    "JPEG2000": _jpeg2000,
    "AVIF": _avif,
    "HEIF": _heif,
    "JXL": _jpegxl,
    "PPM": _netpbm,
    "SGI": _sgi,
    "FITS": _fits,
}
