"""From scores beside opinions to tables: agreement, per type of distortion, significance, and one figure out of several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import pandas as pd

from msds_plugin.adapters.benchmark import statistics

#: How much each factor counts in the overall figure.
FACTORS: Mapping[str, float] = {"accuracy": 0.3, "monotonicity": 0.3, "consistency": 0.3, "speed": 0.1}
#: Seconds per image that count as a speed of one and of zero; on a logarithmic scale in between.
FAST, SLOW = 1e-3, 10.0
#: A type of distortion with fewer images than this says nothing about consistency.
SMALLEST_GROUP = 5
#: Fewer references than this make intervals too narrow.
FEW_REFERENCES = 10

_STATISTICS = list(statistics.agreement([], []).as_row())


@dataclass(frozen=True)
class Scores:
    """Scores of several metrics beside opinions, on one or several data sets.

    Attributes:
        table: one row per data set, metric and pair: ``dataset``, ``metric``, ``reference``, ``distorted``, ``opinion``,
            ``score`` (NaN where it failed), ``seconds``, ``error`` (why it failed, else None); ``distortion`` and ``std``
            (missing where not known).
        lower_is_better: of each metric, by name.
        opinion_lower_is_better: of each data set, by name.
    """

    table: pd.DataFrame
    lower_is_better: Mapping[str, bool]
    opinion_lower_is_better: Mapping[str, bool]

    @property
    def datasets(self) -> list[str]:
        """Names of the data sets, in order."""
        return list(self.opinion_lower_is_better)

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics, in order."""
        return list(self.lower_is_better)

    def of(self, dataset: str, metric: str) -> pd.DataFrame:
        """The rows of one metric on one data set."""
        return self.table[(self.table["dataset"] == dataset) & (self.table["metric"] == metric)]

    def opposite(self, dataset: str, metric: str) -> bool:
        """Whether a good metric falls where the opinions rise."""
        return self.lower_is_better[metric] != self.opinion_lower_is_better[dataset]

    @property
    def failures(self) -> pd.DataFrame:
        """Pairs without a score: ``dataset``, ``metric``, ``reference``, ``distorted``, ``error``."""
        failed = self.table[self.table["error"].notna()]
        return failed[["dataset", "metric", "reference", "distorted", "error"]].reset_index(drop=True)


@dataclass(frozen=True)
class Summary:
    """All statistics of :class:`Scores`.

    Attributes:
        table: one row per data set and metric: what :meth:`statistics.Agreement.as_row` gives, ``failed`` and ``seconds``
            (per image), what :func:`statistics.within_references` gives, and ``resampled``.
        by_distortion: the same per type of distortion, ``dataset``, ``metric``, ``distortion`` first.
        significance: :func:`statistics.significance` of each data set, ``dataset`` first.
        overall: one row per metric: the factors, each in [0, 1] or NaN where not known, and ``overall``; best first.
        factors: the share of each factor in ``overall``.
        mappings: from scores to opinions, by (data set, metric).
        notes: what a reader has to know, in sentences.
        resamples, seed: of every bootstrap.
    """

    table: pd.DataFrame
    by_distortion: pd.DataFrame
    significance: pd.DataFrame
    overall: pd.DataFrame
    factors: Mapping[str, float]
    mappings: Mapping[tuple[str, str], statistics.Mapping]
    notes: list[str]
    resamples: int
    seed: int


def summarise(
    scores: Scores,
    factors: Mapping[str, float] = FACTORS,
    resamples: int = statistics.RESAMPLES,
    seed: int = statistics.SEED,
    notes: Sequence[str] = (),
    resampled: Mapping[tuple[str, str], int] | None = None,
) -> Summary:
    """Every statistic of a benchmark.

    Args:
        factors: how much accuracy, monotonicity, consistency and speed count in the overall figure; see :func:`overall`.
        resamples, seed: of every bootstrap.
        notes, resampled: of the :class:`Benchmark`.

    Raises:
        ValueError: factors that are unknown, negative or all zero.
    """
    shares = checked_factors(factors)
    table, by_distortion, mappings = agreements(scores, resamples, seed)
    changed = resampled or {}
    table["resampled"] = [changed.get(pair, 0) for pair in zip(table["dataset"], table["metric"], strict=True)]
    significance = pd.concat(
        [_significance(scores, dataset, resamples, seed) for dataset in scores.datasets], ignore_index=True
    )
    ranked, said = overall(table, by_distortion, shares), [*notes, *_notes(table, by_distortion)]
    return Summary(table, by_distortion, significance, ranked, shares, mappings, said, resamples, seed)


def agreements(
    scores: Scores, resamples: int, seed: int, of_types: int | None = None
) -> tuple[pd.DataFrame, pd.DataFrame, dict[tuple[str, str], statistics.Mapping]]:
    """``table`` (but for ``resampled``), ``by_distortion`` and ``mappings`` of a :class:`Summary`.

    ``of_types``: resamples for the intervals of ``by_distortion``; None for as many as for ``table``.
    """
    rows, kinds, mappings = [], [], {}
    for dataset, metric in product(scores.datasets, scores.metrics):
        part, opposite = scores.of(dataset, metric), scores.opposite(dataset, metric)
        own = {"dataset": dataset, "metric": metric}
        whole = _agreement(part, opposite, resamples, seed)
        within = statistics.within_references(part["score"], part["opinion"], part["reference"], opposite, resamples, seed)
        counts = {"failed": int(part["error"].notna().sum()), "seconds": part.loc[part["score"].notna(), "seconds"].mean()}
        rows.append(own | whole.as_row() | counts | within)
        mappings[dataset, metric] = whole.mapping
        for kind, of_kind in part.groupby("distortion", sort=False):
            found = _agreement(of_kind, opposite, resamples if of_types is None else of_types, seed)
            kinds.append(own | {"distortion": kind} | found.as_row())
    return pd.DataFrame(rows), pd.DataFrame(kinds, columns=["dataset", "metric", "distortion", *_STATISTICS]), mappings


def _agreement(rows: pd.DataFrame, opposite: bool, resamples: int, seed: int) -> statistics.Agreement:
    return statistics.agreement(rows["score"], rows["opinion"], rows["reference"], rows["std"], opposite, resamples, seed)


def overall(table: pd.DataFrame, by_distortion: pd.DataFrame, factors: Mapping[str, float] = FACTORS) -> pd.DataFrame:
    """One figure out of several factors, each in [0, 1]: their mean, weighted by ``factors``.

    - accuracy: PLCC after the mapping;
    - monotonicity: SRCC, zero where it is negative;
    - consistency: the lowest SRCC over types of distortion with five images or more, zero where it is negative; known where
      there are two such types or more;
    - speed: one at a millisecond per image, zero at ten seconds, linear in the logarithm in between.

    With several data sets each factor is the mean over them. Where a metric fails and another does not, its factor is zero.
    A factor that is known for no metric is left out. Where speed alone is known there is no figure (NaN).

    Args:
        table, by_distortion: of a :class:`Summary`.
        factors: share of each factor; scaled to sum to one.

    Returns:
        ``metric``, the four factors, ``overall``; best first.

    Raises:
        ValueError: factors that are unknown, negative or all zero.

    In the spirit of the aggregate of several factors by which Khatami and Mahmoudi-Aznaveh compare similarity measures in
    "Deep perceptual similarity and Quality Assessment", IPRIA 2023; the factors and shares are our own.
    """
    shares = checked_factors(factors)
    values = table[["dataset", "metric"]].assign(
        accuracy=table["plcc"], monotonicity=table["srcc"].clip(lower=0), speed=table["seconds"].map(speed)
    )
    consistency = _consistency(by_distortion).rename("consistency").reset_index()
    values = values.merge(consistency, on=["dataset", "metric"], how="left")
    # What a metric fails at must not raise its mean: zero, where others show that it can be known.
    of_dataset = values.groupby("dataset", sort=False)[list(FACTORS)]
    values[list(FACTORS)] = of_dataset.transform(lambda column: column.fillna(0) if column.notna().any() else column)
    means = values.groupby("metric", sort=False)[list(FACTORS)].mean()
    known = [name for name in FACTORS if shares[name] and means[name].notna().any()]
    if known == ["speed"] and any(shares[name] for name in shares if name != "speed"):
        known = []  # speed alone, where nothing is known of the agreement, is no figure
    total = sum(shares[name] for name in known)
    means["overall"] = means[known].fillna(0).mul([shares[name] for name in known]).sum(axis=1) / (total or math.nan)
    return means.sort_values("overall", ascending=False, kind="stable").reset_index()


def _consistency(by_distortion: pd.DataFrame) -> pd.Series[float]:
    """The lowest SRCC over types, by data set and metric, where there are two types or more that say something."""
    types = by_distortion.groupby(["dataset", "distortion"], sort=False)
    large = types["count"].transform("max") >= SMALLEST_GROUP
    ranked = types["srcc"].transform("count") > 0  # by any metric: not a type whose opinions are all equal
    said = by_distortion[large & ranked]
    # A type on which a metric fails, or has no SRCC (all scores equal), is one that it does not order at all.
    srcc = said["srcc"].where(said["count"] >= SMALLEST_GROUP, 0.0).fillna(0).clip(lower=0)
    by_metric = srcc.groupby([said["dataset"], said["metric"]], sort=False)
    return by_metric.agg(lambda values: values.min() if len(values) > 1 else math.nan)


def checked_factors(factors: Mapping[str, float]) -> dict[str, float]:
    """The share of every factor, zero for those not given; an error for shares that make no sense."""
    unknown = set(factors) - set(FACTORS)
    if unknown:
        raise ValueError(f"unknown factors {', '.join(sorted(unknown))}: choose from {', '.join(FACTORS)}")
    shares = {name: float(factors.get(name, 0.0)) for name in FACTORS}
    if not all(0 <= share < math.inf for share in shares.values()) or not any(shares.values()):
        raise ValueError(f"the shares of the factors must not be negative, and one must be positive: got {dict(factors)}")
    return shares


def speed(seconds: float) -> float:
    """Seconds per image as a factor in [0, 1]; NaN stays NaN."""
    if math.isnan(seconds):
        return math.nan
    return min(1.0, max(0.0, math.log(SLOW / max(seconds, FAST)) / math.log(SLOW / FAST)))


def _significance(scores: Scores, dataset: str, resamples: int, seed: int) -> pd.DataFrame:
    rows = scores.table[scores.table["dataset"] == dataset]
    wide = rows.pivot(index=["reference", "distorted", "opinion"], columns="metric", values="score")[scores.metrics]
    opinion, reference = (wide.index.get_level_values(name).to_series() for name in ("opinion", "reference"))
    opposite = [metric for metric in scores.metrics if scores.opposite(dataset, metric)]
    found = statistics.significance(wide, opinion, reference, opposite, resamples, seed)
    found.insert(0, "dataset", dataset)
    return found


def _notes(table: pd.DataFrame, by_distortion: pd.DataFrame) -> list[str]:
    notes = []
    for dataset, rows in table.groupby("dataset", sort=False):
        for row in rows[rows["failed"] > 0].to_dict("records"):
            images = row["failed"] + row["count"]
            notes.append(f"{row['metric']} has no score for {row['failed']} of {images} images of {dataset}.")
        mapped = rows[(rows["mapping"] != "logistic") & (rows["count"] > 0)]
        for (kind, reason), part in mapped.groupby(["mapping", "mapping_reason"], sort=False):
            what = "there is no correlation" if kind == "constant" else f"PLCC and RMSE are after a {kind} mapping"
            notes.append(f"On {dataset} {what}, as {reason}: {', '.join(part['metric'])}.")
        against = rows.loc[rows["srcc"] < 0, "metric"]
        if len(against) == len(rows):
            notes.append(f"Every metric goes against the opinions of {dataset}: check whether lower opinions are better there.")
        elif len(against) > 0:
            notes.append(f"On {dataset} {', '.join(against)} went against the direction that they state (negative SRCC).")
        notes += few_references(str(dataset), int(rows["references"].max()))
        kinds = by_distortion.loc[by_distortion["dataset"] == dataset, "distortion"].nunique()
        if kinds < 2:
            types = "one type" if kinds else "no types"
            notes.append(f"{dataset} names {types} of distortion: consistency over types is not known there.")
    return notes


def few_references(dataset: str, count: int) -> list[str]:
    """A sentence where there are too few references for intervals, or none."""
    if not 0 < count < FEW_REFERENCES:
        return []
    return [
        f"{dataset} has {count} reference{'s' * (count > 1)}: with fewer than {FEW_REFERENCES} the intervals are too narrow, "
        "and with one there are none."
    ]
