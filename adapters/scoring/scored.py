"""Pairs beside what metrics say of them, some of it kept from an earlier run."""

from __future__ import annotations

import hashlib
import math
import os
from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd

from ..common.scorer import Scorer
from ..images.pairs import Pair
from ..images.samples import Reading
from ..results.keys import pair_keys
from ..results.store import Outcome, Results
from ..results.tables import read_table, write_table
from .identity import identity
from .keeping import lacking, score_and_keep


def store_beside(output: Path) -> Path:
    """The hidden file that keeps the scores of a table until all are there."""
    target = Path(os.path.realpath(output))
    name = target.name
    if len(os.fsencode(name)) > 200:  # the file system's longest name leaves no room for more
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    return target.with_name(f".{name}.msds")


class Scored:
    """A table that fills.

    Args:
        pairs: its rows.
        scorers: its columns.
        kept: where scores are kept, and taken from.
        amp: they are made under autocast.
        reading: what is stated about the files.
    """

    def __init__(self, pairs: Sequence[Pair], scorers: Sequence[Scorer], kept: Results, amp: bool, reading: Reading) -> None:
        self.pairs = pairs
        self.scorers = scorers
        self._kept = kept
        self._reading = reading
        self._keys = pair_keys((pair.reference, pair.distorted) for pair in pairs)
        self._numbers = [kept.metric(scorer.name, identity(scorer, scorer.name, amp, reading)) for scorer in scorers]
        self._found: dict[tuple[int, str], float] = {}
        self._errors: dict[tuple[int, str], str] = {}
        for number in self._numbers:
            scores = kept.frame(number)["score"].dropna().to_dict()
            self._found |= {(number, key): scores[key] for key in self._keys if key in scores}

    @property
    def ready(self) -> int:
        """How many scores there are."""
        return sum((number, key) in self._found for key in self._keys for number in self._numbers)

    @property
    def is_whole(self) -> bool:
        """Whether every pair has every score."""
        return self.ready == len(self._keys) * len(self._numbers)

    def run(self, batch_size: int, workers: int | None, note: Callable[[str], object]) -> Generator[Pair, None, None]:
        """Compute what is lacking; gives each pair as it is complete, those first that are."""
        by_key = dict(zip(self._keys, self.pairs, strict=True))
        scorers = dict(zip(self._numbers, self.scorers, strict=True))
        yield from (pair for key, pair in zip(self._keys, self.pairs, strict=True) if self._row(key) is not None)
        work = lacking(self._kept, scorers, by_key)
        outcomes = score_and_keep(self._kept, scorers, by_key, work, batch_size, workers, self._reading, note, warm_up=False)
        places: dict[str, list[Pair]] = defaultdict(list)
        for key, pair in zip(self._keys, self.pairs, strict=True):
            places[key].append(pair)
        with closing(outcomes):
            for outcome in outcomes:
                self._take(outcome)
                if self._row(outcome.key) is not None:
                    yield from places[outcome.key]

    def _take(self, outcome: Outcome) -> None:
        if outcome.error is None and outcome.score is not None:
            self._found[outcome.metric, outcome.key] = outcome.score
        else:
            self._errors[outcome.metric, outcome.key] = outcome.error or ""

    def _row(self, key: str) -> list[float] | None:
        """The scores of a pair, NaN where a metric failed; None if some were not tried yet."""
        places = [(number, key) for number in self._numbers]
        if not all(place in self._found or place in self._errors for place in places):
            return None
        return [self._found.get(place, math.nan) for place in places]

    def rows(self) -> list[list[Any]]:
        """Reference, distorted and scores of every pair that is complete, in the order asked for."""
        return [
            [_text(pair.reference), _text(pair.distorted), *scores]
            for pair, key in zip(self.pairs, self._keys, strict=True)
            if (scores := self._row(key)) is not None
        ]

    @property
    def failures(self) -> list[tuple[Path, str, str]]:
        """What could not be scored: the distorted image, the metric and the reason."""
        return [
            (pair.distorted, scorer.name, self._errors[number, key])
            for pair, key in zip(self.pairs, self._keys, strict=True)
            for number, scorer in zip(self._numbers, self.scorers, strict=True)
            if (number, key) in self._errors
        ]

    def write(self, output: Path) -> str | None:
        """Replace the file by what there is; if an earlier run put more into it, leave it, and say so.

        Raises:
            OSError: it cannot be written; it is as it was.
        """
        rows = self.rows()
        before = 0 if len(rows) == len(self.pairs) else _length(output)
        if before > len(rows):
            return f"{output} holds {before} rows of an earlier run and stays as it is"
        columns = ["reference", "distorted", *(scorer.name for scorer in self.scorers)]
        write_table(pd.DataFrame(rows, columns=columns), output)
        return None


def _length(path: Path) -> int:
    try:
        return len(read_table(path))
    except (OSError, ValueError):
        return 0


def _text(path: Path) -> str:
    # A name need not be text: bytes that are none stay visible, and can be written to any file.
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")
