"""Tables of labels as people and programs write them, to rows of text."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..images.formats import is_meant_as_image

_SEPARATORS = "\t;,"


@dataclass(frozen=True)
class Line:
    """A row of a table: where it begins in the file, counted from 1, and its cells without spaces around them."""

    number: int
    cells: tuple[str, ...]


def read_lines(path: Path) -> list[Line]:
    """The rows of a table separated by commas, semicolons or tabs, without blank ones and comments (they begin with ``#``).

    Text is UTF-8 or UTF-16, with or without a byte order mark, or else Latin-1. The separator is the one that divides the first
    row into three cells or more, and most of the others into as many.

    Raises:
        ValueError: it is no text, or quotation marks do not match; names the file and the line.
    """
    text = _text(path)
    first, _, rest = text.partition("\n")
    if first.strip().lower().startswith("sep=") and len(first.strip()) == 5:  # a line that Excel writes and obeys
        return _rows(path, rest, first.strip()[4], 2)
    last: ValueError | None = None
    found = []
    for separator in _SEPARATORS:
        try:
            found.append(_rows(path, text, separator, 1))
        except ValueError as error:
            last = error
    best: Sequence[Line] = max(found, key=_fitness, default=())
    if last is not None and _fitness(best)[0] < 3:  # what divides it otherwise is of no use
        raise last
    return list(best)


def _fitness(lines: Sequence[Line]) -> tuple[int, int]:
    if not lines:
        return 0, 0
    cells = len(lines[0].cells)
    return min(cells, 3), sum(len(line.cells) == cells for line in lines)


def _text(path: Path) -> str:
    content = path.read_bytes()
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encodings = ["utf-16"]
    elif content[:4].count(0) == 2 and 0 in (content[0], content[1]):  # UTF-16 of Latin letters
        encodings = ["utf-16-be" if content[0] == 0 else "utf-16-le"]
    else:
        encodings = ["utf-8-sig", "latin-1"]
    for encoding in encodings:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise ValueError(f"{path} is not a table of text: save it as CSV")


def _rows(path: Path, text: str, separator: str, first: int) -> list[Line]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    lines, start = [], 0
    try:
        for row in reader:
            cells = tuple(cell.strip() for cell in row)
            if any(cells) and not _is_comment(cells):
                lines.append(Line(start + first, cells))
            start = reader.line_num
    except csv.Error as error:
        raise ValueError(f"{path}: line {start + first} cannot be read: {error}") from error
    return lines


def _is_comment(cells: Sequence[str]) -> bool:
    return cells[0].startswith("#") and not is_meant_as_image(cells[0])


def is_header(line: Line, known: set[str]) -> bool:
    """Whether a table's first row names columns: known ones, or at least neither an image nor a score."""
    if known & {cell.lower() for cell in line.cells}:
        return True
    return not (any(map(is_meant_as_image, line.cells[:2])) or (len(line.cells) > 2 and number(line.cells[2]) is not None))


def number(text: str) -> float | None:
    """A finite number, with a decimal point or comma; None for anything else."""
    text = text.replace("\u2212", "-")  # the minus of typesetters
    if "_" in text or text.count(",") > 1 or ("," in text and "." in text):
        return None
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
