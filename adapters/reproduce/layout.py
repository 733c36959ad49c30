"""Which of the data sets lie under a folder, whole or in part, in pyiqa's layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from ...errors import MissingDependencyError
from ..benchmark.datasets import Dataset, load_pyiqa
from .published import SETS


@dataclass(frozen=True)
class Found:
    """What there is of a data set.

    Attributes:
        name: pyiqa's.
        state: ``whole``, ``partial`` or ``missing``.
        data: the pairs whose two images are there; None where there are none.
        reason: what is missing, and where to get it; empty for a whole set.
    """

    name: str
    state: Literal["whole", "partial", "missing"]
    data: Dataset | None
    reason: str = ""


def look(name: str, root: Path) -> Found:
    """Look for a data set without downloading anything.

    Args:
        name: of :data:`SETS`.
        root: the folder that holds pyiqa's data sets.

    Raises:
        MissingDependencyError: pyiqa, whose layout and loader are used, is not installed.
    """
    try:
        import pyiqa
    except ImportError as error:
        raise MissingDependencyError(f"the data sets are read by pyiqa ({error}): pip install 'msds-plugin[pyiqa]'") from error
    info: dict[str, Any] = pyiqa.get_dataset_info()[name]
    meta = _under(root, info["meta_info_file"])
    folders = [_under(root, info[key]) for key in ("dataroot_target", "dataroot_ref") if key in info]
    absent = [str(path) for path in (*folders, meta) if not path.exists()]
    if absent:
        return Found(name, "missing", None, f"no {', '.join(absent)}; {_where(name, not meta.exists())}")
    try:
        data = load_pyiqa(name, str(root))
    except Exception as error:  # pyiqa and pandas fail in many ways on a file that is not what its name says
        return Found(name, "missing", None, f"{meta} cannot be used ({type(error).__name__}: {error}); {_where(name, True)}")
    return _present(data, name)


def _present(data: Dataset, name: str) -> Found:
    table = data.table
    exists = {path: Path(path).is_file() for path in {*table["reference"], *table["distorted"]}}
    there = table["reference"].map(exists) & table["distorted"].map(exists)
    usable = there & pd.to_numeric(table["score"], errors="coerce").notna()
    if usable.all():
        return Found(name, "whole", data)
    lost = next(path for path in (*table["reference"], *table["distorted"]) if not exists[path]) if not there.all() else ""
    reason = f"{int((~usable).sum())} of {len(table)} pairs cannot be used" + (
        f", the first for want of {lost}" if lost else ""
    )
    if not usable.any():
        return Found(name, "missing", None, f"{reason}; {_where(name, False)}")
    kept = Dataset(data.name, table[usable].reset_index(drop=True), data.lower_is_better)
    return Found(name, "partial", kept, f"{reason}; {_where(name, False)}")


def _under(root: Path, path: str) -> Path:
    # pyiqa's paths begin with its default folder for data sets.
    return root.joinpath(*Path(path).parts[1:])


def _where(name: str, meta: bool) -> str:
    said = f"{SETS[name].title} is to be had from {SETS[name].where}, or through pyiqa's load_dataset({name!r})"
    return said + (", which also brings the meta-info file" if meta else "")
