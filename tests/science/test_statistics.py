import numpy as np
import pandas as pd
import pytest
from msds_plugin.adapters.benchmark import statistics as S
from msds_plugin.adapters.benchmark.statistics import bootstrap
from PIL import Image
from scipy import stats
from scipy.optimize import OptimizeResult


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


@pytest.fixture
def pyiqa_metrics():
    return pytest.importorskip("pyiqa.metrics.correlation_coefficient")


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_pyiqa_and_scipy(seed, ties, pyiqa_metrics):
    metrics = pyiqa_metrics
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


def test_agrees_with_pyiqa_on_real_opinions(live, pyiqa_metrics):
    x, y, table = live
    result = S.agreement(x, y, table["ref_name"], table["dmos_std"], opposite=True)
    assert result.srcc == pytest.approx(-pyiqa_metrics.calculate_srcc(x, y), abs=1e-6)
    assert result.krcc == pytest.approx(-pyiqa_metrics.calculate_krcc(x, y), abs=1e-6)
    # pyiqa's start values assume scores that rise with the opinions.
    assert result.plcc == pytest.approx(pyiqa_metrics.calculate_plcc(-x, y, fit_scale="logistic_4params"), abs=1e-6)
    assert result.rmse == pytest.approx(pyiqa_metrics.calculate_rmse(-x, y, fit_scale="logistic_4params"), abs=1e-6)
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


@pytest.mark.parametrize(("x", "y"), [(np.full(9, 3.0), np.arange(9.0)), (np.arange(9.0), np.full(9, 3.0))])
def test_constant_values_have_no_correlation(x, y):
    result = S.agreement(x, y, np.arange(9) // 3)
    assert np.isnan([result.srcc, result.krcc, result.plcc, *result.srcc_interval]).all()
    assert result.rmse == pytest.approx(y.std())
    assert result.mapping.kind == "constant"
    assert "the same" in result.mapping.reason


def test_two_items():
    result = S.agreement([1.0, 2.0], [5.0, 9.0])
    assert (result.srcc, result.krcc) == pytest.approx((1.0, 1.0))
    assert result.plcc == pytest.approx(1.0)
    assert result.rmse == pytest.approx(0.0, abs=1e-9)
    assert result.mapping.reason == "fewer than five items"


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_items(count):
    result = S.agreement(np.arange(count), np.arange(count))
    assert result.count == count
    assert np.isnan([result.srcc, result.krcc, result.plcc]).all()


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


def test_mapping_falls_back_to_a_line_and_says_so(monkeypatch):
    x, y = random_data(0)

    failed = OptimizeResult(x=np.array([1.0, 0.0, 0.0, 1.0]), success=False)
    monkeypatch.setattr(S.mapping.optimize, "least_squares", lambda *args, **kwargs: failed)
    mapping = S.fit_mapping(x, y)
    assert mapping.kind == "linear"
    assert "did not converge" in mapping.reason
    assert S.plcc(x, y) == pytest.approx(stats.pearsonr(x, y).statistic)
    assert mapping(x) == pytest.approx(np.polyval(np.polyfit(x, y, 1), x))
    assert S.agreement(x, y).as_row()["mapping_reason"] == mapping.reason


def test_mapping_worse_than_a_line_is_not_kept(monkeypatch):
    x, y = random_data(0)
    poor = OptimizeResult(x=np.array([0.0, 0.0, 0.0, 1.0]), success=True)
    monkeypatch.setattr(S.mapping.optimize, "least_squares", lambda *args, **kwargs: poor)
    mapping = S.fit_mapping(x, y)
    assert mapping.kind == "linear"
    assert "worse than a straight line" in mapping.reason


def test_outlier_ratio_leaves_unknown_deviations_out():
    assert S.outlier_ratio([0, 0, 0, 0], [1, 3, 9, 9], [1, 1, 1, np.nan]) == pytest.approx(2 / 3)
    assert np.isnan(S.outlier_ratio([0, 0], [1, 2], [np.nan, np.nan]))


def test_bootstrap_is_that_of_written_out_resamples():
    rng = np.random.default_rng(8)
    groups = rng.integers(0, 9, 60)
    groups = np.unique(groups, return_inverse=True)[1]
    x, y = np.round(rng.standard_normal(60), 1), np.round(rng.standard_normal(60), 1)
    y += np.round(x)
    draws = S.resample(groups, 40, seed=3)
    assert (draws.sum(1) == draws.shape[1]).all()
    fast_s, fast_k = bootstrap.resampled_srcc(x, y, groups, draws), bootstrap.resampled_krcc(x, y, groups, draws)
    for draw, a, b in zip(draws, fast_s, fast_k, strict=True):
        items = np.repeat(np.arange(60), draw[groups])
        assert a == pytest.approx(stats.spearmanr(x[items], y[items]).statistic, abs=1e-12)
        assert b == pytest.approx(stats.kendalltau(x[items], y[items]).statistic, abs=1e-12)


def test_intervals_are_those_of_written_out_resamples():
    x, y = random_data(4, 60, noise=0.3)
    groups = np.arange(60) // 5
    std = np.full(60, 8.0)
    result = S.agreement(x, y, groups, std, resamples=200, seed=1)
    mapped = result.mapping(x)
    values = []
    for draw in S.resample(groups, 200, seed=1):
        i = np.repeat(np.arange(60), draw[groups])
        values.append((S.pearson(mapped[i], y[i]), S.rmse(mapped[i], y[i]), S.outlier_ratio(mapped[i], y[i], std[i])))
    got = (result.plcc_interval, result.rmse_interval, result.outlier_ratio_interval)
    assert np.transpose(got) == pytest.approx(np.percentile(values, [2.5, 97.5], axis=0), abs=1e-10)


def test_intervals_are_seeded_and_chunks_do_not_matter(monkeypatch):
    x, y = random_data(5, 60)
    groups = np.repeat(list("abcdefghijkl"), 5)
    first = S.agreement(x, y, groups, seed=7)
    monkeypatch.setattr(S.bootstrap, "_CELLS_AT_ONCE", 500)
    again = S.agreement(x, y, groups, seed=7)
    assert again.srcc_interval == first.srcc_interval
    assert again.krcc_interval == first.krcc_interval
    assert S.agreement(x, y, groups, seed=8).srcc_interval != first.srcc_interval
    assert first.srcc_interval[0] < first.srcc < first.srcc_interval[1]


def test_interval_over_references_is_wider_where_they_differ():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 10)
    y = rng.standard_normal(20)[groups]
    x = y + rng.standard_normal(20)[groups]
    assert np.ptp(S.agreement(x, y, groups).srcc_interval) > 2 * np.ptp(S.agreement(x, y).srcc_interval)


def test_one_reference_has_no_interval():
    x, y = random_data(6)
    result = S.agreement(x, y, ["one"] * len(x))
    assert result.srcc == S.srcc(x, y)
    assert np.isnan([*result.srcc_interval, *result.krcc_interval]).all()


def test_groups():
    x, y = random_data(7)
    kind = np.array(["blur", "noise", None], dtype=object)[np.arange(len(x)) % 3]
    reference, std = np.arange(len(x)) // 6, np.full(len(x), 5.0)
    found = S.agreement_by_group(x, y, kind, reference=reference, std=std, resamples=50)
    assert list(found) == ["blur", "noise"]
    assert found["noise"] == S.agreement(x[1::3], y[1::3], reference[1::3], std[1::3], resamples=50)


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


def test_significance_uses_the_items_both_have():
    x, y = random_data(9)
    reference = np.arange(len(x)) // 4
    frame = pd.DataFrame({"a": x, "b": x + 0.1})
    frame.loc[:9, "b"] = np.nan
    row = S.significance(frame, y, reference).iloc[0]
    assert row["count"] == len(x) - 10
    assert row["difference"] == 0
    alone = S.significance(frame, y, np.zeros(len(x)))
    assert np.isnan(alone["p_holm"]).all()


def test_holm():
    assert S.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert S.holm([0.5, np.nan, 0.6]) == pytest.approx([1.0, np.nan, 1.0], nan_ok=True)
