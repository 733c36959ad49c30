"""Tables of labels as people and programs write them."""

from __future__ import annotations

import io
import math
import os
import re
import unicodedata
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import pandas as pd

from msds_plugin.adapters.images.listing import is_meant_as_image

#: What may separate columns; white space only where nothing else does.
_SPACES = r"\s+"
_SEPARATORS = ("\t", ";", ",", _SPACES)
_THOUSANDS = r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?"
_THOUSANDS_BY_POINTS = r"[+-]?[1-9]\d{0,2}(\.\d{3})+(,\d+)?"


def read_labels(path: Path | str, content: bytes | None = None) -> pd.DataFrame:
    """The cells of a table as text without spaces around them; the index holds the lines in the file, from 1.

    Text is UTF-8 or UTF-16, with or without a byte order mark, or else Windows-1252 (Latin-1). Tabs, semicolons, commas or
    spaces separate columns: what divides the first row into three cells or more, and most of the others into as many. Blank
    lines, and comments that begin with ``#``, are left out. ``attrs["separator"]`` says what separates columns. ``content``:
    that of the file, where ``path`` is no path on this machine.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no text, has no rows, quotation marks do not match, or a row has more cells than the first; names the
            file and the line.
    """
    if content is None and not os.path.isfile(path):
        raise FileNotFoundError(f"no CSV file at {path}")
    text, first = _text(path, Path(path).read_bytes() if content is None else content), 1
    separators: Sequence[str] = _SEPARATORS
    if stated := re.match(r"sep=(.)\r?\n", text, re.IGNORECASE):  # a line that Excel writes and obeys
        text, first, separators = text[stated.end() :], 2, (stated[1],)
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
    widths = _widths(table)
    if len(wide := widths[widths > widths.iloc[0]]):
        raise ValueError(f"{path}: line {wide.index[0]} has {wide.iloc[0]} fields, the first row {widths.iloc[0]}")
    return table


def _text(path: Path | str, content: bytes) -> str:
    encoding = "utf-8-sig"
    if content[:2] in (BOM_UTF16_LE, BOM_UTF16_BE):
        encoding = "utf-16"
    elif content.count(0) * 4 > len(content):  # UTF-16, mostly of Latin letters
        encoding = "utf-16-le" if content[1::2].count(0) > content[::2].count(0) else "utf-16-be"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = content.decode("cp1252", "replace")
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
    comments = table[0].map(lambda cell: cell.startswith("# ") or (cell[:1] == "#" and not is_meant_as_image(cell)))
    table = table[(table != "").any(axis=1) & ~comments]
    table.attrs["separator"] = separator
    return table


def _widths(table: pd.DataFrame) -> pd.Series[int]:
    """The cells of each row up to the last that is not empty."""
    return table.iloc[:, ::-1].ne("").idxmax(axis=1) + 1


def _fitness(table: pd.DataFrame) -> tuple[int, int]:
    """Cells of the first row, up to three, and how many rows have as many cells as it."""
    if table.empty:
        return 0, 0
    widths = _widths(table)
    return min(int(widths.iloc[0]), 3), int((widths == widths.iloc[0]).sum())


def places(path: Path | str, header: pd.Series[str], known: Mapping[str, Sequence[str]]) -> dict[str, int]:
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


def check_lines(path: Path, what: str, wrong: pd.Series[bool]) -> None:
    """Raise an error that names the first of the lines that are wrong, if any is."""
    if wrong.any():
        raise ValueError(f"{path}: line {wrong.idxmax()} has {what}")


def numbers(cells: pd.Series[str], what: str, separator: str) -> pd.Series[float]:
    """A column of text as finite numbers; NaN for what is none.

    The whole column decides what a comma is: ``3,7`` has a decimal comma, ``1,432`` beside ``987.5`` is 1432. Where semicolons
    separate columns, commas are decimal. ``what`` names file and column.

    Raises:
        ValueError: a comma could be either, or the numbers are not written alike.
    """
    plain = cells.str.replace("\u2212", "-")  # the minus of typesetters
    comma, point = (plain.str.contains(sign, regex=False) for sign in ",.")
    thousands, by_points = (plain.str.fullmatch(pattern) for pattern in (_THOUSANDS, _THOUSANDS_BY_POINTS))
    if (by_points & comma).any() and (by_points | ~point).all():
        plain = plain.str.replace(".", "", regex=False)
    elif thousands.any() and (thousands | ~comma).all():
        if point.any() or plain.str.count(",").gt(1).any():
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


def find_images(names: Iterable[str], *folders: Path) -> tuple[list[str], int]:
    """The paths of images by their names in a table, and how many files are named otherwise: in another case, with other
    slashes, or with accents coded otherwise.

    A name with no file, or with several that are its own but for that, stays what it is in the first folder.
    """
    listed = cache(_by_plain_name)

    def alike(folder: Path, name: str) -> list[Path]:
        path = Path(name)
        found = [Path(path.anchor) if path.anchor else folder]
        for part in path.parts[bool(path.anchor) :]:
            found = [each / same for each in found for same in listed(each).get(_plain(part), ())]
        return [each for each in found if each.is_file()]

    paths, otherwise = [], 0
    for name in names:
        stated, forward = [folder / name for folder in folders], name.replace("\\", "/")
        found = [each for folder in folders for each in (folder / name, folder / forward) if each.is_file()]
        if not found:
            found = [near[0] for folder in folders if len(near := alike(folder, forward)) == 1]
        path = (found or stated)[0]
        otherwise += path not in stated
        paths.append(str(path))
    return paths, otherwise


def _plain(name: str) -> str:
    """A name without case, its accents coded in one way: macOS takes them apart."""
    return unicodedata.normalize("NFC", name.casefold())


def _by_plain_name(folder: Path) -> dict[str, list[str]]:
    names = defaultdict(list)
    for name in ("..", *os.listdir(folder)) if folder.is_dir() else ():
        names[_plain(name)].append(name)
    return names
