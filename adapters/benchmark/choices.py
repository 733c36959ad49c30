"""Sets of forced choices: which of two versions of a reference people preferred."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from msds_plugin.adapters.benchmark import statistics
from msds_plugin.adapters.benchmark.datasets import Dataset
from msds_plugin.adapters.benchmark.runner import Benchmark, run
from msds_plugin.adapters.benchmark.summary import few_references
from msds_plugin.adapters.images.labels import check_lines, find_images, numbers, places, read_labels
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
        table: one row per comparison: ``reference``, ``a``, ``b`` (paths), ``share`` (of the answers that preferred b),
            ``answers`` (their number).
    """

    name: str
    table: pd.DataFrame


@dataclass(frozen=True)
class ChoiceSummary:
    """What metrics make of forced choices.

    Attributes:
        table: what :func:`statistics.choices` says of each metric on each set, with ``dataset`` first and ``resampled``, the
            number of images that a metric saw at another size.
        significance: what it says of each two metrics, likewise.
        notes: what a reader has to know.
        made: the scores of the versions, and how they were made.
    """

    table: pd.DataFrame
    significance: pd.DataFrame
    notes: tuple[str, ...]
    made: Benchmark

    @property
    def failures(self) -> pd.DataFrame:
        """Images without a score: ``dataset``, ``metric``, ``reference``, ``distorted``, ``error``."""
        return self.made.scores.failures


def load_choices(path: str | os.PathLike[str], name: str | None = None) -> Choices:
    """Forced choices from a CSV file with the columns reference, a, b, share, answers (any case).

    Args:
        path: the file, with a header, otherwise as for :func:`load_csv`, beside the images. ``share`` is the share of the
            answers that preferred b; without ``answers`` every comparison counts alike.
        name: for tables; None for the file's stem.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a missing column, no rows, an empty cell, too many cells, a share outside [0, 1], a number of answers that
            is not positive, an image compared with itself.
    """
    path = Path(path)
    cells = read_labels(path)
    header, rows = cells.iloc[0], cells.iloc[1:]
    found = places(path, header, _COLUMNS)
    missing = [key for key in _COLUMNS if key not in found and key != "answers"]
    if missing:
        raise ValueError(f"{path} has no column for {', '.join(missing)}: its header is {', '.join(filter(None, header))}")
    if rows.empty:
        raise ValueError(f"{path} has no rows")
    table = pd.DataFrame({key: rows[found[key]] if key in found else "1" for key in _COLUMNS}, rows.index)
    for key in table:
        check_lines(path, f"no {key}", table[key].eq(""))
    for key in ("share", "answers"):
        table[key] = numbers(table[key], f"{path}: the column for {key}", cells.attrs["separator"])
    check_lines(path, "a share outside [0, 1]", ~table["share"].between(0, 1))
    check_lines(path, "a number of answers that is not positive", ~table["answers"].between(1e-9, 1e12))
    check_lines(path, "an image compared with itself", table["a"] == table["b"])
    for key in ("reference", "a", "b"):
        table[key], _ = find_images(table[key], path.parent)
    return Choices(name or path.stem, table.reset_index(drop=True))


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
    made = run(metrics, [_as_dataset(each) for each in sets], *args, **options)
    falling = [name for name, lower in made.scores.lower_is_better.items() if lower]
    tables, tests, notes = [], [], list(made.notes)
    for each in sets:
        scores = {name: _sides(each, made.scores.of(each.name, name)) for name in made.scores.metrics}
        share, answers, reference = (each.table[name] for name in ("share", "answers", "reference"))
        table, test = statistics.choices(scores, share, answers, reference, falling, resamples, seed)
        table["resampled"] = [made.resampled.get((each.name, name), 0) for name in table["metric"]]
        table.insert(0, "dataset", each.name)
        test.insert(0, "dataset", each.name)
        tables.append(table)
        tests.append(test)
        notes += few_references(each.name, int(table["references"].max()))
    return ChoiceSummary(pd.concat(tables, ignore_index=True), pd.concat(tests, ignore_index=True), tuple(notes), made)


def _as_dataset(each: Choices) -> Dataset:
    """Every version once, beside its reference, as something to score; opinions are zero."""
    sides = [each.table[["reference", side]].rename(columns={side: "distorted"}) for side in ("a", "b")]
    return Dataset(each.name, pd.concat(sides).drop_duplicates(ignore_index=True).assign(score=0.0), False)


def _sides(each: Choices, rows: pd.DataFrame) -> tuple[pd.Series[float], pd.Series[float]]:
    """The scores of the two versions of each comparison."""
    scores = rows.set_index(["reference", "distorted"])["score"]
    first, second = (scores.reindex(pd.MultiIndex.from_frame(each.table[["reference", side]])) for side in ("a", "b"))
    return first, second
