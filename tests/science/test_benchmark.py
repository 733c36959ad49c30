import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
import typer
from PIL import Image

from msds_plugin.adapters.benchmark import datasets, failures, load_choices, run_choices, runner, statistics, summary
from msds_plugin.adapters.benchmark.datasets import Dataset, load_csv
from msds_plugin.adapters.benchmark.report import page
from msds_plugin.adapters.cli.benchmark import _lean
from msds_plugin.adapters.cli.shared import terminal
from msds_plugin.adapters.scorers import MetricUnavailableError, create_scorer
from msds_plugin.adapters.scoring import Run
from msds_plugin.adapters.scoring.store import Results, ResultsWriteError

RUN = Run("cpu", "torch", workers=0)


def bench(metrics, datasets, results=None, run=RUN, **options):
    return runner.run(metrics, datasets, results, run, **options)


@pytest.fixture
def data(tmp_path, save):
    """Noisy images of six references and the opinions on them, lower for stronger noise."""
    rng, rows, folder = np.random.default_rng(0), [], tmp_path / "images"
    for r in range(6):
        reference = rng.integers(60, 196, (40, 48, 3))
        save(reference, folder / f"r{r}.png")
        for s in range(4):
            noise = rng.integers(-8 * (s + 1), 8 * (s + 1) + 1, reference.shape)
            save(reference + noise, folder / f"r{r}_{s}.png")
            rows.append((f"r{r}.png", f"r{r}_{s}.png", 5 - s + 0.3 * rng.standard_normal(), ("weak", "strong")[s // 2], 0.4))
    table = pd.DataFrame(rows, columns=["ref_name", "dist_name", "mos", "dist_type", "mos_std"])
    table.to_csv(folder / "table.csv", index=False)
    return load_csv(folder / "table.csv", name="images")


def test_scores_beside_opinions(data, tmp_path, scorer):
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
    kinds = dict.fromkeys(("distorted", "distortion"), "category")
    paths = data.table.assign(reference=data.table["reference"].map(Path), opinion=0, error="").astype(kinds)
    again = bench([scorer(), "psnr"], [dataclasses.replace(data, table=paths)]).scores.table
    pd.testing.assert_frame_equal(again.drop(columns="seconds"), found.table.drop(columns="seconds"))


def test_only_what_is_missing_is_computed(data, tmp_path, scorer, mean_error):
    results = tmp_path / "results.sqlite"
    module = mean_error()
    half = Dataset("images", data.table.iloc[:10], False)
    bench([scorer(module)], [half], results)
    assert module.asked == 10 + 1  # and one that warms it up
    module.asked = 0
    whole = bench([scorer(module)], [data], results)
    assert module.asked == 14 + 1
    module.asked = 0
    other = mean_error(2.0)
    again = bench([scorer(module), scorer(other, "squared")], [data], results)
    assert module.asked == 0
    assert other.asked == 24 + 1
    pd.testing.assert_frame_equal(again.scores.of("images", "error"), whole.scores.table)


def test_scores_of_other_weights_options_or_precision_are_not_mixed(data, tmp_path, scorer, mean_error):
    results = tmp_path / "results.sqlite"
    one, two = mean_error(1.0), mean_error(2.0)
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


def test_a_changed_image_is_scored_again(data, tmp_path, scorer):
    results = tmp_path / "results.sqlite"
    before = bench([scorer()], [data], results).scores.table
    changed = data.table["distorted"][3]
    Image.open(data.table["reference"][3]).save(changed)
    after = bench([scorer()], [data], results).scores.table
    assert before["score"][3] > 0
    assert after["score"][3] == 0
    assert (before["score"] != after["score"]).sum() == 1


def test_failures_are_recorded_left_out_and_tried_again(data, tmp_path, scorer):
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


def test_two_data_sets_of_opposite_direction(data, tmp_path, scorer, mean_error):
    dmos = Dataset("dmos", data.table.assign(score=-data.table["score"]).drop(columns=["distortion", "std"]), True)
    module = mean_error()
    found = bench([scorer(module), "psnr"], [data, dmos])
    assert module.asked == 24 + 1  # the same pairs: once
    summed = summary.summarise(found.scores, resamples=50)
    table = summed.table.set_index(["dataset", "metric"])
    assert (table["srcc"] > 0.7).all()
    assert table.loc[("images", "psnr"), "srcc"] == pytest.approx(table.loc[("dmos", "psnr"), "srcc"])
    assert np.isnan(table.loc[("dmos", "psnr"), "outlier_ratio"])
    assert set(summed.by_distortion["dataset"]) == {"images"}
    strong = found.scores.of("images", "error").query("distortion == 'strong'")
    expected = statistics.agreement(*(strong[name] for name in ("score", "opinion", "reference", "std")), True, 50).as_row()
    own = summed.by_distortion.query("metric == 'error' and distortion == 'strong'").iloc[0]
    assert own[list(expected)].to_dict() == expected
    assert set(summed.significance["dataset"]) == {"images", "dmos"}
    assert summed.overall.set_index("metric").loc["psnr", "monotonicity"] == pytest.approx(table["srcc"].loc[:, "psnr"].mean())


def test_names_must_differ(data, scorer):
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
    names = [f"x{i}" for i in range(len(opinion))]
    common = frame(dataset="d", reference=reference, distorted=names, distortion=None, opinion=opinion, std=math.nan)
    rows = [common.assign(metric=name, score=score, seconds=0.01, error=None) for name, score in metrics.items()]
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


OPTIONS = ("benchmark", "--workers", 0, "--device", "cpu", "--resamples", 50)


def test_a_terminal_is_not_shown_what_says_nothing():
    columns, rows = ["data set", "metric", "SRCC", "outliers"], [["a", "psnr", "0.5", "–"], ["a", "ssim", "0.6", "–"]]
    assert _lean(columns, rows, 2) == (["metric", "SRCC"], [["psnr", "0.5"], ["ssim", "0.6"]], 1)
    rows[1] = ["b", "ssim", "–", "0.1"]
    assert _lean(columns, rows, 2) == (columns, rows, 2)


def test_command(data, tmp_path, msds, monkeypatch):
    results, output = tmp_path / "results.sqlite", tmp_path / "table.csv"
    folder = tmp_path / "images"
    said = msds(*OPTIONS,
        "-m", "psnr", "-m", "piq:ssim", "--csv", f"noise={folder / 'table.csv'}", "--results", results, "-o", output,
        "--factors", "accuracy=1,speed=0",
    )  # fmt: skip
    table = pd.read_csv(output)
    assert table["dataset"].tolist() == ["noise", "noise"]
    assert (table["srcc"] > 0.7).all()
    lines = said.stdout.splitlines()
    assert lines[0].startswith("data set\tmetric\tSRCC")
    assert lines[1].startswith("noise\tpsnr\t0.")
    assert "accuracy (1)" in said.stdout
    assert "Scores are kept in" in said.stderr
    with monkeypatch.context() as terminal:
        terminal.setattr("msds_plugin.adapters.cli.benchmark.sys", SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True)))
        narrow = msds(*OPTIONS, "-m", "psnr", "--csv", folder / "table.csv", "--results", results).stdout.splitlines()
    assert narrow[0] == "metric\tSRCC\tKRCC\tPLCC\tRMSE\toutliers\ts / image\timages"  # of one data set
    (tmp_path / "absent.csv").write_text("ref,dist,mos\nr.png,a.png,1\nr.png,b.png,2\n")
    msds(*OPTIONS, "-m", "psnr", "--csv", tmp_path / "absent.csv", "--results", results, code=1, stdout="")
    Path(data.table["distorted"][0]).unlink()
    failed = msds(*OPTIONS, "-m", "psnr", "--csv", folder / "table.csv", "--results", results, "--lower-better", code=1)
    assert "Missing scores: 1" in failed.stderr
    assert "check whether lower opinions are better" in failed.stderr
    parts = failed.stdout.splitlines()[1].split("\t")
    assert parts[:2] == ["table", "psnr"]
    assert parts[2].startswith("-0.")


def test_command_with_half_precision_and_a_data_set_of_pyiqa(data, tmp_path, msds, monkeypatch):
    loaded = []
    monkeypatch.setattr(datasets, "load_pyiqa", lambda *given: loaded.append(given) or dataclasses.replace(data, name="csiq"))
    spec = ["-m", "deepssim,backbone=alexnet,weights=None,layers=relu1", "--dataset", "csiq", "--data-root", tmp_path]
    said = msds(*OPTIONS, *spec, "--amp", "--results", tmp_path / "r", "--report", tmp_path)
    assert loaded == [("csiq", str(tmp_path))]
    assert said.stdout.splitlines()[1].startswith("csiq\tdeepssim(alexnet")
    assert "autocast" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_names_are_whole_on_a_terminal(data, monkeypatch, capsys, width, scorer, mean_error):
    monkeypatch.setenv("COLUMNS", str(width))
    name = "deepssim-lite-fast(efficientnet_lite0)"
    summed = summary.summarise(bench([scorer(), scorer(mean_error(2.0), name)], [data]).scores, resamples=20)
    for section in (page.agreement(summed, ["srcc"]), page.overall(summed), page.needed(summed.significance)):
        terminal._draw(section.headings, section.texts, section.numbers, section.title)
        assert name in capsys.readouterr().out


def test_differences_that_are_shown_are_listed():
    rng = np.random.default_rng(0)
    opinion = rng.random(120)
    scores = scores_of(opinion, [f"r{i // 4}" for i in range(120)], good=opinion, bad=rng.random(120))
    section = page.differences(summary.summarise(scores, resamples=100))
    assert section.texts[0][:3] == ["d", "good", "bad"]


def test_command_on_a_full_disk(data, tmp_path, msds, monkeypatch):
    results = tmp_path / "results.sqlite"
    command = ["-m", "psnr", "--csv", tmp_path / "images" / "table.csv", "--results", results]
    with monkeypatch.context() as patch:

        def full(*_):
            raise ResultsWriteError(f"cannot write {results}: database or disk is full")

        patch.setattr(Results, "add", full)
        said = msds(*OPTIONS, *command, code=2)
    assert said.stderr.splitlines()[-1].startswith(f"Error: cannot write {results}: database or disk is full. stdout has")
    heading, *rows = [line.split("\t") for line in said.stdout.splitlines()]
    assert heading == ["metric", "reference", "distorted", "score"]
    assert rows
    assert all(float(row[3]) > 0 for row in rows)
    msds(*OPTIONS, *command)


# Forced choices, and pairs that differ in size


@pytest.fixture
def folder(tmp_path, save):
    """Five references, four noisy versions each; the last of them a little smaller than its reference."""
    rng = np.random.default_rng(0)
    opinions, choices = ["ref,dist,mos"], ["reference,a,b,share,answers"]
    for r in range(5):
        reference = rng.integers(60, 196, (36, 40, 3))
        save(reference, tmp_path / f"r{r}.png")
        for s in range(4):
            noisy = reference + rng.normal(0, 6 * (s + 1), reference.shape)
            save(noisy[: 36 - 12 * (s == 3)], tmp_path / f"r{r}_{s}.png")
            opinions.append(f"r{r}.png,r{r}_{s}.png,{9 - s + 10 * r}")
        choices += [f"r{r}.png,r{r}_{a}.png,r{r}_{b}.png,{share},20" for a, b, share in ((0, 1, 0.1), (1, 2, 0.3), (2, 0, 0.9))]
    (tmp_path / "opinions.csv").write_text("\n".join(opinions))
    (tmp_path / "choices.csv").write_text("\n".join(choices))
    return tmp_path


def test_choices_are_scored_once_and_counted(folder, scorer):
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
        ("r0.png,r0_0.png,r0_1.png,0,9,20", "line 17 has 6 fields, the first row 5"),
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
    file = folder / "choices.csv"
    file.write_text("\n".join(line.rsplit(",", 1)[0] for line in file.read_text().splitlines()))
    assert (load_choices(file).table["answers"] == 1).all()
    file.write_text("reference;a;b;share\nr0.png;r0_0.png;r0_1.png;1,000\n")
    assert load_choices(file).table["share"].tolist() == [1]


def test_pairs_that_differ_in_size(folder, scorer):
    data = load_csv(folder / "opinions.csv")
    made = runner.run([scorer()], [data], run=RUN)
    assert len(made.scores.failures) == 5
    assert made.notes == (
        "In 5 of 20 pairs of opinions the two images differ in size: error can compare them only where few pixels differ; "
        "--resize would resample.",
    )
    for method in ("bicubic", "bilinear", "nearest"):
        made = runner.run([scorer(), *(["deepssim-fast"] if method == "nearest" else [])], [data], run=RUN, resize=method)
        assert made.scores.failures.empty
        assert made.resampled == {("opinions", "error"): 5}
    summed = summary.summarise(made.scores, notes=made.notes, resampled=made.resampled)
    assert summed.table["resampled"].tolist() == [5, 0]
    assert "error got the distorted one resampled (nearest)" in summed.notes[0]
    assert summed.table["within_krcc"][0] == 1
    assert abs(summed.table["srcc"][0]) < 0.9  # references differ in level, which only the whole table sees


def test_command_on_choices_and_sizes_that_differ(folder, msds, monkeypatch):
    base = [*OPTIONS, "-m", "psnr", "-m", "ssim"]
    both = ["--csv", "opinions.csv", "--choices", "choices.csv"]
    wanted = ("mean Kendall tau", "of ceiling")
    msds(*base, *both, "--resize", "bicubic", "--report", "both", "-o", "t.csv", stdout=wanted)
    assert set(pd.read_csv(folder / "t.csv")["dataset"]) == {"opinions", "choices"}
    page = (folder / "both/report.html").read_text()
    text = (folder / "both/report.md").read_text()
    for heading in ("Within each reference", "Forced choices", "Differences on forced choices"):
        assert heading in page
        assert heading in text
    assert "needed_references" in pd.read_csv(folder / "both/significance.csv")
    assert set(pd.read_csv(folder / "both/agreement.csv")["resampled"]) == {5}
    msds(*base, "--csv", "opinions.csv", code=1, stderr="--resize would resample")
    msds(*base, "--choices", "mine=choices.csv", "--report", "one", "-o", "c.csv")
    assert (folder / "one/report.html").exists()
    assert len(pd.read_csv(folder / "one/choice_scores.csv")) == 2 * 15  # metrics, versions
    assert pd.read_csv(folder / "c.csv")["dataset"].tolist() == ["mine", "mine"]
    (folder / "r0_0.png").write_text("broken")
    base += ["-m", "deepssim,backbone=alexnet,weights=nowhere"]
    for more in ([], ["--csv", "opinions.csv"]):
        msds(*base, "--choices", "mine=choices.csv", *more, "--report", "lost", code=1)
        text = (folder / "lost/report.md").read_text()
        assert "could not be made, and is left out" in text
        assert "| mine | psnr | r0_0.png | cannot read" in text.replace(f"{folder}/", "")
        assert "mine has 5 references" in text
        assert "mine" in set(pd.read_csv(folder / "lost/failures.csv")["dataset"])
    # A reader of stdout that goes away, as head does, costs no file.
    monkeypatch.setattr("msds_plugin.adapters.cli.benchmark.show_table", Mock(side_effect=typer.Exit(141)))
    msds(*base[:-2], "--csv", "opinions.csv", "--report", "head", code=141)
    assert (folder / "head/report.html").exists()
