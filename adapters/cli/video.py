"""``msds video``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from msds_plugin.adapters.cli.shared.options import Metrics, metric_names, run_options, sides
from msds_plugin.adapters.cli.shared.terminal import INCOMPLETE, arrow, exit_code, progress, say, setup, show_table

if TYPE_CHECKING:
    from msds_plugin.adapters.scoring import Run


@run_options("batch_size", "workers", "peak", "max_pixels")
def video(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="REFERENCE DISTORTED", help="In place of -r and -d: two videos, or folders of frames."),
    ] = None,
    reference: Annotated[
        Path | None, typer.Option("--reference", "-r", help="Reference video, or a folder of its frames.")
    ] = None,
    distorted: Annotated[
        Path | None, typer.Option("--distorted", "-d", help="Distorted video, or a folder of its frames.")
    ] = None,
    metric: Metrics = None,
    every: Annotated[int, typer.Option(min=1, help="Score each Nth frame of the distorted video.")] = 1,
    align: Annotated[
        str,
        typer.Option(help="auto: the offset is found from the content; time: by the files' times; index: by number."),
    ] = "auto",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the scores per frame to a .csv, .json or .parquet file.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write frames and pooled scores in the form of VMAF's JSON log.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the scores over time, to a .png, .svg or .pdf file.")] = None,
    *,
    run: Run,
) -> None:
    """Score a distorted video beside its reference: per frame, and pooled over time.

    Frames are matched by time, with an offset that is found from their content. Pooled are the mean, the harmonic mean, the 5th
    percentile (the 95th where lower is better) and the worst second. A damaged or truncated file, and Ctrl-C, keep the scores
    so far.
    """
    with setup():
        first, others = sides(files, reference, None if distorted is None else [distorted])
        if first is None or len(others) != 1:
            raise ValueError("a video is compared with one other video")
        metrics = metric_names(metric)
    score_videos(first, others[0], metrics, every, output, plot, json, align, run=run)


def score_videos(
    reference: Path,
    distorted: Path,
    metric: list[str],
    every: int = 1,
    output: Path | None = None,
    plot: Path | None = None,
    json: Path | None = None,
    align: str = "auto",
    *,
    run: Run,
    **networks: Any,
) -> None:
    """What ``msds video`` does; ``networks``: backbone, weights and fusion of the metrics that take them."""
    import pandas as pd

    from msds_plugin.adapters.scorers import create_scorers
    from msds_plugin.adapters.scoring.files import check_file
    from msds_plugin.adapters.scoring.tables import check_output, holds_more, write_table, write_unfinished
    from msds_plugin.adapters.video import check_plot, plot_over_time, pool, read_log, score_video, write_log

    with setup():
        for path, check in ((output, check_output), (plot, check_plot), (json, check_file)):
            if path is not None:
                check(path)
        scorers = create_scorers(metric, run.device, run.runtime, **networks)
        results = score_video(reference, distorted, scorers, every, cast(Any, align), run)
    said = len(results.notes)
    for note in results.notes:
        say(f"Note: {note}")
    stopped, failures, rows = False, [], []
    try:
        with progress("scoring frames", results.frames) as advance:
            for frame in results:
                rows.append([frame.frame, frame.time, frame.reference_time, *frame.scores])
                failures += [f"frame {frame.frame}: {frame.error}"] if frame.error else []
                advance()
    except KeyboardInterrupt:
        stopped = True
        say(f"Interrupted after {len(rows)} frames")
    for text in (*(f"Note: {note}" for note in results.notes[said:]), *(f"Warning: {each}" for each in results.problems)):
        say(text)
    complete = bool(rows) and not (stopped or results.problems or failures)
    table = pd.DataFrame(rows, columns=["frame", "time", "reference_time", *(scorer.name for scorer in scorers)])
    series = {scorer.name: table[scorer.name].tolist() for scorer in scorers}
    times = table["time"].tolist()
    try:
        with setup():
            if output is not None and complete:
                write_table(table, output)
            elif output is not None and (kept := write_unfinished(table, output)):
                say(kept)
            if json is not None and not complete and (kept := holds_more(json, len(rows), read_log)):
                say(kept)
            elif json is not None:
                write_log(table["frame"].tolist(), series, json)
            if plot is not None and rows:
                plot_over_time(times, series, plot)
    except typer.Exit:  # the disk is full, for example
        show_table([*table], table.astype(str).to_numpy().tolist(), len(table.columns), "scores per frame")
        raise
    finally:
        pooled = [
            [name, str(scored), *(f"{value:.6f}" for value in pool(times, series[name], lower).values()), arrow(lower)]
            for name, lower in ((scorer.name, scorer.lower_is_better) for scorer in scorers)
            if (scored := int(table[name].notna().sum()))
        ]
        headings = ["metric", "frames", "mean", "harmonic mean", "5th percentile", "worst second", "better"]
        show_table(headings, pooled, numbers=6)
        if failures:
            say(f"Frames without a score: {len(failures)}; the first: {failures[0]}")
    if not complete:
        raise typer.Exit(exit_code() if stopped else INCOMPLETE)
