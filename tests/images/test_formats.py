"""Files of known values, made by hand or by other libraries: the values come back, or the file is refused with a reason."""

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
from PIL import Image, ImageFile, ImageOps

from msds_plugin.adapters.images.colours import FRAMES, TRANSPARENT
from msds_plugin.adapters.images.listing import is_meant_as_image
from msds_plugin.adapters.images.read import ImageFileError, Reading, decode, preview, read_image, size_of

HEIGHT, WIDTH = 9, 13
MANY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SEEDS = st.integers(0, 99)


def values(bits: int, channels: int, seed: int = 0) -> np.ndarray:
    """Values over the whole range, (H, W, channels)."""
    found = np.random.default_rng(seed).integers(0, 2**bits, (HEIGHT, WIDTH, channels))
    found[0, 0], found[0, 1] = 0, 2**bits - 1
    return found.astype(np.uint8 if bits <= 8 else np.uint16)


def shown(array: np.ndarray, orientation: int) -> np.ndarray:
    """As Pillow turns it, band by band."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    bands = [Image.fromarray(band.astype(np.float32)) for band in np.moveaxis(array, 2, 0)]
    for band in bands:
        band.info["exif"] = exif.tobytes()
    return np.stack([np.asarray(ImageOps.exif_transpose(band)) for band in bands], 2)


def over_white(array: np.ndarray, white: float) -> np.ndarray:
    """What is to be read of grey, grey and alpha, RGB or RGBA: (H, W, 3), in float64."""
    unit, channels = array.astype(np.float64) / white, array.shape[2]
    colours = unit[..., :1].repeat(3, 2) if channels <= 2 else unit[..., :3]
    return colours * unit[..., -1:] + 1 - unit[..., -1:] if channels in (2, 4) else colours


def check(path: Path, expected: np.ndarray, within: float = 2e-7, content: bytes | None = None) -> None:
    if content is not None:
        path.write_bytes(content)
    np.testing.assert_allclose(read_image(path)[0].permute(1, 2, 0).numpy(), expected, atol=within)
    assert size_of(path) == expected.shape[:2]


def png(
    array: np.ndarray, bits: int, kind: int, *chunks: tuple[bytes, bytes], behind: tuple[bytes, bytes] | None = None
) -> bytes:
    places = np.arange(bits - 1, -1, -1)
    rows = (np.packbits(((row.reshape(-1, 1) >> places) & 1).astype(np.uint8).ravel()).tobytes() for row in array)
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", array.shape[1], array.shape[0], bits, kind, 0, 0, 0)),
        *chunks,
        (b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))),
        *([behind] if behind else []),
        (b"IEND", b""),
    ]
    made = (struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


@MANY
@given(
    bits=st.sampled_from([8, 16]), channels=st.integers(1, 4), orientation=st.integers(1, 8), before=st.booleans(), seed=SEEDS
)
def test_png(tmp_path, bits, channels, orientation, before, seed) -> None:
    array, kind = values(bits, channels, seed), {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    exif = (b"eXIf", b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x0112, 3, 1, orientation, 0))
    content = png(array, bits, kind, exif) if before else png(array, bits, kind, behind=exif)
    check(tmp_path / "x.png", shown(over_white(array, 2**bits - 1), orientation), content=content)


@MANY
@given(bits=st.sampled_from([1, 2, 4, 8, 16]), transparent=st.booleans(), rgb=st.booleans(), seed=SEEDS)
def test_png_with_a_transparent_colour(tmp_path, bits, transparent, rgb, seed) -> None:
    rgb = rgb and bits >= 8
    array = values(bits, 3 if rgb else 1, seed)
    clear = array[3, 4]
    chunk = (b"tRNS", struct.pack(f">{len(clear)}H", *clear))
    expected = over_white(array, 2**bits - 1)
    if transparent:
        expected[(array == clear).all(2)] = 1
    check(tmp_path / "x.png", expected, content=png(array, bits, 2 if rgb else 0, *([chunk] if transparent else [])))
    assert (TRANSPARENT in decode(tmp_path / "x.png").notes) == transparent
    behind = read_image(tmp_path / "x.png", background="#ff0000")[0, :, 3, 4].tolist()
    assert behind == ([1, 0, 0] if transparent else pytest.approx(expected[3, 4]))


@MANY
@given(bits=st.sampled_from([1, 2, 4, 8]), transparent=st.booleans(), seed=SEEDS)
def test_png_with_a_palette(tmp_path, bits, transparent, seed) -> None:
    rng = np.random.default_rng(seed)
    indices, palette = values(bits, 1, seed), rng.integers(0, 256, (2**bits, 3), dtype=np.uint8)
    alpha = np.full((2**bits, 1), 255, np.uint8)
    chunks = [(b"PLTE", palette.tobytes())]
    if transparent:
        alpha[: 2**bits // 2] = rng.integers(0, 256, (2**bits // 2, 1))
        chunks.append((b"tRNS", alpha[: 2**bits // 2].tobytes()))
    expected = over_white(np.hstack([palette, alpha])[indices[..., 0]], 255)
    check(tmp_path / "x.png", expected, content=png(indices, bits, 3, *chunks))


@pytest.mark.parametrize(
    ("suffix", "write", "options", "depths", "channels"),
    [
        ("jp2", imagecodecs.jpeg2k_encode, {"level": 0, "reversible": True}, [1, 4, 8, 10, 12, 16], [1, 3]),
        ("jxl", imagecodecs.jpegxl_encode, {"lossless": True, "usecontainer": False}, range(1, 17), [1, 2, 3, 4]),
        ("jxl", imagecodecs.jpegxl_encode, {"lossless": True, "usecontainer": True}, range(1, 17), [1, 2, 3, 4]),
        ("avif", imagecodecs.avif_encode, {"level": 100, "pixelformat": "400"}, [8, 10, 12], [1]),
        ("avif", imagecodecs.avif_encode, {"level": 100, "pixelformat": "444"}, [8, 10, 12], [3, 4]),
    ],
)
@MANY
@given(data=st.data(), seed=SEEDS)
def test_depths_of_other_formats(tmp_path, suffix, write, options, depths, channels, data, seed) -> None:
    bits = data.draw(st.sampled_from(depths))
    array = values(bits, data.draw(st.sampled_from(channels)), seed)
    content = write(array.squeeze(), bitspersample=bits, **options)
    check(tmp_path / f"x.{suffix}", over_white(array, 2**bits - 1), content=content)


@pytest.mark.parametrize("white", [3, 255])
def test_lossy_jpeg_xl_of_8_bits_is_as_pillow_reads_it(tmp_path, white) -> None:
    array = np.random.default_rng(0).integers(0, white + 1, (64, 96, 3), np.uint8)
    path = tmp_path / "x.jxl"
    path.write_bytes(imagecodecs.jpegxl_encode(array, level=85))
    with Image.open(path) as image:
        expected = np.asarray(image)
    np.testing.assert_array_equal(np.rint(read_image(path)[0].permute(1, 2, 0).numpy() * 255), expected)


def test_frames_and_numbers_of_jpeg_xl(tmp_path) -> None:
    path, frames = tmp_path / "x.jxl", np.stack([values(16, 3, seed) for seed in range(3)])
    check(path, over_white(frames[0], 65535), content=imagecodecs.jpegxl_encode(frames, lossless=True))
    assert decode(path).notes == (FRAMES,)
    path.write_bytes(imagecodecs.jpegxl_encode(frames[0].astype(np.float32) / 65535, lossless=True))
    with pytest.raises(ImageFileError, match="floating-point values of 32 bits"):
        read_image(path)
    path.write_bytes(imagecodecs.jpegxl_encode(frames[0] >> 14, lossless=True, bitspersample=12))
    with pytest.raises(ImageFileError, match="too dark"):
        read_image(path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ImageFileError, match=r"its header is damaged \(JXL: [^.]+\)$"):
        read_image(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_xl_of_a_jpeg_is_shown_as_the_jpeg(tmp_path, orientation) -> None:
    jpeg, exif = tmp_path / "x.jpg", Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(values(8, 3)).save(jpeg, exif=exif)
    content = imagecodecs.jpegxl_encode_jpeg(jpeg.read_bytes())
    check(tmp_path / "x.jxl", read_image(jpeg)[0].permute(1, 2, 0).numpy(), content=content)


@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize("channels", [3, 4])
def test_heic(tmp_path, bits, channels, monkeypatch) -> None:
    import pillow_heif as heif

    monkeypatch.setattr(heif.options, "SAVE_HDR_TO_12_BIT", bits == 12)
    ramp = np.add.outer(np.arange(24), np.arange(32))[..., None] / 54
    array = np.rint(np.tile(ramp, channels) ** np.arange(1, channels + 1) * (2**bits - 1)).astype(np.uint16)
    deep = bits > 8
    content = ((array << (16 - bits)) if deep else array.astype(np.uint8)).tobytes()
    image = heif.from_bytes("RGBA"[:channels] + ";16" * deep, (32, 24), content)
    image.save(tmp_path / "x.heic", quality=-1, chroma=444)
    check(tmp_path / "x.heic", over_white(array, 2**bits - 1), 2.1 / (2**bits - 1))  # of YCbCr and back


@MANY
@given(peak=st.integers(1, 65535), channels=st.sampled_from([1, 3]), text=st.booleans(), comment=st.booleans(), seed=SEEDS)
def test_netpbm(tmp_path, peak, channels, text, comment, seed) -> None:
    array = np.random.default_rng(seed).integers(0, peak + 1, (HEIGHT, WIDTH, channels))
    kind = {(1, True): 2, (3, True): 3, (1, False): 5, (3, False): 6}[channels, text]
    note = "# made by hand\n" if comment else ""
    header = f"P{kind}\n{note}{WIDTH} {HEIGHT}\n{peak}\n".encode()
    body = " ".join(map(str, array.ravel())).encode() if text else array.astype(">u2" if peak > 255 else "u1").tobytes()
    check(tmp_path / "x.pnm", over_white(array, peak), content=header + body)


@pytest.mark.parametrize(
    ("suffix", "modes"),
    [
        (".jpg", ["L", "RGB", "CMYK"]),
        (".webp", ["L", "RGB", "RGBA"]),
        (".png", ["L", "RGB", "P"]),
        (".tif", ["L", "RGB", "P", "CMYK"]),
    ],
)
@pytest.mark.parametrize("orientation", [1, 3, 6, 8, 9])  # 9 is none
def test_pillows_numbers_turned_as_they_are_to_be_shown(tmp_path, suffix, modes, orientation) -> None:
    path, exif = tmp_path / f"x{suffix}", Image.Exif()
    exif[0x0112] = orientation
    for mode in modes:
        image = Image.fromarray(values(8, 4 if mode == "RGBA" else 3, orientation)).convert(mode)
        image.save(path)
        with Image.open(path) as upright:
            array = np.asarray(upright.convert(mode if mode == "RGBA" else "RGB"))
        expected = shown(over_white(array, 255), orientation)
        image.save(path, **({"tiffinfo": {0x0112: orientation}} if suffix == ".tif" else {"exif": exif}))
        check(path, expected)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize(
    "exif", [b"neither order of bytes", b"II*\0" + struct.pack("<IHHHI4sI", 8, 1, 0x0112, 2, 4, b"abc", 0)]
)
def test_an_orientation_that_is_none_changes_nothing(tmp_path, suffix, exif) -> None:
    image = Image.fromarray(values(8, 3))
    image.save(tmp_path / f"plain{suffix}")
    image.save(tmp_path / f"x{suffix}", exif=b"Exif\0\0" + exif)
    check(tmp_path / f"x{suffix}", read_image(tmp_path / f"plain{suffix}")[0].permute(1, 2, 0).numpy())


def test_opaque_alpha_and_a_stated_peak_change_nothing(tmp_path) -> None:
    array = np.dstack([values(8, 3, 1), np.full((HEIGHT, WIDTH), 255, np.uint8)])
    Image.fromarray(array).save(tmp_path / "x.png")
    picture = decode(tmp_path / "x.png", Reading(peak=1.0))
    assert picture.notes == ()
    assert np.array_equal(picture.colours, array[..., :3])


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif"])
def test_the_first_of_several_frames_is_taken(tmp_path, suffix) -> None:
    frames = [Image.new("L", (8, 8), level) for level in (0, 255)]
    lossless = {"lossless": True} if suffix == ".webp" else {}
    frames[0].save(tmp_path / f"x{suffix}", save_all=True, append_images=frames[1:], **lossless)
    assert decode(tmp_path / f"x{suffix}").notes == (FRAMES,)
    assert read_image(tmp_path / f"x{suffix}").max() == 0


def test_damage_that_libjpeg_only_warns_of_is_an_error(tmp_path) -> None:
    path = tmp_path / "x.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    content = path.read_bytes()
    middle = len(content) * 2 // 3
    path.write_bytes(content[:middle] + b"\xff\xd9" + content[middle + 2 :])  # the end, in the middle
    with pytest.raises(ImageFileError, match="cannot read"):
        read_image(path)


@pytest.mark.parametrize("kind", [0, 2, 3])
@pytest.mark.parametrize("at", [10, -6])
def test_damage_in_a_png(tmp_path, kind, at) -> None:
    content = bytearray(png(values(8, 3 if kind == 2 else 1), 8, kind, (b"PLTE", bytes(range(256)) * 3)))
    start = content.index(b"IDAT")
    content[start + 4 + at if at > 0 else at - 12] ^= 1  # in the pixels, and in the sum of the last of them
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(ImageFileError, match="IDAT"):
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


def test_a_limit_on_pixels_that_can_be_raised(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow's own does not count
    Image.new("L", (100, 50)).save(tmp_path / "x.png")
    with pytest.raises(ImageFileError, match=r"100 x 50 pixels are more than the limit of 4999.*--max-pixels 5000"):
        read_image(tmp_path / "x.png", max_pixels=4999)
    assert read_image(tmp_path / "x.png", max_pixels=5000).shape == (1, 3, 50, 100)


@pytest.mark.parametrize(("width", "height"), [(9, 3), (64, 40), (90, 160), (600, 400), (1, 9000), (300, 1000)])
@pytest.mark.parametrize("container", [False, True])
def test_a_jpeg_xl_above_the_limit_is_not_decoded(tmp_path, width, height, container) -> None:
    content = imagecodecs.jpegxl_encode(np.zeros((height, width), np.uint8), lossless=True, usecontainer=container, effort=1)
    (tmp_path / "x.jxl").write_bytes(content[: content.index(b"\xff\x0a") + 12])  # its header
    with pytest.raises(ImageFileError, match=f"{width} x {height} pixels are more than the limit"):
        read_image(tmp_path / "x.jxl", max_pixels=width * height - 1)


def _pcx() -> bytes:
    """Without the last byte of its palette."""
    stream = io.BytesIO()
    Image.fromarray(values(8, 3)).quantize(9).save(stream, "PCX")
    return stream.getvalue()[:-1]


def _raw_photograph() -> bytes:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as file:
        file.write(values(8, 3), photometric="rgb", subfiletype=1, subifds=1)
        file.write(values(12, 1).squeeze(), photometric="cfa")
    return stream.getvalue()


def _dds() -> bytes:
    """BC6H, of which the values are floating-point."""
    header = struct.pack("<4s7I44x", b"DDS ", 124, 0x1007, 8, 8, 64, 0, 1)
    return (
        header + struct.pack("<2I4s20x4I4x", 32, 4, b"DX10", 0x1000, 0, 0, 0) + struct.pack("<5I", 95, 3, 0, 1, 0) + bytes(64)
    )


def _fits() -> bytes:
    cards = ("SIMPLE  =                    T", "BITPIX  =                   16", "NAXIS   =                    2")
    sizes = (f"NAXIS1  = {WIDTH:20}", f"NAXIS2  = {HEIGHT:20}", "END")
    return "".join(card.ljust(80) for card in (*cards, *sizes)).ljust(2880).encode() + values(16, 1).astype(">i2").tobytes()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.sgi", lambda: struct.pack(">HBBHHHH498x", 474, 0, 2, 3, WIDTH, HEIGHT, 3) + bytes(9999), "SGI files of other"),
        ("x.fits", _fits, "FITS files of other"),
        ("x.dds", _dds, "DDS files of other"),
        ("x.nef", _raw_photograph, "its first page is a small copy"),
        ("x.pcx", _pcx, "truncated: its palette"),
        ("x.eps", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "convert it to PNG or TIFF"),
        ("x.jpg", lambda: imagecodecs.jpeg_encode(values(8, 3).astype(np.uint16) * 16, bitspersample=12), "handle 12-bit"),
        ("x.pam", lambda: b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 1\nMAXVAL 255\nENDHDR\n\0", "convert it to PNG or TIFF"),
        ("x.ppm", lambda: b"P3 1 1 300 7 8 301", "holds values from 7 to 301, outside 0 to the peak of 300"),
        ("x.ppm", lambda: b"P6 1 1 300 1234", "the file is truncated"),
        ("x.exr", lambda: b"v/1\x01" + bytes(99), "convert it to PNG or TIFF"),
        ("x.dng", lambda: b"II*\0" + bytes(99), "it holds no image"),
        ("x.png", lambda: b"", "the file is empty"),
        ("x.png", lambda: b"text", "not an image of a known format"),
        ("x.png", lambda: png(values(8, 3), 8, 2)[:-12], "the file is truncated"),
    ],
)
def test_what_cannot_be_read_without_loss_is_refused_and_counts_as_an_image(tmp_path, capfd, name, content, reason) -> None:
    (tmp_path / name).write_bytes(content())
    with pytest.raises(ImageFileError, match=reason):
        read_image(tmp_path / name)
    assert is_meant_as_image(name)
    assert capfd.readouterr().err == ""


def test_folders_and_other_things_are_no_images(tmp_path) -> None:
    (tmp_path / "x.png").mkdir()
    with pytest.raises(ImageFileError, match="it is a folder"):
        read_image(tmp_path / "x.png")
    with pytest.raises(ImageFileError, match="No such file"):
        preview(tmp_path / "absent.png", 9, Reading())
