"""Every statistic of one metric on one set of items, and within each reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from msds_plugin.adapters.benchmark.statistics.bootstrap import (
    RESAMPLES,
    SEED,
    UNKNOWN,
    Interval,
    mean_interval,
    percentiles,
    resample,
    resampled_krcc,
    resampled_srcc,
    weighted_pearson,
)
from msds_plugin.adapters.benchmark.statistics.correlation import (
    OUTLIER_DEVIATIONS,
    Array,
    as_column,
    as_pair,
    krcc,
    outlier_ratio,
    pearson,
    rmse,
    srcc,
    varied,
)
from msds_plugin.adapters.benchmark.statistics.mapping import Mapping, fit_mapping


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
        return row | {"mapping": self.mapping.kind, "mapping_reason": self.mapping.reason, "mapping_start": self.mapping.start}


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
    x, y = as_pair(prediction, opinion)
    deviation = np.full_like(y, np.nan) if std is None else as_column(std)
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
    x, y, labels = as_column(prediction), as_column(opinion), np.asarray(group, dtype=object)
    found: dict[Any, Agreement] = {}
    for label in pd.unique(labels[~pd.isna(labels)]):
        chosen = labels == label
        own = dict(options)
        for name in {"reference", "std"} & options.keys():
            own[name] = None if options[name] is None else np.asarray(options[name])[chosen]
        found[label] = agreement(x[chosen], y[chosen], **own)
    return found


def _intervals(
    x: Array, y: Array, mapped: Array, std: Array, groups: NDArray[np.intp], resamples: int, seed: int
) -> tuple[Interval, Interval, Interval, Interval, Interval]:
    groups = np.unique(groups, return_inverse=True)[1]
    draws = resample(groups, resamples, seed)
    if not len(draws) or not varied(x, y):
        return (UNKNOWN,) * 5

    def sums(values: Array) -> Array:  # (resamples,), from the sums within each group
        return np.asarray(draws @ np.bincount(groups, values, minlength=draws.shape[1]), dtype=np.float64)

    squared, known = (mapped - y) ** 2, np.isfinite(std)
    outliers = np.where(known, np.abs(mapped - y) > OUTLIER_DEVIATIONS * np.where(known, std, 0), False)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (
            percentiles(resampled_srcc(x, y, groups, draws)),
            percentiles(resampled_krcc(x, y, groups, draws)),
            percentiles(weighted_pearson(mapped - mapped.mean(), y - y.mean(), sums)),
            percentiles(np.sqrt(sums(squared) / sums(np.ones_like(y)))),
            percentiles(sums(outliers.astype(float)) / sums(known.astype(float))),
        )


@dataclass(frozen=True)
class Within:
    """Rank correlations within references, averaged over the references that have one (two scored items, none all equal).

    Attributes:
        references: their number.
        krcc, srcc: means of Kendall's tau-b and of Spearman's correlation.
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
    """Mean rank correlation within each reference; opinions need not be comparable between references: votes are not.

    Args:
        prediction, opinion, reference, opposite, resamples, seed: as for :func:`agreement`.

    Raises:
        ValueError: different lengths.

    Source: M. Rubinstein, D. Gutierrez, O. Sorkine, A. Shamir, "A Comparative Study of Image Retargeting", SIGGRAPH Asia 2010.
    """
    table = by_reference(prediction, opinion, reference, opposite)
    tau, rho = (table[name].dropna().to_numpy(float) for name in ("krcc", "srcc"))
    taus, rhos = (
        (float(each.mean()) if len(each) else float("nan"), mean_interval(each, resamples, seed)) for each in (tau, rho)
    )
    return Within(len(tau), taus[0], rhos[0], taus[1], rhos[1])


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
