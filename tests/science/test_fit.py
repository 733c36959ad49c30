"""Fusion weights learned from opinion scores: the fit, its strength, and what comes of it on images."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from msds_plugin import registry
from msds_plugin.adapters.benchmark import fit, learning, parts
from msds_plugin.adapters.benchmark.datasets import Dataset, load_csv
from msds_plugin.adapters.images.read import read_image
from msds_plugin.adapters.scorers import create_scorer
from msds_plugin.adapters.scoring import Run
from msds_plugin.fusion_file import FusionFile, FusionFileError, FusionTarget

RUN = Run("cpu", "torch", workers=0)


def opinions(fused, seed=1, noise=0.0):
    return 100 / (1 + np.exp(-(fused - 0.5) / 0.15)) + noise * np.random.default_rng(seed).standard_normal(len(fused))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, save):
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


def judged(folder, weights, metric="ms-ssim", noise=0.0):
    """The data set with the opinions that viewers would have who see by these weights."""
    data = load_csv(folder / "table.csv")
    found = create_scorer(metric, "cpu", "torch", levels=len(weights), fusion=weights)
    with torch.inference_mode():
        scores = [float(found.metric(read_image(row.distorted), read_image(row.reference))) for row in data.table.itertuples()]
    opinion = opinions(0.5 + 0.2 * stats.zscore(scores), noise=noise)
    return Dataset("known", data.table.assign(score=opinion), False)


def level_scores(levels=3, items=200, seed=0):
    """Level scores that agree with each other about as much as those of real images do."""
    rng = np.random.default_rng(seed)
    return 1 / (1 + np.exp(-(rng.normal(0, 1.5, (items, 1)) + rng.normal(0, 0.8, (items, levels)))))


def learn(scores, opinion, strength=1e-8, **options):
    return learning.learn_weights(learning.Problem(scores, np.asarray(opinion, float), **options), strength)


class TestLearnWeights:
    @pytest.mark.parametrize(
        "weights", [(0.2, 0.3, 0.5), (0.7, 0.25, 0.05), (0.0, 1.0, 0.0), (0.1, 0.9), (0.1, 0.1, 0.2, 0.2, 0.4)]
    )
    @pytest.mark.parametrize("noise", [0.0, 2.0])
    def test_known_weights_are_recovered(self, weights, noise):
        scores = level_scores(len(weights), 700)
        found = learn(scores, opinions(scores @ np.array(weights), noise=noise))
        assert np.abs(found - weights).max() < 0.02
        assert found.sum() == pytest.approx(1)
        assert (found >= 0).all()

    def test_scale_and_place_of_both_sides_do_not_matter(self):
        scores = level_scores()
        opinion = opinions(scores @ (0.2, 0.3, 0.5), noise=3)
        found = learn(scores, opinion)
        np.testing.assert_allclose(learn(scores * 1e-4 + 7, opinion * 50 - 3), found, atol=1e-4)

    def test_no_weights_on_a_grid_have_a_higher_plcc(self):
        scores = level_scores(seed=3)
        opinion = opinions(scores @ (0.5, 0.1, 0.4), noise=15)
        best = fit.statistics.plcc(scores @ learn(scores, opinion), opinion)
        steps = np.linspace(0, 1, 6)
        grid = [(a, b, 1 - a - b) for a in steps for b in steps if a + b <= 1 + 1e-9]
        assert best >= max(fit.statistics.plcc(scores @ np.array(weights), opinion) for weights in grid) - 1e-6

    def test_a_level_that_goes_the_wrong_way_gets_no_weight(self):
        scores = level_scores(2)
        scores[:, 1] = 1 - scores[:, 1]
        assert learn(scores, opinions(scores[:, 0], noise=5))[1] < 0.01

    @pytest.mark.parametrize(
        ("scores", "opinion", "message"),
        [
            (np.ones((9, 3)), np.arange(9), "the scores are all the same"),
            (level_scores(3, 9), np.ones(9), "the opinions are all the same"),
            (level_scores(3, 5), np.arange(5), "5 scored images are too few to learn 3 weights: at least 6"),
        ],
    )
    def test_impossible_input(self, scores, opinion, message):
        with pytest.raises(ValueError, match=message):
            learn(scores, opinion)


class TestStrength:
    """How strongly weights are drawn towards equal ones, chosen within the references they are learned from."""

    REFERENCES = np.repeat(np.arange(12), 6)

    def problem(self, parts, opinion, seed=0, noise=0.0, **options):
        scores = level_scores(parts, len(self.REFERENCES), seed)
        return learning.Problem(scores, opinions(opinion(scores), noise=noise), **options)

    def test_many_weights_are_recovered_where_the_data_are_clear(self):
        known = np.array([0.4, 0.2] + [0.4 / 13] * 13)
        problem = self.problem(15, lambda scores: scores @ known)
        strength = learning.choose_strength(problem, self.REFERENCES)
        found = learning.learn_weights(problem, strength)
        assert strength == learning.STRENGTHS[-1]
        assert np.abs(found - known).max() < 0.02

    @pytest.mark.slow
    @pytest.mark.parametrize("parts", [3, 15])
    def test_equal_where_the_data_say_nothing(self, parts):
        equal = 0
        for seed in range(3):
            chance = np.random.default_rng(100 + seed)
            problem = learning.Problem(level_scores(parts, len(self.REFERENCES), seed), chance.random(len(self.REFERENCES)))
            strength = learning.choose_strength(problem, self.REFERENCES, seed)
            found = learning.learn_weights(problem, strength)
            equal += bool(np.abs(found - 1 / parts).max() < 0.02)
        assert equal >= 2

    def test_the_stronger_the_closer_to_equal(self):
        scores = level_scores()
        opinion = opinions(scores @ (0.1, 0.1, 0.8), noise=3)
        away = [np.abs(learn(scores, opinion, strength=s) - 1 / 3).max() for s in learning.STRENGTHS]
        assert away == sorted(away)
        assert away[0] == 0
        assert away[-1] > 0.4

    def test_towards_the_weights_that_the_metric_has(self):
        scores, prior = level_scores(), np.array([0.5, 0.3, 0.2])
        opinion = opinions(scores @ (0.1, 0.1, 0.8), noise=3)
        np.testing.assert_array_equal(learn(scores, opinion, strength=np.inf, equal=prior), prior)
        assert np.abs(learn(scores, opinion, strength=1e3, equal=prior) - prior).max() < 1e-3

    def test_a_hybrids_weights_are_recovered(self):
        found = 1 - level_scores(5, len(self.REFERENCES))
        combine = learning.Geometric((3, 1, 1), (1.0, 0.5, 2.0), 1e-3)
        known, prior = np.array([0.3, 0.05, 0.05, 0.2, 0.4]), np.array([1, 1, 1, 1.5, 1.5]) / 6
        opinion = opinions(0.5 + 0.2 * stats.zscore(combine(found, known)[0]))
        problem = learning.Problem(found, opinion, False, prior, combine)
        strength = learning.choose_strength(problem, self.REFERENCES)
        weights = learning.learn_weights(problem, strength)
        assert np.abs(weights - known).max() < 0.02

    def test_slopes_of_a_hybrid(self):
        found, weights = 1 - level_scores(4, 8), np.array([0.3, 0.2, 0.1, 0.4])
        combine = learning.Geometric((2, 1, 1), (1.0, 0.5, 2.0), 1e-3)
        fused, slopes = combine(found, weights)
        np.testing.assert_allclose(slopes @ weights, fused)
        for index in range(4):
            step = np.eye(4)[index] * 1e-6
            numeric = (combine(found, weights + step)[0] - combine(found, weights - step)[0]) / 2e-6
            np.testing.assert_allclose(slopes[:, index], numeric, rtol=1e-5)


class TestFitFusion:
    @pytest.mark.slow
    def test_known_weights_are_recovered_from_images(self, folder):
        made = fit.fit_fusion("ms-ssim", judged(folder, (0.15, 0.35, 0.5)), run=RUN, folds=3)
        assert np.abs(np.array(made.file.weights) - (0.15, 0.35, 0.5)).max() < 0.02
        held_out = made.held_out.set_index("fusion")
        assert list(held_out.index) == ["level 0", "level 1", "level 2", "equal", "learned"]
        assert held_out["srcc"]["learned"] == held_out["srcc"].max() > 0.99
        assert held_out["plcc"]["learned"] > 0.999
        for name in held_out.index:
            assert held_out["difference"][name] == pytest.approx(held_out["srcc"][name] - held_out["srcc"]["equal"])
        assert held_out["p"].drop("equal").between(0, 1).all()
        assert "Learned weights beat equal ones" in made.verdict
        assert made.file.held_out["srcc_learned"] == held_out["srcc"]["learned"]
        assert sum(made.file.weights) == pytest.approx(1, abs=1e-9)
        assert len(made.folds) == 3 * 5

    @pytest.mark.slow
    def test_no_scene_is_in_training_and_test(self, folder, monkeypatch):
        data = judged(folder, (0.2, 0.3, 0.5), noise=5)
        trained_on = []

        def spy(problem, strength):
            trained_on.append(set(problem.opinion))
            return np.full(3, 1 / 3)

        monkeypatch.setattr(fit, "learn_weights", spy)
        made = fit.fit_fusion("ms-psnr", data, run=RUN, folds=3)
        scenes = data.table.groupby("reference")["score"].agg(set)
        for opinions_seen in trained_on[:3]:
            assert sorted(len(scene & opinions_seen) for scene in scenes) == [0, 0, 6, 6, 6, 6]
        assert made.folds.groupby("fold")["images"].first().tolist() == [12, 12, 12]
        assert trained_on[3] == set(data.table["score"])

    @pytest.mark.slow
    def test_level_scores_are_computed_once(self, folder, tmp_path, monkeypatch):
        data = judged(folder, (0.2, 0.3, 0.5))
        results = tmp_path / "levels.sqlite"
        first = fit.fit_fusion("ms-psnr", data, results=results, run=RUN)

        def never(*_):
            raise AssertionError("scored again")

        monkeypatch.setattr(parts._Part, "_compare", never)
        second = fit.fit_fusion("ms-psnr", data, results=results, run=RUN)
        assert first.file == second.file

    def test_part_scores_are_those_of_the_metric(self, folder):
        data = load_csv(folder / "table.csv")
        x, y = (read_image(data.table[side][4]) for side in ("distorted", "reference"))
        for per_layer in (False, True):
            found = parts.parts_of("msds-fast", 2, per_layer, RUN)
            with torch.inference_mode():
                scores = torch.stack([each.metric.compare(*map(each.metric.represent, (x, y))) for each in found.scorers], 1)
                whole = found.scorer.metric
                expected = whole.layer_scores(x, y).flatten(1) if per_layer else whole.level_scores(x, y)
            torch.testing.assert_close(scores, expected)
            assert len({each.metric.source() for each in found.scorers}) == len(found.names)

    @pytest.mark.slow
    def test_opinions_that_know_nothing_do_not_favour_learned_weights(self, folder):
        data = load_csv(folder / "table.csv")
        random = Dataset("random", data.table.assign(score=np.random.default_rng(5).random(len(data.table))), False)
        made = fit.fit_fusion("ms-psnr", random, run=RUN)
        assert "keep equal weights" in made.verdict

    def test_levels_that_do_not_fit_are_named(self, folder):
        with pytest.raises(ValueError, match=r"no image has a score.*too small.*levels=3"):
            fit.fit_fusion("msds-fast", load_csv(folder / "table.csv"), levels=4, run=RUN)

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
        with pytest.raises(ValueError, match=message):
            fit.fit_fusion(metric, load_csv(folder / "table.csv"), run=RUN, **options)


KNOWN = (0.1, 0.05, 0.3, 0.15, 0.4)


@pytest.fixture(scope="module")
def made(folder):
    """The fit to opinions that viewers would have who see by known weights of msds-hybrid."""
    found = create_scorer("msds-hybrid", "cpu", "torch", fusion=KNOWN)
    data = load_csv(folder / "table.csv")
    with torch.inference_mode():
        pairs = [(read_image(row.distorted), read_image(row.reference)) for row in data.table.itertuples()]
        scores = [float(found.metric(*pair)) for pair in pairs]
    # The scale on which weights are learned is the logarithm of what differs.
    opinion = opinions(0.5 - 0.2 * stats.zscore(np.log(1 - np.array(scores) + 1e-3)))
    return fit.fit_fusion("msds-hybrid", Dataset("known", data.table.assign(score=opinion), False), run=RUN, folds=3)


@pytest.mark.slow
class TestHybrids:
    def test_known_weights_are_recovered(self, made):
        assert made.file.parts == ("AlignedMSDS level 0", "AlignedMSDS level 1", "AlignedMSDS level 2", "HaarPSI", "MDSI")
        *levels, haarpsi, mdsi = made.file.weights
        assert np.abs(np.array([sum(levels), haarpsi, mdsi]) - (0.45, 0.15, 0.4)).max() < 0.03
        # The levels share what is compared place by place, so that they are told apart less well than the terms.
        assert np.argsort(levels).tolist() == np.argsort(KNOWN[:3]).tolist()
        held_out = made.held_out.set_index("fusion")
        assert list(held_out.index) == [*made.file.parts, "equal", "learned"]
        assert held_out["srcc"]["learned"] > 0.99
        assert held_out["plcc"]["learned"] > held_out["plcc"]["equal"]
        assert (made.file.levels, made.file.target.layers) == (3, ("stage1", "stage2", "stage3"))

    def test_the_file_makes_the_metric(self, made, folder, tmp_path, msds):
        path = tmp_path / "hybrid.json"
        made.file.save(path)
        pair = [read_image(folder / name) for name in ("r0_blur3.png", "r0.png")]
        expected = float(registry.create("msds-hybrid", fusion=made.file.weights)(*pair))
        assert expected != float(registry.create("msds-hybrid")(*pair))
        assert float(registry.create("msds-hybrid", fusion=path)(*pair)) == pytest.approx(expected, abs=1e-6)
        import pyiqa

        by_name = pyiqa.create_metric("msds-hybrid", fusion=str(path), device="cpu")
        assert float(by_name(*pair)) == pytest.approx(expected, abs=1e-6)
        files = ["-r", folder / "r0.png", "-d", folder / "r0_blur3.png"]
        done = msds("score", "-m", "msds-hybrid", "--fusion", path, *files, "--device", "cpu")
        assert float(done.stdout.split()[-1]) == pytest.approx(expected, abs=1e-6)

    def test_files_for_other_metrics_are_refused(self, made, tmp_path):
        made.file.save(tmp_path / "hybrid.json")
        target = FusionTarget("deepssim", "alexnet", ("relu5",))
        FusionFile("msds", target, (0.25, 0.75), None, "known", 36, 6, 3, {}, "", "").save(tmp_path / "msds.json")
        with pytest.raises(
            FusionFileError, match=r"msds-hybrid \(hybrid\(msds-aligned, HaarPSI, MDSI\).*this metric is deepssim"
        ):
            registry.create("msds-fast", fusion=tmp_path / "hybrid.json")
        with pytest.raises(FusionFileError, match=r"weights for msds .*this metric is hybrid"):
            registry.create("msds-hybrid", fusion=tmp_path / "msds.json", layers=("stage1",))
        with pytest.raises(FusionFileError, match=r"this metric is hybrid.*stage0"):
            registry.create("msds-hybrid", fusion=tmp_path / "hybrid.json", layers=("stage0", "stage1"))
        with pytest.raises(FusionFileError, match="this hybrid has AlignedMSDS level 0 stage1"):
            registry.create("msds-hybrid", fusion=tmp_path / "hybrid.json", levels=2)

    @pytest.mark.slow
    def test_layers_times_levels_times_terms(self, folder):
        stages = [f"stage{index}" for index in range(5)]
        made = fit.fit_fusion(
            f"msds-hybrid,layers=[{','.join(stages)}]", judged(folder, (0.3, 0.7)), 2, 2, run=RUN, per_layer=True
        )
        expected = [f"AlignedMSDS level {level} {stage}" for level in range(2) for stage in stages] + ["HaarPSI", "MDSI"]
        assert list(made.file.parts) == expected
        assert sum(made.file.weights) == pytest.approx(1, abs=1e-9)
        assert min(made.file.weights) >= 0
        assert made.held_out.set_index("fusion")["srcc"]["learned"] > 0.9

    @pytest.mark.slow
    def test_layers_of_a_pyramid(self, folder, tmp_path):
        made = fit.fit_fusion("msds-fast", judged(folder, (0.3, 0.7)), 2, 2, run=RUN, per_layer=True)
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


class TestCommands:
    def test_fit_then_score(self, folder, tmp_path, msds):
        data = judged(folder, (0.1, 0.2, 0.7))
        data.table.to_csv(tmp_path / "table.csv", index=False)
        weights = tmp_path / "fusion.json"
        options = f"--csv {tmp_path}/table.csv --results {tmp_path}/r.sqlite --folds 3 --workers 0 --device cpu".split()
        done = msds("fit", "-m", "ms-ssim", *options, "-o", weights)
        assert done.stdout.splitlines()[0].split("\t") == ["fusion", "SRCC", "PLCC", "ΔSRCC", "p"]
        assert "on held-out references" in done.stderr
        file = FusionFile.load(weights)
        assert (file.metric, file.images, file.references, file.folds) == ("ms-ssim", 36, 6, 3)
        pair = ["-r", folder / "r0.png", "-d", folder / "r0_blur3.png", "--device", "cpu"]
        done = msds("score", "-m", "ms-ssim", "--fusion", weights, *pair)
        expected = create_scorer("ms-ssim", "cpu", fusion=weights).metric(
            read_image(folder / "r0_blur3.png"), read_image(folder / "r0.png")
        )
        assert float(done.stdout.split()[-1]) == pytest.approx(float(expected), abs=1e-6)
        done = msds("score", "-m", "ssim", "--fusion", weights, *pair, code=2)
        assert "holds fusion weights for ms-ssim, which is not among ssim" in done.stderr

    @pytest.mark.slow
    def test_missing_images_and_an_interruption(self, folder, tmp_path, monkeypatch, msds):
        data = judged(folder, (0.1, 0.2, 0.7))
        table = pd.concat([data.table, data.table.iloc[:1].assign(reference="none.png", distorted="none.png")])
        table.to_csv(tmp_path / "table.csv", index=False)
        command = ["fit", "-m", "ms-ssim", "--csv", str(tmp_path / "table.csv"), "-o", str(tmp_path / "f.json")]
        command += ["--results", str(tmp_path / "r.sqlite"), "--leave-one-out", "--workers", "0", "--device", "cpu"]
        done = msds(*command, code=1, stderr="none.png")
        assert FusionFile.load(tmp_path / "f.json").images == len(data.table)
        tables = [line.split("\t") for line in done.stdout.splitlines()]
        assert ["fusion", *(f"fold {fold}" for fold in range(6))] in tables  # one for each reference that has a score
        assert sum(line[0] == "learned" for line in tables) == 2

        def interrupted(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(fit, "run_benchmark", interrupted)
        msds(*command, code=130, stderr="start again")
