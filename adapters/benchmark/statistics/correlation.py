"""Correlations and errors of scores and opinions, as scipy has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Array = NDArray[np.float64]

#: A prediction counts as an outlier where it is farther from the opinion than this many standard deviations.
OUTLIER_DEVIATIONS = 2.0


def srcc(prediction: ArrayLike, opinion: ArrayLike) -> float:
    """Spearman's rank correlation; NaN for fewer than two items, constant or NaN values."""
    return _correlation(stats.spearmanr, prediction, opinion)


def krcc(prediction: ArrayLike, opinion: ArrayLike) -> float:
    """Kendall's rank correlation, tau-b (ties count); NaN for fewer than two items, constant or NaN values."""
    return _correlation(stats.kendalltau, prediction, opinion)


def pearson(prediction: ArrayLike, opinion: ArrayLike) -> float:
    """Pearson's linear correlation as it stands, without a mapping; NaN for fewer than two items, constant or NaN values."""
    return _correlation(stats.pearsonr, prediction, opinion)


def _correlation(test: Callable[..., Any], prediction: ArrayLike, opinion: ArrayLike) -> float:
    x, y = as_pair(prediction, opinion)
    return float(test(x, y).statistic) if varied(x, y) else float("nan")


def rmse(prediction: ArrayLike, opinion: ArrayLike) -> float:
    """Root of the mean squared difference; NaN for no items."""
    x, y = as_pair(prediction, opinion)
    return float(np.sqrt(np.mean((x - y) ** 2))) if len(x) else float("nan")


def outlier_ratio(prediction: ArrayLike, opinion: ArrayLike, std: ArrayLike) -> float:
    """Share of the items that lie more than two standard deviations of the opinions away from the opinion.

    Items whose standard deviation is not known (NaN) are left out; NaN if none is left.
    """
    x, y = as_pair(prediction, opinion)
    deviation = as_column(std)
    known = np.isfinite(deviation)
    return float(np.mean(np.abs(x - y)[known] > OUTLIER_DEVIATIONS * deviation[known])) if known.any() else float("nan")


def as_column(values: ArrayLike) -> Array:
    """Values as one float64 column."""
    return np.asarray(values, dtype=np.float64).reshape(-1)


def as_pair(prediction: ArrayLike, opinion: ArrayLike) -> tuple[Array, Array]:
    """Two columns of one length.

    Raises:
        ValueError: different lengths.
    """
    x, y = as_column(prediction), as_column(opinion)
    if len(x) != len(y):
        raise ValueError(f"{len(x)} scores and {len(y)} opinions: give one opinion for each score")
    return x, y


def varied(x: Array, y: Array) -> bool:
    """Whether a correlation of the two exists: two items or more, all finite, neither column constant."""
    return len(x) > 1 and bool(np.isfinite(x).all() and np.isfinite(y).all() and np.ptp(x) > 0 and np.ptp(y) > 0)
