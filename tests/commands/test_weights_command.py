"""``msds weights``: what is there, and putting a file in place."""

import hashlib

import pytest
import torch
from msds_plugin.adapters.cli.app import app
from msds_plugin.adapters.weights import files, inventory, put_in_place
from typer.testing import CliRunner

from msds_plugin.backbones import BACKBONES, build_backbone
from msds_plugin.errors import WeightsFileError, WeightsNotFoundError


def test_list(torch_home):
    rows = {row.backbone: row for row in inventory()}
    assert list(rows) == list(BACKBONES)
    alexnet = torch_home / "hub/checkpoints/alexnet-owt-7be5be79.pth"
    assert rows["alexnet"].path == alexnet
    assert rows["alexnet"].sha256 == hashlib.sha256(alexnet.read_bytes()).hexdigest()
    assert rows["alexnet"].right is rows["alexnet"].sha256.startswith("7be5be79")
    assert (rows["vgg16"].state, rows["vgg16"].right) == ("missing", None)
    assert rows["efficientnet_lite0"].state == "there"
    done = CliRunner().invoke(app, ["weights"])
    assert done.exit_code == 0
    assert "vgg16\tmissing" in done.stdout
    assert "https://download.pytorch.org/models/vgg16-397923af.pth" in done.stdout


def test_put_in_place(alexnet_file, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    published = hashlib.sha256(alexnet_file.read_bytes()).hexdigest()[:8]
    monkeypatch.setattr(files, "_hash_in", lambda url: published)  # the shared file is a part of the published one
    done = CliRunner().invoke(app, ["weights", "alexnet", str(alexnet_file)])
    assert done.exit_code == 0, done.output
    target = tmp_path / "hub/checkpoints" / alexnet_file.name
    assert target.read_bytes() == alexnet_file.read_bytes()
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    assert put_in_place("alexnet", target) == target  # it is there already
    build_backbone("alexnet")


def test_another_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "mine.pth")
    with pytest.raises(WeightsFileError, match=r"not the published file of vgg16.*397923af"):
        put_in_place("vgg16", tmp_path / "mine.pth")
    with pytest.raises(WeightsNotFoundError, match=r"nothing\.pth"):
        put_in_place("vgg16", tmp_path / "nothing.pth")
    with pytest.raises(ValueError, match="from a package"):
        put_in_place("efficientnet_lite0", tmp_path / "mine.pth")
    with pytest.raises(ValueError, match="no backbone named 'vgg'"):
        put_in_place("vgg", tmp_path / "mine.pth")
    assert not (tmp_path / "hub").exists()
    assert CliRunner().invoke(app, ["weights", "vgg16"]).exit_code == 2


def test_other_content_under_the_name_is_seen(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = tmp_path / "hub/checkpoints/vgg16-397923af.pth"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"half a download")
    (row,) = [row for row in inventory() if row.backbone == "vgg16"]
    assert row.right is False
    assert row.state == "there, but not the published file"


def test_the_error_of_missing_weights_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(WeightsNotFoundError, match="msds weights"):
        build_backbone("vgg16")
