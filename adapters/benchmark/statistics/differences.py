"""Whether two metrics differ: a paired bootstrap over references, corrected for the number of comparisons."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from .bootstrap import RESAMPLES, SEED, resample, resampled_srcc
from .correlation import Array, as_column, srcc


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
        p = paired_p(difference, resampled_a - resampled_b, len(np.unique(groups[chosen])))
        rows.append({"a": a, "b": b, "difference": difference, "p": p, "count": int(chosen.sum())})
    table = pd.DataFrame(rows, columns=["a", "b", "difference", "p", "count"])
    table.insert(4, "p_holm", holm(table["p"]))
    return table


def holm(p: ArrayLike) -> Array:
    """P values corrected by Holm's step-down method; NaN stays NaN and is not counted."""
    values = as_column(p)
    corrected = np.full_like(values, np.nan)
    order = np.argsort(values)[: int(np.isfinite(values).sum())]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * factors))
    return corrected


def paired_p(difference: float, resampled: Array, references: int) -> float:
    """Two-sided p value of a difference, from its resampled values, by t with one degree of freedom less than references."""
    finite = resampled[np.isfinite(resampled)]
    if len(finite) < 2 or references < 2 or not np.isfinite(difference):
        return float("nan")
    error = finite.std(ddof=1)
    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * stats.t.sf(abs(difference) / error, references - 1))
