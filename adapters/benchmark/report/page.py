"""A benchmark as a report: agreement, significance, pictures of each data set, and where metrics fail."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from msds_plugin.adapters.benchmark import failures, statistics, summary
from msds_plugin.adapters.benchmark.choices import ChoiceSummary
from msds_plugin.adapters.benchmark.report import figures
from msds_plugin.adapters.benchmark.report.document import Cell, Document, Section, figure, interval, shown, sortable
from msds_plugin.adapters.benchmark.runner import Benchmark, Progress, no_progress
from msds_plugin.adapters.benchmark.summary import Scores, Summary
from msds_plugin.adapters.images.pairs import Pair
from msds_plugin.adapters.images.read import ImageFileError, Reading, open_pair, preview
from msds_plugin.adapters.scorers import Scorer
from msds_plugin.adapters.scoring.maps import map_of, overlay

#: Images per metric and data set in the gallery of outliers.
WORST = 3
#: Images without a score that the page itself lists.
LISTED = 50
#: Longest side of an image in the gallery, in pixels.
THUMBNAIL = 360
#: The statistics of the main table that have an interval.
INTERVALS = ("srcc", "krcc", "plcc", "rmse", "outlier_ratio")
_COLUMNS = {"srcc": "SRCC", "krcc": "KRCC", "plcc": "PLCC", "rmse": "RMSE", "outlier_ratio": "outliers", "seconds": "s / image"}
_LOWER_IS_BETTER = ("rmse", "outlier_ratio", "seconds")
_TESTED = {"p": "p", "p_holm": "p (Holm)"}


# Tables


def agreement(summed: Summary, intervals: Container[str] = INTERVALS) -> Section:
    """The main table: the best of each data set is marked, and those of ``intervals`` show their interval."""
    rows: list[list[str | Cell]] = []
    for _, part in summed.table.groupby("dataset", sort=False):
        best = {name: part[name].min() if name in _LOWER_IS_BETTER else part[name].max() for name in _COLUMNS}
        for row in part.to_dict("records"):
            cells = [_cell(row, name, best[name], name in intervals) for name in _COLUMNS]
            rows.append([row["dataset"], row["metric"], *cells, str(row["count"])])
    text = (
        "SRCC and KRCC are positive where a metric goes the way it says; PLCC and RMSE are after a logistic mapping. In "
        "brackets are 95 % intervals over resampled references. Outliers: images more than two standard deviations off. "
        "Best of each data set in bold. Seconds do not include reading files."
    )
    headings = ["data set", "metric", *_COLUMNS.values(), "images"]
    return Section(headings, rows, len(_COLUMNS) + 1, "Agreement with opinions", text)


def _cell(row: Mapping[Any, Any], name: str, best: float, with_interval: bool) -> Cell:
    value = float(row[name])
    digits = 3 if abs(value) < 10 or not math.isfinite(value) else 2
    text = f"{value:.3g}" if name == "seconds" and math.isfinite(value) else figure(value, digits)
    if with_interval:
        text = f"{text} {interval((row[f'{name}_low'], row[f'{name}_high']), digits)}".strip()
    return Cell(text, sortable(value), "best" if value == best else "")


def overall(summed: Summary) -> Section:
    """The overall figure and its factors with their shares."""
    shares = _shares(summed)
    columns = {"metric": "metric", **{name: f"{name} ({share:g})" for name, share in shares.items()}, "overall": "overall"}
    text = (
        "Accuracy is PLCC, monotonicity SRCC, consistency SRCC on the type of distortion where it is lowest (of types with "
        f"{summary.SMALLEST_GROUP} images or more), speed is one at {summary.FAST * 1000:g} ms per image and zero at "
        f"{summary.SLOW:g} s. All are averaged over data sets. What is known for no metric is left out; a metric that fails "
        "where another does not gets zero. On the page the shares can be changed."
    )
    return shown(summed.overall, columns, len(shares) + 1, "One figure out of several", text)


def _shares(summed: Summary) -> dict[str, float]:
    total = sum(summed.factors.values())
    return {name: round(share / total, 4) for name, share in summed.factors.items()}


def differences(summed: Summary) -> Section:
    """The differences between metrics that are shown."""
    table = summed.significance[summed.significance["p_holm"] < statistics.LEVEL].sort_values("p_holm")
    rises = table["difference"] > 0
    better, worse = table["a"].where(rises, table["b"]), table["b"].where(rises, table["a"])
    table = table.assign(better=better, worse=worse, difference=table["difference"].abs())
    text = (
        "Differences in SRCC that are shown at the 5 % level: a paired bootstrap over references, t with one degree of freedom "
        "less than references, corrected by Holm's method for all pairs of metrics of a data set."
    )
    columns = {"dataset": "data set", "better": "better", "worse": "worse", "difference": "ΔSRCC", **_TESTED}
    return shown(table, columns, 3, "Differences that are shown", text)


def needed(significance: pd.DataFrame) -> Section:
    """What size of set would have shown the differences that are not shown."""
    table = significance[significance["needed_reason"] != "shown here"].sort_values("needed_references", kind="stable")
    references, images = (table[f"needed_{name}"].map("{:.0f}".format) for name in ("references", "images"))
    unknown = table["needed_reason"] != ""
    table = table.assign(references=references.mask(unknown, table["needed_reason"]), images=images.mask(unknown, "–"))
    text = (
        f"How many references, and images, would show a difference with a chance of {statistics.POWER:.0%} at the 5 % level, "
        "without correction, if it is real and as large as here. A difference that is chance has no such size."
    )
    columns = {"dataset": "data set", "a": "metric", "b": "beside", "difference": "ΔSRCC", **_TESTED}
    columns |= {"references": "references needed", "images": "images needed"}
    return shown(table, columns, 5, "What size of set would show the other differences", text, "difference")


def within(table: pd.DataFrame) -> Section:
    """Rank correlations within references, of the table of a :class:`Summary`."""
    text = (
        "Rank correlations among the versions of one reference, averaged over references; opinions need not be comparable "
        "between references. In brackets: 95 % intervals over references."
    )
    columns = {"dataset": "data set", "metric": "metric", "within_krcc": "mean Kendall tau", "within_srcc": "mean SRCC"}
    return shown(table, {**columns, "within_references": "references"}, 3, "Within each reference", text)


def choices(table: pd.DataFrame) -> Section:
    """Agreement with forced choices, of the table of a :class:`ChoiceSummary`."""
    text = (
        "Share of people's answers that a metric agrees with (0.5 is chance), with 95 % intervals over references. The ceiling "
        "is what always siding with the majority would reach; of ceiling: agreement beyond chance over that of the ceiling."
    )
    columns = {"dataset": "set", "metric": "metric", "agreement": "agreement", "ceiling": "ceiling", "of_ceiling": "of ceiling"}
    columns |= {"count": "comparisons", "references": "references", "resampled": "resampled"}
    return shown(table, columns, 6, "Forced choices", text)


def choice_tests(significance: pd.DataFrame) -> Section:
    """Paired tests of agreement with forced choices."""
    text = "Difference in agreement on the same comparisons, by a paired bootstrap over references, corrected by Holm's method."
    columns = {"dataset": "set", "a": "metric", "b": "beside", "difference": "difference", **_TESTED, "count": "comparisons"}
    return shown(significance, columns, 4, "Differences on forced choices", text, "difference")


def frequencies(relations: pd.DataFrame) -> Section:
    """Errors and the images' high frequencies, of :func:`failures.relations`."""
    text = (
        "The error is the distance of the mapped score from the opinion. Said to grow or fall is what the 95 % interval of the "
        "rank correlation separates from zero; of metrics without any relation about one in twenty is still said to have one, "
        "as this is not corrected for the number of metrics. Of the tenth of the images with the largest errors it is counted "
        "how many lie above the median energy: about half would be expected without a relation."
    )
    words = {"grows": "grow", "falls": "fall", "not shown": "no relation shown"}
    above = relations["above_median"].astype(str) + " of " + relations["outliers"].astype(str)
    table = relations.rename(columns={"low": "srcc_low", "high": "srcc_high"})
    table = table.assign(said=relations["verdict"].map(words), above=above)
    columns = {"dataset": "data set", "metric": "metric", "image": "image", "said": "with more energy, errors"}
    columns |= {"srcc": "SRCC of error and energy", "above": "worst images above median"}
    return shown(table, columns, 2, "Errors and high frequencies", text, "srcc")


# The page


def write_report(
    benchmark: Benchmark,
    summed: Summary,
    directory: str | os.PathLike[str],
    frequency: float = failures.FREQUENCY,
    progress: Progress = no_progress,
    chosen: ChoiceSummary | None = None,
) -> Path:
    """Write ``report.html``, ``report.md`` with its ``figures``, and every table as CSV; the path of the page.

    Args:
        benchmark, summed: from :func:`benchmark.run`, and the statistics of its scores.
        directory: made if there is none; files of these names in it are replaced.
        frequency: in cycles per pixel, from where on energy counts as high-frequency.
        progress: shows how far it is, for example :func:`terminal.progress`.
        chosen: what the metrics make of forced choices, if that belongs on the page too.

    Raises:
        OSError: the folder cannot be written; what is in it stays as it was.
    """
    scores = benchmark.scores
    errors = failures.errors(scores, summed.mappings)
    images = {*errors["reference"], *errors["distorted"]}
    with progress("spectra", len(images)) as advance:
        energy = failures.energies(images, benchmark.run.reading, frequency, advance)
    relations = failures.relations(errors, energy, summed.resamples, summed.seed)
    about = f"{len(scores.metrics)} metrics on {', '.join(scores.datasets)} · {benchmark.made['date']}"
    page = Document("Image quality metrics beside human opinions", about)
    for dataset in scores.datasets:
        page.text(_finding(scores, summed, dataset))
    page.notes([*left_out(benchmark), *summed.notes, *(chosen.notes if chosen else ())])
    page.section(agreement(summed))
    whole = overall(summed)
    page.heading(whole.title)
    page.text(whole.text)
    page.weighted(_shares(summed), summed.overall)
    for dataset in scores.datasets:
        _draw(page, scores, summed, dataset)
    for section in (differences(summed), within(summed.table), needed(summed.significance)):
        page.section(section)
    failed = scores.failures
    if chosen is not None:
        _add_choices(page, chosen)
        failed = pd.concat([failed, chosen.failures], ignore_index=True)
    page.heading("Where metrics fail")
    page.text(f"Energy is the share of an image's power spectrum above {frequency:g} cycles per pixel.")
    page.section(frequencies(relations), 3)
    _add_outliers(page, benchmark, errors)
    add_unscored(page, failed, "failures.csv")
    described = []
    for dataset, lower in scores.opinion_lower_is_better.items():
        rows, better = scores.of(dataset, scores.metrics[0]), "lower" if lower else "higher"
        described.append(f"{dataset}: {len(rows)} pairs, {rows['reference'].nunique()} references, {better} is better")
    beside = {
        "data sets": "; ".join(described),
        "bootstrap": f"{summed.resamples} resamples of references, seed {summed.seed}",
        "high frequency": f"above {frequency:g} cycles per pixel",
    }
    add_origin(page, benchmark, beside)
    page.tables |= {
        "agreement": summed.table,
        "by_distortion": summed.by_distortion,
        "significance": summed.significance,
        "overall": summed.overall,
        "relations": relations,
        "failures": failed,
        "scores": scores.table,
        "metrics": benchmark.metrics,
    }
    return page.write(directory)


def write_choices(chosen: ChoiceSummary, directory: str | os.PathLike[str]) -> Path:
    """Write a report of forced choices alone, otherwise as :func:`write_report`; the path of the page."""
    page = Document("Image quality metrics beside human choices")
    page.notes([*left_out(chosen.made), *chosen.notes])
    _add_choices(page, chosen)
    add_unscored(page, chosen.failures, "failures.csv")
    add_origin(page, chosen.made)
    page.tables |= {"failures": chosen.failures, "metrics": chosen.made.metrics}
    return page.write(directory)


def _add_choices(page: Document, chosen: ChoiceSummary) -> None:
    page.section(choices(chosen.table))
    page.section(choice_tests(chosen.significance))
    scores = chosen.made.scores.table.drop(columns=["distortion", "opinion", "std"])
    page.tables |= {"choices": chosen.table, "choice_significance": chosen.significance, "choice_scores": scores}


def left_out(benchmark: Benchmark) -> list[str]:
    """The metrics that could not be made, and why, in sentences."""
    return [f"{name} could not be made, and is left out: {reason}" for name, reason in benchmark.unavailable.items()]


def _finding(scores: Scores, summed: Summary, dataset: str) -> str:
    """The best metric of a data set, and what is not shown to be lower, in a sentence."""
    table = summed.table[summed.table["dataset"] == dataset].set_index("metric", drop=False)
    references = int(table["references"].max())
    images = scores.of(dataset, scores.metrics[0])["distorted"].nunique()
    size = f"{dataset}: {images} distorted images, {references} reference{'s' * (references != 1)}."
    if table["srcc"].isna().all():
        return f"{size} No metric has a rank correlation here."
    best = str(table["srcc"].idxmax())
    ((found,),) = shown(table.loc[[best]], ["srcc"]).texts
    pairs = summed.significance[summed.significance["dataset"] == dataset]
    tested = pairs[pairs["p_holm"] < statistics.LEVEL]
    # By the sign: on the images that both scored, another metric may be shown to be higher.
    lower = [*tested.loc[(tested["a"] == best) & (tested["difference"] > 0), "b"]]
    lower += [*tested.loc[(tested["b"] == best) & (tested["difference"] < 0), "a"]]
    rivals = [name for name in table.index if name not in (best, *lower)]
    beside = "; every other metric is shown to be lower" if len(table) > 1 else ""
    if rivals:
        beside = f"; not shown to be lower: {', '.join(rivals)}"
    return f"{size} Highest SRCC: {best}, {found}{beside}."


def _draw(page: Document, scores: Scores, summed: Summary, dataset: str) -> None:
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
        page.text(
            "Row minus column in SRCC. A triangle marks a difference that is shown at the 5 % level. Where there is none, a "
            "difference may exist but is not shown by these data."
        )
        drawn = figures.significance_matrix(pairs, by_srcc)
        page.picture(figures.to_svg(drawn), f"{dataset}-significance", f"differences in SRCC between metrics on {dataset}")
    page.text("Speed against accuracy: up is better, left is faster. Bars are the 95 % intervals of the table.")
    drawn = figures.speed_against_accuracy(table)
    page.picture(figures.to_svg(drawn), f"{dataset}-speed", f"SRCC over seconds per image on {dataset}")


def _add_outliers(page: Document, benchmark: Benchmark, errors: pd.DataFrame) -> None:
    page.heading("Worst outliers", 3)
    page.text(
        f"The {WORST} images of each metric whose mapped score is farthest from the opinion; reference, distorted and, where "
        "the metric has one, a map of where it sees the two differ: red adds to the dissimilarity, blue takes from it; colours "
        "are scaled to each picture."
    )
    able = {scorer.name: scorer for scorer in benchmark.scorers if scorer.metric.has_map}
    for (dataset, metric), part in errors.groupby(["dataset", "metric"], sort=False):
        page.heading(f"{metric} on {dataset}", 3)
        for row in part.head(WORST).to_dict("records"):
            page.gallery(_case(row, able.get(str(metric)), benchmark.run.reading))


def add_unscored(page: Document, unscored: pd.DataFrame, file: str) -> None:
    """Images without a score, the first of them with the reason; ``file`` has all."""
    page.heading("Images without a score")
    if unscored.empty:
        page.text("None: every metric scored every image.")
        return
    page.text(f"{len(unscored)} in all; {file} lists them with the reasons, this table the first {LISTED} at most.")
    columns = {"dataset": "data set", "metric": "metric", "distorted": "distorted image", "error": "reason"}
    page.section(shown(unscored.head(LISTED), {name: title for name, title in columns.items() if name in unscored}))


def add_origin(page: Document, benchmark: Benchmark, more: Mapping[str, str] | None = None) -> None:
    """How scores were made, and what with."""
    page.heading("How it was made")
    page.section(Section(["", ""], list({**benchmark.made, **(more or {})}.items())))
    page.section(shown(benchmark.metrics, list(map(str, benchmark.metrics))))


# Pictures


def _case(row: Mapping[str, Any], scorer: Scorer | None, reading: Reading) -> list[tuple[bytes, str, str, str]]:
    """Reference, distorted image and map of an outlier, the caption at the first."""
    reference, distorted = Path(row["reference"]).name, Path(row["distorted"]).name
    kind = f", {row['distortion']}" if isinstance(row["distortion"], str) else ""
    caption = (
        f"{distorted} beside {reference}{kind}: opinion {row['opinion']:.4g}, predicted {row['predicted']:.4g} from a score of "
        f"{row['score']:.4g}, error {row['error']:.4g}"
    )
    pictures = [
        (thumbnail(row[side], reading), f"{row['dataset']}-{side}-{row[side]}", f"{side} {name}", own)
        for side, name, own in (("reference", reference, caption), ("distorted", distorted, ""))
    ]
    if scorer is not None and (drawn := _map(row, scorer, reading)):
        alt = f"where {row['metric']} sees {distorted} differ"
        pictures.append((drawn, f"{row['dataset']}-map-{row['metric']}-{row['distorted']}", alt, ""))
    return pictures


def _map(row: Mapping[str, Any], scorer: Scorer, reading: Reading) -> bytes | None:
    """Where the metric sees the two differ; None where it cannot say."""
    pair = Pair(Path(row["reference"]), Path(row["distorted"]))
    try:
        drawn = overlay(*map_of(scorer, *open_pair(pair, reading)))
    except Exception:  # sizes that differ, too little memory, a file gone since: no reason to lose the report
        return None
    drawn.thumbnail((THUMBNAIL, THUMBNAIL))
    return to_jpeg(drawn)


def thumbnail(path: str | os.PathLike[str], reading: Reading, side: int = THUMBNAIL) -> bytes:
    """A small JPEG of an image file; a grey one of what cannot be read, which is no reason to lose a report."""
    try:
        return to_jpeg(preview(path, side, reading))
    except ImageFileError:
        return to_jpeg(Image.new("RGB", (side, side), "lightgrey"))


def to_jpeg(image: Image.Image) -> bytes:
    """An image as JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
