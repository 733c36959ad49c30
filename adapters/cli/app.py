"""The commands. Each imports what it needs when it runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any

import typer

from msds_plugin.adapters.cli.assert_ import assert_alike
from msds_plugin.adapters.cli.benchmark import benchmark
from msds_plugin.adapters.cli.calibrate import calibrate
from msds_plugin.adapters.cli.compare import compare
from msds_plugin.adapters.cli.demo import demo
from msds_plugin.adapters.cli.fit import fit
from msds_plugin.adapters.cli.list import list_metrics
from msds_plugin.adapters.cli.ray import score_on_ray
from msds_plugin.adapters.cli.reproduce import reproduce
from msds_plugin.adapters.cli.robustness import robustness
from msds_plugin.adapters.cli.score import score
from msds_plugin.adapters.cli.shared.command import Command
from msds_plugin.adapters.cli.shared.terminal import setup
from msds_plugin.adapters.cli.study import study
from msds_plugin.adapters.cli.train import train
from msds_plugin.adapters.cli.video import video
from msds_plugin.adapters.cli.weights import weights

app = typer.Typer(
    help="Deep structural similarity metrics (DeepSSIM, MSDS) for image quality assessment.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from msds_plugin import __version__

        print(f"msds-plugin {__version__}")
        raise typer.Exit


@app.callback()
def before_all(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    modules: Annotated[
        list[str] | None,
        typer.Option(
            "--import", metavar="MODULE", help="Python module that registers metrics of your own, before the command."
        ),
    ] = None,
) -> None:
    """Deep structural similarity metrics (DeepSSIM, MSDS) for image quality assessment."""
    if modules:
        sys.path.insert(0, os.getcwd())
    with setup():
        for module in modules or ():
            import_module(module)


commands: dict[str, Callable[..., Any]] = {
    "score": score,
    "compare": compare,
    "list": list_metrics,
    "benchmark": benchmark,
    "fit": fit,
    "demo": demo,
    "robustness": robustness,
    "study": study,
    "reproduce": reproduce,
    "train": train,
    "video": video,
    "ray": score_on_ray,
    "assert": assert_alike,
    "calibrate": calibrate,
    "weights": weights,
}
for name, command in commands.items():
    app.command(name, cls=Command)(command)
