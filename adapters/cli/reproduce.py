"""``msds reproduce``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .shared.options import AlsoTable, BatchSize, BootstrapSeed, Device, KeptScores, Report, Resamples, Workers
from .shared.stop import exit_code
from .shared.terminal import INCOMPLETE, clean_stdout, progress, say, say_failures, setup, show_table


def reproduce(
    which: Annotated[str, typer.Argument(help="msds, deepssim or all.")],
    data_root: Annotated[Path, typer.Option(help="Folder of data sets in pyiqa's layout, meta_info among them.")],
    dataset: Annotated[
        list[str] | None,
        typer.Option(help="tid2013, csiq, kadid10k, live or pipal; may be given several times. [default: all]"),
    ] = None,
    results: KeptScores = Path("msds-reproduce.sqlite"),
    report: Report = None,
    output: AlsoTable = None,
    resamples: Resamples = 1000,
    seed: BootstrapSeed = 0,
    device: Device = None,
    batch_size: BatchSize = 8,
    workers: Workers = None,
) -> None:
    """Measure the published configuration (VGG16) on the data sets that are there, beside the published figures.

    Says of each set whether it is whole, there in part or missing, and where to get it; no data set is downloaded. Scores are
    kept: start again after a stop, and only what is missing is computed.

    Exit codes: 0 every set is whole and scored, 1 something is missing (stderr says what), 2 could not start, 130
    interrupted.
    """
    from ..reproduce import SETS
    from ..reproduce import reproduce as measure
    from ..reproduce.report import table, write_report
    from ..results.tables import check_output, write_table

    try:
        with setup(), clean_stdout():
            if output is not None:
                check_output(output)
            say(f"Scores are kept in {results}")
            sets = dataset or tuple(SETS)
            made = measure(which, data_root, sets, results, device, batch_size, workers, resamples, seed, progress)
            if output is not None:
                write_table(made.table, output)
            if report is not None:
                say(f"The report is {write_report(made, report, progress)}")
    except KeyboardInterrupt as error:
        say("Interrupted: start again to go on from here")
        raise typer.Exit(exit_code(error)) from None
    headings, rows = table(made)
    show_table(headings, rows, 4, "published and measured")
    for note in made.notes:
        say(note)
    failed = made.benchmark is not None and len(made.benchmark.scores.failures) > 0
    if made.benchmark is not None:
        say_failures(made.benchmark.scores.failures)
    if failed or any(each.state != "whole" for each in made.found):
        raise typer.Exit(INCOMPLETE)
