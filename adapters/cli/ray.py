"""``msds ray``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .shared.reading import reads_images
from .shared.terminal import INCOMPLETE, clean_stdout, say, setup

if TYPE_CHECKING:
    from ..images.samples import Reading


@reads_images
def score_on_ray(
    pairs: Annotated[
        str,
        typer.Argument(
            help="List (.csv, .parquet, or a folder of the latter) with columns reference and distorted; path or URI."
        ),
    ],
    metric: Annotated[list[str], typer.Option("--metric", "-m", help="Metric by name; may be given several times.")],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder for the Parquet files, seen by every node; or a URI.")],
    address: Annotated[str | None, typer.Option(help="Of the Ray cluster. [default: a local one]")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with metrics of its own.")] = 2,
    cpus: Annotated[int, typer.Option(min=1, help="Cores of each.")] = 1,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs of each, or a part of one.")] = 0,
    shard_size: Annotated[int, typer.Option(min=1, help="Pairs of one file, or a few more.")] = 1000,
    *,
    reading: Reading,
) -> None:
    """Score a list of pairs on a Ray cluster; started again, it computes only what is missing.

    Exit codes: 0 all scored, 1 some scores are missing (the column error says why), 2 could not start.
    """
    from ..ray import Progress, score

    def report(progress: Progress) -> None:
        say(f"{progress.pairs} pairs in {progress.shards} files, {progress.failed} without all scores")

    with setup(), clean_stdout():
        done = score(
            pairs,
            metric,
            output,
            workers=workers,
            shard_size=shard_size,
            cpus=cpus,
            gpus=gpus,
            address=address,
            on_progress=report,
            reading=reading,
        )
    say_foreign(done.foreign, output)
    print(f"{done.pairs}\t{done.failed}\t{done.computed}")
    if done.failed:
        raise typer.Exit(INCOMPLETE)


def say_foreign(files: int, output: str) -> None:
    """Files that are there but belong to something else."""
    if files:
        say(f"{files} files in {output} are of another list, metrics or shard size: read the others without them")
