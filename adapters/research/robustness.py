"""Scores of references that do not line up: deformations times distortions of clean photographs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from msds_plugin.adapters.benchmark import statistics
from msds_plugin.adapters.benchmark.datasets import Dataset
from msds_plugin.adapters.benchmark.report.document import Document, Section, shown
from msds_plugin.adapters.benchmark.report.figures import to_svg
from msds_plugin.adapters.benchmark.report.page import add_origin, add_unscored, left_out, thumbnail
from msds_plugin.adapters.benchmark.runner import Benchmark, Progress, Resampling, check_resize, make_scorers, no_progress
from msds_plugin.adapters.benchmark.runner import run as score
from msds_plugin.adapters.images.colours import to_bytes
from msds_plugin.adapters.images.listing import list_images
from msds_plugin.adapters.images.read import Notes, Reading, decode
from msds_plugin.adapters.research.distortions import DEFORMATIONS, DISTORTIONS, Change, Photo, inner
from msds_plugin.adapters.scoring import Run
from msds_plugin.adapters.scoring.files import replace_file

#: Of the rows without a deformation or a distortion.
NONE = "none"
#: Smaller photographs have no room for a margin and a network's pyramid.
SMALLEST = 32
#: Part of the folders' names: to be raised when the images come out differently.
_RECIPE = 2
_KEY = ["metric", "deformation", "strength"]
#: Columns of :func:`overall` without the intervals.
OVERALL = ["metric", "rank", "penalty"]
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")

_IMAGE = ["photograph", "reference", "distorted", "distortion", "level", "deformation", "strength"]

Strengths = Mapping[str, Sequence[float]]


def run_robustness(
    metrics: Sequence[Any],
    photographs: str | os.PathLike[str],
    deformations: Strengths | None = None,
    distortions: Strengths | None = None,
    images: str | os.PathLike[str] = "msds-robustness-images",
    results: str | Path | None = None,
    resize: Resampling | None = "bicubic",
    run: Run = Run(),  # noqa: B008 (frozen)
    progress: Progress = no_progress,
) -> Benchmark:
    """Score every photograph in every distortion, undeformed and in every deformation, beside the undeformed clean one.

    Images and scores are kept: what is there is not made again.

    Args:
        metrics, results, resize, run, progress: as for :func:`~msds_plugin.adapters.benchmark.run`.
        photographs: folder of clean photographs; a margin of each is set aside for what comes into view.
        deformations: strengths by name of ``DEFORMATIONS``; None for the usual ones that can be had here.
        distortions: strengths by name of ``DISTORTIONS``; None for the usual ones.
        images: folder for the images that are made.

    Returns:
        A benchmark whose ``scores.table`` also has the columns of :func:`make_images`.

    Raises:
        ValueError: an unknown deformation or distortion, a strength out of range or none above zero, a photograph that is too
            small; and as :func:`~msds_plugin.adapters.benchmark.run`.
        FileNotFoundError, ImageFileError: no folder, no photographs, or one that cannot be read.
        MissingDependencyError: seam carving is asked for without its package.
    """
    notes: list[str] = []
    moves = _chosen("deformation", deformations, DEFORMATIONS)
    if deformations is None and find_spec("seam_carving") is None:
        moves.pop("seam carving")
        notes.append("Seam carving is left out: it needs the package seam-carving, pip install 'msds-plugin[retarget]'.")
    if not any(map(any, moves.values())):
        raise ValueError("no deformation has a strength above zero: give one, as in rotation=1,3")
    check_resize(resize)  # before the images, which take long
    scorers, unavailable = make_scorers(metrics, run)
    listed = make_images(photographs, images, moves, _chosen("distortion", distortions, DISTORTIONS), run, progress)
    data = Dataset("photographs", listed[["reference", "distorted"]].assign(score=0.0), False)
    benchmark = score(scorers, [data], results, run, progress, resize)
    table = benchmark.scores.table.drop(columns=["reference", "distortion"]).merge(listed, on="distorted")
    scores = replace(benchmark.scores, table=table)
    return replace(benchmark, scores=scores, notes=(*notes, *benchmark.notes), unavailable=unavailable)


def _chosen(kind: str, chosen: Strengths | None, known: Mapping[str, Change]) -> dict[str, Sequence[float]]:
    if chosen is None:
        return {name: each.strengths for name, each in known.items() if each.usual}
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        raise ValueError(f"no {kind} {f'named {unknown[0]!r}' if unknown else 'given'}: choose from {', '.join(known)}")
    return {name: tuple(strengths) or known[name].strengths for name, strengths in chosen.items()}


def make_images(
    photographs: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    deformations: Strengths,
    distortions: Strengths,
    run: Run = Run(),  # noqa: B008 (frozen)
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """Write the images that are not there yet as PNG, and list all of them.

    A photograph's images lie in a folder named after its name and content, so that a changed photograph gets new ones. The
    columns are ``photograph`` (its path below ``photographs``), ``reference``, ``distorted`` (paths), ``distortion``,
    ``level``, ``deformation``, ``strength``; ``none`` and zero where there is none.
    """
    source = Path(photographs)
    if not source.is_dir():
        raise FileNotFoundError(f"no folder of photographs at {source}")
    levels = [(NONE, 0.0), *((name, float(level)) for name, chosen in distortions.items() for level in dict.fromkeys(chosen))]
    moves = [(NONE, 0.0), *((name, float(s)) for name, chosen in deformations.items() for s in dict.fromkeys(chosen) if s)]
    files, rows, notes = list_images(source), [], Notes(run.note)
    with progress("images", len(files) * len(levels) * len(moves)) as advance:
        for file in files:
            picture = decode(file, run.reading)
            notes.say(file, *picture.notes)
            pixels = to_bytes(picture.colours)  # what is deeper is rounded: distortions are of 8 bits
            if min(pixels.shape[:2]) < SMALLEST:
                sides = f"{pixels.shape[1]} x {pixels.shape[0]}"
                raise ValueError(f"{file} is {sides} pixels: at least {SMALLEST} on each side are needed")
            photo = np.broadcast_to(pixels, (*pixels.shape[:2], 3)).copy()
            for row in _of_photograph(file.relative_to(source), photo, Path(folder), levels, moves):
                rows.append(row)
                advance()
    return pd.DataFrame(rows, columns=_IMAGE)


def _of_photograph(
    name: Path, photo: Photo, folder: Path, levels: Sequence[tuple[str, float]], moves: Sequence[tuple[str, float]]
) -> Iterator[tuple[object, ...]]:
    told_apart = f"{_RECIPE} {name.as_posix()}".encode() + photo.tobytes()
    own = folder / f"{name.stem}-{hashlib.sha256(told_apart).hexdigest()[:12]}"
    own.mkdir(parents=True, exist_ok=True)
    reference = own / "reference.png"
    _keep(reference, inner(photo))
    for distortion, level in levels:
        spoilt: Photo | None = None  # every deformation starts from it
        for deformation, strength in moves:
            path = own / f"{_slug(distortion, level)}+{_slug(deformation, strength)}.png"
            if not path.exists():
                if spoilt is None:
                    spoilt = photo if distortion == NONE else DISTORTIONS[distortion](photo, level)
                _keep(path, inner(spoilt) if deformation == NONE else DEFORMATIONS[deformation](spoilt, strength))
            yield name.as_posix(), str(reference), str(path), distortion, level, deformation, strength


def _keep(path: Path, photo: Photo) -> None:
    if not path.exists():
        replace_file(path, lambda part: Image.fromarray(photo).save(part, "PNG", compress_level=1))


def _slug(name: str, strength: float) -> str:
    return name if name == NONE else f"{name.replace(' ', '-')}-{str(strength).removesuffix('.0')}"


def of_photographs(made: Benchmark) -> pd.DataFrame:
    """Rank and penalty of every metric and deformation on each photograph.

    - *rank*: Spearman's correlation between the scores of distorted images with and without the deformation.
    - *penalty*: share of the distorted, undeformed images that score better than the clean, merely deformed photograph.

    Returns:
        One row per ``metric``, ``deformation``, ``strength`` (each deformation has zero, the undeformed photograph) and
        ``photograph``: ``rank``, ``penalty``, ``score`` (of the clean, merely deformed photograph), ``failed``.
    """
    rows = []
    for (metric, photograph), part in made.scores.table.groupby(["metric", "photograph"], sort=False):
        sign = -1.0 if made.scores.lower_is_better[str(metric)] else 1.0
        scores = part.pivot(index=["distortion", "level"], columns=["deformation", "strength"], values="score")
        clean, damaged = scores.loc[NONE, 0.0], scores.drop(index=(NONE, 0.0))
        plain = damaged[NONE, 0.0]
        for deformation in part.loc[part["deformation"] != NONE, "deformation"].unique():
            for name, strength in [(NONE, 0.0), *(column for column in scores if column[0] == deformation)]:
                moved, whole = damaged[name, strength], clean[name, strength]
                both = plain.notna() & moved.notna()
                rank = statistics.srcc(plain[both], moved[both])
                penalty = (sign * plain.dropna() > sign * whole).mean() if np.isfinite(whole) else np.nan
                failed = int(scores[name, strength].isna().sum())
                rows.append((metric, deformation, strength, photograph, rank, penalty, whole, failed))
    return pd.DataFrame(rows, columns=[*_KEY, "photograph", "rank", "penalty", "score", "failed"])


def summarise(made: Benchmark, resamples: int = statistics.RESAMPLES, seed: int = statistics.SEED) -> pd.DataFrame:
    """Means over photographs of :func:`of_photographs`, with 95 % intervals over resampled photographs.

    Returns:
        One row per metric, deformation and strength: ``rank`` and ``penalty`` with their intervals (``rank_low``, ...),
        ``score``, ``photographs``, ``failed``.
    """
    each = of_photographs(made)
    groups = each.groupby(_KEY, sort=False)
    more = groups.agg(score=("score", "mean"), photographs=("photograph", "size"), failed=("failed", "sum")).reset_index()
    return pd.concat([_means(each, _KEY, resamples, seed), more.drop(columns=_KEY)], axis=1)


def overall(made: Benchmark, resamples: int = statistics.RESAMPLES, seed: int = statistics.SEED) -> pd.DataFrame:
    """Two numbers per metric: ``rank`` and ``penalty``, means over all deformations above zero, with intervals likewise."""
    each = of_photographs(made)
    means = each[each["strength"] > 0].groupby(["metric", "photograph"], sort=False)[["rank", "penalty"]].mean().reset_index()
    return _means(means, ["metric"], resamples, seed)


def _means(table: pd.DataFrame, key: list[str], resamples: int, seed: int) -> pd.DataFrame:
    rows = []
    for found, part in table.groupby(key, sort=False):
        row = [*found]
        for each in (part[name].dropna().to_numpy(float) for name in ("rank", "penalty")):
            row += [each.mean() if len(each) else np.nan, *statistics.mean_interval(each, resamples, seed)]
        rows.append(row)
    columns = [f"{name}{end}" for name in ("rank", "penalty") for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=[*key, *columns])


def by_deformation(summed: pd.DataFrame) -> Section:
    """Rank and penalty of every metric (columns) and deformation (rows), averaged over strengths above zero."""
    metrics, rows = list(summed["metric"].unique()), []
    for deformation, part in summed[summed["strength"] > 0].groupby("deformation", sort=False):
        means = part.groupby("metric")[["rank", "penalty"]].mean()
        cells = [" / ".join(f"{value:.2f}" if value == value else "–" for value in means.loc[each]) for each in metrics]
        rows.append([str(deformation), *cells])
    return Section(["rank / penalty", *metrics], rows, len(metrics))


def write_report(made: Benchmark, summed: pd.DataFrame, numbers: pd.DataFrame, directory: str | os.PathLike[str]) -> Path:
    """Write ``report.html``, ``report.md`` with ``figures``, ``robustness.csv`` and ``scores.csv``; the path of the page.

    ``made``, ``summed`` and ``numbers`` are from :func:`run_robustness`, :func:`summarise` and :func:`overall`.
    """
    table = made.scores.table
    photographs, images = table["photograph"].nunique(), table["distorted"].nunique()
    page = Document("References that do not line up", f"{photographs} photographs, {images} images · {made.made['date']}")
    page.tables |= {"robustness": summed, "scores": table[["metric", *_IMAGE, "score", "seconds", "error"]]}
    page.notes([*left_out(made), *made.notes])
    page.heading("Rank and penalty")
    page.text(
        "Rank: Spearman's correlation between the scores of distorted images with and without the deformation, within a "
        "photograph; 1 is best. Penalty: share of the distorted, undeformed images that score better than the clean, merely "
        "deformed photograph; 0 is best. Means over photographs and over the strengths above zero."
    )
    page.section(shown(numbers, OVERALL, 2))
    page.section(by_deformation(summed))
    page.heading("Against the strength of the deformation")
    page.text("Means over photographs; scores are those of clean, merely deformed photographs, each metric on its own scale.")
    if len(summed):
        page.picture(to_svg(_curves(summed)), "curves", "rank, penalty and score by deformation and strength")
    columns = ["deformation", "metric", "strength", "rank", "penalty", "score"]
    text = f"In brackets: 95 % intervals over {photographs} photographs."
    page.section(shown(summed, columns, 4, "Every strength", text))
    page.heading("Examples")
    page.gallery(_examples(table))
    add_unscored(page, made.scores.failures[["metric", "distorted", "error"]], "scores.csv")
    add_origin(page, made)
    return page.write(directory)


def _curves(summed: pd.DataFrame) -> Figure:
    deformations = list(summed["deformation"].unique())
    drawn = Figure(figsize=(10.5, 2.7 * len(deformations)), layout="constrained")
    for axes, deformation in zip(drawn.subplots(len(deformations), 3, squeeze=False), deformations, strict=True):
        part = summed[summed["deformation"] == deformation]
        for ax, name in zip(axes, ("rank", "penalty", "score"), strict=True):
            for index, (metric, rows) in enumerate(part.groupby("metric", sort=False)):
                style = {"color": _COLOURS[index % len(_COLOURS)], "marker": "os^Dv<>P"[index // len(_COLOURS) % 8]}
                ax.plot(rows["strength"], rows[name], lw=1.8, ms=4, label=str(metric), **style)
            ax.set_title(name, fontsize=10, loc="left", fontweight="bold")
            ax.set_xlabel(f"{deformation}, {DEFORMATIONS[deformation].unit}", fontsize=8)
            ax.tick_params(labelsize=8)
            ax.grid(True, color="#dddddd", lw=0.8)
            ax.spines[["top", "right"]].set_visible(False)
            if name != "score":
                ax.set_ylim(-0.05, 1.05)
        axes[0].legend(fontsize=7, frameon=False)
    return drawn


def _examples(table: pd.DataFrame) -> Iterator[tuple[bytes, str, str, str]]:
    """The reference of the first photograph, its clean image in the strongest deformations, and its middling distortions."""
    first = table[(table[["photograph", "metric"]] == table[["photograph", "metric"]].iloc[0]).all(axis=1)]
    found = {"reference": str(first["reference"].iloc[0])}
    clean = first[(first["distortion"] == NONE) & (first["deformation"] != NONE)]
    for deformation, rows in clean.groupby("deformation", sort=False):
        row = rows.sort_values("strength").iloc[-1]
        found[f"{deformation}, {row['strength']:g} {DEFORMATIONS[str(deformation)].unit}"] = row["distorted"]
    unmoved = first[(first["distortion"] != NONE) & (first["deformation"] == NONE)]
    for distortion, rows in unmoved.groupby("distortion", sort=False):
        found[f"{distortion}, undeformed"] = rows["distorted"].iloc[len(rows) // 2]
    for caption, path in found.items():
        yield thumbnail(path, Reading()), f"example-{caption}", caption, caption


def strengths_of(texts: Sequence[str]) -> dict[str, list[float]] | None:
    """``rotation=1,3,5`` or ``rotation`` (for its own strengths), once per name; None where nothing is given.

    Raises:
        ValueError: something else.
    """
    found: dict[str, list[float]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.strip().replace("-", " ")
        if name in found:
            raise ValueError(f"{name} is given twice: give all its strengths at once, {name}=1,3,5")
        try:
            found[name] = [float(value) for value in values.split(",")] if equals else []
        except ValueError:
            raise ValueError(f"{text!r} is neither a name nor name=strength,strength,...") from None
    return found or None
