"""Modules of version 0.1 under the names that its documentation used."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

MOVED = {
    "datasets": "benchmark.datasets",
    "failures": "benchmark.failures",
    "fit": "benchmark.fit",
    "large_images": "images.large",
    "statistics": "benchmark.statistics",
    "summary": "benchmark.summary",
}


class _Moved(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked for by the import system, which must not load the module for it
            raise AttributeError(name)
        return getattr(import_module(f".{MOVED[self.__name__.rpartition('.')[2]]}", __package__), name)


def keep_old_names() -> None:
    """Let ``from msds_plugin.adapters.datasets import load_csv`` and the like go on working; nothing is imported yet."""
    for old in MOVED:
        name = f"{__package__}.{old}"
        sys.modules.setdefault(name, _Moved(name, "Moved in version 0.2."))
