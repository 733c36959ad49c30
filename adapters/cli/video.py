"""``msds video``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from .shared.options import Device
from .shared.stop import exit_code, stoppable
from .shared.terminal import INCOMPLETE, clean_stdout, say, setup, show_table


def video(
    reference: Annotated[Path, typer.Option("--reference", "-r", help="Reference video.")],
    distorted: Annotated[Path, typer.Option("--distorted", "-d", help="Distorted video.")],
    metric: Annotated[
        list[str], typer.Option("--metric", "-m", help="Metric by name, as for msds score; may be given several times.")
    ],
    every: Annotated[int, typer.Option(min=1, help="Score each Nth frame of the distorted video.")] = 1,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the scores per frame to a .csv, .json or .parquet file.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the scores over time, to a .png, .svg or .pdf file.")] = None,
    device: Device = None,
) -> None:
    """Score a distorted video beside its reference: per frame, and pooled over time.

    Frames are matched by time stamp. Pooled are the mean, the harmonic mean, the 5th percentile (the 95th where lower
    is better) and the worst second. A damaged or truncated file, and Ctrl-C, keep the scores so far.

    Exit codes: 0 all scored, 1 something is missing (stderr says what and why), 2 could not start, 130, 143 or 129 stopped by
    Ctrl-C, SIGTERM or SIGHUP.
    """
    score_videos(reference, distorted, metric, every, output, plot, device)


def score_videos(
    reference: Path,
    distorted: Path,
    metric: list[str],
    every: int = 1,
    output: Path | None = None,
    plot: Path | None = None,
    device: str | None = None,
    fusion: Path | None = None,
    networks: Mapping[str, str | None] | None = None,
) -> None:
    """What ``msds video`` does; ``networks``: backbone and weights of the metrics that take them."""
    import pandas as pd

    from ..results.tables import check_output, write_table
    from ..scoring.scorers import create_scorers
    from ..video import plot_over_time, pool, score_video

    with setup(), clean_stdout():
        if output is not None:
            check_output(output)
        chosen = {name: value for name, value in (networks or {}).items() if value is not None}
        scorers = create_scorers(metric, device, fusion, **chosen)
        results = score_video(reference, distorted, scorers, every)
    said = len(results.notes)
    for note in results.notes:
        say(f"Note: {note}")
    stopped: KeyboardInterrupt | None = None
    failures: list[str] = []
    rows: list[list[Any]] = []
    try:
        with stoppable(), clean_stdout():
            for frame in results:
                rows.append([frame.frame, frame.time, frame.reference_time, *frame.scores])
                failures += [f"frame {frame.frame}: {frame.error}"] if frame.error else []
    except KeyboardInterrupt as error:
        stopped = error
    if output is not None:
        columns = ["frame", "time", "reference_time", *(scorer.name for scorer in scorers)]
        with setup(), clean_stdout():
            write_table(pd.DataFrame(rows, columns=columns), output)
    for note in results.notes[said:]:
        say(f"Note: {note}")
    times = [row[1] for row in rows]
    series = {scorer.name: [row[3 + index] for row in rows] for index, scorer in enumerate(scorers)}
    pooled = []
    for scorer in scorers:
        if any(value == value for value in series[scorer.name]):
            found = pool(times, series[scorer.name], scorer.lower_is_better)
            pooled.append([scorer.name, str(len(rows)), *(f"{value:.6f}" for value in found.values())])
    show_table(["metric", "frames", "mean", "harmonic mean", "5th percentile", "worst second"], pooled, numbers=5)
    if plot is not None and rows:
        plot_over_time(times, series, plot)
    if failures:
        say(f"Frames without a score: {len(failures)}; the first: {failures[0]}")
    if stopped is not None:
        raise typer.Exit(exit_code(stopped))
    if failures or not rows or len(results.notes) > said:
        raise typer.Exit(INCOMPLETE)
