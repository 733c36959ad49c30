"""Deformations, distortions, and metrics on both."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import ndimage
from skimage import data, transform

from msds_plugin.adapters.benchmark.runner import resample
from msds_plugin.adapters.research.distortions import (
    DEFORMATIONS,
    DISTORTIONS,
    VIEW_DEFORMATIONS,
    VIEW_DISTORTIONS,
    inner,
    margin,
)
from msds_plugin.adapters.research.robustness import make_images, overall, run_robustness, strengths_of, summarise, write_report
from msds_plugin.adapters.scoring import Run
from msds_plugin.errors import MissingDependencyError

RUN = Run(workers=0)
SEAMS = "seam carving"
COLUMNS = ["metric", "distorted", "deformation", "score", "seconds"]


@pytest.fixture(scope="module")
def photo():
    return np.asarray(Image.fromarray(data.astronaut()).resize((128, 96)))


@pytest.fixture
def folder(tmp_path, photo, save):
    for name, image in (("a.png", photo), ("b.png", photo[:, ::-1])):
        save(image, tmp_path / "photographs" / name)
    return tmp_path / "photographs"


@pytest.mark.parametrize(
    "name", [*DISTORTIONS, *(name for name in DEFORMATIONS if name != SEAMS), pytest.param(SEAMS, marks=pytest.mark.slow)]
)
def test_damage_grows_with_the_strength(name, photo):
    change = {**DEFORMATIONS, **DISTORTIONS}[name]
    found = [change(photo, strength) for strength in change.strengths]
    assert all(image.dtype == np.uint8 and image.shape[2] == 3 for image in found)
    before = photo if name in DISTORTIONS else inner(photo)
    if name in DEFORMATIONS:
        assert np.array_equal(change(photo, 0), before)
    if name in ("scale", "crop", SEAMS):
        shares = [1 - strength / 100 for strength in change.strengths]
        assert [image.shape[1] for image in found] == [round(before.shape[1] * share) for share in shares]
    else:
        damage = [np.abs(image.astype(float) - before).mean() for image in found]
        assert damage[0] > 0
        assert damage == sorted(damage)
    for strength in (-1, 1e5, float("nan")):
        with pytest.raises(ValueError, match="strengths go from"):
            change(photo, strength)


def test_rotation_is_that_of_scipy(photo):
    ours, edge = DEFORMATIONS["rotation"](photo, 4).astype(float), margin(photo)

    def gap(degrees):
        theirs = ndimage.rotate(photo.astype(float), degrees, reshape=False, order=3, mode="reflect")
        return np.abs(ours - theirs[edge:-edge, edge:-edge].clip(0, 255)).mean()

    assert gap(4) < 1.5
    assert gap(-4) > 5


def test_shift_scale_and_perspective_by_hand(photo):
    edge, pixels = margin(photo), round(0.04 * 128)
    moved = DEFORMATIONS["shift"](photo, 4)
    assert np.array_equal(moved, photo[edge - pixels : 96 - edge - pixels, edge - pixels : 128 - edge - pixels])
    size = inner(photo).shape
    want = transform.resize(inner(photo) / 255, (round(size[0] * 0.7), round(size[1] * 0.7)), order=3, anti_aliasing=True)
    assert np.abs(DEFORMATIONS["scale"](photo, 30) / 255 - want.clip(0, 1)).max() <= 0.5 / 255 + 1e-9
    seen = DEFORMATIONS["perspective"](photo, 5).astype(float)
    assert np.abs(seen[:, 0] - inner(photo)[:, 0]).max() <= 1
    assert np.abs(seen[:, -1] - inner(photo)[:, -1]).mean() > 5


def test_layers_move_by_different_amounts(photo):
    moved, edge = DEFORMATIONS["parallax"](photo, 8), margin(photo)
    near, far = (photo[edge:-edge, edge - pixels : 128 - edge - pixels] for pixels in (8, 4))
    of_near, of_far = ((moved == layer).all(2) for layer in (near, far))
    assert (of_near | of_far).all()
    assert 0.2 < of_near.mean() < 0.8
    assert np.array_equal(DEFORMATIONS["offset"](photo, 8), photo[edge - 8 : 88 - edge, edge - 8 : 120 - edge])


def test_views_are_made_of_known_changes(photo):
    for chosen, known in ((VIEW_DEFORMATIONS, DEFORMATIONS), (VIEW_DISTORTIONS, DISTORTIONS)):
        for name, strengths in chosen.items():
            assert known[name](photo, strengths[-1]).dtype == np.uint8


def test_what_cannot_be_deformed(photo, monkeypatch):
    for name, strength in (("rotation", 30), ("shift", 10), ("perspective", 20), ("elastic", 5), ("parallax", 30)):
        with pytest.raises(ValueError, match="smaller strength"):
            DEFORMATIONS[name](photo, strength)
    monkeypatch.setitem(__import__("sys").modules, "seam_carving", None)
    with pytest.raises(MissingDependencyError, match="retarget"):
        DEFORMATIONS[SEAMS](photo, 10)


def test_images_are_made_once_and_for_each_photograph(folder, tmp_path):
    Image.open(folder / "a.png").save(folder / "a.bmp")  # the same content
    listed = make_images(folder, tmp_path / "made", {"shift": [0, 4]}, {"blur": [1]})
    assert len(listed) == 3 * 4
    assert listed["distorted"].is_unique
    before = {path: (tmp_path / path).stat().st_mtime_ns for path in listed["distorted"]}
    again = make_images(folder, tmp_path / "made", {"shift": [0, 4]}, {"blur": [1]})
    pd.testing.assert_frame_equal(listed, again)
    assert before == {path: (tmp_path / path).stat().st_mtime_ns for path in again["distorted"]}
    near = make_images(folder, tmp_path / "made", {"shift": [4, 4.0000001]}, {"blur": [1]})
    assert near["distorted"].is_unique
    Image.open(folder / "b.png").rotate(90).save(folder / "a.png")
    changed = make_images(folder, tmp_path / "made", {"shift": [0, 4]}, {"blur": [1]})
    assert len(set(changed["distorted"]) & set(listed["distorted"])) == 2 * 4


def test_a_run_goes_on_where_it_stopped(folder, tmp_path, scorer, mean_error):
    metric = mean_error()
    options = {"images": tmp_path / "made", "results": tmp_path / "r.sqlite", "run": RUN}
    first = run_robustness([scorer(metric)], folder, {"shift": [4]}, {"blur": [1, 2, 4]}, **options)
    assert metric.asked >= 16
    metric.asked = 0
    again = run_robustness([scorer(metric)], folder, {"shift": [4]}, {"blur": [1, 2, 4]}, **options)
    assert metric.asked == 0
    pd.testing.assert_frame_equal(first.scores.table[COLUMNS], again.scores.table[COLUMNS])
    more = run_robustness([scorer(metric)], folder, {"shift": [4, 2]}, {"blur": [1, 2, 4]}, **options)
    assert 8 <= metric.asked <= 9  # and one that warms it up
    assert len(more.scores.table) == 24


def test_rank_and_penalty(folder, tmp_path, scorer):
    chosen = {"shift": [1, 4]}, {"blur": [1, 2, 4], "noise": [5, 20]}
    made = run_robustness([scorer()], folder, *chosen, tmp_path / "made", run=RUN)
    found = summarise(made).set_index("strength")
    assert found.loc[0, "rank"] == pytest.approx(1)
    assert found.loc[0, "penalty"] == 0
    scores = made.scores.table.set_index(["photograph", "distortion", "level", "deformation", "strength"])["score"]
    penalties = []
    for name in ("a.png", "b.png"):
        clean = scores[name, "none", 0, "shift", 4]
        damaged = [scores[name, kind, level, "none", 0] for kind, levels in chosen[1].items() for level in levels]
        penalties.append(np.mean([score < clean for score in damaged]))  # lower is better
    assert found.loc[4, "penalty"] == pytest.approx(np.mean(penalties))
    assert found.loc[4, "penalty"] > 0.5
    assert found.loc[4, "penalty_low"] <= found.loc[4, "penalty"] <= found.loc[4, "penalty_high"]
    numbers = overall(made).iloc[0]
    assert numbers["penalty"] == pytest.approx(found.loc[[1, 4], "penalty"].mean())
    assert numbers["rank_low"] <= numbers["rank"] == pytest.approx(found.loc[[1, 4], "rank"].mean())


@pytest.mark.slow
def test_sizes_that_differ_are_resampled_only_where_needed(folder, tmp_path):
    metrics = ["piq:psnr", "deepssim,backbone=alexnet,weights=None"]
    made = run_robustness(metrics, folder, {"crop": [20]}, {"blur": [2]}, tmp_path / "made", resize="bilinear", run=RUN)
    assert "psnr got the distorted one resampled (bilinear)" in made.notes[0]
    row = made.scores.table[(made.scores.table["metric"] == "piq:psnr") & (made.scores.table["deformation"] == "crop")].iloc[0]
    x, y = (torch.from_numpy(np.array(Image.open(row[k]))).permute(2, 0, 1)[None] / 255 for k in ("distorted", "reference"))
    error = (resample(x, y.shape[-2:], "bilinear") - y).square().mean()
    assert row["score"] == pytest.approx(float(-10 * torch.log10(error)), abs=1e-3)
    left = run_robustness(metrics, folder, {"crop": [20]}, {"blur": [2]}, tmp_path / "made", resize=None, run=RUN)
    assert set(left.scores.failures["metric"]) == {"piq:psnr"}
    assert len(left.scores.failures) == 4


def test_unknown_names_and_methods(folder, tmp_path):
    with pytest.raises(ValueError, match="no distortion given"):
        run_robustness(["psnr"], folder, distortions={})
    with pytest.raises(FileNotFoundError, match="no folder of photographs"):
        run_robustness(["psnr"], tmp_path / "nowhere", images=tmp_path)
    with pytest.raises(ValueError, match="twice"):
        strengths_of(["crop=1", "crop=2"])
    with pytest.raises(ValueError, match="neither a name"):
        strengths_of(["crop=much"])
    assert strengths_of(["seam-carving=5,10", "crop"]) == {"seam carving": [5, 10], "crop": []}


def test_metrics_are_looked_at_before_images_are_made(folder, tmp_path):
    with pytest.raises(ValueError, match="did you mean psnr"):
        run_robustness(["psrn"], folder, images=tmp_path / "images", run=Run("cpu"))
    assert not (tmp_path / "images").exists()


@pytest.mark.slow
def test_report_and_command(folder, tmp_path, msds):
    run = partial(msds, "robustness", folder, "-m", "piq:psnr", "--workers", 0)
    chosen = ("--deform", "offset=1,4", "--deform", "crop=10", "--distort", "blur=1,2")
    run(*chosen, "--report", "report", "-o", "table.csv", stdout="rank / penalty")
    page = (tmp_path / "report/report.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 1
    assert "psnr got the distorted one resampled (bicubic)" in page
    assert (tmp_path / "report/figures/curves.svg").exists()
    assert "figures/curves.svg" in (tmp_path / "report/report.md").read_text()
    assert set(pd.read_csv(tmp_path / "table.csv")["deformation"]) == {"offset", "crop"}
    run(*chosen, "--resize", "none", code=1)
    run("--views", "--deform", "zoom", "-o", "views.csv", stdout="metric\trank\tpenalty")
    assert set(pd.read_csv(tmp_path / "views.csv")["strength"]) == {0, 2}


def test_report_of_a_metric_without_scores(folder, tmp_path, scorer, mean_error):
    class Silent(mean_error):
        def forward(self, x, y):
            raise RuntimeError("never")

    made = run_robustness([scorer(Silent())], folder, {"shift": [4]}, {"blur": [1]}, tmp_path / "made", run=RUN)
    made = replace(made, unavailable={"lost": "no weights"})
    page = write_report(made, summarise(made), overall(made), tmp_path / "report").read_text()
    assert "never" in page
    assert "lost could not be made" in page


def test_photographs_of_one_name_in_two_folders(folder, tmp_path, scorer):
    for name in ("day", "night"):
        (tmp_path / "both" / name).mkdir(parents=True)
        Image.open(folder / "a.png").save(tmp_path / "both" / name / "a.png")
    made = run_robustness([scorer()], tmp_path / "both", {"shift": [4]}, {"blur": [1, 2]}, tmp_path / "made", run=RUN)
    assert set(made.scores.table["photograph"]) == {"day/a.png", "night/a.png"}
    assert set(summarise(made)["photographs"]) == {2}
