"""The command line: ``msds``. A command imports what it needs when it runs."""

from __future__ import annotations

import io
import os
import sys

import typer

from .benchmark import benchmark
from .demo import demo
from .fit import fit
from .list import list_metrics
from .score import score

app = typer.Typer(
    help="Deep structural similarity metrics (DeepSSIM, MSDS) for image quality assessment.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("score")(score)
app.command("list")(list_metrics)
app.command("benchmark")(benchmark)
app.command("fit")(fit)
app.command("demo")(demo)


def main() -> None:
    """The console script ``msds``."""
    # oneDNN keeps 1024 compiled operations, each for one image size: with sizes that never come again, memory for nothing.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name that stdout cannot show must not cost the results
    app()
