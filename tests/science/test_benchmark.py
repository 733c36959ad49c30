import dataclasses
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from msds_plugin.adapters.benchmark import datasets, failures, runner, statistics, summary
from msds_plugin.adapters.benchmark.datasets import Dataset, load_csv
from msds_plugin.adapters.benchmark.report import page
from msds_plugin.adapters.cli.app import app
from msds_plugin.adapters.cli.shared import terminal
from msds_plugin.adapters.scorers import MetricUnavailableError, Scorer, create_scorer
from msds_plugin.adapters.scoring import store
from msds_plugin.adapters.scoring.options import Run
from msds_plugin.adapters.scoring.store import Results, ResultsWriteError
from msds_plugin.adapters.wrap import ToolkitMetric

RUN = Run("cpu", "torch", workers=0)


class MeanError(nn.Module):
    """A distance that counts how often it is asked."""

    def __init__(self, power=1.0):
        super().__init__()
        self.power = nn.Parameter(torch.tensor(power))
        self.asked = 0

    def forward(self, x, y):
        self.asked += len(x)
        return ((x - y).abs() ** self.power).mean((1, 2, 3)).detach()


def scorer(module=None, name="error"):
    return Scorer(name, ToolkitMetric(module or MeanError(), True, "error"), torch.device("cpu"), {}, True, False)


def bench(metrics, datasets, results=None, run=RUN, **options):
    return runner.run(metrics, datasets, results, run, **options)


def make_images(folder, references=6, strengths=4, size=(40, 48), seed=0):
    """A table of noisy images and the opinions on them, lower for stronger noise."""
    rng = np.random.default_rng(seed)
    rows = []
    folder.mkdir(parents=True, exist_ok=True)
    for r in range(references):
        reference = rng.integers(60, 196, (*size, 3))
        Image.fromarray(reference.astype(np.uint8)).save(folder / f"r{r}.png")
        for s in range(strengths):
            noise = rng.integers(-8 * (s + 1), 8 * (s + 1) + 1, reference.shape)
            Image.fromarray((reference + noise).clip(0, 255).astype(np.uint8)).save(folder / f"r{r}_{s}.png")
            opinion = 5 - s + 0.3 * rng.standard_normal()
            rows.append((f"r{r}.png", f"r{r}_{s}.png", opinion, ("weak", "strong")[2 * s // strengths], 0.4))
    table = pd.DataFrame(rows, columns=["ref_name", "dist_name", "mos", "dist_type", "mos_std"])
    table.to_csv(folder / "table.csv", index=False)
    return load_csv(folder / "table.csv", name=folder.name)


@pytest.fixture
def data(tmp_path):
    return make_images(tmp_path / "images")


def test_scores_beside_opinions(data, tmp_path):
    found = bench([scorer(), "psnr"], [data]).scores
    assert found.metrics == ["error", "psnr"]
    assert found.lower_is_better == {"error": True, "psnr": False}
    assert len(found.table) == 2 * len(data.table)
    rows = found.of("images", "error")
    for row in rows.to_dict("records")[::7]:
        pair = [np.asarray(Image.open(row[side]), dtype=float) / 255 for side in ("reference", "distorted")]
        assert row["score"] == pytest.approx(np.abs(pair[0] - pair[1]).mean(), abs=1e-6)
    assert rows["opinion"].tolist() == data.table["score"].tolist()
    assert rows["distortion"].tolist() == data.table["distortion"].tolist()
    assert (found.table["seconds"] > 0).all()
    assert len(found.failures) == 0


def test_only_what_is_missing_is_computed(data, tmp_path):
    results = tmp_path / "results.sqlite"
    module = MeanError()
    half = Dataset("images", data.table.iloc[:10], False)
    bench([scorer(module)], [half], results)
    assert module.asked == 10 + 1  # and one that warms it up
    module.asked = 0
    whole = bench([scorer(module)], [data], results)
    assert module.asked == 14 + 1
    module.asked = 0
    other = MeanError(2.0)
    again = bench([scorer(module), scorer(other, "squared")], [data], results)
    assert module.asked == 0
    assert other.asked == 24 + 1
    pd.testing.assert_frame_equal(again.scores.of("images", "error"), whole.scores.table)


def test_scores_of_other_weights_options_or_precision_are_not_mixed(data, tmp_path):
    results = tmp_path / "results.sqlite"
    one, two = MeanError(1.0), MeanError(2.0)
    first = bench([scorer(one)], [data], results)
    second = bench([scorer(two)], [data], results)
    assert two.asked > 0
    assert not np.allclose(first.scores.table["score"], second.scores.table["score"])
    two.asked = 0
    bench([scorer(two)], [data], results, Run("cpu", "torch", True, workers=0))
    assert two.asked > 0
    torch.manual_seed(0)
    spec = "deepssim,backbone=alexnet,weights=None,layers=relu1"
    third = bench([spec, "deepssim,backbone=alexnet,weights=None,layers=relu2"], [data], results)
    assert third.scores.metrics == [
        "deepssim(alexnet, weights=None, layers=relu1)",
        "deepssim(alexnet, weights=None, layers=relu2)",
    ]
    scores = third.scores.table.pivot(index="distorted", columns="metric", values="score")
    assert not np.allclose(scores.iloc[:, 0], scores.iloc[:, 1])


def test_a_changed_image_is_scored_again(data, tmp_path):
    results = tmp_path / "results.sqlite"
    before = bench([scorer()], [data], results).scores.table
    changed = data.table["distorted"][3]
    Image.open(data.table["reference"][3]).save(changed)
    after = bench([scorer()], [data], results).scores.table
    assert before["score"][3] > 0
    assert after["score"][3] == 0
    assert (before["score"] != after["score"]).sum() == 1


def test_failures_are_recorded_left_out_and_tried_again(data, tmp_path):
    results = tmp_path / "results.sqlite"
    broken, absent, tiny = (Path(data.table["distorted"][i]) for i in (1, 6, 11))
    kept = broken.read_bytes()
    broken.write_bytes(kept[:50])
    absent.unlink()
    Image.new("RGB", (5, 5)).save(tiny)
    found = bench([scorer(), "psnr"], [data], results)
    reasons = found.scores.failures
    assert len(reasons) == 6
    assert reasons["error"].notna().all()
    assert "cannot read" in reasons["error"][0]
    summed = summary.summarise(found.scores, resamples=20)
    assert summed.table["failed"].tolist() == [3, 3]
    assert summed.table["count"].tolist() == [21, 21]
    assert summed.notes[0] == "error has no score for 3 of 24 images of images."
    good = found.scores.of("images", "error")
    good = good[good["error"].isna()]
    assert summed.table["srcc"][0] == pytest.approx(-statistics.srcc(good["score"], good["opinion"]))
    broken.write_bytes(kept)
    again = bench([scorer(), "psnr"], [data], results)
    assert len(again.scores.failures) == 4


def test_two_data_sets_of_opposite_direction(data, tmp_path):
    dmos = Dataset("dmos", data.table.assign(score=-data.table["score"]).drop(columns=["distortion", "std"]), True)
    module = MeanError()
    found = bench([scorer(module), "psnr"], [data, dmos])
    assert module.asked == 24 + 1  # the same pairs: once
    summed = summary.summarise(found.scores, resamples=50)
    table = summed.table.set_index(["dataset", "metric"])
    assert (table["srcc"] > 0.7).all()
    assert table.loc[("images", "psnr"), "srcc"] == pytest.approx(table.loc[("dmos", "psnr"), "srcc"])
    assert np.isnan(table.loc[("dmos", "psnr"), "outlier_ratio"])
    assert set(summed.by_distortion["dataset"]) == {"images"}
    assert set(summed.significance["dataset"]) == {"images", "dmos"}
    assert summed.overall.set_index("metric").loc["psnr", "monotonicity"] == pytest.approx(table["srcc"].loc[:, "psnr"].mean())


def test_names_must_differ(data):
    with pytest.raises(ValueError, match="two metrics of one name"):
        bench([scorer(), scorer()], [data])
    with pytest.raises(ValueError, match="two data sets of one name"):
        bench([scorer()], [data, data])
    with pytest.raises(ValueError, match="no metric given"):
        bench([], [data])
    with pytest.raises(ValueError, match="did you mean"):
        bench(["msdss"], [data])
    with pytest.raises(ValueError, match="cannot be made"):
        bench(["deepssim,backbone=alexnet,wrong=1,weights=None"], [data])


def test_a_metric_that_cannot_be_made_costs_its_own_column(data, monkeypatch):
    def create(metric, *options):
        if metric == "lost":
            raise MetricUnavailableError("its weights are missing")
        return create_scorer(metric, *options)

    monkeypatch.setattr(runner, "create_scorer", create)
    made = bench(["lost", "piq:psnr"], [data])
    assert made.scores.metrics == ["piq:psnr"]
    assert made.unavailable == {"lost": "its weights are missing"}
    with pytest.raises(MetricUnavailableError, match="weights are missing"):
        bench(["lost"], [data])


def frame(**columns):
    return pd.DataFrame(columns)


def test_overall_weighs_the_factors_openly():
    table = frame(dataset="d", metric=["a", "b"], plcc=[0.9, 0.8], srcc=[0.8, -0.2], seconds=[0.1, 1e-9])
    kinds = frame(
        dataset="d",
        metric=["a", "a", "a", "b", "b", "b"],
        distortion=["blur", "noise", "rare", "blur", "noise", "JPEG"],
        srcc=[0.7, 0.5, 0.1, -0.5, math.nan, 0.9],
        count=[10, 10, 4, 10, 10, 10],
    )
    kinds.loc[len(kinds)] = ["d", "a", "JPEG", 0.9, 10]
    found = summary.overall(table, kinds).set_index("metric")
    assert found.loc["a"].tolist() == pytest.approx([0.9, 0.8, 0.5, 0.5, 0.3 * (0.9 + 0.8 + 0.5) + 0.1 * 0.5])
    assert found.loc["b"].tolist() == pytest.approx([0.8, 0.0, 0.0, 1.0, 0.3 * 0.8 + 0.1])
    assert list(found.index) == ["a", "b"]
    fast = summary.overall(table, kinds, {"speed": 2.0})
    assert fast["metric"].tolist() == ["b", "a"]
    assert fast["overall"].tolist() == pytest.approx([1.0, 0.5])
    unknown = summary.overall(table, kinds.iloc[:0]).set_index("metric")
    assert np.isnan(unknown["consistency"]).all()
    assert unknown.loc["a", "overall"] == pytest.approx((0.3 * (0.9 + 0.8) + 0.1 * 0.5) / 0.7)
    for factors in ({"beauty": 1.0}, {"speed": -1.0}, {"speed": 0.0}):
        with pytest.raises(ValueError, match="factors"):
            summary.overall(table, kinds, factors)


def test_a_metric_that_fails_is_not_ranked_first_for_it():
    table = frame(
        dataset=["easy", "easy", "hard", "hard"],
        metric=["fails", "works"] * 2,
        plcc=[0.97, 0.97, math.nan, 0.7],
        srcc=[0.97, 0.97, math.nan, 0.7],
        seconds=[0.1, 0.1, math.nan, 0.1],
    )
    kinds = frame(
        dataset="easy",
        metric=["fails"] * 3 + ["works"] * 3,
        distortion=["blur", "noise", "original"] * 2,
        srcc=[0.9, 1.0, math.nan, 0.8, 0.6, math.nan],  # the opinions of originals are all equal: nobody's fault
        count=[10, 3, 6, 10, 10, 6],  # seven of noise have no score
    )
    found = summary.overall(table, kinds).set_index("metric")
    assert list(found.index) == ["works", "fails"]
    assert found.loc["fails", ["accuracy", "monotonicity", "consistency"]].tolist() == pytest.approx([0.485, 0.485, 0])
    assert found.loc["works", "consistency"] == pytest.approx(0.6)


def test_there_is_no_overall_figure_where_speed_alone_is_known():
    table = frame(dataset="d", metric=["a", "b"], plcc=math.nan, srcc=math.nan, seconds=[0.1, 0.2])
    kinds = pd.DataFrame(columns=["dataset", "metric", "distortion", "srcc", "count"])
    assert summary.overall(table, kinds)["overall"].isna().all()
    assert summary.overall(table, kinds, {"speed": 1.0})["overall"].notna().all()  # as it was asked for


def scores_of(opinion, reference, **metrics):
    rows = [
        frame(
            dataset="d",
            metric=name,
            reference=reference,
            distorted=[f"x{i}" for i in range(len(opinion))],
            distortion=None,
            opinion=opinion,
            std=math.nan,
            score=score,
            seconds=0.01,
            error=None,
        )
        for name, score in metrics.items()
    ]
    return summary.Scores(pd.concat(rows, ignore_index=True), dict.fromkeys(metrics, False), {"d": False})


def test_notes_say_what_a_reader_must_know():
    opinion = np.arange(12.0)
    reference = [f"r{i // 4}" for i in range(12)]
    notes = summary.summarise(scores_of(opinion, reference, a=-opinion, b=opinion * 0), resamples=20).notes
    assert any("a went against the direction" in note for note in notes)
    assert any("there is no correlation, as the scores are all the same: b" in note for note in notes)
    assert any("3 references" in note for note in notes)
    assert any("no types of distortion" in note for note in notes)
    wrong = summary.summarise(scores_of(opinion, reference, a=-opinion, b=-opinion), resamples=20).notes
    assert any("Every metric goes against the opinions of d" in note for note in wrong)


def wave(frequency, angle=0.0, size=128):
    rows, columns = np.mgrid[:size, :size]
    phase = 2 * np.pi * frequency * (np.cos(angle) * columns + np.sin(angle) * rows)
    return torch.tensor(0.5 + 0.4 * np.sin(phase)).float().expand(3, -1, -1)


@pytest.mark.parametrize("angle", [0.0, 0.5, np.pi / 2])
def test_high_frequency_share_of_waves(angle):
    assert failures.high_frequency_share(wave(0.10, angle)) < 0.001
    assert failures.high_frequency_share(wave(0.40, angle)) > 0.999
    assert failures.high_frequency_share(wave(0.10, angle), frequency=0.05) > 0.999
    both = (wave(0.1, angle) + wave(0.4, angle)) / 2
    assert failures.high_frequency_share(both) == pytest.approx(0.5, abs=0.01)


def test_high_frequency_share_of_noise_is_the_area_of_the_spectrum():
    noise = torch.rand(1, 3, 255, 300, generator=torch.Generator().manual_seed(0))
    for frequency in (0.1, 0.25, 0.4):
        assert failures.high_frequency_share(noise, frequency) == pytest.approx(1 - np.pi * frequency**2, abs=0.02)
    assert math.isnan(failures.high_frequency_share(torch.full((3, 20, 20), 0.3)))


def test_errors_that_go_with_high_frequencies_are_found(tmp_path):
    rng = np.random.default_rng(2)
    references = [f"r{i}" for i in range(25)]
    energy = {name: i / 25 for i, name in enumerate(references)}
    reference = np.repeat(references, 6)
    opinion = rng.uniform(0, 10, 150)
    share = np.array([energy[name] for name in reference])
    bad = opinion + rng.choice([-1, 1], 150) * 3 * share * rng.uniform(0.5, 1, 150)
    scores = scores_of(opinion, reference, bad=bad, even=opinion + rng.choice([-1, 1], 150) * rng.uniform(0, 1, 150))
    errors = failures.errors(scores, summary.summarise(scores, resamples=0).mappings)
    assert errors["error"].tolist() == pytest.approx(np.abs(errors["predicted"] - errors["opinion"]).tolist())
    assert (errors[errors["metric"] == "bad"]["error"].diff().dropna() <= 0).all()
    distorted = {f"x{i}": math.nan for i in range(150)}
    found = failures.relations(errors, energy | distorted).set_index(["metric", "image"])
    assert found.loc[("bad", "reference"), "verdict"] == "grows"
    assert found.loc[("bad", "reference"), "low"] > 0.3
    assert found.loc[("bad", "reference"), "outliers"] == 15
    assert found.loc[("bad", "reference"), "above_median"] >= 13
    assert found.loc[("even", "reference"), "verdict"] == "not shown"
    assert found.loc[("bad", "distorted"), "count"] == 0
    claims = failures.claims(found.reset_index())
    assert any(
        claim.startswith("d: errors grow with the high-frequency energy of the reference image for bad (") for claim in claims
    )


def invoke(*arguments):
    return CliRunner().invoke(
        app, ["benchmark", "--workers", "0", "--device", "cpu", "--resamples", "50", *map(str, arguments)]
    )


def test_command(data, tmp_path):
    results, output = tmp_path / "results.sqlite", tmp_path / "table.csv"
    folder = tmp_path / "images"
    said = invoke(
        "-m", "psnr", "-m", "piq:ssim", "--csv", f"noise={folder / 'table.csv'}", "--results", results, "-o", output,
        "--factors", "accuracy=1,speed=0",
    )  # fmt: skip
    assert said.exit_code == 0, said.output
    table = pd.read_csv(output)
    assert table["dataset"].tolist() == ["noise", "noise"]
    assert (table["srcc"] > 0.7).all()
    lines = said.stdout.splitlines()
    assert lines[0].startswith("data set\tmetric\tSRCC")
    assert lines[1].startswith("noise\tpsnr\t0.")
    assert "accuracy (1)" in said.stdout
    assert "Scores are kept in" in said.stderr
    Path(data.table["distorted"][0]).unlink()
    failed = invoke("-m", "psnr", "--csv", folder / "table.csv", "--results", results, "--lower-better")
    assert failed.exit_code == 1
    assert "Missing scores: 1" in failed.stderr
    assert "check whether lower opinions are better" in failed.stderr
    parts = failed.stdout.splitlines()[1].split("\t")
    assert parts[:2] == ["table", "psnr"]
    assert parts[2].startswith("-0.")


def test_command_with_half_precision_and_a_data_set_of_pyiqa(data, tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr(datasets, "load_pyiqa", lambda *given: loaded.append(given) or dataclasses.replace(data, name="csiq"))
    spec = ["-m", "deepssim,backbone=alexnet,weights=None,layers=relu1", "--dataset", "csiq", "--data-root", tmp_path]
    said = invoke(*spec, "--amp", "--results", tmp_path / "r", "--report", tmp_path)
    assert said.exit_code == 0, said.output
    assert loaded == [("csiq", str(tmp_path))]
    assert said.stdout.splitlines()[1].startswith("csiq\tdeepssim(alexnet")
    assert "autocast" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_names_are_whole_on_a_terminal(data, monkeypatch, capsys, width):
    monkeypatch.setenv("COLUMNS", str(width))
    name = "deepssim-lite-fast(efficientnet_lite0)"
    summed = summary.summarise(bench([scorer(), scorer(MeanError(2.0), name)], [data]).scores, resamples=20)
    for section in (page.agreement(summed, ["srcc"]), page.overall(summed), page.needed(summed.significance)):
        terminal._draw(section.headings, section.texts, section.numbers, section.title)
        assert name in capsys.readouterr().out


def test_differences_that_are_shown_are_listed():
    rng = np.random.default_rng(0)
    opinion = rng.random(120)
    scores = scores_of(opinion, [f"r{i // 4}" for i in range(120)], good=opinion, bad=rng.random(120))
    section = page.differences(summary.summarise(scores, resamples=100))
    assert section.texts[0][:3] == ["d", "good", "bad"]


def test_command_interrupted(data, tmp_path, monkeypatch):
    original = store.score_pairs

    def interrupted(pairs, *arguments, **options):
        for place, result in enumerate(original(pairs, *arguments, **options)):
            if place == 5:
                raise KeyboardInterrupt
            yield result

    command = ["-m", "psnr", "--csv", tmp_path / "images" / "table.csv", "--results", tmp_path / "results.sqlite"]
    monkeypatch.setattr(store, "score_pairs", interrupted)
    said = invoke(*command)
    assert said.exit_code == 130, said.output
    assert "start again to go on from here" in said.stderr
    with Results(tmp_path / "results.sqlite") as kept:
        assert len(kept.scored(1)) == 5
    monkeypatch.setattr(store, "score_pairs", original)
    assert invoke(*command).exit_code == 0


def test_command_on_a_full_disk(data, tmp_path, monkeypatch):
    results = tmp_path / "results.sqlite"
    command = ["-m", "psnr", "--csv", tmp_path / "images" / "table.csv", "--results", results]
    with monkeypatch.context() as patch:

        def full(*_):
            raise ResultsWriteError(f"cannot write {results}: database or disk is full")

        patch.setattr(Results, "add", full)
        said = invoke(*command)
    assert said.exit_code == 2, said.output
    assert said.stderr.splitlines()[-1].startswith(f"Error: cannot write {results}: database or disk is full. stdout has")
    heading, *rows = [line.split("\t") for line in said.stdout.splitlines()]
    assert heading == ["metric", "reference", "distorted", "score"]
    assert rows
    assert all(float(row[3]) > 0 for row in rows)
    assert invoke(*command).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "psnr"], "no data set"),
        (["-m", "psnr", "--dataset", "live"], "--data-root"),
        (["-m", "psnr", "--csv", "absent.csv"], "no CSV file"),
        (["-m", "psnr", "--csv", "a", "--csv", "b", "--csv", "c", "--root", "x", "--root", "y"], "2 times for 3 tables"),
        (["-m", "psnr", "--csv", "a", "--factors", "speed"], "name=share"),
        (["-m", "psnr", "--csv", "a", "--factors", "beauty=1"], "unknown factors"),
        (["-m", "psnr", "--csv", "a", "--report", __file__], "is a file"),
    ],
)
def test_command_refuses_what_cannot_work(tmp_path, arguments, message):
    said = invoke(*arguments, "--results", tmp_path / "results.sqlite")
    assert said.exit_code == 2
    assert message in said.stderr
    assert "Traceback" not in said.output
