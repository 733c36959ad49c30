"""Whether two metrics, or two methods, differ: paired tests over references, corrected for the number of comparisons."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from msds_plugin.adapters.benchmark.statistics.bootstrap import RESAMPLES, SEED, resample, resampled_srcc
from msds_plugin.adapters.benchmark.statistics.correlation import Array, as_column, srcc

#: A difference counts as shown below this corrected p value.
LEVEL = 0.05
#: The chance of showing a difference that is there, asked of a set that counts as large enough.
POWER = 0.8
#: References beyond which nothing is said.
MOST = 1000


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
        is NaN with fewer than two references, and such a comparison does not count in the correction. For differences that
        are not shown: ``needed_references`` and ``needed_images``, the smallest set that would show one with a chance of
        80 % at the 5 % level, without correction, if it is real and as large as here; ``needed_reason`` why there is none.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979;
    A. C. Cameron, J. B. Gelbach, D. L. Miller, "Bootstrap-based improvements for inference with clustered errors", Review
    of Economics and Statistics 90, 2008.
    """
    y = as_column(opinion)
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
            cache[key] = srcc(x, y[chosen]), resampled_srcc(x, y[chosen], own, resample(own, resamples, seed))
        return cache[key]

    rows = []
    for a, b in combinations(columns, 2):
        chosen = np.isfinite(columns[a]) & np.isfinite(columns[b]) & np.isfinite(y)
        (srcc_a, resampled_a), (srcc_b, resampled_b) = evaluated(a, chosen), evaluated(b, chosen)
        difference = srcc_a - srcc_b
        references, count = len(np.unique(groups[chosen])), int(chosen.sum())
        error, p = paired_test(difference, resampled_a - resampled_b, references)
        needed, reason = _needed(abs(difference), error * np.sqrt(references))
        images = np.ceil(needed * count / references) if references else np.nan
        rows.append((a, b, difference, p, count, needed, images, reason))
    columns_of = ["a", "b", "difference", "p", "count", "needed_references", "needed_images", "needed_reason"]
    table = pd.DataFrame(rows, columns=columns_of)
    table.insert(4, "p_holm", holm(table["p"]))
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
    return (float(references[enough.argmax()]), "") if enough.any() else (np.nan, f"more than {MOST} references")


def mean_differences(scores: pd.DataFrame, reference: Sequence[Any] | pd.Series[Any]) -> pd.DataFrame:
    """How the mean scores of every two methods differ on the same images, by the paired t test.

    The differences of the images of one reference are averaged first, as they resemble each other.

    Args:
        scores: one column of scores per method, one row per image, NaN where there is none.
        reference: which reference each row belongs to.

    Returns:
        One row per two methods: ``a``, ``b``, ``difference`` (mean of a minus that of b), ``low``, ``high`` (95 %), ``p``,
        ``p_holm`` (corrected for all pairs by Holm's method), ``count`` of the references. Interval and p are NaN with fewer
        than two.
    """
    rows = []
    for a, b in combinations(scores, 2):
        each = (scores[a] - scores[b]).groupby(np.asarray(reference)).mean().dropna().to_numpy(float)
        low = high = p = float("nan")
        if len(each) > 1 and np.ptp(each) > 1e-9 * np.abs(each).max():
            test = stats.ttest_1samp(each, 0.0)
            bounds, p = test.confidence_interval(), float(test.pvalue)
            low, high = float(bounds.low), float(bounds.high)
        elif len(each) > 1:  # the same difference everywhere
            low = high = float(each.mean())
            p = 1.0 if low == 0 else 0.0
        rows.append((a, b, float(each.mean()) if len(each) else float("nan"), low, high, p, len(each)))
    table = pd.DataFrame(rows, columns=["a", "b", "difference", "low", "high", "p", "count"])
    table.insert(6, "p_holm", holm(table["p"]))
    return table


def holm(p: ArrayLike) -> Array:
    """P values corrected by Holm's step-down method; NaN stays NaN and is not counted."""
    values = as_column(p)
    corrected = np.full_like(values, np.nan)
    order = np.argsort(values)[: int(np.isfinite(values).sum())]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * factors))
    return corrected


def paired_test(difference: float, resampled: Array, references: int) -> tuple[float, float]:
    """Standard error of a difference by its resampled values, and its two-sided p value by t over references."""
    finite = resampled[np.isfinite(resampled)]
    if len(finite) < 2 or references < 2 or not np.isfinite(difference):
        return float("nan"), float("nan")
    error = float(finite.std(ddof=1))
    if error == 0:
        return error, 1.0 if difference == 0 else 0.0
    return error, float(2 * stats.t.sf(abs(difference) / error, references - 1))
