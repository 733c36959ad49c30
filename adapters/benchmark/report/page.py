"""A benchmark as a report: agreement, significance, pictures of each data set, and where metrics fail."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from PIL import Image

from msds_plugin.adapters.benchmark import failures, statistics, summary
from msds_plugin.adapters.benchmark.report import figures
from msds_plugin.adapters.benchmark.report.document import Cell, Document, figure, interval
from msds_plugin.adapters.benchmark.runner import Benchmark, Progress, no_progress
from msds_plugin.adapters.benchmark.statistics.differences import POWER
from msds_plugin.adapters.benchmark.summary import Summary
from msds_plugin.adapters.images.pairs import Pair
from msds_plugin.adapters.images.read import ImageFileError, Reading, open_pair, preview
from msds_plugin.adapters.scorers import Scorer
from msds_plugin.adapters.scoring.maps import map_of, overlay

#: Images per metric in the gallery.
WORST = 3
#: Images without a score that the page itself lists.
LISTED = 50
#: Longest side of an image in the gallery, in pixels.
THUMBNAIL = 360


class Column(NamedTuple):
    """A column of the main table."""

    name: str
    title: str
    lower_is_better: bool = False
    has_interval: bool = True


COLUMNS = (
    Column("srcc", "SRCC"),
    Column("krcc", "KRCC"),
    Column("plcc", "PLCC"),
    Column("rmse", "RMSE", True),
    Column("outlier_ratio", "outliers", True),
    Column("seconds", "s / image", True, False),
)

_SAID = {"grows": "grow", "falls": "fall", "not shown": "no relation shown"}


@dataclass(frozen=True)
class Section:
    """A heading, what it means, and a table; ``numbers`` of its last columns are numbers."""

    title: str
    text: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    numbers: int

    def add_to(self, page: Document) -> None:
        """Put it on a page, if it has rows."""
        if self.rows:
            page.heading(self.title)
            page.text(self.text)
            page.table(self.headings, self.rows, self.numbers)

    @property
    def texts(self) -> list[list[str]]:
        """The rows as text."""
        return [[cell.text if isinstance(cell, Cell) else cell for cell in row] for row in self.rows]


# Tables


def agreement(summed: Summary, intervals: Container[str]) -> Section:
    """The main table: the best of each data set is marked.

    Args:
        summed: what to show.
        intervals: the columns that show their intervals: ``srcc``, ``krcc``, ``plcc``, ``rmse``, ``outlier_ratio``.
    """
    rows: list[list[str | Cell]] = []
    for _, part in summed.table.groupby("dataset", sort=False):
        best = {
            column.name: part[column.name].min() if column.lower_is_better else part[column.name].max() for column in COLUMNS
        }
        for row in part.to_dict("records"):
            cells = [_cell(row, column, best[column.name], column.name in intervals) for column in COLUMNS]
            rows.append([row["dataset"], row["metric"], *cells, str(row["count"])])
    text = (
        "SRCC and KRCC are positive where a metric goes the way it says; PLCC and RMSE are after a logistic mapping. In "
        "brackets are 95 % intervals over resampled references. Outliers: images more than two standard deviations off. "
        "Best of each data set in bold. Seconds do not include reading files."
    )
    headings = ["data set", "metric", *(column.title for column in COLUMNS), "images"]
    return Section("Agreement with opinions", text, headings, rows, len(headings) - 2)


def _cell(row: Mapping[Any, Any], column: Column, best: float, with_interval: bool) -> Cell:
    value = float(row[column.name])
    if column.name == "seconds" and math.isfinite(value):
        text = f"{value:.3g}"
    else:
        digits = 3 if abs(value) < 10 or not math.isfinite(value) else 2
        text = figure(value, digits)
        if with_interval and column.has_interval:
            text = f"{text} {interval((row[f'{column.name}_low'], row[f'{column.name}_high']), digits)}".strip()
    return Cell(text, value if math.isfinite(value) else None, "best" if value == best else "")


def overall(summed: Summary) -> Section:
    """The overall figure and its factors with their shares."""
    shares = _shares(summed)
    rows = [
        [row["metric"], *(figure(row[name]) for name in shares), figure(row["overall"])]
        for row in summed.overall.to_dict("records")
    ]
    text = (
        "Accuracy is PLCC, monotonicity SRCC, consistency SRCC on the type of distortion where it is lowest (of types with "
        f"{summary.SMALLEST_GROUP} images or more), speed is one at {summary.FAST * 1000:g} ms per image and zero at "
        f"{summary.SLOW:g} s. All are averaged over data sets. What is known for no metric is left out; a metric that fails "
        "where another does not gets zero. On the page the shares can be changed."
    )
    headings = ["metric", *(f"{name} ({share:g})" for name, share in shares.items()), "overall"]
    return Section("One figure out of several", text, headings, rows, len(headings) - 1)


def _shares(summed: Summary) -> dict[str, float]:
    total = sum(summed.factors.values())
    return {name: round(share / total, 4) for name, share in summed.factors.items()}


def differences(summed: Summary) -> Section:
    """The differences between metrics that are shown."""
    shown = summed.significance[summed.significance["p_holm"] < statistics.LEVEL]
    rows = [[row["dataset"], *_better(row), *_tested(row)] for row in shown.sort_values("p_holm").to_dict("records")]
    text = (
        "Differences in SRCC that are shown at the 5 % level: a paired bootstrap over references, t with one degree of freedom "
        "less than references, corrected by Holm's method for all pairs of metrics of a data set."
    )
    return Section("Differences that are shown", text, ["data set", "better", "worse", "ΔSRCC", "p", "p (Holm)"], rows, 3)


def _better(row: Mapping[Any, Any]) -> tuple[str, str]:
    return (row["a"], row["b"]) if row["difference"] > 0 else (row["b"], row["a"])


def _tested(row: Mapping[Any, Any]) -> tuple[str, str, str]:
    return figure(abs(row["difference"])), figure(row["p"]), figure(row["p_holm"])


def needed(significance: pd.DataFrame) -> Section:
    """What size of set would have shown the differences that are not shown."""
    hidden = significance[significance["needed_reason"] != "shown here"].sort_values("needed_references", kind="stable")
    rows = [
        [
            row["dataset"],
            row["a"],
            row["b"],
            figure(row["difference"], 3, True),
            *_tested(row)[1:],
            row["needed_reason"] or f"{row['needed_references']:.0f}",
            "–" if row["needed_reason"] else f"{row['needed_images']:.0f}",
        ]
        for row in hidden.to_dict("records")
    ]
    text = (
        f"How many references, and images, would show a difference with a chance of {POWER:.0%} at the 5 % level, without "
        "correction, if it is real and as large as here. A difference that is chance has no such size."
    )
    headings = ["data set", "metric", "beside", "ΔSRCC", "p", "p (Holm)", "references needed", "images needed"]
    return Section("What size of set would show the other differences", text, headings, rows, 5)


def within(table: pd.DataFrame) -> Section:
    """Rank correlations within references, of the table of a :class:`Summary`."""
    rows = [
        [
            row["dataset"],
            row["metric"],
            *(_with_interval(row, f"within_{name}") for name in ("krcc", "srcc")),
            str(row["within_references"]),
        ]
        for row in table.to_dict("records")
    ]
    text = (
        "Rank correlations among the versions of one reference, averaged over references; opinions need not be comparable "
        "between references. In brackets: 95 % intervals over references."
    )
    return Section(
        "Within each reference", text, ["data set", "metric", "mean Kendall tau", "mean SRCC", "references"], rows, 3
    )


def _with_interval(row: Mapping[Any, Any], name: str) -> str:
    return f"{figure(row[name])} {interval((row[f'{name}_low'], row[f'{name}_high']))}".strip()


def choices(table: pd.DataFrame) -> Section:
    """Agreement with forced choices, of the table of a :class:`ChoiceSummary`."""
    rows = [
        [
            row["dataset"],
            row["metric"],
            _with_interval(row, "agreement"),
            figure(row["ceiling"]),
            figure(row["of_ceiling"], 2),
            *(str(row[name]) for name in ("count", "references", "resampled")),
        ]
        for row in table.to_dict("records")
    ]
    text = (
        "Share of people's answers that a metric agrees with (0.5 is chance), with 95 % intervals over references. The ceiling "
        "is what always siding with the majority would reach; of ceiling: agreement beyond chance over that of the ceiling."
    )
    headings = ["set", "metric", "agreement", "ceiling", "of ceiling", "comparisons", "references", "resampled"]
    return Section("Forced choices", text, headings, rows, 6)


def choice_tests(significance: pd.DataFrame) -> Section:
    """Paired tests of agreement with forced choices."""
    rows = [
        [row["dataset"], row["a"], row["b"], figure(row["difference"], 3, True), *_tested(row)[1:], str(row["count"])]
        for row in significance.to_dict("records")
    ]
    text = "Difference in agreement on the same comparisons, by a paired bootstrap over references, corrected by Holm's method."
    headings = ["set", "metric", "beside", "difference", "p", "p (Holm)", "comparisons"]
    return Section("Differences on forced choices", text, headings, rows, 4)


# The page


def write_report(
    benchmark: Benchmark,
    summed: Summary,
    directory: str | os.PathLike[str],
    frequency: float = failures.FREQUENCY,
    worst: int = WORST,
    title: str = "Image quality metrics beside human opinions",
    progress: Progress = no_progress,
    sections: Sequence[Section] = (),
    tables: Mapping[str, pd.DataFrame] | None = None,
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
        sections, tables: further ones, on the page and as CSV.

    Returns:
        The path of the page.

    Raises:
        OSError: the folder cannot be written; what is in it stays as it was.
    """
    scores = benchmark.scores
    errors = failures.errors(scores, summed.mappings)
    images = {*errors["reference"], *errors["distorted"]}
    with progress("spectra", len(images)) as advance:
        energy = failures.energies(images, frequency, advance, benchmark.run.reading)
    relations = failures.relations(errors, energy, summed.resamples, summed.seed)
    page = Document(title, f"{len(scores.metrics)} metrics on {', '.join(scores.datasets)} · {benchmark.made['date']}")
    for dataset in scores.datasets:
        page.text(_finding(scores, summed, dataset))
    page.notes([*_unavailable(benchmark), *summed.notes])
    agreement(summed, [column.name for column in COLUMNS]).add_to(page)
    whole = overall(summed)
    page.heading(whole.title)
    page.text(whole.text)
    shares = _shares(summed)
    factors = summed.overall.set_index("metric")
    page.weighted(shares, [(str(name), dict(row[list(shares)]), row["overall"]) for name, row in factors.iterrows()])
    for dataset in scores.datasets:
        _draw(page, scores, summed, dataset)
    for section in (differences(summed), within(summed.table), needed(summed.significance), *sections):
        section.add_to(page)
    _add_failures(page, benchmark, errors, relations, frequency, worst)
    page.heading("How it was made")
    page.table(["", ""], list(_made(benchmark, summed, frequency).items()))
    page.table([str(name) for name in benchmark.metrics], benchmark.metrics.astype(str).to_numpy().tolist())
    page.tables |= {
        "agreement": summed.table,
        "by_distortion": summed.by_distortion,
        "significance": summed.significance,
        "overall": summed.overall,
        "relations": relations,
        "failures": scores.failures,
        "scores": scores.table,
        "metrics": benchmark.metrics,
        **(tables or {}),
    }
    return page.write(directory)


def _unavailable(benchmark: Benchmark) -> Iterator[str]:
    for name, reason in benchmark.unavailable.items():
        yield f"{name} could not be made, and is left out: {reason}"


def _finding(scores: summary.Scores, summed: Summary, dataset: str) -> str:
    table = summed.table[summed.table["dataset"] == dataset].set_index("metric")
    references = int(table["references"].max())
    size = f"{dataset}: {scores.table[scores.table['dataset'] == dataset]['distorted'].nunique()} distorted images, "
    size += f"{references} reference{'s' * (references != 1)}."
    if table["srcc"].isna().all():
        return f"{size} No metric has a rank correlation here."
    best = str(table["srcc"].idxmax())
    pairs = summed.significance[summed.significance["dataset"] == dataset]
    rivals = [
        row["b"] if row["a"] == best else row["a"]
        for row in pairs.to_dict("records")
        if best in (row["a"], row["b"]) and not row["p_holm"] < statistics.LEVEL
    ]
    found = f"Highest SRCC: {best}, {_with_interval(dict(table.loc[best]), 'srcc')}"
    if len(table) == 1:
        return f"{size} {found}."
    return f"{size} {found}; " + (
        f"not shown to differ from it: {', '.join(rivals)}." if rivals else "every other metric is shown to be lower."
    )


def _draw(page: Document, scores: summary.Scores, summed: Summary, dataset: str) -> None:
    """The figures of one data set."""
    table = summed.table[summed.table["dataset"] == dataset]
    pairs = summed.significance[summed.significance["dataset"] == dataset]
    by_srcc = table.sort_values("srcc", ascending=False, na_position="last")["metric"].tolist()
    page.heading(f"Figures of {dataset}")
    page.text("Opinions over scores: each point is an image, the curve is the mapping behind PLCC and RMSE.")
    scatters = []
    for row in table.to_dict("records"):
        rows = scores.of(dataset, row["metric"])
        caption = f"SRCC {figure(row['srcc'])}, PLCC {figure(row['plcc'])}, RMSE {figure(row['rmse'])}"
        drawn = figures.scatter(rows[rows["score"].notna()], summed.mappings[dataset, row["metric"]], row["metric"], caption)
        alt = f"opinions of {dataset} over the scores of {row['metric']}, with the fitted curve: {caption}"
        scatters.append((figures.to_svg(drawn), f"{dataset}-scatter-{row['metric']}", alt, ""))
    page.gallery(scatters, "svg")
    kinds = summed.by_distortion[summed.by_distortion["dataset"] == dataset]
    if kinds["distortion"].nunique() > 1:
        wide = kinds.pivot(index="metric", columns="distortion", values="srcc")
        drawn = figures.heat_map(wide.loc[by_srcc, list(dict.fromkeys(kinds["distortion"]))])
        page.text("SRCC within each type of distortion.")
        page.picture(figures.to_svg(drawn), f"{dataset}-distortions", f"SRCC by metric and type on {dataset}")
    if len(pairs):
        drawn = figures.significance_matrix(pairs, by_srcc)
        page.text(
            "Row minus column in SRCC. A triangle marks a difference that is shown at the 5 % level. Where there is none, a "
            "difference may exist but is not shown by these data."
        )
        page.picture(figures.to_svg(drawn), f"{dataset}-significance", f"differences in SRCC between metrics on {dataset}")
    page.text("Speed against accuracy: up is better, left is faster. Bars are the 95 % intervals of the table.")
    drawn = figures.speed_against_accuracy(table)
    page.picture(figures.to_svg(drawn), f"{dataset}-speed", f"SRCC over seconds per image on {dataset}")


def _add_failures(
    page: Document, benchmark: Benchmark, errors: pd.DataFrame, relations: pd.DataFrame, frequency: float, worst: int
) -> None:
    page.heading("Where metrics fail")
    page.heading("Errors and high frequencies", 3)
    page.text(
        f"Energy is the share of an image's power spectrum above {frequency:g} cycles per pixel; the error is the distance "
        "of the mapped score from the opinion. Said to grow or fall is what the 95 % interval of the rank correlation "
        "separates from zero; of metrics without any relation about one in twenty is still said to have one, as this is "
        "not corrected for the number of metrics. Of the tenth of the images with the largest errors it is counted how "
        "many lie above the median energy: about half would be expected without a relation."
    )
    page.notes(failures.claims(relations))
    page.table(
        ["data set", "metric", "image", "with more energy, errors", "SRCC of error and energy", "worst images above median"],
        [
            [
                row["dataset"],
                row["metric"],
                row["image"],
                _SAID[row["verdict"]],
                f"{figure(row['srcc'], 2, True)} {interval((row['low'], row['high']), 2, True)}".strip(),
                f"{row['above_median']} of {row['outliers']}",
            ]
            for row in relations.to_dict("records")
        ],
        2,
    )
    page.heading("Worst outliers", 3)
    page.text(
        f"The {worst} images of each metric whose mapped score is farthest from the opinion; reference, distorted and, where "
        "the metric has one, a map of where it sees the two differ: red adds to the dissimilarity, blue takes from it; colours "
        "are scaled to each picture."
    )
    able = {scorer.name: scorer for scorer in benchmark.scorers if scorer.metric.has_map}
    for (dataset, metric), part in errors.groupby(["dataset", "metric"], sort=False):
        page.heading(f"{metric} on {dataset}", 3)
        for row in part.head(worst).to_dict("records"):
            page.gallery(_case(row, able.get(str(metric)), benchmark.run.reading))
    unscored = benchmark.scores.failures
    page.heading("Images without a score")
    if unscored.empty:
        page.text("None: every metric scored every image.")
        return
    page.text(f"{len(unscored)} in all; failures.csv lists them with the reasons, this table the first {LISTED} at most.")
    columns = ["dataset", "metric", "distorted", "error"]
    page.table(["data set", "metric", "distorted image", "reason"], unscored.head(LISTED)[columns].to_numpy().tolist())


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


# Pictures


def _case(row: Mapping[str, Any], scorer: Scorer | None, reading: Reading) -> list[tuple[bytes, str, str, str]]:
    """Reference, distorted image and map of an outlier, the caption at the first."""
    kind = f", {row['distortion']}" if isinstance(row["distortion"], str) else ""
    caption = (
        f"{Path(row['distorted']).name} beside {Path(row['reference']).name}{kind}: opinion {row['opinion']:.4g}, predicted "
        f"{row['predicted']:.4g} from a score of {row['score']:.4g}, error {row['error']:.4g}"
    )
    shown = [
        (thumbnail(row[side], reading), f"{row['dataset']}-{side}-{row[side]}", f"{side} {Path(row[side]).name}", "")
        for side in ("reference", "distorted")
    ]
    if scorer is not None and (map_shown := _map(row, scorer, reading)):
        alt = f"where {row['metric']} sees {Path(row['distorted']).name} differ"
        shown.append((map_shown, f"{row['dataset']}-map-{row['metric']}-{row['distorted']}", alt, ""))
    return [(*shown[0][:3], caption), *shown[1:]]


def _map(row: Mapping[str, Any], scorer: Scorer, reading: Reading) -> bytes | None:
    """Where the metric sees the two differ; None where it cannot say."""
    pair = Pair(Path(row["reference"]), Path(row["distorted"]))
    try:
        drawn = overlay(*map_of(scorer, *open_pair(pair, reading, lambda note: None)))
    except Exception:  # sizes that differ, too little memory, a file gone since: no reason to lose the report
        return None
    drawn.thumbnail((THUMBNAIL, THUMBNAIL))
    return to_jpeg(drawn)


def thumbnail(path: str | os.PathLike[str], reading: Reading, side: int = THUMBNAIL) -> bytes:
    """A small JPEG of an image file; a grey one of what cannot be read, which is no reason to lose a report."""
    try:
        small = preview(path, side, reading)
    except ImageFileError:
        small = Image.new("RGB", (side, side), "lightgrey")
    return to_jpeg(small)


def to_jpeg(image: Image.Image) -> bytes:
    """An image as JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
