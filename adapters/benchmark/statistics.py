"""How well scores agree with opinions, how sure that is, and whether two metrics differ.

Opinion scores come in groups: the distorted images of one reference resemble each other. Everything here that speaks of
uncertainty therefore resamples references, never single images. With fewer than about ten references such intervals are
too narrow; with one there is none (NaN).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

Array = NDArray[np.float64]
Interval = tuple[float, float]

RESAMPLES = 1000
SEED = 0
#: A prediction counts as an outlier where it is farther from the opinion than this many standard deviations.
OUTLIER_DEVIATIONS = 2.0

#: Of the parameters of :func:`rise` for standard scores. A curve that has only one of its two bends within the data would
#: otherwise send the other end to infinity, and no fit would converge.
RISE_BOUNDS = ((-10.0, 0.0, -10.0, 1e-3), (10.0, 20.0, 10.0, 10.0))

#: An interval that is not known.
UNKNOWN: Interval = (float("nan"), float("nan"))
_CELLS_AT_ONCE = 2_000_000  # of a resamples x items table: 16 MB each


def srcc(prediction: ArrayLike, opinion: ArrayLike) -> float:
    """Spearman's rank correlation; NaN for fewer than two items, constant or NaN values."""
    x, y = _pair(prediction, opinion)
    return float(stats.spearmanr(x, y).statistic) if _varied(x, y) else float("nan")


def krcc(prediction: ArrayLike, opinion: ArrayLike) -> float:
    """Kendall's rank correlation, tau-b (ties count); NaN for fewer than two items, constant or NaN values."""
    x, y = _pair(prediction, opinion)
    return float(stats.kendalltau(x, y).statistic) if _varied(x, y) else float("nan")


def pearson(prediction: ArrayLike, opinion: ArrayLike) -> float:
    """Pearson's linear correlation as it stands, without a mapping; NaN for fewer than two items, constant or NaN values."""
    x, y = _pair(prediction, opinion)
    return float(stats.pearsonr(x, y).statistic) if _varied(x, y) else float("nan")


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
    if not known.any():
        return float("nan")
    return float(np.mean(np.abs(x - y)[known] > OUTLIER_DEVIATIONS * deviation[known]))


@dataclass(frozen=True)
class Mapping:
    """From a metric's scores to the scale of the opinions; monotonic. Call it with scores.

    Attributes:
        kind: ``logistic``: b2 + (b1 - b2) / (1 + exp(-(x - b3) / b4)); ``linear``: b1 x + b2; ``constant``: b1.
        parameters: b1, b2, ...
        reason: why it is not the logistic; empty if it is.
    """

    kind: Literal["logistic", "linear", "constant"]
    parameters: tuple[float, ...]
    reason: str = ""

    def __call__(self, prediction: ArrayLike) -> Array:
        """Scores on the scale of the opinions."""
        x = _column(prediction)
        if self.kind == "logistic":
            top, bottom, middle, softness = self.parameters
            return rise(x, np.array([bottom, top - bottom, middle, softness]))[0]
        if self.kind == "linear":
            return self.parameters[0] * x + self.parameters[1]
        return np.full_like(x, self.parameters[0])


def fit_mapping(prediction: ArrayLike, opinion: ArrayLike) -> Mapping:
    """The monotonic logistic of four parameters that VQEG recommends, by least squares.

    It may rise or fall; the sign of the correlation decides. The ends of the curve and its middle stay within ten standard
    deviations of the means. The solver starts from (max y, min y, mean x, ± std x / 4), and once more with a slope four times
    softer; the better of the two is kept. Where neither converges, or the outcome is worse than a straight line, the straight
    line is returned, and ``reason`` says so.

    Args:
        prediction: scores of a metric, finite.
        opinion: opinion scores, finite, as many.

    Raises:
        ValueError: different lengths, nothing at all, or values that are not finite.

    Source: VQEG, "Final report from the Video Quality Experts Group on the validation of objective models of video quality
    assessment", 2000; the same curve as pyiqa's ``logistic_4params``.
    """
    x, y = _pair(prediction, opinion)
    if not len(x) or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("a mapping needs finite scores, and at least one")
    if not _varied(x, y):
        constant = "opinions" if np.ptp(y) == 0 else "scores"
        return Mapping("constant", (float(y.mean()),), f"the {constant} are all the same")
    slope, intercept = (float(value) for value in np.polyfit(x - x.mean(), y, 1))
    line = Mapping("linear", (slope, intercept - slope * float(x.mean())))
    if len(x) < 5:
        return Mapping("linear", line.parameters, "fewer than five items")
    fits = [Mapping("logistic", parameters) for parameters in _logistic_fits(x, y)]
    if not fits:
        return Mapping("linear", line.parameters, "the logistic fit did not converge")
    best = min(fits, key=lambda fit: rmse(fit(x), y))
    if rmse(best(x), y) > rmse(line(x), y) * (1 + 1e-3):
        return Mapping("linear", line.parameters, "the logistic fit ended worse than a straight line")
    return best


def plcc(prediction: ArrayLike, opinion: ArrayLike) -> float:
    """Pearson's correlation after :func:`fit_mapping`, never negative; NaN for constant values, NaN or fewer than two items."""
    x, y = _pair(prediction, opinion)
    return pearson(fit_mapping(x, y)(x), y) if _varied(x, y) else float("nan")


@dataclass(frozen=True)
class Agreement:
    """How well one metric agrees with opinions.

    Rank correlations are positive where the metric goes the way it says. PLCC and RMSE are those after the mapping, which
    follows the data, so that they do not tell a metric that goes the wrong way: the sign of SRCC does. Intervals are 95 %
    percentile intervals over resampled references, with the mapping held.

    Attributes:
        count: items used.
        left_out: items without a finite score or opinion.
        references: different references among the items.
        srcc, krcc, plcc, rmse: see the functions of these names.
        outlier_ratio: NaN where no standard deviations are known.
        srcc_interval, krcc_interval, plcc_interval, rmse_interval, outlier_ratio_interval: (low, high).
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
    srcc_interval: Interval
    krcc_interval: Interval
    plcc_interval: Interval
    rmse_interval: Interval
    outlier_ratio_interval: Interval
    mapping: Mapping

    def as_row(self) -> dict[str, Any]:
        """One row of a table: an interval becomes the columns ``<name>_low`` and ``<name>_high``."""
        row: dict[str, Any] = {"count": self.count, "left_out": self.left_out, "references": self.references}
        for name in ("srcc", "krcc", "plcc", "rmse", "outlier_ratio"):
            row[name] = getattr(self, name)
            row[f"{name}_low"], row[f"{name}_high"] = getattr(self, f"{name}_interval")
        return row | {"mapping": self.mapping.kind, "mapping_reason": self.mapping.reason}


def agreement(
    prediction: ArrayLike,
    opinion: ArrayLike,
    reference: Sequence[Any] | pd.Series[Any] | None = None,
    std: ArrayLike | None = None,
    opposite: bool = False,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Agreement:
    """Every statistic of one metric on one set of items.

    Args:
        prediction: scores of the metric; items with NaN or infinite values are left out and counted.
        opinion: opinion scores, as many.
        reference: which reference each item belongs to; None where each is on its own.
        std: standard deviation of each opinion, NaN where not known.
        opposite: a good metric falls where the opinions rise (one of the two is lower-is-better).
        resamples: of the bootstrap; 0 for none, the intervals are then NaN.
        seed: of the bootstrap.

    Raises:
        ValueError: different lengths.
    """
    x, y = _pair(prediction, opinion)
    deviation = np.full_like(y, np.nan) if std is None else _column(std)
    groups = np.arange(len(x)) if reference is None else pd.factorize(np.asarray(reference))[0]
    if not len(x) == len(deviation) == len(groups):
        raise ValueError(f"{len(x)} scores, {len(groups)} references and {len(deviation)} standard deviations: give one each")
    usable = np.isfinite(x) & np.isfinite(y)
    left_out = int((~usable).sum())
    x, y, deviation, groups = x[usable], y[usable], deviation[usable], groups[usable]
    sign = -1.0 if opposite else 1.0
    mapping = fit_mapping(x, y) if len(x) else Mapping("constant", (float("nan"),), "no item has a score")
    mapped = mapping(x)
    intervals = _intervals(sign * x, y, mapped, deviation, groups, resamples, seed)
    return Agreement(
        len(x),
        left_out,
        len(np.unique(groups)),
        srcc(sign * x, y),
        krcc(sign * x, y),
        pearson(mapped, y) if mapping.kind != "constant" else float("nan"),
        rmse(mapped, y),
        outlier_ratio(mapped, y, deviation),
        *intervals,
        mapping,
    )


def agreement_by_group(
    prediction: ArrayLike, opinion: ArrayLike, group: Sequence[Any] | pd.Series[Any], **options: Any
) -> dict[Any, Agreement]:
    """:func:`agreement` within each group (a type of distortion), in order of first appearance, with a mapping of its own.

    Args:
        prediction, opinion: as there.
        group: label of each item; missing labels belong to no group.
        options: as there; ``reference`` and ``std`` are split along.
    """
    x, y, labels = _column(prediction), _column(opinion), np.asarray(group, dtype=object)
    found: dict[Any, Agreement] = {}
    for label in pd.unique(labels[~pd.isna(labels)]):
        chosen = labels == label
        own = dict(options)
        for name in {"reference", "std"} & options.keys():
            own[name] = None if options[name] is None else np.asarray(options[name])[chosen]
        found[label] = agreement(x[chosen], y[chosen], **own)
    return found


def correlation_interval(
    a: ArrayLike, b: ArrayLike, reference: Sequence[Any] | pd.Series[Any], resamples: int = RESAMPLES, seed: int = SEED
) -> Interval:
    """95 % interval of Spearman's correlation over resampled references."""
    x, y = _pair(a, b)
    groups = pd.factorize(np.asarray(reference))[0]
    return _percentiles(_resampled_srcc(x, y, groups, resample(groups, resamples, seed)))


def significance(
    predictions: pd.DataFrame,
    opinion: ArrayLike,
    reference: Sequence[Any] | pd.Series[Any],
    opposite: Iterable[str] = (),
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> pd.DataFrame:
    """Whether the SRCC of two metrics differ on the same items, for every two metrics.

    The test is a paired cluster bootstrap: references are resampled, both metrics are evaluated on the same resample, and
    the difference of their SRCC over the standard deviation of the resampled differences is taken as a t value with one
    degree of freedom less than there are references (two-sided). P values are corrected for the number of comparisons by
    Holm's method. Only items that both metrics have scored are used.

    Args:
        predictions: one column of scores per metric, NaN where there is none.
        opinion: opinion scores, one per row.
        reference: which reference each row belongs to.
        opposite: the metrics that fall where the opinions rise.
        resamples, seed: of the bootstrap.

    Returns:
        One row per two metrics: ``a``, ``b``, ``difference`` (SRCC of a minus that of b), ``p``, ``p_holm``, ``count``. P
        is NaN with fewer than two references, and such a comparison does not count in the correction.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979;
    A. C. Cameron, J. B. Gelbach, D. L. Miller, "Bootstrap-based improvements for inference with clustered errors", Review
    of Economics and Statistics 90, 2008.
    """
    y = _column(opinion)
    groups = pd.factorize(np.asarray(reference))[0]
    falling = set(opposite)
    columns = {
        name: (-1.0 if name in falling else 1.0) * predictions[name].to_numpy(float, na_value=np.nan) for name in predictions
    }
    cache: dict[tuple[Any, bytes], tuple[float, Array]] = {}

    def evaluated(name: Any, chosen: NDArray[np.bool_]) -> tuple[float, Array]:
        key = (name, chosen.tobytes())
        if key not in cache:
            x, own = columns[name][chosen], np.unique(groups[chosen], return_inverse=True)[1]
            cache[key] = srcc(x, y[chosen]), _resampled_srcc(x, y[chosen], own, resample(own, resamples, seed))
        return cache[key]

    rows = []
    for a, b in combinations(columns, 2):
        chosen = np.isfinite(columns[a]) & np.isfinite(columns[b]) & np.isfinite(y)
        (srcc_a, resampled_a), (srcc_b, resampled_b) = evaluated(a, chosen), evaluated(b, chosen)
        difference = srcc_a - srcc_b
        p = _paired_p(difference, resampled_a - resampled_b, len(np.unique(groups[chosen])))
        rows.append({"a": a, "b": b, "difference": difference, "p": p, "count": int(chosen.sum())})
    table = pd.DataFrame(rows, columns=["a", "b", "difference", "p", "count"])
    table.insert(4, "p_holm", holm(table["p"]))
    return table


def holm(p: ArrayLike) -> Array:
    """P values corrected by Holm's step-down method; NaN stays NaN and is not counted."""
    values = _column(p)
    corrected = np.full_like(values, np.nan)
    order = np.argsort(values)[: int(np.isfinite(values).sum())]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * factors))
    return corrected


def resample(groups: NDArray[np.intp], resamples: int = RESAMPLES, seed: int = SEED) -> NDArray[np.int64]:
    """How often each group is drawn, (resamples, groups): as many groups with replacement as there are."""
    count = int(groups.max()) + 1 if len(groups) else 0
    if count < 2:
        return np.zeros((0, count), dtype=np.int64)
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)


def _column(values: ArrayLike) -> Array:
    return np.asarray(values, dtype=np.float64).reshape(-1)


def _pair(prediction: ArrayLike, opinion: ArrayLike) -> tuple[Array, Array]:
    x, y = _column(prediction), _column(opinion)
    if len(x) != len(y):
        raise ValueError(f"{len(x)} scores and {len(y)} opinions: give one opinion for each score")
    return x, y


def _varied(x: Array, y: Array) -> bool:
    return len(x) > 1 and bool(np.isfinite(x).all() and np.isfinite(y).all() and np.ptp(x) > 0 and np.ptp(y) > 0)


def _logistic_fits(x: Array, y: Array) -> Iterator[tuple[float, ...]]:
    # Standard scores on both axes: the optimum is the same, and the solver's tolerances mean the same for every metric.
    centre, scale, low, span = x.mean(), x.std(), y.mean(), y.std()
    u, v = (x - centre) / scale, (y - low) / span
    sign = -1.0 if pearson(u, v) < 0 else 1.0

    def residuals(parameters: Array) -> Array:
        return rise(sign * u, parameters)[0] - v

    def jacobian(parameters: Array) -> Array:
        return rise(sign * u, parameters)[1]

    for softness in (0.25, 1.0):
        start = np.clip((v.min(), np.ptp(v), 0.0, softness), *RISE_BOUNDS)
        fit = optimize.least_squares(residuals, start, jacobian, bounds=RISE_BOUNDS, x_scale="jac", ftol=1e-12)
        if fit.success:
            bottom, gain, middle, width = (float(value) for value in fit.x)
            top = bottom + gain
            yield top * span + low, bottom * span + low, sign * middle * scale + centre, sign * width * scale


def rise(x: Array, parameters: Array) -> tuple[Array, Array]:
    """A logistic curve (which falls where softness is negative), and its derivatives (items, 4) by its parameters."""
    offset, gain, middle, softness = parameters
    steps = (x - middle) / softness
    share = special.expit(steps)
    slope = gain * share * (1 - share) / softness
    return offset + gain * share, np.column_stack([np.ones_like(share), share, -slope, -slope * steps])


def _intervals(
    x: Array, y: Array, mapped: Array, std: Array, groups: NDArray[np.intp], resamples: int, seed: int
) -> tuple[Interval, Interval, Interval, Interval, Interval]:
    groups = np.unique(groups, return_inverse=True)[1]
    draws = resample(groups, resamples, seed)
    if not len(draws) or not _varied(x, y):
        return (UNKNOWN,) * 5

    def sums(values: Array) -> Array:  # (resamples,), from the sums within each group
        return np.asarray(draws @ np.bincount(groups, values, minlength=draws.shape[1]), dtype=np.float64)

    squared, known = (mapped - y) ** 2, np.isfinite(std)
    outliers = np.where(known, np.abs(mapped - y) > OUTLIER_DEVIATIONS * np.where(known, std, 0), False)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (
            _percentiles(_resampled_srcc(x, y, groups, draws)),
            _percentiles(_resampled_krcc(x, y, groups, draws)),
            _percentiles(_weighted_pearson(mapped - mapped.mean(), y - y.mean(), sums)),
            _percentiles(np.sqrt(sums(squared) / sums(np.ones_like(y)))),
            _percentiles(sums(outliers.astype(float)) / sums(known.astype(float))),
        )


def _percentiles(values: Array) -> Interval:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return UNKNOWN
    low, high = np.percentile(finite, [2.5, 97.5])
    return float(low), float(high)


def _weighted_pearson(x: Array, y: Array, sums: Callable[[Array], Array]) -> Array:
    count = sums(np.ones_like(x))
    mean_x, mean_y = sums(x) / count, sums(y) / count
    covariance = sums(x * y) / count - mean_x * mean_y
    return covariance / np.sqrt((sums(x * x) / count - mean_x**2) * (sums(y * y) / count - mean_y**2))


def _resampled_srcc(x: Array, y: Array, groups: NDArray[np.intp], draws: NDArray[np.int64]) -> Array:
    """Spearman's correlation on each resample, as if its groups were written out as often as they were drawn."""
    step = max(1, _CELLS_AT_ONCE // max(1, len(x)))
    parts = [_srcc_of_weights(x, y, draws[start : start + step, groups]) for start in range(0, len(draws), step)]
    return np.concatenate(parts) if parts else np.empty(0)


def _srcc_of_weights(x: Array, y: Array, weights: NDArray[np.int64]) -> Array:
    a, b = _weighted_ranks(x, weights), _weighted_ranks(y, weights)
    total = weights.sum(1, keepdims=True)
    a, b = a - (total + 1) / 2, b - (total + 1) / 2  # the mean rank
    with np.errstate(invalid="ignore", divide="ignore"):
        return (weights * a * b).sum(1) / np.sqrt((weights * a * a).sum(1) * (weights * b * b).sum(1))


def _weighted_ranks(values: Array, weights: NDArray[np.int64]) -> Array:
    """Mean ranks (resamples, items) where item i occurs ``weights[:, i]`` times."""
    _, inverse = np.unique(values, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    starts = np.searchsorted(inverse[order], np.arange(inverse.max() + 1))
    tied = np.add.reduceat(weights[:, order], starts, axis=1)
    ranks = np.cumsum(tied, axis=1) - (tied - 1) / 2
    return np.asarray(ranks, dtype=np.float64)[:, inverse]


def _resampled_krcc(x: Array, y: Array, groups: NDArray[np.intp], draws: NDArray[np.int64]) -> Array:
    """Kendall's tau-b on each resample: sums over pairs of groups, each as often as its two groups were drawn."""
    order = np.argsort(groups, kind="stable")
    x, y, groups = x[order], y[order], groups[order]
    starts = np.searchsorted(groups, np.arange(draws.shape[1]))
    sums = np.zeros((3, draws.shape[1], draws.shape[1]))
    step = max(1, _CELLS_AT_ONCE // len(x))
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        sign_x = np.sign(x[rows, None] - x).astype(np.int8)
        sign_y = np.sign(y[rows, None] - y).astype(np.int8)
        for total, part in zip(sums, (sign_x * sign_y, np.abs(sign_x), np.abs(sign_y)), strict=True):
            np.add.at(total, groups[rows], np.add.reduceat(part, starts, axis=1, dtype=np.int64))
    concordant, untied_x, untied_y = (((draws @ part) * draws).sum(1) for part in sums)
    return concordant / np.sqrt(untied_x * untied_y)


def _paired_p(difference: float, resampled: Array, references: int) -> float:
    finite = resampled[np.isfinite(resampled)]
    if len(finite) < 2 or references < 2 or not np.isfinite(difference):
        return float("nan")
    error = finite.std(ddof=1)
    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * stats.t.sf(abs(difference) / error, references - 1))
