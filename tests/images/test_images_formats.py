"""Formats beside PNG, TIFF and JPEG: the values that were written come back, or the file is refused with the reason."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msds_plugin.adapters.images.formats import is_meant_as_image
from msds_plugin.adapters.images.jxl import read_header
from msds_plugin.adapters.images.read import FRAMES, TRANSPARENT, ImageFileError, decode, read_image, size_of
from PIL import Image

HEIGHT, WIDTH = 24, 32
MANY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def values(bits: int, channels: int, seed: int = 0) -> np.ndarray:
    dtype = np.uint8 if bits <= 8 else np.uint16
    found = np.random.default_rng(seed).integers(0, 2**bits, (HEIGHT, WIDTH, channels)).astype(dtype)
    found[0, 0], found[0, 1] = 0, 2**bits - 1
    return found


def over_white(array: np.ndarray, bits: int) -> np.ndarray:
    unit = array / (2**bits - 1)
    channels = array.shape[2]
    colours = unit[..., :1].repeat(3, 2) if channels <= 2 else unit[..., :3]
    return colours * unit[..., -1:] + 1 - unit[..., -1:] if channels in (2, 4) else colours


def check(path: Path, expected: np.ndarray, within: float = 2e-7) -> None:
    np.testing.assert_allclose(read_image(path)[0].permute(1, 2, 0).numpy(), expected, atol=within)
    assert size_of(path) == expected.shape[:2]


@MANY
@given(bits=st.integers(1, 16), channels=st.integers(1, 4), boxes=st.booleans(), seed=st.integers(0, 99))
def test_jpeg_xl_of_any_depth(tmp_path, bits, channels, boxes, seed) -> None:
    pytest.importorskip("pillow_jxl")
    array = values(bits, channels, seed)
    content = imagecodecs.jpegxl_encode(array.squeeze(), lossless=True, bitspersample=bits, usecontainer=boxes)
    (tmp_path / "x.jxl").write_bytes(content)
    check(tmp_path / "x.jxl", over_white(array, bits))


def test_frames_and_numbers_of_jpeg_xl(tmp_path) -> None:
    pytest.importorskip("pillow_jxl")
    frames = np.stack([values(16, 3, seed) for seed in range(3)])
    (tmp_path / "x.jxl").write_bytes(imagecodecs.jpegxl_encode(frames, lossless=True))
    assert decode(tmp_path / "x.jxl").notes == (FRAMES,)
    check(tmp_path / "x.jxl", over_white(frames[0], 16))
    (tmp_path / "x.jxl").write_bytes(imagecodecs.jpegxl_encode(frames[0].astype(np.float32) / 65535, lossless=True))
    with pytest.raises(ImageFileError, match="floating-point values of 32 bits"):
        read_image(tmp_path / "x.jxl")
    with pytest.raises(ValueError, match="no JPEG XL"):
        read_header(b"something else")


@MANY
@given(bits=st.sampled_from([8, 10, 12]), channels=st.sampled_from([1, 3, 4]), seed=st.integers(0, 99))
def test_avif_of_any_depth(tmp_path, bits, channels, seed) -> None:
    array = values(bits, channels, seed)
    options = {"level": 100, "bitspersample": bits, "pixelformat": "400" if channels == 1 else "444"}
    (tmp_path / "x.avif").write_bytes(imagecodecs.avif_encode(array.squeeze(), **options))
    check(tmp_path / "x.avif", over_white(array, bits))


@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize("channels", [3, 4])
def test_heic_of_any_depth(tmp_path, bits, channels) -> None:
    heif = pytest.importorskip("pillow_heif")
    small = np.random.default_rng(0).integers(0, 256, (4, 5, channels), dtype=np.uint8)
    bands = [
        Image.fromarray(band.astype(np.float32)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        for band in small.transpose(2, 0, 1)
    ]
    unit = (np.stack([np.asarray(band) for band in bands], 2) / 255).clip(0, 1)
    array = np.rint(unit * (2**bits - 1)).astype(np.uint16)
    mode = "RGBA"[:channels]
    if bits == 8:
        image = heif.from_bytes(mode, (WIDTH, HEIGHT), array.astype(np.uint8).tobytes())
    else:
        image = heif.from_bytes(f"{mode};16", (WIDTH, HEIGHT), (array << (16 - bits)).tobytes())
    before, heif.options.SAVE_HDR_TO_12_BIT = heif.options.SAVE_HDR_TO_12_BIT, bits == 12
    image.save(tmp_path / "x.heic", quality=-1, chroma=444)
    heif.options.SAVE_HDR_TO_12_BIT = before
    check(tmp_path / "x.heic", over_white(array, bits), 2.1 / (2**bits - 1))  # of YCbCr and back


def png(array: np.ndarray, bits: int, kind: int, *chunks: tuple[bytes, bytes]) -> bytes:
    height, width = array.shape[:2]
    places = np.arange(bits - 1, -1, -1)
    rows = (np.packbits(((row.reshape(-1, 1) >> places) & 1).astype(np.uint8).ravel()).tobytes() for row in array)
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)),
        *chunks,
        (b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))),
        (b"IEND", b""),
    ]
    made = (struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


@MANY
@given(bits=st.sampled_from([1, 2, 4, 8, 16]), transparent=st.booleans(), rgb=st.booleans(), seed=st.integers(0, 99))
def test_png_with_a_transparent_colour(tmp_path, bits, transparent, rgb, seed) -> None:
    rgb = rgb and bits >= 8
    array = values(bits, 3 if rgb else 1, seed)
    clear = array[3, 4]
    chunk = (b"tRNS", struct.pack(f">{len(clear)}H", *clear))
    (tmp_path / "x.png").write_bytes(png(array, bits, 2 if rgb else 0, *([chunk] if transparent else [])))
    expected = over_white(array, bits)
    if transparent:
        expected[(array == clear).all(2)] = 1
    check(tmp_path / "x.png", expected)
    assert (TRANSPARENT in decode(tmp_path / "x.png").notes) == transparent


@MANY
@given(bits=st.sampled_from([1, 2, 4, 8]), transparent=st.booleans(), seed=st.integers(0, 99))
def test_png_with_a_palette(tmp_path, bits, transparent, seed) -> None:
    rng = np.random.default_rng(seed)
    indices, palette = values(bits, 1, seed), rng.integers(0, 256, (2**bits, 3), dtype=np.uint8)
    alpha = np.full((2**bits, 1), 255, np.uint8)
    chunks = [(b"PLTE", palette.tobytes())]
    if transparent:
        alpha[: 2**bits // 2] = rng.integers(0, 256, (2**bits // 2, 1))
        chunks.append((b"tRNS", alpha[: 2**bits // 2].tobytes()))
    (tmp_path / "x.png").write_bytes(png(indices, bits, 3, *chunks))
    check(tmp_path / "x.png", over_white(np.hstack([palette, alpha])[indices[..., 0]], 8))


def test_bmp_with_opacity(tmp_path) -> None:
    array = values(8, 4)
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 124, WIDTH, HEIGHT, 1, 32, 3, 0, 0, 0, 0, 0) + masks + b"BGRs" + bytes(64)
    pixels = array[::-1][..., [2, 1, 0, 3]].tobytes()
    start = 14 + len(header)
    (tmp_path / "x.bmp").write_bytes(b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + header + pixels)
    check(tmp_path / "x.bmp", over_white(array, 8))


def _sgi() -> bytes:
    head = struct.pack(">HBBHHHH", 474, 0, 2, 3, WIDTH, HEIGHT, 3)
    return head + bytes(512 - len(head)) + values(16, 3).astype(">u2").tobytes()


def _fits() -> bytes:
    cards = ("SIMPLE  =                    T", "BITPIX  =                   16", "NAXIS   =                    2")
    sizes = (f"NAXIS1  = {WIDTH:20}", f"NAXIS2  = {HEIGHT:20}", "END")
    return "".join(card.ljust(80) for card in (*cards, *sizes)).ljust(2880).encode() + values(16, 1).astype(">i2").tobytes()


def _deep_jpeg() -> bytes:
    return imagecodecs.jpeg_encode(values(8, 3).astype(np.uint16) * 16, bitspersample=12)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.sgi", _sgi, "SGI files of 16 bits"),
        ("x.fits", _fits, "FITS files of 16 bits"),
        ("x.jpg", _deep_jpeg, "cannot handle 12-bit"),
        ("x.pam", lambda: b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 1\nMAXVAL 255\nENDHDR\n\0", "convert it to PNG or TIFF"),
        ("x.exr", lambda: b"v/1\x01" + bytes(99), "convert it to PNG or TIFF"),
        ("x.dng", lambda: b"II*\0" + bytes(99), "it holds no image"),
        ("x.png", lambda: b"", "the file is empty"),
        ("x.png", lambda: b"text", "not an image of a known format"),
    ],
)
def test_what_cannot_be_read_without_loss_is_refused_and_counts_as_an_image(tmp_path, capfd, name, content, reason) -> None:
    (tmp_path / name).write_bytes(content())
    with pytest.raises(ImageFileError, match=reason):
        read_image(tmp_path / name)
    assert is_meant_as_image(name)
    assert capfd.readouterr().err == ""
