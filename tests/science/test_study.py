"""The grid of backbones, layers, levels and comparisons."""

import signal
import sqlite3
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from msds_plugin.adapters.benchmark import load_csv, statistics
from msds_plugin.adapters.cli.app import app
from msds_plugin.adapters.study import COMPARISONS, grid, run_study, summarise
from msds_plugin.adapters.study.comparisons import Described, cosine, squared
from msds_plugin.adapters.study.networks import accuracy_of, at_hand
from msds_plugin.adapters.study.summary import leave_one_reference_out
from PIL import Image, ImageCms, ImageFilter
from skimage import data as pictures
from torch.nn import functional as F
from typer.testing import CliRunner

from msds_plugin import DeepSSIM, DeepSSIMLite, build_backbone

NET = "squeezenet1_1:random"


@pytest.fixture
def data(tmp_path):
    whole = Image.fromarray(pictures.astronaut()).resize((160, 160))
    lines = ["ref,dist,dmos"]
    for scene, left in enumerate((0, 40, 80)):
        reference = whole.crop((left, left, left + 64, left + 70))
        reference.save(tmp_path / f"{scene}.png")
        for radius in (1, 2, 3):
            reference.filter(ImageFilter.GaussianBlur(radius)).save(tmp_path / f"{scene}_{radius}.png")
            lines.append(f"{scene}.png,{scene}_{radius}.png,{10 * radius + scene}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    return load_csv(tmp_path / "labels.csv", lower_is_better=True)


def read(path):
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None].float() / 255


def test_cells_are_those_of_the_metrics(data):
    made = run_study(data, [NET], levels=2)
    torch.manual_seed(0)
    alone = dict.fromkeys(("fire2", "fire9"))
    for layer in alone:
        torch.manual_seed(0)
        net = build_backbone("squeezenet1_1", layer, None)
        for comparison, metric, sign in (("deepssim", DeepSSIM(net), -1), ("lite", DeepSSIMLite(net), 1)):
            table = made.table
            cells = table[(table["layer"] == layer) & (table["comparison"] == comparison) & (table["level"] == 0)]
            for row in cells.to_dict("records")[::4]:
                score = float(metric(read(row["distorted"]), read(row["reference"])))
                assert row["score"] == pytest.approx(1 - score if sign < 0 else score, rel=1e-4, abs=1e-6)
    assert len(made.table) == 9 * 9 * 2 * len(COMPARISONS)
    assert made.table["error"].isna().all()


def test_a_pair_of_two_colour_profiles_is_compared_in_srgb(data, tmp_path):
    def cells():
        table = run_study(data, [NET], levels=1).table
        return table[table["comparison"] == "squared"].set_index(["layer", "distorted"])["score"].unstack(0)

    plain = cells()
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = (next(at for at in range(128, 400) if profile[at : at + 4] == tag) for tag in (b"rXYZ", b"bXYZ"))
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"  # red and blue swapped
    for name in ("0_1", "1", "1_1"):
        swapped = Image.fromarray(np.array(Image.open(tmp_path / f"{name}.png"))[..., ::-1].copy())
        swapped.save(tmp_path / f"{name}.png", icc_profile=bytes(profile))
    found = cells() / plain
    one, other = (str(tmp_path / f"{name}.png") for name in ("0_1", "1_1"))
    assert (found.drop(index=[one, other]) - 1).abs().max().max() < 0.05  # sRGB has 8 bits
    assert (found.loc[one] - 1).abs().max() < 0.05
    assert (found.loc[other] - 1).abs().max() > 0.05, "a profile that both have is not applied"


def test_comparisons_by_hand():
    torch.manual_seed(0)
    a, b = torch.rand(2, 1, 8, 5, 6, dtype=torch.float64)
    x, y = Described.of(a), Described.of(b)
    assert float(cosine(x, y)) == pytest.approx(1 - float(F.cosine_similarity(a.flatten(), b.flatten(), 0)))
    assert float(squared(x, y)) == pytest.approx(2 - 2 * float(F.cosine_similarity(a, b, 1).mean()))
    for compare in COMPARISONS.values():
        assert float(compare(x, x)) == 0
        assert float(compare(x, y)) == pytest.approx(float(compare(y, x)))
    with pytest.raises(ValueError, match="place by place"):
        cosine(x, Described.of(torch.rand(1, 8, 5, 5)))


def test_a_study_goes_on_where_it_stopped(data, tmp_path, monkeypatch):
    results = tmp_path / "s.sqlite"
    asked = []
    plain = grid._features

    def stop(*args):
        if len(asked) == 5:
            raise KeyboardInterrupt
        return plain(*args) if not asked.append(args[1]) else None

    monkeypatch.setattr(grid, "_features", stop)
    with pytest.raises(KeyboardInterrupt):
        run_study(data, [NET], 1, results=results)
    assert len(asked) == len(set(asked)) == 5  # a reference once, for all layers and comparisons
    monkeypatch.setattr(grid, "_features", lambda *args: asked.append(args[1]) or plain(*args))
    resumed = run_study(data, [NET], 1, results=results)
    assert len(asked) == 12 + 1  # nine images, three references; the reference in progress once more
    asked.clear()
    again = run_study(data, [NET], 1, results=results)
    assert not asked
    pd.testing.assert_frame_equal(resumed.table, again.table)
    fresh = run_study(data, [NET], 1)
    assert np.array_equal(fresh.table["score"], again.table["score"])


KILLED = """
import os, signal, sys
from msds_plugin.adapters.benchmark import load_csv
from msds_plugin.adapters.study import grid, run_study
table, results, at = sys.argv[1], sys.argv[2], int(sys.argv[3])
add, seen = grid.Results.add, []


def killed(self, outcomes):
    seen.append(1)
    if len(seen) == at:
        os.kill(os.getpid(), signal.SIGKILL)
    add(self, outcomes)


grid.Results.add = killed
run_study(load_csv(table, lower_is_better=True), ["squeezenet1_1:random"], 1, results=results)
"""


def test_studies_that_were_killed_end_with_the_same_table(data, tmp_path):
    results = tmp_path / "s.sqlite"
    kept = []
    for at in (3, 4):
        command = [sys.executable, "-W", "ignore", "-c", KILLED, str(tmp_path / "labels.csv"), str(results), str(at)]
        assert subprocess.run(command, timeout=200, check=False).returncode == -signal.SIGKILL
        with sqlite3.connect(results) as file:
            kept.append(file.execute("SELECT count(DISTINCT pair) FROM score").fetchone()[0])
    assert kept == [2, 5]
    resumed = run_study(data, [NET], 1, results=results)
    fresh = run_study(data, [NET], 1)
    pd.testing.assert_frame_equal(resumed.table.drop(columns="seconds"), fresh.table.drop(columns="seconds"), rtol=1e-5)


def test_sizes_that_differ_cost_only_what_compares_place_by_place(data):
    first = data.table["distorted"][0]
    Image.open(first).crop((0, 0, 64, 60)).save(first)
    made = run_study(data, [NET], levels=1)
    failed = made.table[made.table["error"].notna()]
    assert set(failed["comparison"]) == {"squared", "cosine"}
    assert set(failed["distorted"]) == {first}


def test_summary(data):
    made = run_study(data, [NET, "alexnet:random"], levels=2, comparisons=["deepssim", "cosine"])
    found = summarise(made, resamples=100, frequencies=True)
    assert len(found.cells) == (10 + 6) * 3 * 2
    cell = found.cells.query("backbone == @NET and layer == 'fire3' and level == '1' and comparison == 'cosine'").iloc[0]
    rows = made.table.query("backbone == @NET and layer == 'fire3' and level == 1 and comparison == 'cosine'")
    assert cell["srcc"] == pytest.approx(statistics.srcc(rows["score"], rows["opinion"]))
    mean = found.cells.query("backbone == @NET and layer == 'mean' and level == 'mean' and comparison == 'cosine'").iloc[0]
    scores = made.table.query("backbone == @NET and comparison == 'cosine'").groupby("distorted", sort=False)
    assert mean["srcc"] == pytest.approx(statistics.srcc(scores["score"].mean(), scores["opinion"].first()))
    assert set(found.nested["backbone"]) == {NET, "alexnet:random"}
    assert (found.nested["best"] >= found.nested["equal"] - 1e-12).all()
    assert found.accuracy["srcc"].isna().all()  # random values have no accuracy
    assert len(found.relations) == 2 * len(found.cells)
    assert found.cells["overall"].between(0, 1).all()


def test_nested_choice_does_not_profit_from_noise():
    rng = np.random.default_rng(0)
    reference = np.repeat(np.arange(20), 4)
    y = rng.standard_normal(80)
    noise = rng.standard_normal((80, 200))
    best = max(statistics.srcc(column, y) for column in noise.T)
    predicted, chosen = leave_one_reference_out(noise, y, reference)
    assert best > 0.2
    assert statistics.srcc(predicted, y) < best - 0.1
    assert len(chosen) == 20
    good = np.column_stack([noise[:, :3], -y + 0.1 * rng.standard_normal(80)])
    predicted, chosen = leave_one_reference_out(good, y, reference, opposite=True)
    assert set(chosen) == {3}
    assert statistics.srcc(predicted, y) > 0.95
    with pytest.raises(ValueError, match="at least two"):
        leave_one_reference_out(noise, y, np.zeros(80))


def test_networks_at_hand(torch_home, tmp_path, monkeypatch):
    assert at_hand()[0][:4] == ["alexnet", "alexnet:random", "squeezenet1_1", "squeezenet1_1:random"]
    assert accuracy_of("alexnet") == (pytest.approx(56.522), "torchvision, IMAGENET1K_V1")
    assert np.isnan(accuracy_of("timm:nobody")[0])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    found, left_out = at_hand()
    assert "alexnet" not in found
    assert any(note.startswith("alexnet is left out: no ") for note in left_out)


def test_networks_of_torchvision_at_hand(data, tmp_path, monkeypatch):
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    torch.manual_seed(1)
    torch.save(torchvision.models.mnasnet0_5().state_dict(), checkpoints / "mnasnet0.5_top1_67.823-3ffadce67e.pth")
    (checkpoints / "resnet18-f37072fd.pth").write_bytes(b"damaged")
    (checkpoints / "resnet50-11ad3fa6.pth").write_bytes(b"damaged")  # the second of two that torchvision publishes
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    found = [name for name in at_hand()[0] if name.startswith("torchvision:") and not name.endswith(":random")]
    assert found == ["torchvision:mnasnet0_5", "torchvision:resnet18", "torchvision:resnet50"]
    assert accuracy_of("torchvision:resnet50") == (pytest.approx(80.858), "torchvision, IMAGENET1K_V2")
    made = run_study(data, ["torchvision:resnet18", "torchvision:mnasnet0_5", "torchvision:mnasnet0_5:random"], 1, ["lite"])
    assert made.notes[0].startswith("torchvision:resnet18 is left out: ")
    assert made.networks["accuracy"].round(1).tolist()[:1] == [67.7]
    scores = made.table.pivot_table(values="score", index=["layer", "distorted"], columns="backbone")
    assert len(scores) == 5 * 9
    assert (scores["torchvision:mnasnet0_5"] != scores["torchvision:mnasnet0_5:random"]).mean() > 0.9


def test_networks_of_timm_at_hand(tmp_path, monkeypatch):
    pytest.importorskip("timm")
    for name, file in (
        ("resnet18.a1_in1k", "model.safetensors"),
        ("resnet50.a1_in1k", "config.json"),
        ("nobody", "model.safetensors"),
    ):
        folder = tmp_path / f"models--timm--{name}"
        (folder / "snapshots" / "1").mkdir(parents=True)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("1")
        (folder / "snapshots" / "1" / file).write_bytes(b"")
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", tmp_path)
    found, _ = at_hand()
    assert [name for name in found if name.startswith("timm:")] == ["timm:resnet18.a1_in1k", "timm:resnet18.a1_in1k:random"]


def test_what_cannot_be_studied(data, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="choose from deepssim"):
        run_study(data, [NET], comparisons=["l3"])
    with pytest.raises(ValueError, match="levels"):
        run_study(data, [NET], levels=0)
    with pytest.raises(ValueError, match="twice"):
        run_study(data, [NET, NET])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*args, **kwargs):
        raise OSError("offline")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    made = run_study(data, ["alexnet", NET], levels=1, comparisons=["lite"])
    assert made.notes[0].startswith("alexnet is left out")
    with pytest.raises(ValueError, match="no backbone to study"):
        run_study(data, ["alexnet"])


def test_the_command(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["study", "--csv", "labels.csv", "--lower-better", "-b", NET, "--levels", "2", "--comparison", "lite"]
    done = CliRunner().invoke(app, [*arguments, "--report", "report", "-o", "cells.csv", "--resamples", "20"])
    assert done.exit_code == 0, done.output
    assert "nested choice" in done.stdout
    assert (tmp_path / "report/nested.csv").exists()
    assert "SRCC by layer and level" in (tmp_path / "report/report.html").read_text()
    assert len(pd.read_csv("cells.csv")) == 10 * 3
    assert CliRunner().invoke(app, ["study"]).exit_code == 2
