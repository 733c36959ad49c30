"""The grid of backbones, layers, levels and comparisons."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from PIL import Image, ImageCms, ImageFilter
from skimage import data as pictures
from torch.nn import functional as F

from msds_plugin import Backbone, DeepSSIM, DeepSSIMLite, build_backbone
from msds_plugin.adapters.benchmark import load_csv, statistics
from msds_plugin.adapters.research.study import COMPARISONS, Features, accuracy_of, at_hand, cosine, run_study, squared
from msds_plugin.adapters.research.study_report import leave_one_reference_out, summarise
from msds_plugin.adapters.scoring import Run
from msds_plugin.functional import gram_matrix

NET = "squeezenet1_1:random"
RUN = Run(workers=0)


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
    for layer in ("fire2", "fire9"):
        torch.manual_seed(0)
        net = build_backbone("squeezenet1_1", layer, None)
        for comparison, metric, sign in (("deepssim", DeepSSIM(net), -1), ("lite", DeepSSIMLite(net), 1)):
            cells = made.table[(made.table[["layer", "level", "comparison"]] == [layer, 0, comparison]).all(axis=1)]
            for row in cells.to_dict("records")[::4]:
                score = float(metric(read(row["distorted"]), read(row["reference"])))
                assert row["score"] == pytest.approx(1 - score if sign < 0 else score, rel=1e-4, abs=1e-6)
    assert len(made.table) == 9 * 9 * 2 * len(COMPARISONS)
    assert made.failures.empty


def test_a_pair_of_two_colour_profiles_is_compared_in_srgb(data, tmp_path):
    def cells():
        table = run_study(data, [NET], levels=1, comparisons=["squared"]).table
        return table.set_index(["layer", "distorted"])["score"].unstack(0)

    plain = cells()
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = (next(at for at in range(128, 400) if profile[at : at + 4] == tag) for tag in (b"rXYZ", b"bXYZ"))
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"  # red and blue swapped
    for name in ("0_1", "1", "1_1"):
        swapped = Image.fromarray(np.array(Image.open(tmp_path / f"{name}.png"))[..., ::-1].copy())
        swapped.save(tmp_path / f"{name}.png", icc_profile=bytes(profile))
    found = (cells() / plain - 1).abs()
    other = str(tmp_path / "1_1.png")
    assert found.drop(index=other).max().max() < 0.05  # sRGB has 8 bits
    assert found.loc[other].max() > 0.05, "a profile that both have is not applied"


def test_comparisons_by_hand():
    torch.manual_seed(0)
    a, b = torch.rand(2, 1, 8, 5, 6, dtype=torch.float64)
    x, y = (Features("", each, gram_matrix(each)) for each in (a, b))
    assert float(cosine(x, y)) == pytest.approx(1 - float(F.cosine_similarity(a.flatten(), b.flatten(), 0)))
    assert float(squared(x, y)) == pytest.approx(2 - 2 * float(F.cosine_similarity(a, b, 1).mean()))
    for compare in COMPARISONS.values():
        assert float(compare(x, x)) == 0
        assert float(compare(x, y)) == pytest.approx(float(compare(y, x)))
    with pytest.raises(ValueError, match="place by place"):
        cosine(x, Features("", torch.rand(1, 8, 5, 5), x.gram))


def test_a_study_goes_on_where_it_stopped(data, tmp_path, monkeypatch):
    results, asked, plain = tmp_path / "s.sqlite", [], Backbone.forward
    monkeypatch.setattr(Backbone, "forward", lambda self, image: asked.append(image) or plain(self, image))
    first = run_study(data, [NET], 1, results=results, run=RUN)
    assert 12 <= len(asked) <= 14  # nine images, three references; and a pair that warms it up
    asked.clear()
    again = run_study(data, [NET], 1, results=results, run=RUN)
    assert not asked
    pd.testing.assert_frame_equal(first.table, again.table)
    Image.open(data.table["distorted"][0]).rotate(180).save(data.table["distorted"][0])
    run_study(data, [NET], 1, results=results, run=RUN)
    assert len(asked) <= 4, "what changed is scored again, and nothing else"


def test_sizes_that_differ_cost_only_what_compares_place_by_place(data):
    first = data.table["distorted"][0]
    Image.open(first).crop((0, 0, 64, 60)).save(first)
    failed = run_study(data, [NET], levels=1).table.dropna(subset=["error"])
    assert set(failed["comparison"]) == {"squared", "cosine"}
    assert set(failed["distorted"]) == {first}


def test_summary(data):
    made = run_study(data, [NET], levels=2, comparisons=["cosine"])
    found = summarise(made, resamples=20, frequencies=True)
    assert len(found.cells) == 10 * 3
    own = "backbone == @NET and comparison == 'cosine'"
    cell = found.cells.query(f"{own} and layer == 'fire3' and level == '1'").iloc[0]
    rows = made.table.query(f"{own} and layer == 'fire3' and level == 1")
    assert cell["srcc"] == pytest.approx(statistics.srcc(rows["score"], rows["opinion"]))
    mean = found.cells.query(f"{own} and layer == 'mean' and level == 'mean'").iloc[0]
    scores = made.table.query(own).groupby("distorted", sort=False)
    assert mean["srcc"] == pytest.approx(statistics.srcc(scores["score"].mean(), scores["opinion"].first()))
    assert set(found.nested["backbone"]) == {NET}
    assert (found.nested["best"] >= found.nested["equal"] - 1e-12).all()
    assert found.accuracy["srcc"].isna().all()  # random values have no accuracy
    assert len(found.relations) == 2 * len(found.cells)
    assert found.cells["overall"].between(0, 1).all()


def test_the_best_cell_is_that_of_the_images_that_have_a_score(data, tmp_path):
    (tmp_path / "1_2.png").write_bytes(b"broken")
    summed = summarise(run_study(data, [NET], levels=1, comparisons=["lite"], run=RUN), resamples=0)
    assert summed.nested["best"].tolist() == [pytest.approx(summed.cells["srcc"].max())]


def test_nested_choice_does_not_profit_from_noise():
    rng = np.random.default_rng(0)
    reference, y = np.repeat(np.arange(20), 4), rng.standard_normal(80)
    noise = rng.standard_normal((80, 100))
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


@pytest.mark.slow
def test_networks_of_torchvision(data, tmp_path, monkeypatch):
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    torch.manual_seed(1)
    torch.save(torchvision.models.mnasnet0_5().state_dict(), checkpoints / "mnasnet0.5_top1_67.823-3ffadce67e.pth")
    (checkpoints / "resnet18-f37072fd.pth").write_bytes(b"damaged")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    made = run_study(data, ["torchvision:resnet18", "torchvision:mnasnet0_5", "torchvision:mnasnet0_5:random"], 1, ["lite"])
    assert made.notes[0].startswith("torchvision:resnet18 is left out: ")
    assert made.networks["accuracy"].round(1).tolist()[:1] == [67.7]
    scores = made.table.pivot_table(values="score", index=["layer", "distorted"], columns="backbone")
    assert (scores["torchvision:mnasnet0_5"] != scores["torchvision:mnasnet0_5:random"]).mean() > 0.9


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ([NET], {"comparisons": ["l3"]}, "choose from deepssim"),
        ([NET], {"levels": 0}, "levels"),
        ([NET, NET], {}, "twice"),
        (["torchvision:vit_b_16:random"], {}, "224 x 224"),
    ],
)
def test_what_cannot_be_studied(data, names, options, message):
    with pytest.raises(ValueError, match=message):
        run_study(data, names, **options)


@pytest.mark.usefixtures("offline")
def test_a_network_that_cannot_be_had_is_left_out(data):
    made = run_study(data, ["alexnet", NET], levels=1, comparisons=["lite"])
    assert made.notes[0].startswith("alexnet is left out")
    with pytest.raises(ValueError, match="no backbone to study"):
        run_study(data, ["alexnet"])


def test_the_command(data, tmp_path, msds):
    arguments = ["study", "--csv", "labels.csv", "--lower-better", "-b", NET, "--levels", "2", "--comparison", "lite"]
    msds(*arguments, "--report", "report", "-o", "cells.csv", "--resamples", "20", stdout="nested choice")
    assert (tmp_path / "report/nested.csv").exists()
    assert "SRCC by layer and level" in (tmp_path / "report/report.html").read_text()
    assert len(pd.read_csv("cells.csv")) == 10 * 3
    Path(data.table["distorted"][0]).write_text("broken")
    msds(*arguments, "--report", "report", code=1)
    assert "1 in all; scores.csv lists them" in (tmp_path / "report/report.md").read_text()
