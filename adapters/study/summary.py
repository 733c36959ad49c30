"""From a grid of scores to figures: agreement of each cell, of means over them, and of honest choices among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ..benchmark import failures, statistics
from ..benchmark.summary import Scores, overall
from .grid import Study

#: In place of a layer or a level: the mean over all of them, with equal weights.
MEAN = "mean"

#: Backbone, layer, level, comparison.
Cell = tuple[str, str, str, str]


@dataclass(frozen=True)
class StudySummary:
    """All figures of a study.

    Attributes:
        cells: one row per ``backbone``, ``layer``, ``level``, ``comparison`` (layer and level may be ``mean``): ``srcc`` with
            ``srcc_low`` and ``srcc_high``, ``plcc``, ``krcc``, ``rmse``, ``seconds``, ``count``, ``left_out``, ``overall`` (the
            benchmark's aggregate of factors).
        nested: one row per ``backbone`` and ``comparison``: ``best`` (SRCC of the best cell, chosen on the very images it is
            quoted on), ``nested`` (chosen on the other references, with ``nested_low``, ``nested_high``), ``equal`` (mean
            over all layers and levels, nothing chosen, likewise), and which cell was ``chosen`` how often.
        networks: ``backbone``, ``parameters``, ``accuracy``, ``source``, and by comparison the SRCC of equal weights.
        accuracy: by ``comparison``: Spearman's correlation of ImageNet accuracy with SRCC over the trained ``backbones``.
        relations: :func:`failures.relations` of every cell with the images' high frequencies; empty unless asked for.
    """

    cells: pd.DataFrame
    nested: pd.DataFrame
    networks: pd.DataFrame
    accuracy: pd.DataFrame
    relations: pd.DataFrame


def summarise(
    study: Study, resamples: int = statistics.RESAMPLES, seed: int = statistics.SEED, frequencies: bool = False
) -> StudySummary:
    """Agreement of every cell, nested choice among cells, and the relation to ImageNet accuracy.

    Args:
        study: from :func:`run_study`.
        resamples, seed: of every bootstrap over references.
        frequencies: also relate errors to the images' high frequencies.
    """
    wide, seconds, pairs = _wide(study)
    opposite = not study.opinion_lower_is_better  # scores are distances
    rows, kinds = [], []
    cells_of: list[Cell] = list(seconds)
    for cell in cells_of:
        own = dict(zip(("backbone", "layer", "level", "comparison"), cell, strict=True))
        options: dict[str, Any] = {"reference": pairs["reference"], "opposite": opposite, "seed": seed}
        found = statistics.agreement(wide[cell], pairs["opinion"], resamples=resamples, **options).as_row()
        rows.append(own | {"metric": cell, "dataset": study.dataset, "seconds": seconds[cell]} | found)
        by_kind = statistics.agreement_by_group(wide[cell], pairs["opinion"], pairs["distortion"], resamples=0, **options)
        kinds += [{"dataset": study.dataset, "metric": cell, "distortion": k} | a.as_row() for k, a in by_kind.items()]
    cells = pd.DataFrame(rows)
    by_distortion = pd.DataFrame(kinds, columns=["dataset", "metric", "distortion", "srcc", "count"])
    cells = cells.merge(overall(cells, by_distortion)[["metric", "overall"]], on="metric")
    relations = _relations(study, wide, cells_of, pairs, opposite, resamples, seed) if frequencies else pd.DataFrame()
    nested = _nested(wide, cells_of, pairs, opposite, resamples, seed)
    networks = _networks(study, nested)
    return StudySummary(cells.drop(columns=["metric", "dataset"]), nested, networks, _accuracy(networks), relations)


def _wide(study: Study) -> tuple[pd.DataFrame, dict[Cell, float], pd.DataFrame]:
    """Scores (pairs, cells) with the means over layers and levels, seconds of each cell, and the pairs."""
    table = study.table.assign(pair=study.table["reference"] + "\0" + study.table["distorted"])
    pairs = table.drop_duplicates("pair").set_index("pair")[["reference", "distorted", "opinion", "distortion"]]
    scores: dict[Cell, pd.Series[float]] = {}
    seconds: dict[Cell, float] = {}
    for (backbone, comparison), part in table.groupby(["backbone", "comparison"], sort=False):
        layers, levels = list(dict.fromkeys(part["layer"])), list(dict.fromkeys(part["level"]))
        by_cell = part.pivot(index="pair", columns=["layer", "level"], values="score").loc[pairs.index]
        time = part.groupby(["layer", "level"], sort=False)["seconds"].mean()
        choices = [([layer], layer) for layer in layers] + ([(layers, MEAN)] if len(layers) > 1 else [])
        for chosen, layer in choices:
            of_levels = [([level], str(level)) for level in levels] + ([(levels, MEAN)] if len(levels) > 1 else [])
            for those, level in of_levels:
                cell = (str(backbone), layer, level, str(comparison))
                columns = [(one, other) for one in chosen for other in those]
                scores[cell] = by_cell[columns].mean(axis=1, skipna=False)
                # The layers of a level come out of one pass.
                seconds[cell] = float(sum(max(time[one, other] for one in chosen) for other in those))
    wide = pd.DataFrame(scores)
    wide.columns = pd.Index(list(scores), tupleize_cols=False)
    return wide, seconds, pairs


def _nested(
    wide: pd.DataFrame, cells_of: list[Cell], pairs: pd.DataFrame, opposite: bool, resamples: int, seed: int
) -> pd.DataFrame:
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells_of:
        groups.setdefault((cell[0], cell[3]), []).append(cell)
    rows = []
    opinion, reference = pairs["opinion"].to_numpy(float), pairs["reference"].to_numpy(object)
    for (backbone, comparison), cells in groups.items():
        scores = wide[cells].to_numpy(float)
        equal = cells[-1]  # the mean over all layers and levels
        whole = [statistics.srcc(-column if opposite else column, opinion) for column in scores.T]
        predicted, chosen = leave_one_reference_out(scores, opinion, reference, opposite)
        row: dict[str, Any] = {"backbone": backbone, "comparison": comparison, "best": np.nanmax(whole, initial=-1.0)}
        row["best_cell"] = _shown(cells[int(np.nanargmax(whole))]) if np.isfinite(whole).any() else ""
        for name, values, turned in (("nested", predicted, False), ("equal", wide[equal].to_numpy(float), opposite)):
            found = statistics.agreement(values, opinion, pairs["reference"], None, turned, resamples, seed)
            row |= {name: found.srcc, f"{name}_low": found.srcc_interval[0], f"{name}_high": found.srcc_interval[1]}
        counts = pd.Series([_shown(cells[place]) for place in chosen]).value_counts()
        row["chosen"] = ", ".join(f"{name} x {times}" for name, times in counts.items())
        rows.append(row)
    return pd.DataFrame(rows)


def _shown(cell: Sequence[Any]) -> str:
    return f"{cell[1]} at level {cell[2]}" if cell[2] != MEAN else f"{cell[1]}, all levels"


def leave_one_reference_out(scores: Any, opinion: Any, reference: Any, opposite: bool = False) -> tuple[Any, list[int]]:
    """Opinions predicted for each reference by the column that was best on all others.

    For each reference in turn: the column with the highest SRCC on the other references is chosen, its mapping to opinions is
    fitted there, and both are applied to the images of the reference that was left out. What the choice is worth shows in
    the agreement of all these predictions with the opinions.

    Args:
        scores: (items, columns), NaN where there is none.
        opinion: (items,).
        reference: which reference each item belongs to.
        opposite: a good score falls where the opinions rise.

    Returns:
        Predicted opinions (items,), and the column chosen for each reference.

    Raises:
        ValueError: fewer than two references.
    """
    scores, opinion, reference = np.asarray(scores, float), np.asarray(opinion, float), np.asarray(reference, object)
    labels = pd.unique(reference)
    if len(labels) < 2:
        raise ValueError("one reference cannot be left out: at least two are needed")
    predicted, chosen = np.full(len(opinion), np.nan), []
    sign = -1.0 if opposite else 1.0
    for label in labels:
        held = reference == label
        training = ~held[:, None] & np.isfinite(scores) & np.isfinite(opinion)[:, None]
        columns = zip(sign * scores.T, training.T, strict=True)
        merit = [statistics.srcc(column[use], opinion[use]) for column, use in columns]
        if not np.isfinite(merit).any():
            continue
        best = int(np.nanargmax(merit))
        chosen.append(best)
        use = training[:, best]
        predicted[held] = statistics.fit_mapping(scores[use, best], opinion[use])(scores[held, best])
    return predicted, chosen


def _networks(study: Study, nested: pd.DataFrame) -> pd.DataFrame:
    equal = nested.pivot(index="backbone", columns="comparison", values="equal")
    return study.networks.merge(equal.reset_index(), on="backbone", how="left")


def _accuracy(networks: pd.DataFrame) -> pd.DataFrame:
    known = networks[networks["accuracy"].notna()]
    rows = []
    for comparison in [name for name in networks if name not in ("backbone", "parameters", "accuracy", "source")]:
        part = known[known[comparison].notna()]
        enough = len(part) > 2 and part["accuracy"].nunique() > 1 and part[comparison].nunique() > 1
        rho = float(stats.spearmanr(part["accuracy"], part[comparison]).statistic) if enough else float("nan")
        rows.append({"comparison": comparison, "srcc": rho, "backbones": len(part)})
    return pd.DataFrame(rows)


def _relations(
    study: Study, wide: pd.DataFrame, cells_of: list[Cell], pairs: pd.DataFrame, opposite: bool, resamples: int, seed: int
) -> pd.DataFrame:
    base = pairs.reset_index(drop=True)
    names = {cell: " / ".join(cell) for cell in cells_of}
    tables, mappings = [], {}
    for cell, name in names.items():
        score = wide[cell].to_numpy(float)
        known = np.isfinite(score) & np.isfinite(base["opinion"].to_numpy(float))
        if not known.any():
            continue
        mappings[study.dataset, name] = statistics.fit_mapping(score[known], base["opinion"][known])
        error = [None if one else "no score" for one in known]
        tables.append(base.assign(dataset=study.dataset, metric=name, score=score, error=error, seconds=0.0, std=np.nan))
    lower = dict.fromkeys(names.values(), True)
    scores = Scores(pd.concat(tables, ignore_index=True), lower, {study.dataset: study.opinion_lower_is_better})
    errors = failures.errors(scores, mappings)
    energy = failures.energies([*errors["reference"], *errors["distorted"]])
    return failures.relations(errors, energy, resamples, seed)
