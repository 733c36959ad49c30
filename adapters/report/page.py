"""A benchmark as Markdown and as one HTML page that needs nothing but itself."""

from __future__ import annotations

import math
import os
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..benchmark import failures, statistics, summary
from ..benchmark.runner import Benchmark, Progress, no_progress
from ..benchmark.summary import Summary
from ..results.tables import to_csv
from . import figures
from .pictures import SIDES, Pictures, draw
from .text import environment, figure, interval, markdown, raw

if TYPE_CHECKING:
    from .sections import Section

#: Images per metric in the gallery.
WORST = 3
#: Images without a score that the page itself lists.
LISTED = 50


@dataclass(frozen=True)
class _Column:
    """A column of the main table."""

    name: str
    title: str
    meaning: str
    better: str
    digits: int = 3

    @property
    def has_interval(self) -> bool:
        return self.name != "seconds"


_COLUMNS = (
    _Column("srcc", "SRCC", "Spearman's rank correlation: monotonicity", "high"),
    _Column("krcc", "KRCC", "Kendall's rank correlation, tau-b", "high"),
    _Column("plcc", "PLCC", "Pearson's correlation after the logistic mapping: accuracy", "high"),
    _Column("rmse", "RMSE", "root mean squared error after the mapping, in units of the opinions", "low"),
    _Column("outlier_ratio", "outliers", "share of predictions more than two standard deviations off", "low"),
    _Column("seconds", "s / image", "seconds per image, without reading files", "low"),
)

_SAID = {"grows": "grow", "falls": "fall", "not shown": "no relation shown"}


def write_report(
    benchmark: Benchmark,
    summed: Summary,
    directory: str | os.PathLike[str],
    frequency: float = failures.FREQUENCY,
    worst: int = WORST,
    title: str = "Image quality metrics beside human opinions",
    progress: Progress = no_progress,
    sections: Sequence[Section] = (),
) -> Path:
    """Write ``report.html``, ``report.md`` with its ``figures``, and every table as CSV.

    Args:
        benchmark: from :func:`benchmark.run`.
        summed: of its scores.
        directory: made if there is none; files of these names in it are replaced.
        frequency: in cycles per pixel, from where on energy counts as high-frequency.
        worst: images per metric and data set in the gallery of outliers.
        title: the heading.
        progress: shows how far it is, for example :func:`terminal.progress`.
        sections: further tables, from :mod:`report.sections`.

    Returns:
        The path of the page.

    Raises:
        OSError: the folder cannot be written; what is in it stays as it was.
    """
    folder = Path(directory)
    scores = benchmark.scores
    errors = failures.errors(scores, summed.mappings)
    images = {*errors["reference"], *errors["distorted"]}
    with progress("spectra", len(images)) as advance:
        energy = failures.energies(images, frequency, advance, benchmark.reading)
    relations = failures.relations(errors, energy, summed.resamples, summed.seed)
    tables = {
        "agreement": summed.table,
        "by_distortion": summed.by_distortion,
        "significance": summed.significance,
        "overall": summed.overall,
        "relations": relations,
        "failures": scores.failures,
        "scores": scores.table,
        "metrics": benchmark.metrics,
    }
    with _in_one_step(folder) as new:
        for name, table in tables.items():
            to_csv(table, new / f"{name}.csv")
        content = _content(benchmark, summed, errors, relations, Pictures(new), frequency, worst, title)
        content["sections"] = [
            vars(each) | {"table": markdown(each.headings, each.rows), "texts": len(each.headings) - each.numbers}
            for each in sections
        ]
        for name, escape in (("report.html", True), ("report.md", False)):
            (new / name).write_text(environment(escape).get_template(name).render(content), encoding="utf-8")
    return folder / "report.html"


@contextmanager
def _in_one_step(folder: Path) -> Iterator[Path]:
    """A folder to write to, beside the one that takes all its files at the end, or none if something fails."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with TemporaryDirectory(prefix=".msds-", dir=folder) as beside:
            new = Path(beside)
            yield new
            for path in sorted(new.rglob("*"), key=lambda path: path.suffix in (".html", ".md")):  # what shows the rest last
                target = folder / path.relative_to(new)
                if path.is_dir():
                    target.mkdir(exist_ok=True)
                else:
                    path.replace(target)
    except OSError as error:
        raise OSError(error.errno, f"cannot write the report to {folder}: {error.strerror or error}") from error


def main_table(summed: Summary, intervals: Container[str]) -> tuple[list[str], list[list[str]]]:
    """The headings and rows of the table of agreement, as text.

    Args:
        summed: what to show.
        intervals: the columns that show their intervals: ``srcc``, ``krcc``, ``plcc``, ``rmse``, ``outlier_ratio``.
    """
    headings = ["data set", "metric", *(column.title for column in _COLUMNS), "images"]
    rows = []
    for row in _rows(summed):
        cells = [
            f"{cell['text']} {cell['interval'] if column.name in intervals else ''}".strip()
            for column, cell in zip(_COLUMNS, row["cells"], strict=True)
        ]
        rows.append([row["dataset"], row["metric"], *cells, str(row["count"])])
    return headings, rows


def overall_table(summed: Summary) -> tuple[list[str], list[list[str]]]:
    """The headings and rows of the table of the overall figure and its factors with their shares, as text."""
    shares = _shares(summed)
    headings = ["metric", *(f"{name} ({share:g})" for name, share in shares.items()), "overall"]
    rows = [
        [row["metric"], *(figure(row[name]) for name in shares), figure(row["overall"])]
        for row in summed.overall.to_dict("records")
    ]
    return headings, rows


def _shares(summed: Summary) -> dict[str, float]:
    total = sum(summed.factors.values())
    return {name: round(share / total, 4) for name, share in summed.factors.items()}


def _rows(summed: Summary) -> list[dict[str, Any]]:
    """The main table: the best of each data set is marked."""
    rows = []
    for _, part in summed.table.groupby("dataset", sort=False):
        best = {c.name: part[c.name].max() if c.better == "high" else part[c.name].min() for c in _COLUMNS}
        for record in part.to_dict("records"):
            row = {str(key): value for key, value in record.items()}
            cells = []
            for column in _COLUMNS:
                value = float(row[column.name])
                digits = column.digits if abs(value) < 10 or not math.isfinite(value) else 2
                bounds = (row[f"{column.name}_low"], row[f"{column.name}_high"]) if column.has_interval else statistics.UNKNOWN
                text = f"{value:.3g}" if column.name == "seconds" and math.isfinite(value) else figure(value, digits)
                cells.append(
                    {
                        "value": raw(value),
                        "text": text,
                        "interval": interval(bounds, digits),
                        "best": value == best[column.name],
                    }
                )
            rows.append({"dataset": row["dataset"], "metric": row["metric"], "cells": cells, "count": row["count"]})
    return rows


def _content(
    benchmark: Benchmark,
    summed: Summary,
    errors: pd.DataFrame,
    relations: pd.DataFrame,
    pictures: Pictures,
    frequency: float,
    worst: int,
    title: str,
) -> dict[str, Any]:
    scores = benchmark.scores
    several = len(scores.datasets) > 1
    unscored = scores.failures
    listed = unscored.head(LISTED).to_dict("records")
    related = _related(relations)
    return {
        "title": title,
        "subtitle": f"{len(scores.metrics)} metrics on {', '.join(scores.datasets)} · {benchmark.made['date']}",
        "findings": [_finding(scores, summed, dataset) for dataset in scores.datasets],
        "notes": summed.notes,
        "several": several,
        "columns": _COLUMNS,
        "rows": _rows(summed),
        "main_table": markdown(*main_table(summed, [column.name for column in _COLUMNS])),
        "overall": summed.overall.to_dict("records"),
        "overall_table": markdown(*overall_table(summed)),
        "factors": _shares(summed),
        "datasets": [
            draw(scores, summed, errors, dataset, pictures, worst, benchmark.reading, benchmark.scorers)
            for dataset in scores.datasets
        ],
        "kinds": summed.by_distortion.groupby("dataset")["distortion"].nunique().gt(1).any(),
        "relations": related,
        "relations_table": markdown(
            ["data set", "metric", *(f"{side}: {what}" for side in SIDES for what in ("SRCC", "errors", "worst"))],
            [
                [
                    row["dataset"],
                    row["metric"],
                    *(cell for side in SIDES for cell in (row[side]["text"], row[side]["said"], row[side]["worst"])),
                ]
                for row in related
            ],
        ),
        "claims": failures.claims(relations),
        "failures": listed,
        "failure_count": len(unscored),
        "failures_table": markdown(
            ["data set", "metric", "distorted image", "reason"],
            [[row["dataset"], row["metric"], row["distorted"], row["error"]] for row in listed],
        ),
        "made": _made(benchmark, summed, frequency),
        "metrics": benchmark.metrics.astype(object).where(benchmark.metrics.notna(), None).to_dict("records"),
        "sources_table": markdown(
            [str(name).replace("_", " ") for name in benchmark.metrics],
            benchmark.metrics.fillna("–").to_numpy().tolist(),
        ),
        "texts": _texts(frequency, summed, worst),
    }


def _related(relations: pd.DataFrame) -> list[dict[str, Any]]:
    """One row per data set and metric, with a part for each of the two images."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for row in relations.to_dict("records"):
        related = rows.setdefault((row["dataset"], row["metric"]), {"dataset": row["dataset"], "metric": row["metric"]})
        related[row["image"]] = {
            "value": raw(row["srcc"]),
            "text": f"{figure(row['srcc'], 2, True)} {interval((row['low'], row['high']), 2, True)}".strip(),
            "said": _SAID[row["verdict"]],
            "worst": f"{row['above_median']} of {row['outliers']}",
            "share": row["above_median"] / row["outliers"] if row["outliers"] else "",
        }
    return list(rows.values())


def _finding(scores: summary.Scores, summed: Summary, dataset: str) -> str:
    table = summed.table[summed.table["dataset"] == dataset].set_index("metric")
    size = f"{dataset}: {scores.table[scores.table['dataset'] == dataset]['distorted'].nunique()} distorted images, "
    references = int(table["references"].max())
    size += f"{references} reference{'s' * (references != 1)}."
    if table["srcc"].isna().all():
        return f"{size} No metric has a rank correlation here."
    best = str(table["srcc"].idxmax())
    pairs = summed.significance[summed.significance["dataset"] == dataset]
    rivals = [
        row["b"] if row["a"] == best else row["a"]
        for row in pairs.to_dict("records")
        if best in (row["a"], row["b"]) and not row["p_holm"] < figures.LEVEL
    ]
    row = table.loc[best]
    found = f"Highest SRCC: {best}, {figure(row['srcc'])} {interval((row['srcc_low'], row['srcc_high']))}".strip()
    if len(table) == 1:
        return f"{size} {found}."
    return f"{size} {found}; " + (
        f"not shown to differ from it: {', '.join(rivals)}." if rivals else "every other metric is shown to be lower."
    )


def _made(benchmark: Benchmark, summed: Summary, frequency: float) -> dict[str, str]:
    scores = benchmark.scores
    described = []
    for dataset in scores.datasets:
        rows = scores.of(dataset, scores.metrics[0])
        better = "lower" if scores.opinion_lower_is_better[dataset] else "higher"
        described.append(f"{dataset}: {len(rows)} pairs, {rows['reference'].nunique()} references, {better} is better")
    return {
        **benchmark.made,
        "data sets": "; ".join(described),
        "bootstrap": f"{summed.resamples} resamples of references, seed {summed.seed}",
        "high frequency": f"above {frequency:g} cycles per pixel",
    }


def _texts(frequency: float, summed: Summary, worst: int) -> dict[str, str]:
    return {
        "agreement": (
            "Rank correlations SRCC and KRCC are positive where a metric goes the way it says. PLCC and RMSE are after the "
            "monotonic logistic of four parameters. In brackets: 95 % intervals over resampled references, the mapping held. "
            "Best of each data set in bold. Seconds do not include reading files."
        ),
        "overall": (
            "Accuracy is PLCC; monotonicity is SRCC; consistency is SRCC on the type of distortion where it is lowest; speed "
            f"is one at {summary.FAST * 1000:g} ms per image and zero at {summary.SLOW:g} s, linear in the logarithm. All are "
            f"clipped to [0, 1] and averaged over data sets. Types with fewer than {summary.SMALLEST_GROUP} images do not "
            "count; where a metric fails and another does not, its factor is zero. A factor known for no metric is left out."
        ),
        "curves": "Each point is an image. The curve is the mapping behind PLCC and RMSE.",
        "types": "SRCC within each type of distortion.",
        "significance": (
            "Row minus column in SRCC. A triangle marks a difference that is shown at the 5 % level: a paired bootstrap over "
            "references, t with one degree of freedom less than references, corrected by Holm's method for all pairs of "
            "metrics of a data set. Where there is none, a difference may exist but is not shown by these data."
        ),
        "speed": "Up is better, left is faster. Bars are the 95 % intervals of the table.",
        "frequencies": (
            f"Energy is the share of an image's power spectrum above {frequency:g} cycles per pixel; the error is the distance "
            "of the mapped score from the opinion. Said to grow or fall is what the 95 % interval of the rank correlation "
            "separates from zero; of metrics without any relation about one in twenty is still said to have one, as this is "
            "not corrected for the number of metrics. Of the tenth of the images with the largest errors it is counted how "
            "many lie above the median energy: about half would be expected without a relation."
        ),
        "outliers": (
            f"The {worst} images of each metric whose mapped score is farthest from the opinion; reference left, distorted "
            "beside it, made smaller to fit. DeepSSIM, MSDS and their forms also show where they see the two differ: red adds "
            "to the dissimilarity, blue takes from it; colours are scaled to each picture."
        ),
    }
