"""msds-hybrid with its real network, through every door."""

import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from msds_plugin import MSDS, build_backbone, registry
from msds_plugin.hybrid import MDSI, HaarPSI, msds_hybrid


@pytest.fixture(scope="module")
def metric() -> torch.nn.Module:
    return registry.create("msds-hybrid").eval()


def to_pil(image: Tensor) -> Image.Image:
    return Image.fromarray((image[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))


def from_pil(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 255).permute(2, 0, 1)[None]


def coded(image: Tensor, kind: str, **options: object) -> Tensor:
    file = io.BytesIO()
    to_pil(image).save(file, kind, **options)
    return from_pil(Image.open(file))


def test_is_what_it_says(metric, pair):
    x, y = pair
    network = build_backbone("efficientnet_lite0", ["stage1", "stage2", "stage3"])
    dims = (1, 2, 3)
    by_place = [
        (a - b).square().sum(dims) / (a.square().sum(dims) + b.square().sum(dims))
        for a, b in zip(network(x), network(y), strict=True)
    ]
    deep = (1 - MSDS(backbone=network)(x, y) + torch.stack(by_place).mean(0)) / 2
    found = torch.stack([deep, deep, 1 - HaarPSI()(x, y), MDSI()(x, y) ** 4])
    torch.testing.assert_close(metric(x, y), 1 - ((found + 1e-3).log().mean(0).exp() - 1e-3))


def test_identical_images_score_exactly_one(metric, photographs):
    for image in photographs[:1]:
        assert metric(image, image).item() == 1
        assert metric.double()(image.double(), image.double()).item() == 1
        metric.float()


def test_cheaper_than_msds_fast(metric):
    x, y = torch.rand(2, 1, 3, 96, 128)
    counts = []
    for each in (metric, registry.create("msds-fast")):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            each(x, y)
        counts.append(counter.get_total_flops())
    assert counts[0] < 0.8 * counts[1]


def test_nearly_symmetric(metric, pair):
    x, y = pair
    torch.testing.assert_close(metric(x, y), metric(y, x), rtol=0, atol=0.02)


def noisy(image: Tensor, strength: float) -> Tensor:
    return (image + strength * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)


RISING = {
    "blur": [lambda y, s=s: F.avg_pool2d(F.pad(y, (s, s, s, s), mode="replicate"), 2 * s + 1, 1) for s in (1, 2, 4, 8)],
    "noise": [lambda y, s=s: noisy(y, s) for s in (0.01, 0.03, 0.1, 0.3, 0.6)],
    "JPEG": [lambda y, q=q: coded(y, "JPEG", quality=q) for q in (95, 80, 50, 20, 8)],
    "JPEG 2000": [lambda y, r=r: coded(y, "JPEG2000", quality_mode="rates", quality_layers=[r]) for r in (4, 12, 30, 80)],
    "WebP": [lambda y, q=q: coded(y, "WEBP", quality=q) for q in (95, 75, 40, 10, 0)],
    "AVIF": [lambda y, q=q: coded(y, "AVIF", quality=q) for q in (95, 75, 45, 20, 5)],
    "quantisation": [lambda y, n=n: (y * (n - 1)).round() / (n - 1) for n in (64, 24, 10, 5, 3)],
    "contrast": [lambda y, c=c: (y - y.mean()) * c + y.mean() for c in (0.9, 0.7, 0.5, 0.3, 0.1)],
    "saturation": [lambda y, c=c: y.mean(1, keepdim=True) + c * (y - y.mean(1, keepdim=True)) for c in (0.9, 0.7, 0.5, 0.2, 0)],
    "tint": [lambda y, t=t: (y + torch.tensor([t, 0, -t]).view(1, 3, 1, 1)).clamp(0, 1) for t in (0.02, 0.05, 0.1, 0.2)],
}  # fmt: skip


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow) if kind in ("AVIF", "JPEG 2000", "WebP") else kind for kind in RISING]
)
def test_orders_distortions_by_strength(metric, several_photographs, kind):
    for y in several_photographs:
        try:
            images = torch.cat([y, *(change(y) for change in RISING[kind])])
        except (KeyError, OSError) as error:
            pytest.skip(f"Pillow was built without this codec: {error}")
        with torch.inference_mode():
            scores = metric(images, y.expand_as(images)).tolist()
        assert scores[0] == 1
        assert scores == sorted(scores, reverse=True), (kind, scores)
        assert len(set(scores)) == len(scores)


@pytest.mark.slow
def test_rises_along_all_jpeg_qualities(metric, kodak):
    for y in kodak:
        images = torch.cat([coded(y, "JPEG", quality=quality) for quality in range(1, 101)])
        with torch.inference_mode():
            scores = torch.cat([metric(part, y.expand_as(part)) for part in images.split(10)])
        assert scores.diff().min() > -2e-4, scores.diff().min()  # a tie: qualities 1 and 2 are nearly the same file
        assert spearmanr(range(100), scores).statistic > 0.999


def test_steps_along_the_gradient_bring_an_image_closer(metric, pair):
    x, y = (image[:1] for image in pair)
    image = x.clone().requires_grad_()
    optimiser = torch.optim.Adam([image], lr=0.005)
    before = metric(x, y).item()
    for _ in range(8):
        optimiser.zero_grad()
        (1 - metric(image, y)).sum().backward()
        optimiser.step()
    assert metric(image.detach().clamp(0, 1), y).item() > before + 0.01


def test_tiles(metric, photographs):
    y = photographs[0]
    x = coded(y, "JPEG", quality=20)
    torch.testing.assert_close(msds_hybrid(tile=128)(x, y), metric(x, y), rtol=0, atol=2e-5)


@pytest.mark.shared
@pytest.mark.parametrize(("name", "opinion", "least"), [("live_gblur", "dmos", 0.97)])
@pytest.mark.slow
def test_agrees_with_opinions(metric, shared, name, opinion, least):
    folder = shared / "data" / name
    table = pd.read_csv(folder / "labels.csv")
    kept = {}
    scores = []
    with torch.inference_mode():
        for reference, distorted in zip(table.iloc[:, 0], table.iloc[:, 1], strict=True):
            files = [folder / "images" / file for file in (distorted, reference)]
            if reference not in kept:
                kept[reference] = metric.represent(from_pil(Image.open(files[1])))
            scores.append(metric.compare(metric.represent(from_pil(Image.open(files[0]))), kept[reference]).item())
    assert abs(spearmanr(scores, table[opinion]).statistic) > least
