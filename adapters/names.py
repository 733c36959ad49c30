"""Names of metrics: with options after commas, in Python, and of forms on a pyramid."""

from __future__ import annotations

import ast
from typing import Any

from msds_plugin import registry

#: Prefix of pyiqa's metrics on a pyramid.
MULTISCALE_PREFIX = "ms-"


def on_a_pyramid(name: str) -> bool:
    """Whether the metric of this name takes ``levels`` and ``fusion``."""
    return name.startswith(MULTISCALE_PREFIX) or (name in registry.names() and registry.get(name).multiscale)


def parse_metric(text: str) -> tuple[str, dict[str, Any]]:
    """``msds,backbone=alexnet,levels=4`` as a name and options; values are Python literals where they are, else text.

    A comma inside brackets does not separate: ``msds,fusion=(0.5,0.3,0.2)``; nor do names in them need quotes:
    ``msds-fast,layers=[stage1,stage2]``.

    Raises:
        ValueError: a part that is not ``option=value``, or an option twice.
    """
    name, *parts = _split(text)
    options: dict[str, Any] = {}
    for part in parts:
        option, equals, value = part.partition("=")
        if not equals or not option.isidentifier() or option in options:
            raise ValueError(f"{text!r}: after the metric's name come options, each once, as option=value; got {part!r}")
        options[option] = _value(value.strip())
    return name, options


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        pass
    if len(text) > 1 and text[0] + text[-1] in ("[]", "()"):  # a list of names without quotes
        values = [_value(part) for part in _split(text[1:-1]) if part]
        return values if text[0] == "[" else tuple(values)
    return text


def _split(text: str) -> list[str]:
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]
