"""MSDS-Auto: the parts that it is made of, how it chooses between them, and what must not mislead it."""

import io
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter, features
from torch.nn import functional as F

from msds_plugin import MSDS, build_backbone, registry
from msds_plugin.adapters.research.distortions import DEFORMATIONS, DISTORTIONS, inner
from msds_plugin.auto import EPS, MSDSAuto
from msds_plugin.functional import energy_dissimilarity
from msds_plugin.hybrid import MDSI, HaarPSI
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


def coded(image, quality, kind="JPEG", option="quality"):
    file = io.BytesIO()
    picture(image).save(file, kind, **{option: quality})
    return tensor(Image.open(file).convert("RGB"))


def blurred(image, sigma):
    return tensor(picture(image).filter(ImageFilter.GaussianBlur(sigma)))


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
    network = build_backbone("efficientnet_lite0", ["stage1", "stage2", "stage3"])
    shifted = photo.roll(1, 3)
    for strength in torch.linspace(0, 1, 9):
        x = torch.lerp(photo, shifted, strength)
        found = auto.details(x, photo)
        if found.regime == ["between"]:
            whole = 1 - MSDS(backbone=network)(x, photo)
            place = torch.stack([energy_dissimilarity(*each) for each in zip(network(x), network(photo), strict=True)]).mean(0)
            deep = torch.lerp(whole, place, (1 - found.displaced) / 2)
            parts = (deep, deep, 1 - HaarPSI()(x, photo), MDSI()(x, photo) ** 4)
            hybrid = torch.stack([torch.log1p(part / EPS) for part in parts]).mean(0)
            align = torch.log1p(1.5 * (1 - found.align) / EPS)
            wanted = 1 - EPS * torch.expm1(torch.lerp(hybrid, align, found.displaced))
            torch.testing.assert_close(found.score, wanted, atol=1e-5, rtol=0)


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


def encoder(kind, option="quality"):
    return lambda image, level: (coded(image, level, kind, option), image)


def changed(name):
    change = {**DISTORTIONS, **DEFORMATIONS}[name]

    def apply(image, strength):
        photo = np.asarray(picture(image))
        return tensor(change(photo, strength)), image if name in DISTORTIONS else tensor(inner(photo))

    return apply


def smaller(image, factor):
    side = round(image.shape[-1] / factor)
    return tensor(picture(image).resize((side, side), Image.Resampling.BICUBIC)), image


#: Strengths from mild to strong, and what makes of an image the distorted one and its reference.
LADDERS = {
    "JPEG": ((90, 70, 50, 30, 10), encoder("JPEG")),
    "JPEG 2000": (([5], [10], [20], [40], [80]), encoder("JPEG2000", "quality_layers")),
    "WebP": ((95, 60, 20, 0), encoder("WEBP")),
    "AVIF": ((90, 60, 30, 0), encoder("AVIF")),
    "blur": ((0.4, 0.7, 1.4, 2.8, 5.6), changed("blur")),
    "noise": ((1, 5, 20, 60), changed("noise")),
    "resize": ((1.1, 1.25, 1.5, 2, 3, 4), smaller),
    "shift": ((1, 2, 3), changed("offset")),  # farther ones score alike
    "rotation": ((0.1, 0.25, 0.5, 1, 2, 3), changed("rotation")),
    "zoom": ((0.25, 0.5, 1, 2, 5), changed("zoom")),
    "elastic": ((0.05, 0.1, 0.2, 0.4), changed("elastic")),
    "view": ((0.1, 0.25, 1, 5), changed("perspective")),  # between 1 and 3 % it hardly changes
}


@pytest.mark.slow
@pytest.mark.parametrize("ladder", LADDERS)
def test_monotone_on_photographs(auto, kodak, ladder):
    if ladder == "AVIF" and not features.check("avif"):
        pytest.skip("Pillow was built without AVIF")
    strengths, apply = LADDERS[ladder]
    for image in kodak:
        scores = [1.0, *(auto(*apply(image, each)).item() for each in strengths)]
        assert all(better > worse for better, worse in pairwise(scores)), scores


def test_continuous_in_the_size(auto, photo):
    widths = range(176, 156, -1)
    squeezed = [F.interpolate(photo, (176, width), mode="bicubic", antialias=True).clamp(0, 1) for width in widths]
    scores = [auto(x, photo).item() for x in squeezed]
    assert max(abs(a - b) for a, b in pairwise(scores)) < 0.02, scores
    assert scores[0] == 1
    assert scores[-1] < 0.95


def framed(photo, _):
    return F.pad(photo[..., 4:-4, 4:-4], (4, 4, 4, 4))


def with_pixel(photo, _):
    return photo.index_put(tuple(torch.tensor(place) for place in ([0], [0, 1, 2], [50], [50])), torch.tensor(1.0))


def with_text(photo, _):
    image = picture(photo)
    ImageDraw.Draw(image).text((20, 40), "a line of text", (255, 255, 255))
    return tensor(image)


MISLEADING = {
    "one bright pixel": with_pixel,
    "frame": framed,
    "text": with_text,
    "mirrored": lambda photo, _: photo.flip(3),
    "another photograph": lambda _, other: other,
}


@pytest.mark.parametrize("change", MISLEADING)
def test_never_above_both_of_its_parts(auto, several_photographs, change):
    others = [*several_photographs[1:], several_photographs[0]]
    x = torch.cat([MISLEADING[change](*each) for each in zip(several_photographs, others, strict=True)])
    with torch.no_grad():
        found = auto.details(x, torch.cat(several_photographs))
    assert (found.score <= torch.maximum(found.hybrid, found.align) + 1e-6).all()
    assert (found.score < 1).all()


def test_continuous_where_content_begins_to_move(auto, photo):
    y = photo[..., :128, :128]
    strengths = torch.linspace(0, 1, 41).view(-1, 1, 1, 1)
    with torch.no_grad():
        found = auto.details(torch.lerp(y, y.roll(2, 3), strengths), y.expand(41, -1, -1, -1))
    assert {"aligned", "between"} <= set(found.regime)
    steps = torch.stack([found.score, found.hybrid, found.align]).diff().abs()
    assert (steps[0] <= 2 * steps[1:].amax(0) + 0.01).all(), steps


def lit(image):
    image[..., 40, 40] = 1
    return image


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (torch.full((1, 3, 72, 72), 0.5), torch.full((1, 3, 72, 72), 0.5)),
        (torch.zeros(1, 3, 72, 72), torch.ones(1, 3, 72, 72)),
        (lit(torch.zeros(1, 3, 72, 72)), torch.zeros(1, 3, 72, 72)),
        (torch.zeros(1, 3, 72, 72), lit(torch.zeros(1, 3, 72, 72))),
        (torch.rand(1, 3, 64, 400), torch.rand(1, 3, 64, 400)),
        (torch.rand(1, 3, 64, 300), torch.rand(1, 3, 300, 64)),
    ],
    ids=["flat", "black beside white", "bright pixel", "no bright pixel", "long", "long, turned"],
)
def test_unusual_images(auto, x, y):
    assert auto(y, y.clone()).item() == 1
    x = x.clone().requires_grad_()
    score = auto(x, y)
    score.sum().backward()
    assert score.isfinite().all()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(96, 96), (100, 96), (128, 96)])
def test_gradients_are_finite_and_of_use(auto, photo, shape):
    y = photo[..., :96, :96]
    x = photo[..., : shape[0], : shape[1]].clone().requires_grad_()
    auto(x, y).sum().backward()
    assert x.grad.isfinite().all()
    noisy = (y + 0.1 * torch.rand_like(y)).clamp(0, 1).requires_grad_()
    (1 - auto(noisy, y)).sum().backward()
    assert noisy.grad.isfinite().all()
    assert noisy.grad.abs().sum() > 0


@pytest.mark.parametrize("sides", [(172, 173), (130, 130), (176, 130)], ids=["few", "resized", "retargeted"])
def test_representations_in_half_precision(auto, photo, sides):
    x = photo[..., : sides[0], : sides[1]]
    a, b = (auto.represent(image).to(torch.bfloat16) for image in (x, photo))
    torch.testing.assert_close(auto.compare(a, b), auto(x, photo), atol=0.05, rtol=0)


def test_windows_and_tiles_give_the_same(auto, photo):
    x = coded(photo, 30)
    wanted = auto(x, photo)
    torch.testing.assert_close(auto(as_windows(x), as_windows(photo)), wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(MSDSAuto(tile=128)(x, photo), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "change", [(-4, 3), (-0.2, -0.2), (0.3, 0.3), (-0.25, -0.2)], ids=["few", "smaller", "larger", "between"]
)
def test_windows_of_another_size_give_the_same(auto, photo, change):
    sides = [side + round(by if abs(by) >= 1 else by * side) for side, by in zip(photo.shape[-2:], change, strict=True)]
    x = F.interpolate(coded(photo, 30), sides, mode="bicubic", antialias=True).clamp(0, 1)
    wanted = auto(x, photo)
    for first, second in ((as_windows(x), as_windows(photo)), (as_windows(x), photo), (x, as_windows(photo))):
        torch.testing.assert_close(auto(first, second), wanted, atol=2e-5, rtol=0)


def test_its_map_is_that_of_its_part_on_gram_matrices(auto, photo):
    x, part = coded(photo, 30), registry.create("msds-fast")
    torch.testing.assert_close(auto.map(x, photo), part.map(x, photo))
    torch.testing.assert_close(auto.map(x, photo).sum(), 1 - part(x, photo)[0], atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="differ in size"):
        auto.map(x[..., :130], photo)


@pytest.mark.slow
def test_openvino_gives_the_same(auto, photo):
    fast = MSDSAuto(runtime="openvino")
    for x in (coded(photo, 30), photo.roll(7, 3), photo[..., :130]):
        torch.testing.assert_close(fast(x, photo), auto(x, photo), atol=1e-5, rtol=0)
    torch.testing.assert_close(fast.map(photo.roll(7, 3).double(), photo.double()), auto.map(photo.roll(7, 3), photo))
