"""Metrics by name, and the engine that scores pairs of files with them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "Pair": ".engine",
    "Result": ".engine",
    "score_pairs": ".engine",
    "create_scorer": ".scorers",
    "create_scorers": ".scorers",
}


def __getattr__(name: str) -> Any:
    # Not before someone asks: the engine brings torch.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
