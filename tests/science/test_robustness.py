"""Deformations, distortions, and metrics on both."""

import numpy as np
import pandas as pd
import pytest
import torch
from msds_plugin.adapters.benchmark.sizes import resample, run_any_size
from msds_plugin.adapters.cli.app import app
from msds_plugin.adapters.common.scorer import Scorer
from msds_plugin.adapters.robustness import DEFORMATIONS, DISTORTIONS, deform, distort, run_robustness, summarise
from msds_plugin.adapters.robustness.deformations import inner, margin
from msds_plugin.adapters.robustness.images import cells, make_images
from msds_plugin.adapters.robustness.report import strengths_of, write_report
from PIL import Image
from scipy import ndimage
from skimage import data, transform
from torch import nn
from typer.testing import CliRunner

from msds_plugin.errors import MissingDependencyError


@pytest.fixture(scope="module")
def photo():
    return np.asarray(Image.fromarray(data.astronaut()).resize((128, 96)))


@pytest.fixture
def folder(tmp_path, photo):
    made = tmp_path / "photographs"
    made.mkdir()
    for name, image in (("a.png", photo), ("b.png", photo[:, ::-1].copy())):
        Image.fromarray(image).save(made / name)
    return made


def taker(name):
    if name == "seam carving":
        pytest.importorskip("seam_carving")
    return DEFORMATIONS[name]


class Distance(nn.Module):
    """A distance that counts what it is asked."""

    def __init__(self):
        super().__init__()
        self.asked = 0

    def forward(self, x, y):
        self.asked += len(x)
        return (x - y).abs().mean((1, 2, 3))


def scorer(module=None, name="error"):
    module = module or Distance()
    return Scorer(name, True, module, torch.device("cpu"), module)


@pytest.mark.parametrize("name", DEFORMATIONS)
def test_strength_zero_is_the_identity(name, photo):
    assert np.array_equal(deform(photo, taker(name), 0), inner(photo))


@pytest.mark.parametrize("name", DEFORMATIONS)
def test_a_small_strength_moves_a_little_and_a_larger_one_more(name, photo):
    kind = taker(name)
    results = [deform(photo, kind, strength) for strength in kind.strengths]
    assert all(image.dtype == np.uint8 and image.shape[2] == 3 for image in results)
    size = inner(photo).shape
    if name in ("scale", "crop"):
        shares = [1 - s / 100 for s in kind.strengths]
        assert [i.shape[:2] for i in results] == [tuple(round(side * share) for side in size[:2]) for share in shares]
    elif name == "seam carving":
        assert [i.shape[1] for i in results] == [round(size[1] * (1 - s / 100)) for s in kind.strengths]
        assert all(i.shape[0] == size[0] for i in results)
    else:
        gone = [np.abs(image.astype(float) - inner(photo)).mean() for image in results]
        assert 0 < gone[0] < gone[1] < gone[2]


def test_rotation_is_that_of_scipy(photo):
    ours = deform(photo, DEFORMATIONS["rotation"], 4).astype(float)
    edge = margin(photo)

    def gap(degrees):
        theirs = ndimage.rotate(photo.astype(float), degrees, reshape=False, order=3, mode="reflect")
        return np.abs(ours - theirs[edge:-edge, edge:-edge].clip(0, 255)).mean()

    assert gap(4) < 1.5
    assert gap(-4) > 5


def test_shift_interpolates_nothing(photo):
    edge = margin(photo)
    moved = deform(photo, DEFORMATIONS["shift"], 4)
    pixels = round(0.04 * 128)
    assert np.array_equal(moved, photo[edge - pixels : 96 - edge - pixels, edge - pixels : 128 - edge - pixels])


def test_scale_is_that_of_scikit_image(photo):
    size = inner(photo).shape
    want = transform.resize(inner(photo) / 255, (round(size[0] * 0.7), round(size[1] * 0.7)), order=3, anti_aliasing=True)
    assert np.abs(deform(photo, DEFORMATIONS["scale"], 30) / 255 - want.clip(0, 1)).max() <= 0.5 / 255 + 1e-9


def test_perspective_keeps_the_near_edge(photo):
    moved = deform(photo, DEFORMATIONS["perspective"], 5).astype(float)
    assert np.abs(moved[:, 0] - inner(photo)[:, 0]).max() <= 1
    assert np.abs(moved[:, -1] - inner(photo)[:, -1]).mean() > 5


def test_what_would_leave_the_photograph_is_an_error(photo):
    for name, strength in (("rotation", 30), ("shift", 10), ("perspective", 20), ("elastic", 5)):
        with pytest.raises(ValueError, match="smaller strength"):
            deform(photo, DEFORMATIONS[name], strength)
    for strength in (-1, 100, float("nan")):
        with pytest.raises(ValueError, match="strengths go from 0"):
            deform(photo, DEFORMATIONS["crop"], strength)


def test_seam_carving_without_its_package(photo, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "seam_carving", None)
    with pytest.raises(MissingDependencyError, match="retarget"):
        deform(photo, DEFORMATIONS["seam carving"], 10)


@pytest.mark.parametrize("name", DISTORTIONS)
def test_distortions_grow_along_their_strengths(name, photo):
    kind = DISTORTIONS[name]
    damage = [np.abs(distort(photo, kind, s).astype(float) - photo).mean() for s in kind.strengths]
    assert damage == sorted(damage)
    assert damage[0] > 0
    assert distort(photo, kind, kind.strengths[0]).shape == photo.shape
    with pytest.raises(ValueError, match="strengths go from"):
        distort(photo, kind, -3)


def test_images_are_made_once(folder, tmp_path):
    wanted = cells({"shift": [0, 4]}, {"blur": [1]})
    assert len(wanted) == 4
    listed = make_images(folder, tmp_path / "made", wanted)
    assert len(listed) == 8
    assert listed["distorted"].is_unique
    before = {path: (tmp_path / path).stat().st_mtime_ns for path in listed["distorted"]}
    again = make_images(folder, tmp_path / "made", wanted)
    pd.testing.assert_frame_equal(listed, again)
    assert before == {path: (tmp_path / path).stat().st_mtime_ns for path in again["distorted"]}


def test_a_run_goes_on_where_it_stopped(folder, tmp_path):
    options = {"images": tmp_path / "made", "results": tmp_path / "r.sqlite", "workers": 0}
    module = Distance()
    first = run_robustness([scorer(module)], folder, {"shift": [4]}, {"blur": [1, 2, 4]}, **options)
    assert module.asked >= 16
    module.asked = 0
    again = run_robustness([scorer(module)], folder, {"shift": [4]}, {"blur": [1, 2, 4]}, **options)
    assert module.asked == 0
    pd.testing.assert_frame_equal(first.table, again.table)
    more = run_robustness([scorer(module)], folder, {"shift": [4], "crop": [10]}, {"blur": [1, 2, 4]}, **options)
    assert module.asked == 8 + 1  # and one that warms it up
    assert len(more.table) == 24


def test_rank_and_penalty(folder, tmp_path):
    made = run_robustness(
        [scorer()], folder, {"shift": [1, 4]}, {"blur": [1, 2, 4], "noise": [5, 20]}, tmp_path / "made", workers=0
    )
    found = summarise(made).table.set_index("strength")
    assert found.loc[0, "rank"] == pytest.approx(1)
    assert found.loc[0, "penalty"] == 0
    scores = made.table.set_index(["photograph", "distortion", "level", "deformation", "strength"])["score"]
    penalties = []
    for name in ("a.png", "b.png"):
        clean = scores[name, "none", 0, "shift", 4]
        damaged = [
            scores[name, kind, level, "none", 0]
            for kind, levels in (("blur", (1, 2, 4)), ("noise", (5, 20)))
            for level in levels
        ]
        penalties.append(np.mean([score < clean for score in damaged]))  # lower is better
    assert found.loc[4, "penalty"] == pytest.approx(np.mean(penalties))
    assert found.loc[4, "penalty"] > 0.5
    assert found.loc[4, "penalty_low"] <= found.loc[4, "penalty"] <= found.loc[4, "penalty_high"]


def test_sizes_that_differ_are_resampled_only_where_needed(folder, tmp_path):
    options = {"images": tmp_path / "made", "workers": 0}
    metrics = [scorer(), "deepssim,backbone=alexnet,weights=None"]
    made = run_robustness(metrics, folder, {"crop": [20]}, {"blur": [2]}, resize="bilinear", **options)
    assert made.sizes.need_equal == ("error",)
    assert made.sizes.resampled("photographs", "error") == 4
    assert "error got the distorted one resampled (bilinear)" in made.notes[0]
    row = made.table[(made.table["metric"] == "error") & (made.table["deformation"] == "crop")].iloc[0]
    x, y = (torch.from_numpy(np.array(Image.open(row[k]))).permute(2, 0, 1)[None] / 255 for k in ("distorted", "reference"))
    assert row["score"] == pytest.approx(float((resample(x, y.shape[-2:], "bilinear") - y).abs().mean()), abs=1e-6)
    left = run_robustness(metrics, folder, {"crop": [20]}, {"blur": [2]}, resize=None, **options)
    failed = left.table[left.table["error"].notna()]
    assert set(failed["metric"]) == {"error"}
    assert len(failed) == 4
    assert failed["error"].str.contains("needs images of equal size").all()


def test_unknown_names_and_methods(folder, tmp_path):
    with pytest.raises(ValueError, match="no deformation named 'twist': choose from rotation"):
        run_robustness(["psnr"], folder, {"twist": [1]})
    with pytest.raises(ValueError, match="no distortion given"):
        run_robustness(["psnr"], folder, distortions={})
    with pytest.raises(ValueError, match="'lanczos'"):
        run_any_size([scorer()], [], resize="lanczos")
    with pytest.raises(FileNotFoundError, match="no folder of photographs"):
        run_robustness(["psnr"], tmp_path / "nowhere", images=tmp_path)
    with pytest.raises(ValueError, match="twice"):
        strengths_of(["crop=1", "crop=2"])
    with pytest.raises(ValueError, match="neither a name"):
        strengths_of(["crop=much"])
    assert strengths_of(["seam-carving=5,10", "crop"]) == {"seam carving": [5, 10], "crop": []}


def test_report_and_command(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [
        "robustness",
        str(folder),
        "-m",
        "psnr",
        "--deform",
        "shift=1,4",
        "--deform",
        "crop=10",
        "--distort",
        "blur=1,2",
    ]
    done = CliRunner().invoke(app, [*arguments, "--report", "report", "-o", "table.csv", "--workers", "0"])
    assert done.exit_code == 0, done.output
    assert "rank / penalty" in done.stdout
    page = (tmp_path / "report/report.html").read_text()
    assert "<script" not in page
    assert page.count("data:image/svg+xml;base64,") == 2
    assert "psnr got the distorted one resampled (bicubic)" in page
    text = (tmp_path / "report/report.md").read_text()
    assert (tmp_path / "report/figures/curve-shift.svg").exists()
    assert "figures/curve-shift.svg" in text
    assert set(pd.read_csv(tmp_path / "table.csv")["deformation"]) == {"shift", "crop"}
    without = CliRunner().invoke(app, [*arguments, "--resize", "none", "--workers", "0"])
    assert without.exit_code == 1
    assert "needs images of equal size" in without.output
    assert CliRunner().invoke(app, ["robustness", str(folder), "-m", "psnr", "--deform", "twist"]).exit_code == 2


def test_report_of_a_metric_without_scores(folder, tmp_path):
    class Silent(Distance):
        def forward(self, x, y):
            raise RuntimeError("never")

    made = run_robustness([scorer(Silent())], folder, {"shift": [4]}, {"blur": [1]}, tmp_path / "made", workers=0)
    page = write_report(made, summarise(made), tmp_path / "report").read_text()
    assert "never" in page
