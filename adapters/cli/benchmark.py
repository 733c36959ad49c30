"""``msds benchmark``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .shared.datasets import datasets_of
from .shared.options import BatchSize, BootstrapSeed, Device, HalfPrecision, KeptScores, Report, Resamples, Workers
from .shared.reading import reads_images
from .shared.stop import exit_code
from .shared.terminal import INCOMPLETE, clean_stdout, progress, say, say_failures, setup, show_table, show_unkept

if TYPE_CHECKING:
    from ..benchmark.choices import Choices, ChoiceSummary
    from ..benchmark.runner import Benchmark
    from ..benchmark.summary import Summary
    from ..images.samples import Reading


@reads_images
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
    choices: Annotated[
        list[str] | None,
        typer.Option(
            help="Table of forced choices: reference, a, b, share that preferred b, answers, as FILE or NAME=FILE; images "
            "are where the table is. May be given several times."
        ),
    ] = None,
    resize: Annotated[
        str,
        typer.Option(
            help="For pairs that differ in size, how metrics that need equal sizes get the distorted image: bicubic, "
            "bilinear, nearest; none: they give no score."
        ),
    ] = "none",
    results: KeptScores = Path("msds-benchmark.sqlite"),
    report: Report = None,
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
    resamples: Resamples = 1000,
    seed: BootstrapSeed = 0,
    device: Device = None,
    amp: HalfPrecision = False,
    batch_size: BatchSize = 8,
    workers: Workers = None,
    *,
    reading: Reading,
) -> None:
    """Compare metrics on opinion-scored data sets: statistics, and with --report a page with pictures.

    Every score is kept in the results file as it comes. Start again after a stop or a crash, and only what is missing is
    computed; a score is used again only if metric, options, weights, versions and both images are unchanged.

    Exit codes: 0 all scored, 1 some scores are missing (stderr says which and why), 2 could not start or could not write,
    130, 143 or 129 stopped by Ctrl-C, SIGTERM or SIGHUP.
    """
    from ..benchmark.choices import run_choices
    from ..benchmark.runner import NotKeptError
    from ..benchmark.sizes import noted, run_any_size
    from ..benchmark.summary import summarise
    from ..results.tables import check_output, write_table

    try:
        with setup(), clean_stdout():
            if output is not None:
                check_output(output)
            if report is not None:
                _check_report(report)
            shares = _shares(factors)
            sets = _choices(choices or [])
            only_choices = bool(sets) and not dataset and not csv
            datasets = [] if only_choices else datasets_of(dataset or [], data_root, csv or [], root or [], lower_better)
            say(f"Scores are kept in {results}")
        options = (results, device, amp, batch_size, workers, progress, reading, say)
        method: Any = None if resize == "none" else resize
        made = summed = chosen = None
        try:
            with setup(NotKeptError), clean_stdout():
                if datasets:
                    made, sizes = run_any_size(metric, datasets, *options, resize=method)
                    summed = noted(summarise(made.scores, shares, resamples, seed), sizes)
                if sets:
                    chosen = run_choices(metric, sets, *options, resize=method, resamples=resamples, seed=seed)
        except NotKeptError as error:
            raise show_unkept(error.computed, str(error)) from None
        _show(summed, chosen)
        failures = [*([made.scores.failures] if made else []), *([chosen.failures] if chosen else [])]
        for missing in failures:
            say_failures(missing)
        if output is not None:
            with setup(), clean_stdout():
                write_table(summed.table if summed is not None else chosen.table, output)  # type: ignore[union-attr]
        if report is not None:
            with setup(), clean_stdout():
                say(f"The report is {_report(made, summed, chosen, report, frequency)}")
    except KeyboardInterrupt as error:
        say("Interrupted: start again to go on from here")
        raise typer.Exit(exit_code(error)) from None
    if any(map(len, failures)):
        raise typer.Exit(INCOMPLETE)


def _check_report(folder: Path) -> None:
    from ..results.files import check_file

    if not os.path.lexists(folder):
        folder.mkdir(parents=True)
    if not folder.is_dir():
        raise NotADirectoryError(f"the report goes to a folder, and {folder} is a file")
    check_file(folder / "report.html")


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


def _choices(tables: list[str]) -> list[Choices]:
    from ..benchmark.choices import load_choices

    found = []
    for table in tables:
        name, equals, path = table.partition("=")
        if not equals or Path(table).exists():
            name, path = "", table
        found.append(load_choices(path, None, name or None))
    return found


def _report(
    made: Benchmark | None, summed: Summary | None, chosen: ChoiceSummary | None, folder: Path, frequency: float
) -> Path:
    from ..report.document import Document
    from ..report.page import write_report
    from ..report.sections import choice_tests, needed, within
    from ..report.sections import choices as agreement

    sections = [] if chosen is None else [agreement(chosen.table), choice_tests(chosen.significance)]
    if chosen is not None:
        folder.mkdir(parents=True, exist_ok=True)
        chosen.table.to_csv(folder / "choices.csv", index=False)
        chosen.significance.to_csv(folder / "choice_significance.csv", index=False)
    if made is not None and summed is not None:
        sections = [within(summed.table), needed(summed.significance), *sections]
        return write_report(made, summed, folder, frequency, progress=progress, sections=sections)
    page = Document("Image quality metrics beside human choices")
    page.notes(chosen.notes if chosen is not None else ())
    for section in sections:
        page.heading(section.title)
        page.text(section.text)
        page.table(section.headings, section.rows, section.numbers)
    return page.write(folder)


def _show(summed: Summary | None, chosen: ChoiceSummary | None) -> None:
    from ..report import sections

    if summed is not None:
        _show_opinions(summed)
        shown = [sections.within(summed.table), sections.needed(summed.significance)]
        for note in summed.notes:
            say(note)
    else:
        shown = []
    if chosen is not None:
        shown += [sections.choices(chosen.table), sections.choice_tests(chosen.significance)]
        for note in chosen.notes:
            say(note)
    for section in shown:
        if section.rows:
            print()
            show_table(section.headings, section.rows, section.numbers, section.title)


def _show_opinions(summed: Summary) -> None:
    from ..report.page import main_table, overall_table

    headings, rows = main_table(summed, ["srcc"] if sys.stdout.isatty() else ["srcc", "krcc", "plcc", "rmse", "outlier_ratio"])
    show_table(headings, rows, len(headings) - 2, "agreement with opinions")
    print()
    headings, rows = overall_table(summed)
    show_table(headings, rows, len(headings) - 1, "overall")
