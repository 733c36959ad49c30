"""Statistics beside scipy, pyiqa and simulation."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pyiqa.metrics import correlation_coefficient as metrics
from scipy import special, stats

from msds_plugin.adapters.benchmark import statistics as S


def random_data(seed, n=120, noise=0.15):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 1, n)
    return x, 20 + 60 / (1 + np.exp(-(x - 0.55) / 0.12)) + 60 * noise * rng.standard_normal(n)


@pytest.fixture(scope="module")
def live(shared):
    """PSNR of LIVE's blurred images, with the table of opinions (DMOS: PSNR rises where they fall)."""
    folder = shared / "data" / "live_gblur"
    table = pd.read_csv(folder / "labels.csv")

    def pixels(name):
        return np.asarray(Image.open(folder / "images" / name), dtype=np.float64)

    errors = [np.mean((pixels(d) - pixels(r)) ** 2) for r, d in zip(table["ref_name"], table["dist_name"], strict=True)]
    return 10 * np.log10(255**2 / np.array(errors)), table["dmos"].to_numpy(), table


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_pyiqa_and_scipy(seed, ties):
    x, y = random_data(seed)
    if ties:
        x, y = np.round(x, 1), np.round(y, -1)
    assert S.srcc(x, y) == pytest.approx(metrics.calculate_srcc(x, y), abs=1e-6)
    assert S.krcc(x, y) == pytest.approx(metrics.calculate_krcc(x, y), abs=1e-6)
    assert S.pearson(x, y) == pytest.approx(metrics.calculate_plcc(x, y), abs=1e-6)
    assert S.plcc(x, y) == pytest.approx(metrics.calculate_plcc(x, y, fit_scale="logistic_4params"), abs=1e-6)
    mapped = S.fit_mapping(x, y)(x)
    assert S.rmse(mapped, y) == pytest.approx(metrics.calculate_rmse(x, y, fit_scale="logistic_4params"), abs=1e-6)
    assert S.srcc(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert S.krcc(x, y) == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)


def test_agrees_with_pyiqa_on_real_opinions(live):
    x, y, table = live
    result = S.agreement(x, y, table["ref_name"], table["dmos_std"], opposite=True)
    assert result.srcc == pytest.approx(-metrics.calculate_srcc(x, y), abs=1e-6)
    assert result.krcc == pytest.approx(-metrics.calculate_krcc(x, y), abs=1e-6)
    # pyiqa's start values assume scores that rise with the opinions.
    assert result.plcc == pytest.approx(metrics.calculate_plcc(-x, y, fit_scale="logistic_4params"), abs=1e-6)
    assert result.rmse == pytest.approx(metrics.calculate_rmse(-x, y, fit_scale="logistic_4params"), abs=1e-6)
    assert result.mapping.kind == "logistic"
    assert result.references == 14
    assert (result.count, result.left_out) == (70, 0)
    residual = np.abs(result.mapping(x) - y)
    assert result.outlier_ratio == pytest.approx((residual > 2 * table["dmos_std"]).mean())


def test_reversed_direction():
    x, y = random_data(1)
    up, down = S.agreement(x, y), S.agreement(-x, y, opposite=True)
    assert down.srcc == up.srcc > 0.8
    assert down.krcc == up.krcc
    assert down.plcc == pytest.approx(up.plcc, abs=1e-6)
    assert down.rmse == pytest.approx(up.rmse, abs=1e-6)
    wrong_way = S.agreement(-x, y)
    assert wrong_way.srcc == -up.srcc
    assert wrong_way.plcc == pytest.approx(up.plcc, abs=1e-6)


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        (np.full(9, 3.0), np.arange(9.0), "the scores are all the same"),
        (np.arange(9.0), np.full(9, 3.0), "the opinions are all the same"),
        (np.ones(1), np.ones(1), "there is one image only"),
        (np.ones(0), np.ones(0), "no item has a score"),
    ],
)
def test_what_has_no_correlation(x, y, reason):
    result = S.agreement(x, y, np.arange(len(x)) // 3)
    assert np.isnan([result.srcc, result.krcc, result.plcc, *result.intervals["srcc"]]).all()
    assert result.rmse == pytest.approx(y.std() if len(y) else np.nan, nan_ok=True)
    assert (result.count, result.mapping.kind, result.mapping.reason) == (len(x), "constant", reason)


def test_nan_is_left_out_and_counted():
    x, y = random_data(2)
    spoilt = np.concatenate([x, [np.nan, 0.5, np.inf]])
    opinions = np.concatenate([y, [50.0, np.nan, 50.0]])
    result, clean = S.agreement(spoilt, opinions), S.agreement(x, y)
    assert (result.count, result.left_out) == (len(x), 3)
    assert (result.srcc, result.plcc, result.rmse) == (clean.srcc, clean.plcc, clean.rmse)
    for function in (S.srcc, S.krcc, S.pearson, S.plcc):
        assert np.isnan(function(spoilt, opinions))


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="3 scores and 2 opinions"):
        S.srcc([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="give one each"):
        S.agreement([1, 2, 3], [1, 2, 3], reference=["a"])
    with pytest.raises(ValueError, match="finite"):
        S.fit_mapping([1, np.nan], [1, 2])


def test_mapping_is_monotonic_and_recovers_a_logistic():
    x = np.linspace(-2, 3, 60)
    truth = (80.0, 20.0, 0.7, 0.4)
    y = truth[1] + (truth[0] - truth[1]) / (1 + np.exp(-(x - truth[2]) / truth[3]))
    mapping = S.fit_mapping(x, y)
    assert mapping.kind == "logistic"
    assert mapping.parameters == pytest.approx(truth, rel=1e-5)
    fine = mapping(np.linspace(-10, 10, 999))
    assert (np.diff(fine) >= 0).all()


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_the_scale_of_the_scores_does_not_matter(scale):
    x = np.random.default_rng(0).normal(size=40)
    for y in (1 / (1 + np.exp(-2 * x)) + 0.1 * np.sin(9 * x), x, x.clip(0, None)):
        assert S.plcc(x * scale, y) == pytest.approx(S.plcc(x, y), abs=1e-6)
    line = S.fit_mapping(x[:4] * scale, x[:4])
    assert line(x[:4] * scale) == pytest.approx(x[:4])


def test_mapping_falls_back_to_a_line_and_says_so():
    x = np.concatenate([np.linspace(0, 1, 20), [40]])
    found = S.fit_mapping(x, 3 * x + 2)
    assert found.kind == "linear"
    assert found(x) == pytest.approx(3 * x + 2)
    assert found.reason == S.agreement(x, 3 * x + 2).as_row()["mapping_reason"]
    assert found.reason == "the logistic fit ended worse than a straight line"


def best_of_many_starts(x, y):
    """Pearson's correlation after the best of many logistic curves, each with its best ends."""
    u = (x - x.mean()) / x.std()
    middles = np.linspace(u.min(), u.max(), 60)
    curves = [special.expit((u - middle) / softness) for middle in middles for softness in np.geomspace(0.01, 10, 30)]
    return max(abs(stats.pearsonr(curve, y).statistic) for curve in curves if np.ptp(curve) > 0)


@pytest.mark.parametrize("count", [9, 20, 70])
def test_the_logistic_is_the_best_of_many_starts(live, count):
    x, y, _ = live
    for seed in range(5):
        chosen = np.random.default_rng(seed).choice(len(x), count, replace=False)
        assert S.plcc(x[chosen], y[chosen]) > best_of_many_starts(x[chosen], y[chosen]) - 1e-3


def varied_data(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(6, 200))
    x = rng.random(n)
    kinds = (
        lambda: (x > 0.5) + 0.1 * rng.normal(size=n),
        lambda: 1 / (1 + np.exp(-(x - 0.4) * rng.uniform(1, 40))) + 0.1 * rng.normal(size=n),
        lambda: np.exp(rng.uniform(-5, 5) * x) * (1 + 0.1 * rng.normal(size=n)),
        lambda: rng.normal(size=n),
        lambda: -(x**2) + 0.05 * rng.normal(size=n),
    )
    return (x**4 * 1000 if seed % 3 == 0 else x), kinds[seed % 5]()


@pytest.mark.parametrize("seeds", [range(0, 50, 5), pytest.param(range(1000), marks=pytest.mark.slow)])  # clusters, everything
@pytest.mark.filterwarnings("ignore")
def test_the_logistic_is_never_worse_than_pyiqas(seeds):
    compared = 0
    for x, y in map(varied_data, seeds):
        try:
            theirs = metrics.calculate_plcc(x, y, fit_scale="logistic_4params")
        except RuntimeError:  # it did not converge
            continue
        compared += np.isfinite(theirs)
        assert not S.plcc(x, y) < theirs - 1e-6
        assert S.fit_mapping(x, y).start or S.fit_mapping(x, y).reason
    assert compared >= 5


def test_no_warning_of_ours(recwarn):
    rng = np.random.default_rng(0)
    ties, same = np.repeat([1.0, 2.0], 10), np.full(20, 3.0)
    far = rng.random(20)
    far[3] = 1e9
    for x in (ties, same, far, far[:1], far[:0], np.full(20, np.nan)):
        for y in (ties, same, far, rng.random(20)):
            S.agreement(x, y[: len(x)], np.arange(len(x)) // 4, np.ones(len(x)), resamples=20)
            S.within_references(x, y[: len(x)], np.arange(len(x)) // 4, resamples=20)
            S.significance(pd.DataFrame({"a": x, "b": y[: len(x)]}), y[: len(x)], np.arange(len(x)) // 4, resamples=20)
    assert not recwarn.list


def test_outlier_ratio_leaves_unknown_deviations_out():
    assert S.outlier_ratio([0, 0, 0, 0], [1, 3, 9, 9], [1, 1, 1, np.nan]) == pytest.approx(2 / 3)
    assert np.isnan(S.outlier_ratio([0, 0], [1, 2], [np.nan, np.nan]))


@pytest.mark.parametrize(
    ("digits", "references", "apart"), [(9, 9, 0), (1, 9, 0), (9, 4, 30)], ids=["plain", "ties", "clusters"]
)
def test_intervals_are_those_of_written_out_resamples(digits, references, apart):
    x, y = random_data(4, 60, noise=0.3)
    groups = pd.factorize(np.random.default_rng(8).integers(0, references, 60))[0]
    x, y = x.round(digits) + apart * (groups % 2), y.round(digits - 2) + 10 * apart * (groups % 2)
    std = np.full(60, 8.0)
    result = S.agreement(x, y, groups, std, resamples=200, seed=1)
    mapped, found = result.mapping(x), {name: [] for name in result.intervals}
    draws = S.resample(groups, 200, seed=1)
    assert (draws.sum(1) == draws.shape[1]).all()
    for draw in draws:
        i = np.repeat(np.arange(60), draw[groups])
        found["srcc"].append(stats.spearmanr(x[i], y[i]).statistic)
        found["krcc"].append(stats.kendalltau(x[i], y[i]).statistic)
        found["plcc"].append(stats.pearsonr(mapped[i], y[i]).statistic)
        found["rmse"].append(S.rmse(mapped[i], y[i]))
        found["outlier_ratio"].append(S.outlier_ratio(mapped[i], y[i], std[i]))
    for name, values in found.items():
        assert result.intervals[name] == pytest.approx(np.percentile(values, [2.5, 97.5]), abs=1e-10)


def test_one_reference_has_no_interval():
    x, y = random_data(6)
    assert np.isnan([*S.agreement(x, y, ["one"] * len(x)).intervals.values()]).all()


def test_significance_tells_a_good_metric_from_a_bad_one():
    rng = np.random.default_rng(1)
    reference = np.repeat(np.arange(30), 6)
    y = rng.standard_normal(180)
    frame = pd.DataFrame(
        {
            "good": y + 0.2 * rng.standard_normal(180),
            "twin": -(y + 0.2 * rng.standard_normal(180)),
            "bad": y + 2.0 * rng.standard_normal(180),
        }
    )
    frame["same"] = frame["good"]
    table = S.significance(frame, y, reference, opposite=["twin"]).set_index(["a", "b"])
    assert len(table) == 6
    assert table.loc[("good", "bad"), "p_holm"] < 0.001
    assert table.loc[("good", "bad"), "difference"] == pytest.approx(S.srcc(frame["good"], y) - S.srcc(frame["bad"], y))
    assert table.loc[("good", "twin"), "p_holm"] > 0.05
    assert table.loc[("good", "same"), "p"] == 1.0
    assert (table["p_holm"] >= table["p"]).all()


@pytest.mark.slow
def test_significance_keeps_its_level():
    """Two equally good metrics are called different in about one of twenty data sets."""
    rng = np.random.default_rng(11)
    reference = np.repeat(np.arange(20), 5)
    called = 0
    for _ in range(150):
        y = rng.standard_normal(100)
        common = rng.standard_normal(20)[reference]
        frame = pd.DataFrame({name: y + 0.5 * rng.standard_normal(100) + 0.5 * common for name in "ab"})
        called += S.significance(frame, y, reference, resamples=200)["p"][0] < 0.05
    assert called <= 15  # 7.5 expected; 15 or more has a chance below one percent


def test_holm():
    assert S.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert S.holm([0.5, np.nan, 0.6]) == pytest.approx([1.0, np.nan, 1.0], nan_ok=True)


def votes(seed, references=12):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 8, references * 6).astype(float)  # with ties
    return y + rng.standard_normal(len(y)), y, np.repeat([f"r{i}" for i in range(references)], 6)


def test_within_references_is_the_mean_of_scipys_correlations():
    x, y, reference = votes(0)
    found = S.within_references(x, y, reference)
    groups = [reference == name for name in np.unique(reference)]
    assert found["within_krcc"] == pytest.approx(np.mean([stats.kendalltau(x[g], y[g]).statistic for g in groups]))
    assert found["within_srcc"] == pytest.approx(np.mean([stats.spearmanr(x[g], y[g]).statistic for g in groups]))
    assert found["within_references"] == 12
    assert S.within_references(-x, y, reference, opposite=True) == pytest.approx(found)


def test_within_interval_is_scipys_bootstrap_of_the_mean():
    x, y, reference = votes(1, references=30)
    found = S.within_references(x, y, reference, resamples=20_000)
    tau = np.array([S.krcc(x[reference == name], y[reference == name]) for name in pd.unique(reference)])
    theirs = stats.bootstrap((tau,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    assert found["within_krcc_low"] == pytest.approx(theirs.low, abs=0.01)
    assert found["within_krcc_high"] == pytest.approx(theirs.high, abs=0.01)


def test_within_ignores_offsets_between_references_and_leaves_out_what_says_nothing():
    x, y, reference = votes(2)
    shifted = y + np.repeat(np.arange(12) * 100.0, 6)
    assert S.within_references(x, shifted, reference) == pytest.approx(S.within_references(x, y, reference))
    y[:6], x[6] = 3.0, np.nan
    assert S.within_references(x, y, reference)["within_references"] == 11
    assert np.isnan(S.within_references(x[:6], y[:6], reference[:6])["within_krcc"])
    with pytest.raises(ValueError, match="give one for each score"):
        S.within_references(x, y, reference[:3])


def answered(seed=0, rows=300):
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(size=(2, rows))
    answers = rng.integers(10, 30, rows)
    share = rng.binomial(answers, 1 / (1 + np.exp(-6 * (b - a)))) / answers
    return a, b, share, answers, np.repeat(np.arange(rows // 10), 10)


def test_agreement_counts_answers_one_by_one():
    a, b, share, answers, reference = answered()
    row = S.choices({"m": (a, b)}, share, answers, reference)[0].iloc[0]
    for_b = (share * answers).round()
    assert row["agreement"] == pytest.approx(np.where(b > a, for_b, answers - for_b).sum() / answers.sum())
    assert row["ceiling"] == pytest.approx(np.maximum(for_b, answers - for_b).sum() / answers.sum())
    assert row["answers"] == answers.sum()
    assert row["agreement_low"] < row["agreement"] < row["agreement_high"] <= row["ceiling"] + 0.05
    turned = S.choices({"m": (-a, -b)}, share, answers, reference, ["m"])[0].iloc[0]
    assert turned["agreement"] == row["agreement"]
    swapped = S.choices({"m": (b, a)}, 1 - share, answers, reference)[0].iloc[0]
    assert swapped["agreement"] == pytest.approx(row["agreement"])


def test_equal_scores_are_chance_and_missing_ones_are_left_out():
    share, answers, reference = [0.9, 0.2, 0.7], [10, 10, 20], [0, 1, 2]
    row = S.choices({"m": ([1, np.inf, np.nan], [1, np.inf, 5])}, share, answers, reference)[0].iloc[0]
    assert (row["agreement"], row["count"], row["left_out"]) == (0.5, 2, 1)


def test_paired_test_of_choices():
    a, b, share, answers, reference = answered()
    rng = np.random.default_rng(1)
    scores = {"good": (a, b), "same": (2 * a, 2 * b), "chance": tuple(rng.uniform(size=(2, len(a))))}
    found = S.choices(scores, share, answers, reference)[1].set_index(["a", "b"])
    assert found.loc[("good", "same"), "p"] == 1
    assert found.loc[("good", "chance"), "p_holm"] < 1e-6
    assert found.loc[("good", "chance"), "difference"] > 0.2
    # The p value is that of scipy's t test over references where every reference has as many answers.
    equal = np.full(len(a), 20)
    gap = S.agreeing(a, b, share) - S.agreeing(*scores["chance"], share)
    theirs = stats.ttest_1samp(gap.reshape(-1, 10).mean(1), 0).pvalue
    ours = S.choices(scores, share, equal, reference, resamples=20_000)[1]["p"][1]
    assert np.log10(ours) == pytest.approx(np.log10(theirs), rel=0.1)


def rivals(references, seed, images=5):
    rng = np.random.default_rng(seed)
    reference = np.repeat(np.arange(references), images)
    y = rng.standard_normal(len(reference))
    # What is particular to a reference is shared by its images.
    bias = np.repeat(rng.standard_normal((2, references)), images, axis=1)
    a, b = (y + own * bias[i] + 0.3 * rng.standard_normal(len(y)) for i, own in enumerate((0.2, 0.45)))
    return a, b, y, reference


@pytest.mark.slow
def test_a_set_of_the_size_that_is_called_for_shows_the_difference():
    # From large sets, so that the difference that is seen is nearly the true one.
    sizes = []
    for seed in range(9):
        a, b, y, reference = rivals(150, seed)
        row = S.significance(pd.DataFrame({"a": a, "b": b}), y, reference, resamples=300).iloc[0]
        found, _ = S._needed(abs(row["difference"]), _deviation(row["difference"], row["p"], 150))
        sizes.append(found)
    size, shown = int(np.median(sizes)), []
    for seed in range(40):
        a, b, y, reference = rivals(size, 1000 + seed)
        shown.append(S.significance(pd.DataFrame({"a": a, "b": b}), y, reference, resamples=300)["p"][0] < 0.05)
    assert 0.6 < np.mean(shown) < 0.98  # asked for: 0.8


def _deviation(difference, p, references):
    return abs(difference) / stats.t.isf(p / 2, references - 1) * np.sqrt(references)


def test_needed_beside_what_is_not_shown():
    a, b, y, reference = rivals(12, 3)
    table = pd.DataFrame({"a": -a, "b": b, "noise": np.random.default_rng(5).standard_normal(len(a)), "same": b})
    found = S.significance(table, y, reference, ["a"]).set_index(["a", "b"])
    shown = found["p_holm"] < 0.05
    assert shown.any()
    assert (found.loc[shown, "needed_reason"] == "shown here").all()
    assert found.loc[("b", "same"), "needed_reason"] == "no difference here"
    rest = found[~shown & (found["needed_reason"] == "")]
    assert len(rest)
    assert (rest["needed_references"] >= 2).all()
    assert (rest["needed_images"] == 5 * rest["needed_references"]).all()
    assert S.significance(table, y, np.zeros(len(y)))["needed_reason"].eq("not known").all()


def test_differences_of_methods_are_scipys_paired_test():
    rng = np.random.default_rng(0)
    base = rng.random(30)
    frame = pd.DataFrame({"a": base, "b": base + 0.05 + 0.05 * rng.random(30), "same": base, "gap": base + 1.0})
    frame.loc[4, "b"] = np.nan
    images = [f"i{i}" for i in range(30)]
    found = S.mean_differences(frame, images).set_index(["a", "b"])
    theirs = stats.ttest_rel(frame["a"].drop(4), frame["b"].drop(4))
    row = found.loc[("a", "b")]
    assert row["p"] == pytest.approx(theirs.pvalue)
    assert [row["low"], row["high"]] == pytest.approx(list(theirs.confidence_interval()))
    assert row["count"] == 29
    assert found.loc[("a", "same"), ["difference", "low", "high", "p"]].tolist() == [0, 0, 0, 1]
    assert (found["p_holm"] >= found["p"]).all()
    halves = S.mean_differences(frame.drop(columns="gap"), np.arange(30) // 2)  # two images of each reference count once
    assert halves["count"].tolist() == [15] * 3
    assert np.isnan(S.mean_differences(frame, ["one"] * 30)["p"]).all()
    frame.loc[5, "gap"] = np.inf
    infinite = S.mean_differences(frame, images).set_index(["a", "b"]).loc[("a", "gap")]
    assert infinite["difference"] == -np.inf
    assert infinite[["low", "high", "p", "p_holm"]].isna().all()
