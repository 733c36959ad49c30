"""``msds ray``, and ``msds score --engine ray``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from msds_plugin.adapters.cli.shared.options import Metrics, metric_names, run_options, say_matching
from msds_plugin.adapters.cli.shared.terminal import INCOMPLETE, exit_code, say, setup, stoppable

if TYPE_CHECKING:
    from msds_plugin.adapters.images.pairs import Pairing
    from msds_plugin.adapters.ray import Progress
    from msds_plugin.adapters.scoring import Run


@run_options("workers")
def score_on_ray(
    pairs: Annotated[
        str,
        typer.Argument(
            help="List (.csv, .tsv, .parquet, or a folder of the latter) with columns reference and distorted; path or URI."
        ),
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder for the Parquet files, seen by every node; or a URI.")],
    metric: Metrics = None,
    address: Annotated[str | None, typer.Option(help="Of the Ray cluster. [default: a local one]")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with metrics of its own.")] = 2,
    cpus: Annotated[int, typer.Option(min=1, help="Cores of each.")] = 1,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs of each, or a part of one.")] = 0,
    shard_size: Annotated[int, typer.Option(min=1, help="Pairs of one file, up to twice as many.")] = 1000,
    *,
    run: Run,
) -> None:
    """Score a list of pairs on a Ray cluster; started again, it computes only what is missing.

    Exit codes: 0 all scored, 1 some scores are missing (the column error says why), 2 could not start, 130, 143 or 129 stopped
    by Ctrl-C, SIGTERM or SIGHUP.
    """

    def report(progress: Progress) -> None:
        say(f"{progress.pairs} pairs in {progress.shards} files, {progress.failed} without all scores")

    with setup():
        metrics = metric_names(metric)
    sizes = {"workers": workers, "cpus": cpus, "gpus": gpus, "shard_size": shard_size}
    done = _score(pairs, metrics, output, run=run, address=address, on_progress=report, **sizes)
    print(f"{done.pairs}\t{done.failed}\t{done.computed}")
    if done.failed:
        raise typer.Exit(INCOMPLETE)


def score_folders_on_ray(
    reference: Path | None,
    distorted: Path | None,
    how: Pairing,
    metrics: list[str],
    output: Path | None,
    allow_unmatched: bool,
    **options: Any,
) -> None:
    """``msds score --engine ray``: pairs are matched here, and said, as without it."""
    from msds_plugin.adapters.ray.pairs import matched

    with setup():
        names, found = matched(_place(reference), _place(distorted), how)
    say_matching(found, len(names))
    folder = _place(output)
    done = _score(names, metrics, folder, **options)
    say(f"{done.pairs} pairs are in {folder}, {done.failed} without all scores")
    if done.failed or (found.unscored and not allow_unmatched):
        raise typer.Exit(INCOMPLETE)


def _score(pairs: Any, metrics: list[str], output: str, **options: Any) -> Progress:
    from msds_plugin.adapters.ray import score

    try:
        with setup(), stoppable():
            done = score(pairs, metrics, output, **options)
    except KeyboardInterrupt:
        say(f"Interrupted: what is done is in {output}; the same command goes on from here")
        raise typer.Exit(exit_code()) from None
    if done.foreign:
        say(f"{done.foreign} files in {output} are of another list, metrics or shard size: read the others without them")
    return done


def _place(path: Path | None) -> str:
    """A path, or the URI that it was before it became one and lost slashes; empty for none."""
    text = "" if path is None else re.sub(r"^(\w{2,}):/+", r"\1://", str(path))
    return re.sub("^file://", "file:///", text)
