"""What size of set would have shown a difference: larger sets drawn from the one there is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from .bootstrap import SEED, resampled_srcc
from .correlation import Array, as_column

#: The chance of showing a difference that is there, asked of a set that counts as large enough.
POWER = 0.8
LEVEL = 0.05
#: Sets drawn for each number of references that is tried.
DRAWS = 200
#: Sizes that are tried on the way to the answer.
ROUNDS = 3
#: References beyond which nothing is said.
MOST = 1000


@dataclass(frozen=True)
class Needed:
    """The smallest set that would probably have shown a difference.

    Attributes:
        references: their number; NaN where the metrics do not differ here, or more than :data:`MOST` would be needed.
        images: the distorted images of so many references, as many of each as here.
        reason: why there is no number, else empty.
    """

    references: float
    images: float
    reason: str = ""


def needed(
    a: ArrayLike,
    b: ArrayLike,
    opinion: ArrayLike,
    reference: Sequence[Any] | pd.Series[Any],
    power: float = POWER,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Needed:
    """The number of references with which the difference in SRCC of two metrics would be shown with the wanted power.

    Sets of n references are drawn with replacement from those there are, each with all its images. Over many sets the
    difference in SRCC has a mean and a standard deviation s. The t test of :func:`significance`, with n - 1 degrees of
    freedom and no correction, shows the difference here (d) with the power of the noncentral t distribution with
    noncentrality d / s. The search starts from the size there is, takes s to fall with the square root of n to find the next
    size, and draws sets of that size to correct s, three times.

    It takes the difference seen here for the true one. A difference that is itself due to chance gives a number that is of no
    use: read it as "at least so many, if the difference is real".

    Args:
        a, b: scores of two metrics, signed so that both rise with the opinions; NaN where there is none.
        opinion: opinion scores.
        reference: which reference each row belongs to.
        power: chance of showing it.
        level: of the test.
        draws: sets per size.
        seed: of the draws.
    """
    first, second, y = as_column(a), as_column(b), as_column(opinion)
    known = np.isfinite(first) & np.isfinite(second) & np.isfinite(y)
    first, second, y = first[known], second[known], y[known]
    groups = pd.factorize(np.asarray(reference, dtype=object)[known])[0]
    count = int(groups.max()) + 1 if len(groups) else 0
    if count < 2:
        return _unknown("fewer than two references")
    whole = np.ones((1, count), dtype=np.int64)
    difference = float(abs(_differences(first, second, y, groups, whole)[0]))
    if not difference > 0:
        return _unknown("no difference here")

    def spread(references: int) -> float:
        drawn = np.random.default_rng(seed).multinomial(references, np.full(count, 1 / count), size=draws)
        return float(np.nanstd(_differences(first, second, y, groups, drawn), ddof=1))

    references = count
    for _ in range(ROUNDS):
        found = _smallest(difference, spread(references) * math.sqrt(references), power, level)
        if found is None:
            return _unknown(f"more than {MOST} references")
        references = found
    return Needed(references, math.ceil(references * len(y) / count))


def _smallest(difference: float, deviation: float, power: float, level: float) -> int | None:
    """The fewest references with enough power where the difference of n references deviates by deviation / sqrt(n)."""
    low, high = 2, MOST + 1
    while low < high:
        middle = (low + high) // 2
        if _power(difference, deviation / math.sqrt(middle), middle, level) >= power:
            high = middle
        else:
            low = middle + 1
    return low if low <= MOST else None


def needed_for_all(
    table: pd.DataFrame,
    predictions: pd.DataFrame,
    opinion: ArrayLike,
    reference: Sequence[Any] | pd.Series[Any],
    opposite: Iterable[str] = (),
    seed: int = SEED,
) -> pd.DataFrame:
    """A table of :func:`significance` with what would have shown the rest.

    Adds ``needed_references``, ``needed_images`` and ``needed_reason``. Differences that are shown have NaN there.
    """
    falling = set(opposite)
    sign = {name: -1.0 if name in falling else 1.0 for name in predictions}
    rows = []
    for row in table.to_dict("records"):
        if row["p_holm"] < LEVEL:
            rows.append(_unknown("shown here"))
            continue
        a, b = (sign[row[side]] * predictions[row[side]].to_numpy(float, na_value=np.nan) for side in ("a", "b"))
        rows.append(needed(a, b, opinion, reference, seed=seed))
    return table.assign(
        needed_references=[row.references for row in rows],
        needed_images=[row.images for row in rows],
        needed_reason=[row.reason for row in rows],
    )


def _unknown(reason: str) -> Needed:
    return Needed(float("nan"), float("nan"), reason)


def _differences(a: Array, b: Array, y: Array, groups: NDArray[np.intp], draws: NDArray[np.int64]) -> Array:
    return resampled_srcc(a, y, groups, draws) - resampled_srcc(b, y, groups, draws)


def _power(difference: float, spread: float, references: int, level: float) -> float:
    if spread == 0:
        return 1.0
    freedom, centre = references - 1, difference / spread
    bound = stats.t.isf(level / 2, freedom)
    power = float(stats.nct.sf(bound, freedom, centre))
    # scipy gives up on large noncentralities, where the power is one; the other tail is nothing wherever the power is of use.
    return 1.0 if math.isnan(power) and centre > bound else power
