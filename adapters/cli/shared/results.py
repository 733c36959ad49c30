"""What the commands that score data sets begin and end with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from msds_plugin.adapters.cli.shared.options import datasets_of
from msds_plugin.adapters.cli.shared.terminal import INCOMPLETE, say, say_failures

if TYPE_CHECKING:
    import pandas as pd

    from msds_plugin.adapters.benchmark import Dataset


def one_dataset(
    dataset: str | None, data_root: Path | None, csv: str | None, root: Path | None, lower_better: bool, what: str
) -> Dataset:
    """The data set that ``--dataset`` or ``--csv`` and the options beside them speak of; ``what`` is of one set only."""
    found = datasets_of([dataset] if dataset else [], data_root, [csv] if csv else [], [root] if root else [], lower_better)
    if len(found) != 1:
        raise ValueError(f"{what} one data set: give --dataset or --csv, not both")
    return found[0]


def check_targets(output: Path | None, report: Path | None) -> None:
    """Raise an error unless the table and the report can be written; the report's folder is made."""
    from msds_plugin.adapters.scoring.files import check_file
    from msds_plugin.adapters.scoring.tables import check_output

    if output is not None:
        check_output(output)
    if report is not None:
        if report.exists() and not report.is_dir():
            raise NotADirectoryError(f"the report goes to a folder, and {report} is a file")
        report.mkdir(parents=True, exist_ok=True)
        check_file(report / "report.html")


def finish(failures: pd.DataFrame, unavailable: Mapping[str, str] | None = None, notes: Sequence[str] = ()) -> None:
    """Say what a reader has to know, and what is missing and why; exit with 1 if anything is."""
    for note in notes:
        say(note)
    for name, reason in (unavailable or {}).items():
        say(f"{name} could not be made, and is left out: {reason}")
    say_failures(failures)
    if unavailable or len(failures):
        raise typer.Exit(INCOMPLETE)
