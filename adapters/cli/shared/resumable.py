"""What the commands that keep their work as they go have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from msds_plugin.adapters.cli.shared.process import exit_code
from msds_plugin.adapters.cli.shared.terminal import clean_stdout, say, setup


@contextmanager
def resumable() -> Iterator[None]:
    """Expected errors as one line and exit code 2; after a signal a line that says how to go on, and its exit code."""
    try:
        with setup(), clean_stdout():
            yield
    except KeyboardInterrupt as error:
        say("Interrupted: start again to go on from here")
        raise typer.Exit(exit_code(error)) from None
