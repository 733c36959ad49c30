"""Scores on disk as they come: one SQLite file that survives a kill at any moment and can be written by several runs."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sqlite3
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from inspect import getmodule
from itertools import cycle
from pathlib import Path
from types import FunctionType, MappingProxyType, ModuleType
from typing import Any, TypeAlias

import pandas as pd

from msds_plugin import registry
from msds_plugin.adapters.images.pairs import Pair
from msds_plugin.adapters.scorers import Scorer, is_registered
from msds_plugin.adapters.scoring.files import content
from msds_plugin.adapters.scoring.loop import Result, Run, joined, score_pairs
from msds_plugin.adapters.wrap import MULTISCALE_PREFIX
from msds_plugin.msds import CallableMetric

_Path: TypeAlias = str | os.PathLike[str]

_APPLICATION = 0x4D534453  # "MSDS", in the header of the file
_FORMAT = 2
_PATIENCE = 120.0  # seconds to wait for another run that is writing
_SIDES = ["reference", "distorted"]
#: Packages whose versions are not asked for.
_OF_TORCH_OR_PYTHON = sys.stdlib_module_names | {"torch", "torchvision"}
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
            with self._told():
                if alone:
                    self._db.execute("PRAGMA locking_mode = EXCLUSIVE")  # held until the end, also that by a signal
                # A commit is on disk before it returns: what was reported is kept, also when the machine goes down.
                self._db.execute("PRAGMA synchronous = FULL")
            with self._changing():
                self._check_or_make()
        except BaseException as error:
            self._db.close()
            if isinstance(error, ResultsWriteError) and "locked" in str(error):
                raise ResultsInUseError(f"another run is writing {self._what}: wait for it, or choose another name") from error
            raise

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

    def metric(self, name: str, identity: Mapping[str, Any]) -> int:
        """The number of the metric of this identity (all that its scores depend on, plain values), new or known."""
        text = json.dumps(identity, sort_keys=True)
        with self._changing():
            self._db.execute("INSERT OR IGNORE INTO metric (name, identity) VALUES (?, ?)", (_text(name), text))
            return int(self._db.execute("SELECT id FROM metric WHERE identity = ?", (text,)).fetchone()[0])

    def scored(self, metric: int) -> set[str]:
        """Keys of the pairs that this metric has a score for; failures do not count, so that they are tried again."""
        query = "SELECT key FROM score JOIN pair ON pair.id = pair WHERE metric = ? AND score IS NOT NULL"
        with self._told():
            return {key for (key,) in self._db.execute(query, (metric,))}

    def add(self, found: Sequence[tuple[int, Result]]) -> None:
        """Keep what metrics, by number, said of pairs, all or none of it; a score that is there stays, a failure gives way.

        Raises:
            ResultsWriteError: the disk is full, for example.
        """
        pairs = [(each.key, _text(str(each.pair.reference)), _text(str(each.pair.distorted))) for _, each in found]
        scores = [
            (metric, each.score, each.seconds, each.error and _text(each.error), time.time(), each.key)
            for metric, each in found
        ]
        with self._changing():
            self._db.executemany("INSERT OR IGNORE INTO pair (key, reference, distorted) VALUES (?, ?, ?)", pairs)
            self._db.executemany(
                "INSERT INTO score SELECT ?, id, ?, ?, ?, ? FROM pair WHERE key = ? "
                "ON CONFLICT DO UPDATE SET score = excluded.score, seconds = excluded.seconds, error = excluded.error, "
                "time = excluded.time WHERE score.score IS NULL",
                scores,
            )

    def frame(self, metric: int) -> pd.DataFrame:
        """All that is kept of a metric: ``score``, ``seconds``, ``error`` by ``key``."""
        query = "SELECT key, score, seconds, error FROM score JOIN pair ON pair.id = pair WHERE metric = ?"
        with self._told():
            rows = self._db.execute(query, (metric,)).fetchall()
        table = pd.DataFrame(rows, columns=["key", "score", "seconds", "error"]).set_index("key")
        return table.astype({"score": float, "seconds": float, "error": object})

    def remove(self) -> None:
        """Close the file and delete it."""
        self._db.close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise ResultsWriteError(f"cannot write {self._what}: {error}") from error
        except sqlite3.IntegrityError:
            raise
        except sqlite3.DatabaseError as error:
            reason = " ".join(str(error).split())
            raise ResultsFileError(
                f"{self.path} is not a results file, or damaged ({reason}): choose another name, or delete it to start afresh"
            ) from error

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with self._told():
            # The lock is taken at once: a transaction that first reads and then writes could be refused half-way.
            self._db.execute(self._begin)
            with self._db:  # commits, or takes back
                yield


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


def pair_keys(pairs: Sequence[Pair], masks: Mapping[Any, Path] = MappingProxyType({})) -> list[str]:
    """For each pair a text that follows from the content of its two files, wherever they are, and of the reference's mask.

    Every file is read once. What cannot be read, or is no regular file, counts as its path.
    """
    files = list(dict.fromkeys([path for pair in pairs for path in (pair.reference, pair.distorted)] + list(masks.values())))
    pool = ThreadPoolExecutor(min(8, max(1, len(files))))
    try:
        contents = dict(zip(files, pool.map(content, files), strict=True))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    masked = {reference: contents[mask] for reference, mask in masks.items()}
    return [
        joined(contents[pair.reference], contents[pair.distorted], pair.half, masked.get(pair.reference, "")) for pair in pairs
    ]


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
    """Of the packages whose code computes the metric; of files that are not installed, as those of ``--import``, a hash of each
    and of those that they import from.
    """
    parts = [part for module in scorer.metric.weighted_modules() for part in module.modules()]
    code: list[Any] = [Scorer, *map(type, parts), *(part.metric for part in parts if isinstance(part, CallableMetric))]
    name = scorer.name.partition("(")[0].removeprefix(MULTISCALE_PREFIX)
    if is_registered(name):
        code.append(registry.get(name).factory)
    modules = list(dict.fromkeys(getmodule(each.func if isinstance(each, partial) else each) for each in code))
    found: dict[str, str] = {}
    for module in filter(None, modules):  # more come on the way
        package = module.__name__.partition(".")[0].replace("msds_plugin", "msds-plugin")
        installed = package == "msds-plugin" or _is_installed(module)
        if package in _OF_TORCH_OR_PYTHON or (package if installed else module.__name__) in found:
            continue
        with suppress(PackageNotFoundError):
            found[package] = version(package)
        if not installed or package not in found:
            found[module.__name__] = content(getattr(module, "__file__", None) or module.__name__)[:16]
        if not installed:
            used = [getmodule(value) for value in vars(module).values() if isinstance(value, FunctionType | type | ModuleType)]
            modules += [each for each in used if each is not None and not _is_installed(each)]
    return dict(sorted(found.items()))


def _is_installed(module: ModuleType) -> bool:
    return "-packages" in (getattr(module, "__file__", None) or "")


# Scores that are kept as they come


def score_and_keep(
    kept: Results, scorers: Mapping[int, Scorer], pairs: Mapping[str, Pair], run: Run, warm_up: bool = False
) -> Generator[tuple[int, Result], None, None]:
    """Compute what is lacking, and give each result with its metric's number; it is on disk half a second later at most.

    A score belongs to the content that was decoded: a file that changed since its key was taken has an error and no score.

    Args:
        kept: where they go.
        scorers: by their numbers there, see :meth:`Results.metric`.
        pairs: by their keys, see :func:`pair_keys`; any other keys where ``kept`` is in memory.
        run: how.
        warm_up: score one pair beforehand, so that what is slow the first time does not count as a metric's time.

    Raises:
        ResultsWriteError: the disk is full; every result that was computed has been given.
    """
    done = {number: kept.scored(number) for number in scorers}
    work: dict[tuple[int, ...], dict[Pair, str]] = defaultdict(dict)
    for key, pair in pairs.items():
        work[tuple(number for number in scorers if key not in done[number])][pair] = key
    work.pop((), None)
    for numbers, keys in work.items():
        chosen = [scorers[number] for number in numbers]
        if warm_up:
            list(score_pairs([next(iter(keys))], chosen, run))
        waiting: list[tuple[int, Result]] = []
        due = time.monotonic() + _WRITE_EVERY
        with closing(score_pairs(keys, chosen, run, kept.path is not None)) as results:
            try:
                for number, result in zip(cycle(numbers), results, strict=False):
                    waiting.append((number, _for_key(keys[result.pair], finite(result))))
                    yield waiting[-1]
                    if time.monotonic() >= due:
                        some, waiting = waiting, []  # first, as what cannot be kept now cannot be kept below either
                        kept.add(some)
                        due = time.monotonic() + _WRITE_EVERY
            finally:
                if waiting:
                    kept.add(waiting)


def finite(result: Result) -> Result:
    """The same, an error where the score is infinite."""
    if result.error is not None or math.isfinite(result.score):
        return result
    return replace(result, error=f"the score is {result.score}", score=math.nan)


def _for_key(key: str, result: Result) -> Result:
    """A result of the pair with this key; an error if its files have become others since."""
    changed = result.error is None and result.key not in (None, key)
    error = "one of its two files changed while the run lasted: start the same command again" if changed else result.error
    return replace(result, key=key, error=error, score=math.nan if error else result.score)


class Scored:
    """A table with a row for each pair and a column for each metric; only what no earlier run kept is computed.

    ``groups``: a name for each pair, by which means are taken too.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        scorers: Sequence[Scorer],
        kept: Results,
        run: Run,
        groups: Sequence[str] | None = None,
    ) -> None:
        self.pairs, self.scorers, self.groups = pairs, scorers, groups
        self.kept, self._run = kept, run
        by_content = kept.path is not None
        self._keys = pair_keys(pairs, run.masks) if by_content else [*map(str, range(len(pairs)))]
        self._numbers = [
            kept.metric(scorer.name, identity(scorer, run) if by_content else {"place": place})
            for place, scorer in enumerate(scorers)
        ]
        #: What is known by key, a cell for each metric: a score, why there is none, or None for what was not tried yet.
        self._rows: dict[str, list[float | str | None]] = {key: [None] * len(scorers) for key in self._keys}
        for place, number in enumerate(self._numbers):
            for key, score in kept.frame(number)["score"].dropna().items():
                if key in self._rows:
                    self._rows[str(key)][place] = score

    @property
    def ready(self) -> int:
        """How many scores there are."""
        return sum(isinstance(cell, float) for key in self._keys for cell in self._rows[key])

    def run(self) -> Generator[None, None, None]:
        """Compute what is lacking; yields for each pair that is complete, those first that are."""
        waiting = {key: pair for key, pair in zip(self._keys, self.pairs, strict=True) if None in self._rows[key]}
        copies = Counter(self._keys)
        yield from (None for key in self._keys if key not in waiting)
        scorers = dict(zip(self._numbers, self.scorers, strict=True))
        with closing(score_and_keep(self.kept, scorers, waiting, self._run)) as results:
            for number, result in results:
                row = self._rows[str(result.key)]
                row[self._numbers.index(number)] = result.error or result.score
                if None not in row:
                    yield from [None] * copies[str(result.key)]

    def frame(self) -> pd.DataFrame:
        """The pairs that are complete, in the order asked for: ``reference``, ``distorted``, ``folder`` if any, and metrics."""
        names = [scorer.name for scorer in self.scorers]
        cells = [self._rows[key] for key in self._keys]
        paths = [(_text(str(pair.reference)), _text(str(pair.distorted))) for pair in self.pairs]
        table = pd.DataFrame([(*both, *row) for both, row in zip(paths, cells, strict=True)], columns=[*_SIDES, *names])
        if self.groups:
            table.insert(2, "folder", self.groups)
        table = table[[None not in row for row in cells]].reset_index(drop=True)
        for scorer in self.scorers:
            scores = (cell if isinstance(cell, float) else math.nan for cell in table[scorer.name])
            table[scorer.name] = [scorer.shown(score) for score in scores]
        return table

    def means(self) -> pd.DataFrame:
        """Mean, standard deviation (of a sample) and number of scores per metric, and per folder where there are several."""
        table = self.frame()
        folders = [Path(path).parent.as_posix() for path in table["distorted"]]
        if self.groups is None and len(set(folders)) > 1:
            table = table.assign(folder=folders)
        parts = [(str(name), part) for name, part in table.groupby("folder", sort=False)] if "folder" in table else []
        if len(parts) != 1:
            parts.append(("all", table))
        rows = [
            [name, scorer.name, part[scorer.name].mean(), part[scorer.name].std(), int(part[scorer.name].count())]
            for name, part in parts
            for scorer in self.scorers
            if not scorer.words
        ]
        means = pd.DataFrame(rows, columns=["folder", "metric", "mean", "std", "n"])
        return means if "folder" in table else means.drop(columns="folder")

    @property
    def failures(self) -> list[tuple[Pair, str, str]]:
        """What could not be scored: the pair, the metric and the reason."""
        return [
            (pair, scorer.name, cell)
            for pair, key in zip(self.pairs, self._keys, strict=True)
            for scorer, cell in zip(self.scorers, self._rows[key], strict=True)
            if isinstance(cell, str)
        ]
