"""The data sets that the commands' options speak of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from msds_plugin.adapters.benchmark.datasets import Dataset


def datasets_of(
    names: Sequence[str], data_root: Path | None, tables: Sequence[str], roots: Sequence[Path], lower_better: bool
) -> list[Dataset]:
    """The data sets that ``--dataset``, ``--data-root``, ``--csv``, ``--root`` and ``--lower-better`` speak of."""
    from msds_plugin.adapters.benchmark.datasets import load_csv, load_pyiqa

    if not names and not tables:
        raise ValueError("no data set: give --dataset NAME with --data-root DIR, or --csv FILE with --root DIR")
    if names and data_root is None:
        raise ValueError("--dataset needs --data-root, the folder that holds pyiqa's data sets")
    if len(roots) not in (0, 1, len(tables)):
        raise ValueError(f"--root is given {len(roots)} times for {len(tables)} tables: give it once for all, or once for each")
    found = [load_pyiqa(name, str(data_root)) for name in names]
    folders = [None] * len(tables) if not roots else list(roots) * len(tables) if len(roots) == 1 else list(roots)
    for table, folder in zip(tables, folders, strict=True):
        name, path = named_path(table)
        found.append(load_csv(path, folder, lower_better, name))
    return found


def named_path(text: str) -> tuple[str | None, str]:
    """Name and path of ``NAME=PATH``; no name for a path, which may hold a ``=`` itself."""
    name, equals, path = text.partition("=")
    return (name or None, path) if equals and not Path(text).exists() else (None, text)
