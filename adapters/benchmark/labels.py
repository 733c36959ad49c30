"""Tables of labels that people and other programs wrote: separators, encodings and headers as they come."""

from __future__ import annotations

import codecs
import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

#: Where several would do, the first: a comma may also stand in numbers.
_SEPARATORS = ("\t", ";", ",")
_Row = tuple[int, list[str]]


def read_columns(
    path: Path, columns: Mapping[str, Sequence[str]], needed: Sequence[str], numbers: Sequence[str]
) -> pd.DataFrame:
    """A table of text with the columns that are known by name, or by position where no name is known.

    Args:
        path: the file.
        columns: what a column may be called, by what it holds.
        needed: what must be there, the last of them a number; in this order where the names of columns are not known.
        numbers: columns of numbers; those that are needed must be finite.

    Returns:
        One row per line; the index is the line's number in the file. Names are text as they stand (``NA``, ``001``).

    Raises:
        ValueError: too few columns, a missing column, no rows, a line with another number of fields, an empty cell, a score
            that is not a finite number; names the file and the line.
    """
    rows, separator = _split(_text(path))
    if not rows:
        raise ValueError(f"{path} has no rows")
    found, rows = _columns(path, rows, columns, needed, separator)
    if not rows:
        raise ValueError(f"{path} has no rows")
    width = max(len(rows[0][1]), max(found.values()) + 1)
    for line, fields in rows:
        if any(fields[width:]) or len(fields) <= max(found[name] for name in needed):
            raise ValueError(f"{path}, line {line}: {len(fields)} fields where the others have {width}")
    lines = [line for line, _ in rows]
    table = pd.DataFrame(
        {name: [fields[place] if place < len(fields) else "" for _, fields in rows] for name, place in found.items()},
        index=lines,
        dtype=object,
    )
    for name in needed:
        empty = [line for line, value in zip(lines, table[name], strict=True) if not value]
        if empty:
            raise ValueError(f"{path}, line {empty[0]}: no {name}")
    for name in table.columns.difference([*needed, *numbers]):
        table[name] = table[name].where(table[name] != "", None)
    for name in (name for name in numbers if name in table):
        table[name] = [_number(value, separator) for value in table[name]]
        bad = [str(line) for line in lines if not math.isfinite(table[name][line])]
        if bad and name in needed:
            raise ValueError(f"{path} has no finite {name} in lines {', '.join(bad[:5])}")
    return table


def _text(path: Path) -> str:
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")  # what older spreadsheets write


def _split(text: str) -> tuple[list[_Row], str]:
    split = {separator: _rows(text, separator) for separator in _SEPARATORS}
    even = [s for s, rows in split.items() if rows and len({len(fields) for _, fields in rows}) == 1 and len(rows[0][1]) > 2]
    some = [s for s, rows in split.items() if rows and len(rows[0][1]) > 2]
    separator = (even or some or [","])[0]
    return split[separator], separator


def _rows(text: str, separator: str) -> list[_Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    rows = []
    for fields in reader:
        stripped = [field.strip() for field in fields]
        while stripped and not stripped[-1]:
            stripped.pop()  # spreadsheets end lines with separators
        if stripped:
            rows.append((reader.line_num, stripped))
    return rows


def _columns(
    path: Path, rows: list[_Row], columns: Mapping[str, Sequence[str]], needed: Sequence[str], separator: str
) -> tuple[dict[str, int], list[_Row]]:
    """The place of each column, and the rows below the header."""
    header = [field.casefold() for field in rows[0][1]]
    found = {
        key: next(header.index(name) for name in names if name in header)
        for key, names in columns.items()
        if any(name in header for name in names)
    }
    if not any(key in found for key in needed):
        if len(header) < len(needed):
            raise ValueError(
                f"{path} has {len(header)} columns: at least {', '.join(needed[:-1])} and {needed[-1]} are needed, "
                "separated by commas, semicolons or tabs"
            )
        is_row = math.isfinite(_number(rows[0][1][len(needed) - 1], separator))
        return {key: place for place, key in enumerate(needed)}, rows if is_row else rows[1:]
    missing = [key for key in needed if key not in found]
    if missing:
        raise ValueError(f"{path} has no column for {', '.join(missing)}: its header is {', '.join(rows[0][1])}")
    return found, rows[1:]


def _number(text: str, separator: str) -> float:
    try:
        return float(text.replace(",", ".") if separator != "," else text)
    except ValueError:
        return math.nan
