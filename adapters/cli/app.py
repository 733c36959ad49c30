"""The commands. Each imports what it needs when it runs."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from msds_plugin.adapters.cli.benchmark import benchmark
from msds_plugin.adapters.cli.compare import compare
from msds_plugin.adapters.cli.demo import demo
from msds_plugin.adapters.cli.export import export
from msds_plugin.adapters.cli.fit import fit
from msds_plugin.adapters.cli.gate import assert_alike, calibrate
from msds_plugin.adapters.cli.list import list_metrics
from msds_plugin.adapters.cli.ray import score_on_ray
from msds_plugin.adapters.cli.reproduce import reproduce
from msds_plugin.adapters.cli.robustness import robustness
from msds_plugin.adapters.cli.score import score
from msds_plugin.adapters.cli.shared.terminal import setup
from msds_plugin.adapters.cli.study import study
from msds_plugin.adapters.cli.train import train
from msds_plugin.adapters.cli.video import video
from msds_plugin.adapters.cli.weights import weights

_TYPE = re.compile(r"<(list\[)?(str|Path|path|int|float)( range)?\]?>")
_NAMES = {"str": "TEXT", "Path": "PATH", "path": "PATH", "int": "NUMBER", "float": "NUMBER"}


def named_types(text: str, keep_width: bool = False) -> str:
    """``<path>`` as ``PATH``, and so on, as a reader of help knows them."""
    return _TYPE.sub(lambda found: _NAMES[found[2]].ljust(len(found[0]) * keep_width), text)


class Command(TyperCommand):
    """A command that is listed with its whole first sentence, and names types as ``TEXT``, not ``<list[str]>``."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.short_help = (self.help or "").split("\n\n")[0].replace("\n", " ")

    def get_help(self, ctx: Any) -> str:
        """The help page; names keep the width of what they replace, since it is laid out already."""
        return named_types(super().get_help(ctx), keep_width=True)


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
            try:
                import_module(module)
            except Exception as error:  # somebody's own code raises whatever it runs into
                raise ImportError(f"cannot import {module}: {type(error).__name__}: {error}") from error


_COMMANDS: list[Callable[..., None]] = [score, compare, list_metrics, benchmark, fit, demo, robustness, study]
_COMMANDS += [reproduce, train, video, score_on_ray, assert_alike, calibrate, weights, export]
_OWN_NAMES: dict[Callable[..., None], str] = {list_metrics: "list", score_on_ray: "ray", assert_alike: "assert"}
for command in _COMMANDS:
    app.command(_OWN_NAMES.get(command), cls=Command)(command)
