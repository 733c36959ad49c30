"""Two-alternative forced choice: of two versions of one reference, which did people prefer, and does a metric agree?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from msds_plugin.adapters.benchmark.statistics.bootstrap import RESAMPLES, SEED, percentiles, resample
from msds_plugin.adapters.benchmark.statistics.correlation import Array, as_column
from msds_plugin.adapters.benchmark.statistics.differences import holm, paired_test


def agreeing(a: ArrayLike, b: ArrayLike, share_b: ArrayLike, lower_is_better: bool = False) -> Array:
    """For each comparison the share of people who chose what the metric scores better; half where its scores are equal.

    Args:
        a, b: scores of the two versions; NaN where there is none, and the outcome is NaN then.
        share_b: share of people who preferred b, in [0, 1].
        lower_is_better: direction of the metric.
    """
    first, second, share = as_column(a), as_column(b), as_column(share_b)
    lead = np.sign(second - first) * (-1.0 if lower_is_better else 1.0)
    return np.where(np.isnan(lead), np.nan, 0.5 + lead * (share - 0.5))


def choice_agreement(
    scores: Mapping[str, tuple[ArrayLike, ArrayLike]],
    share_b: ArrayLike,
    answers: ArrayLike,
    reference: ArrayLike,
    lower_is_better: Iterable[str] = (),
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> pd.DataFrame:
    r"""How many of people's answers each metric agrees with: :math:`\sum_i n_i s_i / \sum_i n_i`.

    n is the number of answers of a comparison, s the share of them that the metric sides with. Chance is 0.5. The ceiling is
    what always siding with the majority would reach; it is that of these very answers, and with few of them per comparison
    higher than what a perfect predictor could reach on new ones.

    Args:
        scores: by metric, of a and of b, NaN where there is none.
        share_b: share of the answers that preferred b, in [0, 1].
        answers: number of answers of each comparison, positive.
        reference: which reference each comparison belongs to.
        lower_is_better: the metrics whose low scores are good.
        resamples, seed: of the bootstrap over references.

    Returns:
        One row per metric: ``metric``, ``count`` (comparisons), ``left_out``, ``references``, ``answers``, ``agreement`` with
        ``agreement_low`` and ``agreement_high`` (95 %), ``ceiling`` of the same comparisons, ``of_ceiling``: agreement beyond
        chance over that of the ceiling.
    """
    share, weight, groups = as_column(share_b), as_column(answers), np.asarray(reference, dtype=object)
    rows = []
    for name, sided in _sided(scores, share, lower_is_better).items():
        known = np.isfinite(sided)
        found, resampled = _means(sided, weight, groups, resamples, seed)
        low, high = percentiles(resampled)
        ceiling, _ = _means(np.where(known, np.maximum(share, 1 - share), np.nan), weight, groups, 0, seed)
        of_ceiling = (found - 0.5) / (ceiling - 0.5) if ceiling > 0.5 else float("nan")
        counts = int(known.sum()), int((~known).sum()), len(pd.unique(groups[known])), int(weight[known].sum())
        rows.append((name, *counts, found, low, high, ceiling, of_ceiling))
    columns = ["metric", "count", "left_out", "references", "answers", "agreement", "agreement_low", "agreement_high"]
    return pd.DataFrame(rows, columns=[*columns, "ceiling", "of_ceiling"])


def choice_significance(
    scores: Mapping[str, tuple[ArrayLike, ArrayLike]],
    share_b: ArrayLike,
    answers: ArrayLike,
    reference: ArrayLike,
    lower_is_better: Iterable[str] = (),
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> pd.DataFrame:
    """Whether two metrics differ in agreement, by the paired cluster bootstrap of :func:`significance`.

    Returns:
        One row per two metrics: ``a``, ``b``, ``difference``, ``p``, ``p_holm``, ``count``; of what both have scored.
    """
    share, weight, groups = as_column(share_b), as_column(answers), np.asarray(reference, dtype=object)
    rows = []
    for (a, first), (b, second) in combinations(_sided(scores, share, lower_is_better).items(), 2):
        gap = first - second
        known = np.isfinite(gap)
        difference, resampled = _means(gap, weight, groups, resamples, seed)
        _, p = paired_test(difference, resampled, len(pd.unique(groups[known])))
        rows.append((a, b, difference, p, int(known.sum())))
    table = pd.DataFrame(rows, columns=["a", "b", "difference", "p", "count"])
    table.insert(4, "p_holm", holm(table["p"]))
    return table


def _sided(scores: Mapping[str, tuple[ArrayLike, ArrayLike]], share: Array, falling: Iterable[str]) -> dict[str, Array]:
    lower = set(falling)
    return {name: agreeing(a, b, share, name in lower) for name, (a, b) in scores.items()}


def _means(values: Array, weights: Array, groups: Any, resamples: int, seed: int) -> tuple[float, Array]:
    """The weighted mean of the known values, and that of each resample of the groups."""
    known = np.isfinite(values)
    if not known.any():
        return float("nan"), np.empty(0)
    values, weights, codes = values[known], weights[known], pd.factorize(groups[known])[0]
    draws = resample(codes, resamples, seed)
    sums, totals = (np.bincount(codes, each, draws.shape[1]) for each in (values * weights, weights))
    return float(np.average(values, weights=weights)), np.asarray((draws @ sums) / (draws @ totals))
