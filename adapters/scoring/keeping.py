"""Scores that are kept as they come, and computed only where they are not there yet."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace

from ..common.scorer import Scorer
from ..images.pairs import Pair
from ..images.read import Reading
from ..results.store import Outcome, Results
from .engine import Result, score_pairs

#: Seconds after which scores go to the results file, of waiting or of computing what waits (a batch comes all at once).
WRITE_EVERY = 0.5


def _silent(note: str) -> None:
    pass


def lacking(kept: Results, scorers: Mapping[int, Scorer], keys: Mapping[str, Pair]) -> dict[tuple[int, ...], list[str]]:
    """The keys of pairs by the numbers of the metrics that have no score for them."""
    found: dict[tuple[int, ...], list[str]] = defaultdict(list)
    there = {number: kept.scored(number) for number in scorers}
    for key in keys:
        found[tuple(number for number in scorers if key not in there[number])].append(key)
    found.pop((), None)
    return found


def score_and_keep(
    kept: Results,
    scorers: Mapping[int, Scorer],
    pairs: Mapping[str, Pair],
    work: Mapping[tuple[int, ...], Sequence[str]],
    batch_size: int,
    workers: int | None,
    reading: Reading | None = None,
    note: Callable[[str], object] = _silent,
    warm_up: bool = True,
) -> Generator[Outcome, None, None]:
    """Compute what is lacking, and give each outcome as it is kept, which takes half a second at most.

    Args:
        kept: where they go.
        scorers: by their numbers there.
        pairs: by their keys.
        work: from :func:`lacking`.
        batch_size: pairs per batch at most.
        workers, reading, note: see :func:`score_pairs`.
        warm_up: so that what is only slow the first time does not count as a metric's time.

    Raises:
        ResultsWriteError: the disk is full; every outcome that was computed has been given.
    """
    for numbers, keys in work.items():
        # By number in place of name, so that an outcome knows where it belongs.
        chosen = [replace(scorers[number], name=str(number)) for number in numbers]
        files = {pairs[key]: key for key in keys}
        if warm_up:
            list(
                score_pairs(
                    [next(iter(files))],
                    chosen,
                    workers=1 if workers is None else min(workers, 1),
                    reading=reading,
                    note=_silent,
                )
            )
        with _Writer(kept) as writer:
            for result in score_pairs(files, chosen, batch_size, workers, reading, note):
                outcome = _outcome(result, files[result.pair])
                writer.take(outcome)
                yield outcome
                writer.write_if_due()


def _outcome(result: Result, key: str) -> Outcome:
    error = result.error
    if error is None and not math.isfinite(result.score):
        error = f"the score is {result.score}"
    score = None if error else result.score
    return Outcome(
        int(result.metric), key, str(result.pair.reference), str(result.pair.distorted), score, result.seconds, error
    )


class _Writer:
    """Gathers outcomes for a moment, since to be on disk for certain takes some milliseconds each time."""

    def __init__(self, kept: Results) -> None:
        self.kept = kept
        self.waiting: list[Outcome] = []
        self.since, self.computed = time.monotonic(), 0.0

    def take(self, outcome: Outcome) -> None:
        self.waiting.append(outcome)
        self.computed += outcome.seconds or 0.0

    def write_if_due(self) -> None:
        if max(time.monotonic() - self.since, self.computed) >= WRITE_EVERY:
            self.write()

    def write(self) -> None:
        self.kept.add(self.waiting)
        self.waiting.clear()
        self.since, self.computed = time.monotonic(), 0.0

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or not issubclass(kind, OSError):  # a disk that is full stays so
            self.write()
