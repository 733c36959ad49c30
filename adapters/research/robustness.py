"""Scores of references that do not line up: deformations times distortions of clean photographs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from msds_plugin.adapters.benchmark import statistics
from msds_plugin.adapters.benchmark.datasets import Dataset
from msds_plugin.adapters.benchmark.report.document import Document
from msds_plugin.adapters.benchmark.report.figures import to_svg
from msds_plugin.adapters.benchmark.report.page import thumbnail
from msds_plugin.adapters.benchmark.runner import Benchmark, Progress, Resampling, no_progress
from msds_plugin.adapters.benchmark.runner import run as score
from msds_plugin.adapters.images.colours import to_bytes
from msds_plugin.adapters.images.listing import list_images
from msds_plugin.adapters.images.notes import Notes
from msds_plugin.adapters.images.read import Reading, decode
from msds_plugin.adapters.research.distortions import DEFORMATIONS, DISTORTIONS, Change, Photo, inner
from msds_plugin.adapters.research.tables import shown
from msds_plugin.adapters.scoring.files import replace_file
from msds_plugin.adapters.scoring.options import Run

#: Of the rows without a deformation or a distortion.
NONE = "none"
#: Smaller photographs have no room for a margin and a network's pyramid.
SMALLEST = 32
#: Part of the folders' names: to be raised when the images come out differently.
_RECIPE = 2
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")

Strengths = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Robustness:
    """Scores of deformed and distorted photographs, and how they were made.

    Attributes:
        table: one row per metric and image: ``metric``, ``photograph``, ``reference``, ``distorted``, ``distortion``,
            ``level``, ``deformation``, ``strength``, ``score`` (NaN where it failed), ``seconds``, ``error``.
        benchmark: direction of each metric, and how the scores were made.
        notes: what a reader has to know.
    """

    table: pd.DataFrame
    benchmark: Benchmark
    notes: tuple[str, ...] = ()

    @property
    def failures(self) -> pd.DataFrame:
        """Images without a score: ``distorted``, ``metric``, ``error``."""
        return self.table.loc[self.table["error"].notna(), ["distorted", "metric", "error"]]


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
) -> Robustness:
    """Score every photograph in every distortion, undeformed and in every deformation, beside the undeformed clean one.

    Images and scores are kept: what is there is not made again.

    Args:
        metrics: names with options after commas, or scorers.
        photographs: folder of clean photographs; a margin of each is set aside for what comes into view.
        deformations: strengths by name of ``DEFORMATIONS``; None for all of them that can be had here.
        distortions: strengths by name of ``DISTORTIONS``; None for all of them.
        images: folder for the images that are made.
        results: file that keeps scores; None to keep none.
        resize: how an image of another size is resampled for metrics that need equal sizes; None to leave such scores out.
        run, progress: as for :func:`~msds_plugin.adapters.benchmark.run`.

    Raises:
        ValueError: an unknown deformation or distortion, a strength out of range, a photograph that is too small; and as
            :func:`~msds_plugin.adapters.benchmark.run`.
        FileNotFoundError, ImageFileError: no folder, no photographs, or one that cannot be read.
        MissingDependencyError: seam carving is asked for without its package.

    Example:
        >>> made = run_robustness(["msds-fast", "ssim"], "photographs", {"rotation": [1, 3]})  # doctest: +SKIP
        >>> print(summarise(made))  # doctest: +SKIP
    """
    notes: list[str] = []
    moves = _chosen("deformation", deformations, DEFORMATIONS)
    if deformations is None and find_spec("seam_carving") is None:
        moves.pop("seam carving")
        notes.append("Seam carving is left out: it needs the package seam-carving, pip install 'msds-plugin[retarget]'.")
    listed = make_images(photographs, images, moves, _chosen("distortion", distortions, DISTORTIONS), run, progress)
    data = Dataset("photographs", listed[["reference", "distorted"]].assign(score=0.0), False)
    benchmark = score(metrics, [data], results, run, progress, resize)
    table = benchmark.scores.table[["metric", "distorted", "score", "seconds", "error"]].merge(listed, on="distorted")
    columns = ["metric", *listed.columns, "score", "seconds", "error"]
    return Robustness(table[columns], benchmark, (*notes, *benchmark.notes))


def _chosen(kind: str, chosen: Strengths | None, known: Mapping[str, Change]) -> dict[str, Sequence[float]]:
    if chosen is None:
        return {name: each.strengths for name, each in known.items()}
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

    A photograph's images lie in a folder named after its name and content, so that a changed photograph gets new ones.

    Returns:
        ``photograph``, ``reference``, ``distorted`` (paths), ``distortion``, ``level``, ``deformation``, ``strength``;
        ``none`` and zero where there is none.

    Raises:
        FileNotFoundError, ImageFileError, ValueError, MissingDependencyError: as :func:`run_robustness`.
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
            notes.say(file, picture)
            pixels = to_bytes(picture.colours)  # what is deeper is rounded: distortions are of 8 bits
            if min(pixels.shape[:2]) < SMALLEST:
                sides = f"{pixels.shape[1]} x {pixels.shape[0]}"
                raise ValueError(f"{file} is {sides} pixels: at least {SMALLEST} on each side are needed")
            photo = np.broadcast_to(pixels, (*pixels.shape[:2], 3)).copy()
            for row in _of_photograph(file, photo, Path(folder), levels, moves):
                rows.append(row)
                advance()
    return pd.DataFrame(rows)


def _of_photograph(
    file: Path, photo: Photo, folder: Path, levels: Sequence[tuple[str, float]], moves: Sequence[tuple[str, float]]
) -> Iterator[dict[str, object]]:
    told_apart = f"{_RECIPE} {file.name}".encode() + photo.tobytes()
    own = folder / f"{file.stem}-{hashlib.sha256(told_apart).hexdigest()[:12]}"
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
            names = {"photograph": file.name, "reference": str(reference), "distorted": str(path)}
            yield {**names, "distortion": distortion, "level": level, "deformation": deformation, "strength": strength}


def _keep(path: Path, photo: Photo) -> None:
    if not path.exists():
        replace_file(path, lambda part: Image.fromarray(photo).save(part, "PNG", compress_level=1))


def _slug(name: str, strength: float) -> str:
    return name if name == NONE else f"{name.replace(' ', '-')}-{strength:g}"


def summarise(made: Robustness, resamples: int = statistics.RESAMPLES, seed: int = statistics.SEED) -> pd.DataFrame:
    """Rank and penalty of every metric, deformation and strength.

    - *rank*: Spearman's correlation between the scores of distorted images with and without the deformation, within a
      photograph, mean over photographs. 1: the deformation does not change which image is better.
    - *penalty*: share of the distorted, undeformed images of a photograph that score better than the clean, merely deformed
      photograph, mean over photographs. 0: a deformation that nobody minds costs less than any damage.

    Args:
        made: from :func:`run_robustness`.
        resamples, seed: of the bootstrap over photographs.

    Returns:
        One row per metric, deformation and strength, zero (the undeformed photographs) among them: ``rank`` and ``penalty``
        with their 95 % intervals over photographs (``rank_low``, ...), ``score`` (mean of the clean, merely deformed
        photographs), ``photographs``, ``failed``.
    """
    rows = []
    for metric, part in made.table.groupby("metric", sort=False):
        sign = -1.0 if made.benchmark.scores.lower_is_better[str(metric)] else 1.0
        plain = part[part["deformation"] == NONE]
        for deformation, own in part[part["deformation"] != NONE].groupby("deformation", sort=False):
            for strength, moved in (*[(0.0, plain)], *own.groupby("strength")):
                found = _figures(plain, moved, sign, resamples, seed)
                rows.append({"metric": metric, "deformation": deformation, "strength": strength} | found)
    return pd.DataFrame(rows)


def _figures(plain: pd.DataFrame, moved: pd.DataFrame, sign: float, resamples: int, seed: int) -> dict[str, Any]:
    key = ["photograph", "distortion", "level"]
    both = plain[[*key, "score"]].merge(moved[[*key, "score"]], on=key, suffixes=("_plain", "_moved"))
    ranks, penalties, clean = [], [], []
    for _, rows in both.groupby("photograph", sort=False):
        whole = rows[rows["distortion"] == NONE]["score_moved"].dropna()
        damaged = rows[rows["distortion"] != NONE].dropna(subset=["score_plain"])
        pairs = damaged.dropna(subset=["score_moved"])
        ranks.append(statistics.srcc(pairs["score_plain"], pairs["score_moved"]))
        if len(whole) and len(damaged):
            penalties.append(float((sign * damaged["score_plain"] > sign * whole.iloc[0]).mean()))
        clean.extend(whole)
    found: dict[str, Any] = {}
    for name, values in (("rank", ranks), ("penalty", penalties)):
        known = np.array([value for value in values if np.isfinite(value)])
        found[name] = float(known.mean()) if len(known) else float("nan")
        found[f"{name}_low"], found[f"{name}_high"] = statistics.mean_interval(known, resamples, seed)
    score = float(np.mean(clean)) if clean else float("nan")
    return found | {"score": score, "photographs": both["photograph"].nunique(), "failed": int(moved["score"].isna().sum())}


def by_deformation(summed: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Rank and penalty of every metric (columns) and deformation (rows), averaged over strengths above zero, as text."""
    metrics = list(summed["metric"].unique()) if len(summed) else []
    rows = []
    for deformation, part in summed[summed["strength"] > 0].groupby("deformation", sort=False) if metrics else ():
        means = part.groupby("metric")[["rank", "penalty"]].mean()
        cells = [" / ".join(f"{value:.2f}" if value == value else "–" for value in means.loc[each]) for each in metrics]
        rows.append([str(deformation), *cells])
    return ["rank / penalty", *metrics], rows


def write_report(made: Robustness, summed: pd.DataFrame, directory: str | os.PathLike[str]) -> Path:
    """Write ``report.html``, ``report.md`` with ``figures``, ``robustness.csv`` and ``scores.csv``; the path of the page.

    Raises:
        OSError: the folder cannot be written.
    """
    photographs, images = made.table["photograph"].nunique(), made.table["distorted"].nunique()
    about = made.benchmark.made
    page = Document("References that do not line up", f"{photographs} photographs, {images} images · {about['date']}")
    page.tables |= {"robustness": summed, "scores": made.table}
    page.notes(made.notes)
    page.heading("Rank and penalty")
    page.text(
        "Rank: Spearman's correlation between the scores of distorted images with and without the deformation, within a "
        "photograph; 1 is best. Penalty: share of the distorted, undeformed images that score better than the clean, merely "
        "deformed photograph; 0 is best. Means over photographs and over the strengths above zero."
    )
    headings, rows = by_deformation(summed)
    page.table(headings, rows, len(headings) - 1)
    page.heading("Against the strength of the deformation")
    page.text("Means over photographs; scores are those of clean, merely deformed photographs, each metric on its own scale.")
    for deformation, part in summed.groupby("deformation", sort=False) if len(summed) else ():
        page.picture(to_svg(_curves(part, str(deformation))), f"curve-{deformation}", f"rank, penalty and score: {deformation}")
    page.heading("Every strength")
    page.text(f"In brackets: 95 % intervals over {photographs} photographs.")
    columns = ("deformation", "metric", "strength", "rank", "penalty", "score")
    page.table(*shown(summed, {name: name for name in columns}), 4)
    page.heading("Examples")
    page.gallery(_examples(made.table))
    page.heading("Images without a score")
    failed = made.failures
    page.text(f"{len(failed)} in all; scores.csv has the reasons.")
    if len(failed):
        page.table(*shown(failed.head(30), {"metric": "metric", "distorted": "image", "error": "reason"}))
    page.heading("How it was made")
    page.table(["", ""], list(about.items()))
    page.table(*shown(made.benchmark.metrics, {str(name): str(name) for name in made.benchmark.metrics}))
    return page.write(directory)


def _curves(part: pd.DataFrame, deformation: str) -> Figure:
    drawn = Figure(figsize=(10.5, 3.2), layout="constrained")
    axes = drawn.subplots(1, 3)
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
    first = table[(table["photograph"] == table["photograph"].iloc[0]) & (table["metric"] == table["metric"].iloc[0])]
    found = {"reference": str(first["reference"].iloc[0])}
    for deformation, rows in first[first["distortion"] == NONE].groupby("deformation", sort=False):
        if deformation != NONE:
            row = rows.sort_values("strength").iloc[-1]
            found[f"{deformation}, {row['strength']:g} {DEFORMATIONS[str(deformation)].unit}"] = row["distorted"]
    for distortion, rows in first[first["deformation"] == NONE].groupby("distortion", sort=False):
        if distortion != NONE:
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
