"""Tables in files: CSV, JSON and Parquet, by the file's suffix."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sized
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from msds_plugin.adapters.scoring.files import check_file, replace_file

_Handler = TypeVar("_Handler")

#: What a spreadsheet takes for the beginning of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_PATHS = ("reference", "distorted")


def check_output(path: Path) -> None:
    """Raise an error unless a table can be written to ``path``, as :func:`check_file` does and for another suffix."""
    _by_suffix(_WRITERS, path)
    check_file(path)


def write_table(table: pd.DataFrame, path: Path, summary: pd.DataFrame | None = None) -> None:
    """Replace ``path`` by a table in one step. Scores that are not numbers are empty cells in CSV and null in JSON.

    With a ``summary`` JSON is an object of ``scores`` and ``summary``, else a list of rows; the other forms leave it out.

    Raises:
        ValueError: a suffix other than .csv, .json and .parquet.
        OSError: it cannot be written; names ``path``, which is left as it was.
    """
    write = _by_suffix(_WRITERS, path)
    replace_file(path, lambda part: write(table, part, summary))


def write_unfinished(table: pd.DataFrame, path: Path, summary: pd.DataFrame | None = None) -> str | None:
    """Write the table of a run that did not finish, unless ``path`` holds more rows: then a sentence that says so."""
    if kept := holds_more(path, len(table)):
        return kept
    write_table(table, path, summary)
    return None


def holds_more(path: Path, rows: int, read: Callable[[Path], Sized] | None = None) -> str | None:
    """A sentence if a file, as ``read`` by default as a table, has more rows of an earlier run than one that did not finish."""
    try:
        before = len((read or read_table)(path))
    except (OSError, ValueError, LookupError, TypeError):  # there is none, or it is something else
        return None
    return f"{path} holds {before} rows of an earlier run and stays as it is" if before > rows else None


def read_table(path: Path) -> pd.DataFrame:
    """Read what :func:`write_table` wrote; missing numbers are NaN."""
    table = _by_suffix(_READERS, path)(path)
    return table.astype({column: float for column in table.columns if table[column].isna().all()})


def to_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV in which no text becomes a formula when a spreadsheet opens it.

    A path gets ``./`` before it and still names the same file; other text gets an apostrophe.
    """

    def safe(cell: Any, sign: str = "'") -> Any:
        if not isinstance(cell, str):
            return cell
        # A lone carriage return would end the row for most readers, as the csv writer does not quote it.
        return (sign + cell if cell.startswith(_FORMULA) else cell).replace("\r", "\\r")

    columns = [table[column].map(partial(safe, sign="./" if column in _PATHS else "'")) for column in table]
    pd.concat(columns, axis=1).set_axis([safe(column) for column in table], axis=1).to_csv(path, index=False)


def _to_json(table: pd.DataFrame, path: Path, summary: pd.DataFrame | None = None) -> None:
    content: Any = _records(table) if summary is None else {"scores": _records(table), "summary": _records(summary)}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    finite = table.notna() & ~table.isin([math.inf, -math.inf])
    return table.astype(object).where(finite, None).to_dict("records")


def _read_json(path: Path) -> pd.DataFrame:
    content = json.loads(path.read_text(encoding="utf-8"))
    return pd.DataFrame(content["scores"] if isinstance(content, dict) else content)


_WRITERS: dict[str, Callable[[pd.DataFrame, Path, pd.DataFrame | None], None]] = {
    ".csv": lambda table, path, _: to_csv(table, path),
    ".json": _to_json,
    ".parquet": lambda table, path, _: table.to_parquet(path, index=False),
}
#: What pandas before 3 needs to read a number to its last digit; later ones do so, and warn of the option.
_EXACT: dict[str, Any] = {"float_precision": "round_trip"} if pd.__version__ < "3" else {}
_READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": lambda path: pd.read_csv(path, **_EXACT),
    ".json": _read_json,
    ".parquet": pd.read_parquet,
}


def _by_suffix(table: dict[str, _Handler], path: Path) -> _Handler:
    if path.suffix.lower() not in table:
        raise ValueError(f"a table cannot be written as {path.name!r}: its name must end in {', '.join(table)}")
    return table[path.suffix.lower()]
