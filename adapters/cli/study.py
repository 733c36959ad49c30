"""``msds study``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from msds_plugin.adapters.cli.shared.datasets import datasets_of
from msds_plugin.adapters.cli.shared.options import (
    AlsoTable,
    BootstrapSeed,
    DataRoot,
    DatasetName,
    KeptScores,
    LabelTable,
    LowerBetter,
    Report,
    Resamples,
    TableRoot,
    run_options,
)
from msds_plugin.adapters.cli.shared.terminal import INCOMPLETE, progress, resumable, say, say_failures, show_table

if TYPE_CHECKING:
    from msds_plugin.adapters.scoring.options import Run


@run_options("runtime", "amp", "batch_size", "workers", "crop_border", "mod_crop", "resize", "channel")
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
    *,
    run: Run,
) -> None:
    """Which layers, levels, comparisons and backbones agree with people, on one opinion-scored set.

    Prints, beside the best cell, what an honest choice of it is worth (leave one reference out) and what equal weights
    without any choice reach. Scores are kept: start again after a stop, and only what is missing is computed.

    Exit codes: 0 all scored, 1 some scores are missing, 2 could not start, 130, 143 or 129 stopped by Ctrl-C,
    SIGTERM or SIGHUP.
    """
    from msds_plugin.adapters.research.study import COMPARISONS, run_study
    from msds_plugin.adapters.research.study_report import nested_table, summarise, write_report
    from msds_plugin.adapters.scoring.tables import check_output, write_table

    with resumable():
        if output is not None:
            check_output(output)
        names, tables = ([dataset] if dataset else []), ([csv] if csv else [])
        found = datasets_of(names, data_root, tables, [root] if root else [], lower_better)
        if len(found) != 1:
            raise ValueError("a study is of one data set: give --dataset or --csv, not both")
        say(f"Scores are kept in {results}")
        made = run_study(found[0], backbone, levels, comparison or tuple(COMPARISONS), results, run, progress)
        summed = summarise(made, resamples, seed, frequencies, run.reading)
        if output is not None:
            write_table(summed.cells, output)
        if report is not None:
            say(f"The report is {write_report(made, summed, report)}")
    show_table(*nested_table(summed), 3, "SRCC")
    for note in made.notes:
        say(note)
    say_failures(made.failures)
    if len(made.failures):
        raise typer.Exit(INCOMPLETE)
