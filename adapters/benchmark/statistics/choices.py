"""Two-alternative forced choice: of two versions of one reference, which did people prefer, and does a metric agree?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from .bootstrap import RESAMPLES, SEED, UNKNOWN, percentiles, resample
from .correlation import Array, as_column
from .differences import holm, paired_p


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
    r"""How many of people's answers each metric agrees with.

    .. math:: \sum_i n_i\, s_i \,/\, \sum_i n_i

    with n the number of answers of a comparison and s the share of them that the metric sides with. Chance is 0.5. The
    ceiling is what always siding with the majority would reach: people disagree, so it is below one. It is that of these very
    answers; with few of them per comparison it is higher than what a perfect predictor could reach on new ones.

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
    falling = set(lower_is_better)
    share, weight = as_column(share_b), as_column(answers)
    groups = np.asarray(reference, dtype=object)
    rows = []
    for name, (a, b) in scores.items():
        sided = agreeing(a, b, share, name in falling)
        known = np.isfinite(sided)
        row: dict[str, Any] = {"metric": name, "count": int(known.sum()), "left_out": int((~known).sum())}
        row |= {"references": len(pd.unique(groups[known])), "answers": int(weight[known].sum())}
        resampled = _resampled(sided[known], weight[known], groups[known], resamples, seed)
        row["agreement"] = _mean(sided[known], weight[known])
        row["agreement_low"], row["agreement_high"] = percentiles(resampled) if len(resampled) else UNKNOWN
        row["ceiling"] = ceiling = _mean(np.maximum(share, 1 - share)[known], weight[known])
        row["of_ceiling"] = (row["agreement"] - 0.5) / (ceiling - 0.5) if ceiling > 0.5 else float("nan")
        rows.append(row)
    return pd.DataFrame(rows)


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
    falling = set(lower_is_better)
    share, weight = as_column(share_b), as_column(answers)
    groups = np.asarray(reference, dtype=object)
    sided = {name: agreeing(a, b, share, name in falling) for name, (a, b) in scores.items()}
    rows = []
    for a, b in combinations(sided, 2):
        gap = sided[a] - sided[b]
        known = np.isfinite(gap)
        difference = _mean(gap[known], weight[known])
        resampled = _resampled(gap[known], weight[known], groups[known], resamples, seed)
        p = paired_p(difference, resampled, len(pd.unique(groups[known])))
        rows.append({"a": a, "b": b, "difference": difference, "p": p, "count": int(known.sum())})
    table = pd.DataFrame(rows, columns=["a", "b", "difference", "p", "count"])
    table.insert(4, "p_holm", holm(table["p"]))
    return table


def _mean(values: Array, weights: Array) -> float:
    return float(np.average(values, weights=weights)) if len(values) else float("nan")


def _resampled(values: Array, weights: Array, groups: Any, resamples: int, seed: int) -> Array:
    codes = pd.factorize(groups)[0]
    draws = resample(codes, resamples, seed)
    if not len(draws):
        return np.empty(0)
    count = draws.shape[1]
    sums, totals = np.bincount(codes, values * weights, count), np.bincount(codes, weights, count)
    return np.asarray((draws @ sums) / (draws @ totals))
