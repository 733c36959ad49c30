"""The report of a study: heat maps, nested choice, accuracy."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from ..report.document import Document
from ..report.figures import heat_map, to_svg
from ..report.text import figure, interval
from .grid import Study
from .summary import StudySummary

_SHOWN = 20
_VERDICTS = ("grows", "falls", "not shown")


def nested_table(summed: StudySummary) -> tuple[list[str], list[list[str]]]:
    """Best, nested and equal of every backbone and comparison, as text."""
    rows = [
        [
            row["backbone"],
            row["comparison"],
            figure(row["best"]),
            *(f"{figure(row[k])} {interval((row[f'{k}_low'], row[f'{k}_high']))}".strip() for k in ("nested", "equal")),
        ]
        for row in summed.nested.to_dict("records")
    ]
    return ["backbone", "comparison", "best cell", "nested choice", "equal weights"], rows


def write_report(study: Study, summed: StudySummary, directory: str | os.PathLike[str]) -> Path:
    """Write ``report.html``, ``report.md`` with ``figures``, and every table as CSV.

    Args:
        study: from :func:`run_study`.
        summed: its summary.
        directory: made if there is none.

    Returns:
        The path of the page.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    tables = {"cells": summed.cells, "nested": summed.nested, "networks": summed.networks, "accuracy": summed.accuracy}
    for name, table in (tables | {"relations": summed.relations}).items():
        table.to_csv(folder / f"{name}.csv", index=False)
    references = study.table["reference"].nunique()
    images = study.table["distorted"].nunique()
    page = Document("Layers, levels, comparisons, backbones", f"{study.dataset}: {images} images, {references} references")
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
    networks = summed.networks
    comparisons = [str(name) for name in networks if name not in ("backbone", "parameters", "accuracy", "source")]
    page.table(
        ["backbone", "source of the accuracy", "parameters", "top-1, %", *comparisons],
        [
            [r["backbone"], r["source"], f"{r['parameters']:,}", figure(r["accuracy"], 1), *(figure(r[c]) for c in comparisons)]
            for r in networks.to_dict("records")
        ],
        2 + len(comparisons),
    )
    page.table(
        ["comparison", "SRCC of accuracy and agreement", "backbones"],
        [[r["comparison"], figure(r["srcc"], 2), str(r["backbones"])] for r in summed.accuracy.to_dict("records")],
        2,
    )
    page.heading("SRCC by layer and level")
    for (backbone, comparison), part in summed.cells.groupby(["backbone", "comparison"], sort=False):
        order = list(dict.fromkeys(part["layer"]))
        wide = part.pivot(index="layer", columns="level", values="srcc").loc[order, list(dict.fromkeys(part["level"]))]
        drawn = to_svg(heat_map(wide))
        caption = f"{backbone}, {comparison}"
        page.picture(drawn, f"{backbone}-{comparison}", f"SRCC by layer and level: {caption}", caption=caption)
    page.heading("Best cells")
    top = summed.cells.sort_values("srcc", ascending=False).head(_SHOWN)
    page.table(
        ["backbone", "layer", "level", "comparison", "SRCC", "PLCC", "s / image", "overall"],
        [
            [
                *(str(r[k]) for k in ("backbone", "layer", "level", "comparison")),
                f"{figure(r['srcc'])} {interval((r['srcc_low'], r['srcc_high']))}".strip(),
                figure(r["plcc"]),
                f"{r['seconds']:.3g}",
                figure(r["overall"]),
            ]
            for r in top.to_dict("records")
        ],
        4,
    )
    _frequencies(page, summed.relations)
    return page.write(folder)


def _frequencies(page: Document, relations: pd.DataFrame) -> None:
    if relations.empty:
        return
    page.heading("Errors and high frequencies")
    page.text(
        "In how many cells the errors grow or fall with the share of high frequencies in an image, as far as the 95 % "
        "interval over references shows it. Of cells without any relation one in twenty is expected to show one. All are in "
        "relations.csv."
    )
    cells = relations.assign(
        backbone=relations["metric"].str.split(" / ").str[0], comparison=relations["metric"].str.split(" / ").str[-1]
    )
    rows = [
        [str(backbone), str(comparison), str(image), str(len(part)), *(str((part["verdict"] == v).sum()) for v in _VERDICTS)]
        for (backbone, comparison, image), part in cells.groupby(["backbone", "comparison", "image"], sort=False)
    ]
    page.table(["backbone", "comparison", "high frequencies of the image", "cells", *_VERDICTS], rows, 3)
