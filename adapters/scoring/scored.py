"""Scores of all pairs by all metrics, resumable: what an earlier run kept is taken, and only the rest is computed."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd

from msds_plugin.adapters.images.pairs import Pair
from msds_plugin.adapters.scorers import Scorer
from msds_plugin.adapters.scoring.options import Run
from msds_plugin.adapters.scoring.store import Results, identity, pair_keys, score_and_keep


class Scored:
    """A table with a row for each pair and a column for each metric.

    Args:
        pairs: its rows.
        scorers: its columns.
        kept: where scores are kept, and taken from.
        run: how they are made.
        groups: a name for each pair, by which means are taken too.
    """

    def __init__(
        self, pairs: Sequence[Pair], scorers: Sequence[Scorer], kept: Results, run: Run, groups: Sequence[str] | None = None
    ) -> None:
        self.pairs, self.scorers, self.groups = pairs, scorers, groups
        self.kept, self._run = kept, run
        by_content = kept.path is not None
        self._keys = pair_keys(pairs) if by_content else [*map(str, range(len(pairs)))]
        self._numbers = [
            kept.metric(scorer.name, identity(scorer, run) if by_content else {"place": place})
            for place, scorer in enumerate(scorers)
        ]
        self._found: dict[tuple[int, str], float] = {}
        self._errors: dict[tuple[int, str], str] = {}
        for number in self._numbers:
            scores = kept.frame(number)["score"].dropna()
            self._found |= {(number, key): scores[key] for key in set(self._keys) & set(scores.index)}

    @property
    def ready(self) -> int:
        """How many scores there are."""
        return sum((number, key) in self._found for key in self._keys for number in self._numbers)

    @property
    def is_whole(self) -> bool:
        """Whether every pair has every score."""
        return self.ready == len(self._keys) * len(self._numbers)

    def run(self) -> Generator[None, None, None]:
        """Compute what is lacking; yields for each pair that is complete, those first that are."""
        waiting = dict.fromkeys(self._keys, 0)
        for key in self._keys:
            waiting[key] += 1
        complete = {key for key in waiting if self._row(key) is not None}
        yield from (None for key in self._keys if key in complete)
        pairs = {key: pair for key, pair in zip(self._keys, self.pairs, strict=True) if key not in complete}
        scorers = dict(zip(self._numbers, self.scorers, strict=True))
        with closing(score_and_keep(self.kept, scorers, pairs, self._run)) as outcomes:
            for outcome in outcomes:
                place = outcome.metric, outcome.key
                if outcome.score is None:
                    self._errors[place] = outcome.error or ""
                else:
                    self._found[place] = outcome.score
                if self._row(outcome.key) is not None:
                    yield from [None] * waiting[outcome.key]

    def _row(self, key: str) -> list[float] | None:
        """The scores of a pair, NaN where a metric failed; None if some were not tried yet."""
        places = [(number, key) for number in self._numbers]
        if not all(place in self._found or place in self._errors for place in places):
            return None
        return [self._found.get(place, math.nan) for place in places]

    def frame(self) -> pd.DataFrame:
        """The pairs that are complete, in the order asked for: ``reference``, ``distorted``, ``folder`` if any, and metrics."""
        rows: list[list[Any]] = []
        for place, (pair, key) in enumerate(zip(self.pairs, self._keys, strict=True)):
            if (scores := self._row(key)) is not None:
                group = [] if self.groups is None else [self.groups[place]]
                rows.append([_text(pair.reference), _text(pair.distorted), *group, *scores])
        names = ["reference", "distorted", *([] if self.groups is None else ["folder"])]
        return pd.DataFrame(rows, columns=[*names, *(scorer.name for scorer in self.scorers)])

    @property
    def failures(self) -> list[tuple[Pair, str, str]]:
        """What could not be scored: the pair, the metric and the reason."""
        return [
            (pair, scorer.name, self._errors[number, key])
            for pair, key in zip(self.pairs, self._keys, strict=True)
            for number, scorer in zip(self._numbers, self.scorers, strict=True)
            if (number, key) in self._errors
        ]


def summarise(table: pd.DataFrame, metrics: Sequence[str], by: str | None = None) -> pd.DataFrame:
    """Mean, standard deviation (of a sample) and number of scores per metric, and per group of the column ``by`` as well."""
    parts = [] if by is None else [(str(name), part) for name, part in table.groupby(by, sort=False)]
    if len(parts) != 1:
        parts.append(("all", table))
    rows = [
        [name, metric, part[metric].mean(), part[metric].std(), int(part[metric].count())]
        for name, part in parts
        for metric in metrics
    ]
    summary = pd.DataFrame(rows, columns=["folder", "metric", "mean", "std", "n"])
    return summary if by is not None else summary.drop(columns="folder")


def _text(path: Path) -> str:
    # A name need not be text: bytes that are none stay visible, and can be written to any file.
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")
