"""One number for a video out of one per frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def pool(times: Sequence[float], scores: Sequence[float], lower_is_better: bool = False) -> dict[str, float]:
    """Mean, harmonic mean, the worst twentieth and the worst second of scores per frame.

    Args:
        times: seconds, growing.
        scores: one per frame; frames without a score (NaN) do not count.
        lower_is_better: direction, which says what worst means.

    Returns:
        ``mean``; ``harmonic_mean`` (NaN unless all scores are above zero); ``percentile_5`` (the 95th where lower is better:
        a twentieth of the frames is worse than it); ``worst_second``, the worst mean of the frames of any one second that
        begins with a frame (of the whole, if that is shorter).

    Raises:
        ValueError: no frame has a score, or another number of times than scores.

    Example:
        >>> pool([0.0, 0.5, 1.0, 1.5], [1.0, 1.0, 0.5, 0.5])
        {'mean': 0.75, 'harmonic_mean': 0.6666666666666666, 'percentile_5': 0.5, 'worst_second': 0.5}
    """
    if len(times) != len(scores):
        raise ValueError(f"{len(times)} times and {len(scores)} scores")
    known = ~np.isnan(np.asarray(scores, dtype=float))
    when, values = np.asarray(times, dtype=float)[known], np.asarray(scores, dtype=float)[known]
    if not len(values):
        raise ValueError("no frame has a score")
    return {
        "mean": float(values.mean()),
        "harmonic_mean": float(len(values) / (1 / values).sum()) if (values > 0).all() else float("nan"),
        "percentile_5": float(np.percentile(values, 95 if lower_is_better else 5)),
        "worst_second": _worst_second(when, values, lower_is_better),
    }


def _worst_second(times: np.ndarray, values: np.ndarray, lower_is_better: bool) -> float:
    sums = np.concatenate([[0.0], values.cumsum()])
    ends = np.searchsorted(times, times + 1 - 1e-9)
    interval = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    # A second must be whole, or a last bad frame would count as one.
    whole = times + 1 <= times[-1] + interval + 1e-9
    if not whole.any():
        return float(values.mean())
    starts = np.flatnonzero(whole)
    means = (sums[ends[starts]] - sums[starts]) / (ends[starts] - starts)
    return float(means.max() if lower_is_better else means.min())
