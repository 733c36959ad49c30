"""What a score means: the JPEG quality, blur, noise and shift that score the same, measured once on photographs."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.interpolate import PchipInterpolator

from msds_plugin import registry
from msds_plugin.adapters.scorers import Scorer

__all__ = ["Equivalent", "equivalents", "explain", "is_measured", "jpeg_equivalent"]

#: Made by tests/benchmarks/ladders.py: of each metric and distortion the quartiles over photographs on every rung, as
#: differences to the best score.
TABLE = Path(__file__).with_name("ladders.json")


class _Kind(NamedTuple):
    words: str
    number: str
    logarithmic: bool = True


KINDS = {
    "jpeg": _Kind("JPEG of quality {}", ".0f", logarithmic=False),
    "blur": _Kind("a Gaussian blur of {} px", ".2g"),
    "noise": _Kind("noise of {}", ".2g"),
    "shift": _Kind("a shift of {} px", ".2g"),
}


@dataclass(frozen=True)
class Equivalent:
    """What of one distortion scores as an image does.

    Levels are a JPEG quality, the standard deviation of a Gaussian blur in pixels, that of white noise on values in [0, 1], or
    a shift to the side in pixels. A level outside of what was measured is infinite, of the sign of its side.

    Attributes:
        distortion: ``jpeg``, ``blur``, ``noise`` or ``shift``.
        level: median over the photographs.
        low, high: quartiles over the photographs.
        rungs: the mildest and the strongest level that were measured.
    """

    distortion: str
    level: float
    low: float
    high: float
    rungs: tuple[float, float]

    def __str__(self) -> str:
        kind = KINDS[self.distortion]
        mildest, strongest = self.rungs
        if math.isinf(self.level):
            beyond = (self.level > 0) == (strongest > mildest)
            end = kind.words.format(format(strongest if beyond else mildest, kind.number))
            return f"beyond {end}" if beyond else f"milder than {end}"
        low, high = (self._shown(level) for level in (self.low, self.high))
        return f"as {kind.words.format(self._shown(self.level))} (half of the photographs from {low} to {high})"

    def _shown(self, level: float) -> str:
        side = f"under {min(self.rungs):g}" if level < 0 else f"over {max(self.rungs):g}"
        return side if math.isinf(level) else format(level, KINDS[self.distortion].number)


def equivalents(scorer: Scorer, score: float) -> list[Equivalent]:
    """What of each distortion has this score by this metric.

    Raises:
        ValueError: the metric was not measured, or the score is not a number.

    Example:
        >>> jpeg, blur, noise, shift = equivalents(create_scorer("msds-auto"), 0.93)  # doctest: +SKIP
        >>> print(jpeg)  # doctest: +SKIP
        as JPEG of quality 21 (half of the photographs from 20 to 24)
    """
    table = _table()
    if not is_measured(scorer):
        known = ", ".join(table["metrics"])
        raise ValueError(f"what a score of {scorer.name} means was not measured: it was for {known}, without further options")
    if math.isnan(score):
        raise ValueError(f"{scorer.name} gave no score")
    difference = abs(registry.get(scorer.name).best - score)
    found = []
    for distortion, quartiles in table["metrics"][scorer.name].items():
        rungs = table["rungs"][distortion]
        low, level, high = sorted(level_of(distortion, rungs, line, difference) for line in quartiles)
        found.append(Equivalent(distortion, level, low, high, (rungs[0], rungs[-1])))
    return found


def explain(scorer: Scorer, score: float) -> str:
    """The same in words, a line for each distortion; of a metric that was not measured a sentence that says so."""
    try:
        found = [str(each) for each in equivalents(scorer, score)]
    except ValueError as error:
        return str(error)
    if score == registry.get(scorer.name).best:
        found = ["as identical images"]
    return "\n  ".join([f"{scorer.name} {score:.4f}:", *found])


def jpeg_equivalent(scorer: Scorer, score: float) -> float:
    """The JPEG quality that has this score on half of the photographs, infinite outside of 5 to 95; NaN without a score.

    Raises:
        ValueError: the metric was not measured.
    """
    return math.nan if math.isnan(score) else equivalents(scorer, score)[0].level


def is_measured(scorer: Scorer) -> bool:
    """Whether it is known what scores of this metric mean: it is one of ours, without options that change scores."""
    return scorer.name in _table()["metrics"] and scorer.ours and not set(scorer.options) - {"runtime", "tile"}


@cache
def _table() -> Any:
    return json.loads(TABLE.read_text(encoding="utf-8"))


def level_of(distortion: str, rungs: list[float], differences: list[float], difference: float) -> float:
    """The level of this difference to the best score, on a monotone curve through the rungs."""
    # A rung no worse than a milder one says nothing.
    worst, kept = np.unique(np.maximum.accumulate(differences), return_index=True)
    if not worst[0] <= difference <= worst[-1]:
        stronger = difference > worst[-1]
        return math.inf if stronger == (rungs[-1] > rungs[0]) else -math.inf
    levels = np.asarray(rungs, dtype=float)[kept]
    to, back = (np.log, np.exp) if KINDS[distortion].logarithmic else (np.asarray, float)
    return float(back(PchipInterpolator(np.log(worst), to(levels))(math.log(difference))))
