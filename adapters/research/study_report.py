"""From the scores of a study to figures and a report: agreement of each cell, of means over them, and of honest choices."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from msds_plugin.adapters.benchmark import failures, statistics
from msds_plugin.adapters.benchmark.report.document import Document, Section, shown
from msds_plugin.adapters.benchmark.report.figures import heat_map, to_svg
from msds_plugin.adapters.benchmark.report.page import add_unscored
from msds_plugin.adapters.benchmark.summary import Scores, agreements, overall
from msds_plugin.adapters.images.read import Reading
from msds_plugin.adapters.research.study import CELL, Study

#: In place of a layer or a level: the mean over all of them, with equal weights.
MEAN = "mean"
_PAIR = ["reference", "distorted"]


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
    study: Study,
    resamples: int = statistics.RESAMPLES,
    seed: int = statistics.SEED,
    frequencies: bool = False,
    reading: Reading = Reading(),  # noqa: B008 (frozen)
) -> StudySummary:
    """Agreement of every cell, nested choice among cells, and the relation to ImageNet accuracy.

    With ``frequencies`` also that of errors to the images' high frequencies; ``reading`` says how these are read.
    """
    scores = _with_means(study)
    table, kinds, mappings = agreements(scores, resamples, seed, of_types=0)
    cells = scores.table[["metric", *CELL]].drop_duplicates().merge(table, on="metric")
    cells = cells.merge(overall(table, kinds)[["metric", "overall"]], on="metric")
    cells = cells[[*CELL, "seconds", *table.loc[:, "count":"mapping_start"], "overall"]]
    rows = []
    for (backbone, comparison), part in scores.table.groupby(["backbone", "comparison"], sort=False):
        own = {"backbone": backbone, "comparison": comparison}
        rows.append(own | _nested(part, not study.data.lower_is_better, resamples, seed))
    nested = pd.DataFrame(rows)
    networks = study.networks.merge(nested.pivot(index="backbone", columns="comparison", values="equal"), on="backbone")
    relations = pd.DataFrame()
    if frequencies:
        errors = failures.errors(scores, mappings)
        energy = failures.energies([*errors["reference"], *errors["distorted"]], reading)
        relations = failures.relations(errors, energy, resamples, seed)
    return StudySummary(cells, nested, networks, _accuracy(networks, list(nested["comparison"].unique())), relations)


def _with_means(study: Study) -> Scores:
    """The scores of all cells, as of one metric each, and of the means over layers and levels."""
    parts = []
    for (backbone, comparison), part in study.table.groupby(["backbone", "comparison"], sort=False):
        layers, levels = list(part["layer"].unique()), list(part["level"].unique())
        pairs = part.drop_duplicates(_PAIR)[[*_PAIR, "opinion", "distortion"]].reset_index(drop=True)
        score = part.pivot(index=_PAIR, columns=["layer", "level"], values="score")
        score = score.reindex(pd.MultiIndex.from_frame(pairs[_PAIR])).reset_index(drop=True)
        of_layers = [([layer], layer) for layer in layers] + [(layers, MEAN)] * (len(layers) > 1)
        of_levels = [([level], str(level)) for level in levels] + [(levels, MEAN)] * (len(levels) > 1)
        for (own_layers, layer), (own_levels, level) in product(of_layers, of_levels):
            found = score[list(product(own_layers, own_levels))].mean(axis=1, skipna=False)
            cell = {"backbone": backbone, "layer": layer, "level": level, "comparison": comparison}
            own = pairs.assign(**cell, metric=" / ".join(map(str, cell.values())), score=found, seconds=part["seconds"].mean())
            parts.append(own.assign(error=[None if known else "no score" for known in found.notna()]))
    table = pd.concat(parts, ignore_index=True).assign(dataset=study.data.name, std=np.nan)
    return Scores(table, dict.fromkeys(table["metric"], True), {study.data.name: study.data.lower_is_better})


def _nested(part: pd.DataFrame, opposite: bool, resamples: int, seed: int) -> dict[str, Any]:
    """The best cell of one backbone and comparison, an honest choice among them, and the mean over all, the last of them."""
    names = [str(name) for name in part["metric"].unique()]
    scores = part["score"].to_numpy(float).reshape(len(names), -1).T
    pairs = part.iloc[: len(scores)]
    opinion, reference = pairs["opinion"].to_numpy(float), pairs["reference"].to_numpy(object)
    columns = zip(-scores.T if opposite else scores.T, np.isfinite(scores).T, strict=True)
    whole = np.array([statistics.srcc(column[use], opinion[use]) for column, use in columns])
    predicted, chosen = leave_one_reference_out(scores, opinion, reference, opposite)
    best = int(np.nanargmax(whole)) if np.isfinite(whole).any() else None
    row: dict[str, Any] = {"best": np.nan, "best_cell": ""}
    if best is not None:
        row = {"best": whole[best], "best_cell": _words(names[best])}
    for name, values, turned in (("nested", predicted, False), ("equal", scores[:, -1], opposite)):
        found = statistics.agreement(values, opinion, reference, None, turned, resamples, seed)
        low, high = found.intervals["srcc"]
        row |= {name: found.srcc, f"{name}_low": low, f"{name}_high": high}
    counts = pd.Series([_words(names[place]) for place in chosen]).value_counts()
    return row | {"chosen": ", ".join(f"{name} x {times}" for name, times in counts.items())}


def _words(name: str) -> str:
    _, layer, level, _ = name.split(" / ")
    return f"{layer} at level {level}" if level != MEAN else f"{layer}, all levels"


def leave_one_reference_out(scores: Any, opinion: Any, reference: Any, opposite: bool = False) -> tuple[Any, list[int]]:
    """Opinions predicted for the images of each reference by the column with the highest SRCC on all other references, and
    its mapping to opinions fitted there.

    Args:
        scores: (items, columns), NaN where there is none.
        opinion, reference: (items,).
        opposite: a good score falls where the opinions rise.

    Returns:
        Predicted opinions (items,), and the column chosen for each reference.
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


def _accuracy(networks: pd.DataFrame, comparisons: list[str]) -> pd.DataFrame:
    rows = []
    for comparison in comparisons:
        part = networks.dropna(subset=["accuracy", comparison])
        rho = statistics.srcc(part["accuracy"], part[comparison]) if len(part) > 2 else np.nan
        rows.append({"comparison": comparison, "srcc": rho, "backbones": len(part)})
    return pd.DataFrame(rows)


def nested_table(summed: StudySummary) -> Section:
    """Best, nested and equal of every backbone and comparison."""
    columns = {"backbone": "backbone", "comparison": "comparison"}
    columns |= {"best": "best cell", "nested": "nested choice", "equal": "equal weights"}
    text = (
        "SRCC. Best cell: the best layer (or the mean of all) and level (or the mean of all), chosen on the images it is "
        "quoted on, so too high. Nested choice: for each reference chosen on all others, and mapped to opinions by them. "
        "Equal weights: the mean over all layers and levels, nothing chosen. In brackets: 95 % intervals over references."
    )
    return shown(summed.nested, columns, 3, "Chosen honestly, and not chosen at all", text)


def write_report(study: Study, summed: StudySummary, directory: str | os.PathLike[str]) -> Path:
    """Write ``report.html``, ``report.md`` with ``figures``, and every table as CSV; the path of the page."""
    references, images = (study.data.table[name].nunique() for name in _PAIR)
    page = Document("Layers, levels, comparisons, backbones", f"{study.data.name}: {images} images, {references} references")
    page.tables |= {name: table for name, table in vars(summed).items() if not table.empty} | {"scores": study.table}
    page.notes(study.notes)
    page.section(nested_table(summed))
    comparisons = list(summed.accuracy["comparison"])
    about = {"backbone": "backbone", "source": "source of the accuracy", "parameters": "parameters", "accuracy": "top-1, %"}
    about |= {name: name for name in comparisons}
    title = "Does a better classifier make a better similarity?"
    text = "Parameters are those of what computes the features; by comparison the SRCC of equal weights."
    page.section(shown(summed.networks, about, 2 + len(comparisons), title, text))
    rank = {"comparison": "comparison", "srcc": "SRCC of accuracy and agreement", "backbones": "backbones"}
    page.section(shown(summed.accuracy, rank, 2))
    page.heading("SRCC by layer and level")
    for (backbone, comparison), part in summed.cells.groupby(["backbone", "comparison"], sort=False):
        wide = part.pivot(index="layer", columns="level", values="srcc").loc[part["layer"].unique(), part["level"].unique()]
        caption = f"{backbone}, {comparison}"
        page.picture(to_svg(heat_map(wide)), f"{backbone}-{comparison}", f"SRCC by layer and level: {caption}", caption)
    best = summed.cells.sort_values("srcc", ascending=False).head(20)
    columns = {name: name for name in CELL} | {"srcc": "SRCC", "plcc": "PLCC", "seconds": "s / image", "overall": "overall"}
    page.section(shown(best.drop(columns=["plcc_low"]), columns, 4, "Best cells"))
    if not summed.relations.empty:
        parts = summed.relations["metric"].str.split(" / ")
        verdicts = summed.relations.assign(backbone=parts.str[0], comparison=parts.str[-1])
        counts = verdicts.groupby(["backbone", "comparison", "image"], sort=False)["verdict"].value_counts().unstack()
        counts = counts.reindex(columns=["grows", "falls", "not shown"]).fillna(0).astype(int).reset_index()
        text = (
            "In how many cells the errors grow or fall with the share of high frequencies in an image, as far as the 95 % "
            "interval over references shows it. Of cells without any relation one in twenty is expected to show one. All are "
            "in relations.csv."
        )
        page.section(shown(counts, list(map(str, counts)), 3, "Errors and high frequencies", text))
    add_unscored(page, study.failures, "scores.csv")
    return page.write(directory)
