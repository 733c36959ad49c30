"""The command line: ``msds``. A command imports what it needs when it runs."""

from __future__ import annotations

import io
import sys

import typer

from .benchmark import benchmark
from .demo import demo
from .fit import fit
from .list import list_metrics
from .ray import score_on_ray
from .score import score
from .video import video
from .weights import weights

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
app.command("video")(video)
app.command("ray")(score_on_ray)
app.command("weights")(weights)


def main() -> None:
    """The console script ``msds``."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name that stdout cannot show must not cost the results
    app()
