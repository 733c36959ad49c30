"""Sets of forced choices and sets whose pairs differ in size, through the benchmark and its command."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from msds_plugin.adapters.benchmark import load_choices, load_csv, run, run_choices, summarise
from msds_plugin.adapters.cli.app import app
from msds_plugin.adapters.scorers import Scorer
from msds_plugin.adapters.scoring.options import Run
from msds_plugin.adapters.wrap import ToolkitMetric

RUN = Run("cpu", "torch", workers=0)


class Distance(nn.Module):
    def forward(self, x, y):
        return (x - y).abs().mean((1, 2, 3))


def scorer():
    return Scorer("error", ToolkitMetric(Distance(), True, "error"), torch.device("cpu"), {}, True, False)


@pytest.fixture
def folder(tmp_path):
    """Five references, four noisy versions each; the last of them a little smaller than its reference."""
    rng = np.random.default_rng(0)
    opinions, choices = ["ref,dist,mos"], ["reference,a,b,share,answers"]
    for r in range(5):
        reference = rng.integers(60, 196, (36, 40, 3))
        Image.fromarray(reference.astype(np.uint8)).save(tmp_path / f"r{r}.png")
        for s in range(4):
            noisy = (reference + rng.normal(0, 6 * (s + 1), reference.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy[: 36 - 12 * (s == 3)]).save(tmp_path / f"r{r}_{s}.png")
            opinions.append(f"r{r}.png,r{r}_{s}.png,{9 - s + 10 * r}")
        choices += [f"r{r}.png,r{r}_{a}.png,r{r}_{b}.png,{share},20" for a, b, share in ((0, 1, 0.1), (1, 2, 0.3), (2, 0, 0.9))]
    (tmp_path / "opinions.csv").write_text("\n".join(opinions))
    (tmp_path / "choices.csv").write_text("\n".join(choices))
    return tmp_path


def test_choices_are_scored_once_and_counted(folder):
    found = run_choices([scorer()], [load_choices(folder / "choices.csv")], folder / "r.sqlite", RUN)
    row = found.table.iloc[0]
    assert (row["dataset"], row["metric"], row["count"], row["references"], row["answers"]) == ("choices", "error", 15, 5, 300)
    assert row["agreement"] == pytest.approx((0.9 + 0.7 + 0.9) / 3)  # it prefers less noise, as people do
    assert row["ceiling"] == pytest.approx(row["agreement"])
    assert row["of_ceiling"] == pytest.approx(1)
    assert found.failures.empty
    assert "choices has 5 references" in found.notes[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("r0.png,r0_0.png,r0_1.png,1.2,20", "a share outside"),
        ("r0.png,r0_0.png,r0_1.png,much,20", "a share outside"),
        ("r0.png,r0_0.png,r0_1.png,0.5,0", "answers that is not positive"),
        ("r0.png,r0_0.png,r0_0.png,0.5,20", "line 17 has an image compared with itself"),
    ],
)
def test_tables_of_choices_that_are_wrong(folder, line, message):
    file = folder / "choices.csv"
    file.write_text(file.read_text() + f"\n{line}")
    with pytest.raises(ValueError, match=message):
        load_choices(file)


def test_tables_of_choices_without_columns(folder):
    with pytest.raises(ValueError, match="no column for a, b, share"):
        load_choices(folder / "opinions.csv")
    with pytest.raises(FileNotFoundError, match=r"no CSV file at .*none\.csv"):
        load_choices(folder / "none.csv")
    file = folder / "choices.csv"
    file.write_text("\n".join(line.rsplit(",", 1)[0] for line in file.read_text().splitlines()))
    assert (load_choices(file).table["answers"] == 1).all()


def test_pairs_that_differ_in_size(folder):
    data = load_csv(folder / "opinions.csv")
    made = run([scorer()], [data], run=RUN)
    assert len(made.scores.failures) == 5
    assert made.notes == (
        "In 5 of 20 pairs of opinions the two images differ in size: error can compare them only where few pixels differ; "
        "--resize would resample.",
    )
    for method in ("bicubic", "bilinear", "nearest"):
        made = run([scorer(), *(["deepssim-fast"] if method == "nearest" else [])], [data], run=RUN, resize=method)
        assert made.scores.failures.empty
        assert made.resampled == {("opinions", "error"): 5}
    summed = summarise(made.scores, notes=made.notes, resampled=made.resampled)
    assert summed.table["resampled"].tolist() == [5, 0]
    assert "error got the distorted one resampled (nearest)" in summed.notes[0]
    assert summed.table["within_krcc"][0] == 1
    assert abs(summed.table["srcc"][0]) < 0.9  # references differ in level, which only the whole table sees
    with pytest.raises(ValueError, match="choose nearest, bilinear, bicubic"):
        run([scorer()], [data], run=RUN, resize="seam")


def test_the_command(folder, monkeypatch):
    monkeypatch.chdir(folder)
    base = ["benchmark", "-m", "psnr", "-m", "ssim", "--resamples", "50", "--workers", "0", "--device", "cpu"]
    done = CliRunner().invoke(
        app, [*base, "--csv", "opinions.csv", "--choices", "choices.csv", "--resize", "bicubic", "--report", "both"]
    )
    assert done.exit_code == 0, done.output
    assert "mean Kendall tau" in done.stdout
    assert "of ceiling" in done.stdout
    page = (folder / "both/report.html").read_text()
    text = (folder / "both/report.md").read_text()
    for heading in ("Within each reference", "Forced choices", "Differences on forced choices"):
        assert heading in page
        assert heading in text
    assert "needed_references" in pd.read_csv(folder / "both/significance.csv")
    assert set(pd.read_csv(folder / "both/agreement.csv")["resampled"]) == {5}
    unable = CliRunner().invoke(app, [*base, "--csv", "opinions.csv"])
    assert unable.exit_code == 1
    assert "--resize would resample" in unable.output
    only = CliRunner().invoke(app, [*base, "--choices", "mine=choices.csv", "--report", "one", "-o", "c.csv"])
    assert only.exit_code == 0, only.output
    assert (folder / "one/report.html").exists()
    assert pd.read_csv("c.csv")["dataset"].tolist() == ["mine", "mine"]
    assert CliRunner().invoke(app, [*base, "--csv", "opinions.csv", "--resize", "seam"]).exit_code == 2
