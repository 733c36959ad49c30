"""Scores over time as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


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
    figure.savefig(path)
