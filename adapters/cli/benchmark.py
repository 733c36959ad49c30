"""``msds benchmark``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .datasets import datasets_of
from .reading import BACKGROUND, MAX_PIXELS, PEAK, reading_of
from .terminal import INCOMPLETE, INTERRUPTED, clean_stdout, progress, say, say_failures, setup, show_table

if TYPE_CHECKING:
    from ..benchmark.summary import Summary


def benchmark(
    metric: Annotated[
        list[str],
        typer.Option(
            "--metric",
            "-m",
            help="Metric by name, ours, pyiqa's or piq's (piq:fsim), with options after commas (msds,backbone=alexnet); "
            "may be given several times.",
        ),
    ],
    dataset: Annotated[
        list[str] | None, typer.Option(help="Full-reference data set by pyiqa's name; may be given several times.")
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of pyiqa's data sets; what is missing there pyiqa downloads.")
    ] = None,
    csv: Annotated[
        list[str] | None,
        typer.Option(help="Table of reference, distorted, score, as FILE or NAME=FILE; may be given several times."),
    ] = None,
    root: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of the images of a table: one for all, or one for each. [default: where the table is]"),
    ] = None,
    lower_better: Annotated[bool, typer.Option("--lower-better", help="Lower scores in the tables are better (DMOS).")] = False,
    results: Annotated[Path, typer.Option(help="Where scores are kept, and taken from if they are there.")] = Path(
        "msds-benchmark.sqlite"
    ),
    report: Annotated[Path | None, typer.Option(help="Folder for a report: HTML, Markdown, figures and tables.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write the statistics to a .csv, .json or .parquet file.")
    ] = None,
    factors: Annotated[
        str | None,
        typer.Option(help="Shares of the overall figure. [default: accuracy=0.3,monotonicity=0.3,consistency=0.3,speed=0.1]"),
    ] = None,
    frequency: Annotated[
        float, typer.Option(min=0, max=0.7, help="Cycles per pixel above which energy counts as high-frequency.")
    ] = 0.25,
    resamples: Annotated[int, typer.Option(min=0, help="Resamples of every bootstrap; 0 for no intervals.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of every bootstrap.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... [default: a GPU if there is one]")] = None,
    amp: Annotated[bool, typer.Option("--amp", help="Compute in half precision where torch thinks fit (autocast).")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs per batch at most; large images go in smaller ones.")] = 8,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that decode images. [default: one per core, none for few images]")
    ] = None,
    peak: Annotated[float | None, PEAK] = None,
    background: Annotated[str, BACKGROUND] = "white",
    max_pixels: Annotated[int | None, MAX_PIXELS] = None,
) -> None:
    """Compare metrics on opinion-scored data sets: statistics, and with --report a page with pictures.

    Every score is kept in the results file as it comes. Start again after a stop or a crash, and only what is missing is
    computed; a score is used again only if metric, options, weights, versions and both images are unchanged.

    Exit codes: 0 all scored, 1 some scores are missing (stderr says which and why), 2 could not start, 130 interrupted.
    """
    from ..benchmark.runner import run
    from ..benchmark.summary import summarise
    from ..results.tables import check_output, write_table

    try:
        with setup(), clean_stdout():
            if output is not None:
                check_output(output)
            if report is not None and report.exists() and not report.is_dir():
                raise NotADirectoryError(f"the report goes to a folder, and {report} is a file")
            shares = _shares(factors)
            reading = reading_of(peak, background, max_pixels)
            datasets = datasets_of(dataset or [], data_root, csv or [], root or [], lower_better)
            say(f"Scores are kept in {results}")
            made = run(metric, datasets, results, device, amp, batch_size, workers, progress, reading, say)
            summed = summarise(made.scores, shares, resamples, seed)
            if output is not None:
                write_table(summed.table, output)
        _show(summed)
        say_failures(made.scores.failures)
        if report is not None:
            from ..report.page import write_report

            with setup(), clean_stdout():
                say(f"The report is {write_report(made, summed, report, frequency, progress=progress)}")
    except KeyboardInterrupt:
        say("Interrupted: start again to go on from here")
        raise typer.Exit(INTERRUPTED) from None
    if len(made.scores.failures):
        raise typer.Exit(INCOMPLETE)


def _shares(text: str | None) -> dict[str, float]:
    from ..benchmark.summary import FACTORS, checked_factors

    if text is None:
        return dict(FACTORS)
    shares = {}
    for part in text.split(","):
        name, _, share = part.partition("=")
        try:
            shares[name.strip()] = float(share)
        except ValueError:
            raise ValueError(f"--factors takes name=share, separated by commas: {part!r} is not that") from None
    return checked_factors(shares)


def _show(summed: Summary) -> None:
    from ..report.page import main_table, overall_table

    headings, rows = main_table(summed, ["srcc"] if sys.stdout.isatty() else ["srcc", "krcc", "plcc", "rmse", "outlier_ratio"])
    show_table(headings, rows, len(headings) - 2, "agreement with opinions")
    print()
    headings, rows = overall_table(summed)
    show_table(headings, rows, len(headings) - 1, "overall")
    for note in summed.notes:
        say(note)
