"""Agreement within each reference: whether a metric orders the versions of one picture as people do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from .bootstrap import RESAMPLES, SEED, UNKNOWN, Interval, percentiles
from .correlation import Array, as_pair, krcc, srcc


@dataclass(frozen=True)
class Within:
    """Rank correlations within references, averaged over references.

    Attributes:
        references: those with a correlation: two scored items or more, neither scores nor opinions all equal.
        krcc: mean of Kendall's tau-b.
        srcc: mean of Spearman's correlation.
        krcc_interval, srcc_interval: 95 %, over resampled references; NaN with fewer than two.
    """

    references: int
    krcc: float
    srcc: float
    krcc_interval: Interval
    srcc_interval: Interval

    def as_row(self) -> dict[str, Any]:
        """One row of a table, every name with ``within_`` before it."""
        row: dict[str, Any] = {"within_references": self.references}
        for name in ("krcc", "srcc"):
            row[f"within_{name}"] = getattr(self, name)
            row[f"within_{name}_low"], row[f"within_{name}_high"] = getattr(self, f"{name}_interval")
        return row


def within_references(
    prediction: ArrayLike,
    opinion: ArrayLike,
    reference: Sequence[Any] | pd.Series[Any],
    opposite: bool = False,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Within:
    """Mean rank correlation within each reference, as retargeting studies report it.

    Opinions need not be comparable between references: votes are not.

    Args:
        prediction: scores; items with NaN or infinite values are left out.
        opinion: opinion scores or votes.
        reference: which reference each item belongs to.
        opposite: a good metric falls where the opinions rise.
        resamples, seed: of the bootstrap over references.

    Raises:
        ValueError: different lengths.

    Source: M. Rubinstein, D. Gutierrez, O. Sorkine, A. Shamir, "A Comparative Study of Image Retargeting", SIGGRAPH Asia 2010.
    """
    table = by_reference(prediction, opinion, reference, opposite)
    tau, rho = (table[name].dropna().to_numpy(float) for name in ("krcc", "srcc"))
    intervals = (mean_interval(values, resamples, seed) for values in (tau, rho))
    return Within(len(tau), _mean(tau), _mean(rho), *intervals)


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else float("nan")


def by_reference(
    prediction: ArrayLike, opinion: ArrayLike, reference: Sequence[Any] | pd.Series[Any], opposite: bool = False
) -> pd.DataFrame:
    """Rank correlations of each reference: ``reference``, ``count``, ``krcc``, ``srcc`` (NaN where there is none)."""
    x, y = as_pair(prediction, opinion)
    labels = np.asarray(reference, dtype=object)
    if len(labels) != len(x):
        raise ValueError(f"{len(x)} scores and {len(labels)} references: give one for each score")
    x = -x if opposite else x
    rows = []
    for label in pd.unique(labels):
        chosen = (labels == label) & np.isfinite(x) & np.isfinite(y)
        rows.append((label, int(chosen.sum()), krcc(x[chosen], y[chosen]), srcc(x[chosen], y[chosen])))
    return pd.DataFrame(rows, columns=["reference", "count", "krcc", "srcc"])


def mean_interval(values: Array, resamples: int = RESAMPLES, seed: int = SEED) -> Interval:
    """95 % interval of the mean of one value per reference, by resampling the references."""
    count = len(values)
    if count < 2 or not resamples:
        return UNKNOWN
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    return percentiles(draws @ values / count)
