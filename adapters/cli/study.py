"""``msds study``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from msds_plugin.adapters.cli.shared import options
from msds_plugin.adapters.cli.shared.terminal import finish, progress, resumable, say, show_table

if TYPE_CHECKING:
    from msds_plugin.adapters.scoring import Run


@options.run_options("runtime", "amp", "batch_size", "workers", "crop_border", "mod_crop", "resize", "channel")
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
    dataset: options.DatasetName = None,
    data_root: options.DataRoot = None,
    csv: options.LabelTable = None,
    root: options.TableRoot = None,
    lower_better: options.LowerBetter = False,
    levels: Annotated[int, typer.Option(min=1, max=5, help="Pyramid levels.")] = 3,
    comparison: Annotated[
        list[str] | None, typer.Option(help="deepssim, lite, squared, cosine; may be given several times. [default: all]")
    ] = None,
    frequencies: Annotated[bool, typer.Option("--frequencies", help="Relate errors to the images' high frequencies.")] = False,
    results: options.KeptScores = Path("msds-study.sqlite"),
    report: options.Report = None,
    output: options.Output = None,
    resamples: options.Resamples = 1000,
    seed: options.BootstrapSeed = 0,
    *,
    run: Run,
) -> None:
    """Which layers, levels, comparisons and backbones agree with people, on one opinion-scored set.

    Prints, beside the best cell, what an honest choice of it is worth (leave one reference out) and what equal weights
    without any choice reach. Scores are kept: start again after a stop, and only what is missing is computed.
    """
    from msds_plugin.adapters.research.study import COMPARISONS, run_study
    from msds_plugin.adapters.research.study_report import nested_table, summarise, write_report
    from msds_plugin.adapters.scoring.tables import write_table

    with resumable():
        options.check_targets(output, report)
        data = options.one_dataset(dataset, data_root, csv, root, lower_better, "a study is of")
        say(f"Scores are kept in {results}")
        made = run_study(data, backbone, levels, comparison or tuple(COMPARISONS), results, run, progress)
        summed = summarise(made, resamples, seed, frequencies, run.reading)
        if output is not None:
            write_table(summed.cells, output)
        if report is not None:
            say(f"The report is {write_report(made, summed, report)}")
    show_table(*nested_table(summed).plain, "SRCC")
    finish(made.failures, notes=made.notes)
