"""``msds robustness``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from msds_plugin.adapters.cli.shared.options import (
    AlsoTable,
    BootstrapSeed,
    KeptScores,
    Metrics,
    Report,
    Resamples,
    metric_names,
    run_options,
)
from msds_plugin.adapters.cli.shared.terminal import INCOMPLETE, progress, resumable, say, say_failures, show_table

if TYPE_CHECKING:
    from msds_plugin.adapters.scoring.options import Run


@run_options("amp", "crop_border", "mod_crop", "resize", "channel")
def robustness(
    photographs: Annotated[Path, typer.Argument(help="Folder of clean photographs.")],
    metric: Metrics = None,
    deform: Annotated[
        list[str] | None,
        typer.Option(
            help="Deformation with its strengths (rotation=1,3,5) or alone: rotation, scale, shift, crop, perspective, "
            "elastic, seam-carving, offset, zoom, parallax; may be given several times. [default: all but the last three]"
        ),
    ] = None,
    distort: Annotated[
        list[str] | None,
        typer.Option(help="Distortion, likewise: blur, noise, jpeg, jpeg2000, floaters. [default: all but floaters]"),
    ] = None,
    views: Annotated[
        bool,
        typer.Option(
            "--views",
            help="What rendered views have: poses a bit off (rotation, offset, zoom, parallax), and blur, noise, floaters; "
            "--deform and --distort choose others.",
        ),
    ] = False,
    resize: Annotated[
        str,
        typer.Option(help="How metrics that need equal sizes get images of another size: bicubic, bilinear, nearest, none."),
    ] = "bicubic",
    images: Annotated[Path, typer.Option(help="Where the deformed and distorted images are kept.")] = Path(
        "msds-robustness-images"
    ),
    results: KeptScores = Path("msds-robustness.sqlite"),
    report: Report = None,
    output: AlsoTable = None,
    resamples: Resamples = 1000,
    seed: BootstrapSeed = 0,
    *,
    run: Run,
) -> None:
    """What metrics make of references that do not line up: deformations times distortions of clean photographs.

    Rank says whether a deformed image is still ordered by its damage, penalty whether a deformation that nobody minds costs
    more than damage. Images and scores are kept: start again after a stop, and only what is missing is made.

    Exit codes: 0 all scored, 1 some scores are missing (stderr says which and why), 2 could not start, 130, 143 or 129
    stopped by Ctrl-C, SIGTERM or SIGHUP.
    """
    from msds_plugin.adapters.research import robustness as research
    from msds_plugin.adapters.research.distortions import VIEW_DEFORMATIONS, VIEW_DISTORTIONS
    from msds_plugin.adapters.scoring.tables import check_output, write_table

    with resumable():
        if output is not None:
            check_output(output)
        if report is not None and report.exists() and not report.is_dir():
            raise NotADirectoryError(f"the report goes to a folder, and {report} is a file")
        say(f"Images are kept in {images}, scores in {results}")
        method: Any = None if resize == "none" else resize
        moves: Any = research.strengths_of(deform or []) or (VIEW_DEFORMATIONS if views else None)
        damage: Any = research.strengths_of(distort or []) or (VIEW_DISTORTIONS if views else None)
        made = research.run_robustness(metric_names(metric), photographs, moves, damage, images, results, method, run, progress)
        summed, numbers = research.summarise(made, resamples, seed), research.overall(made, resamples, seed)
        if output is not None:
            write_table(summed, output)
        if report is not None:
            say(f"The report is {research.write_report(made, summed, numbers, report)}")
    headings, rows = research.by_deformation(summed)
    show_table(headings, rows, len(headings) - 1, "rank / penalty, mean over strengths")
    if views:
        show_table(*research.overall_table(numbers), 2, "mean over all deformations")
    for note in made.notes:
        say(note)
    for name, reason in made.benchmark.unavailable.items():
        say(f"Without {name}: {reason}")
    say_failures(made.failures)
    if len(made.failures) or made.benchmark.unavailable:
        raise typer.Exit(INCOMPLETE)
