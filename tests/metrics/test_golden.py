"""The values of the authors' implementation; see golden/README.md."""

import copy
import functools
import json
from pathlib import Path

import pytest
import torch

from msds_plugin import DeepSSIM, DeepSSIMLite

VALUES = json.loads((Path(__file__).parents[1] / "golden/deepssim_reference.json").read_text())


def pairs(network: str):
    cases = VALUES[network]["pairs"]
    return pytest.mark.parametrize("case", cases, ids=[case["distorted"].removesuffix(".png") for case in cases])


@pytest.fixture(scope="module")
def score_in_float64(random_vgg16, golden):
    """The score of two images by name; each is represented once, because that is slow in float64."""
    metric = copy.deepcopy(random_vgg16).double()
    represent = functools.cache(lambda name: metric.represent(golden(name).double()))
    return lambda x, y: metric.compare(represent(x), represent(y)).item()


@pytest.fixture(scope="module")
def alexnet(alexnet_file):
    return DeepSSIM("alexnet", alexnet_file)


@pytest.fixture(scope="module")
def alexnet_float64(alexnet_file):
    return DeepSSIM("alexnet", alexnet_file).double()


@pairs("vgg16_seed0")
def test_vgg16(case, random_vgg16, golden):
    score = random_vgg16(golden(case["distorted"]), golden(case["reference"])).item()
    assert score == pytest.approx(case["deepssim_float64"], abs=1e-5)


@pairs("vgg16_seed0")
def test_vgg16_in_float64(case, score_in_float64):
    assert score_in_float64(case["distorted"], case["reference"]) == pytest.approx(case["deepssim_float64"], abs=1e-7)


@pairs("vgg16_seed0")
def test_vgg16_with_saliency(case, random_vgg16, golden):
    x, y = golden(case["distorted"]), golden(case["reference"])
    maps = golden(case["distorted"], saliency=True), golden(case["reference"], saliency=True)
    assert random_vgg16(x, y, *maps).item() == pytest.approx(case["deepssim_saliency"], abs=1e-5)


@pairs("vgg16_seed0")
def test_vgg16_lite(case, random_vgg16, golden):
    loss = DeepSSIMLite(random_vgg16.backbone)
    value = loss(golden(case["distorted"]), golden(case["reference"])).item()
    assert value == pytest.approx(case["deepssim_lite_loss"], abs=1e-6)


@pairs("alexnet_imagenet")
def test_alexnet(case, alexnet, golden):
    x, y = golden(case["distorted"]), golden(case["reference"])
    assert alexnet(x, y).item() == pytest.approx(case["deepssim_float64"], abs=1e-5)
    assert DeepSSIMLite(alexnet.backbone)(x, y).item() == pytest.approx(case["deepssim_lite_loss_float64"], abs=1e-5)


@pairs("alexnet_imagenet")
def test_alexnet_in_float64(case, alexnet_float64, golden):
    x, y = golden(case["distorted"]).double(), golden(case["reference"]).double()
    assert alexnet_float64(x, y).item() == pytest.approx(case["deepssim_float64"], abs=1e-7)
    lite = DeepSSIMLite(alexnet_float64.backbone)(x, y).item()
    assert lite == pytest.approx(case["deepssim_lite_loss_float64"], abs=1e-7)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pairs("vgg16_seed0")
def test_vgg16_on_cuda(case, random_vgg16, golden):
    metric = copy.deepcopy(random_vgg16).cuda()
    score = metric(golden(case["distorted"]).cuda(), golden(case["reference"]).cuda()).item()
    assert score == pytest.approx(case["deepssim_float64"], abs=1e-5)


def test_the_copies_are_those_beside_the_checkout(shared):
    for copied in (Path(__file__).parents[1] / "golden").iterdir():
        original = next((shared / "golden").rglob(copied.name))
        if copied.name != "README.md":
            assert copied.read_bytes() == original.read_bytes()
