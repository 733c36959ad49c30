"""MSDS-Auto: the parts that it is made of, how it chooses between them, and what must not mislead it."""

import io
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from torch.nn import functional as F

from msds_plugin import registry
from msds_plugin.auto import EPS, MSDSAuto
from msds_plugin.windows import as_windows


@pytest.fixture(scope="module")
def auto():
    return MSDSAuto()


@pytest.fixture(scope="module")
def photo(photographs):
    return photographs[0][..., :176, :176]


def picture(image):
    return Image.fromarray((image[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))


def tensor(image):
    return torch.from_numpy(np.asarray(image, np.float32) / 255).permute(2, 0, 1)[None].contiguous()


def coded(image, quality):
    file = io.BytesIO()
    picture(image).save(file, "JPEG", quality=quality)
    return tensor(Image.open(file))


def blurred(image, sigma):
    return tensor(picture(image).filter(ImageFilter.GaussianBlur(sigma)))


def test_identical_images_score_exactly_one(auto, photographs):
    for image in photographs:
        assert auto(image, image).item() == 1.0


def test_aligned_pairs_are_judged_by_the_hybrid(auto, photo):
    x = coded(photo, 20)
    found = auto.details(x, photo)
    assert found.regime == ["aligned"]
    assert found.displaced.item() == 0
    torch.testing.assert_close(found.score, registry.create("msds-hybrid")(x, photo), atol=1e-6, rtol=0)
    assert found.score.item() == auto(x, photo).item()


def test_displaced_pairs_are_judged_by_align(auto, photo):
    x = photo.roll((5, 9), (2, 3))
    found = auto.details(x, photo)
    assert found.regime == ["displaced"]
    align = registry.create("msds-align")(x, photo)
    torch.testing.assert_close(found.align, align, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.score, 1 - 1.5 * (1 - align), atol=1e-5, rtol=0)


def test_changes_of_aspect_are_judged_by_retarget(auto, photo):
    x = photo[..., :130]
    found = auto.details(x, photo)
    assert found.regime == ["retargeted"]
    retarget = registry.create("msds-retarget")(x, photo)
    torch.testing.assert_close(found.retarget, retarget, atol=1e-6, rtol=0)
    assert found.score <= retarget


def test_damage_counts_in_retargeted_images(auto, photo):
    clean, damaged = photo[..., :130], blurred(photo[..., :130], 3)
    assert auto(damaged, photo) < auto(clean, photo) - 0.02


def test_what_is_between_is_a_mean_on_the_logarithmic_scale(auto, photo):
    shifted = photo.roll(1, 3)
    for strength in torch.linspace(0, 1, 9):
        found = auto.details(torch.lerp(photo, shifted, strength), photo)
        if found.regime == ["between"]:
            hybrid, align = (torch.log1p(d / EPS) for d in (1 - found.hybrid, 1.5 * (1 - found.align)))
            wanted = 1 - EPS * torch.expm1(torch.lerp(hybrid, align, found.displaced))
            torch.testing.assert_close(found.score, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("sides", [(176, 176), (64, 64)])
@pytest.mark.parametrize("ladder", ["blur", "noise", "JPEG", "shift", "resize"])
def test_monotone_in_strength(auto, photo, ladder, sides):
    image = photo[..., : sides[0], : sides[1]]
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    ladders = {
        "blur": [blurred(image, sigma) for sigma in (0.7, 1.5, 3, 6)],
        "noise": [(image + sigma * noise).clamp(0, 1) for sigma in (0.01, 0.03, 0.1, 0.2)],
        "JPEG": [coded(image, quality) for quality in (80, 40, 15, 5)],
        "shift": [image.roll((pixels, pixels), (2, 3)) for pixels in (1, 4, 16)],
        "resize": [
            F.interpolate(image, scale_factor=1 / factor, mode="area") for factor in (1.25, 2, 4) if sides[0] / factor >= 64
        ],
    }
    scores = [1.0, *(auto(x, image).item() for x in ladders[ladder])]
    assert all(better > worse for better, worse in pairwise(scores)), scores


def test_continuous_in_the_size(auto, photo):
    widths = range(176, 156, -1)
    squeezed = [F.interpolate(photo, (176, width), mode="bicubic", antialias=True).clamp(0, 1) for width in widths]
    scores = [auto(x, photo).item() for x in squeezed]
    assert max(abs(a - b) for a, b in pairwise(scores)) < 0.02, scores
    assert scores[0] == 1
    assert scores[-1] < 0.95


@pytest.mark.parametrize("change", ["pixel", "frame", "mirror", "another"])
def test_never_above_both_of_its_parts(auto, photo, photographs, change):
    x = photo.clone()
    if change == "pixel":
        x[..., 100, 100] = 1
    elif change == "frame":
        x[..., :4], x[..., -4:] = 0, 0
    elif change == "mirror":
        x = tensor(ImageOps.mirror(picture(photo)))
    else:
        x = photographs[1][..., :176, :176]
    found = auto.details(x, photo)
    assert found.score <= torch.maximum(found.hybrid, found.align) + 1e-6


@pytest.mark.parametrize("shape", [(96, 96), (100, 96), (128, 96)])
def test_gradients_are_finite(auto, photo, shape):
    y = photo[..., :96, :96]
    x = photo[..., : shape[0], : shape[1]].clone().requires_grad_()
    auto(x, y).sum().backward()
    assert x.grad.isfinite().all()
    noisy = (y + 0.1 * torch.rand_like(y)).clamp(0, 1).requires_grad_()
    (1 - auto(noisy, y)).sum().backward()
    assert noisy.grad.isfinite().all()
    assert noisy.grad.abs().sum() > 0


def test_one_reference_for_many(auto, photo):
    many = torch.cat([coded(photo, 30), blurred(photo, 1), photo])
    scores = auto.compare(auto.represent(many), auto.represent(photo))
    torch.testing.assert_close(scores, auto(many, photo.expand(3, -1, -1, -1)), atol=1e-6, rtol=0)


def test_windows_and_tiles_give_the_same(auto, photo):
    x = coded(photo, 30)
    wanted = auto(x, photo)
    torch.testing.assert_close(auto(as_windows(x), as_windows(photo)), wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(MSDSAuto(tile=128)(x, photo), wanted, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_openvino_gives_the_same(auto, photo):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    fast = MSDSAuto(runtime="openvino")
    for x in (coded(photo, 30), photo.roll(7, 3), photo[..., :130]):
        torch.testing.assert_close(fast(x, photo), auto(x, photo), atol=1e-5, rtol=0)
