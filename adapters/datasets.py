"""Opinion-scored data sets as tables: pyiqa's by name, or any CSV."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import MissingDependencyError

#: What a column may be called, by what it holds; the first three are needed.
COLUMNS = {
    "reference": ("reference", "ref", "ref_name", "reference_name", "ref_img", "ref_path"),
    "distorted": ("distorted", "dist", "dist_name", "distorted_name", "dist_img", "img_name", "dist_path"),
    "score": ("score", "mos", "dmos", "mos_label"),
    "distortion": ("distortion", "dist_type", "type"),
    "std": ("std", "mos_std", "dmos_std", "score_std"),
}


@dataclass(frozen=True)
class Dataset:
    """Images with opinion scores.

    Attributes:
        name: for tables.
        table: one row per distorted image: ``reference`` and ``distorted`` (paths), ``score`` (float); ``distortion`` (str)
            and ``std`` (float) where they are known.
        lower_is_better: True for difference scores (DMOS).
    """

    name: str
    table: pd.DataFrame
    lower_is_better: bool


def load_csv(
    path: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    lower_is_better: bool = False,
    name: str | None = None,
) -> Dataset:
    """A data set from a CSV file.

    Columns are taken by name (:data:`COLUMNS`, any case) or, if none of these names occurs in the header, by position as in
    pyiqa's meta-info files: reference, distorted, score. Other columns are ignored.

    Args:
        path: the CSV file, with a header.
        root: folder the image names are relative to; None for the CSV's own folder.
        lower_is_better: the scores are difference scores (DMOS).
        name: for tables; None for the file's stem.

    Raises:
        FileNotFoundError: no such file.
        ValueError: fewer than three columns, a missing column, no rows, scores that are not finite numbers, a pair twice.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no CSV file at {path}")
    raw = pd.read_csv(path)
    lower = {str(column).strip().lower(): column for column in raw.columns}
    found = {
        key: next(lower[n] for n in names if n in lower) for key, names in COLUMNS.items() if any(n in lower for n in names)
    }
    needed = ("reference", "distorted", "score")
    if not any(key in found for key in needed):
        if raw.shape[1] < len(needed):
            raise ValueError(f"{path} has {raw.shape[1]} columns: at least reference, distorted and score are needed")
        found |= dict(zip(needed, raw.columns, strict=False))
    missing = [key for key in needed if key not in found]
    if missing:
        raise ValueError(f"{path} has no column for {', '.join(missing)}: its header is {', '.join(map(str, raw.columns))}")
    table = pd.DataFrame({key: raw[column] for key, column in found.items()})
    base = path.parent if root is None else Path(root)
    for key in ("reference", "distorted"):
        table[key] = [str(base / str(value)) for value in table[key]]
    for key in {"score", "std"} & set(table):
        table[key] = pd.to_numeric(table[key], errors="coerce")
    bad = table.index[table["score"].isna() | table["score"].abs().eq(float("inf"))]
    if len(table) == 0 or len(bad):
        rows = ", ".join(str(int(row) + 2) for row in bad[:5])
        raise ValueError(f"{path} has no rows" if len(table) == 0 else f"{path} has no finite score in lines {rows}")
    twice = table.index[table.duplicated(["reference", "distorted"])]
    if len(twice):
        raise ValueError(f"{path} lists the pair of line {int(twice[0]) + 2} twice: {table['distorted'][twice[0]]}")
    return Dataset(name or path.stem, table, lower_is_better)


def load_pyiqa(name: str, root: str | os.PathLike[str]) -> Dataset:
    """A full-reference data set by pyiqa's name, through pyiqa's own loader and its table of data sets.

    Args:
        name: ``live``, ``tid2013``, ... of ``pyiqa.get_dataset_info()``.
        root: the folder that holds pyiqa's data sets (its ``data_root``); what is missing there pyiqa downloads.

    Raises:
        MissingDependencyError: pyiqa is not installed.
        ValueError: a name that pyiqa does not know, or a data set without references.
    """
    try:
        import pyiqa
    except ImportError as error:
        raise MissingDependencyError(f"data sets by name need pyiqa ({error}): pip install 'msds-plugin[pyiqa]'") from error
    try:
        info: dict[str, Any] = pyiqa.get_dataset_info(name)
    except AssertionError as error:
        raise ValueError(f"pyiqa knows no data set named {name!r}") from error
    loaded = pyiqa.load_dataset(name, data_root=str(root))
    return from_pyiqa(loaded, name, bool(info.get("lower_better", False)))


def from_pyiqa(dataset: Any, name: str, lower_is_better: bool) -> Dataset:
    """The table of one of pyiqa's full-reference data set objects."""
    rows = [(str(item[0]), str(item[1]), float(item[2])) for item in dataset.paths_mos if len(item) >= 3]
    if not rows:
        raise ValueError(f"{name} has no reference images: a full-reference data set is needed")
    return Dataset(name, pd.DataFrame(rows, columns=["reference", "distorted", "score"]), lower_is_better)
