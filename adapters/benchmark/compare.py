"""Methods side by side: the table of a paper, from folders of results and their references."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from msds_plugin.adapters.benchmark import statistics
from msds_plugin.adapters.benchmark.report.document import Cell, Document, Section, figure, interval, sortable
from msds_plugin.adapters.benchmark.runner import Progress, make_scorers, no_progress, score
from msds_plugin.adapters.images.pairs import Matching, Pair, Pairing, match
from msds_plugin.adapters.images.read import ImageFileError, open_pair, to_tensor
from msds_plugin.adapters.scorers import Scorer
from msds_plugin.adapters.scoring import Run
from msds_plugin.adapters.scoring.masks import find_masks

OVERALL = "overall"
#: Images in the gallery, and the side of what is cut out of each.
SHOWN, SIDE = 6, 256
_NAMED = 10


@dataclass(frozen=True)
class Comparison:
    """What metrics say of the results of several methods.

    Attributes:
        scores: one row per image, method and metric: ``group``, ``reference``, ``image``, ``distorted``, ``method``,
            ``metric``, ``score`` (NaN where it failed), ``error``.
        table: one row per group, method and metric: ``group``, ``method``, ``metric``, ``mean``, ``std`` (over images, n - 1),
            ``n``, ``rank`` (``best``, ``second`` or nothing; equal as shown is equal). Several groups have ``overall`` last.
        differences: :func:`statistics.mean_differences` of every two methods, ``group`` and ``metric`` first.
        lower_is_better: by metric.
        notes: images that are left out, and what else a reader has to know, in sentences.
        unavailable: metrics that could not be made, with the reason.
        lacking: how many images some method has not, or has without a reference.
    """

    scores: pd.DataFrame
    table: pd.DataFrame
    differences: pd.DataFrame
    lower_is_better: Mapping[str, bool]
    notes: tuple[str, ...]
    unavailable: Mapping[str, str]
    lacking: int

    @property
    def failures(self) -> pd.DataFrame:
        """Images without a score: ``distorted``, ``metric``, ``error``."""
        return self.scores.dropna(subset="error")[["distorted", "metric", "error"]].reset_index(drop=True)

    @property
    def remarks(self) -> list[str]:
        """What a reader of the tables has to know: the notes, and which metrics and scores are lacking."""
        lacking = [f"{name} could not be made: {reason}" for name, reason in self.unavailable.items()]
        failed = self.scores.dropna(subset="error").groupby(["group", "method", "metric"], sort=False)["distorted"]
        for (group, method, metric), paths in failed:
            of = f" of {group!s}" if group else ""
            lacking.append(f"{metric} has no score of {method}{of} for {_named(list(paths))}: its means are without.")
        return [*self.notes, *lacking]

    @property
    def groups(self) -> list[str]:
        """Names of the groups, in order; one without a name where there are none."""
        return list(dict.fromkeys(self.table["group"]))

    @property
    def methods(self) -> list[str]:
        """Names of the methods, in order."""
        return list(dict.fromkeys(self.table["method"]))


def compare(
    methods: Mapping[str, str | Path],
    references: str | Path | Mapping[str, str | Path],
    metrics: Sequence[str | Scorer],
    results: str | Path | None = None,
    run: Run = Run(),  # noqa: B008 (frozen)
    own: bool = False,
    pairing: Pairing = Pairing(),  # noqa: B008 (frozen)
    progress: Progress = no_progress,
    matched: Callable[[str, Matching], object] = lambda folder, matching: None,
    mask: Path | None = None,
) -> Comparison:
    """Score the results of several methods beside the same references.

    Args:
        methods: folders of results by the methods' names. With groups each has a sub-folder of the group's name, or the path
            holds ``{group}``.
        references: their folder, or by group (data set) several.
        metrics, results, run, progress: as for :func:`benchmark.run`.
        own: means over all images that a method has, in place of those that all have.
        pairing: how results find their references.
        matched: told how the images of each folder were matched.
        mask: image, or a folder of them, that is white where a reference counts, see ``scoring.masks.find_masks``.

    Raises:
        ValueError: no method, a method without the folder of a group or with two files of one name, no image that all methods
            have; and as :func:`match` and :func:`benchmark.run`.
        FileNotFoundError: no such folder.
    """
    if not methods:
        raise ValueError("no method to compare: give NAME=FOLDER for each")
    grouped = references if isinstance(references, Mapping) else {"": references}
    if OVERALL in grouped and len(grouped) > 1:
        raise ValueError(f"{OVERALL!r} is the name of the table of all groups: give that group another name")
    images, spare = _images(methods, grouped, pairing, matched)
    lacks, notes = _lacking(images, spare, list(methods), own)
    pairs: list[Pair] = images["pair"].tolist()
    if mask is not None:
        unused = map(Path, spare.loc[spare["method"] == "", "path"])
        run = replace(run, masks=find_masks(mask, [pair.reference for pair in pairs], unused))
    scorers, unavailable = make_scorers(metrics, run)
    parts = [
        pd.concat([images.assign(metric=scorer.name), frame], axis=1)
        for scorer, frame in zip(scorers, score(scorers, pairs, results, run, progress), strict=True)
    ]
    columns = ["group", "reference", "image", "distorted", "method", "metric", "score", "error"]
    scores = pd.concat(parts, ignore_index=True)[columns]
    lower_is_better = {scorer.name: scorer.lower_is_better for scorer in scorers}
    table, differences = _tables(scores, list(methods), lower_is_better, own)
    return Comparison(scores, table, differences, lower_is_better, tuple(notes), unavailable, lacks)


def _images(
    methods: Mapping[str, str | Path],
    references: Mapping[str, str | Path],
    pairing: Pairing,
    matched: Callable[[str, Matching], object],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every result: ``group``, ``method``, ``image`` (what the results of all methods share), ``pair`` and its two files; and
    every file without a counterpart: ``group``, ``method`` (nothing for a reference), ``path``.
    """
    rows, spare = [], []
    for group, reference in references.items():
        for method, path in methods.items():
            folder = _folder(method, Path(path), group)
            try:
                found = match(Path(reference), folder, pairing)
            except ValueError as error:
                raise ValueError(f"{method}: {error}") from error
            matched(str(folder), found)
            spare += [(group, method if folder in path.parents else "", str(path)) for path in found.unmatched]
            folders = [each for each, _ in found.left_out if folder in each.parents]
            spare += [(group, method, f"{each} (a folder that was not looked into)") for each in folders]
            for pair in found.pairs:
                # Not with_suffix, which refuses what a method that is one image has here: "."
                name = os.path.splitext(pair.distorted.relative_to(folder).as_posix())[0]
                rows.append((group, method, name, pair, str(pair.reference), str(pair.distorted)))
    images = pd.DataFrame(rows, columns=["group", "method", "name", "pair", "reference", "distorted"])
    images["image"] = images["reference"]
    several = images.duplicated(["group", "method", "image"])  # as of one codec at several qualities
    several = several.groupby(images["group"]).transform("any")
    images["image"] = images["image"].mask(several, images["image"] + " " + images["name"])
    twice = images[images.duplicated(["group", "method", "image"])]
    if len(twice):
        method, name = twice[["method", "name"]].iloc[0]
        raise ValueError(f"{method} has two files of the name {name} but for the suffix: keep one of them")
    return images, pd.DataFrame(spare, columns=["group", "method", "path"])


def _folder(method: str, path: Path, group: str) -> Path:
    if not group:
        return path
    if "{group}" in str(path):
        return Path(str(path).replace("{group}", group))
    found = [each for each in path.glob("*") if each.is_dir() and each.name.casefold() == group.casefold()]
    if len(found) != 1:
        raise ValueError(
            f"{method} has no folder {path / group} for the group {group}: name its folders as the groups, or write where they "
            f"are, as in {method}={path}/{{group}}/results"
        )
    return found[0]


def _lacking(images: pd.DataFrame, spare: pd.DataFrame, methods: Sequence[str], own: bool) -> tuple[int, list[str]]:
    """How many images some method lacks, or has without a reference, and sentences that name them and references without any
    result; an error for a group in which no image is by all.
    """
    count, notes = 0, []
    for group, rows in images.groupby("group", sort=False):
        where = f" of {group!s}" if group else ""
        known = rows.pivot(index="image", columns="method", values="pair").reindex(columns=list(methods)).notna()
        common = int(known.all(axis=1).sum())
        if not common and not own:
            raise ValueError(f"no image{where} is there by all methods: {', '.join(methods)}; are the folders the right ones?")
        left = spare[spare["group"] == group]
        for method in methods:
            absent, alone = list(known.index[~known[method]]), left.loc[left["method"] == method, "path"].tolist()
            count += len(absent) + len(alone)
            if absent:
                notes.append(f"{method} lacks {len(absent)} of {len(known)} images{where}: {_named(absent)}.")
            if alone:
                notes.append(f"{method} has results{where} without a reference ({len(alone)}): {_named(alone)}.")
        times = left.loc[left["method"] == "", "path"].value_counts(sort=False)
        if unused := list(times.index[times == len(methods)]):
            notes.append(f"No method has a result of these references{where} ({len(unused)}): {_named(unused)}.")
        if common < len(known):
            over = "all images that a method has" if own else f"the {common} images{where} that all methods have"
            notes.append(f"Means are over {over}.")
    return count, notes


def _named(paths: Sequence[str]) -> str:
    names = [Path(path).name for path in paths]
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _tables(
    scores: pd.DataFrame, methods: Sequence[str], lower_is_better: Mapping[str, bool], own: bool
) -> tuple[pd.DataFrame, pd.DataFrame]:
    groups = {str(group): part for group, part in scores.groupby("group", sort=False)}
    if len(groups) > 1:
        groups[OVERALL] = scores
    tables, differences = [], {}
    for group, of_group in groups.items():
        for metric, part in of_group.groupby("metric", sort=False):
            wide = part.pivot(index=["group", "image"], columns="method", values="score").reindex(columns=list(methods))
            wide = wide if own else wide.dropna()
            reference = part.drop_duplicates(["group", "image"]).set_index(["group", "image"])["reference"][wide.index]
            found = pd.DataFrame({"mean": wide.mean(), "std": wide.std(), "n": wide.count()}).reset_index(names="method")
            ranks = _ranks(found["mean"], lower_is_better[str(metric)])
            tables.append(found.assign(group=group, metric=metric, rank=ranks))
            differences[group, metric] = statistics.mean_differences(wide, reference)
    columns = ["group", "method", "metric", "mean", "std", "n", "rank"]
    found = pd.concat(differences, names=["group", "metric"]).reset_index(["group", "metric"]).reset_index(drop=True)
    return pd.concat(tables, ignore_index=True)[columns], found


def _digits(means: pd.Series[float]) -> int:
    """Digits after the point of all figures of a metric; of small ones three that count."""
    largest = float(means.abs().max())
    if 0 < largest < 0.01:
        return min(2 - math.floor(math.log10(largest)), 15)
    return 4 if not largest >= 2 else 3 if largest < 10 else 2


def _ranks(means: pd.Series[float], lower_is_better: bool) -> list[str]:
    """``best`` and ``second`` of several means, as they are shown; nothing where there is nothing to choose."""
    shown = means.map(lambda mean: float(f"{mean:.{_digits(means)}f}"))
    order = sorted(set(shown.dropna()), reverse=not lower_is_better)
    marks = dict(zip(order, ("best", "second"), strict=False)) if len(order) > 1 else {}
    return [marks.get(each, "") for each in shown]


# What it says


LEGEND = "Mean ± standard deviation over images; best in bold, second underlined."
TEXT_LEGEND = "Mean ± standard deviation over images; * best, + second."
TESTED = (
    "Paired t tests over references (images of one reference are averaged first), corrected for all pairs of methods of a "
    "metric and group by Holm's method; intervals are 95 %, uncorrected."
)


def verdicts(made: Comparison) -> list[str]:
    """Which differences are real, one sentence per group and metric."""
    said = []
    for (group, metric), rows in made.differences.groupby(["group", "metric"], sort=False):
        sign = -1 if made.lower_is_better[str(metric)] else 1
        losers: dict[str, list[str]] = {}
        open_pairs = []
        for row in rows.to_dict("records"):
            if row["p_holm"] < statistics.LEVEL:
                better, worse = (row["a"], row["b"]) if sign * row["difference"] > 0 else (row["b"], row["a"])
                losers.setdefault(better, []).append(worse)
            else:
                open_pairs.append(f"{row['a']} and {row['b']}")
        ranked = sorted(losers.items(), key=lambda item: -len(item[1]))
        shown = [f"{better} is better than {' and '.join(worse)}" for better, worse in ranked]
        rest = [f"not shown to differ: {', '.join(open_pairs)}"] if open_pairs else []
        name = f"{metric} {OVERALL}" if group == OVERALL else f"{metric} on {group}" if group else str(metric)
        said.append(f"{name}: {'; '.join([*shown, *rest])}.")
    return said


def means(made: Comparison, arrow: Callable[[bool], str] = lambda lower: "↓" if lower else "↑") -> list[Section]:
    """The table of each group: methods down, metrics across, and the number of images."""
    headings = ["method", *(f"{metric} {arrow(lower)}" for metric, lower in made.lower_is_better.items())]
    found = []
    for group, rows in made.table.groupby("group", sort=False):
        numbers = rows.groupby("method", sort=False)["n"].agg(["min", "max"])
        each = bool((numbers["min"] < numbers["max"]).any())  # of a metric that failed on some images
        digits = {metric: _digits(part["mean"]) for metric, part in rows.groupby("metric")}
        lines = [
            [Cell(str(method)), *(_cell(row, digits[row["metric"]], each) for row in part.to_dict("records"))]
            for method, part in rows.groupby("method", sort=False)
        ]
        if not each:
            lines = [[*line, Cell(str(count))] for line, count in zip(lines, numbers["max"], strict=True)]
        shown = headings if each else [*headings, "images"]
        found.append(Section(shown, lines, len(shown) - 1, str(group)))
    return found


def _cell(row: Mapping[Any, Any], digits: int, with_number: bool) -> Cell:
    mean, deviation = float(row["mean"]), float(row["std"])
    text = figure(mean, digits) + (f" ± {deviation:.{digits}f}" if math.isfinite(deviation) else "")
    return Cell(text + f" ({row['n']})" * with_number, sortable(mean), row["rank"])


def paired(made: Comparison) -> Section:
    """The paired differences of all groups, the group first if there are any."""
    rows = []
    for row in made.differences.to_dict("records"):
        digits = _digits(made.table.loc[made.table["metric"] == row["metric"], "mean"])
        difference = f"{figure(row['difference'], digits, True)} {interval((row['low'], row['high']), digits, True)}".strip()
        p = f"{row['p_holm']:.2g}" if math.isfinite(row["p_holm"]) else "–"
        rows.append([row["group"], row["metric"], row["a"], row["b"], difference, p])
    first = int(made.groups == [""])
    headings = ["group", "metric", "method", "minus", "difference", "p (Holm)"]
    return Section(headings[first:], [row[first:] for row in rows], 2, "Paired differences", TESTED)


def with_signs(section: Section) -> list[list[str]]:
    """The rows as plain text with a sign for the rank."""
    return [[cell.text + {"best": " *", "second": " +"}.get(cell.mark, "") for cell in row] for row in section.cells]


def to_text(made: Comparison) -> str:
    """The tables, differences and verdicts as text in columns."""
    parts = []
    for section in means(made):
        parts.append((f"{section.title}\n" if section.title else "") + _in_columns(section.headings, with_signs(section)))
    parts += [TEXT_LEGEND, *made.remarks]
    if len(made.differences):
        section = paired(made)
        parts += [_in_columns(section.headings, section.texts), TESTED, *verdicts(made)]
    return "\n\n".join(parts) + "\n"


def _in_columns(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in (headings, *rows))


def to_latex(made: Comparison) -> str:
    """Tables for LaTeX with booktabs; the verdicts as comments."""
    text = "\n".join(["% \\usepackage{booktabs}", *map(_latex_table, means(made))])
    for sign, command in {"±": "$\\pm$", "↓": "$\\downarrow$", "↑": "$\\uparrow$", "–": "--"}.items():
        text = text.replace(sign, command)
    return text + "\n" + "".join(f"% {line}\n" for line in (LEGEND, *made.remarks, *verdicts(made)))


def _latex_table(section: Section) -> str:
    headings = [section.title or section.headings[0], *section.headings[1:]]
    marks = {"best": "textbf:--rwrap;", "second": "underline:--rwrap;"}
    css = pd.DataFrame([[marks.get(cell.mark, "") for cell in row] for row in section.cells], columns=headings)
    style = pd.DataFrame(section.texts, columns=headings).style.hide(axis="index").apply(lambda _: css, axis=None)
    style = style.format(_shown_by_latex, escape="latex").format_index(_shown_by_latex, escape="latex", axis=1)
    return str(style.to_latex(column_format="l" + "c" * section.numbers, hrules=True))


def _shown_by_latex(escaped: str) -> str:
    """What pandas leaves as it is: signs that are others in LaTeX's first font, and what a row's end takes for its own."""
    signs = {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "*": "{*}"}
    return "".join(signs.get(sign, sign) for sign in escaped)


def to_document(made: Comparison, run: Run | None = None) -> Document:
    """The tables as a report; with ``run``, also a gallery of the images on which the methods differ most."""
    page = Document("Methods compared", f"{', '.join(made.methods)} by {', '.join(made.lower_is_better)}")
    page.notes(verdicts(made))
    page.notes(made.remarks)
    for section in means(made):
        page.section(replace(section, title=section.title or "Scores"))
    page.text(LEGEND)
    page.section(paired(made))
    if run is not None:
        page.heading("Where the methods differ most")
        page.text(
            f"The images with the largest range of scores over methods, in standard deviations of each metric; the reference, "
            f"and the {SIDE} x {SIDE} pixels in which the results differ most."
        )
        for title, pictures in _galleries(made, run):
            page.heading(title, 3)
            page.gallery(pictures)
    return page


def _galleries(made: Comparison, run: Run) -> Iterator[tuple[str, list[tuple[bytes, str, str, str]]]]:
    """A title and pictures of each of the images on which the methods differ most."""
    from msds_plugin.adapters.benchmark.report.page import thumbnail, to_jpeg

    wide = made.scores.pivot(index=["group", "image", "metric"], columns="method", values="score")
    spread = (wide.max(axis=1) - wide.min(axis=1)) / wide.stack().groupby("metric").std().reindex(wide.index, level="metric")
    order = spread.groupby(["group", "image"]).mean().dropna().sort_values(ascending=False, kind="stable").head(SHOWN)
    for group, image in order.index:
        rows = made.scores[(made.scores["group"] == group) & (made.scores["image"] == image)]
        results = rows.drop_duplicates("method")
        reference, name = results["reference"].iloc[0], Path(image).name
        pictures = [to_jpeg(cut) for cut in _cuts(reference, results["distorted"].tolist(), run)]
        pictures = pictures or [thumbnail(path, run.reading) for path in (reference, *results["distorted"])]
        shown = [(thumbnail(reference, run.reading), f"{group}-{image}", f"reference {Path(reference).name}", "reference")]
        for method, picture in zip(["reference, cut", *results["method"]], pictures, strict=True):
            own = rows[rows["method"] == method]
            scores = [f"{metric} {score:.4g}" for metric, score in zip(own["metric"], own["score"], strict=True)]
            shown.append((picture, f"{group}-{image}-{method}", f"{method}, {name}", ", ".join([method, *scores])))
        yield f"{name} ({group})" if group else name, shown


def _cuts(reference: str, results: Sequence[str], run: Run) -> list[Image.Image]:
    """The window in which the results differ most, of the reference and of each; none if they cannot be laid on each other."""
    try:
        opened = [open_pair(Pair(Path(reference), Path(path)), run.reading) for path in results]
        images = [to_tensor(image)[0].numpy() for image in (opened[0][1], *(distorted for distorted, _ in opened))]  # type: ignore[arg-type]
        stacked = np.stack(images)
    except (ImageFileError, TypeError, ValueError):
        return []
    height, width = stacked.shape[-2:]
    side = min(SIDE, height, width)
    differing = ndimage.uniform_filter(stacked[1:].std(0).mean(0), side, mode="constant")
    row, column = np.unravel_index(int(differing.argmax()), differing.shape)
    top = min(max(int(row) - side // 2, 0), height - side)
    left = min(max(int(column) - side // 2, 0), width - side)
    cut = stacked[:, :, top : top + side, left : left + side]
    return [Image.fromarray((each * 255).round().astype(np.uint8).transpose(1, 2, 0)) for each in cut]
