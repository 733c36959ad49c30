"""Further tables of a benchmark: within references, forced choices, and what size of set would show a difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..benchmark.statistics.power import POWER
from .text import figure, interval


@dataclass(frozen=True)
class Section:
    """A heading, what it means, and a table of text.

    Attributes:
        title: the heading.
        text: a paragraph under it.
        headings, rows: the table.
        numbers: how many of its last columns are numbers.
    """

    title: str
    text: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: int


def _with_interval(row: Mapping[Any, Any], name: str, digits: int = 3) -> str:
    return f"{figure(row[name], digits)} {interval((row[f'{name}_low'], row[f'{name}_high']), digits)}".strip()


def within(table: pd.DataFrame) -> Section:
    """Rank correlations within references, of the table of a :class:`Summary`."""
    rows = [
        [
            str(row["dataset"]),
            str(row["metric"]),
            _with_interval(row, "within_krcc"),
            _with_interval(row, "within_srcc"),
            str(row["within_references"]),
        ]
        for row in table.to_dict("records")
    ]
    text = (
        "Rank correlations among the versions of one reference, averaged over references; opinions need not be comparable "
        "between references. In brackets: 95 % intervals over references."
    )
    headings = ["data set", "metric", "mean Kendall tau", "mean SRCC", "references"]
    return Section("Within each reference", text, headings, rows, 3)


def needed(significance: pd.DataFrame) -> Section:
    """What size of set would have shown the differences that are not shown."""
    hidden = significance[significance["needed_reason"] != "shown here"].sort_values("needed_references", kind="stable")
    rows = [
        [
            str(row["dataset"]),
            f"{row['a']} – {row['b']}",
            figure(row["difference"], 3, True),
            figure(row["p"], 3),
            figure(row["p_holm"], 3),
            row["needed_reason"] or f"{row['needed_references']:.0f}",
            "–" if row["needed_reason"] else f"{row['needed_images']:.0f}",
        ]
        for row in hidden.to_dict("records")
    ]
    text = (
        f"For each difference that is not shown: how many references would show it with a chance of {POWER:.0%} at the 5 % "
        "level, without correction for other comparisons, if it is real and as large as here; and how many images, with as "
        "many per reference as here. Found by drawing larger sets from this one. A difference that is chance has no such size."
    )
    headings = ["data set", "metrics", "ΔSRCC", "p", "p (Holm)", "references needed", "images needed"]
    return Section("What size of set would show the other differences", text, headings, rows, 5)


def choices(table: pd.DataFrame) -> Section:
    """Agreement with forced choices, of the table of a :class:`ChoiceSummary`."""
    rows = [
        [
            str(row["dataset"]),
            str(row["metric"]),
            _with_interval(row, "agreement"),
            figure(row["ceiling"]),
            figure(row["of_ceiling"], 2),
            str(row["count"]),
            str(row["references"]),
            str(row["resampled"]),
        ]
        for row in table.to_dict("records")
    ]
    text = (
        "Share of people's answers that a metric agrees with; 0.5 is chance. The ceiling is what always siding with the "
        "majority of these answers would reach; of ceiling: agreement beyond chance over that of the ceiling. In brackets: "
        "95 % intervals over references. Resampled: images that a metric saw at another size."
    )
    headings = ["set", "metric", "agreement", "ceiling", "of ceiling", "comparisons", "references", "resampled"]
    return Section("Forced choices", text, headings, rows, 6)


def choice_tests(significance: pd.DataFrame) -> Section:
    """Paired tests of agreement with forced choices."""
    rows = [
        [
            str(row["dataset"]),
            f"{row['a']} – {row['b']}",
            figure(row["difference"], 3, True),
            figure(row["p"], 3),
            figure(row["p_holm"], 3),
            str(row["count"]),
        ]
        for row in significance.to_dict("records")
    ]
    text = "Difference in agreement on the same comparisons, by a paired bootstrap over references, corrected by Holm's method."
    headings = ["set", "metrics", "difference", "p", "p (Holm)", "comparisons"]
    return Section("Differences on forced choices", text, headings, rows, 4)
