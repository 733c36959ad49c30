"""Training of SPIPS on judgements and on opinion scores."""

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from msds_plugin import registry
from msds_plugin.adapters.benchmark.datasets import Dataset
from msds_plugin.adapters.research import training
from msds_plugin.adapters.research.training import from_opinions, inputs_of, load_twoafc, train_spips
from msds_plugin.adapters.scoring import Run
from msds_plugin.spips import SPIPS, load_weights

STRENGTHS = (0.02, 0.3)
PLAIN = {"backbone": "alexnet", "backbone_weights": None}
RUN = Run("cpu")


@pytest.fixture(scope="module")
def choices(photographs, tmp_path_factory, save) -> Path:
    """BAPPS's layout: 20 scenes, 3 judgements each; the less noisy of two images is always preferred."""
    root = tmp_path_factory.mktemp("choices")
    (root / "judge").mkdir()
    rng = np.random.default_rng(0)
    for number in range(60):
        scene = np.random.default_rng(number // 3)
        photograph = photographs[scene.integers(len(photographs))]
        top, left = scene.integers(0, min(photograph.shape[-2:]) - 48, 2)
        y = photograph[0, :, top : top + 48, left : left + 48].permute(1, 2, 0).numpy()
        first, second = (float(np.exp(rng.uniform(*np.log(STRENGTHS)))) for _ in range(2))
        save(255 * y, root / f"ref/{number:03d}.0.png")  # a dot as in the names of frames
        for folder, strength in (("p0", first), ("p1", second)):
            save(255 * (y + strength * rng.standard_normal(y.shape)), root / f"{folder}/{number:03d}.0.png")
        np.save(root / f"judge/{number:03d}.0.npy", np.array([float(second < first)], dtype=np.float32))
    return root


@pytest.fixture(scope="module")
def data(choices):
    return load_twoafc(choices)


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="module")
def trained(data, features, tmp_path_factory):
    return train_spips(data, tmp_path_factory.mktemp("trained") / "spips.safetensors", **PLAIN, epochs=60, cache=features)


def test_known_preferences_are_recovered_on_scenes_that_were_held_out(trained, choices, pair):
    assert trained.held_out["accuracy"] > 0.95
    facts, _ = load_weights(trained.path)
    assert (facts["backbone"], facts["low"], facts["high"]) == ("alexnet", "relu1,relu2", "relu3,relu4,relu5")
    assert (facts["pairs"], facts["scenes"], facts["seed"], facts["dataset"]) == ("120", "20", "0", choices.name)
    assert trained.path.stat().st_size < 100_000
    assert not list(trained.path.parent.glob("*.checkpoint"))
    made = registry.create("spips", weights=trained.path, backbone_weights=None)
    y = pair[1]
    stronger = torch.stack([made((y + s * torch.randn_like(y)).clamp(0, 1), y)[0] for s in (0.02, 0.08, 0.3)])
    assert (stronger.diff() > 0).all()


def test_names_with_dots_are_names_of_their_own(choices, data):
    assert {reference.name for reference, _ in data.pairs} == {path.name for path in (choices / "ref").iterdir()}


def interrupted(data, out: Path, features: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train, and die while the fourth epoch runs."""
    real = training._epoch

    def killed(state, *arguments):
        if state.epoch == 3:
            raise KeyboardInterrupt
        real(state, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "_epoch", killed)
        with pytest.raises(KeyboardInterrupt):
            train_spips(data, out, **PLAIN, epochs=6, cache=features)


def test_a_training_that_was_killed_goes_on_to_the_same_end(data, features, trained, tmp_path, monkeypatch):
    whole = train_spips(data, tmp_path / "whole.safetensors", **PLAIN, epochs=6, cache=features)
    interrupted(data, tmp_path / "resumed.safetensors", features, monkeypatch)
    monkeypatch.setattr(SPIPS, "inputs", lambda *_: pytest.fail("features are computed once"))
    resumed = train_spips(data, tmp_path / "resumed.safetensors", **PLAIN, epochs=6, cache=features)
    assert resumed.path.read_bytes() == whole.path.read_bytes()


def test_the_state_belongs_to_labels_images_and_options(data, features, trained, tmp_path, monkeypatch):
    out = tmp_path / "x.safetensors"
    interrupted(data, out, features, monkeypatch)
    both, share = data.judged
    with pytest.raises(ValueError, match="of another training, with other labels"):
        train_spips(replace(data, judged=(both, 1 - share)), out, **PLAIN, cache=features)
    with pytest.raises(ValueError, match="other images or network"):
        train_spips(replace(data, pairs=data.pairs[::-1]), out, **PLAIN, cache=features)
    with pytest.raises(ValueError, match="other patience"):
        train_spips(data, out, **PLAIN, patience=3, cache=features)
    # A picture that is replaced, its size and time kept.
    path = data.pairs[0][1]
    before, stat = path.read_bytes(), path.stat()
    try:
        path.write_bytes(data.pairs[1][1].read_bytes())
        __import__("os").utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        with pytest.raises(ValueError, match="other images or network"):
            train_spips(data, out, **PLAIN, cache=features)
    finally:
        path.write_bytes(before)
    state = out.with_name(f"{out.name}.checkpoint")
    whole = state.read_bytes()
    for damaged in (b"", b"no state", whole[:-50], whole[: len(whole) // 2]):
        state.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged, or no state of a training: delete it"):
            train_spips(data, out, **PLAIN, cache=features)
    state.write_bytes(whole)
    assert train_spips(data, out, **PLAIN, epochs=4, cache=features).facts["epochs"] == "4"


SLOWLY = """
import sys, time
from msds_plugin.adapters.research import training
real = training._epoch
def slow(*arguments):
    time.sleep(0.2)
    real(*arguments)
training._epoch = slow
choices, out, features = sys.argv[1:]
training.train_spips(training.load_twoafc(choices), out, backbone="alexnet", backbone_weights=None, epochs=6, cache=features)
"""


@pytest.mark.slow
def test_kill_9_costs_nothing_that_was_learned(data, choices, features, trained, tmp_path):
    whole = train_spips(data, tmp_path / "whole.safetensors", **PLAIN, epochs=6, cache=features)
    out = tmp_path / "killed.safetensors"
    process = subprocess.Popen([sys.executable, "-c", SLOWLY, str(choices), str(out), str(features)])
    while not out.with_name(f"{out.name}.checkpoint").is_file():
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not out.exists()
    resumed = train_spips(data, out, **PLAIN, epochs=6, cache=features)
    # Another process has its memory elsewhere, upon which a matrix product may round the last digit otherwise.
    found, expected = load_file(resumed.path), load_file(whole.path)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5)


def test_a_feature_file_that_a_kill_cut_short_is_written_again(data, tmp_path):
    metric = SPIPS.untrained(**PLAIN)
    whole, _ = inputs_of(metric, data.pairs[:2], tmp_path, RUN, lambda *_: None)
    files = sorted(tmp_path.iterdir())
    files[0].write_bytes(files[0].read_bytes()[:100])
    again, _ = inputs_of(metric, data.pairs[:2], tmp_path, RUN, lambda *_: None)
    assert torch.equal(again.maps, whole.maps)
    assert sorted(tmp_path.iterdir()) == files


def test_features_belong_to_what_was_read(data, tmp_path, monkeypatch):
    pairs, real = [], training._inputs
    for number, pair in enumerate(data.pairs[:2]):
        copies = tuple(tmp_path / f"{number}{path.name}{place}.png" for place, path in enumerate(pair))
        for copied, path in zip(copies, pair, strict=True):
            copied.write_bytes(path.read_bytes())
        pairs.append(copies)

    def replaced(*arguments):
        pairs[0][1].write_bytes(data.pairs[2][1].read_bytes())
        return real(*arguments)

    monkeypatch.setattr(training, "_inputs", replaced)
    with pytest.raises(ValueError, match="changed meanwhile"):
        inputs_of(SPIPS.untrained(**PLAIN), pairs, tmp_path / "features", RUN, lambda *_: None)
    assert not list((tmp_path / "features").iterdir())


def test_progress_is_told_and_it_stops_when_nothing_gets_better(data, features, trained, tmp_path, monkeypatch):
    told = []
    options = {**PLAIN, "patience": 3, "cache": features}
    monkeypatch.setattr(training, "RATE", 0.0)
    made = train_spips(data, tmp_path / "x.safetensors", **options, epochs=50, step=lambda *given: told.append(given))
    assert told[:120] == [("features", done, 120) for done in range(1, 121)]
    assert told[120:] == [("epochs", done, 50) for done in range(1, 5)]
    assert made.facts["epochs"] == "4"


def test_no_scene_is_in_two_parts(data):
    parts = [set(data.scene[part.numpy()]) for part in training._divide(data, 5)]
    assert [len(part) for part in parts] == [12, 4, 4]
    assert len(set.union(*parts)) == 20


@pytest.mark.slow
def test_opinion_scores(photographs, tmp_path, save):
    rows = []
    for number in range(10):
        y = photographs[number % len(photographs)][0, :, number * 8 : number * 8 + 48, :48].permute(1, 2, 0).numpy()
        reference = save(255 * y, tmp_path / f"{number}.png")
        for strength in (0.01, 0.03, 0.1, 0.3):
            noise = strength * np.random.default_rng(number).standard_normal(y.shape)
            rows.append((str(reference), str(save(255 * (y + noise), tmp_path / f"{number}_{strength}.png")), -strength))
    table = pd.DataFrame(rows, columns=["reference", "distorted", "score"])
    made = train_spips(from_opinions(Dataset("noise", table, False)), tmp_path / "x.safetensors", **PLAIN, epochs=25)
    assert made.held_out["srcc"] > 0.9
    assert made.held_out["accuracy"] > 0.9
    with pytest.raises(ValueError, match="all the same"):
        from_opinions(Dataset("flat", table.assign(score=1.0), False))


def test_what_cannot_be_learned_from(data, tmp_path):
    with pytest.raises(FileNotFoundError, match="folders ref, p0, p1 and judge"):
        load_twoafc(tmp_path)
    (tmp_path / "judge").mkdir()
    for share in (2.0, np.nan, "much", [0.5, 0.5], {}, None):
        np.save(tmp_path / "judge/a.npy", np.array(share), allow_pickle=True)
        if share is None:
            (tmp_path / "judge/a.npy").write_bytes(b"")
        with pytest.raises(ValueError, match=r"a\.npy must hold one number in \[0, 1\]"):
            load_twoafc(tmp_path)
    np.save(tmp_path / "judge/a.npy", np.array([0.5]))
    (tmp_path / "judge/._a.npy").write_bytes(b"")  # as macOS leaves beside it: no judgement
    with pytest.raises(FileNotFoundError, match="has no image"):
        load_twoafc(tmp_path)
    with pytest.raises(ValueError, match="at least three"):
        train_spips(replace(data, scene=data.scene * 0), tmp_path / "x", **PLAIN)
    equal = replace(data, judged=None, opinion=data.scene.astype(float))
    with pytest.raises(ValueError, match="the scenes of choices0 to learn from have no two images of different opinions"):
        train_spips(replace(equal, scene=np.minimum(data.scene, 2)), tmp_path / "x", **PLAIN)


def test_the_command(choices, features, trained, msds, monkeypatch):
    def without_download(data, out, backbone, _, *rest):
        return train_spips(data, out, backbone, None, *rest)

    monkeypatch.setattr(training, "train_spips", without_download)
    options = ("-o", "x.safetensors", "--backbone", "alexnet", "--epochs", 1, "--cache", features)
    done = msds("train", "--twoafc", choices, *options)
    assert "on held-out scenes accuracy" in done.output
