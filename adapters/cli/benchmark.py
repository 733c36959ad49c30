"""``msds benchmark``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Annotated, Any

import typer

from msds_plugin.adapters.cli.shared import options
from msds_plugin.adapters.cli.shared.terminal import finish, progress, resumable, say, setup, show_table

if TYPE_CHECKING:
    from msds_plugin.adapters.benchmark import ChoiceSummary, Summary
    from msds_plugin.adapters.scoring import Run


@options.run_options("resize")
def benchmark(
    metric: options.Metrics = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Full-reference data set by pyiqa's name; may be given several times."),
    ] = None,
    data_root: options.DataRoot = None,
    csv: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Table of reference, distorted, score, or NAME=FILE; may be given several times."),
    ] = None,
    root: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Folder of a table's images: one for all, or one each. [default: the table's]"),
    ] = None,
    lower_better: Annotated[bool, typer.Option("--lower-better", help="Lower scores in the tables are better (DMOS).")] = False,
    choices: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Table of forced choices: reference, a, b, share that preferred b, answers; or NAME=FILE. Images are where "
            "the table is. May be given several times.",
        ),
    ] = None,
    resize: Annotated[
        str,
        typer.Option(
            help="Of pairs that differ in size, how metrics that compare pixel by pixel get the distorted image: bicubic, "
            "bilinear, nearest; none: they give no score."
        ),
    ] = "none",
    results: options.KeptScores = Path("msds-benchmark.sqlite"),
    report: options.Report = None,
    output: options.Output = None,
    factors: Annotated[
        str | None,
        typer.Option(help="Shares of the overall figure. [default: accuracy=0.3,monotonicity=0.3,consistency=0.3,speed=0.1]"),
    ] = None,
    frequency: Annotated[
        float, typer.Option(min=0, max=0.7, help="Cycles per pixel above which energy counts as high-frequency.")
    ] = 0.25,
    resamples: options.Resamples = 1000,
    seed: options.BootstrapSeed = 0,
    *,
    run: Run,
) -> None:
    """Rank metrics by their agreement with opinion scores: statistics, and with --report a page with pictures.

    Every score is kept in the results file as it comes. Start again after a stop or a crash, and only what is missing is
    computed; a score is used again only if metric, options, weights, versions and both images are unchanged.
    """
    import pandas as pd

    from msds_plugin.adapters.benchmark import load_choices, run_choices, summarise
    from msds_plugin.adapters.benchmark import run as run_benchmark
    from msds_plugin.adapters.benchmark.report import page
    from msds_plugin.adapters.scoring.tables import write_table

    method: Any = None if resize == "none" else resize
    made = summed = chosen = None
    with resumable():
        options.check_targets(output, report)
        shares = _shares(factors)
        opinions = dataset or csv or not choices
        of_opinions = {"--data-root": data_root, "--root": root, "--lower-better": lower_better, "--factors": factors}
        options.refuse({} if opinions else of_opinions, "with --choices alone there is no")
        sets = [load_choices(path, name) for name, path in map(options.named_path, choices or [])]
        datasets = options.datasets_of(dataset or [], data_root, csv or [], root or [], lower_better) if opinions else []
        say(f"Scores are kept in {results}")
        metrics = options.metric_names(metric)
        if datasets:
            made = run_benchmark(metrics, datasets, results, run, progress, method)
            summed = summarise(made.scores, shares, resamples, seed, made.notes, made.resampled)
        if sets:
            chosen = run_choices(metrics, sets, results, run, progress, method, resamples=resamples, seed=seed)
    try:
        with setup():
            if output is not None:
                write_table(pd.concat([each.table for each in (summed, chosen) if each]), output)
            if report is not None:
                if made and summed:
                    path = page.write_report(made, summed, report, frequency, progress, chosen)
                else:
                    path = page.write_choices(chosen, report)  # type: ignore[arg-type]
                say(f"The report is {path}")
    finally:  # whoever reads stdout may stop early, and files may not be writable: neither costs the other
        _show(summed, chosen)
    runs = [each for each in (made, chosen.made if chosen else None) if each]
    finish(pd.concat([each.scores.failures for each in runs]), runs[0].unavailable)


def _shares(text: str | None) -> dict[str, float]:
    from msds_plugin.adapters.benchmark.summary import FACTORS, checked_factors

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


def _show(summed: Summary | None, chosen: ChoiceSummary | None) -> None:
    from msds_plugin.adapters.benchmark.report import page

    sections = []
    if summed is not None and summed.table["count"].any():
        # On a terminal the main table is kept narrow; the report and the file have every interval.
        narrow = ["srcc"] if get_terminal_size().columns >= 100 else []
        sections += [page.agreement(summed, narrow if sys.stdout.isatty() else page.INTERVALS), page.overall(summed)]
        sections += [page.differences(summed), page.within(summed.table), page.needed(summed.significance)]
    if chosen is not None:
        sections += [page.choices(chosen.table), page.choice_tests(chosen.significance)]
    for note in (*(summed.notes if summed else ()), *(chosen.notes if chosen else ())):
        say(note)
    for place, section in enumerate(section for section in sections if section.rows):
        if place:
            print()
        shown = section.plain
        show_table(*(_lean(*shown) if sys.stdout.isatty() else shown), section.title.lower())


def _lean(columns: Sequence[str], rows: list[list[str]], numbers: int) -> tuple[list[str], list[list[str]], int]:
    """A table without what says nothing, to fit a terminal: the name of the only data set, columns without a figure."""
    kept = [
        place
        for place, name in enumerate(columns)
        if (cells := {row[place] for row in rows}) != {"–"} and (name != "data set" or len(cells) > 1)
    ]
    texts = sum(place < len(columns) - numbers for place in kept)
    return [columns[place] for place in kept], [[row[place] for place in kept] for row in rows], len(kept) - texts
