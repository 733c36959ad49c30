"""The help of commands: whole first sentences, and names of types that a reader knows."""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperCommand

_TYPE = re.compile(r"<(list\[)?(str|Path|path|int|float)( range)?\]?>")
_NAMES = {"str": "TEXT", "Path": "PATH", "path": "PATH", "int": "NUMBER", "float": "NUMBER"}


class Command(TyperCommand):
    """A command that is listed with its whole first sentence, and names types as ``TEXT``, not ``<list[str]>``."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.short_help = (self.help or "").split("\n\n")[0].replace("\n", " ")

    def get_help(self, ctx: Any) -> str:
        """The help page; names keep the width of what they replace, since it is laid out already."""
        return named_types(super().get_help(ctx), keep_width=True)


def named_types(text: str, keep_width: bool = False) -> str:
    """``<path>`` as ``PATH``, and so on."""
    return _TYPE.sub(lambda found: _NAMES[found[2]].ljust(len(found[0]) * keep_width), text)
