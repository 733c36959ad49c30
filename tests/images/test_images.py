"""Files of known values, written by independent libraries, read by both readers; and files that must be refused."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msds_plugin.adapters.images.large import LargeImage
from msds_plugin.adapters.images.notes import Notes
from msds_plugin.adapters.images.profiles import to_srgb
from msds_plugin.adapters.images.read import FRAMES, TRANSPARENT, ImageFileError, Reading, decode, read_image
from PIL import Image, ImageCms, ImageFile, ImageOps

HEIGHT, WIDTH = 9, 13
MANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def values(bits: int, channels: int, seed: int, kind: str = "u") -> np.ndarray:
    """Values over the whole range, (H, W, channels)."""
    dtype = np.dtype(f"{kind}{1 if bits <= 8 else 2}")
    found = np.random.default_rng(seed).integers(0, 2**bits, (HEIGHT, WIDTH, channels)).astype(dtype)
    found[0, 0], found[0, 1] = 0, 2**bits - 1
    return found


def shown(array: np.ndarray, orientation: int) -> np.ndarray:
    """As Pillow turns it, band by band."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    bands = []
    for band in np.moveaxis(array, 2, 0):
        image = Image.fromarray(band.astype(np.float32))
        image.info["exif"] = exif.tobytes()
        bands.append(np.asarray(ImageOps.exif_transpose(image)))
    return np.stack(bands, 2)


def over_white(array: np.ndarray, white: float, channels: int, premultiplied: bool = False) -> np.ndarray:
    """What is to be read, (H, W, 3), in float64."""
    unit = array.astype(np.float64) / white
    colours = unit[..., :1].repeat(3, 2) if channels <= 2 else unit[..., :3]
    if channels in (2, 4):
        opacity = unit[..., channels - 1 :]
        colours = (colours if premultiplied else colours * opacity) + 1 - opacity
    return colours.clip(0, 1)


def check(path: Path, expected: np.ndarray, tiff: bool = False) -> None:
    readers = [read_image(path)]
    if tiff:
        large = LargeImage(path)
        height, width = large.shape[2:]
        readers.append(large.read(0, 0, height, width))
        part = large.read(1, 2, height - 3, width - 5)
        assert np.array_equal(part.numpy(), readers[1][..., 1 : height - 2, 2 : width - 3].numpy())
        assert np.array_equal(readers[0].numpy(), readers[1].numpy())
    for image in readers:
        assert image.shape == (1, 3, *expected.shape[:2])
        np.testing.assert_allclose(image[0].permute(1, 2, 0).numpy(), expected, atol=2e-7)


@MANY
@given(
    bits=st.sampled_from([8, 10, 12, 16]),
    channels=st.sampled_from([1, 2, 3, 4]),
    orientation=st.integers(1, 8),
    planar=st.booleans(),
    white_is_zero=st.booleans(),
    premultiplied=st.booleans(),
    compression=st.sampled_from([None, "zlib", "lzw"]),
    tiled=st.booleans(),
    seed=st.integers(0, 99),
)
def test_tiff(tmp_path, bits, channels, orientation, planar, white_is_zero, premultiplied, compression, tiled, seed) -> None:
    array = values(bits, channels, seed)
    if premultiplied and channels in (2, 4):
        array[..., :-1] = np.minimum(array[..., :-1], array[..., -1:])
    planar, white_is_zero = planar and channels > 1 and bits in (8, 16), white_is_zero and channels == 1
    options = {"photometric": "rgb" if channels > 2 else "miniswhite" if white_is_zero else "minisblack"}
    if channels > 1:
        options["planarconfig"] = "separate" if planar else "contig"
    if channels in (2, 4):
        options["extrasamples"] = ["assocalpha" if premultiplied else "unassalpha"]
    if bits in (10, 12):
        options |= {"bitspersample": bits, "compression": None}
    else:
        options |= {"compression": compression}
    if tiled and bits in (8, 16):
        options["tile"] = (16, 16)
    stored = np.moveaxis(array, 2, 0) if planar else array if channels > 1 else array[..., 0]
    if bits in (10, 12):
        write_packed(tmp_path / "x.tif", array, bits, white_is_zero, premultiplied, orientation)
    else:
        extratags = [(274, "H", 1, orientation, True)]
        tifffile.imwrite(tmp_path / "x.tif", stored, extratags=extratags, metadata=None, **options)
    expected = over_white(array, 2**bits - 1, channels, premultiplied)
    check(tmp_path / "x.tif", shown(1 - expected if white_is_zero else expected, orientation), tiff=True)


def write_packed(path: Path, array: np.ndarray, bits: int, white_is_zero: bool, premultiplied: bool, orientation: int) -> None:
    """An uncompressed little-endian TIFF whose values take ``bits`` bits, byte by byte, as no library writes them."""
    height, width, channels = array.shape
    places = np.arange(bits - 1, -1, -1)
    rows = [np.packbits(((row.reshape(-1, 1) >> places) & 1).astype(np.uint8).ravel()).tobytes() for row in array]
    data = b"".join(rows)
    photometric = 2 if channels > 2 else 0 if white_is_zero else 1
    tags = [
        (256, [width]), (257, [height]), (258, [bits] * channels), (259, [1]), (262, [photometric]), (273, None),
        (274, [orientation]), (277, [channels]), (278, [height]), (279, [len(data)]), (284, [1]),
    ]  # fmt: skip
    if channels in (2, 4):
        tags.append((338, [1 if premultiplied else 2]))
    more, start = b"", 8 + 2 + 12 * len(tags) + 4
    entries = b""
    for tag, content in tags:
        if tag == 273:
            entries += struct.pack("<HHI4s", tag, 4, 1, b"DATA")
        elif len(content) > 2:
            entries += struct.pack("<HHII", tag, 3, len(content), start + len(more))
            more += struct.pack(f"<{len(content)}H", *content)
        elif tag == 279:
            entries += struct.pack("<HHII", tag, 4, 1, content[0])
        else:
            entries += struct.pack("<HHI", tag, 3, len(content)) + struct.pack("<HH", *content, *[0] * (2 - len(content)))
    entries = entries.replace(b"DATA", struct.pack("<I", start + len(more)))
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + more + data)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(array: np.ndarray, bits: int, orientation: int = 1) -> bytes:
    """A PNG, made by hand."""
    height, width, channels = array.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    raw = b"".join(b"\0" + row.astype(">u2" if bits == 16 else "u1").tobytes() for row in array)
    exif = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x0112, 3, 1, orientation, 0)
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(raw)), chunk(b"eXIf", exif), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@MANY
@given(
    bits=st.sampled_from([8, 16]),
    channels=st.sampled_from([1, 2, 3, 4]),
    orientation=st.integers(1, 8),
    seed=st.integers(0, 99),
)
def test_png(tmp_path, bits, channels, orientation, seed) -> None:
    array = values(bits, channels, seed)
    (tmp_path / "x.png").write_bytes(png(array, bits, orientation))
    check(tmp_path / "x.png", shown(over_white(array, 2**bits - 1, channels), orientation))


@MANY
@given(bits=st.sampled_from([8, 10, 12, 16]), channels=st.sampled_from([1, 3]), seed=st.integers(0, 99))
def test_jpeg2000(tmp_path, bits, channels, seed) -> None:
    array = values(bits, channels, seed)
    content = imagecodecs.jpeg2k_encode(array.squeeze(), level=0, bitspersample=bits, reversible=True)
    (tmp_path / "x.jp2").write_bytes(content)
    check(tmp_path / "x.jp2", over_white(array, 2**bits - 1, channels))


@MANY
@given(
    peak=st.integers(1, 65535),
    channels=st.sampled_from([1, 3]),
    text=st.booleans(),
    comment=st.booleans(),
    seed=st.integers(0, 99),
)
def test_netpbm(tmp_path, peak, channels, text, comment, seed) -> None:
    array = np.random.default_rng(seed).integers(0, peak + 1, (HEIGHT, WIDTH, channels))
    kind = {(1, True): 2, (3, True): 3, (1, False): 5, (3, False): 6}[channels, text]
    note = "# made by hand\n" if comment else ""
    header = f"P{kind}\n{note}{WIDTH} {HEIGHT}\n{peak}\n".encode()
    body = " ".join(map(str, array.ravel())).encode() if text else array.astype(">u2" if peak > 255 else "u1").tobytes()
    (tmp_path / "x.pnm").write_bytes(header + body)
    check(tmp_path / "x.pnm", over_white(array, peak, channels))


@MANY
@given(
    suffix=st.sampled_from([".jpg", ".webp", ".png", ".tif"]),
    orientation=st.integers(1, 8),
    mode=st.sampled_from(["L", "RGB", "P", "CMYK"]),
)
def test_orientation(tmp_path, suffix, orientation, mode) -> None:
    if (mode, suffix) in [("P", ".jpg"), ("CMYK", ".png"), ("P", ".webp"), ("CMYK", ".webp")]:
        return
    path, exif = tmp_path / f"x{suffix}", Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(values(8, 3, orientation)).convert(mode)
    image.save(path)
    with Image.open(path) as upright:
        expected = shown(np.asarray(upright.convert("RGB")) / 255, orientation)
    image.save(path, **({"tiffinfo": {0x0112: orientation}} if suffix == ".tif" else {"exif": exif}))
    check(path, expected, tiff=suffix == ".tif")


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64"])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_has_no_range_needs_a_stated_peak(tmp_path, dtype, channels) -> None:
    array = (np.random.default_rng(0).random((HEIGHT, WIDTH, channels)) * 100).astype(dtype)
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, array.squeeze(), photometric="rgb" if channels == 3 else "minisblack")
    kind = "floating-point" if "float" in dtype else "signed" if dtype[0] == "i" else "unsigned"
    with pytest.raises(ImageFileError, match=rf"{kind} values of \d+ bits.*--peak"):
        read_image(path)
    found = read_image(path, peak=100)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, np.broadcast_to(array.astype(float) / 100, found.shape), atol=1e-7)
    with pytest.raises(ImageFileError, match="outside 0 to the peak of 50"):
        read_image(path, peak=50)
    large = LargeImage(path, Reading(peak=100)).read(0, 0, HEIGHT, WIDTH)
    assert np.array_equal(large.numpy(), read_image(path, peak=100).numpy())


def test_a_stated_peak_leaves_other_files_alone(tmp_path) -> None:
    Image.fromarray(values(8, 3, 0)).save(tmp_path / "x.png")
    assert np.array_equal(read_image(tmp_path / "x.png"), read_image(tmp_path / "x.png", peak=1.0))


def test_values_that_are_not_numbers_are_refused(tmp_path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", np.array([[0.5, np.nan]], np.float32))
    with pytest.raises(ImageFileError, match="nan"):
        read_image(tmp_path / "x.tif", peak=1)


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_colour_shows_the_background(tmp_path, mode) -> None:
    image = Image.fromarray(np.array([[0, 200]], np.uint8)).convert(mode)
    transparent = {"P": image.convert("P").getpixel((0, 0)), "L": 0, "RGB": (0, 0, 0)}[mode]
    image.save(tmp_path / "x.png", transparency=transparent)
    picture = decode(tmp_path / "x.png")
    assert picture.notes == (TRANSPARENT,)
    assert read_image(tmp_path / "x.png")[0, :, 0, 0].tolist() == [1, 1, 1]
    red = read_image(tmp_path / "x.png", background="#ff0000")[0, :, 0, 0]
    assert red.tolist() == [1, 0, 0]


def test_opaque_alpha_changes_nothing(tmp_path) -> None:
    array = np.dstack([values(8, 3, 1), np.full((HEIGHT, WIDTH), 255, np.uint8)])
    Image.fromarray(array).save(tmp_path / "x.png")
    assert decode(tmp_path / "x.png").notes == ()
    assert np.array_equal(decode(tmp_path / "x.png").colours, array[..., :3])


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif"])
def test_the_first_of_several_frames_is_taken(tmp_path, suffix) -> None:
    frames = [Image.new("L", (8, 8), level) for level in (0, 255)]
    lossless = {"lossless": True} if suffix == ".webp" else {}
    frames[0].save(tmp_path / f"x{suffix}", save_all=True, append_images=frames[1:], **lossless)
    assert decode(tmp_path / f"x{suffix}").notes == (FRAMES,)
    assert read_image(tmp_path / f"x{suffix}").max() == 0


def test_notes_are_told_once(tmp_path) -> None:
    Image.new("LA", (4, 4)).save(tmp_path / "x.png")
    told: list[str] = []
    notes = Notes(told.append)
    for _ in range(3):
        notes.say(tmp_path / "x.png", decode(tmp_path / "x.png"))
    assert len(told) == 1
    assert "transparent" in told[0]


def corrupt_jpeg() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(stream, "JPEG")
    content = bytearray(stream.getvalue())
    middle = len(content) * 2 // 3
    content[middle : middle + 2] = b"\xff\xd9"  # the end, in the middle
    return bytes(content)


def test_damage_that_libjpeg_only_warns_of_is_an_error(tmp_path) -> None:
    content = corrupt_jpeg()
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(ImageFileError, match="cannot read"):
        read_image(tmp_path / "x.jpg")


def test_a_png_whose_pixels_are_damaged_is_an_error(tmp_path) -> None:
    content = bytearray(png(values(8, 3, 0), 8))
    content[content.index(b"IDAT") + 30] ^= 1
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(ImageFileError, match="IDAT chunk is damaged"):
        read_image(tmp_path / "x.png")


@pytest.mark.parametrize("suffix", [".png", ".gif", ".bmp", ".tga", ".ppm", ".jpg", ".webp", ".tif", ".jp2"])
def test_a_truncated_file_is_an_error_in_threads_too(tmp_path, suffix, monkeypatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(whole)
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    gate = threading.Barrier(4)

    def accepted(index: int) -> bool:
        gate.wait()
        try:
            read_image(cut if index % 2 else whole)
        except ImageFileError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(accepted, range(40))) == [True, False] * 20
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_a_limit_on_pixels_that_can_be_raised(tmp_path) -> None:
    Image.new("L", (100, 50)).save(tmp_path / "x.png")
    with pytest.raises(ImageFileError, match=r"100 x 50 pixels are more than the limit of 4999.*--max-pixels 5000"):
        read_image(tmp_path / "x.png", max_pixels=4999)
    assert read_image(tmp_path / "x.png", max_pixels=5000).shape == (1, 3, 50, 100)


def test_an_image_larger_than_pillow_opens_can_be_read(tmp_path, monkeypatch) -> None:
    Image.new("L", (100, 50)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert read_image(tmp_path / "x.png").shape == (1, 3, 50, 100)


@pytest.mark.parametrize("deep", [False, True])
def test_profiles(tmp_path, deep) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    with pytest.raises(ValueError, match="profile is for"):
        to_srgb(values(8, 3, 0), profile)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    array = values(16 if deep else 8, 3, 0)
    white = 65535 if deep else 255
    assert np.abs(to_srgb(array, srgb).astype(float) - array).max() <= white * 0.006


def test_folders_and_other_things_are_no_images(tmp_path) -> None:
    (tmp_path / "x.png").mkdir()
    with pytest.raises(ImageFileError, match="it is a folder"):
        read_image(tmp_path / "x.png")
    with pytest.raises(ImageFileError, match="No such file"):
        read_image(tmp_path / "absent.png")


@pytest.mark.parametrize("bits", [8, 16])
def test_jpeg_xl(tmp_path, bits) -> None:
    pytest.importorskip("pillow_jxl")
    array = values(bits, 3, 0)
    (tmp_path / "x.jxl").write_bytes(imagecodecs.jpegxl_encode(array, lossless=True))
    check(tmp_path / "x.jxl", array / (2**bits - 1))
