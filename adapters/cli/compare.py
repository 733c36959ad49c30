"""``msds compare``."""

from __future__ import annotations

import glob
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from msds_plugin.adapters.cli.shared import options
from msds_plugin.adapters.cli.shared.terminal import (
    INCOMPLETE,
    arrow,
    finish,
    progress,
    resumable,
    say,
    setup,
    show_table,
)

if TYPE_CHECKING:
    from msds_plugin.adapters.benchmark import Comparison
    from msds_plugin.adapters.images.pairs import Matching
    from msds_plugin.adapters.scoring import Run

_FORMATS = (".txt", ".md", ".tex", ".html", ".csv", ".json", ".parquet")


@options.run_options()
def compare(
    methods: Annotated[
        list[str], typer.Argument(metavar="NAME=FOLDER...", help="Results of each method; without NAME= the folder's name.")
    ],
    reference: Annotated[
        list[str],
        typer.Option(
            "--reference",
            "-r",
            metavar="FOLDER",
            help="Reference images; or several data sets, each as NAME=FOLDER: each method's folder then has a sub-folder of "
            "that name, or {group} in its path.",
        ),
    ],
    metric: options.Metrics = None,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help=f"Write the tables to {', '.join(_FORMATS)}; may be given several times. Scores of every image are kept "
            "beside the first.",
        ),
    ] = None,
    own: Annotated[
        bool, typer.Option("--own", help="Means over all images that a method has, in place of those that all have.")
    ] = False,
    mask: options.Mask = None,
    match: options.Match = None,
    recursive: options.Recursive = False,
    *,
    run: Run,
) -> None:
    """Compare methods: means of their results by several metrics, and which differences are real.

    msds compare -r GT EDSR=results/edsr SwinIR=results/swinir -m psnr,ssim,msds-auto -o table.tex

    Methods down, metrics across: mean and standard deviation, the best marked, by each metric's direction; and the paired
    differences of every two methods with 95 % intervals and corrected p values. Of .html there is a gallery of the images on
    which the methods differ most. FILE.scores.csv has the score of every image; FILE.sqlite keeps them, so that a run can go
    on after a stop and another method costs only its own scores.
    """
    from msds_plugin.adapters.benchmark import compare as compare_methods

    outputs = output or []
    results = outputs[0].with_suffix(".sqlite") if outputs else None

    def say_found(folder: str, matching: Matching) -> None:
        if matching.how != "matched by name" or matching.notes:
            say(folder)
            options.say_matching(matching)

    with resumable(kept=results is not None):
        _check(outputs)
        references = _references(reference)
        folders = _methods(methods, references)
        how, names = options.pairing(match, recursive=recursive), options.metric_names(metric)
        grouped = references.get("", references)
        made = compare_methods(folders, grouped, names, results, run, own, how, progress, say_found, mask)
    try:
        with setup():
            _write(made, outputs, run)
    finally:  # whoever reads stdout may stop early, and files may not be writable: neither costs the other
        _show(made)
    finish(made.failures, made.unavailable)
    if made.lacking:
        raise typer.Exit(INCOMPLETE)


def _check(outputs: Sequence[Path]) -> None:
    from msds_plugin.adapters.scoring.files import check_file

    for path in outputs:
        if path.suffix.lower() not in _FORMATS:
            raise ValueError(f"a table cannot be written as {path.name!r}: its name must end in {', '.join(_FORMATS)}")
        check_file(path)


def _references(given: Sequence[str]) -> dict[str, Path]:
    """Folders of references by group; one without a group has the name ""."""
    found = [options.named_path(text) for text in given]
    if len(found) > 1 and not all(name for name, _ in found):
        raise ValueError("give each of several references a name: -r Set5=GT/Set5 -r Set14=GT/Set14")
    groups = {name or "": Path(path) for name, path in found}
    if len(groups) < len(found):
        raise ValueError(f"two references of one name: {', '.join(str(name) for name, _ in found)}")
    return groups


def _methods(given: Sequence[str], references: Mapping[str, Path]) -> dict[str, Path]:
    """Folders of results by method; a pattern such as results/* that no shell has resolved is resolved here."""
    found: list[tuple[str, Path]] = []
    for text in given:
        name, place = options.named_path(text)
        paths = [Path(place)]
        if name is None and glob.has_magic(place) and not Path(place).exists():
            paths = [each for each in sorted(map(Path, glob.glob(place))) if each.is_dir()]
            if not paths:
                raise FileNotFoundError(f"no folder at {place}")
        for each in paths:
            if any(path.resolve() in (each.resolve(), (each / group).resolve()) for group, path in references.items()):
                say(f"{each} is the reference itself, and no method: left out")
            else:
                found.append((name or each.name, each))
    names = [name for name, _ in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two methods of the name {', '.join(twice)}: give names, as in EDSR=results/edsr")
    return dict(found)


def _show(made: Comparison) -> None:
    from msds_plugin.adapters.benchmark.compare import TESTED, TEXT_LEGEND, means, paired, verdicts, with_signs

    tables = [
        (section, [[cell.replace(" ± ", "±") for cell in row] for row in with_signs(section)]) for section in means(made, arrow)
    ]
    if sys.stdout.isatty() or made.groups == [""]:
        for section, rows in tables:
            show_table(section.headings, rows, section.numbers, section.title or "means")
    else:  # one table for who reads it by a program
        first = tables[0][0]
        lines = [[section.title, *row] for section, rows in tables for row in rows]
        show_table(["group", *first.headings], lines, first.numbers)
    for note in (TEXT_LEGEND, *made.notes):
        say(note)
    if len(made.differences):
        print()
        headings, lines, numbers = paired(made).plain
        title = "paired differences"
        if sys.stdout.isatty() and made.groups != [""]:  # without the column of groups most fit
            for group in made.groups:
                of_group = [line[1:] for line in lines if line[0] == group]
                show_table(headings[1:], of_group, numbers, f"{title}, {group}")
        else:
            show_table(headings, lines, numbers, title)
        for sentence in (TESTED, *verdicts(made)):
            say(sentence)


def _write(made: Comparison, outputs: Sequence[Path], run: Run) -> None:
    from msds_plugin.adapters.benchmark.compare import to_document, to_latex, to_text
    from msds_plugin.adapters.scoring.files import replace_file
    from msds_plugin.adapters.scoring.tables import write_table

    texts = {
        ".txt": lambda: to_text(made),
        ".tex": lambda: to_latex(made),
        ".md": lambda: to_document(made).to_markdown(),
        ".html": lambda: to_document(made, run).to_html(),
    }
    for path in outputs:
        kind = path.suffix.lower()
        if kind in texts:
            text = texts[kind]().encode()
            replace_file(path, lambda part, text=text: part.write_bytes(text))  # type: ignore[misc]
        else:
            write_table(made.table, path)
    for name, table in (("scores", made.scores), ("differences", made.differences)) if outputs else ():
        path = outputs[0].with_suffix(f".{name}.csv")
        write_table(table, path)
        say(f"{name.capitalize()} are in {path}")
