"""Every statistic of one metric on one set of items, and within each reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from msds_plugin.adapters.benchmark.statistics import bootstrap, correlation
from msds_plugin.adapters.benchmark.statistics.bootstrap import RESAMPLES, SEED, UNKNOWN, Interval, percentiles
from msds_plugin.adapters.benchmark.statistics.correlation import OUTLIER_DEVIATIONS, Array, as_column, as_pair
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
    x, y, deviation, groups = x[usable], y[usable], deviation[usable], np.unique(groups[usable], return_inverse=True)[1]
    mapping = fit_mapping(x, y) if len(x) else Mapping("constant", (float("nan"),), "no item has a score")
    mapped, directed = mapping(x), -x if opposite else x
    return Agreement(
        len(x),
        int((~usable).sum()),
        len(np.unique(groups)),
        correlation.srcc(directed, y),
        correlation.krcc(directed, y),
        correlation.pearson(mapped, y) if mapping.kind != "constant" else float("nan"),
        correlation.rmse(mapped, y),
        correlation.outlier_ratio(mapped, y, deviation),
        *_intervals(directed, y, mapped, deviation, groups, resamples, seed),
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
    columns = {name: options.pop(name) for name in ("reference", "std") if options.get(name) is not None}
    columns |= {"prediction": as_column(prediction), "opinion": as_column(opinion)}
    labels = np.asarray(group, dtype=object)
    return {
        label: agreement(**{name: np.asarray(values)[labels == label] for name, values in columns.items()}, **options)
        for label in pd.unique(labels[~pd.isna(labels)])
    }


def _intervals(
    x: Array, y: Array, mapped: Array, std: Array, groups: NDArray[np.intp], resamples: int, seed: int
) -> tuple[Interval, Interval, Interval, Interval, Interval]:
    draws = bootstrap.resample(groups, resamples, seed)
    if not len(draws) or not correlation.varied(x, y):
        return (UNKNOWN,) * 5

    def sums(values: Array) -> Array:  # (resamples,), from the sums within each group
        return np.asarray(draws @ np.bincount(groups, values, minlength=draws.shape[1]), dtype=np.float64)

    known = np.isfinite(std)
    outliers = known & (np.abs(mapped - y) > OUTLIER_DEVIATIONS * np.where(known, std, 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (
            percentiles(bootstrap.resampled_srcc(x, y, groups, draws)),
            percentiles(bootstrap.resampled_krcc(x, y, groups, draws)),
            percentiles(bootstrap.weighted_pearson(mapped - mapped.mean(), y - y.mean(), sums)),
            percentiles(np.sqrt(sums((mapped - y) ** 2) / sums(np.ones_like(y)))),
            percentiles(sums(outliers.astype(float)) / sums(known.astype(float))),
        )


def within_references(
    prediction: ArrayLike,
    opinion: ArrayLike,
    reference: Sequence[Any] | pd.Series[Any],
    opposite: bool = False,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> dict[str, float]:
    """Mean rank correlation within each reference; opinions need not be comparable between references: votes are not.

    Args:
        prediction, opinion, reference, opposite, resamples, seed: as for :func:`agreement`.

    Returns:
        ``within_references``, the number of references that have a correlation (two scored items, none all equal);
        ``within_krcc`` and ``within_srcc``, means over them of Kendall's tau-b and of Spearman's correlation, each with
        ``_low`` and ``_high``, 95 % over resampled references (NaN with fewer than two).

    Raises:
        ValueError: different lengths.

    Source: M. Rubinstein, D. Gutierrez, O. Sorkine, A. Shamir, "A Comparative Study of Image Retargeting", SIGGRAPH Asia 2010.
    """
    table = by_reference(prediction, opinion, reference, opposite)
    row: dict[str, float] = {"within_references": int(table["krcc"].count())}
    for name in ("krcc", "srcc"):
        known = table[name].dropna().to_numpy(float)
        row[f"within_{name}"] = float(known.mean()) if len(known) else float("nan")
        row[f"within_{name}_low"], row[f"within_{name}_high"] = bootstrap.mean_interval(known, resamples, seed)
    return row


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
        own = x[chosen], y[chosen]
        rows.append((label, int(chosen.sum()), correlation.krcc(*own), correlation.srcc(*own)))
    return pd.DataFrame(rows, columns=["reference", "count", "krcc", "srcc"])
