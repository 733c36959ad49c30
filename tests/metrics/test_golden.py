"""The values of the authors' implementation (see golden/README.md), and those that earlier versions of this package gave."""

import copy
import json
from pathlib import Path

import pytest
import torch

from msds_plugin import DeepSSIM, DeepSSIMLite, registry

VALUES = json.loads((Path(__file__).parents[1] / "golden/deepssim_reference.json").read_text())

#: Scores of (hats_jpeg8, hats) and (parrots_scale75, parrots) by version 0.2.0; AlexNet's of the seed 0.
BEFORE = {
    "msds-align": (0.8776003, 0.9427214),
    "msds-retarget": (0.9913784, 0.5571223),
    "msds-fast": (0.7635223, 0.7908731),
    "msds-lite-fast": (0.1808518, 0.1339647),
    "deepssim-fast": (0.6025738, 0.8341722),
    "deepssim-lite-fast": (0.3192483, 0.0785149),
    "deepssim": (0.9968151, 0.8349147),
    "deepssim-lite": (0.0, 0.0),
    "msds": (0.9975765, 0.7606753),
    "msds-lite": (0.0, 1e-07),
}


def pairs(network: str, quick: tuple[str, ...] | None = None):
    cases = [
        pytest.param(
            case,
            id=case["distorted"].removesuffix(".png"),
            marks=[] if quick is None or case["distorted"] in quick else [pytest.mark.slow],
        )
        for case in VALUES[network]["pairs"]
    ]
    return pytest.mark.parametrize("case", cases)


@pairs("vgg16_seed0", quick=("hats_jpeg8.png", "parrots_scale75.png"))
def test_vgg16(case, random_vgg16, golden):
    x, y = golden(case["distorted"]), golden(case["reference"])
    with torch.no_grad():
        a, b = (random_vgg16.represent(image) for image in (x, y))
        assert random_vgg16.compare(a, b).item() == pytest.approx(case["deepssim_float64"], abs=1e-5)
        loss = DeepSSIMLite(random_vgg16.backbone)(x, y).item()
    assert loss == pytest.approx(case["deepssim_lite_loss"], abs=1e-6)


@pairs("vgg16_seed0")
@pytest.mark.slow
def test_vgg16_with_saliency(case, random_vgg16, golden):
    x, y = golden(case["distorted"]), golden(case["reference"])
    maps = golden(case["distorted"], saliency=True), golden(case["reference"], saliency=True)
    assert random_vgg16(x, y, *maps).item() == pytest.approx(case["deepssim_saliency"], abs=1e-5)


@pairs("vgg16_seed0")
@pytest.mark.slow
def test_vgg16_in_float64(case, random_vgg16, golden):
    metric = copy.deepcopy(random_vgg16).double()
    score = metric(golden(case["distorted"]).double(), golden(case["reference"]).double()).item()
    assert score == pytest.approx(case["deepssim_float64"], abs=1e-7)


@pairs("alexnet_imagenet")
def test_alexnet(case, alexnet_file, golden):
    metric = DeepSSIM("alexnet", alexnet_file)
    x, y = golden(case["distorted"]), golden(case["reference"])
    assert metric(x, y).item() == pytest.approx(case["deepssim_float64"], abs=1e-5)
    assert DeepSSIMLite(metric.backbone)(x, y).item() == pytest.approx(case["deepssim_lite_loss_float64"], abs=1e-5)
    metric.double()
    assert metric(x.double(), y.double()).item() == pytest.approx(case["deepssim_float64"], abs=1e-7)
    loss = DeepSSIMLite(metric.backbone)(x.double(), y.double()).item()
    assert loss == pytest.approx(case["deepssim_lite_loss_float64"], abs=1e-7)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pairs("vgg16_seed0")
def test_vgg16_on_cuda(case, random_vgg16, golden):
    metric = copy.deepcopy(random_vgg16).cuda()
    score = metric(golden(case["distorted"]).cuda(), golden(case["reference"]).cuda()).item()
    assert score == pytest.approx(case["deepssim_float64"], abs=1e-5)


@pytest.mark.parametrize("name", BEFORE)
def test_scores_of_version_0_2(name, golden):
    options = {"backbone": "alexnet", "weights": None} if registry.get(name).takes_backbone else {}
    metric = registry.create(name, **options)
    names = [("hats_jpeg8", "hats"), ("parrots_scale75", "parrots")]
    for (x, y), score in zip(names, BEFORE[name], strict=True):
        with torch.no_grad():
            assert metric(golden(f"{x}.png"), golden(f"{y}.png")).item() == pytest.approx(score, abs=2e-6)


def test_the_copies_are_those_beside_the_checkout(shared):
    for copied in (Path(__file__).parents[1] / "golden").iterdir():
        original = next((shared / "golden").rglob(copied.name))
        if copied.name != "README.md":
            assert copied.read_bytes() == original.read_bytes()
