"""From the scores of a study to figures and a report: agreement of each cell, of means over them, and of honest choices."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from msds_plugin.adapters.benchmark import failures, statistics
from msds_plugin.adapters.benchmark.report.document import Document, Shown, shown
from msds_plugin.adapters.benchmark.report.figures import heat_map, to_svg
from msds_plugin.adapters.benchmark.summary import Scores, overall
from msds_plugin.adapters.images.read import Reading
from msds_plugin.adapters.research.study import Study

#: In place of a layer or a level: the mean over all of them, with equal weights.
MEAN = "mean"
CELL = ["backbone", "layer", "level", "comparison"]
_VERDICTS = ("grows", "falls", "not shown")


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

    Args:
        study: from :func:`~msds_plugin.adapters.research.study.run_study`.
        resamples, seed: of every bootstrap over references.
        frequencies: also relate errors to the images' high frequencies.
        reading: how the images are read for these.
    """
    scores = _with_means(study)
    # Scores are distances.
    bootstrap: dict[str, Any] = {"opposite": not study.data.lower_is_better, "resamples": resamples, "seed": seed}
    rows, kinds, mappings = [], [], {}
    for cell, part in scores.groupby("metric", sort=False):
        name = {"metric": cell, "dataset": study.data.name}
        found = statistics.agreement(part["score"], part["opinion"], part["reference"], **bootstrap)
        mappings[study.data.name, str(cell)] = found.mapping
        rows.append({**part[CELL].iloc[0], **name, "seconds": part["seconds"].mean(), **found.as_row()})
        by_kind = statistics.agreement_by_group(
            part["score"], part["opinion"], part["distortion"], **bootstrap | {"resamples": 0}
        )
        kinds += [{**name, "distortion": kind, **each.as_row()} for kind, each in by_kind.items()]
    by_distortion = pd.DataFrame(kinds, columns=["dataset", "metric", "distortion", "srcc", "count"])
    cells = pd.DataFrame(rows)
    cells = cells.merge(overall(cells, by_distortion)[["metric", "overall"]], on="metric").drop(columns=["metric", "dataset"])
    nested = pd.DataFrame(
        [
            {"backbone": backbone, "comparison": comparison} | _nested(part, bootstrap)
            for (backbone, comparison), part in scores.groupby(["backbone", "comparison"], sort=False)
        ]
    )
    networks = study.networks.merge(nested.pivot(index="backbone", columns="comparison", values="equal"), on="backbone")
    relations = pd.DataFrame()
    if frequencies:
        lower = dict.fromkeys(scores["metric"].unique(), True)
        beside = Scores(scores.assign(std=np.nan), lower, {study.data.name: study.data.lower_is_better})
        errors = failures.errors(beside, mappings)
        energy = failures.energies([*errors["reference"], *errors["distorted"]], reading=reading)
        relations = failures.relations(errors, energy, resamples, seed)
    return StudySummary(cells, nested, networks, _accuracy(networks, list(nested["comparison"].unique())), relations)


def _with_means(study: Study) -> pd.DataFrame:
    """The scores with those of the means over layers and levels; ``metric`` is the cell's name."""
    parts = []
    pair = ["reference", "distorted", "opinion", "distortion"]
    for (backbone, comparison), part in study.table.groupby(["backbone", "comparison"], sort=False):
        layers, levels = list(part["layer"].unique()), list(part["level"].unique())
        pairs = part.drop_duplicates(["reference", "distorted"])[pair].reset_index(drop=True)
        score = part.pivot(index=["reference", "distorted"], columns=["layer", "level"], values="score")
        score = score.reindex(pd.MultiIndex.from_frame(pairs[["reference", "distorted"]])).reset_index(drop=True)
        of_layers = [([layer], layer) for layer in layers] + [(layers, MEAN)] * (len(layers) > 1)
        of_levels = [([level], str(level)) for level in levels] + [(levels, MEAN)] * (len(levels) > 1)
        for (own_layers, layer), (own_levels, level) in product(of_layers, of_levels):
            found = score[list(product(own_layers, own_levels))].mean(axis=1, skipna=False)
            cell = {"backbone": backbone, "layer": layer, "level": level, "comparison": comparison}
            own = pairs.assign(**cell, dataset=study.data.name, metric=" / ".join(map(str, cell.values())), score=found)
            own["seconds"] = part["seconds"].mean()
            parts.append(own.assign(error=[None if known else "no score" for known in found.notna()]))
    return pd.concat(parts, ignore_index=True)


def _nested(part: pd.DataFrame, bootstrap: dict[str, Any]) -> dict[str, Any]:
    """The best cell of one backbone and comparison, an honest choice among them, and the mean over all, the last of them."""
    names = [str(name) for name in part["metric"].unique()]
    scores = part["score"].to_numpy(float).reshape(len(names), -1).T
    pairs = part.iloc[: len(scores)]
    opinion, reference = pairs["opinion"].to_numpy(float), pairs["reference"].to_numpy(object)
    opposite = bootstrap["opposite"]
    whole = np.array([statistics.srcc(-column if opposite else column, opinion) for column in scores.T])
    predicted, chosen = leave_one_reference_out(scores, opinion, reference, opposite)
    known = np.isfinite(whole).any()
    row: dict[str, Any] = {"best": np.nanmax(whole) if known else np.nan}
    row["best_cell"] = _words(names[int(np.nanargmax(whole))]) if known else ""
    for name, values, turned in (("nested", predicted, False), ("equal", scores[:, -1], opposite)):
        found = statistics.agreement(values, opinion, reference, **bootstrap | {"opposite": turned})
        row |= {name: found.srcc, f"{name}_low": found.srcc_interval[0], f"{name}_high": found.srcc_interval[1]}
    counts = pd.Series([_words(names[place]) for place in chosen]).value_counts()
    return row | {"chosen": ", ".join(f"{name} x {times}" for name, times in counts.items())}


def _words(name: str) -> str:
    _, layer, level, _ = name.split(" / ")
    return f"{layer} at level {level}" if level != MEAN else f"{layer}, all levels"


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


def _accuracy(networks: pd.DataFrame, comparisons: list[str]) -> pd.DataFrame:
    rows = []
    for comparison in comparisons:
        part = networks.dropna(subset=["accuracy", comparison])
        enough = len(part) > 2 and part["accuracy"].nunique() > 1 and part[comparison].nunique() > 1
        rho = float(stats.spearmanr(part["accuracy"], part[comparison]).statistic) if enough else float("nan")
        rows.append({"comparison": comparison, "srcc": rho, "backbones": len(part)})
    return pd.DataFrame(rows)


def nested_table(summed: StudySummary) -> Shown:
    """Best, nested and equal of every backbone and comparison, as text."""
    figures = {"best": "best cell", "nested": "nested choice", "equal": "equal weights"}
    return shown(summed.nested, {"backbone": "backbone", "comparison": "comparison"} | figures)


def write_report(study: Study, summed: StudySummary, directory: str | os.PathLike[str]) -> Path:
    """Write ``report.html``, ``report.md`` with ``figures``, and every table as CSV; the path of the page.

    Raises:
        OSError: the folder cannot be written.
    """
    references, images = (study.data.table[name].nunique() for name in ("reference", "distorted"))
    page = Document("Layers, levels, comparisons, backbones", f"{study.data.name}: {images} images, {references} references")
    page.tables |= {name: table for name, table in vars(summed).items() if not table.empty} | {"scores": study.table}
    page.notes(study.notes)
    page.heading("Chosen honestly, and not chosen at all")
    page.text(
        "SRCC. Best cell: the best layer (or the mean of all) and level (or the mean of all), chosen on the images it is "
        "quoted on, so too high. Nested choice: for each reference chosen on all others, and mapped to opinions by them. "
        "Equal weights: the mean over all layers and levels, nothing chosen. In brackets: 95 % intervals over references."
    )
    page.table(*nested_table(summed), 3)
    page.heading("Does a better classifier make a better similarity?")
    page.text("Parameters are those of what computes the features; by comparison the SRCC of equal weights.")
    comparisons = list(summed.accuracy["comparison"])
    about = {"backbone": "backbone", "source": "source of the accuracy", "parameters": "parameters", "accuracy": "top-1, %"}
    page.table(*shown(summed.networks, about | {name: name for name in comparisons}), 2 + len(comparisons))
    rank = {"comparison": "comparison", "srcc": "SRCC of accuracy and agreement", "backbones": "backbones"}
    page.table(*shown(summed.accuracy, rank), 2)
    page.heading("SRCC by layer and level")
    for (backbone, comparison), part in summed.cells.groupby(["backbone", "comparison"], sort=False):
        wide = part.pivot(index="layer", columns="level", values="srcc").loc[part["layer"].unique(), part["level"].unique()]
        caption = f"{backbone}, {comparison}"
        described = f"SRCC by layer and level: {caption}"
        page.picture(to_svg(heat_map(wide)), f"{backbone}-{comparison}", described, caption=caption)
    page.heading("Best cells")
    best = summed.cells.sort_values("srcc", ascending=False).head(20)
    figures = {"srcc": "SRCC", "plcc": "PLCC", "seconds": "s / image", "overall": "overall"}
    page.table(*shown(best.drop(columns=["plcc_low"]), {name: name for name in CELL} | figures), 4)
    if not summed.relations.empty:
        page.heading("Errors and high frequencies")
        page.text(
            "In how many cells the errors grow or fall with the share of high frequencies in an image, as far as the 95 % "
            "interval over references shows it. Of cells without any relation one in twenty is expected to show one. All are "
            "in relations.csv."
        )
        parts = summed.relations["metric"].str.split(" / ")
        verdicts = summed.relations.assign(backbone=parts.str[0], comparison=parts.str[-1])
        counts = verdicts.groupby(["backbone", "comparison", "image"], sort=False)["verdict"].value_counts().unstack()
        counts = counts.reindex(columns=_VERDICTS).fillna(0).astype(int).reset_index()
        page.table(*shown(counts, {str(name): str(name) for name in counts}), 3)
    return page.write(directory)
