"""``msds reproduce``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from msds_plugin.adapters.cli.shared import options
from msds_plugin.adapters.cli.shared.terminal import INCOMPLETE, finish, progress, resumable, say, show_table

if TYPE_CHECKING:
    from msds_plugin.adapters.scoring import Run


@options.run_options("amp", "peak", "background", "max_pixels", "crop_border", "mod_crop", "resize", "channel")
def reproduce(
    which: Annotated[str, typer.Argument(help="msds, deepssim or all.")],
    data_root: Annotated[Path, typer.Option(help="Folder of data sets in pyiqa's layout, meta_info among them.")],
    dataset: Annotated[
        list[str] | None,
        typer.Option(help="tid2013, csiq, kadid10k, live or pipal; may be given several times. [default: all]"),
    ] = None,
    results: options.KeptScores = Path("msds-reproduce.sqlite"),
    report: options.Report = None,
    output: options.Output = None,
    resamples: options.Resamples = 1000,
    seed: options.BootstrapSeed = 0,
    *,
    run: Run,
) -> None:
    """Measure the published configuration (VGG16) on the data sets that are there, beside the published figures.

    Says of each set whether it is whole, there in part or missing, and where to get it; no data set is downloaded. Scores are
    kept: start again after a stop, and only what is missing is computed.
    """
    from msds_plugin.adapters.research import reproduce as research
    from msds_plugin.adapters.scoring.tables import write_table

    with resumable():
        options.check_targets(output, report)
        say(f"Scores are kept in {results}")
        sets = dataset or tuple(research.SETS)
        made = research.reproduce(which, data_root, sets, results, run, progress, resamples, seed)
        if output is not None:
            write_table(made.table, output)
        if report is not None:
            say(f"The report is {research.write_report(made, report)}")
    show_table(*research.table(made).plain, "published and measured")
    finish(made.failures, notes=made.notes)
    if any(each.state != "whole" for each in made.found):
        raise typer.Exit(INCOMPLETE)
