"""``msds list``."""

from __future__ import annotations

import sys
from shutil import get_terminal_size
from typing import Annotated

import typer

from msds_plugin.adapters.cli.shared.options import refuse
from msds_plugin.adapters.cli.shared.terminal import setup, show_table


def list_metrics(
    all: Annotated[bool, typer.Option("--all", help="Also list pyiqa's and piq's metrics.")] = False,
    full_reference: Annotated[bool, typer.Option("--fr", help="Of --all, those that need a reference only.")] = False,
    mine: Annotated[bool, typer.Option("--mine", help="Those that other packages or --import have registered only.")] = False,
) -> None:
    """List the metrics by name, direction and range."""
    from msds_plugin.adapters.scorers import describe_metrics

    with setup():
        refuse({"--all": all, "--fr": full_reference} if mine else {}, "with --mine there is no")
        rows = describe_metrics(with_toolkits=all or full_reference)
    chosen = [
        row
        for row in rows
        if (row.full_reference or not full_reference) and not (mine and row.origin in ("msds-plugin", "pyiqa", "piq"))
    ]
    columns = ["name", "title", "better", "range", "summary"]
    if sys.stdout.isatty() and get_terminal_size().columns < 100:  # no room for titles, which are the names in other letters
        columns.remove("title")
    show_table(columns, [[getattr(row, column) for column in columns] for row in chosen])
