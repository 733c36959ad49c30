"""Statistics within references, of forced choices, and of power, beside scipy and beside simulation."""

import numpy as np
import pandas as pd
import pytest
from msds_plugin.adapters.benchmark import statistics as S
from scipy import stats


def made(seed, references=12, images=6, noise=0.5):
    rng = np.random.default_rng(seed)
    reference = np.repeat([f"r{i}" for i in range(references)], images)
    y = rng.integers(0, 8, references * images).astype(float)  # votes, with ties
    return y + 2 * noise * rng.standard_normal(len(y)), y, reference


def test_within_references_is_the_mean_of_scipys_correlations():
    x, y, reference = made(0)
    found = S.within_references(x, y, reference)
    groups = [reference == name for name in np.unique(reference)]
    assert found.krcc == pytest.approx(np.mean([stats.kendalltau(x[g], y[g]).statistic for g in groups]))
    assert found.srcc == pytest.approx(np.mean([stats.spearmanr(x[g], y[g]).statistic for g in groups]))
    assert found.references == 12
    assert S.within_references(-x, y, reference, opposite=True).krcc == pytest.approx(found.krcc)


def test_within_interval_is_scipys_bootstrap_of_the_mean():
    x, y, reference = made(1, references=30)
    found = S.within_references(x, y, reference, resamples=20_000)
    tau = S.by_reference(x, y, reference)["krcc"].to_numpy()
    theirs = stats.bootstrap((tau,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    assert found.krcc_interval == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_within_ignores_offsets_between_references_and_leaves_out_what_says_nothing():
    x, y, reference = made(2)
    shifted = y + np.repeat(np.arange(12) * 100.0, 6)
    assert S.within_references(x, shifted, reference).krcc == pytest.approx(S.within_references(x, y, reference).krcc)
    y[:6], x[6] = 3.0, np.nan
    found = S.by_reference(x, y, reference)
    assert np.isnan(found["krcc"][0])
    assert found["count"][1] == 5
    assert S.within_references(x, y, reference).references == 11
    assert np.isnan(S.within_references(x[:6], y[:6], reference[:6]).krcc)
    with pytest.raises(ValueError, match="give one for each score"):
        S.within_references(x, y, reference[:3])


def choices(seed=0, rows=300):
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(size=(2, rows))
    answers = rng.integers(10, 30, rows)
    share = rng.binomial(answers, 1 / (1 + np.exp(-6 * (b - a)))) / answers
    return a, b, share, answers, np.repeat(np.arange(rows // 10), 10)


def test_agreement_counts_answers_one_by_one():
    a, b, share, answers, reference = choices()
    row = S.choice_agreement({"m": (a, b)}, share, answers, reference).iloc[0]
    sided = total = most = 0
    for x, y, s, n in zip(a, b, share, answers, strict=True):
        for_b = round(s * n)
        sided += for_b if y > x else n - for_b
        most += max(for_b, n - for_b)
        total += n
    assert row["agreement"] == pytest.approx(sided / total)
    assert row["ceiling"] == pytest.approx(most / total)
    assert row["answers"] == total
    assert row["agreement_low"] < row["agreement"] < row["agreement_high"] <= row["ceiling"] + 0.05
    turned = S.choice_agreement({"m": (-a, -b)}, share, answers, reference, ["m"]).iloc[0]
    assert turned["agreement"] == row["agreement"]
    swapped = S.choice_agreement({"m": (b, a)}, 1 - share, answers, reference).iloc[0]
    assert swapped["agreement"] == pytest.approx(row["agreement"])


def test_equal_scores_are_chance_and_missing_ones_are_left_out():
    share, answers, reference = [0.9, 0.2, 0.7], [10, 10, 20], [0, 1, 2]
    row = S.choice_agreement({"m": ([1, 1, np.nan], [1, 1, 5])}, share, answers, reference).iloc[0]
    assert (row["agreement"], row["count"], row["left_out"]) == (0.5, 2, 1)


def test_paired_test_of_choices():
    a, b, share, answers, reference = choices()
    rng = np.random.default_rng(1)
    scores = {"good": (a, b), "same": (2 * a, 2 * b), "chance": tuple(rng.uniform(size=(2, len(a))))}
    found = S.choice_significance(scores, share, answers, reference).set_index(["a", "b"])
    assert found.loc[("good", "same"), "p"] == 1
    assert found.loc[("good", "chance"), "p_holm"] < 1e-6
    assert found.loc[("good", "chance"), "difference"] > 0.2
    # The p value is that of scipy's t test over references where every reference has as many answers.
    equal = np.full(len(a), 20)
    gap = S.agreeing(a, b, share) - S.agreeing(*scores["chance"], share)
    theirs = stats.ttest_1samp(gap.reshape(-1, 10).mean(1), 0).pvalue
    ours = S.choice_significance(scores, share, equal, reference, resamples=20_000)["p"][1]
    assert np.log10(ours) == pytest.approx(np.log10(theirs), rel=0.1)


def rivals(references, seed, images=5):
    rng = np.random.default_rng(seed)
    reference = np.repeat(np.arange(references), images)
    y = rng.standard_normal(len(reference))
    # What is particular to a reference is shared by its images.
    bias = np.repeat(rng.standard_normal((2, references)), images, axis=1)
    a, b = (y + own * bias[i] + 0.3 * rng.standard_normal(len(y)) for i, own in enumerate((0.2, 0.45)))
    return a, b, y, reference


def test_a_set_of_the_size_that_is_called_for_shows_the_difference():
    # From large sets, so that the difference that is seen is nearly the true one.
    size = int(np.median([S.needed(*rivals(150, seed)).references for seed in range(9)]))
    shown = []
    for seed in range(40):
        a, b, y, reference = rivals(size, 1000 + seed)
        table = pd.DataFrame({"a": a, "b": b})
        shown.append(S.significance(table, y, reference, resamples=300)["p"][0] < 0.05)
    assert 0.6 < np.mean(shown) < 0.98  # asked for: 0.8


def test_power_says_why_there_is_no_number():
    a, b, y, reference = rivals(12, 0)
    assert S.needed(a, a, y, reference).reason == "no difference here"
    assert S.needed(a, b, y, np.zeros(len(a))).reason == "fewer than two references"
    nearly = a + 1e-6 * np.random.default_rng(0).standard_normal(len(a))
    nearly[[0, 1]] = nearly[[1, 0]]
    assert S.needed(a, nearly, y, reference).references > 100 or S.needed(a, nearly, y, reference).reason


def test_power_beside_what_is_not_shown():
    a, b, y, reference = rivals(12, 3)
    table = pd.DataFrame({"a": -a, "b": b, "noise": np.random.default_rng(5).standard_normal(len(a))})
    found = S.needed_for_all(S.significance(table, y, reference, ["a"]), table, y, reference, ["a"])
    shown = found["p_holm"] < 0.05
    assert shown.any()
    assert (found.loc[shown, "needed_reason"] == "shown here").all()
    rest = found[~shown & (found["needed_reason"] == "")]
    assert (rest["needed_references"] >= 2).all()
    assert (rest["needed_images"] == 5 * rest["needed_references"]).all()
