"""The report of a robustness run: tables, curves, examples."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from ..report.document import Document
from ..report.figures import to_svg
from ..report.text import figure, interval
from .deformations import DEFORMATIONS
from .images import NONE
from .run import Robustness
from .summary import RobustnessSummary

_THUMBNAIL = 320
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
_MARKS = "os^Dv<>P"
_LISTED = 30


def short_table(summed: RobustnessSummary) -> tuple[list[str], list[list[str]]]:
    """Rank and penalty of every metric (columns) and deformation (rows), averaged over strengths, as text."""
    table = summed.by_deformation
    metrics = list(dict.fromkeys(table["metric"]))
    rows = []
    for deformation, part in table.groupby("deformation", sort=False):
        by_metric = part.set_index("metric")
        cells = [f"{figure(by_metric['rank'][m], 2)} / {figure(by_metric['penalty'][m], 2)}" for m in metrics]
        rows.append([str(deformation), *cells])
    return ["rank / penalty", *metrics], rows


def write_report(made: Robustness, summed: RobustnessSummary, directory: str | os.PathLike[str]) -> Path:
    """Write ``report.html``, ``report.md`` with ``figures``, ``robustness.csv`` and ``scores.csv``.

    Args:
        made: from :func:`run_robustness`.
        summed: its summary.
        directory: made if there is none.

    Returns:
        The path of the page.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    summed.table.to_csv(folder / "robustness.csv", index=False)
    made.table.to_csv(folder / "scores.csv", index=False)
    photographs = made.table["photograph"].nunique()
    page = Document(
        "References that do not line up",
        f"{len(made.lower_is_better)} metrics, {photographs} photographs, {made.table['distorted'].nunique()} images · "
        f"{made.made['date']}",
    )
    page.notes(made.notes)
    page.heading("Rank and penalty")
    page.text(
        "Rank: Spearman's correlation between the scores of distorted images with and without the deformation, within a "
        "photograph; 1 is best. Penalty: share of the distorted, undeformed images that score better than the clean, merely "
        "deformed photograph; 0 is best. Means over photographs and over the strengths above zero."
    )
    headings, rows = short_table(summed)
    page.table(headings, rows, len(headings) - 1)
    page.heading("Against the strength of the deformation")
    page.text("Means over photographs; scores are those of clean, merely deformed photographs, each metric on its own scale.")
    for deformation, part in summed.table.groupby("deformation", sort=False):
        page.picture(to_svg(_curves(part, str(deformation))), f"curve-{deformation}", f"rank, penalty and score: {deformation}")
    page.heading("Every strength")
    page.text(f"In brackets: 95 % intervals over {photographs} photographs.")
    page.table(*_long(summed.table), 4)
    page.heading("Examples")
    page.gallery(_examples(made.table))
    failed = made.table[made.table["error"].notna()]
    page.heading("Images without a score")
    if failed.empty:
        page.text("None: every metric scored every image.")
    else:
        page.text(f"{len(failed)} in all; scores.csv has the reasons.")
        page.table(
            ["metric", "image", "reason"],
            [[r["metric"], Path(r["distorted"]).name, r["error"]] for r in failed.head(_LISTED).to_dict("records")],
        )
    page.heading("How it was made")
    page.table(["", ""], [[name, value] for name, value in made.made.items()])
    sources = made.metrics.astype(object).where(made.metrics.notna(), "–")
    page.table([str(name).replace("_", " ") for name in sources], sources.astype(str).to_numpy().tolist())
    return page.write(folder)


def _long(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            row["deformation"],
            row["metric"],
            f"{row['strength']:g}",
            *(f"{figure(row[n])} {interval((row[f'{n}_low'], row[f'{n}_high']))}".strip() for n in ("rank", "penalty")),
            figure(row["score"]),
        ]
        for row in table.to_dict("records")
    ]
    return ["deformation", "metric", "strength", "rank", "penalty", "score"], rows


def _curves(part: pd.DataFrame, deformation: str) -> Figure:
    drawn = Figure(figsize=(10.5, 3.2), layout="constrained")
    axes = drawn.subplots(1, 3)
    for ax, name in zip(axes, ("rank", "penalty", "score"), strict=True):
        for index, (metric, rows) in enumerate(part.groupby("metric", sort=False)):
            style = {"color": _COLOURS[index % len(_COLOURS)], "marker": _MARKS[index // len(_COLOURS) % len(_MARKS)]}
            ax.plot(rows["strength"], rows[name], lw=1.8, ms=4, label=str(metric), **style)
        ax.set_title(name, fontsize=10, loc="left", fontweight="bold")
        ax.set_xlabel(f"{deformation}, {DEFORMATIONS[deformation].unit}", fontsize=8)
        ax.tick_params(labelsize=8)
        ax.grid(True, color="#dddddd", lw=0.8)
        for spine in ("top", "right"):
            ax.spines[spine].set_visible(False)
        if name != "score":
            ax.set_ylim(-0.05, 1.05)
    axes[0].legend(fontsize=7, frameon=False)
    return drawn


def _examples(table: pd.DataFrame) -> list[tuple[bytes, str, str, str]]:
    """The reference of the first photograph and its clean image in the strongest form of each deformation."""
    first = table[(table["photograph"] == table["photograph"].iloc[0]) & (table["distortion"] == NONE)]
    shown = [("reference", first["reference"].iloc[0])]
    for deformation, rows in first[first["deformation"] != NONE].groupby("deformation", sort=False):
        row = rows.sort_values("strength").iloc[-1]
        shown.append((f"{deformation}, {row['strength']:g} {DEFORMATIONS[str(deformation)].unit}", row["distorted"]))
    damaged = table[(table["photograph"] == table["photograph"].iloc[0]) & (table["deformation"] == NONE)]
    for distortion, rows in damaged[damaged["distortion"] != NONE].groupby("distortion", sort=False):
        middle = list(dict.fromkeys(rows["distorted"]))
        shown.append((f"{distortion}, undeformed", middle[len(middle) // 2]))
    return [(_thumbnail(path), f"example-{caption}", caption, caption) for caption, path in shown]


def _thumbnail(path: str) -> bytes:
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def failures_of(made: Robustness) -> pd.DataFrame:
    """Images without a score: ``distorted``, ``metric``, ``error``."""
    failed = made.table[made.table["error"].notna()]
    return failed[["distorted", "metric", "error"]].reset_index(drop=True)


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
