"""``msds robustness``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from msds_plugin.adapters.cli.shared import options
from msds_plugin.adapters.cli.shared.terminal import finish, progress, resumable, say, show_table

if TYPE_CHECKING:
    from msds_plugin.adapters.scoring import Run


@options.run_options("amp", "crop_border", "mod_crop", "resize", "channel")
def robustness(
    photographs: Annotated[Path, typer.Argument(help="Folder of clean photographs.")],
    metric: options.Metrics = None,
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
    results: options.KeptScores = Path("msds-robustness.sqlite"),
    report: options.Report = None,
    output: options.Output = None,
    resamples: options.Resamples = 1000,
    seed: options.BootstrapSeed = 0,
    *,
    run: Run,
) -> None:
    """What metrics make of references that do not line up: deformations times distortions of clean photographs.

    Rank says whether a deformed image is still ordered by its damage, penalty whether a deformation that nobody minds costs
    more than damage. Images and scores are kept: start again after a stop, and only what is missing is made.
    """
    from msds_plugin.adapters.benchmark.report.document import shown
    from msds_plugin.adapters.research import robustness as research
    from msds_plugin.adapters.research.distortions import VIEW_DEFORMATIONS, VIEW_DISTORTIONS
    from msds_plugin.adapters.scoring.tables import write_table

    with resumable():
        options.check_targets(output, report)
        say(f"Images are kept in {images}, scores in {results}")
        method: Any = None if resize == "none" else resize
        moves: Any = research.strengths_of(deform or []) or (VIEW_DEFORMATIONS if views else None)
        damage: Any = research.strengths_of(distort or []) or (VIEW_DISTORTIONS if views else None)
        names = options.metric_names(metric)
        made = research.run_robustness(names, photographs, moves, damage, images, results, method, run, progress)
        summed, numbers = research.summarise(made, resamples, seed), research.overall(made, resamples, seed)
        if output is not None:
            write_table(summed, output)
        if report is not None:
            say(f"The report is {research.write_report(made, summed, numbers, report)}")
    show_table(*research.by_deformation(summed).plain, "rank / penalty, mean over strengths")
    if views:
        show_table(*shown(numbers, research.OVERALL, 2).plain, "mean over all deformations")
    finish(made.scores.failures, made.unavailable, made.notes)
