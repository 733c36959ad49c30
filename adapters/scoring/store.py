"""Scores on disk as they come: one SQLite file that survives a kill at any moment and can be written by several runs."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import cycle
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import pandas as pd

from msds_plugin.adapters.images.pairs import Pair
from msds_plugin.adapters.scorers import Scorer
from msds_plugin.adapters.scoring.files import content
from msds_plugin.adapters.scoring.loop import Result, joined, score_pairs
from msds_plugin.adapters.scoring.options import Run

_Path: TypeAlias = str | os.PathLike[str]

_APPLICATION = 0x4D534453  # "MSDS", in the header of the file
_FORMAT = 2
_PATIENCE = 120.0  # seconds to wait for another run that is writing
_WRITE_EVERY = 0.5  # seconds: a commit that is on disk for certain takes some milliseconds

_TABLES = f"""
CREATE TABLE metric (id INTEGER PRIMARY KEY, name TEXT NOT NULL, identity TEXT NOT NULL UNIQUE);
CREATE TABLE pair (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, reference TEXT NOT NULL, distorted TEXT NOT NULL);
CREATE TABLE score (
    metric INTEGER NOT NULL REFERENCES metric, pair INTEGER NOT NULL REFERENCES pair,
    score REAL, seconds REAL, error TEXT, time REAL NOT NULL,
    PRIMARY KEY (metric, pair), CHECK ((score IS NULL) <> (error IS NULL))
) WITHOUT ROWID;
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_FORMAT};
"""


class ResultsFileError(ValueError):
    """A results file that is something else, damaged, or of another version."""


class ResultsInUseError(OSError):
    """A results file that another run has for itself."""


class ResultsWriteError(OSError):
    """What was computed cannot be kept: the disk is full, for example. What was kept before is safe."""


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


class Results:
    """Scores by metric and pair, each kept from the moment it is added.

    A metric is told apart by its whole identity (name, options, weights, versions, device), not by its name, so that scores
    of different origin never mix. Several processes may work on one file. Use it as a context manager.

    Args:
        path: the file, made if there is none; None to keep everything in memory.
        alone: no other run may have it at the same time.
        what: the user's name for what it is about, where that is not the file itself.

    Raises:
        ResultsFileError: the file is something else, damaged, or of another version.
        ResultsInUseError: another run has it, and one of the two wants it alone.
        OSError: it cannot be made or opened.
    """

    def __init__(self, path: _Path | None = None, alone: bool = False, what: _Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        self._what = what or path
        self._begin = "BEGIN EXCLUSIVE" if alone else "BEGIN IMMEDIATE"
        if self.path is not None and not self.path.parent.is_dir():
            raise FileNotFoundError(f"no folder {self.path.parent} for the results file {self.path.name}")
        try:
            place = ":memory:" if self.path is None else self.path
            self._db = sqlite3.connect(place, timeout=0.0 if alone else _PATIENCE, isolation_level=None)
        except sqlite3.Error as error:
            raise OSError(f"cannot open the results file {self.path}: {error}") from error
        try:
            if alone:
                self._db.execute("PRAGMA locking_mode = EXCLUSIVE")  # held until the end, also that by a signal
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        try:
            # A commit is on disk before it returns: what was reported is kept, also when the machine goes down.
            self._db.execute("PRAGMA synchronous = FULL")
            with self._writing():
                self._check_or_make()
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise ResultsInUseError(f"another run is writing {self._what}: wait for it, or choose another name") from error
            raise OSError(f"cannot open the results file {self.path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error

    def _check_or_make(self) -> None:
        application, version, tables = (
            self._db.execute(query).fetchone()[0]
            for query in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
        )
        if tables == 0:
            for statement in _TABLES.split(";"):
                self._db.execute(statement)
        elif application != _APPLICATION:
            raise ResultsFileError(f"{self.path} is a database of another program: choose another name")
        elif version != _FORMAT:
            raise ResultsFileError(f"{self.path} has format {version}, this version writes {_FORMAT}: choose another name")
        elif (found := self._db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(found)

    def _damaged(self, error: sqlite3.Error) -> ResultsFileError:
        reason = " ".join(str(error).split())
        return ResultsFileError(
            f"{self.path} is not a results file, or damaged ({reason}): choose another name, or delete it to start afresh"
        )

    def metric(self, name: str, identity: Mapping[str, Any]) -> int:
        """The number of the metric of this identity, new or known.

        Args:
            name: for reading.
            identity: all that its scores depend on; plain values.
        """
        text = json.dumps(identity, sort_keys=True)
        with self._told(), self._writing():
            self._db.execute("INSERT OR IGNORE INTO metric (name, identity) VALUES (?, ?)", (_text(name), text))
        return int(self._db.execute("SELECT id FROM metric WHERE identity = ?", (text,)).fetchone()[0])

    def scored(self, metric: int) -> set[str]:
        """Keys of the pairs that this metric has a score for; failures do not count, so that they are tried again."""
        query = "SELECT key FROM score JOIN pair ON pair.id = pair WHERE metric = ? AND score IS NOT NULL"
        with self._told():
            return {key for (key,) in self._db.execute(query, (metric,))}

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Keep outcomes, all or none of them; a score that is there already stays, a failure gives way.

        Raises:
            ResultsWriteError: the disk is full, for example.
        """
        if not (rows := list(outcomes)):
            return
        with self._told(), self._writing():
            self._db.executemany(
                "INSERT OR IGNORE INTO pair (key, reference, distorted) VALUES (?, ?, ?)",
                [(row.key, _text(row.reference), _text(row.distorted)) for row in rows],
            )
            self._db.executemany(
                "INSERT INTO score SELECT ?, id, ?, ?, ?, ? FROM pair WHERE key = ? "
                "ON CONFLICT DO UPDATE SET score = excluded.score, seconds = excluded.seconds, error = excluded.error, "
                "time = excluded.time WHERE score.score IS NULL",
                [(row.metric, row.score, row.seconds, row.error and _text(row.error), time.time(), row.key) for row in rows],
            )

    def frame(self, metric: int) -> pd.DataFrame:
        """All outcomes of a metric: ``score``, ``seconds``, ``error`` by ``key``."""
        query = "SELECT key, score, seconds, error FROM score JOIN pair ON pair.id = pair WHERE metric = ?"
        with self._told():
            rows = self._db.execute(query, (metric,)).fetchall()
        table = pd.DataFrame(rows, columns=["key", "score", "seconds", "error"]).set_index("key")
        return table.astype({"score": float, "seconds": float, "error": object})

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def remove(self) -> None:
        """Close the file and delete it."""
        self._db.close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise ResultsWriteError(f"cannot write {self._what}: {error}") from error
        except sqlite3.IntegrityError:
            raise
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        # The lock is taken at once: a transaction that first reads and then writes could be refused half-way.
        self._db.execute(self._begin)
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # after some errors SQLite has rolled back by itself
                self._db.execute("ROLLBACK")
            raise


def _text(text: str) -> str:
    # A file's name need not be text, and SQLite keeps nothing else.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def store_beside(output: Path) -> Path:
    """The hidden file that keeps the scores of a table until all are there."""
    target = Path(os.path.realpath(output))
    name = target.name
    if len(os.fsencode(name)) > 200:  # the file system's longest name leaves no room for more
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    return target.with_name(f".{name}.msds")


# What scores depend on


def pair_key(reference: _Path, distorted: _Path) -> str:
    """As :func:`pair_keys`, of one pair."""
    return joined(content(reference), content(distorted))


def pair_keys(pairs: Iterable[Pair | tuple[_Path, _Path]], masks: Mapping[Any, _Path] = MappingProxyType({})) -> list[str]:
    """For each pair or (reference, distorted) a text that follows from the content of the two files, wherever they are.

    Every file is read once. What cannot be read, or is no regular file, counts as its path.

    Args:
        pairs: the files.
        masks: the masks of references, whose content counts too.
    """
    sides = [(pair.reference, pair.distorted, pair.half) if isinstance(pair, Pair) else (*pair, "") for pair in pairs]
    files = list(dict.fromkeys([path for *both, _ in sides for path in both] + list(masks.values())))
    pool = ThreadPoolExecutor(min(8, max(1, len(files))))
    try:
        contents: dict[_Path, str] = dict(zip(files, pool.map(content, files), strict=True))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return [joined(contents[one], contents[other], half, contents.get(masks.get(one, ""), "")) for one, other, half in sides]


def identity(scorer: Scorer, run: Run) -> dict[str, Any]:
    """All that the scores of a metric depend on besides the images, as plain values. Hashes its weights, so call it once."""
    reading = {name: value for name, value in asdict(run.reading).items() if name != "max_pixels"}
    return {
        "metric": scorer.name,
        "options": {key: str(value) for key, value in scorer.options.items()},
        "source": scorer.metric.source(),
        "versions": _versions(scorer),
        "device": scorer.device.type,
        "amp": run.amp,
        "reading": reading,
    }


def _versions(scorer: Scorer) -> dict[str, str]:
    """Of the packages whose code computes the metric."""
    packages = {type(part).__module__.partition(".")[0] for part in scorer.metric.modules()} - {"torch", "torchvision"}
    packages |= {"msds-plugin", "piq"} if scorer.name.startswith("piq:") else {"msds-plugin"}
    found = {}
    for package in sorted(packages):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


# Scores that are kept as they come


def score_and_keep(
    kept: Results, scorers: Mapping[int, Scorer], pairs: Mapping[str, Pair], run: Run, warm_up: bool = False
) -> Generator[Outcome, None, None]:
    """Compute what is lacking, and give each outcome; it is on disk half a second later at most.

    A score belongs to the content that was decoded: a file that changed since its key was taken has an error and no score.

    Args:
        kept: where they go.
        scorers: by their numbers there, see :meth:`Results.metric`.
        pairs: by their keys, see :func:`pair_keys`; any other keys where ``kept`` is in memory.
        run: how.
        warm_up: score one pair beforehand, so that what is slow the first time does not count as a metric's time.

    Raises:
        ResultsWriteError: the disk is full; every outcome that was computed has been given.
    """
    done = {number: kept.scored(number) for number in scorers}
    work: dict[tuple[int, ...], dict[Pair, str]] = defaultdict(dict)
    for key, pair in pairs.items():
        work[tuple(number for number in scorers if key not in done[number])][pair] = key
    work.pop((), None)
    by_content = kept.path is not None
    for numbers, keys in work.items():
        chosen = [scorers[number] for number in numbers]
        if warm_up:
            list(score_pairs([next(iter(keys))], chosen, run))
        waiting: list[Outcome] = []
        due = time.monotonic() + _WRITE_EVERY
        with closing(score_pairs(keys, chosen, run, by_content)) as results:
            try:
                for number, result in zip(cycle(numbers), results, strict=False):
                    waiting.append(_outcome(number, keys[result.pair], result))
                    yield waiting[-1]
                    if time.monotonic() >= due:
                        kept.add(waiting)
                        waiting.clear()
                        due = time.monotonic() + _WRITE_EVERY
            except ResultsWriteError:  # a disk that is full stays so
                waiting.clear()
                raise
            finally:
                kept.add(waiting)


def _outcome(number: int, key: str, result: Result) -> Outcome:
    error = result.error
    if error is None and not math.isfinite(result.score):
        error = f"the score is {result.score}"
    if error is None and result.key not in (None, key):
        error = "one of its two files changed while the run lasted: start the same command again"
    score = None if error else result.score
    return Outcome(number, key, str(result.pair.reference), str(result.pair.distorted), score, result.seconds, error)


class Scored:
    """A table with a row for each pair and a column for each metric; only what no earlier run kept is computed.

    Args:
        pairs: its rows.
        scorers: its columns.
        kept: where scores are kept, and taken from.
        run: how they are made.
        groups: a name for each pair, by which means are taken too.
        words: by the names of metrics whose scores are places in a list of words, that list.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        scorers: Sequence[Scorer],
        kept: Results,
        run: Run,
        groups: Sequence[str] | None = None,
        words: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        self.pairs, self.scorers, self.groups, self.words = pairs, scorers, groups, words
        self.kept, self._run = kept, run
        by_content = kept.path is not None
        self._keys = pair_keys(pairs, run.masks) if by_content else [*map(str, range(len(pairs)))]
        self._numbers = [
            kept.metric(scorer.name, identity(scorer, run) if by_content else {"place": place})
            for place, scorer in enumerate(scorers)
        ]
        self._found: dict[tuple[int, str], float | str] = {}  # scores, or why there is none
        for number in self._numbers:
            self._found |= {(number, str(key)): score for key, score in kept.frame(number)["score"].dropna().items()}

    @property
    def ready(self) -> int:
        """How many scores there are."""
        return sum(isinstance(found, float) for key in self._keys for found in self._row(key))

    @property
    def is_whole(self) -> bool:
        """Whether every pair has every score."""
        return self.ready == len(self._keys) * len(self._numbers)

    def run(self) -> Generator[None, None, None]:
        """Compute what is lacking; yields for each pair that is complete, those first that are."""
        waiting = {key: pair for key, pair in zip(self._keys, self.pairs, strict=True) if None in self._row(key)}
        rows = Counter(self._keys)
        yield from (None for key in self._keys if key not in waiting)
        scorers = dict(zip(self._numbers, self.scorers, strict=True))
        with closing(score_and_keep(self.kept, scorers, waiting, self._run)) as outcomes:
            for outcome in outcomes:
                found = outcome.error or "" if outcome.score is None else outcome.score
                self._found[outcome.metric, outcome.key] = found
                if None not in self._row(outcome.key):
                    yield from [None] * rows[outcome.key]

    def _row(self, key: str) -> list[float | str | None]:
        """What is known of a pair by each metric; None for what was not tried yet."""
        return [self._found.get((number, key)) for number in self._numbers]

    def frame(self) -> pd.DataFrame:
        """The pairs that are complete, in the order asked for: ``reference``, ``distorted``, ``folder`` if any, and metrics."""
        rows = [
            [_text(str(pair.reference)), _text(str(pair.distorted)), *group]
            + [self._cell(scorer.name, found) for scorer, found in zip(self.scorers, self._row(key), strict=True)]
            for pair, key, *group in zip(self.pairs, self._keys, *filter(None, [self.groups]), strict=True)
            if None not in self._row(key)
        ]
        names = ["reference", "distorted", *(["folder"] if self.groups else [])]
        return pd.DataFrame(rows, columns=[*names, *(scorer.name for scorer in self.scorers)])

    def _cell(self, metric: str, found: float | str | None) -> float | str:
        if not isinstance(found, float):
            return math.nan
        return self.words[metric][int(found)] if metric in self.words else found

    @property
    def failures(self) -> list[tuple[Pair, str, str]]:
        """What could not be scored: the pair, the metric and the reason."""
        return [
            (pair, scorer.name, found)
            for pair, key in zip(self.pairs, self._keys, strict=True)
            for scorer, found in zip(self.scorers, self._row(key), strict=True)
            if isinstance(found, str)
        ]
