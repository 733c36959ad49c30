"""Scores on disk as they come: one SQLite file that survives a kill at any moment and can be written by several runs."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

_APPLICATION = 0x4D534453  # "MSDS", in the header of the file
_FORMAT = 1
_PATIENCE = 120.0  # seconds to wait for another run that is writing

_TABLES = """
CREATE TABLE metric (id INTEGER PRIMARY KEY, name TEXT NOT NULL, identity TEXT NOT NULL UNIQUE);
CREATE TABLE pair (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, reference TEXT NOT NULL, distorted TEXT NOT NULL);
CREATE TABLE score (
    metric INTEGER NOT NULL REFERENCES metric, pair INTEGER NOT NULL REFERENCES pair,
    score REAL, seconds REAL, error TEXT, time REAL NOT NULL,
    PRIMARY KEY (metric, pair), CHECK ((score IS NULL) <> (error IS NULL))
) WITHOUT ROWID;
"""


class ResultsFileError(ValueError):
    """A results file that is something else, damaged, or of another version."""


@dataclass(frozen=True)
class Outcome:
    """What came of one metric on one pair: a score, or why there is none.

    Attributes:
        metric: its number, from :meth:`Results.metric`.
        key: of the pair, from :func:`pair_key`.
        reference, distorted: paths.
        score: None where it failed.
        seconds: time it took, None where not known.
        error: why there is no score, None where there is one.
    """

    metric: int
    key: str
    reference: str
    distorted: str
    score: float | None
    seconds: float | None = None
    error: str | None = None


def pair_key(reference: str | os.PathLike[str], distorted: str | os.PathLike[str]) -> str:
    """What tells two files from any others: their places, sizes and times of change. A file that changes gets another key."""
    return hashlib.sha256("\0".join(_place(path) for path in (reference, distorted)).encode()).hexdigest()[:32]


def _place(path: str | os.PathLike[str]) -> str:
    resolved = os.path.realpath(path)
    try:
        stat = os.stat(resolved)
    except OSError:
        return resolved
    return f"{resolved}\0{stat.st_size}\0{stat.st_mtime_ns}"


class Results:
    """Scores by metric and pair, each kept from the moment it is added.

    A metric is told apart by its whole identity (name, options, weights, versions, device), not by its name, so that scores
    of different origin never mix. Several processes may work on one file. Use it as a context manager.

    Args:
        path: the file, made if there is none; None to keep everything in memory.

    Raises:
        ResultsFileError: the file is something else, or of another version.
        OSError: it cannot be made or opened.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = None if path is None else Path(path)
        if self.path is not None and not self.path.parent.is_dir():
            raise FileNotFoundError(f"no folder {self.path.parent} for the results file {self.path.name}")
        try:
            self._db = sqlite3.connect(":memory:" if self.path is None else self.path, timeout=_PATIENCE, isolation_level=None)
            self._prepare()
        except sqlite3.OperationalError as error:
            raise OSError(f"cannot open the results file {path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise ResultsFileError(f"{path} is not a results file, or damaged ({error}): choose another name") from error

    def _prepare(self) -> None:
        # A commit is on disk before it returns: what was reported is kept, also when the machine goes down.
        self._db.execute("PRAGMA synchronous = FULL")
        with self._writing():
            (application,) = self._db.execute("PRAGMA application_id").fetchone()
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if tables == 0:
                for statement in _TABLES.split(";"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA application_id = {_APPLICATION}")
                self._db.execute(f"PRAGMA user_version = {_FORMAT}")
            elif application != _APPLICATION:
                raise ResultsFileError(f"{self.path} is a database of another program: choose another name")
            elif version != _FORMAT:
                raise ResultsFileError(f"{self.path} has format {version}, this version writes {_FORMAT}: choose another name")

    def metric(self, name: str, identity: Mapping[str, Any]) -> int:
        """The number of the metric of this identity, new or known.

        Args:
            name: for reading.
            identity: all that its scores depend on; plain values.
        """
        text = json.dumps(identity, sort_keys=True)
        with self._writing():
            self._db.execute("INSERT OR IGNORE INTO metric (name, identity) VALUES (?, ?)", (name, text))
        return int(self._db.execute("SELECT id FROM metric WHERE identity = ?", (text,)).fetchone()[0])

    def scored(self, metric: int) -> set[str]:
        """Keys of the pairs that this metric has a score for; failures do not count, so that they are tried again."""
        query = "SELECT key FROM score JOIN pair ON pair.id = pair WHERE metric = ? AND score IS NOT NULL"
        return {key for (key,) in self._db.execute(query, (metric,))}

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Keep outcomes, all or none of them; a score that is there already stays, a failure gives way."""
        rows = list(outcomes)
        with self._writing():
            self._db.executemany(
                "INSERT OR IGNORE INTO pair (key, reference, distorted) VALUES (?, ?, ?)",
                [(row.key, row.reference, row.distorted) for row in rows],
            )
            self._db.executemany(
                "INSERT INTO score SELECT ?, id, ?, ?, ?, ? FROM pair WHERE key = ? "
                "ON CONFLICT DO UPDATE SET score = excluded.score, seconds = excluded.seconds, error = excluded.error, "
                "time = excluded.time WHERE score.score IS NULL",
                [(row.metric, row.score, row.seconds, row.error, time.time(), row.key) for row in rows],
            )

    def frame(self, metric: int) -> pd.DataFrame:
        """All outcomes of a metric: ``score``, ``seconds``, ``error`` by ``key``."""
        query = "SELECT key, score, seconds, error FROM score JOIN pair ON pair.id = pair WHERE metric = ?"
        rows = self._db.execute(query, (metric,)).fetchall()
        table = pd.DataFrame(rows, columns=["key", "score", "seconds", "error"]).set_index("key")
        return table.astype({"score": float, "seconds": float, "error": object})

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        # The lock is taken at once: a transaction that first reads and then writes could be refused half-way.
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")
