"""How well scores agree with opinions, how sure that is, and whether two metrics differ.

Opinion scores come in groups: the distorted images of one reference resemble each other. Everything here that speaks of
uncertainty therefore resamples references, never single images. With fewer than about ten references such intervals are
too narrow; with one there is none (NaN).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Mapping as ByName
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, signal, special, stats

Array: TypeAlias = NDArray[np.float64]
Groups: TypeAlias = NDArray[np.intp]
Labels: TypeAlias = "Sequence[Any] | pd.Series[Any]"
Interval: TypeAlias = tuple[float, float]

RESAMPLES = 1000
SEED = 0
#: A difference counts as shown below this corrected p value.
LEVEL = 0.05
#: The chance of showing a difference that is there, asked of a set that counts as large enough.
POWER = 0.8
#: References beyond which nothing is said.
MOST = 1000
#: A prediction counts as an outlier where it is farther from the opinion than this many standard deviations.
OUTLIER_DEVIATIONS = 2.0

UNKNOWN: Interval = (float("nan"), float("nan"))
_CELLS_AT_ONCE = 2_000_000  # of a resamples x items table: 16 MB each
#: Middles, at least, and softness of the curves on the grid, in standard deviations of the scores.
_FARTHEST, _STEEPEST, _SOFTEST = 10.0, 1e-3, 10.0
#: How many of the minima on the grid are refined.
_REFINED = 5


# Correlations and errors, as scipy has them


def srcc(prediction: ArrayLike, opinion: ArrayLike) -> float:
    """Spearman's rank correlation; NaN for fewer than two items, constant or NaN values."""
    return _correlation(stats.spearmanr, prediction, opinion)


def krcc(prediction: ArrayLike, opinion: ArrayLike) -> float:
    """Kendall's rank correlation, tau-b (ties count); NaN for fewer than two items, constant or NaN values."""
    return _correlation(stats.kendalltau, prediction, opinion)


def pearson(prediction: ArrayLike, opinion: ArrayLike) -> float:
    """Pearson's correlation without a mapping; NaN for fewer than two items, constant or NaN values."""
    return _correlation(stats.pearsonr, prediction, opinion)


def plcc(prediction: ArrayLike, opinion: ArrayLike) -> float:
    """Pearson's correlation after :func:`fit_mapping`, never negative; NaN for constant values, NaN or fewer than two items."""
    x, y = _pair(prediction, opinion)
    return pearson(fit_mapping(x, y)(x), y) if _varied(x, y) else float("nan")


def _correlation(test: Callable[..., Any], prediction: ArrayLike, opinion: ArrayLike) -> float:
    x, y = _pair(prediction, opinion)
    return float(test(x, y).statistic) if _varied(x, y) else float("nan")


def rmse(prediction: ArrayLike, opinion: ArrayLike) -> float:
    """Root of the mean squared difference; NaN for no items."""
    x, y = _pair(prediction, opinion)
    return float(np.sqrt(np.mean((x - y) ** 2))) if len(x) else float("nan")


def outlier_ratio(prediction: ArrayLike, opinion: ArrayLike, std: ArrayLike) -> float:
    """Share of the items that lie more than two standard deviations of the opinions away from the opinion.

    Items whose standard deviation is not known (NaN) are left out; NaN if none is left.
    """
    x, y = _pair(prediction, opinion)
    deviation = _column(std)
    known = np.isfinite(deviation)
    return float(np.mean(np.abs(x - y)[known] > OUTLIER_DEVIATIONS * deviation[known])) if known.any() else float("nan")


def _column(values: ArrayLike) -> Array:
    return np.asarray(values, dtype=np.float64).reshape(-1)


def _pair(prediction: ArrayLike, opinion: ArrayLike) -> tuple[Array, Array]:
    x, y = _column(prediction), _column(opinion)
    if len(x) != len(y):
        raise ValueError(f"{len(x)} scores and {len(y)} opinions: give one opinion for each score")
    return x, y


def _varied(x: Array, y: Array) -> bool:
    """Whether a correlation exists: two items or more, all finite, neither column constant."""
    return len(x) > 1 and bool(np.isfinite(x).all() and np.isfinite(y).all() and np.ptp(x) > 0 and np.ptp(y) > 0)


# From scores to the scale of the opinions


@dataclass(frozen=True)
class Mapping:
    """From a metric's scores to the scale of the opinions; monotonic. Call it with scores.

    Attributes:
        kind: ``logistic``: b2 + (b1 - b2) / (1 + exp(-(x - b3) / b4)); ``linear``: b1 x + b2; ``constant``: b1.
        parameters: b1, b2, ...
        reason: why it is not the logistic; empty if it is.
        start: from which start the logistic was found.
    """

    kind: Literal["logistic", "linear", "constant"]
    parameters: tuple[float, ...]
    reason: str = ""
    start: str = ""

    def __call__(self, prediction: ArrayLike) -> Array:
        """Scores on the scale of the opinions."""
        x = _column(prediction)
        if self.kind == "logistic":
            top, bottom, middle, softness = self.parameters
            return np.asarray(bottom + (top - bottom) * special.expit((x - middle) / softness))
        if self.kind == "linear":
            return self.parameters[0] * x + self.parameters[1]
        return np.full_like(x, self.parameters[0])


def fit_mapping(prediction: ArrayLike, opinion: ArrayLike) -> Mapping:
    """The monotonic logistic of four parameters that VQEG recommends, by least squares; it may rise or fall.

    The best of the fit from VQEG's start (max y, min y, mean x, std x / 4) and of those from minima on a grid of middles and
    slopes: where scores are few or form clusters, the squared error has several minima. A straight line that is better still
    is returned instead, and ``reason`` says so.

    Raises:
        ValueError: different lengths, no items, or values that are not finite.

    Source: VQEG, "Final report from the Video Quality Experts Group on the validation of objective models of video quality
    assessment", 2000; the same curve as pyiqa's ``logistic_4params``.
    """
    x, y = _pair(prediction, opinion)
    if not len(x) or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("a mapping needs finite scores, and at least one")
    if not _varied(x, y):
        same = f"the {'opinions' if np.ptp(y) == 0 else 'scores'} are all the same"
        return Mapping("constant", (float(y.mean()),), "there is one image only" if len(x) == 1 else same)
    slope, intercept = (float(value) for value in np.polyfit(x - x.mean(), y, 1))
    line = slope, intercept - slope * float(x.mean())
    if len(x) < 5:
        return Mapping("linear", line, "fewer than five items")

    # VQEG's is taken unless another is better by more than rounding.
    best = min(_fits(x, y), key=lambda fit: rmse(fit(x), y) * (1 if fit.start == "VQEG's" else 1 + 1e-6), default=None)
    if best is None or rmse(best(x), y) > rmse(Mapping("linear", line)(x), y) * (1 + 1e-3):
        return Mapping("linear", line, "the logistic fit ended worse than a straight line")
    return best


def _fits(x: Array, y: Array) -> Iterator[Mapping]:
    u, v = (x - x.mean()) / x.std(), (y - y.mean()) / y.std()  # so that tolerances mean the same for every metric
    starts = [*(("VQEG's", *found) for found in _by_vqeg(u, v)), *(("a grid's", *found) for found in _by_grid(u, v))]
    for start, middle, softness in starts:
        share = special.expit((u - middle) / softness)
        width = float(np.ptp(share))
        if width == 0:
            continue
        # The best ends for this middle and slope; the share may be nearly flat, and is scaled up.
        gain, offset = (float(value) for value in np.polyfit((share - share.min()) / width, v, 1))
        gain, offset = gain / width, offset - gain / width * float(share.min())
        ends = sorted((float(end * y.std() + y.mean()) for end in (offset, offset + gain)), reverse=True)
        softness = -softness if gain < 0 else softness  # one form of each curve: the top first
        yield Mapping("logistic", (*ends, float(middle * x.std() + x.mean()), float(softness * x.std())), start=start)


def _by_vqeg(u: Array, v: Array) -> Iterator[tuple[float, float]]:
    """Middle and softness of standard scores found from VQEG's start, if the solver converges."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", optimize.OptimizeWarning)  # of the covariance, which is not used
            found, _ = optimize.curve_fit(
                lambda u, top, bottom, middle, softness: bottom + (top - bottom) * special.expit((u - middle) / softness),
                u,
                v,
                (v.max(), v.min(), 0.0, 0.25),
            )
    except (RuntimeError, ValueError):
        return
    if np.isfinite(found).all() and found[3] != 0:
        yield float(found[2]), float(found[3])


def _by_grid(u: Array, v: Array) -> Iterator[tuple[float, float]]:
    """Middles and softness of standard scores at the lowest minima of the squared error on a grid, refined."""
    inside, far = np.unique(np.quantile(u, np.linspace(0, 1, 41))), max(_FARTHEST, float(np.abs(u).max()))
    middles = np.unique(np.concatenate([inside, (inside[1:] + inside[:-1]) / 2, np.linspace(-far, far, 21)]))
    softness = np.geomspace(_STEEPEST, _SOFTEST, 25)
    errors = np.stack([_squared_error(u, v, middles, each) for each in softness])
    lowest = errors.min(0)

    def error(at: Array) -> float:
        return float(_squared_error(u, v, at[:1], float(np.exp(at[1])))[0])

    minima = signal.find_peaks(-np.pad(lowest, 1, constant_values=np.inf))[0] - 1
    for column in minima[np.argsort(lowest[minima])][:_REFINED]:
        best = np.array([middles[column], np.log(softness[errors[:, column].argmin()])], dtype=np.float64)
        limits = [(-far, far), (float(np.log(_STEEPEST)), float(np.log(_SOFTEST)))]
        found = optimize.minimize(error, best, method="Nelder-Mead", bounds=limits, tol=1e-8)
        yield float(found.x[0]), float(np.exp(found.x[1]))


def _squared_error(u: Array, v: Array, middles: Array, softness: float) -> Array:
    """Mean squared error of curves of these middles with their best ends, of standard scores and opinions."""
    share = special.expit((u[:, None] - middles) / softness)
    share -= share.mean(0)
    power, common = (share**2).mean(0), v @ share / len(v)
    return np.asarray(1 - np.divide(common**2, power, out=np.zeros_like(power), where=power > 1e-30))


# Agreement with opinions


@dataclass(frozen=True)
class Agreement:
    """How well one metric agrees with opinions.

    Rank correlations are positive where the metric goes the way it states. PLCC and RMSE are after the mapping, which follows
    the data, so that only the signs of rank correlations tell a metric that goes the wrong way.

    Attributes:
        count, left_out: items used, and items without a finite score or opinion.
        references: different references among the items.
        srcc, krcc, plcc, rmse, outlier_ratio: see the functions of these names.
        intervals: (low, high) of each of these five by name, 95 % over resampled references with the mapping held.
        mapping: from scores to opinions.
    """

    count: int
    left_out: int
    references: int
    srcc: float
    krcc: float
    plcc: float
    rmse: float
    outlier_ratio: float
    intervals: ByName[str, Interval]
    mapping: Mapping

    def as_row(self) -> dict[str, Any]:
        """One row of a table: an interval becomes the columns ``<name>_low`` and ``<name>_high``."""
        row: dict[str, Any] = {"count": self.count, "left_out": self.left_out, "references": self.references}
        for name, (low, high) in self.intervals.items():
            row |= {name: getattr(self, name), f"{name}_low": low, f"{name}_high": high}
        return row | {"mapping": self.mapping.kind, "mapping_reason": self.mapping.reason, "mapping_start": self.mapping.start}


def agreement(
    prediction: ArrayLike,
    opinion: ArrayLike,
    reference: Labels | None = None,
    std: ArrayLike | None = None,
    opposite: bool = False,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Agreement:
    """Every statistic of one metric on one set of items.

    Args:
        prediction, opinion: one per item; items with NaN or infinite values are left out and counted.
        reference: which reference each item belongs to; None where each is on its own.
        std: standard deviation of each opinion, NaN where not known.
        opposite: a good metric falls where the opinions rise (one of the two is lower-is-better).
        resamples, seed: of the bootstrap over references; without resamples the intervals are NaN.
    """
    x, y = _pair(prediction, opinion)
    deviation = np.full_like(y, np.nan) if std is None else _column(std)
    groups = np.arange(len(x)) if reference is None else _coded(reference)
    if not len(x) == len(deviation) == len(groups):
        raise ValueError(f"{len(x)} scores, {len(groups)} references and {len(deviation)} standard deviations: give one each")
    usable = np.isfinite(x) & np.isfinite(y)
    x, y, deviation, groups = x[usable], y[usable], deviation[usable], np.unique(groups[usable], return_inverse=True)[1]
    mapping = fit_mapping(x, y) if len(x) else Mapping("constant", (float("nan"),), "no item has a score")
    mapped, directed = mapping(x), -x if opposite else x
    return Agreement(
        len(x),
        int((~usable).sum()),
        len(np.unique(groups)),
        srcc(directed, y),
        krcc(directed, y),
        pearson(mapped, y) if mapping.kind != "constant" else float("nan"),
        rmse(mapped, y),
        outlier_ratio(mapped, y, deviation),
        _intervals(directed, y, mapped, deviation, groups, resamples, seed),
        mapping,
    )


def _intervals(x: Array, y: Array, mapped: Array, std: Array, groups: Groups, resamples: int, seed: int) -> dict[str, Interval]:
    draws = resample(groups, resamples, seed)
    if not len(draws) or not _varied(x, y):
        return dict.fromkeys(("srcc", "krcc", "plcc", "rmse", "outlier_ratio"), UNKNOWN)

    def sums(values: Array) -> Array:  # (resamples,), from the sums within each group
        return np.asarray(draws @ np.bincount(groups, values, minlength=draws.shape[1]), dtype=np.float64)

    known = np.isfinite(std)
    outliers = known & (np.abs(mapped - y) > OUTLIER_DEVIATIONS * np.where(known, std, 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        resampled = {
            "srcc": resampled_srcc(x, y, groups, draws),
            "krcc": resampled_krcc(x, y, groups, draws),
            "plcc": _resampled_correlation(lambda _: (mapped, y), groups, draws),
            "rmse": np.sqrt(sums((mapped - y) ** 2) / sums(np.ones_like(y))),
            "outlier_ratio": sums(outliers.astype(float)) / sums(known.astype(float)),
        }
    return {name: percentiles(values) for name, values in resampled.items()}


def within_references(
    prediction: ArrayLike,
    opinion: ArrayLike,
    reference: Labels,
    opposite: bool = False,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> dict[str, float]:
    """Mean rank correlation within each reference; opinions need not be comparable between references: votes are not.

    Returns:
        ``within_references``, the number of references that have a correlation (two scored items, none all equal);
        ``within_krcc`` and ``within_srcc``, means over them of Kendall's tau-b and of Spearman's correlation, each with
        ``_low`` and ``_high``, 95 % over resampled references (NaN with fewer than two).

    Source: M. Rubinstein, D. Gutierrez, O. Sorkine, A. Shamir, "A Comparative Study of Image Retargeting", SIGGRAPH Asia 2010.
    """
    x, y = _pair(prediction, opinion)
    groups = _coded(reference)
    if len(groups) != len(x):
        raise ValueError(f"{len(x)} scores and {len(groups)} references: give one for each score")
    usable = np.isfinite(x) & np.isfinite(y)
    chosen = [usable & (groups == group) for group in np.unique(groups)]
    row: dict[str, float] = {}
    for name, correlation in (("krcc", krcc), ("srcc", srcc)):
        each = np.array([correlation(-x[own] if opposite else x[own], y[own]) for own in chosen])
        known = each[np.isfinite(each)]
        row |= {"within_references": len(known), f"within_{name}": float(known.mean()) if len(known) else float("nan")}
        row[f"within_{name}_low"], row[f"within_{name}_high"] = mean_interval(known, resamples, seed)
    return row


# Resampling of references


def _coded(labels: Labels | ArrayLike) -> Groups:
    return np.asarray(pd.factorize(np.asarray(labels))[0])


def resample(groups: Groups, resamples: int = RESAMPLES, seed: int = SEED) -> NDArray[np.int64]:
    """How often each group is drawn, (resamples, groups): as many groups with replacement as there are."""
    count = int(groups.max()) + 1 if len(groups) else 0
    if count < 2:
        return np.zeros((0, count), dtype=np.int64)
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)


def correlation_interval(
    a: ArrayLike, b: ArrayLike, reference: Labels, resamples: int = RESAMPLES, seed: int = SEED
) -> Interval:
    """95 % interval of Spearman's correlation over resampled references."""
    groups = _coded(reference)
    return percentiles(resampled_srcc(*_pair(a, b), groups, resample(groups, resamples, seed)))


def mean_interval(values: Array, resamples: int = RESAMPLES, seed: int = SEED) -> Interval:
    """95 % interval of the mean of one value per reference, by resampling the references."""
    return percentiles(resample(np.arange(len(values)), resamples, seed) @ values / max(1, len(values)))


def percentiles(values: Array) -> Interval:
    """The middle 95 % of the finite values."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return UNKNOWN
    low, high = np.percentile(finite, [2.5, 97.5])
    return float(low), float(high)


def resampled_srcc(x: Array, y: Array, groups: Groups, draws: NDArray[np.int64]) -> Array:
    """Spearman's correlation on each resample, as if its groups were written out as often as they were drawn."""
    return _resampled_correlation(lambda weights: (_weighted_ranks(x, weights), _weighted_ranks(y, weights)), groups, draws)


def _resampled_correlation(
    columns: Callable[[NDArray[np.int64]], tuple[Array, Array]], groups: Groups, draws: NDArray[np.int64]
) -> Array:
    """Pearson's correlation on each resample of two columns, given how often each item occurs (resamples, items)."""
    found = np.empty(len(draws))
    for rows in _chunks(len(draws), len(groups)):
        weights = draws[rows][:, groups]
        a, b = (_centred(each, weights) for each in columns(weights))
        with np.errstate(invalid="ignore", divide="ignore"):
            found[rows] = (weights * a * b).sum(1) / np.sqrt((weights * a * a).sum(1) * (weights * b * b).sum(1))
    return found


def _centred(values: Array, weights: NDArray[np.int64]) -> Array:
    """Values less their mean on each resample, (resamples, items); 0 where they are equal up to the rounding of that mean."""
    away = values - (weights * values).sum(1, keepdims=True) / weights.sum(1, keepdims=True)
    return np.where(np.abs(away) > 1e-12 * np.abs(values).max(), away, 0.0)


def resampled_krcc(x: Array, y: Array, groups: Groups, draws: NDArray[np.int64]) -> Array:
    """Kendall's tau-b on each resample: sums over pairs of groups, each as often as its two groups were drawn."""
    order = np.argsort(groups, kind="stable")
    x, y, groups = x[order], y[order], groups[order]
    starts = np.searchsorted(groups, np.arange(draws.shape[1]))
    sums = np.zeros((3, draws.shape[1], draws.shape[1]))
    for rows in _chunks(len(x), len(x)):
        sign_x = np.sign(x[rows, None] - x).astype(np.int8)
        sign_y = np.sign(y[rows, None] - y).astype(np.int8)
        for total, part in zip(sums, (sign_x * sign_y, np.abs(sign_x), np.abs(sign_y)), strict=True):
            np.add.at(total, groups[rows], np.add.reduceat(part, starts, axis=1, dtype=np.int64))
    concordant, untied_x, untied_y = (((draws @ part) * draws).sum(1) for part in sums)
    return concordant / np.sqrt(untied_x * untied_y)


def _chunks(rows: int, columns: int) -> list[slice]:
    """Rows of a large table, a part at a time, so that memory stays small."""
    step = max(1, _CELLS_AT_ONCE // max(1, columns))
    return [slice(start, start + step) for start in range(0, rows, step)]


def _weighted_ranks(values: Array, weights: NDArray[np.int64]) -> Array:
    """Mean ranks (resamples, items) where item i occurs ``weights[:, i]`` times."""
    _, inverse = np.unique(values, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    starts = np.searchsorted(inverse[order], np.arange(inverse.max() + 1))
    tied = np.add.reduceat(weights[:, order], starts, axis=1)
    ranks = np.cumsum(tied, axis=1) - (tied - 1) / 2
    return np.asarray(ranks, dtype=np.float64)[:, inverse]


# Whether two metrics, or two methods, differ


def significance(
    predictions: pd.DataFrame,
    opinion: ArrayLike,
    reference: Labels,
    opposite: Iterable[str] = (),
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> pd.DataFrame:
    """Whether the SRCC of two metrics differ on the same items, for every two metrics.

    The test is a paired cluster bootstrap on the items that both have scored: references are resampled, both metrics are
    evaluated on the same resample, and the difference of their SRCC over the standard deviation of the resampled differences
    is taken as a t value with one degree of freedom less than there are references (two-sided). P values are corrected for
    the number of comparisons by Holm's method.

    Args:
        predictions: one column of scores per metric, NaN where there is none.
        opposite: the metrics that fall where the opinions rise.
        opinion, reference, resamples, seed: as for :func:`agreement`.

    Returns:
        One row per two metrics: ``a``, ``b``, ``difference`` (SRCC of a minus that of b), ``p``, ``p_holm``, ``count``. P
        is NaN with fewer than two references, and such a comparison does not count in the correction. For differences that
        are not shown: ``needed_references`` and ``needed_images``, the smallest set that would show one with a chance of
        80 % at the 5 % level, without correction, if it is real and as large as here; ``needed_reason`` why there is none.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979;
    A. C. Cameron, J. B. Gelbach, D. L. Miller, "Bootstrap-based improvements for inference with clustered errors", Review
    of Economics and Statistics 90, 2008.
    """
    y, groups, falling = _column(opinion), _coded(reference), set(opposite)
    columns = {
        name: (-1.0 if name in falling else 1.0) * predictions[name].to_numpy(float, na_value=np.nan) for name in predictions
    }

    @cache
    def evaluated(name: Any, which: bytes) -> tuple[float, Array]:
        chosen = np.frombuffer(which, np.bool_)
        x, own = columns[name][chosen], np.unique(groups[chosen], return_inverse=True)[1]
        return srcc(x, y[chosen]), resampled_srcc(x, y[chosen], own, resample(own, resamples, seed))

    rows = []
    for a, b in combinations(columns, 2):
        chosen = np.isfinite(columns[a]) & np.isfinite(columns[b]) & np.isfinite(y)
        (srcc_a, resampled_a), (srcc_b, resampled_b) = (evaluated(name, chosen.tobytes()) for name in (a, b))
        difference = srcc_a - srcc_b
        references, count = len(np.unique(groups[chosen])), int(chosen.sum())
        error, p = _paired_test(difference, resampled_a - resampled_b, references)
        needed, reason = _needed(abs(difference), error * np.sqrt(references))
        images = np.ceil(needed * count / references) if references else np.nan
        rows.append((a, b, difference, p, count, needed, images, reason))
    names = ["a", "b", "difference", "p", "count", "needed_references", "needed_images", "needed_reason"]
    table = _corrected(pd.DataFrame(rows, columns=names))
    shown = table["p_holm"] < LEVEL
    table.loc[shown, ["needed_references", "needed_images"]] = np.nan
    table.loc[shown, "needed_reason"] = "shown here"
    return table


def _needed(difference: float, deviation: float) -> tuple[float, str]:
    """The fewest references with enough power where the difference of n references deviates by deviation / sqrt(n)."""
    if not np.isfinite(difference + deviation):
        return np.nan, "not known"
    if not difference > 0:
        return np.nan, "no difference here"
    references = np.arange(2, MOST + 1)
    bound = stats.t.isf(LEVEL / 2, references - 1)
    centre = difference / max(deviation, 1e-12) * np.sqrt(references)
    power = stats.nct.sf(bound, references - 1, centre)
    # scipy gives up on large noncentralities, where the power is one.
    enough = np.where(np.isnan(power), centre > bound, power >= POWER)
    return (float(references[enough.argmax()]), "") if enough.any() else (np.nan, f"more than {MOST}")


def mean_differences(scores: pd.DataFrame, reference: Labels) -> pd.DataFrame:
    """How the mean scores of every two methods differ on the same images, by the paired t test.

    The differences of the images of one reference are averaged first, as they resemble each other. ``scores`` have one column
    per method, one row per image, NaN where there is none.

    Returns:
        One row per two methods: ``a``, ``b``, ``difference`` (mean of a minus that of b), ``low``, ``high`` (95 %), ``p``,
        ``p_holm`` (corrected for all pairs by Holm's method), ``count`` of the references. Interval and p are NaN with fewer
        than two, and where a score is infinite.
    """
    rows = []
    for a, b in combinations(scores, 2):
        each = (scores[a] - scores[b]).groupby(np.asarray(reference)).mean().dropna().to_numpy(float)
        mean = float(each.mean()) if len(each) else float("nan")
        low = high = p = float("nan")
        if len(each) > 1 and np.ptp(each) > 1e-9 * np.abs(each).max():
            test = stats.ttest_1samp(each, 0.0)
            (low, high), p = map(float, test.confidence_interval()), float(test.pvalue)
        elif len(each) > 1 and np.isfinite(mean):  # the same difference everywhere
            low, high, p = mean, mean, float(mean == 0)
        rows.append((a, b, mean, low, high, p, len(each)))
    return _corrected(pd.DataFrame(rows, columns=["a", "b", "difference", "low", "high", "p", "count"]))


def holm(p: ArrayLike) -> Array:
    """P values corrected by Holm's step-down method; NaN stays NaN and is not counted."""
    values = _column(p)
    corrected = np.full_like(values, np.nan)
    order = np.argsort(values)[: int(np.isfinite(values).sum())]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * factors))
    return corrected


def _corrected(table: pd.DataFrame) -> pd.DataFrame:
    """The table with ``p_holm`` beside its ``p``."""
    table.insert(list(table).index("p") + 1, "p_holm", holm(table["p"]))
    return table


def _paired_test(difference: float, resampled: Array, references: int) -> tuple[float, float]:
    """Standard error of a difference by its resampled values, and its two-sided p value by t over references."""
    finite = resampled[np.isfinite(resampled)]
    if len(finite) < 2 or references < 2 or not np.isfinite(difference):
        return UNKNOWN
    error = float(finite.std(ddof=1))
    if error == 0:
        return error, float(difference == 0)
    return error, float(2 * stats.t.sf(abs(difference) / error, references - 1))


# Two-alternative forced choice: of two versions of one reference, which did people prefer, and does a metric agree?


def agreeing(a: ArrayLike, b: ArrayLike, share_b: ArrayLike, lower_is_better: bool = False) -> Array:
    """For each comparison the share of people who chose what the metric scores better: half where its scores are equal, NaN
    where one is. ``share_b`` preferred b.
    """
    first, second = _pair(b, a) if lower_is_better else _pair(a, b)
    lead = np.where(np.isnan(first) | np.isnan(second), np.nan, (second > first).astype(float) - (second < first))
    return 0.5 + lead * (_column(share_b) - 0.5)


def choices(
    scores: ByName[str, tuple[ArrayLike, ArrayLike]],
    share_b: ArrayLike,
    answers: ArrayLike,
    reference: Labels,
    lower_is_better: Iterable[str] = (),
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    r"""How many of people's answers each metric agrees with, :math:`\sum_i n_i s_i / \sum_i n_i`, and whether two differ in it.

    n is the number of answers of a comparison, s the share of them that the metric sides with. Chance is 0.5. The ceiling is
    what always siding with the majority of these very answers would reach: with few per comparison, more than a perfect
    predictor could on new ones. Two metrics are compared by the paired cluster bootstrap of :func:`significance`.

    Args:
        scores: by metric, of a and of b, NaN where there is none.
        share_b, answers: of each comparison, the share of the answers that preferred b, and their number.
        lower_is_better: the metrics whose low scores are good.
        reference, resamples, seed: as for :func:`agreement`.

    Returns:
        One row per metric: ``metric``, ``count`` (comparisons), ``left_out``, ``references``, ``answers``, ``agreement`` with
        ``agreement_low`` and ``agreement_high`` (95 %), ``ceiling`` of the same comparisons, ``of_ceiling``: agreement beyond
        chance over that of the ceiling. And one row per two metrics: ``a``, ``b``, ``difference``, ``p``, ``p_holm``,
        ``count``.
    """
    share, weight, groups, falling = _column(share_b), _column(answers), _coded(reference), set(lower_is_better)

    def mean(values: Array) -> tuple[float, Array]:
        """The mean of the known values, weighted by answers, and that of each resample of the references."""
        known = np.isfinite(values)
        if not known.any():
            return float("nan"), np.empty(0)
        own, weights, codes = values[known], weight[known], _coded(groups[known])
        draws = resample(codes, resamples, seed)
        sums, totals = (np.bincount(codes, each, draws.shape[1]) for each in (own * weights, weights))
        return float(np.average(own, weights=weights)), np.asarray((draws @ sums) / (draws @ totals))

    sided = {name: agreeing(a, b, share, name in falling) for name, (a, b) in scores.items()}
    rows, tests = [], []
    for name, outcome in sided.items():
        known = np.isfinite(outcome)
        found, resampled = mean(outcome)
        ceiling, _ = mean(np.where(known, np.maximum(share, 1 - share), np.nan))
        of_ceiling = (found - 0.5) / (ceiling - 0.5) if ceiling > 0.5 else float("nan")
        counts = int(known.sum()), int((~known).sum()), len(np.unique(groups[known])), int(weight[known].sum())
        rows.append((name, *counts, found, *percentiles(resampled), ceiling, of_ceiling))
    for (a, first), (b, second) in combinations(sided.items(), 2):
        known = np.isfinite(first - second)
        difference, resampled = mean(first - second)
        _, p = _paired_test(difference, resampled, len(np.unique(groups[known])))
        tests.append((a, b, difference, p, int(known.sum())))
    columns = ["metric", "count", "left_out", "references", "answers", "agreement", "agreement_low", "agreement_high"]
    table = pd.DataFrame(rows, columns=[*columns, "ceiling", "of_ceiling"])
    return table, _corrected(pd.DataFrame(tests, columns=["a", "b", "difference", "p", "count"]))
