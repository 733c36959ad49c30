"""Weights of parts, and how strongly they are drawn towards equal ones."""

import numpy as np
import pytest
from msds_plugin.adapters.benchmark import fit, learning
from scipy import stats


def level_scores(levels=3, items=200, seed=0):
    """Level scores that agree with each other about as much as those of real images do."""
    rng = np.random.default_rng(seed)
    return 1 / (1 + np.exp(-(rng.normal(0, 1.5, (items, 1)) + rng.normal(0, 0.8, (items, levels)))))


def opinions(fused, seed=1, noise=0.0):
    return 100 / (1 + np.exp(-(fused - 0.5) / 0.15)) + noise * np.random.default_rng(seed).standard_normal(len(fused))


class TestLearnWeights:
    @pytest.mark.parametrize(
        "weights", [(0.2, 0.3, 0.5), (0.7, 0.25, 0.05), (0.0, 1.0, 0.0), (0.1, 0.9), (0.1, 0.1, 0.2, 0.2, 0.4)]
    )
    @pytest.mark.parametrize("noise", [0.0, 2.0])
    def test_known_weights_are_recovered(self, weights, noise):
        scores = level_scores(len(weights), 700)
        found = fit.learn_weights(scores, opinions(scores @ np.array(weights), noise=noise))
        assert np.abs(found - weights).max() < 0.02
        assert found.sum() == pytest.approx(1)
        assert (found >= 0).all()

    def test_falling_opinions(self):
        scores = level_scores()
        opinion = -opinions(scores @ (0.2, 0.3, 0.5))
        assert np.abs(fit.learn_weights(scores, opinion, opposite=True) - (0.2, 0.3, 0.5)).max() < 0.02

    def test_scale_and_place_of_both_sides_do_not_matter(self):
        scores = level_scores()
        opinion = opinions(scores @ (0.2, 0.3, 0.5), noise=3)
        found = fit.learn_weights(scores, opinion)
        np.testing.assert_allclose(fit.learn_weights(scores * 1e-4 + 7, opinion * 50 - 3), found, atol=1e-4)

    def test_same_numbers_same_weights(self):
        scores = level_scores()
        opinion = opinions(scores @ (0.6, 0.2, 0.2), noise=10)
        np.testing.assert_array_equal(fit.learn_weights(scores, opinion), fit.learn_weights(scores, opinion))

    def test_no_weights_on_a_grid_have_a_higher_plcc(self):
        scores = level_scores(seed=3)
        opinion = opinions(scores @ (0.5, 0.1, 0.4), noise=15)
        best = fit.statistics.plcc(scores @ fit.learn_weights(scores, opinion), opinion)
        steps = np.linspace(0, 1, 6)
        grid = [(a, b, 1 - a - b) for a in steps for b in steps if a + b <= 1 + 1e-9]
        assert best >= max(fit.statistics.plcc(scores @ np.array(weights), opinion) for weights in grid) - 1e-6

    def test_a_level_that_goes_the_wrong_way_gets_no_weight(self):
        scores = level_scores(2)
        scores[:, 1] = 1 - scores[:, 1]
        assert fit.learn_weights(scores, opinions(scores[:, 0], noise=5))[1] < 0.01

    def test_an_opinion_far_from_all_others(self):
        scores = level_scores(items=400)
        opinion = opinions(scores @ (0.2, 0.3, 0.5), noise=3)
        opinion[7] = -9999
        assert np.isfinite(fit.learn_weights(scores, opinion)).all()
        assert fit.statistics.fit_mapping(scores[:, 0], opinion).kind in ("logistic", "linear")

    @pytest.mark.parametrize(
        ("scores", "opinion", "message"),
        [
            (np.ones((9, 3)), np.arange(9), "the scores are all the same"),
            (level_scores(3, 9), np.ones(9), "the opinions are all the same"),
            (level_scores(3, 5), np.arange(5), "5 scored images are too few to learn 3 weights: at least 6"),
            (np.full((9, 3), np.nan), np.arange(9), "finite"),
            (level_scores(3, 9), np.arange(8), "must be .items, levels. for 8 opinions"),
        ],
    )
    def test_impossible_input(self, scores, opinion, message):
        with pytest.raises(ValueError, match=message):
            fit.learn_weights(scores, opinion)


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
        found = fit.learn_weights(problem.scores, problem.opinion, strength=strength)
        assert strength == learning.STRENGTHS[-1]
        assert np.abs(found - known).max() < 0.02

    @pytest.mark.parametrize("parts", [3, 15])
    def test_equal_where_the_data_say_nothing(self, parts):
        equal = 0
        for seed in range(3):
            chance = np.random.default_rng(100 + seed)
            problem = learning.Problem(level_scores(parts, len(self.REFERENCES), seed), chance.random(len(self.REFERENCES)))
            strength = learning.choose_strength(problem, self.REFERENCES, seed)
            found = fit.learn_weights(problem.scores, problem.opinion, strength=strength)
            equal += bool(np.abs(found - 1 / parts).max() < 0.02)
        assert equal >= 2

    @pytest.mark.parametrize("seed", range(3))
    def test_nearly_equal_where_the_opinions_are_those_of_equal_weights(self, seed):
        problem = self.problem(9, lambda scores: scores.mean(1), seed, noise=5.0)
        strength = learning.choose_strength(problem, self.REFERENCES)
        assert np.abs(fit.learn_weights(problem.scores, problem.opinion, strength=strength) - 1 / 9).max() < 0.05

    def test_the_stronger_the_closer_to_equal(self):
        scores = level_scores()
        opinion = opinions(scores @ (0.1, 0.1, 0.8), noise=3)
        away = [np.abs(fit.learn_weights(scores, opinion, strength=s) - 1 / 3).max() for s in learning.STRENGTHS]
        assert away == sorted(away)
        assert away[0] == 0
        assert away[-1] > 0.4

    def test_towards_the_weights_that_the_metric_has(self):
        scores, prior = level_scores(), np.array([0.5, 0.3, 0.2])
        opinion = opinions(scores @ (0.1, 0.1, 0.8), noise=3)
        np.testing.assert_array_equal(fit.learn_weights(scores, opinion, strength=np.inf, equal=prior), prior)
        assert np.abs(fit.learn_weights(scores, opinion, strength=1e3, equal=prior) - prior).max() < 1e-3

    def test_one_reference_is_no_reason_to_leave_equal_weights(self):
        problem = self.problem(3, lambda scores: scores @ (0.1, 0.1, 0.8))
        assert learning.choose_strength(problem, np.zeros(len(problem.opinion))) == np.inf

    def test_a_hybrids_weights_are_recovered(self):
        found = 1 - level_scores(5, len(self.REFERENCES))
        combine = learning.Geometric((3, 1, 1), (1.0, 0.5, 2.0), 1e-3)
        known, prior = np.array([0.3, 0.05, 0.05, 0.2, 0.4]), np.array([1, 1, 1, 1.5, 1.5]) / 6
        opinion = opinions(0.5 + 0.2 * stats.zscore(combine(found, known)[0]))
        problem = learning.Problem(found, opinion, False, prior, combine)
        strength = learning.choose_strength(problem, self.REFERENCES)
        weights = fit.learn_weights(found, opinion, strength=strength, equal=prior, combine=combine)
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
