"""Sets of forced choices: which of two versions of a reference people preferred."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from msds_plugin.adapters.benchmark import statistics
from msds_plugin.adapters.benchmark.datasets import Dataset
from msds_plugin.adapters.benchmark.labels import Names, numbers, read_labels
from msds_plugin.adapters.benchmark.runner import run
from msds_plugin.adapters.benchmark.summary import few_references
from msds_plugin.adapters.scorers import Scorer

_COLUMNS = {
    "reference": ("reference", "ref", "ref_name"),
    "a": ("a", "image_a", "first", "left"),
    "b": ("b", "image_b", "second", "right"),
    "share": ("share", "share_b", "judge", "prefer_b"),
    "answers": ("answers", "n", "count", "votes"),
}


@dataclass(frozen=True)
class Choices:
    """Comparisons of two versions of a reference.

    Attributes:
        name: for tables.
        table: one row per comparison: ``reference``, ``a``, ``b`` (paths), ``share`` (of the answers that preferred b, in
            [0, 1]), ``answers`` (their number).
    """

    name: str
    table: pd.DataFrame

    @property
    def images(self) -> Dataset:
        """Every version once, beside its reference, as something to score; opinions are zero."""
        parts = [self.table[["reference", side]].rename(columns={side: "distorted"}) for side in ("a", "b")]
        return Dataset(self.name, pd.concat(parts).drop_duplicates(ignore_index=True).assign(score=0.0), False)


@dataclass(frozen=True)
class ChoiceSummary:
    """What metrics make of forced choices.

    Attributes:
        table: :func:`statistics.choice_agreement` of each set, with ``dataset`` first and ``resampled``, the number of images
            that a metric saw at another size.
        significance: :func:`statistics.choice_significance` of each set.
        failures: images without a score: ``dataset``, ``metric``, ``reference``, ``distorted``, ``error``.
        notes: what a reader has to know.
        unavailable: metrics that could not be made, with the reason.
    """

    table: pd.DataFrame
    significance: pd.DataFrame
    failures: pd.DataFrame
    notes: tuple[str, ...]
    unavailable: Mapping[str, str]


def load_choices(path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None, name: str | None = None) -> Choices:
    """Forced choices from a CSV file with the columns reference, a, b, share, answers (any case).

    Args:
        path: the file, with a header, otherwise as for :func:`load_csv`. ``share`` is the share of the answers that preferred
            b; without ``answers`` every comparison counts alike.
        root: folder that the image names are relative to; None for the file's own.
        name: for tables; None for the file's stem.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a missing column, no rows, an empty cell, a share outside [0, 1], a number of answers that is not positive,
            an image compared with itself.
    """
    path = Path(path)
    cells = read_labels(path)
    titles = [cell.lower() for cell in cells.iloc[0]]
    found = {key: next((titles.index(n) for n in names if n in titles), None) for key, names in _COLUMNS.items()}
    missing = [key for key, place in found.items() if place is None and key != "answers"]
    if missing:
        raise ValueError(
            f"{path} has no column for {', '.join(missing)}: its header is {', '.join(filter(None, cells.iloc[0]))}"
        )
    rows = cells.iloc[1:]
    table = pd.DataFrame({key: rows[place] for key, place in found.items() if place is not None}).assign(
        **({"answers": "1"} if found["answers"] is None else {})
    )
    if table.empty:
        raise ValueError(f"{path} has no rows")
    for key in table:
        _check(path, f"no {key}", table[key].eq(""))
    for key in ("share", "answers"):
        table[key] = numbers(table[key], f"{path}: the column for {key}")
    _check(path, "a share outside [0, 1]", ~table["share"].between(0, 1))
    _check(path, "a number of answers that is not positive", ~table["answers"].between(1e-9, 1e12))
    _check(path, "an image compared with itself", table["a"] == table["b"])
    names = Names(path.parent if root is None else Path(root))
    for key in ("reference", "a", "b"):
        table[key] = table[key].map(names.find)
    return Choices(name or path.stem, table.reset_index(drop=True))


def _check(path: Path, what: str, wrong: pd.Series[bool]) -> None:
    if wrong.any():
        raise ValueError(f"{path}: line {wrong.idxmax()} has {what}")


def run_choices(
    metrics: Sequence[str | Scorer],
    sets: Sequence[Choices],
    *args: Any,
    resamples: int = statistics.RESAMPLES,
    seed: int = statistics.SEED,
    **options: Any,
) -> ChoiceSummary:
    """Score every version once, and count with how many of people's answers each metric agrees.

    Args:
        metrics: as for :func:`run`.
        sets: forced choices.
        args, options: as for :func:`run`.
        resamples, seed: of the bootstrap over references.

    Raises:
        ValueError: as :func:`run`.
    """
    made = run(metrics, [each.images for each in sets], *args, **options)
    falling = [name for name, lower in made.scores.lower_is_better.items() if lower]
    tables: list[pd.DataFrame] = []
    tests: list[pd.DataFrame] = []
    notes = list(made.notes)
    for each in sets:
        by_metric = {name: _sides(each, made.scores.of(each.name, name)) for name in made.scores.metrics}
        given = (by_metric, each.table["share"], each.table["answers"], each.table["reference"], falling, resamples, seed)
        table, test = statistics.choice_agreement(*given), statistics.choice_significance(*given)
        table["resampled"] = [made.resampled.get((each.name, name), 0) for name in table["metric"]]
        for one, kept in ((table, tables), (test, tests)):
            one.insert(0, "dataset", each.name)
            kept.append(one)
        notes += few_references(each.name, int(table["references"].max()))
    both = (pd.concat(tables, ignore_index=True), pd.concat(tests, ignore_index=True))
    return ChoiceSummary(*both, made.scores.failures, tuple(notes), made.unavailable)


def _sides(each: Choices, rows: pd.DataFrame) -> tuple[pd.Series[float], pd.Series[float]]:
    """The scores of the two versions of each comparison."""
    scores = rows.set_index(["reference", "distorted"])["score"]
    first, second = (scores.reindex(pd.MultiIndex.from_frame(each.table[["reference", side]])) for side in ("a", "b"))
    return first, second
