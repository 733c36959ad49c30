"""Tables in files: csv, json and parquet by the file's suffix."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

from .files import check_file, replace_file

#: What a spreadsheet takes for the beginning of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_PATHS = ("reference", "distorted")


def _write_json(table: pd.DataFrame, path: Path) -> None:
    rows = [
        {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
        for row in table.to_dict("records")
    ]
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def check_output(path: Path) -> None:
    """Raise an error unless a table can be written to ``path``.

    Raises:
        ValueError: a suffix other than .csv, .json and .parquet, or a name that the file system refuses.
        FileNotFoundError: the folder does not exist.
        PermissionError: nothing may be written there.
    """
    _by_suffix(_WRITERS, path)
    check_file(path)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table; whoever reads ``path`` meanwhile sees the old file or the new one, never a part.

    Scores that are not numbers are empty cells in csv and null in json.

    Raises:
        ValueError: a suffix other than .csv, .json and .parquet.
        OSError: it cannot be written; names ``path``, which is left as it was.
    """
    write = _by_suffix(_WRITERS, path)
    replace_file(path, lambda part: write(table, part))


def to_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table as csv, in which no text can become a formula when a spreadsheet opens it.

    A path gets ``./`` before it and still names the same file; other text gets an apostrophe, as spreadsheets have it.
    """
    safe = table.copy()
    for column in table:
        if not is_numeric_dtype(table[column]):
            safe[column] = _harmless(table[column], str(column))
    safe.columns = [_safe(str(column), "'") for column in table]
    safe.to_csv(path, index=False)


def _harmless(column: pd.Series[Any], name: str) -> pd.Series[Any]:
    return column.map(lambda cell: _safe(cell, "./" if name in _PATHS else "'"))


def _safe(cell: Any, sign: str) -> Any:
    if not isinstance(cell, str):
        return cell
    # A lone carriage return would end the row for most readers, as the csv writer does not quote it.
    return (sign + cell if cell.startswith(_FORMULA) else cell).replace("\r", "\\r")


def read_table(path: Path) -> pd.DataFrame:
    """Read what :func:`write_table` wrote; missing numbers are NaN.

    Raises:
        ValueError: a suffix other than .csv, .json and .parquet.
    """
    table = _by_suffix(_READERS, path)(path)
    return table.astype({column: float for column in table.columns if table[column].isna().all()})


_WRITERS: dict[str, Callable[[pd.DataFrame, Path], None]] = {
    ".csv": to_csv,
    ".json": _write_json,
    ".parquet": lambda table, path: table.to_parquet(path, index=False),
}
_READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": pd.read_csv,
    ".json": lambda path: pd.DataFrame(json.loads(path.read_text(encoding="utf-8"))),
    ".parquet": pd.read_parquet,
}


def _by_suffix(table: dict[str, Any], path: Path) -> Any:
    if path.suffix.lower() not in table:
        raise ValueError(f"a table cannot be written as {path.name!r}: its name must end in {', '.join(table)}")
    return table[path.suffix.lower()]
