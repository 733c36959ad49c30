"""A network on a large image in pieces gives what it gives on the whole."""

import os
import platform
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from msds_plugin import BACKBONES, MSDS, DeepSSIM, build_backbone
from msds_plugin.network import backbone, pieces

SIZES = [(97, 143), (128, 200), (61, 300)]


@pytest.fixture(autouse=True)
def _always(monkeypatch):
    monkeypatch.setattr(pieces, "FROM_PIXELS", 1)


def whole(network, image):
    return network.net(network.normalise(image))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", BACKBONES)
def test_every_layer_as_on_the_whole_image(name, size, monkeypatch):
    if name == "efficientnet_lite0":
        pytest.importorskip("timm")
    network = build_backbone(name, list(BACKBONES[name].layers), weights=None).double()
    image = torch.rand(2, 3, *size, dtype=torch.float64)
    used = []
    monkeypatch.setattr(pieces, "spans", lambda *a, spans=pieces.spans: used.append(spans(*a)) or used[-1])
    monkeypatch.setattr(pieces, "PIECE_BYTES", 1 << 14)
    found = network(image)
    assert any(len(each) > 2 for each in used)
    for one, other in zip(found, whole(network, image), strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12 * other.abs().max().item())


@pytest.mark.parametrize("from_pixels", [1, 1 << 40])
@pytest.mark.parametrize("at_once", [1, 2, 3, 5])
def test_images_of_a_batch_meet_as_their_maps_become_small(at_once, from_pixels, monkeypatch):
    """In parts of which the last may have fewer images, on either way through a network."""
    network = build_backbone("alexnet", ["relu1", "relu3", "relu5"], weights=None).double()
    images = torch.rand(5, 3, 67, 70, dtype=torch.float64)
    expected = [torch.cat(features) for features in zip(*(network(image[None]) for image in images), strict=True)]
    monkeypatch.setattr(pieces, "FROM_PIXELS", from_pixels)
    monkeypatch.setattr(backbone, "_TOGETHER", at_once * 64 * 16 * 16)
    monkeypatch.setattr(pieces, "PIECE_BYTES", at_once * 67 * 70 * 4 * 8 // torch.get_num_threads())
    seen = []
    hook = network.net[0].register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    found = network(images)
    hook.remove()
    assert sum(seen) >= len(images)
    assert max(seen) > 1 or at_once == 1
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("side", [64, 65, 95])
def test_a_piece_of_less_margin_would_differ(side, monkeypatch):
    network = build_backbone("alexnet", weights=None).double()
    monkeypatch.setattr(pieces, "PIECE_BYTES", 1 << 12)
    spans = pieces.spans

    def narrow(length, core, layers, smallest):
        return spans(length, core, [replace(layer, receptive_field=1, start=0) for layer in layers], smallest)

    image = torch.rand(1, 3, 400, side, dtype=torch.float64)
    expected = whole(network, image)[0]
    torch.testing.assert_close(network(image)[0], expected, rtol=0, atol=1e-12)
    monkeypatch.setattr(pieces, "spans", narrow)
    narrowed = network(image)[0]
    assert narrowed.shape != expected.shape or not torch.allclose(narrowed, expected, rtol=0, atol=1e-9)


def test_scores_of_a_metric(pair, monkeypatch):
    metric = MSDS(2, backbone="alexnet", weights=None)
    monkeypatch.setattr(pieces, "FROM_PIXELS", 1 << 40)
    expected = metric(*pair)
    monkeypatch.setattr(pieces, "FROM_PIXELS", 1)
    monkeypatch.setattr(pieces, "PIECE_BYTES", 1 << 16)
    torch.testing.assert_close(metric(*pair), expected, rtol=0, atol=1e-6)
    maps = torch.ones(2, *pair[0].shape[-2:])
    torch.testing.assert_close(metric(*pair, maps, maps), expected, rtol=0, atol=1e-6)


def test_gradients_take_the_whole_image(pair, monkeypatch):
    metric = DeepSSIM("alexnet", weights=None)
    monkeypatch.setattr(pieces, "run", None)
    x = pair[0].clone().requires_grad_()
    metric(x, x.flip(0)).sum().backward()
    with torch.no_grad(), pytest.raises(TypeError):
        metric(x, x)


def test_the_command_bounds_onednns_cache_and_the_library_leaves_the_environment_alone():
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    show = f"import os; print(os.environ.get({name!r}))"
    command = "import sys; sys.argv = ['msds', '--help']\nfrom msds_plugin.adapters.cli import main\n"
    command += "try: main()\nexcept SystemExit: pass\n"
    clean = {key: value for key, value in os.environ.items() if key != name}
    for code, environment, expected in (
        (f"import msds_plugin, torch; {show}", clean, "None"),
        (command + show, clean, "128"),
        (command + show, {**clean, name: "7"}, "7"),
    ):
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.split()[-1] == expected


FAULTS = """
import resource, torch
from msds_plugin import DeepSSIM, MultiScale

torch.set_num_threads(2)
metric = MultiScale(DeepSSIM("efficientnet_lite0", weights=None), 3)
x, y = torch.rand(2, 1, 3, 256, 256)


def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


with torch.inference_mode():
    for _ in range(5):
        metric(x, y)
    before = faults()
    for _ in range(10):
        metric(x, y)
print((faults() - before) // 10)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what it teaches is glibc's malloc")
def test_images_of_one_size_take_the_memory_of_the_one_before():
    pytest.importorskip("timm")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC", "GLIBC", "THP"))}
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FAULTS], env=environment, check=True, capture_output=True, text=True, timeout=200
    )
    assert int(said.stdout) < 1000, "6000 without keep_freed_memory"
