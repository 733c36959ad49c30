"""The commands. Each imports what it needs when it runs."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from importlib import import_module
from itertools import takewhile
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

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse what would be lost or guessed: the first of two values where one is taken, an empty value, ``-o=FILE``."""
        for text in takewhile("--".__ne__, args):
            if re.match(r"-[a-z]=", text):
                ctx.fail(f"{text}: after one dash there is no '=', write {text[:2]} {text[3:]}")
        parser: Any = self.make_parser(ctx)
        values, _, given = parser.parse_args(list(args))
        for option in given:
            value = values[option.name]
            name = "an argument" if option.param_type_name == "argument" else max(option.opts, key=len)
            if given.count(option) > 1 and not (option.multiple or option.is_flag):
                ctx.fail(f"{name} is given {given.count(option)} times and takes one value")
            if "" in (value if isinstance(value, list | tuple) else [value]):  # a path would be the folder one is in
                ctx.fail(f"{name} is empty: leave it out, or say which")
        return super().parse_args(ctx, args)

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
    with setup():
        for module in modules or ():
            folder, name = os.path.split(module.removesuffix(".py"))
            sys.path.insert(0, os.path.abspath(folder))
            try:
                import_module(name)
            except (Exception, SystemExit) as error:  # somebody's own code raises whatever it runs into, and may be a program
                raise ImportError(f"cannot import {module}: {type(error).__name__}: {error}") from error


_COMMANDS: dict[str, Callable[..., None]] = {
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
    "export": export,
}
for name, command in _COMMANDS.items():
    app.command(name, cls=Command)(command)
