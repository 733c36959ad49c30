"""``msds study``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .shared.datasets import datasets_of
from .shared.options import (
    AlsoTable,
    BootstrapSeed,
    DataRoot,
    DatasetName,
    Device,
    KeptScores,
    LabelTable,
    LowerBetter,
    Report,
    Resamples,
    TableRoot,
)
from .shared.reading import reads_images
from .shared.stop import exit_code
from .shared.terminal import INCOMPLETE, clean_stdout, progress, say, setup, show_table

if TYPE_CHECKING:
    from ..images.samples import Reading


@reads_images
def study(
    backbone: Annotated[
        list[str] | None,
        typer.Option(
            "--backbone",
            "-b",
            help="Network by name, torchvision:<model> and timm:<model> too; NAME:random for random values. May be given "
            "several times. [default: all whose weights are here, with random twins]",
        ),
    ] = None,
    dataset: DatasetName = None,
    data_root: DataRoot = None,
    csv: LabelTable = None,
    root: TableRoot = None,
    lower_better: LowerBetter = False,
    levels: Annotated[int, typer.Option(min=1, max=5, help="Pyramid levels.")] = 3,
    comparison: Annotated[
        list[str] | None, typer.Option(help="deepssim, lite, squared, cosine; may be given several times. [default: all]")
    ] = None,
    frequencies: Annotated[bool, typer.Option("--frequencies", help="Relate errors to the images' high frequencies.")] = False,
    results: KeptScores = Path("msds-study.sqlite"),
    report: Report = None,
    output: AlsoTable = None,
    resamples: Resamples = 1000,
    seed: BootstrapSeed = 0,
    device: Device = None,
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
