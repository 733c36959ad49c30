"""TIFFs of every colour, compression and layout: as a whole and in windows, beside Pillow or the values that were written."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from msds_plugin.adapters.images.colours import TRANSPARENT, unit
from msds_plugin.adapters.images.large import LargeImage
from msds_plugin.adapters.images.read import ImageFileError, Reading, decode, preview, read_image, size_of

HEIGHT, WIDTH = 37, 53
MANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def picture(seed: int = 0) -> np.ndarray:
    """Smooth colours, which JPEG keeps."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


def both(path: Path, reading: Reading | None = None) -> np.ndarray:
    """What the two readers give, (H, W, 3), which must be the same, also in a part of the image and after pickling."""
    reading = reading or Reading()
    whole = unit(decode(path, reading).colours)
    whole = np.broadcast_to(whole, (*whole.shape[:2], 3))
    large = pickle.loads(pickle.dumps(LargeImage(path, reading)))
    height, width = large.size
    assert size_of(path) == large.size
    assert np.array_equal(large.read(0, 0, height, width)[0].permute(1, 2, 0).numpy(), whole)
    part = large.read(3, 5, height - 10, width - 12)[0].permute(1, 2, 0).numpy()
    assert np.array_equal(part, whole[3 : height - 7, 5 : width - 7])
    cropped = large.crop(2, 4, height - 8, width - 10).read(1, 1, height - 10, width - 12)
    assert np.array_equal(cropped[0].permute(1, 2, 0).numpy(), part)
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
        expected = np.asarray((found if compression == "jpeg" else image).convert("RGB")).astype(np.float32) / np.float32(255)
    # libtiff, by which Pillow reads compressed YCbCr, rounds to another neighbour.
    np.testing.assert_allclose(both(path), expected, atol=1.01 / 255 if mode == "YCbCr" else 1e-7)
    image.save(path, compression=compression, tiffinfo={0x0112: orientation})
    turned = both(path)
    assert turned.shape[:2] == (expected.shape[:2] if orientation < 5 else expected.shape[1::-1])
    assert np.allclose(turned.mean((0, 1)), expected.mean((0, 1)), atol=4e-3 if mode == "YCbCr" else 1e-5)


@MANY
@given(
    bits=st.sampled_from([8, 10, 12, 16]),
    channels=st.integers(1, 4),
    planar=st.booleans(),
    white_is_zero=st.booleans(),
    premultiplied=st.booleans(),
    tiled=st.booleans(),
    compression=st.sampled_from([None, "zlib", "lzw"]),
    seed=st.integers(0, 99),
)
def test_depths_planes_and_opacity(
    tmp_path, bits, channels, planar, white_is_zero, premultiplied, tiled, compression, seed
) -> None:
    peak, alpha, path = 2**bits - 1, channels in (2, 4), tmp_path / "x.tif"
    array = np.random.default_rng(seed).integers(0, peak + 1, (HEIGHT, WIDTH, channels)).astype("u1" if bits == 8 else "u2")
    premultiplied, white_is_zero = premultiplied and alpha, white_is_zero and channels == 1
    if premultiplied:
        array[..., :-1] = np.minimum(array[..., :-1], array[..., -1:])
    packed = {"bitspersample": bits} if bits in (10, 12) else {}  # which is written neither in tiles nor compressed
    options = {"photometric": "rgb" if channels > 2 else "miniswhite" if white_is_zero else "minisblack"}
    if channels > 1:
        options["planarconfig"] = "separate" if planar else "contig"
    if alpha:
        options["extrasamples"] = ["assocalpha" if premultiplied else "unassalpha"]
    options |= packed or {"compression": compression, "tile": (16, 16) if tiled else None}
    stored = array[..., 0] if channels == 1 else np.moveaxis(array, 2, 0) if planar else array
    try:
        tifffile.imwrite(path, stored, metadata=None, **options)
    except NotImplementedError:  # older versions of imagecodecs write no 10 and 12 bits
        if bits not in (10, 12):
            raise
        assume(False)
    values = array / peak
    expected = values[..., :1].repeat(3, 2) if channels <= 2 else values[..., :3]
    if alpha:
        expected = expected * (1 if premultiplied else values[..., -1:]) + 1 - values[..., -1:]
    np.testing.assert_allclose(both(path), 1 - expected if white_is_zero else expected, atol=2e-7)


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
    lossless = {"webp": {"lossless": True, "level": 100}, "jpeg2000": {"reversible": True}, "jpegxl": {"lossless": True}}
    options = {"compression": compression, "predictor": predictor or None, "byteorder": byteorder}
    options |= {"compressionargs": lossless.get(compression)} | ({"tile": tile} if tile else {"rowsperstrip": rows})
    tifffile.imwrite(tmp_path / "x.tif", array, photometric="rgb", **options)
    np.testing.assert_allclose(both(tmp_path / "x.tif"), array / (65535 if deep else 255), atol=1e-7)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64"])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_has_no_range_needs_a_stated_peak(tmp_path, dtype, channels) -> None:
    array = (np.random.default_rng(0).random((HEIGHT, WIDTH, channels)) * 100).astype(dtype)
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, array.squeeze(), photometric="rgb" if channels == 3 else "minisblack")
    kind = "floating-point" if "float" in dtype else "signed" if dtype[0] == "i" else "unsigned"
    with pytest.raises(ImageFileError, match=rf"{kind} values of \d+ bits.*--peak"):
        read_image(path)
    found = both(path, Reading(peak=100))
    np.testing.assert_allclose(found, np.broadcast_to(array.astype(float) / 100, found.shape), atol=1e-7)
    with pytest.raises(ImageFileError, match="outside 0 to the peak of 50"):
        read_image(path, peak=50)


def test_values_that_are_not_numbers_are_refused(tmp_path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", np.array([[0.5, np.nan]], np.float32))
    with pytest.raises(ImageFileError, match="nan"):
        read_image(tmp_path / "x.tif", peak=1)


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
    indices, colours = picture()[..., 0], entries(values).astype(np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", indices, photometric="palette", colormap=colours)
    expected = (colours if white == 65535 else values).T[indices] / white
    np.testing.assert_allclose(both(tmp_path / "x.tif"), expected, atol=1e-7)


@pytest.mark.parametrize("options", [{"tile": (32, 32)}, {"rowsperstrip": 16}, None])
def test_damage_in_the_jpeg_of_a_tiff(tmp_path, options) -> None:
    path = tmp_path / "x.tif"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    if options is None:  # with tables apart from the pixels
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
    with pytest.raises(ImageFileError, match="rows 0 to 64"):
        LargeImage(path).read(0, 0, 64, 64)


@pytest.mark.parametrize("options", [{}, {"tile": (16, 16)}, {"compression": "zlib", "rowsperstrip": 8}])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
def test_transparency_is_said_only_where_there_is_some(tmp_path, options, dtype, kind) -> None:
    white = np.iinfo(dtype).max
    array = np.full((HEIGHT, WIDTH, 4), white, dtype)
    for opacity, notes in ((white, ()), (white - 1, (TRANSPARENT,))):
        array[-1, -1, 3] = opacity
        tifffile.imwrite(tmp_path / "x.tif", array, photometric="rgb", extrasamples=[kind], **options)
        both(tmp_path / "x.tif")
        assert LargeImage(tmp_path / "x.tif").notes == notes


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
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((HEIGHT, WIDTH, channels), dtype).squeeze(), **options)
    with pytest.raises(ImageFileError, match=reason) as small:
        read_image(tmp_path / "x.tif")
    with pytest.raises(ImageFileError, match=reason) as large:
        LargeImage(tmp_path / "x.tif")
    assert str(small.value) == str(large.value)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_a_file_that_is_shortened_meanwhile_ends_no_process(tmp_path, planar) -> None:
    stored = picture() if planar == "contig" else np.moveaxis(picture(), 2, 0)
    tifffile.imwrite(tmp_path / "x.tif", stored, photometric="rgb", planarconfig=planar)
    large = LargeImage(tmp_path / "x.tif")
    with (tmp_path / "x.tif").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(ImageFileError, match="truncated"):
        large.read(0, 0, HEIGHT, WIDTH)


def test_one_strip_that_would_fill_the_memory(tmp_path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", picture(), photometric="rgb", compression="zlib", rowsperstrip=HEIGHT)
    with pytest.raises(ImageFileError, match=r"save it in tiles.*--max-pixels"):
        LargeImage(tmp_path / "x.tif", Reading(max_pixels=HEIGHT * WIDTH - 1))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_preview_is_the_same_by_both_readers(tmp_path, monkeypatch, orientation) -> None:
    array = (picture().astype(np.float32) / 255) * 7
    tifffile.imwrite(tmp_path / "x.tif", array, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    small = preview(tmp_path / "x.tif", 30, Reading(peak=7))
    monkeypatch.setattr("msds_plugin.adapters.images.read.LARGE", 1)
    large = preview(tmp_path / "x.tif", 30, Reading(peak=7))
    assert small.size == large.size == ((30, 21) if orientation < 5 else (21, 30))
    assert np.abs(np.asarray(small).astype(int) - np.asarray(large)).mean() < 6
