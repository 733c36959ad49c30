"""Weights of the parts of a metric, learned from opinion scores and judged on scenes they were not learned from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from msds_plugin.adapters.benchmark import statistics
from msds_plugin.adapters.benchmark.datasets import Dataset
from msds_plugin.adapters.benchmark.learning import Array, Problem, choose_strength, divide, learn_weights
from msds_plugin.adapters.benchmark.parts import parts_of
from msds_plugin.adapters.benchmark.runner import Progress, backbone_of, no_progress
from msds_plugin.adapters.benchmark.runner import run as run_benchmark
from msds_plugin.adapters.scorers import parse_metric
from msds_plugin.adapters.scoring import Run
from msds_plugin.fusion_file import FusionFile
from msds_plugin.metric import digest

FOLDS = 5
MOST_LEVELS = 5
EQUAL, LEARNED = "equal", "learned"


@dataclass(frozen=True)
class FusionFit:
    """Learned weights, and what they are worth.

    Attributes:
        file: the weights, learned from all references, with their origin; ``file.save(path)`` writes them.
        strength: how strongly they were drawn towards equal ones; infinite where the data gave no reason to leave them.
        held_out: one row for each part alone, for ``equal`` weights (those of the metric without a file) and for ``learned``
            ones (column ``fusion``), on held-out references: ``srcc``, ``plcc`` with the ends of their 95 % intervals
            (``srcc_low``, ...), ``difference`` of the SRCC from that of equal weights and its ``p`` value.
        folds: the same for each fold: ``fold``, ``fusion``, ``images``, ``srcc``, ``plcc``, and the learned ``weights``.
        failures: pairs that were left out: ``distorted``, ``metric`` (which part), ``error``.
    """

    file: FusionFile
    strength: float
    held_out: pd.DataFrame
    folds: pd.DataFrame
    failures: pd.DataFrame

    @property
    def verdict(self) -> str:
        """Whether learned weights beat equal ones on held-out references, in one sentence."""
        row = self.held_out.set_index("fusion").loc[LEARNED]
        found = f"SRCC {round(row['difference'], 4) + 0.0:+.4f}, p = {row['p']:.2g}, {self.file.references} references"
        if not row["p"] < statistics.LEVEL:
            return f"Learned weights do not beat equal ones on held-out references ({found}): keep equal weights."
        if row["difference"] < 0:
            return f"Learned weights are worse than equal ones on held-out references ({found}): keep equal weights."
        return f"Learned weights beat equal ones on held-out references ({found})."


def fit_fusion(
    metric: str,
    data: Dataset,
    levels: int = 3,
    folds: int | None = FOLDS,
    results: str | Path | None = None,
    run: Run = Run(),  # noqa: B008 (frozen)
    seed: int = statistics.SEED,
    progress: Progress = no_progress,
    per_layer: bool = False,
) -> FusionFit:
    """Learn one weight per pyramid level, per layer on each level, or per term of a hybrid, from opinion scores.

    Weights are drawn towards those that the metric has without a file, as strongly as cross-validation over references says
    (:func:`learning.choose_strength`). Those in the file come from all references. What they are worth is measured on held-out
    references: weights and strength for each fold are learned from the other folds, and the scores of all folds, each brought
    to the mean and deviation of equal weights on the other folds, are evaluated together. SRCC differences are tested by
    :func:`statistics.significance`.

    Args:
        metric: ``msds``, ``msds-hybrid``, ``ms-lpips``, ..., any metric with levels; options after commas
            (``msds,backbone=alexnet``). A hybrid has a weight for each term, and for each level of terms that have levels.
        levels: 2 to 5.
        folds: at least 2, at most as many as there are references; None for one per reference (leave one reference out).
        data, results, run, progress: as for :func:`benchmark.run`.
        seed: of the bootstrap, and of the division of references into folds.
        per_layer: a weight for each layer of the network on each level.

    Raises:
        ValueError: a metric without levels or layers to weigh, too few or many levels, folds or references, scores or opinions
            that are all the same; and as :func:`benchmark.run`.
    """
    if not 2 <= levels <= MOST_LEVELS:
        raise ValueError(f"levels must be 2 to {MOST_LEVELS}, got {levels}")
    references = data.table["reference"].nunique()
    if not 2 <= (references if folds is None else folds) <= references:
        raise ValueError(f"folds must be 2 to the number of references, {references} in {data.name}, got {folds}")
    name, stated = parse_metric(metric)
    if {"levels", "fusion", "learn_fusion"} & stated.keys():
        raise ValueError(f"{metric!r}: give the number of levels apart from the metric, and no weights: they are learned")
    parts = parts_of(metric, levels, per_layer, run)
    made = run_benchmark(parts.scorers, [data], results, run, progress)
    rows = data.table[["reference", "score"]].rename(columns={"score": "opinion"}).reset_index(drop=True)
    for part, scorer in zip(parts.names, parts.scorers, strict=True):
        rows[part] = made.scores.of(data.name, scorer.name)["score"].to_numpy()
    rows = rows.dropna().reset_index(drop=True)
    references = rows["reference"].nunique()
    folds = folds or max(2, references)
    if references < folds:
        failed = made.scores.failures["error"]
        first = "" if failed.empty else f" (the first reason: {failed.iloc[0]})"
        few = f"only {references} references have a scored image, too few for {folds} folds"
        raise ValueError(f"no image has a score of every part{first}" if rows.empty else f"{few}{first}")
    problem = Problem(
        rows[list(parts.names)].to_numpy(np.float64),
        rows["opinion"].to_numpy(np.float64),
        parts.lower_is_better != data.lower_is_better,
        parts.equal,
        parts.combine,
    )
    held_out, by_fold = _cross_validate(problem, parts.names, rows["reference"], folds, seed)
    strength = choose_strength(problem, rows["reference"], seed)
    table, backbone = held_out.set_index("fusion"), backbone_of(parts.scorer.metric)
    figures = {f"{key}_{kind}": table[key][kind] for key in ("srcc", "plcc") for kind in (EQUAL, LEARNED)}
    figures["p"] = table["p"][LEARNED]
    file = FusionFile(
        metric=name,
        target=parts.target,
        weights=_rounded(learn_weights(problem, strength)),
        fingerprint=None if backbone is None else digest(backbone),
        dataset=data.name,
        images=len(rows),
        references=references,
        folds=folds,
        held_out={key: float(value) for key, value in figures.items() if key != "p" or np.isfinite(value)},
        date=date.today().isoformat(),
        version=version("msds-plugin"),
        parts=parts.names if parts.named else (),
    )
    return FusionFit(file, strength, held_out, by_fold, made.scores.failures[["distorted", "metric", "error"]])


def _cross_validate(
    problem: Problem, names: tuple[str, ...], references: pd.Series[Any], folds: int, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The columns ``held_out`` and ``folds`` of :class:`FusionFit`."""
    opinion, opposite = problem.opinion, problem.opposite
    fold = divide(pd.factorize(references, sort=True)[0], folds, seed)
    fused = pd.DataFrame(problem.scores, columns=list(names)).assign(**{EQUAL: problem.fused(problem.start), LEARNED: np.nan})
    by_fold = []
    for index in range(folds):
        held = fold == index
        rest = problem.rows(~held)
        weights = learn_weights(rest, choose_strength(rest, references[~held], seed))
        # With the mean and deviation that equal weights have on the known rows, so that folds of other weights compare.
        scores, equal = problem.fused(weights), fused.loc[~held, EQUAL].to_numpy()
        standard = (scores[held] - scores[~held].mean()) / (scores[~held].std() or 1.0)
        fused.loc[held, LEARNED] = standard * equal.std() + equal.mean()
        for name in fused:
            found = statistics.agreement(fused[name][held], opinion[held], opposite=opposite, resamples=0)
            chosen = _rounded(weights) if name == LEARNED else None
            by_fold.append((index, name, found.count, found.srcc, found.plcc, chosen))
    held_out = []
    for name in fused:
        row = statistics.agreement(fused[name], opinion, references, None, opposite, seed=seed).as_row()
        kept = {key: row[key] for key in ("srcc", "srcc_low", "srcc_high", "plcc", "plcc_low", "plcc_high")}
        held_out.append({"fusion": name, **kept, "difference": 0.0, "p": float("nan")})
        if name != EQUAL:  # uncorrected: that of learned from equal weights is the one comparison that was planned
            both = fused[[name, EQUAL]]
            test = statistics.significance(both, opinion, references, both if opposite else (), seed=seed)
            held_out[-1] |= test[["difference", "p"]].iloc[0].to_dict()
    return pd.DataFrame(held_out), pd.DataFrame(by_fold, columns=["fold", "fusion", "images", "srcc", "plcc", "weights"])


def _rounded(weights: Array) -> tuple[float, ...]:
    """To six digits, summing to one still."""
    kept = np.round(weights, 6)
    kept[int(kept.argmax())] += 1 - kept.sum()
    return tuple(float(round(value, 6)) for value in kept)
