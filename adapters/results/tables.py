"""Tables in files: csv, json and parquet by the file's suffix."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import pandas as pd


def _write_json(table: pd.DataFrame, path: Path) -> None:
    rows = [
        {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
        for row in table.to_dict("records")
    ]
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


_WRITERS: dict[str, Callable[[pd.DataFrame, Path], None]] = {
    ".csv": lambda table, path: table.to_csv(path, index=False),
    ".json": _write_json,
    ".parquet": lambda table, path: table.to_parquet(path, index=False),
}
_READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": pd.read_csv,
    ".json": lambda path: pd.DataFrame(json.loads(path.read_text(encoding="utf-8"))),
    ".parquet": pd.read_parquet,
}


def check_output(path: Path) -> None:
    """Raise an error unless a table can be written to ``path``.

    Raises:
        ValueError: a suffix other than .csv, .json and .parquet.
        FileNotFoundError: the folder does not exist.
        PermissionError: nothing may be written there.
    """
    _by_suffix(_WRITERS, path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write {path.name} to: make it first")
    target = Path(os.path.realpath(path))
    # The folder too, as the new file is made beside the old one.
    if target.is_dir() or not all(os.access(each, os.W_OK) for each in (target.parent, target) if each.exists()):
        raise PermissionError(f"{path} cannot be written: it, and the folder it is in, must be writable")


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table; whoever reads ``path`` meanwhile sees the old file or the new one, never a part.

    Scores that are not numbers are empty cells in csv and null in json.

    Raises:
        ValueError: a suffix other than .csv, .json and .parquet.
    """
    write = _by_suffix(_WRITERS, path)
    target = Path(os.path.realpath(path))  # or a link would be replaced by a file
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        write(table, part)
        try:
            part.replace(target)
        except OSError:  # a file mounted by itself, as containers do, cannot be replaced
            shutil.copyfile(part, target)
    finally:
        part.unlink(missing_ok=True)


def read_table(path: Path) -> pd.DataFrame:
    """Read what :func:`write_table` wrote; missing numbers are NaN.

    Raises:
        ValueError: a suffix other than .csv, .json and .parquet.
    """
    table = _by_suffix(_READERS, path)(path)
    return table.astype({column: float for column in table.columns if table[column].isna().all()})


class TableFile:
    """A table that grows row by row, and its file: csv has each row at once, other formats get them all at the end.

    Used as a context; however it is left, by an exception too, the file then holds the rows in the order asked for.

    Args:
        path: None for a table without a file.
        columns: headings.
    """

    def __init__(self, path: Path | None, columns: Sequence[str]) -> None:
        self.path = path
        self.columns = list(columns)
        self._rows: dict[int, Sequence[Any]] = {}
        self._stream: IO[str] | None = None

    @property
    def rows(self) -> list[Sequence[Any]]:
        """The rows so far, in the order asked for."""
        return [self._rows[place] for place in sorted(self._rows)]

    def __enter__(self) -> TableFile:
        if self.path is not None and self.path.suffix.lower() == ".csv":
            self._stream = self.path.open("w", newline="", encoding="utf-8")
            self._append(self.columns)
        return self

    def add(self, place: int, row: Sequence[Any]) -> None:
        """Add a row; ``place`` says where it belongs in the end."""
        self._rows[place] = row
        self._append(["" if isinstance(value, float) and math.isnan(value) else value for value in row])

    def _append(self, row: Sequence[Any]) -> None:
        if self._stream is not None:
            csv.writer(self._stream, lineterminator="\n").writerow(row)
            self._stream.flush()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._stream is not None:
            self._stream.close()
        if self.path is not None:
            write_table(pd.DataFrame(self.rows, columns=self.columns), self.path)


def _by_suffix(table: dict[str, Any], path: Path) -> Any:
    if path.suffix.lower() not in table:
        raise ValueError(f"a table cannot be written as {path.name!r}: its name must end in {', '.join(table)}")
    return table[path.suffix.lower()]
