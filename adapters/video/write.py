"""Scores over time as a picture, and as a log in the form of VMAF's."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from msds_plugin.adapters.scoring.files import check_file, replace_file

_PLOTS = (".png", ".svg", ".pdf")


def check_plot(path: Path) -> None:
    """Raise an error unless :func:`plot_over_time` can write there.

    Raises:
        ValueError: another suffix than .png, .svg and .pdf, or a name that the file system refuses.
        FileNotFoundError: the folder does not exist.
        PermissionError: nothing may be written there.
    """
    if path.suffix.lower() not in _PLOTS:
        raise ValueError(f"a plot is written as {', '.join(_PLOTS)}, not as {path.name}")
    check_file(path)


def plot_over_time(times: Sequence[float], scores: Mapping[str, Sequence[float]], path: Path) -> None:
    """Draw a line per metric, each in a panel of its own, as ``.png``, ``.svg`` or ``.pdf``.

    Args:
        times: seconds.
        scores: by metric.
        path: of the picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1 + 2 * len(scores)), layout="constrained")
    panels = figure.subplots(len(scores), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (name, values) in zip(panels, scores.items(), strict=True):
        panel.plot(times, values, linewidth=1)
        panel.set_ylabel(name)
        panel.grid(alpha=0.3)
    panels[-1].set_xlabel("time in seconds")
    replace_file(path, lambda part: figure.savefig(part, format=path.suffix[1:].lower()))


def write_log(frames: Sequence[int], scores: Mapping[str, Sequence[float]], path: Path) -> None:
    """Write scores as VMAF's JSON log: ``frames`` with ``frameNum`` and ``metrics``, and ``pooled_metrics``.

    Scores that are not numbers are null and do not count. The harmonic mean is null unless all scores are above zero.

    Args:
        frames: numbers.
        scores: by metric, one per frame.
        path: of the file.
    """
    log = {
        "frames": [
            {"frameNum": number, "metrics": {name: _number(values[place]) for name, values in scores.items()}}
            for place, number in enumerate(frames)
        ],
        "pooled_metrics": {name: _pooled(values) for name, values in scores.items()},
    }
    replace_file(path, lambda part: part.write_text(json.dumps(log, indent=2) + "\n"))


def _pooled(values: Sequence[float]) -> dict[str, Any]:
    known = np.array([value for value in values if not math.isnan(value)])
    if not len(known):
        return dict.fromkeys(("min", "max", "mean", "harmonic_mean"))
    harmonic = len(known) / (1 / known).sum() if (known > 0).all() else math.nan
    found = {"min": known.min(), "max": known.max(), "mean": known.mean(), "harmonic_mean": harmonic}
    return {name: _number(float(value)) for name, value in found.items()}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
