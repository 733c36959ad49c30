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
from typing import Any, TypeAlias

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from msds_plugin.adapters.scoring.tables import to_csv

_KINDS = {"svg": "svg+xml", "jpg": "jpeg", "png": "png"}


@dataclass(frozen=True)
class Cell:
    """A cell of a table that is more than its text.

    Attributes:
        text: what it shows.
        value: what it is sorted by; None for its text.
        mark: ``best`` (bold), ``second`` (underlined), or nothing.
    """

    text: str
    value: float | None = None
    mark: str = ""


@dataclass(frozen=True)
class Section:
    """A heading, what it means, and a table; ``numbers`` of its last columns are numbers."""

    title: str
    text: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    numbers: int

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows, every cell with its text."""
        return [[cell if isinstance(cell, Cell) else Cell(str(cell)) for cell in row] for row in self.rows]

    @property
    def texts(self) -> list[list[str]]:
        """The rows as text."""
        return [[cell.text for cell in row] for row in self.cells]


@dataclass
class Document:
    """Add parts in order, then :meth:`write`. What is added is plain text: none of it can become markup.

    Attributes:
        title: the heading.
        subtitle: under it.
        parts: what was added.
        pictures: by their paths beside the Markdown.
        tables: by name, to be written beside the page as ``<name>.csv``.

    Example:
        >>> import tempfile
        >>> page = Document("Trial", "one metric")
        >>> page.heading("Figures")
        >>> page.table(["metric", "rank"], [["msds", "0.99"]], numbers=1)
        >>> page.write(tempfile.mkdtemp()).name
        'report.html'
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
        lines = list(sentences)
        if lines:
            self.parts.append({"kind": "notes", "lines": lines})

    def section(self, section: Section, level: int = 2) -> None:
        """A heading, a paragraph and a table, if the table has rows."""
        if section.rows:
            self.heading(section.title, level)
            self.text(section.text)
            self.table(section.headings, section.rows, section.numbers)

    def table(self, headings: Sequence[str], rows: Iterable[Sequence[str | Cell]], numbers: int = 0) -> None:
        """A table that readers of the page can sort, whose last ``numbers`` columns are numbers."""
        cells = Section("", "", headings, list(rows), numbers).cells
        self.parts.append({"kind": "table", "headings": list(headings), "rows": cells, "texts": len(headings) - numbers})

    def weighted(self, shares: Mapping[str, float], table: pd.DataFrame) -> None:
        """A table of one figure out of several; on the page the shares can be changed, and the figure follows.

        Args:
            shares: of each factor.
            table: ``metric``, the factors in [0, 1] or NaN, and ``overall``, the figure.
        """
        rows = table[["metric", *shares, "overall"]].to_numpy().tolist()
        lines = [(name, [Cell(figure(value), _value(value)) for value in values]) for name, *values in rows]
        self.parts.append({"kind": "weighted", "shares": dict(shares), "rows": lines})

    def picture(self, content: bytes, name: str, alt: str, suffix: str = "svg", caption: str = "") -> None:
        """A picture, beside the Markdown as ``figures/<name>.<suffix>`` and inside the page."""
        self.gallery([(content, name, alt, caption)], suffix)

    def gallery(self, pictures: Iterable[tuple[bytes, str, str, str]], suffix: str = "jpg") -> None:
        """Pictures side by side: (content, name, alternative text, caption)."""
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

    def to_html(self) -> str:
        """The page as one text."""
        return str(_environment(True).get_template("document.html").render(vars(self)))

    def to_markdown(self) -> str:
        """The same as Markdown; it shows pictures from the folder ``figures``."""
        text = _environment(False).get_template("document.md").render(vars(self))
        return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"

    def write(self, directory: str | os.PathLike[str], stem: str = "report") -> Path:
        """Write ``<stem>.html``, ``<stem>.md``, ``figures`` and the tables; files of these names are replaced, at the end.

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
                (new / f"{stem}.md").write_text(self.to_markdown(), encoding="utf-8")
                (new / f"{stem}.html").write_text(self.to_html(), encoding="utf-8")
                parts = [f"{name}.csv" for name in self.tables]
                for path in (*parts, *self.pictures, f"{stem}.md", f"{stem}.html"):  # what shows the rest last
                    (new / path).replace(folder / path)
        except OSError as error:
            raise OSError(error.errno, f"cannot write the report to {folder}: {error.strerror or error}") from error
        return folder / f"{stem}.html"


def figure(value: float, digits: int = 3, signed: bool = False) -> str:
    """A number as text; a dash where it is not known."""
    if not math.isfinite(value):
        return "–"
    return f"{value:{'+' if signed else ''}.{digits}f}"


#: Headings and rows.
Shown: TypeAlias = tuple[list[str], list[list[str]]]


def interval(bounds: tuple[float, float], digits: int = 3, signed: bool = False) -> str:
    """An interval as text; nothing where it is not known."""
    if not all(map(math.isfinite, bounds)):
        return ""
    return f"[{figure(bounds[0], digits, signed)}, {figure(bounds[1], digits, signed)}]"


def _value(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def shown(table: pd.DataFrame, columns: Mapping[str, str], signed: str = "") -> Shown:
    """Headings and rows of some columns: numbers with three digits, with their interval in brackets where it is known.

    Args:
        table: the interval of ``<name>`` is in ``<name>_low`` and ``<name>_high``.
        columns: names to headings, in order.
        signed: the one whose positive numbers get a plus.
    """
    rows = [[_shown(row, name, name == signed) for name in columns] for row in table.to_dict("records")]
    return list(columns.values()), rows


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


def _environment(escape: bool) -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["markdown"] = _markdown
    return made


def _markdown(text: str) -> str:
    """Text as Markdown that shows it: no HTML, no link, no end of line, no end of a cell."""
    plain = html.escape(" ".join(text.split()), quote=False)
    return plain.replace("](", "]\\(").replace("`", "\\`").replace("|", "\\|")
