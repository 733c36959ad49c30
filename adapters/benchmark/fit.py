"""Fusion weights of a multiscale metric, learned from opinion scores and judged on scenes they were not learned from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special
from torch import Tensor, nn

from ...backbones import Backbone
from ...errors import check_size
from ...functional import pyramid
from ...fusion_file import FusionFile, FusionTarget
from ...multiscale import MultiScale
from ...representation import Representation
from ..common.names import on_a_pyramid, parse_metric
from ..common.scorer import Scorer
from ..scoring.scorers import create_scorer
from . import statistics
from .datasets import Dataset
from .runner import Progress, no_progress, run

Array = NDArray[np.float64]

FOLDS = 5
MOST_LEVELS = 5
#: Below this p value the difference between learned and equal weights is taken for real.
SIGNIFICANT = 0.05
EQUAL, LEARNED = "equal", "learned"
#: How far the softmax logit of a level may be from that of level 0.
_LOGIT_BOUND = 12.0


@dataclass(frozen=True)
class FusionFit:
    """Learned fusion weights, and what they are worth.

    Attributes:
        file: the weights, learned from all references, with their origin; ``file.save(path)`` writes them.
        held_out: one row for each level alone, for equal and for learned weights (column ``fusion``), on scores of references
            that the learned weights were not learned from: ``srcc``, ``plcc`` with the ends of their 95 % intervals
            (``srcc_low``, ...), ``difference`` of the SRCC from that of equal weights and its ``p`` value.
        folds: the same without intervals for each fold: ``fold``, ``fusion``, ``images``, ``srcc``, ``plcc``, and the learned
            ``weights``.
        failures: pairs that were left out: ``distorted``, ``metric`` (which level), ``error``.
    """

    file: FusionFile
    held_out: pd.DataFrame
    folds: pd.DataFrame
    failures: pd.DataFrame

    @property
    def verdict(self) -> str:
        """Whether learned weights beat equal ones on held-out references, in one sentence."""
        row = self.held_out.set_index("fusion").loc[LEARNED]
        found = f"SRCC {row['difference']:+.4f}, p = {row['p']:.2g}, {self.file.references} references"
        if not row["p"] < SIGNIFICANT:
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
    device: str | torch.device | None = None,
    batch_size: int = 8,
    workers: int | None = None,
    resamples: int = statistics.RESAMPLES,
    seed: int = statistics.SEED,
    progress: Progress = no_progress,
    **options: Any,
) -> FusionFit:
    """Learn one weight per pyramid level from opinion scores.

    The weights come from all references. What they are worth is measured by cross-validation: references are divided into
    folds, the weights for each fold are learned from the other folds, and the scores of all folds together are evaluated,
    so that no scene is in both training and test. SRCC differences are tested by :func:`statistics.significance`.

    Args:
        metric: ``msds``, ``ms-lpips``, ..., any metric with levels; options after commas (``msds,backbone=alexnet``).
        data: images with opinion scores.
        levels: 2 to 5.
        folds: at least 2, at most as many as there are references; None for one per reference (leave one reference out).
        results: file that keeps the scores of each level (:class:`results.Results`); None to keep nothing.
        device, batch_size, workers, progress, options (``reading``, ``note``): as for :func:`benchmark.run`.
        resamples, seed: of the bootstrap; the seed also divides the references into folds.

    Raises:
        ValueError: a metric without levels, too few or many levels, folds or references, no scores at all, or scores or
            opinions that are all the same; and as :func:`benchmark.run`.
    """
    if not 2 <= levels <= MOST_LEVELS:
        raise ValueError(f"levels must be 2 to {MOST_LEVELS}, got {levels}")
    references = data.table["reference"].nunique()
    folds = references if folds is None else folds
    if not 2 <= folds <= references:
        raise ValueError(f"folds must be 2 to the number of references, {references} in {data.name}, got {folds}")
    name, own = parse_metric(metric)
    if {"levels", "fusion", "learn_fusion"} & own.keys():
        raise ValueError(f"{metric!r}: give the number of levels apart from the metric, and no weights: they are learned")
    scorer, whole = _multiscale(metric, levels, device)
    made = run(_level_scorers(scorer, whole), [data], results, scorer.device, False, batch_size, workers, progress, **options)
    rows = _usable(made.scores.table, levels)
    if rows["reference"].nunique() < folds:
        raise ValueError(_too_few(rows, folds, made.scores.failures))
    opposite = scorer.lower_is_better != data.lower_is_better
    held_out, by_fold = _cross_validate(rows, levels, opposite, folds, resamples, seed)
    table = held_out.set_index("fusion")
    backbone = next((module for module in whole.modules() if isinstance(module, Backbone)), None)
    file = FusionFile(
        metric=name,
        target=FusionTarget.of(whole.metric),
        weights=_rounded(learn_weights(rows[_columns(levels)], rows["opinion"], opposite)),
        fingerprint=None if backbone is None else backbone.fingerprint,
        dataset=data.name,
        images=len(rows),
        references=rows["reference"].nunique(),
        folds=folds,
        held_out={
            **{f"{key}_{kind}": float(table[key][kind]) for key in ("srcc", "plcc") for kind in (EQUAL, LEARNED)},
            **({"p": float(table["p"][LEARNED])} if np.isfinite(table["p"][LEARNED]) else {}),
        },
        date=date.today().isoformat(),
        version=version("msds-plugin"),
    )
    return FusionFit(file, held_out, by_fold, made.scores.failures[["distorted", "metric", "error"]])


def learn_weights(level_scores: ArrayLike, opinion: ArrayLike, opposite: bool = False) -> Array:
    r"""The fusion weights whose fused scores have the highest PLCC with the opinions after a logistic mapping.

    .. math:: \min_{z, b}\ \sum_i \bigl(b_2 + (b_1 - b_2)\,\sigma((s_i \cdot \mathrm{softmax}(z) - b_3) / b_4) - y_i\bigr)^2

    by bounded least squares, from equal weights and from each level in turn; the best end is taken. With the mapping's gain
    and offset free, the least squared error is the highest PLCC. The mapping may only go the way that the metric and the
    opinions say, so weights cannot profit from a wrong direction. The outcome depends on the numbers alone.

    Args:
        level_scores: (items, levels).
        opinion: (items,).
        opposite: a good metric falls where the opinions rise.

    Returns:
        (levels,), non-negative, summing to one.

    Raises:
        ValueError: fewer items than unknowns (levels + 3), values that are not finite, or that are all the same.

    Source of the mapping: VQEG, 2000, as in :func:`statistics.fit_mapping`.
    """
    scores = np.asarray(level_scores, dtype=np.float64)
    y = np.asarray(opinion, dtype=np.float64).reshape(-1)
    if scores.ndim != 2 or len(scores) != len(y):
        raise ValueError(f"level scores must be (items, levels) for {len(y)} opinions, got shape {scores.shape}")
    count = scores.shape[1]
    if len(y) < count + 3:
        raise ValueError(f"{len(y)} scored images are too few to learn {count} weights: at least {count + 3} are needed")
    if not (np.isfinite(scores).all() and np.isfinite(y).all()):
        raise ValueError("weights can only be learned from finite scores and opinions")
    if np.ptp(y) == 0 or not np.ptp(scores, axis=0).any():
        raise ValueError(f"weights cannot be learned: the {'opinions' if np.ptp(y) == 0 else 'scores'} are all the same")
    # Standard scores, the same for every level, so that the weights mean the same; rising with the opinions.
    u = (scores - scores.mean()) / scores.std(0).max() * (-1.0 if opposite else 1.0)
    v = (y - y.mean()) / y.std()

    def residuals(parameters: Array) -> Array:
        return _predicted(u, parameters)[0] - v

    def jacobian(parameters: Array) -> Array:
        return _predicted(u, parameters)[1]

    free = (_LOGIT_BOUND,) * (count - 1)
    low, high = statistics.RISE_BOUNDS
    bounds = ([-each for each in free] + [*low], [*free, *high])
    fits = []
    for logits in (np.zeros(count), *(2.0 * np.eye(count))):
        curve = np.clip((v.min(), np.ptp(v), (u @ special.softmax(logits)).mean(), 0.5), low, high)
        start = [*(logits[1:] - logits[0]), *curve]
        fits.append(optimize.least_squares(residuals, start, jacobian, bounds=bounds, x_scale="jac", ftol=1e-10))
    return _weights(min(fits, key=lambda fit: fit.cost).x)


def _weights(parameters: Array) -> Array:
    return np.asarray(special.softmax(np.concatenate([[0.0], parameters[:-4]])))


def _predicted(scores: Array, parameters: Array) -> tuple[Array, Array]:
    """Opinions predicted from (items, levels) scores, and their derivatives (items, parameters).

    The parameters: logits of the levels after the first, whose logit is 0, then those of :func:`statistics.rise`.
    """
    weights = _weights(parameters)
    fused = scores @ weights
    values, by_curve = statistics.rise(fused, parameters[-4:])
    by_fused = -by_curve[:, 2:3]  # what moves the middle down moves the scores up
    return values, np.hstack([by_fused * weights[1:] * (scores[:, 1:] - fused[:, None]), by_curve])


class _Level(nn.Module):
    """What a multiscale metric computes on one of its levels."""

    def __init__(self, whole: MultiScale, level: int) -> None:
        super().__init__()
        self.metric = whole.metric
        self.level = level
        self.levels = whole.levels
        self.source = f"{FusionTarget.of(whole.metric)}, {whole.source}, level {level}"

    def _at(self, image: Tensor) -> Tensor:
        check_size(image, getattr(self.metric, "smallest", 1), self.levels)
        return pyramid(image, self.level + 1)[-1]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        scores: Tensor = self.metric(self._at(x), self._at(y))
        return scores.reshape(-1)


class _RepresentingLevel(_Level):
    """The same where a reference can be represented once."""

    metric: Any  # it has represent and compare

    def represent(self, image: Tensor) -> Representation:
        represented: Representation = self.metric.represent(self._at(image))
        return represented

    def compare(self, a: Representation, b: Representation) -> Tensor:
        scores: Tensor = self.metric.compare(a, b)
        return scores


def _multiscale(metric: str, levels: int, device: str | torch.device | None) -> tuple[Scorer, MultiScale]:
    name = parse_metric(metric)[0]
    if not on_a_pyramid(name):
        raise ValueError(f"{name} has no levels to weigh: choose msds, msds-lite, msds-fast or ms-<name>")
    scorer = create_scorer(metric, device, levels=levels)
    whole = next((module for module in scorer.module.modules() if isinstance(module, MultiScale)), None)
    if whole is None:
        raise ValueError(f"{name} has no MultiScale in it, so its levels cannot be scored one by one")
    return scorer, whole


def _level_scorers(scorer: Scorer, whole: MultiScale) -> list[Scorer]:
    kind = _Level if scorer.representing is None else _RepresentingLevel
    found = []
    for level, name in enumerate(_columns(whole.levels)):
        module = kind(whole, level)
        found.append(replace(scorer, name=f"{scorer.name} {name}", score=module, module=module))
    return found


def _columns(levels: int) -> list[str]:
    return [f"level {level}" for level in range(levels)]


def _usable(table: pd.DataFrame, levels: int) -> pd.DataFrame:
    """One row per pair that has a score on every level."""
    parts = [rows.reset_index(drop=True) for _, rows in table.groupby("metric", sort=False)]
    wide = parts[0][["reference", "distorted", "opinion"]].copy()
    for name, part in zip(_columns(levels), parts, strict=True):
        wide[name] = part["score"]
    return wide.dropna().reset_index(drop=True)


def _too_few(rows: pd.DataFrame, folds: int, failures: pd.DataFrame) -> str:
    first = "" if failures.empty else f" (the first reason: {failures['error'].iloc[0]})"
    if rows.empty:
        return f"no image has a score on every level{first}"
    return f"only {rows['reference'].nunique()} references have a scored image, too few for {folds} folds{first}"


def _cross_validate(
    rows: pd.DataFrame, levels: int, opposite: bool, folds: int, resamples: int, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    scores, opinion = rows[_columns(levels)].to_numpy(), rows["opinion"].to_numpy()
    fold = _divide(rows["reference"], folds, seed)
    fused = pd.DataFrame({**dict(zip(_columns(levels), scores.T, strict=True)), EQUAL: scores.mean(1), LEARNED: np.nan})
    by_fold = []
    for index in range(folds):
        held = fold == index
        weights = learn_weights(scores[~held], opinion[~held], opposite)
        fused.loc[held, LEARNED] = scores[held] @ weights
        for name in fused:
            found = statistics.agreement(fused[name][held], opinion[held], opposite=opposite, resamples=0)
            chosen = _rounded(weights) if name == LEARNED else None
            by_fold.append((index, name, found.count, found.srcc, found.plcc, chosen))
    tests = statistics.significance(fused, opinion, rows["reference"], fused if opposite else (), resamples, seed)
    against_equal = {name: _against(tests, str(name)) for name in fused}
    held_out = []
    for name in fused:
        row = statistics.agreement(fused[name], opinion, rows["reference"], None, opposite, resamples, seed).as_row()
        kept = {key: row[key] for key in ("srcc", "srcc_low", "srcc_high", "plcc", "plcc_low", "plcc_high")}
        held_out.append({"fusion": name, **kept, **against_equal[name]})
    return pd.DataFrame(held_out), pd.DataFrame(by_fold, columns=["fold", "fusion", "images", "srcc", "plcc", "weights"])


def _divide(references: pd.Series[Any], folds: int, seed: int) -> NDArray[np.intp]:
    """The fold of each row; all rows of a reference are in one, and the folds hold equally many references."""
    codes, names = pd.factorize(references, sort=True)
    order = np.random.default_rng(seed).permutation(len(names))
    return np.asarray((order % folds)[codes])


def _against(tests: pd.DataFrame, name: str) -> Mapping[str, float]:
    """SRCC difference of a fusion from equal weights and its p value, uncorrected: the one comparison that was planned."""
    for row in tests.to_dict("records"):
        if {row["a"], row["b"]} == {name, EQUAL}:
            return {"difference": row["difference"] * (1 if row["a"] == name else -1), "p": row["p"]}
    return {"difference": 0.0, "p": float("nan")}


def _rounded(weights: Array) -> tuple[float, ...]:
    """To four digits, summing to one still."""
    kept = np.round(weights, 4)
    kept[int(kept.argmax())] += 1 - kept.sum()
    return tuple(float(round(value, 4)) for value in kept)
