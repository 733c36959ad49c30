"""What two files become before they are compared: colour profiles, cuts, luma, size; beside the published formulas."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms

from msds_plugin.adapters.images import large as large_images
from msds_plugin.adapters.images.colours import colour, luma, to_srgb, unit
from msds_plugin.adapters.images.large import LargeImage
from msds_plugin.adapters.images.notes import Notes
from msds_plugin.adapters.images.pairs import Pair
from msds_plugin.adapters.images.read import ImageFileError, Picture, Reading, alike, decode, open_image, open_pair, to_tensor

HEIGHT, WIDTH = 23, 31
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def values(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, array: np.ndarray, **options) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def with_chunk(path: Path, name: bytes, body: bytes) -> Path:
    content = path.read_bytes()
    chunk = struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    path.write_bytes(content[:33] + chunk + content[33:])
    return path


def tensor(image: Picture | LargeImage) -> np.ndarray:
    """(H, W, 3)."""
    found = to_tensor(image) if isinstance(image, Picture) else image.read(0, 0, *image.size)
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


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_profiles_are_converted_in_the_precision_of_the_file(tmp_path, dtype) -> None:
    path = with_chunk(save(tmp_path / "p3.png", values()), b"cICP", bytes((12, 13, 0, 1)))
    profile = decode(path).profile
    assert profile is not None
    whole = {np.uint8: 1, np.uint16: 257, np.float32: 1 / 255}[dtype]
    found = to_srgb((values().astype(float) * whole).astype(dtype), profile)
    assert found.dtype == (np.uint8 if dtype == np.uint8 else np.float32)
    np.testing.assert_allclose(unit(found), p3_to_srgb(values() / 255), atol=0.7 / 255 if dtype == np.uint8 else 1e-3)


@pytest.mark.parametrize(
    ("name", "body", "plain"),
    [
        (b"cICP", bytes((1, 13, 0, 1)), True),
        (b"cICP", bytes((12, 13, 0, 1)), False),
        (b"gAMA", struct.pack(">I", 45455), True),
        (b"gAMA", struct.pack(">I", 100000), False),
        (b"sRGB", b"\0", True),
        (b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000), True),
        (b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000), False),
        (b"cHRM", bytes(32), True),
        (b"iCCP", b"x\0\0" + zlib.compress(SRGB), False),
    ],
)
def test_what_a_png_says_of_its_colours_counts_beside_a_plain_one(tmp_path, name, body, plain) -> None:
    x, y = with_chunk(save(tmp_path / "x.png", values()), name, body), save(tmp_path / "y.png", values())
    told: list[str] = []
    distorted, reference = open_pair(Pair(y, x), note=told.append)
    assert bool(told) is not plain
    assert np.array_equal(tensor(distorted), tensor(reference)) is (plain or name == b"iCCP")  # the profile is that of sRGB
    same, _ = open_pair(Pair(x, x), note=told.append)  # equal ones are compared as they are
    assert np.array_equal(tensor(same), tensor(decode(y)))


@pytest.mark.parametrize("codes", [(9, 16), (9, 18), (99, 13)])
@pytest.mark.parametrize("suffix", [".png", ".avif"])
def test_colours_that_have_no_place_in_srgb_are_refused_beside_it(tmp_path, codes, suffix) -> None:
    y = save(tmp_path / "y.png", values())
    if suffix == ".png":
        x = with_chunk(save(tmp_path / "x.png", values()), b"cICP", bytes((*codes, 0, 1)))
    else:
        x, content = tmp_path / "x.avif", imagecodecs.avif_encode(values(), level=100)
        start = content.index(b"colrnclx") + 8
        x.write_bytes(content[:start] + struct.pack(">HH", *codes) + content[start + 4 :])
    with pytest.raises(ValueError, match=rf"{codes[0]}/{codes[1]}.*cannot be converted to sRGB"):
        open_pair(Pair(y, x), note=lambda text: None)
    assert np.array_equal(tensor(open_pair(Pair(x, x))[0]), tensor(decode(y))) or suffix == ".avif"  # but not beside its like


def test_profiles_of_other_colours_are_refused() -> None:
    with pytest.raises(ValueError, match="profile is for"):
        to_srgb(values(), ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes())
    with pytest.raises(ValueError, match="cannot be used"):
        to_srgb(values(), SRGB[:300])
    for array in (values(), values().astype(np.uint16) * 257, values().astype(np.float32) / 255):
        assert to_srgb(array, SRGB) is array  # it is sRGB


def test_notes_are_told_once(tmp_path) -> None:
    paths = [save(tmp_path / f"{i}.png", np.zeros((4, 4, 4), np.uint8)) for i in range(3)]
    told: list[str] = []
    notes = Notes(told.append)
    for path in paths:
        open_pair(Pair(paths[0], path), note=notes)
    assert len(told) == 1
    assert "transparent" in told[0]


# basicsr/utils/matlab_functions.py and basicsr/metrics/psnr_ssim.py, written out
def rgb2ycbcr_y(image: np.ndarray) -> np.ndarray:
    """``rgb2ycbcr(img, y_only=True)`` of an image in 0 to 1."""
    return (np.dot(image, [65.481, 128.553, 24.966]) + 16.0) / 255.0


def cropped(image: np.ndarray, crop_border: int) -> np.ndarray:
    return image[crop_border:-crop_border, crop_border:-crop_border, ...] if crop_border else image


def mod_cropped(image: np.ndarray, scale: int) -> np.ndarray:
    """``mod_crop``."""
    height, width = image.shape[0], image.shape[1]
    return image[: height - height % scale, : width - width % scale, ...]


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("reading", [{"crop_border": 4}, {"mod_crop": 4, "crop_border": 2}, {"channel": "y", "mod_crop": 3}])
def test_cuts_and_luma_of_super_resolution(tmp_path, monkeypatch, suffix, reading) -> None:
    monkeypatch.setattr(large_images, "LARGE", 1)  # TIFFs in windows
    x, y = (save(tmp_path / f"{seed}.{suffix}", values(seed)) for seed in (0, 1))
    found = open_pair(Pair(y, x), Reading(**reading))
    assert isinstance(found[0], LargeImage) == (suffix == "tif")
    for image, seed in zip(found, (0, 1), strict=True):
        expected = cropped(mod_cropped(values(seed) / 255, reading.get("mod_crop", 1)), reading.get("crop_border", 0))
        if reading.get("channel") == "y":
            expected = np.repeat(rgb2ycbcr_y(expected)[..., None], 3, 2)
        np.testing.assert_allclose(tensor(image), expected, atol=1e-6)


def test_luma_of_grey_and_its_range() -> None:
    grey = values()[..., :1]
    np.testing.assert_allclose(luma(grey), luma(grey.repeat(3, 2)), atol=1e-6)
    np.testing.assert_allclose(luma(np.array([[[0], [255]]], np.uint8)).ravel() * 255, [16, 235], atol=1e-4)


def test_luma_is_of_srgb_where_profiles_differ(tmp_path) -> None:
    x = with_chunk(save(tmp_path / "x.png", values()), b"cICP", bytes((12, 13, 0, 1)))
    distorted, _ = open_pair(Pair(save(tmp_path / "y.png", values()), x), Reading(channel="y"), lambda text: None)
    np.testing.assert_allclose(tensor(distorted)[..., 0], rgb2ycbcr_y(p3_to_srgb(values() / 255)), atol=0.6 / 255)


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
def test_resizing_to_the_reference(tmp_path, size) -> None:
    x, y = save(tmp_path / "x.png", values()), save(tmp_path / "y.png", values(1, *size))
    distorted, reference = open_pair(Pair(y, x), Reading(resize=True, crop_border=2))
    assert distorted.size == reference.size == (size[0] - 4, size[1] - 4)
    expected = np.rint(imresize(values() / 255, *size).clip(0, 1) * 255)[2:-2, 2:-2] / 255
    np.testing.assert_allclose(tensor(distorted), expected, atol=1.01 / 255)  # another neighbour where it is in the middle
    assert np.isclose(tensor(distorted), expected, atol=1e-6).mean() > 0.99


def test_a_large_tiff_is_not_resized(tmp_path, monkeypatch) -> None:
    x, y = save(tmp_path / "x.tif", values()), save(tmp_path / "y.png", values(1, 40, 40))
    monkeypatch.setattr(large_images, "LARGE", 1)
    with pytest.raises(ImageFileError, match="cannot resize"):
        open_pair(Pair(y, x), Reading(resize=True))


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("half", ["left", "right"])
def test_files_that_hold_both_images(tmp_path, monkeypatch, suffix, half) -> None:
    monkeypatch.setattr(large_images, "LARGE", 1)
    path = save(tmp_path / f"x.{suffix}", np.concatenate([values(0), values(1)], 1))
    distorted, reference = map(tensor, open_pair(Pair(path, path, half=half)))
    left, right = (reference, distorted) if half == "left" else (distorted, reference)
    np.testing.assert_allclose(left, values(0) / 255, atol=1e-6)
    np.testing.assert_allclose(right, values(1) / 255, atol=1e-6)
    save(path, values())
    with pytest.raises(ImageFileError, match="into halves: it is 31 pixels wide"):
        open_pair(Pair(path, path, half=half))


def test_sizes_that_differ_by_a_few_pixels(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(large_images, "LARGE", 1)
    large = open_image(save(tmp_path / "x.tif", values()))
    small = Picture(values(1, HEIGHT + 8, WIDTH - 8))
    x, y = alike(large, small)
    assert x.size == y.size == (HEIGHT, WIDTH - 8)
    assert np.array_equal(tensor(x), torch.from_numpy(values())[:, : WIDTH - 8].numpy() / np.float32(255))
    assert np.array_equal(tensor(y), values(1, HEIGHT + 8, WIDTH - 8)[:HEIGHT] / np.float32(255))
    with pytest.raises(ValueError, match=r"its size is 31 x 23, that of its reference 31 x 32: .*--resize"):
        alike(large, Picture(values(1, HEIGHT + 9)))


@pytest.mark.parametrize(
    "options",
    [{"peak": 0}, {"background": (0, 0, 256)}, {"max_pixels": 0}, {"crop_border": -1}, {"mod_crop": 0}, {"channel": "g"}],
)
def test_readings_that_are_refused(options) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Reading(**options)


def test_a_border_that_leaves_nothing(tmp_path) -> None:
    with pytest.raises(ImageFileError, match="31 x 23 pixels are left"):
        open_image(save(tmp_path / "x.png", values()), Reading(crop_border=12))


def test_colours_by_name() -> None:
    assert colour("white") == (255, 255, 255)
    with pytest.raises(ValueError, match="nocolour"):
        colour("nocolour")


def test_16_bits_stay(tmp_path) -> None:
    array = np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH, 3)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", array, photometric="rgb")
    assert np.array_equal(decode(tmp_path / "x.tif").colours, array)
