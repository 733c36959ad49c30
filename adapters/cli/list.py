"""``msds list``."""

from __future__ import annotations

from typing import Annotated

import typer

from .shared.terminal import clean_stdout, setup, show_table


def list_metrics(
    all: Annotated[bool, typer.Option("--all", help="Also list pyiqa's and piq's metrics.")] = False,
) -> None:
    """List the metrics by name, direction and range."""
    from ..scoring.listing import describe_metrics

    with setup(), clean_stdout():
        rows = describe_metrics(with_toolkits=all)
    show_table(["name", "title", "better", "range", "summary"], rows)
