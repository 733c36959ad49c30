"""What deformations cost: rank, penalty and score against strength, averaged over photographs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..benchmark import statistics
from .images import NONE
from .run import Robustness


@dataclass(frozen=True)
class RobustnessSummary:
    """All figures of a run.

    Attributes:
        table: one row per metric, deformation and strength: ``rank`` and ``penalty`` with their 95 % intervals over
            photographs (``rank_low``, ...), ``score`` (mean of the clean, merely deformed photographs), ``photographs``,
            ``failed``.
        by_deformation: the same averaged over strengths above zero.
    """

    table: pd.DataFrame
    by_deformation: pd.DataFrame


def summarise(made: Robustness, resamples: int = statistics.RESAMPLES, seed: int = statistics.SEED) -> RobustnessSummary:
    """Rank and penalty of every metric, deformation and strength.

    - *rank*: Spearman's correlation between the scores of distorted images with and without the deformation, within a
      photograph, mean over photographs. 1: the deformation does not change which image is better.
    - *penalty*: share of the distorted, undeformed images of a photograph that score better than the clean, merely deformed
      photograph, mean over photographs. 0: a deformation that nobody minds costs less than any damage.

    The undeformed photographs are there as strength zero (rank 1) of every deformation.

    Args:
        made: from :func:`run_robustness`.
        resamples, seed: of the bootstrap over photographs.
    """
    rows = []
    for metric, part in made.table.groupby("metric", sort=False):
        sign = -1.0 if made.lower_is_better[str(metric)] else 1.0
        plain = part[part["deformation"] == NONE]
        for deformation, own in part[part["deformation"] != NONE].groupby("deformation", sort=False):
            for strength, moved in (*[(0.0, plain)], *own.groupby("strength")):
                found = _figures(plain, moved, sign, resamples, seed)
                rows.append({"metric": metric, "deformation": deformation, "strength": strength} | found)
    table = pd.DataFrame(rows)
    if table.empty:
        return RobustnessSummary(table, table)
    above = table[table["strength"] > 0]
    means = above.groupby(["metric", "deformation"], sort=False)[["rank", "penalty", "score", "failed"]]
    return RobustnessSummary(
        table, means.agg({"rank": "mean", "penalty": "mean", "score": "mean", "failed": "sum"}).reset_index()
    )


def _figures(plain: pd.DataFrame, moved: pd.DataFrame, sign: float, resamples: int, seed: int) -> dict[str, Any]:
    key = ["photograph", "distortion", "level"]
    both = plain[[*key, "score"]].merge(moved[[*key, "score"]], on=key, suffixes=("_plain", "_moved"))
    ranks, penalties, clean = [], [], []
    for _, rows in both.groupby("photograph", sort=False):
        whole = rows[rows["distortion"] == NONE]["score_moved"].dropna()
        damaged = rows[rows["distortion"] != NONE].dropna(subset=["score_plain"])
        pairs = damaged.dropna(subset=["score_moved"])
        ranks.append(statistics.srcc(pairs["score_plain"], pairs["score_moved"]))
        if len(whole) and len(damaged):
            penalties.append(float((sign * damaged["score_plain"] > sign * whole.iloc[0]).mean()))
        clean.extend(whole)
    found: dict[str, Any] = {}
    for name, values in (("rank", ranks), ("penalty", penalties)):
        known = np.array([value for value in values if np.isfinite(value)])
        found[name] = float(known.mean()) if len(known) else float("nan")
        found[f"{name}_low"], found[f"{name}_high"] = statistics.mean_interval(known, resamples, seed)
    return found | {
        "score": float(np.mean(clean)) if clean else float("nan"),
        "photographs": both["photograph"].nunique(),
        "failed": int(moved["score"].isna().sum()),
    }
