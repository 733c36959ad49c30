"""Scores per frame as one number, as a picture over time, and as a log in the form of VMAF's."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence, Sized
from pathlib import Path

import numpy as np

from msds_plugin.adapters.images.colours import Array
from msds_plugin.adapters.scoring.files import check_file, replace_file


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
    when, values = np.array([times, scores], dtype=float)
    when, values = when[~np.isnan(values)], values[~np.isnan(values)]
    if not len(values):
        raise ValueError("no frame has a score")
    return {
        "mean": float(values.mean()),
        "harmonic_mean": _harmonic_mean(values),
        "percentile_5": float(np.percentile(values, 95 if lower_is_better else 5)),
        "worst_second": _worst_second(when, values, lower_is_better),
    }


def _harmonic_mean(values: Array) -> float:
    return float(len(values) / (1 / values).sum()) if (values > 0).all() else math.nan


def _worst_second(times: Array, values: Array, lower_is_better: bool) -> float:
    interval = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    # A second must be whole, or a last bad frame would count as one.
    starts = np.flatnonzero(times + 1 <= times[-1] + interval + 1e-9)
    ends = np.searchsorted(times, times[starts] + 1 - 1e-9)
    sums = np.concatenate([[0.0], values.cumsum()])
    means = (sums[ends] - sums[starts]) / (ends - starts) if len(starts) else values.mean(keepdims=True)
    return float(means.max() if lower_is_better else means.min())


def check_plot(path: Path) -> None:
    """Raise a ValueError or OSError unless :func:`plot_over_time` can write there."""
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ValueError(f"a plot is written as .png, .svg, .pdf, not as {path.name}")
    check_file(path)


def plot_over_time(times: Sequence[float], scores: Mapping[str, Sequence[float]], path: Path) -> None:
    """Draw the scores of each metric over seconds, each in a panel of its own, as ``.png``, ``.svg`` or ``.pdf``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1 + 2 * len(scores)), layout="constrained")
    panels = figure.subplots(len(scores), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (name, values) in zip(panels, scores.items(), strict=True):
        panel.plot(times, values, linewidth=1)
        panel.set_ylabel(name, parse_math=False)
        panel.grid(alpha=0.3)
    panels[-1].set_xlabel("time in seconds")
    replace_file(path, lambda part: figure.savefig(part, format=path.suffix[1:].lower()))


def write_log(frames: Sequence[int], scores: Mapping[str, Sequence[float]], path: Path) -> None:
    """Write numbers of frames and the scores of each metric as VMAF's JSON log: ``frames`` with ``frameNum`` and ``metrics``,
    and ``pooled_metrics``.

    Scores that are not numbers are null and do not count. The harmonic mean is null unless all scores are above zero.
    """
    log = {
        "frames": [
            {"frameNum": number, "metrics": {name: _or_null(values[place]) for name, values in scores.items()}}
            for place, number in enumerate(frames)
        ],
        "pooled_metrics": {name: _pooled(np.array(values)) for name, values in scores.items()},
    }
    replace_file(path, lambda part: part.write_text(json.dumps(log, indent=2) + "\n"))


def read_log(path: Path) -> Sized:
    """The frames of what :func:`write_log` wrote."""
    frames: Sized = json.loads(path.read_text(encoding="utf-8"))["frames"]
    return frames


def _pooled(values: Array) -> dict[str, float | None]:
    known = values[~np.isnan(values)]
    figures = (known.min(), known.max(), known.mean(), _harmonic_mean(known)) if len(known) else [math.nan] * 4
    return dict(zip(("min", "max", "mean", "harmonic_mean"), map(_or_null, figures), strict=True))


def _or_null(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
