"""TIFFs of every colour, compression and layout: the reader of whole files and that of windows, beside Pillow; and damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msds_plugin.adapters.images import large as large_images
from msds_plugin.adapters.images.large import LargeImage
from msds_plugin.adapters.images.preview import preview
from msds_plugin.adapters.images.read import INKS, TRANSPARENT, ImageFileError, Reading, decode, read_image
from msds_plugin.adapters.images.samples import unit
from PIL import Image, ImageCms

HEIGHT, WIDTH = 37, 53
MANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def picture(seed: int = 0) -> np.ndarray:
    """Smooth colours, which JPEG keeps."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


def both(path: Path, reading: Reading | None = None) -> np.ndarray:
    """What the two readers give, (H, W, 3), which must be the same, also in a part of the image."""
    reading = reading or Reading()
    whole = unit(decode(path, reading).colours)
    whole = np.broadcast_to(whole, (*whole.shape[:2], 3))
    large = LargeImage(path, reading)
    height, width = large.shape[2:]
    assert np.array_equal(large.read(0, 0, height, width)[0].permute(1, 2, 0).numpy(), whole)
    part = large.read(3, 5, height - 10, width - 12)[0].permute(1, 2, 0).numpy()
    assert np.array_equal(part, whole[3 : height - 7, 5 : width - 7])
    assert large.notes == decode(path, reading).notes
    return whole


@MANY
@given(
    mode=st.sampled_from(["1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB"]),
    compression=st.sampled_from([None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"]),
    orientation=st.integers(1, 8),
    big_endian=st.booleans(),
    seed=st.integers(0, 99),
)
def test_colours_that_pillow_writes(tmp_path, mode, compression, orientation, big_endian, seed) -> None:
    if compression == "jpeg" and mode in ("1", "P", "LAB", "YCbCr"):
        return
    image, path = Image.fromarray(picture(seed)), tmp_path / "x.tif"
    if mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        image = ImageCms.applyTransform(image, ImageCms.buildTransform(ImageCms.createProfile("sRGB"), lab, "RGB", "LAB"))
    else:
        image = image.convert(mode)
    image.save(path, compression=compression, big_endian=big_endian)
    with Image.open(path) as found:
        expected = np.asarray(found.convert("RGB")).astype(np.float32) / np.float32(255)
    # libtiff, by which Pillow reads compressed YCbCr, rounds to another neighbour.
    np.testing.assert_allclose(both(path), expected, atol=1.01 / 255 if mode == "YCbCr" else 1e-7)
    image.save(path, compression=compression, tiffinfo={0x0112: orientation})
    turned = both(path)
    assert turned.shape[:2] == (expected.shape[:2] if orientation < 5 else expected.shape[1::-1])
    assert np.allclose(turned.mean((0, 1)), expected.mean((0, 1)), atol=4e-3 if mode == "YCbCr" else 1e-5)


@MANY
@given(
    compression=st.sampled_from(["zlib", "lzw", "zstd", "lzma", "packbits", "webp", "jpeg2000", "jpegxl", "lerc", "png"]),
    tile=st.sampled_from([None, (16, 16), (32, 48)]),
    rows=st.integers(1, HEIGHT),
    predictor=st.booleans(),
    deep=st.booleans(),
    byteorder=st.sampled_from("<>"),
)
def test_compressions(tmp_path, compression, tile, rows, predictor, deep, byteorder) -> None:
    if (predictor and compression not in ("zlib", "lzw", "zstd", "lzma")) or (deep and compression == "webp"):
        return
    if deep and byteorder == ">" and compression in ("jpeg2000", "jpegxl", "lerc", "png"):  # which the writer cannot
        return
    array = picture().astype(np.uint16) * 251 if deep else picture()
    layout = {"tile": tile} if tile else {"rowsperstrip": rows}
    options = {"compression": compression, "predictor": predictor or None, "byteorder": byteorder}
    if compression == "webp":
        options["compressionargs"] = {"lossless": True, "level": 100}
    elif compression in ("jpeg2000", "jpegxl"):
        options["compressionargs"] = {"reversible": True} if compression == "jpeg2000" else {"lossless": True}
    tifffile.imwrite(tmp_path / "x.tif", array, photometric="rgb", **layout, **options)
    np.testing.assert_allclose(both(tmp_path / "x.tif"), array / (65535 if deep else 255), atol=1e-7)


@pytest.mark.parametrize(
    ("entries", "white"),
    [
        (lambda values: values * 257, 255),
        (lambda values: values << 8, 255),
        (lambda values: values, 255),
        (lambda values: values * 251 + 3, 65535),
    ],
)
def test_palettes_of_bytes_and_of_16_bits(tmp_path, entries, white) -> None:
    values = np.random.default_rng(0).integers(0, 256, (3, 256)).astype(np.uint16)
    indices = picture()[..., 0]
    colours = entries(values).astype(np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", indices, photometric="palette", colormap=colours)
    expected = (colours if white == 65535 else values).T[indices] / white
    np.testing.assert_allclose(both(tmp_path / "x.tif"), expected, atol=1e-7)


def test_inks_with_a_profile_are_said(tmp_path) -> None:
    image = Image.fromarray(picture()).convert("CMYK")
    image.save(tmp_path / "x.tif", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    with pytest.raises(ImageFileError):  # a profile of other colours than the pixels'
        read_image(tmp_path / "x.tif")
    assert INKS.startswith("is CMYK")


@pytest.mark.parametrize("options", [{"tile": (32, 32)}, {"rowsperstrip": 16}])
@pytest.mark.parametrize("tables", [False, True])
def test_damage_in_the_jpeg_of_a_tiff(tmp_path, options, tables) -> None:
    path = tmp_path / "x.tif"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    if tables:
        Image.fromarray(noise).save(path, compression="jpeg")
    else:
        tifffile.imwrite(path, noise, photometric="rgb", compression="jpeg", **options)
    read_image(path)
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        start, count = page.dataoffsets[-1], page.databytecounts[-1]
    content = bytearray(path.read_bytes())
    content[start + count // 2 : start + count // 2 + 2] = b"\xff\xd9"  # the end, in the middle
    path.write_bytes(content)
    with pytest.raises(ImageFileError):
        read_image(path)
    with pytest.raises(ImageFileError):
        LargeImage(path).read(0, 0, 64, 64)


@pytest.mark.parametrize("options", [{}, {"tile": (16, 16)}, {"compression": "zlib", "rowsperstrip": 8}])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
def test_transparency_is_said_only_where_there_is_some(tmp_path, options, dtype, kind) -> None:
    white = np.iinfo(dtype).max
    array = np.full((HEIGHT, WIDTH, 4), white, dtype)
    tifffile.imwrite(tmp_path / "x.tif", array, photometric="rgb", extrasamples=[kind], **options)
    both(tmp_path / "x.tif")
    assert LargeImage(tmp_path / "x.tif").notes == ()
    array[-1, -1, 3] = white - 1
    tifffile.imwrite(tmp_path / "x.tif", array, photometric="rgb", extrasamples=[kind], **options)
    both(tmp_path / "x.tif")
    assert LargeImage(tmp_path / "x.tif").notes == (TRANSPARENT,)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"photometric": "separated", "dtype": np.uint16, "channels": 4}, "separated of 4 channels of 16 bits"),
        ({"photometric": "icclab", "channels": 3}, "neither RGB nor grey but icclab"),
        ({"photometric": "cfa", "channels": 1}, "neither RGB nor grey but cfa"),
        ({"photometric": "minisblack", "channels": 1, "dtype": np.complex64}, "complex"),
        ({"photometric": "minisblack", "channels": 5, "planarconfig": "contig"}, "channels"),
    ],
)
def test_what_is_refused_is_refused_by_both_with_one_reason(tmp_path, options, reason) -> None:
    channels, dtype = options.pop("channels"), options.pop("dtype", np.uint8)
    array = np.zeros((HEIGHT, WIDTH, channels), dtype).squeeze()
    tifffile.imwrite(tmp_path / "x.tif", array, **options)
    with pytest.raises(ImageFileError, match=reason) as small:
        read_image(tmp_path / "x.tif")
    with pytest.raises(ImageFileError, match=reason) as large:
        LargeImage(tmp_path / "x.tif")
    assert str(small.value) == str(large.value)


def test_one_strip_that_would_fill_the_memory(tmp_path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", picture(), photometric="rgb", compression="zlib", rowsperstrip=HEIGHT)
    with pytest.raises(ImageFileError, match=r"save it in tiles.*--max-pixels"):
        LargeImage(tmp_path / "x.tif", Reading(max_pixels=HEIGHT * WIDTH - 1))


def test_a_preview_is_the_same_by_both_readers(tmp_path, monkeypatch) -> None:
    array = (picture().astype(np.float32) / 255) * 7
    tifffile.imwrite(tmp_path / "x.tif", array, photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    small = preview(tmp_path / "x.tif", 30, Reading(peak=7))
    monkeypatch.setattr(large_images, "LARGE", 1)
    large = preview(tmp_path / "x.tif", 30, Reading(peak=7))
    assert small.size == large.size == (21, 30)
    assert np.abs(np.asarray(small).astype(int) - np.asarray(large)).mean() < 6
