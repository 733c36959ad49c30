"""The published tables on miniature sets in the layouts that pyiqa's loaders read."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torchvision import models

from msds_plugin.adapters.benchmark import run, statistics
from msds_plugin.adapters.research.reproduce import PUBLISHED, SETS, look, reproduce, write_report
from msds_plugin.adapters.scoring import Run

RUN = Run(workers=0)

#: By set: folders of references and distorted images, their names with a place for reference and strength, the meta file.
LAYOUTS = {
    "tid2013": ("tid2013/reference_images", "tid2013/distorted_images", "I{r:02}.BMP", "i{r:02}_08_{s}.bmp", "TID2013"),
    "csiq": ("CSIQ/src_imgs", "CSIQ/dst_imgs", "{r}.png", "blur/{r}.BLUR.{s}.png", "CSIQ"),
    "kadid10k": ("kadid10k/images", "kadid10k/images", "I{r:02}.png", "I{r:02}_01_{s:02}.png", "KADID10k"),
    "live": ("LIVEIQA_release2", "LIVEIQA_release2", "refimgs/{r}.bmp", "gblur/img{r}{s}.bmp", "LIVEIQA"),
    "pipal": ("PIPAL/Train_Ref", "PIPAL/Dist_Imgs", "A{r:04}.bmp", "A{r:04}_00_{s:02}.bmp", "PIPAL"),
}
LOWER = {"csiq", "live"}  # difference scores


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A torch home with VGG16's file under its name, its values random."""
    folder = tmp_path_factory.mktemp("home") / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    features = {f"features.{k}": v for k, v in models.vgg16(weights=None).features.state_dict().items()}
    torch.save(features, folder / "vgg16-397923af.pth")
    return folder.parents[1]


def make(root, name, references=3, strengths=3):
    refs, dists, ref_name, dist_name, meta = LAYOUTS[name]
    rng = np.random.default_rng(0)
    rows = []
    for r in range(1, references + 1):
        reference = rng.integers(60, 196, (64, 64, 3))
        for s in range(strengths + 1):
            image = reference + rng.normal(0, 12 * s, reference.shape) if s else reference
            path = root / (dists if s else refs) / (dist_name if s else ref_name).format(r=r, s=s)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path)
            if s:
                opinion = (s if name in LOWER else 5 - s) + 0.01 * r
                rows.append((ref_name.format(r=r), dist_name.format(r=r, s=s), opinion, 0.2, "train"))
    table = pd.DataFrame(rows, columns=["ref_name", "dist_name", "mos", "std", "official_split"])
    (root / "meta_info").mkdir(exist_ok=True)
    table.to_csv(root / "meta_info" / f"meta_info_{meta}Dataset.csv", index=False)


@pytest.fixture
def root(tmp_path, home, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(home))
    folder = tmp_path / "sets"
    folder.mkdir()
    return folder


def test_every_layout_is_found_with_its_direction(root):
    for name in SETS:
        assert look(name, root).state == "missing"
        make(root, name)
        found = look(name, root)
        assert found.state == "whole"
        assert found.data.lower_is_better == (name in LOWER)
        assert len(found.data.table) == 9


@pytest.mark.slow
def test_measured_beside_published(root):
    for name in ("tid2013", "live", "csiq"):
        make(root, name)
    made = reproduce("all", root, run=RUN, resamples=20)
    assert len(made.table) == 2 * 5 * 2
    rows = made.table.set_index(["metric", "dataset", "statistic"])
    own = run([PUBLISHED["msds"].metric], [look("live", root).data], run=RUN).scores.table
    assert rows.loc[("msds", "live", "srcc"), "measured"] == pytest.approx(-statistics.srcc(own["score"], own["opinion"]))
    assert rows.loc[("msds", "live", "srcc"), "measured"] > 0.5  # blur lowers the score, and raises the DMOS
    assert rows.loc[("msds", "tid2013", "srcc"), "published"] == 0.864
    assert rows.loc[("msds", "tid2013", "plcc"), "published"] == 0.911
    assert np.isnan(rows.loc[("deepssim", "tid2013", "srcc"), "published"])
    for row in made.table[made.table["published"].notna() & made.table["measured"].notna()].to_dict("records"):
        assert row["difference"] == pytest.approx(row["measured"] - row["published"])
        assert row["inside"] == (row["low"] <= row["published"] <= row["high"])
        assert row["published"] in getattr(PUBLISHED["msds"], row["statistic"])[row["dataset"]]
    missing = rows.loc[("msds", "pipal", "srcc")]
    assert (missing["state"], missing["inside"]) == ("missing", None)
    assert np.isnan(missing["measured"])
    assert any("PIPAL is missing" in note and SETS["pipal"].where in note for note in made.notes)
    assert any("TID2013 has 9 images here, 3000" in note for note in made.notes)


@pytest.mark.slow
def test_a_partial_set_is_measured_but_not_judged(root):
    make(root, "kadid10k")
    (root / "kadid10k/images/I02_01_03.png").unlink()
    found = look("kadid10k", root)
    assert found.state == "partial"
    assert "1 of 9 pairs" in found.note
    assert "I02_01_03.png" in found.note
    made = reproduce("msds", root, ["kadid10k"], run=RUN, resamples=20)
    row = made.table.iloc[0]
    assert (row["images"], row["inside"]) == (8, None)
    assert any("in part" in note for note in made.notes)


def test_wrong_folders(root):
    make(root, "csiq")
    meta = root / "meta_info/meta_info_CSIQDataset.csv"
    text = meta.read_text()
    meta.write_text("ref_name,dist_name,mos\na.png,b.png,much\n")
    assert "cannot be used" in look("csiq", root).note
    meta.write_text(text.replace("BLUR", "blurred"))
    assert "9 of 9 pairs" in look("csiq", root).note
    meta.unlink()
    assert "meta_info_CSIQDataset.csv" in look("csiq", root).note
    assert not list(root.glob("**/*.tgz"))
    with pytest.raises(ValueError, match="choose msds, deepssim or all"):
        reproduce("lpips", root)
    with pytest.raises(ValueError, match="choose from tid2013"):
        reproduce("msds", root, ["koniq10k"])


def test_nothing_there_still_gives_a_report(root, tmp_path):
    made = reproduce("msds", root)
    assert made.failures.empty
    assert "is missing" in write_report(made, tmp_path / "report").read_text()


@pytest.mark.slow
def test_the_command_goes_on_where_it_stopped(root, tmp_path, msds, monkeypatch):
    make(root, "tid2013")
    arguments = ["reproduce", "deepssim", "--data-root", str(root), "--workers", "0", "--resamples", "50"]
    one = msds(*arguments, "--dataset", "tid2013", "--report", "report", "-o", "t.csv", stdout="TID2013")
    assert "Published and measured" in (tmp_path / "report/report.md").read_text()
    with monkeypatch.context() as patch:
        patch.setattr("msds_plugin.adapters.scoring.store.score_pairs", lambda *args, **kwargs: pytest.fail("scored again"))
        again = msds(*arguments, "--dataset", "tid2013")
    assert again.stdout == one.stdout
    next(root.glob("tid2013/distorted_images/*")).write_text("broken")
    msds(*arguments, "--dataset", "tid2013", "--report", "report", code=1)
    assert "1 in all; failures.csv lists them" in (tmp_path / "report/report.md").read_text()
    rest = msds(*arguments, code=1)
    assert "CSIQ is missing" in rest.output
