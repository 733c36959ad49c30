"""``msds study``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .datasets import datasets_of
from .reading import reads_images
from .stop import exit_code
from .terminal import INCOMPLETE, clean_stdout, progress, say, setup, show_table

if TYPE_CHECKING:
    from ..images.samples import Reading


@reads_images
def study(
    backbone: Annotated[
        list[str] | None,
        typer.Option(
            "--backbone",
            "-b",
            help="Network by name, timm:<model> too; NAME:random for random values. May be given several times. "
            "[default: all whose weights are here, with random twins]",
        ),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Full-reference data set by pyiqa's name.")] = None,
    data_root: Annotated[Path | None, typer.Option(help="Folder of pyiqa's data sets.")] = None,
    csv: Annotated[str | None, typer.Option(help="Table of reference, distorted, score, as FILE or NAME=FILE.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of the table's images. [default: where the table is]")] = None,
    lower_better: Annotated[bool, typer.Option("--lower-better", help="Lower scores in the table are better (DMOS).")] = False,
    levels: Annotated[int, typer.Option(min=1, max=5, help="Pyramid levels.")] = 3,
    comparison: Annotated[
        list[str] | None, typer.Option(help="deepssim, lite, squared, cosine; may be given several times. [default: all]")
    ] = None,
    frequencies: Annotated[bool, typer.Option("--frequencies", help="Relate errors to the images' high frequencies.")] = False,
    results: Annotated[Path, typer.Option(help="Where scores are kept, and taken from.")] = Path("msds-study.sqlite"),
    report: Annotated[Path | None, typer.Option(help="Folder for a report: HTML, Markdown, heat maps, tables.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write the cells to a .csv, .json or .parquet file.")
    ] = None,
    resamples: Annotated[int, typer.Option(min=0, help="Resamples of every bootstrap; 0 for no intervals.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of every bootstrap.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ... [default: a GPU if there is one]")] = None,
    *,
    reading: Reading,
) -> None:
    """Which layers, levels, comparisons and backbones agree with people, on one opinion-scored set.

    Prints, beside the best cell, what an honest choice of it is worth (leave one reference out) and what equal weights
    without any choice reach. Scores are kept: start again after a stop, and only what is missing is computed.

    Exit codes: 0 all scored, 1 some scores are missing, 2 could not start, 130, 143 or 129 stopped by Ctrl-C,
    SIGTERM or SIGHUP.
    """
    from ..results.tables import check_output, write_table
    from ..study import COMPARISONS, run_study, summarise
    from ..study.report import nested_table, write_report

    try:
        with setup(), clean_stdout():
            if output is not None:
                check_output(output)
            names, tables = ([dataset] if dataset else []), ([csv] if csv else [])
            found = datasets_of(names, data_root, tables, [root] if root else [], lower_better)
            if len(found) != 1:
                raise ValueError("a study is of one data set: give --dataset or --csv, not both")
            say(f"Scores are kept in {results}")
            made = run_study(found[0], backbone, levels, comparison or tuple(COMPARISONS), results, device, progress, reading)
            summed = summarise(made, resamples, seed, frequencies)
            if output is not None:
                write_table(summed.cells, output)
            if report is not None:
                say(f"The report is {write_report(made, summed, report)}")
    except KeyboardInterrupt as error:
        say("Interrupted: start again to go on from here")
        raise typer.Exit(exit_code(error)) from None
    headings, rows = nested_table(summed)
    show_table(headings, rows, 3, "SRCC")
    for note in made.notes:
        say(note)
    failed = made.table[made.table["error"].notna()].drop_duplicates(["backbone", "distorted"])
    for row in failed.head(5).to_dict("records"):
        say(f"{row['distorted']} ({row['backbone']}): {row['error']}")
    if len(failed):
        say(f"Without a score: {len(failed)} images")
        raise typer.Exit(INCOMPLETE)
