"""``msds robustness``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .shared.options import AlsoTable, BatchSize, BootstrapSeed, Device, KeptScores, Report, Resamples, Workers
from .shared.reading import reads_images
from .shared.stop import exit_code
from .shared.terminal import INCOMPLETE, clean_stdout, progress, say, say_failures, setup, show_table

if TYPE_CHECKING:
    from ..images.samples import Reading


@reads_images
def robustness(
    photographs: Annotated[Path, typer.Argument(help="Folder of clean photographs.")],
    metric: Annotated[
        list[str],
        typer.Option("--metric", "-m", help="Metric by name, ours, pyiqa's or piq's; may be given several times."),
    ],
    deform: Annotated[
        list[str] | None,
        typer.Option(
            help="Deformation with its strengths (rotation=1,3,5) or alone: rotation, scale, shift, crop, perspective, "
            "elastic, seam-carving; may be given several times. [default: all]"
        ),
    ] = None,
    distort: Annotated[
        list[str] | None,
        typer.Option(help="Distortion, likewise: blur, noise, jpeg, jpeg2000. [default: all]"),
    ] = None,
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
    device: Device = None,
    batch_size: BatchSize = 8,
    workers: Workers = None,
    *,
    reading: Reading,
) -> None:
    """What metrics make of references that do not line up: deformations times distortions of clean photographs.

    Rank says whether a deformed image is still ordered by its damage, penalty whether a deformation that nobody minds costs
    more than damage. Images and scores are kept: start again after a stop, and only what is missing is made.

    Exit codes: 0 all scored, 1 some scores are missing (stderr says which and why), 2 could not start, 130, 143 or 129
    stopped by Ctrl-C, SIGTERM or SIGHUP.
    """
    from ..results.tables import check_output, write_table
    from ..robustness import run_robustness, summarise
    from ..robustness.report import failures_of, short_table, strengths_of, write_report

    try:
        with setup(), clean_stdout():
            if output is not None:
                check_output(output)
            if report is not None and report.exists() and not report.is_dir():
                raise NotADirectoryError(f"the report goes to a folder, and {report} is a file")
            say(f"Images are kept in {images}, scores in {results}")
            made = run_robustness(
                metric,
                photographs,
                strengths_of(deform or []),
                strengths_of(distort or []),
                images,
                results,
                None if resize == "none" else resize,  # type: ignore[arg-type]
                device,
                batch_size,
                workers,
                progress,
                reading,
                say,
            )
            summed = summarise(made, resamples, seed)
            if output is not None:
                write_table(summed.table, output)
        headings, rows = short_table(summed)
        show_table(headings, rows, len(headings) - 1, "rank / penalty, mean over strengths")
        for note in made.notes:
            say(note)
        failed = failures_of(made)
        say_failures(failed)
        if report is not None:
            with setup(), clean_stdout():
                say(f"The report is {write_report(made, summed, report)}")
    except KeyboardInterrupt as error:
        say("Interrupted: start again to go on from here")
        raise typer.Exit(exit_code(error)) from None
    if len(failed):
        raise typer.Exit(INCOMPLETE)
