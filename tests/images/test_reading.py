"""What two files become before they are compared: colour profiles, cuts, luma, size; beside the published formulas."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageCms

from msds_plugin.adapters.images.colours import colour, luma, to_srgb, unit
from msds_plugin.adapters.images.large import LargeImage
from msds_plugin.adapters.images.pairs import Pair
from msds_plugin.adapters.images.read import ImageFileError, Notes, Picture, Reading, alike, decode, open_image, open_pair
from msds_plugin.adapters.images.read import to_tensor as pixels
from msds_plugin.adapters.scoring.arrays import _from_pil

HEIGHT, WIDTH = 23, 31
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
P3 = (b"cICP", bytes((12, 13, 0, 1)))


def values(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Writes an array to a file of this name, a PNG with a chunk of this name and content."""

    def save(name: str, array: np.ndarray, chunk: tuple[bytes, bytes] | None = None) -> Path:
        path = tmp_path / name
        Image.fromarray(array).save(path)
        if chunk is not None:
            content, body = path.read_bytes(), b"".join(chunk)
            packed = struct.pack(">I", len(chunk[1])) + body + struct.pack(">I", zlib.crc32(body))
            path.write_bytes(content[:33] + packed + content[33:])
        return path

    return save


@pytest.fixture
def in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every TIFF is large."""
    monkeypatch.setattr("msds_plugin.adapters.images.read.LARGE", 1)


def tensor(image: Picture | LargeImage) -> np.ndarray:
    """(H, W, 3)."""
    found = pixels(image) if isinstance(image, Picture) else image.read(0, 0, *image.size)
    return found[0].permute(1, 2, 0).numpy()


def p3_to_srgb(coded: np.ndarray) -> np.ndarray:
    """Display P3 in sRGB, by the definitions of both (CSS Color 4)."""
    to_xyz = np.array([[0.4865709, 0.2656677, 0.1982173], [0.2289746, 0.6917385, 0.0792869], [0.0, 0.0451134, 1.0439444]])
    from_xyz = np.array(
        [[3.2409699, -1.5373832, -0.4986108], [-0.9692436, 1.8759675, 0.0415551], [0.0556301, -0.2039770, 1.0569715]]
    )
    linear = np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4) @ to_xyz.T @ from_xyz.T
    linear = linear.clip(0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize(("dtype", "whole"), [(np.uint8, 1), (np.uint16, 257), (np.float32, 1 / 255)])
def test_profiles_are_converted_in_the_precision_of_the_file(save, dtype, whole) -> None:
    profile = decode(save("p3.png", values(), P3)).profile
    assert profile is not None
    found = to_srgb((values().astype(float) * whole).astype(dtype), profile)
    assert found.dtype == (np.uint8 if dtype == np.uint8 else np.float32)
    np.testing.assert_allclose(unit(found), p3_to_srgb(values() / 255), atol=0.7 / 255 if dtype == np.uint8 else 1e-3)


@pytest.mark.parametrize(
    ("chunk", "plain"),
    [
        ((b"cICP", bytes((1, 13, 0, 1))), True),
        (P3, False),
        ((b"gAMA", struct.pack(">I", 45455)), True),
        ((b"gAMA", struct.pack(">I", 100000)), False),
        ((b"sRGB", b"\0"), True),
        ((b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)), True),
        ((b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)), False),
        ((b"cHRM", bytes(32)), True),
    ],
)
def test_what_a_png_says_of_its_colours_counts_beside_a_plain_one(save, chunk, plain) -> None:
    x, y = save("x.png", values(), chunk), save("y.png", values())
    told: list[str] = []
    distorted, reference = open_pair(Pair(y, x), notes=Notes(told.append))
    assert bool(told) is not plain
    assert np.array_equal(tensor(distorted), tensor(reference)) is plain
    same, _ = open_pair(Pair(x, x))  # equal ones are compared as they are
    assert np.array_equal(tensor(same), tensor(decode(y)))


@pytest.mark.parametrize("codes", [(9, 16), (9, 18), (99, 13)])
@pytest.mark.parametrize("suffix", [".png", ".avif"])
def test_colours_that_have_no_place_in_srgb_are_refused_beside_it(tmp_path, save, codes, suffix) -> None:
    y, x = save("y.png", values()), tmp_path / "x.avif"
    if suffix == ".png":
        x = save("x.png", values(), (b"cICP", bytes((*codes, 0, 1))))
    else:
        content = imagecodecs.avif_encode(values(), level=100)
        start = content.index(b"colrnclx") + 8
        x.write_bytes(content[:start] + struct.pack(">HH", *codes) + content[start + 4 :])
    with pytest.raises(ValueError, match=rf"{codes[0]}/{codes[1]}.*cannot be converted to sRGB"):
        open_pair(Pair(y, x))
    assert np.array_equal(tensor(open_pair(Pair(x, x))[0]), tensor(decode(y))) or suffix == ".avif"  # but not beside its like


def test_profiles_of_other_colours_are_refused() -> None:
    for profile, reason in ((ImageCms.createProfile("LAB"), "is for"), (None, "cannot be used")):
        with pytest.raises(ValueError, match=f"profile {reason}"):
            to_srgb(values(), ImageCms.ImageCmsProfile(profile).tobytes() if profile else SRGB[:300])


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_a_profile_of_srgb_counts_as_none(tmp_path, save, suffix) -> None:
    notes = []
    Image.fromarray(values()).save(tmp_path / f"x{suffix}", icc_profile=SRGB)
    x, y = open_pair(Pair(save("y.png", values()), tmp_path / f"x{suffix}"), notes=Notes(notes.append))
    assert x.profile is y.profile is None
    assert not notes
    with Image.open(tmp_path / f"x{suffix}") as held:
        assert _from_pil(held).profile is None


def test_an_image_in_memory_has_the_gamma_of_its_file(save) -> None:
    path = save("x.png", values(), (b"gAMA", struct.pack(">I", 100000)))
    with Image.open(path) as held:
        assert _from_pil(held).profile == decode(path).profile is not None


# basicsr/utils/matlab_functions.py and basicsr/metrics/psnr_ssim.py, written out
def rgb2ycbcr_y(image: np.ndarray) -> np.ndarray:
    """``rgb2ycbcr(img, y_only=True)`` of an image in 0 to 1."""
    return (np.dot(image, [65.481, 128.553, 24.966]) + 16.0) / 255.0


def cropped(image: np.ndarray, scale: int, crop_border: int) -> np.ndarray:
    """``mod_crop``, and the border."""
    height, width = image.shape[0], image.shape[1]
    image = image[: height - height % scale, : width - width % scale, ...]
    return image[crop_border:-crop_border, crop_border:-crop_border, ...] if crop_border else image


@pytest.mark.usefixtures("in_windows")
@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("reading", [{"crop_border": 4}, {"mod_crop": 4, "crop_border": 2}, {"channel": "y", "mod_crop": 3}])
def test_cuts_and_luma_of_super_resolution(save, suffix, reading) -> None:
    x, y = (save(f"{seed}.{suffix}", values(seed)) for seed in (0, 1))
    found = open_pair(Pair(y, x), Reading(**reading))
    assert isinstance(found[0], LargeImage) == (suffix == "tif")
    for image, seed in zip(found, (0, 1), strict=True):
        expected = cropped(values(seed) / 255, reading.get("mod_crop", 1), reading.get("crop_border", 0))
        if reading.get("channel") == "y":
            expected = np.repeat(rgb2ycbcr_y(expected)[..., None], 3, 2)
        np.testing.assert_allclose(tensor(image), expected, atol=1e-6)


def test_luma_of_grey_and_of_other_profiles(save) -> None:
    grey = values()[..., :1]
    np.testing.assert_allclose(luma(grey), luma(grey.repeat(3, 2)), atol=1e-6)
    np.testing.assert_allclose(luma(np.array([[[0], [255]]], np.uint8)).ravel() * 255, [16, 235], atol=1e-4)
    distorted, _ = open_pair(Pair(save("y.png", values()), save("x.png", values(), P3)), Reading(channel="y"))
    np.testing.assert_allclose(tensor(distorted)[..., 0], rgb2ycbcr_y(p3_to_srgb(values() / 255)), atol=0.6 / 255)  # of sRGB


def imresize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """MATLAB's ``imresize`` (bicubic, antialiased) of an image in 0 to 1; borders by renormalised weights, as in Pillow."""
    for axis, length in enumerate((height, width)):
        scale = length / image.shape[axis]
        centres, wide = (np.arange(length) + 0.5) / scale - 0.5, max(1 / scale, 1)
        t = np.abs(centres[:, None] - np.arange(image.shape[axis])) / wide
        weights = np.where(t <= 1, 1.5 * t**3 - 2.5 * t**2 + 1, np.where(t < 2, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2, 0))
        image = np.moveaxis(np.tensordot(weights / weights.sum(1, keepdims=True), image, (1, axis)), 0, axis)
    return image


@pytest.mark.parametrize("size", [(46, 62), (12, 10)])
def test_resizing_to_the_reference(save, size, monkeypatch) -> None:
    y, reading = save("y.png", values(1, *size)), Reading(resize=True, crop_border=2)
    distorted, reference = open_pair(Pair(y, save("x.png", values())), reading)
    assert distorted.size == reference.size == (size[0] - 4, size[1] - 4)
    expected = np.rint(imresize(values() / 255, *size).clip(0, 1) * 255)[2:-2, 2:-2] / 255
    np.testing.assert_allclose(tensor(distorted), expected, atol=1.01 / 255)  # another neighbour where it is in the middle
    assert np.isclose(tensor(distorted), expected, atol=1e-6).mean() > 0.99
    monkeypatch.setattr("msds_plugin.adapters.images.read.LARGE", 1)
    with pytest.raises(ImageFileError, match="cannot resize"):
        open_pair(Pair(y, save("x.tif", values())), reading)


@pytest.mark.usefixtures("in_windows")
@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("half", ["left", "right"])
def test_files_that_hold_both_images(save, suffix, half) -> None:
    path = save(f"x.{suffix}", np.concatenate([values(0), values(1)], 1))
    distorted, reference = map(tensor, open_pair(Pair(path, path, half=half)))
    left, right = (reference, distorted) if half == "left" else (distorted, reference)
    np.testing.assert_allclose(left, values(0) / 255, atol=1e-6)
    np.testing.assert_allclose(right, values(1) / 255, atol=1e-6)
    path = save(f"x.{suffix}", values())
    with pytest.raises(ImageFileError, match="into halves: it is 31 pixels wide"):
        open_pair(Pair(path, path, half=half))


@pytest.mark.usefixtures("in_windows")
def test_sizes_that_differ_by_a_few_pixels(save) -> None:
    large, small = open_image(save("x.tif", values())), Picture(values(1, HEIGHT + 8, WIDTH - 8))
    x, y = alike(large, small)
    assert x.size == y.size == (HEIGHT, WIDTH - 8)
    assert np.array_equal(tensor(x), values()[:, : WIDTH - 8] / np.float32(255))
    assert np.array_equal(tensor(y), values(1, HEIGHT + 8, WIDTH - 8)[:HEIGHT] / np.float32(255))
    with pytest.raises(ValueError, match=r"its size is 31 x 23, that of its reference 31 x 32: .*--resize"):
        alike(large, Picture(values(1, HEIGHT + 9)))


@pytest.mark.parametrize(
    "options",
    [{"peak": 0}, {"background": (0, 0, 256)}, {"max_pixels": 0}, {"crop_border": -1}, {"mod_crop": 0}, {"channel": "g"}],
)
def test_what_is_refused(save, options) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Reading(**options)
    with pytest.raises(ValueError, match="nocolour"):
        colour("nocolour")
    with pytest.raises(ImageFileError, match=r"12 pixels off each side of .*, which has 31 x 23"):
        open_image(save("x.png", values()), Reading(crop_border=12))
    with pytest.raises(ImageFileError, match="to multiples of 24 pixels: it has 31 x 23"):
        open_image(save("x.png", values()), Reading(mod_crop=24))
