"""Tables of labels as people and programs write them."""

from __future__ import annotations

import io
import math
import os
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import pandas as pd

from msds_plugin.adapters.images.listing import is_meant_as_image

#: What may separate columns; white space only where nothing else does.
_SPACES = r"\s+"
_SEPARATORS = ("\t", ";", ",", _SPACES)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?$")
_THOUSANDS_BY_POINTS = re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3})+,\d+$")


def read_labels(path: Path) -> pd.DataFrame:
    """The cells of a table as text without spaces around them; the index holds the lines in the file, from 1.

    Text is UTF-8 or UTF-16, with or without a byte order mark, or else Latin-1. Tabs, semicolons, commas or spaces separate
    columns: what divides the first row into three cells or more, and most of the others into as many. Blank lines, and comments
    that begin with ``#``, are left out. ``attrs["separator"]`` says what separates columns.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no text, has no rows, or quotation marks do not match; names the file and the line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no CSV file at {path}")
    text, first = _text(path), 1
    line, _, rest = text.partition("\n")
    separators: Sequence[str] = _SEPARATORS
    if re.fullmatch(r"sep=.", line.strip(), re.IGNORECASE):  # a line that Excel writes and obeys
        text, first, separators = rest, 2, (line.strip()[4],)
    table, wrong = pd.DataFrame(), None
    for separator in separators:
        if separator == _SPACES and _fitness(table)[0] > 1:
            continue
        try:
            table = max(table, _divided(text, separator, first), key=_fitness)
        except pd.errors.ParserError as error:
            at = re.search(r"at row (\d+)", str(error))
            wrong = f"{path}: line {int(at[1]) + first if at else '?'} cannot be read: {error}"
    if wrong is not None and _fitness(table)[0] < 3:  # what divides it otherwise is of no use
        raise ValueError(wrong)
    if table.empty:
        raise ValueError(f"{path} has no rows")
    return table


def _text(path: Path) -> str:
    content = path.read_bytes()
    encoding = "utf-8-sig"
    if content[:2] in (BOM_UTF16_LE, BOM_UTF16_BE):
        encoding = "utf-16"
    elif content[:4].count(0) == 2 and 0 in content[:2]:  # UTF-16 of Latin letters
        encoding = "utf-16-be" if content[0] == 0 else "utf-16-le"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    if "\0" in text:
        raise ValueError(f"{path} is not a table of text: save it as CSV")
    return text


def _divided(text: str, separator: str, first: int) -> pd.DataFrame:
    if not text.strip():
        return pd.DataFrame()
    pattern = separator if separator == _SPACES else re.escape(separator)
    table: pd.DataFrame = pd.read_csv(
        io.StringIO(text),
        sep=separator,
        header=None,
        names=range(1 + max(len(re.findall(pattern, line)) for line in text.splitlines())),
        index_col=False,
        dtype=str,
        keep_default_na=False,
        skipinitialspace=True,
        skip_blank_lines=False,
    )
    table = table.fillna("").apply(lambda column: column.str.strip())
    table.index = pd.RangeIndex(first, first + len(table))
    comments = table[0].str.startswith("#") & ~table[0].map(is_meant_as_image)
    table = table[(table != "").any(axis=1) & ~comments]
    table.attrs["separator"] = separator
    return table


def _fitness(table: pd.DataFrame) -> tuple[int, int]:
    """Cells of the first row, up to three, and how many rows have as many cells as it."""
    if table.empty:
        return 0, 0
    counts = table.apply(filled, axis=1)
    return min(int(counts.iloc[0]), 3), int((counts == counts.iloc[0]).sum())


def filled(row: pd.Series[str]) -> int:
    """Cells of a row up to the last that is not empty."""
    return int(row.ne("").to_numpy().nonzero()[0].max()) + 1


def places(path: Path, header: pd.Series[str], known: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Which column holds what: for each kind of content the first of its ``known`` names that the header has, in any case.

    Raises:
        ValueError: two columns have that name.
    """
    titles = [cell.lower() for cell in header]
    found = {key: next((name for name in names if name in titles), "") for key, names in known.items()}
    twice = [name for name in found.values() if name and titles.count(name) > 1]
    if twice:
        raise ValueError(f"{path} has two columns of the name {twice[0]}")
    return {key: titles.index(name) for key, name in found.items() if name}


def numbers(cells: pd.Series[str], what: str, separator: str = "") -> pd.Series[float]:
    """A column of text as finite numbers; NaN for what is none.

    The whole column decides what a comma is: ``3,7`` has a decimal comma, ``1,432`` beside ``987.5`` is 1432. Where semicolons
    separate columns, commas are decimal. ``what`` names file and column.

    Raises:
        ValueError: a comma could be either.
    """
    plain = cells.str.replace("\u2212", "-")  # the minus of typesetters
    comma = plain.str.contains(",", regex=False)
    thousands = plain.map(lambda cell: bool(_THOUSANDS.match(cell)))
    if plain.map(lambda cell: bool(_THOUSANDS_BY_POINTS.match(cell))).any():
        plain = plain.str.replace(".", "", regex=False)
    elif thousands.any() and (thousands | ~comma).all():
        points = plain.str.contains(".", regex=False).any()
        if points or plain.str.count(",").gt(1).any():
            plain = plain.str.replace(",", "", regex=False)
        elif separator != ";":
            cell = plain[thousands].iloc[0]
            both = f"{cell.replace(',', '')} or {cell.replace(',', '.')}"
            raise ValueError(f"{what} holds {cell}, which may be {both}: write it without a comma")
    elif comma.any() and plain[~comma].str.contains(r"\d\.\d").any():
        raise ValueError(f"{what} has decimal points in some lines and commas in others: write all numbers alike")
    return plain.str.replace(",", ".", regex=False).map(_number)


def _number(text: str) -> float:
    try:
        value = math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def is_number(text: str) -> bool:
    """Whether a cell holds a number, however written."""
    return math.isfinite(_number(text.replace(",", ".", 1).replace(",", "")))


class Names:
    """Finds images by the names in a table, also where these have another case or backslashes, in folders in this order."""

    def __init__(self, *folders: Path) -> None:
        self._folders, self._names = folders, cache(_names)
        self.otherwise = 0

    def find(self, name: str) -> str:
        """The path of the one file of this name; in the first folder if there is none, or no telling which."""
        plain = name.replace("\\", "/")
        found = [folder / each for folder in self._folders for each in (name, plain) if (folder / each).is_file()]
        for folder in self._folders if not found else ():
            alike = self._alike(folder, plain)
            found += alike if len(alike) == 1 else []
        path = found[0] if found else self._folders[0] / name
        self.otherwise += path not in [folder / name for folder in self._folders]
        return str(path)

    def _alike(self, folder: Path, name: str) -> list[Path]:
        """Files whose path is this but for case."""
        path = Path(name)
        found = [Path(path.anchor) if path.anchor else folder]
        for part in path.parts[bool(path.anchor) :]:
            found = [each / same for each in found for same in self._names(each).get(part.casefold(), ())]
        return [path for path in found if path.is_file()]


def _names(folder: Path) -> dict[str, list[str]]:
    """The names in a folder by what they are without case."""
    names = defaultdict(list)
    for name in os.listdir(folder) if folder.is_dir() else ():
        names[name.casefold()].append(name)
    return names
