"""Numbers and tables as text, and the templates they go into."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def environment(escape: bool) -> Environment:
    """The templates, for HTML (``escape``) or Markdown; in both, text from outside cannot become markup."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=escape,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        finalize=None if escape else markdown_text,
    )
    environment.filters |= {"figure": figure, "interval": interval, "raw": raw, "cell": _cell, "markdown": Markdown}
    return environment


def figure(value: float, digits: int = 3, signed: bool = False) -> str:
    """A number as text; a dash where it is not known."""
    if not math.isfinite(value):
        return "–"
    return f"{value:{'+' if signed else ''}.{digits}f}"


def interval(bounds: tuple[float, float], digits: int = 3, signed: bool = False) -> str:
    """An interval as text; nothing where it is not known."""
    if not all(map(math.isfinite, bounds)):
        return ""
    return f"[{figure(bounds[0], digits, signed)}, {figure(bounds[1], digits, signed)}]"


def raw(value: float) -> str:
    """A number with all its digits; nothing where it is not known."""
    return repr(float(value)) if math.isfinite(value) else ""


class Markdown(str):
    """Text that is Markdown already."""


def markdown_text(value: Any) -> Any:
    """Text as Markdown that shows it: no HTML, no link, no end of line."""
    if not isinstance(value, str) or isinstance(value, Markdown):
        return value
    plain = html.escape(" ".join(value.split()), quote=False)
    return Markdown(plain.replace("](", "]\\(").replace("`", "\\`"))


def markdown(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> Markdown:
    """A table."""
    lines = [list(headings), ["---"] * len(headings), *rows]
    return Markdown("\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines))


def _cell(value: Any) -> str:
    return str(markdown_text(str(value))).replace("|", "\\|")
