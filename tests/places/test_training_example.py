"""The study of docs/training.md: its pairs, its rows, that it goes on after a stop, and what its page says of deblurring."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

EXAMPLE = Path(__file__).parents[2] / "docs/examples/training_study.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("training_study", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pairs_lie_apart_by_no_more_than_the_task_says(example):
    for shift in (0, 2):
        given, sharp = example.batch(example.Task(lambda image: image, shift))
        assert given.shape == sharp.shape == (example.BATCH, 3, example.CROP, example.CROP)
        for x, y in zip(given, sharp, strict=True):
            inner = y[:, shift : example.CROP - shift, shift : example.CROP - shift]
            places = [(down, right) for down in range(2 * shift + 1) for right in range(2 * shift + 1)]
            same = [torch.equal(x[:, d : d + inner.shape[1], r : r + inner.shape[2]], inner) for d, r in places]
            assert sum(same) == 1


@pytest.mark.parametrize("task", ["sr", "light", "deblur"])
def test_every_task_spoils_and_keeps_the_size(example, task):
    sharp = example.photographs()[1][0]
    spoilt = example.TASKS[task].spoil(sharp)
    assert spoilt.shape == sharp.shape
    assert 0.01 < (spoilt - sharp).abs().mean() < 0.5
    assert torch.equal(example.Network()(spoilt), spoilt)  # before training


def test_where_higher_is_better_the_loss_is_one_minus_the_score(example):
    y = example.photographs()[1][0][..., :96, :96]
    for name in ("l1", "ssim", "deepssim-lite-fast", "msds-align"):
        loss = example.loss_of(name)
        assert float(loss(y, y)) == pytest.approx(0, abs=1e-6)
        assert float(loss(example.blurred(y), y)) > 0.01


def test_spread_is_half_of_what_the_seeds_differ_by(example):
    row = {"task": "sr", "loss": "l1", "steps": 1, "ssim": 0.5, "lpips": 0.5, "msds-fast": 0.5, "seconds": 1.0}
    rows = pd.DataFrame([{**row, "seed": seed, "psnr": psnr} for seed, psnr in enumerate((20.0, 21.0, 24.0))])
    assert example.summary(rows).loc[("sr", "l1"), "PSNR ↑"] == "21.67 ± 2.00"


@pytest.mark.slow
def test_a_study_goes_on_where_it_stopped(example, torch_home, tmp_path):
    def run(*losses: str) -> str:
        command = [sys.executable, str(EXAMPLE), "study", "--seeds", "1", "--steps", "2", "--workers", "2", "--losses", *losses]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "12 of 12" in run("l1", "lpips", "msds-lite,backbone=alexnet")
    again = run("l1", "msds-lite-fast", "lpips")
    assert "3 of 3: " in again
    assert "of 12" not in again
    rows = pd.read_csv(tmp_path / "study/rows.csv")
    assert len(rows) == 15
    assert not rows.duplicated(list(example.Run._fields)).any()
    assert rows.notna().all(axis=None)
    assert "msds-lite,backbone" not in again  # the table holds what was asked for
    with Image.open(tmp_path / "study/training.jpg") as picture:
        assert picture.width > 500


@pytest.mark.slow
def test_deblurring_as_the_page_says(example, torch_home, tmp_path):
    rows = {
        loss: example.carry_out(example.Run("deblur", loss, 0, 100), tmp_path)
        for loss in (example.INPUT, "l1", "msds-lite-fast")
    }
    assert abs(rows["l1"]["ssim"] - rows[example.INPUT]["ssim"]) < 0.02
    assert rows["msds-lite-fast"]["ssim"] > rows[example.INPUT]["ssim"] + 0.03
    assert rows["msds-lite-fast"]["msds-fast"] > rows[example.INPUT]["msds-fast"] + 0.01
