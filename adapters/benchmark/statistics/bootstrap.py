"""Resampling of references: how sure a statistic is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from msds_plugin.adapters.benchmark.statistics.correlation import Array, as_pair

Interval = tuple[float, float]

RESAMPLES = 1000
SEED = 0

#: An interval that is not known.
UNKNOWN: Interval = (float("nan"), float("nan"))
_CELLS_AT_ONCE = 2_000_000  # of a resamples x items table: 16 MB each


def resample(groups: NDArray[np.intp], resamples: int = RESAMPLES, seed: int = SEED) -> NDArray[np.int64]:
    """How often each group is drawn, (resamples, groups): as many groups with replacement as there are."""
    count = int(groups.max()) + 1 if len(groups) else 0
    if count < 2:
        return np.zeros((0, count), dtype=np.int64)
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)


def correlation_interval(
    a: ArrayLike, b: ArrayLike, reference: Sequence[Any] | pd.Series[Any], resamples: int = RESAMPLES, seed: int = SEED
) -> Interval:
    """95 % interval of Spearman's correlation over resampled references."""
    x, y = as_pair(a, b)
    groups = pd.factorize(np.asarray(reference))[0]
    return percentiles(resampled_srcc(x, y, groups, resample(groups, resamples, seed)))


def mean_interval(values: Array, resamples: int = RESAMPLES, seed: int = SEED) -> Interval:
    """95 % interval of the mean of one value per reference, by resampling the references."""
    count = len(values)
    if count < 2:
        return UNKNOWN
    return percentiles(resample(np.arange(count), resamples, seed) @ values / count)


def percentiles(values: Array) -> Interval:
    """The middle 95 % of the finite values."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return UNKNOWN
    low, high = np.percentile(finite, [2.5, 97.5])
    return float(low), float(high)


def weighted_pearson(x: Array, y: Array, sums: Callable[[Array], Array]) -> Array:
    """Pearson's correlation on each resample; ``sums`` gives the sum of values over each resample."""
    count = sums(np.ones_like(x))
    mean_x, mean_y = sums(x) / count, sums(y) / count
    covariance = sums(x * y) / count - mean_x * mean_y
    return covariance / np.sqrt((sums(x * x) / count - mean_x**2) * (sums(y * y) / count - mean_y**2))


def resampled_srcc(x: Array, y: Array, groups: NDArray[np.intp], draws: NDArray[np.int64]) -> Array:
    """Spearman's correlation on each resample, as if its groups were written out as often as they were drawn."""
    parts = [_srcc_of_weights(x, y, draws[rows][:, groups]) for rows in _chunks(len(draws), len(x))]
    return np.concatenate(parts) if parts else np.empty(0)


def _chunks(rows: int, columns: int) -> list[slice]:
    """Rows of a large table, a part at a time, so that memory stays small."""
    step = max(1, _CELLS_AT_ONCE // max(1, columns))
    return [slice(start, start + step) for start in range(0, rows, step)]


def resampled_krcc(x: Array, y: Array, groups: NDArray[np.intp], draws: NDArray[np.int64]) -> Array:
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
