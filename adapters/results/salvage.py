"""What can still be read of a damaged results file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeAlias

_Score: TypeAlias = tuple[Any, ...]  # metric's name and identity; pair's key and paths; score and seconds

_ONE = """
SELECT name, identity, key, reference, distorted, score, seconds FROM score
JOIN metric ON metric.id = metric JOIN pair ON pair.id = pair WHERE metric.id = ? AND pair.id = ? AND score IS NOT NULL
"""


def is_results_file(path: Path) -> bool:
    """Whether it begins as an SQLite file does that a benchmark made."""
    try:
        with path.open("rb") as file:
            head = file.read(72)
    except OSError:
        return False
    return head.startswith(b"SQLite format 3\0") and head[68:72] == b"MSDS"


def salvage(path: Path) -> list[_Score]:
    """The scores that can be read, whatever the damage; the file is left as it is."""
    found = []
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as db:
            for metric in _column(db, "SELECT id FROM metric"):
                for pair in _column(db, "SELECT id FROM pair"):
                    found += _rows(db, _ONE, (metric, pair))
    except sqlite3.Error:
        pass  # what was found until here counts
    return found


def _column(db: sqlite3.Connection, query: str) -> list[int]:
    """The values of a column, up to the damage from either end."""
    found: set[int] = set()
    for order in ("ASC", "DESC"):
        rows = _until_damage(db, f"{query} ORDER BY id {order}")
        found.update(int(row[0]) for row in rows)
    return sorted(found)


def _rows(db: sqlite3.Connection, query: str, values: tuple[int, int]) -> list[_Score]:
    try:
        return db.execute(query, values).fetchall()
    except sqlite3.Error:
        return []


def _until_damage(db: sqlite3.Connection, query: str) -> Iterator[_Score]:
    try:
        yield from db.execute(query)
    except sqlite3.Error:
        return
