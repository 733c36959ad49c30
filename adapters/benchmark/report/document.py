"""Reports of headings, text, tables and pictures: one HTML page that needs nothing but itself, and Markdown."""

from __future__ import annotations

import base64
import html
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from msds_plugin.adapters.scoring.tables import to_csv

_KINDS = {"svg": "svg+xml", "jpg": "jpeg", "png": "png"}


@dataclass(frozen=True)
class Cell:
    """A cell: what it shows, what it is sorted by (None for its text), and ``best`` (bold) or ``second`` (underlined)."""

    text: str
    value: float | None = None
    mark: str = ""


@dataclass(frozen=True)
class Section:
    """A table whose last ``numbers`` columns are numbers, a heading and what it means; the last two may be empty."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    numbers: int = 0
    title: str = ""
    text: str = ""

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows, every cell with its text."""
        return [[cell if isinstance(cell, Cell) else Cell(str(cell)) for cell in row] for row in self.rows]

    @property
    def texts(self) -> list[list[str]]:
        """The rows as text."""
        return [[cell.text for cell in row] for row in self.cells]

    @property
    def plain(self) -> tuple[Sequence[str], list[list[str]], int]:
        """What a terminal shows: headings, rows as text, number of columns of numbers."""
        return self.headings, self.texts, self.numbers


@dataclass
class Document:
    """Add parts in order, then :meth:`write`. What is added is plain text: none of it can become markup.

    Attributes:
        parts: what was added.
        pictures: by their paths beside the Markdown.
        tables: by name, to be written beside the page as ``<name>.csv``.
    """

    title: str
    subtitle: str = ""
    parts: list[dict[str, Any]] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)

    def heading(self, text: str, level: int = 2) -> None:
        """A heading; 2 for a section, which the page's menu names, 3 for a part of one."""
        self.parts.append({"kind": "heading", "text": text, "level": level, "anchor": _slug(text).lower()})

    def text(self, text: str) -> None:
        """A paragraph."""
        self.parts.append({"kind": "text", "text": text})

    def notes(self, sentences: Iterable[str]) -> None:
        """A list of what a reader has to know; nothing where there is nothing."""
        if lines := list(sentences):
            self.parts.append({"kind": "notes", "lines": lines})

    def section(self, section: Section, level: int = 2) -> None:
        """A heading, a paragraph, and a table that readers of the page can sort; nothing if the table has no rows."""
        if not section.rows:
            return
        if section.title:
            self.heading(section.title, level)
        if section.text:
            self.text(section.text)
        texts = len(section.headings) - section.numbers
        self.parts.append({"kind": "table", "headings": list(section.headings), "rows": section.cells, "texts": texts})

    def weighted(self, shares: Mapping[str, float], table: pd.DataFrame) -> None:
        """A table of one figure out of several: ``metric``, factors in [0, 1] or NaN, and ``overall``, the figure.

        On the page the factors' shares can be changed, and the figure follows.
        """
        rows = table[["metric", *shares, "overall"]].to_numpy().tolist()
        lines = [(name, [Cell(figure(value), sortable(value)) for value in values]) for name, *values in rows]
        self.parts.append({"kind": "weighted", "shares": dict(shares), "rows": lines})

    def gallery(self, pictures: Iterable[tuple[bytes, str, str, str]], suffix: str = "jpg") -> None:
        """Pictures side by side: (content, name, alternative text, caption); in files ``figures/<name>.<suffix>`` too."""
        shown = []
        for content, name, alt, caption in pictures:
            path = f"figures/{_slug(name)}.{suffix}"
            if self.pictures.setdefault(path, content) != content:  # ms-ssim and ms_ssim are two metrics
                path = f"figures/{_slug(name)}-{len(self.pictures)}.{suffix}"
                self.pictures[path] = content
            uri = f"data:image/{_KINDS[suffix]};base64,{base64.b64encode(content).decode()}"
            shown.append({"uri": uri, "path": path, "alt": alt, "caption": caption})
        if shown:
            self.parts.append({"kind": "gallery", "pictures": shown})

    def picture(self, content: bytes, name: str, alt: str, caption: str = "") -> None:
        """One picture, an SVG."""
        self.gallery([(content, name, alt, caption)], "svg")

    def to_html(self) -> str:
        """The page as one text."""
        return _rendered("document.html", self)

    def to_markdown(self) -> str:
        """The same as Markdown; it shows pictures from the folder ``figures``."""
        return re.sub(r"\n{3,}", "\n\n", _rendered("document.md", self)).strip() + "\n"

    def write(self, directory: str | os.PathLike[str]) -> Path:
        """Write ``report.html``, ``report.md``, ``figures`` and the tables; files of these names are replaced, at the end.

        Returns:
            The path of the page.

        Raises:
            OSError: the folder cannot be written; what is in it stays as it was.
        """
        folder = Path(directory)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(prefix=".msds-", dir=folder) as beside:
                new = Path(beside)
                (new / "figures").mkdir()
                (folder / "figures").mkdir(exist_ok=True)
                for name, table in self.tables.items():
                    to_csv(table, new / f"{name}.csv")
                for path, content in self.pictures.items():
                    (new / path).write_bytes(content)
                (new / "report.md").write_text(self.to_markdown(), encoding="utf-8")
                (new / "report.html").write_text(self.to_html(), encoding="utf-8")
                tables = [f"{name}.csv" for name in self.tables]
                for path in (*tables, *self.pictures, "report.md", "report.html"):  # what shows the rest last
                    (new / path).replace(folder / path)
        except OSError as error:
            raise OSError(error.errno, f"cannot write the report to {folder}: {error.strerror or error}") from error
        return folder / "report.html"


def figure(value: float, digits: int = 3, signed: bool = False) -> str:
    """A number as text; a dash where it is not known."""
    return "–" if math.isnan(value) else f"{value:{'+' if signed else ''}.{digits}f}"


def interval(bounds: tuple[float, float], digits: int = 3, signed: bool = False) -> str:
    """An interval as text; nothing where it is not known."""
    if not all(map(math.isfinite, bounds)):
        return ""
    return f"[{figure(bounds[0], digits, signed)}, {figure(bounds[1], digits, signed)}]"


def sortable(value: float) -> float | None:
    """What a cell is sorted by: nothing where it is not known."""
    return float(value) if math.isfinite(value) else None


def shown(
    table: pd.DataFrame,
    columns: Mapping[str, str] | Sequence[str],
    numbers: int = 0,
    title: str = "",
    text: str = "",
    signed: str = "",
) -> Section:
    """Some columns of a table: numbers with three digits, with their interval in brackets where it is known.

    ``columns`` are names and their headings, or names that are headings too; the interval of ``<name>`` is in ``<name>_low``
    and ``<name>_high``. Positive numbers of the column ``signed`` get a plus.
    """
    headings = list(columns.values() if isinstance(columns, Mapping) else columns)
    rows = [[_shown(row, name, name == signed) for name in columns] for row in table.to_dict("records")]
    return Section(headings, rows, numbers, title, text)


def _shown(row: Mapping[Any, Any], name: str, signed: bool) -> str:
    value = row[name]
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        bounds = row.get(f"{name}_low", math.nan), row.get(f"{name}_high", math.nan)
        return f"{figure(value, 3, signed)} {interval(bounds)}".strip()
    return f"{value:,}" if isinstance(value, int) else str(value)


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")[-120:]


def _rendered(template: str, document: Document) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=template.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["markdown"] = _markdown
    return str(environment.get_template(template).render(vars(document)))


def _markdown(text: str) -> str:
    """Text as Markdown that shows it: no HTML, no link, no end of line, no end of a cell, no emphasis, no formula."""
    plain = html.escape(" ".join(text.split()), quote=False)
    # An underscore inside of a word means nothing, and names are full of them.
    return re.sub(r"[\\`*~|$]|(?<![^\W_])_|_(?![^\W_])|(?<=\])\(", r"\\\g<0>", plain)
