"""The report of a reproduction."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..benchmark.runner import Progress, no_progress
from ..report.document import Document
from ..report.page import write_report as write_benchmark
from ..report.sections import Section, within
from ..report.text import figure, interval
from .published import SETS
from .run import Reproduction

_SAID = {True: "inside", False: "outside", None: "–"}


def table(made: Reproduction) -> tuple[list[str], list[list[str]]]:
    """Measured beside published, as text."""
    return ["metric", "data set", "statistic", "images", "measured", "published", "difference", "interval holds it"], [
        _row(row) for row in made.table.to_dict("records")
    ]


def _row(row: dict[Any, Any]) -> list[str]:
    images = f"{row['images']}, partial" if row["state"] == "partial" else str(row["images"]) if row["images"] else "missing"
    return [
        row["metric"],
        SETS[row["dataset"]].title,
        row["statistic"].upper(),
        images,
        f"{figure(row['measured'])} {interval((row['low'], row['high']))}".strip(),
        figure(row["published"]),
        figure(row["difference"], 3, True),
        _SAID[row["inside"]],
    ]


def write_report(made: Reproduction, directory: str | os.PathLike[str], progress: Progress = no_progress) -> Path:
    """Write ``reproduction.csv`` and the report, that of the benchmark where a data set is there.

    Args:
        made: from :func:`reproduce`.
        directory: made if there is none.
        progress: shows how far it is.

    Returns:
        The path of the page.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    made.table.to_csv(folder / "reproduction.csv", index=False)
    headings, rows = table(made)
    if made.benchmark is None or made.summary is None:
        page = Document("Published and measured", "none of the data sets is there")
        page.notes(made.notes)
        page.table(headings, rows, 4)
        return page.write(folder)
    section = Section("Published and measured", " ".join(made.notes), headings, rows, 4)
    sections = [section, within(made.summary.table)]
    title = "The published tables, measured again"
    return write_benchmark(made.benchmark, made.summary, folder, title=title, progress=progress, sections=sections)
