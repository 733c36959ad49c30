"""A report of headings, paragraphs, tables and pictures, as Markdown and as one HTML page that needs nothing but itself."""

from __future__ import annotations

import base64
import html
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_KINDS = {"svg": "svg+xml", "jpg": "jpeg", "png": "png"}


@dataclass
class Document:
    """Add parts in order, then :meth:`write`.

    Attributes:
        title: the heading.
        subtitle: under it.
        parts: each with its Markdown and its HTML.

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
    parts: list[tuple[str, str]] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)

    def heading(self, text: str, level: int = 2) -> None:
        """A heading; 2 for a section, 3 for a part of one."""
        self.parts.append((f"{'#' * level} {text}", f"<h{level}>{html.escape(text)}</h{level}>"))

    def text(self, text: str) -> None:
        """A paragraph of plain text."""
        self.parts.append((text, f"<p>{html.escape(text)}</p>"))

    def notes(self, sentences: Iterable[str]) -> None:
        """A list of what a reader has to know; nothing where there is nothing."""
        lines = list(sentences)
        if lines:
            items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
            self.parts.append(("\n".join(f"- {line}" for line in lines), f'<ul class="note">{items}</ul>'))

    def table(self, headings: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> None:
        """A table of text, whose last ``numbers`` columns are numbers."""
        lines = [[str(cell) for cell in row] for row in rows]
        first = len(headings) - numbers
        marks = ["---" if place < first else "---:" for place in range(len(headings))]
        markdown = [
            "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in (list(headings), marks, *lines)
        ]
        kinds = ["text" if place < first else "" for place in range(len(headings))]
        head = "".join(f'<th class="{kind}">{html.escape(cell)}</th>' for kind, cell in zip(kinds, headings, strict=True))
        body = "".join(
            "<tr>"
            + "".join(f'<td class="{kind}">{html.escape(cell)}</td>' for kind, cell in zip(kinds, line, strict=True))
            + "</tr>\n"
            for line in lines
        )
        page = f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        self.parts.append(("\n".join(markdown), page))

    def picture(self, content: bytes, name: str, alt: str, suffix: str = "svg", caption: str = "") -> None:
        """A picture, beside the Markdown as ``figures/<name>.<suffix>`` and inside the page."""
        self.gallery([(content, name, alt, caption)], suffix)

    def gallery(self, pictures: Iterable[tuple[bytes, str, str, str]], suffix: str = "jpg") -> None:
        """Pictures side by side: (content, name, alternative text, caption)."""
        markdown, page = [], []
        for content, name, alt, caption in pictures:
            path = f"figures/{_slug(name)}.{suffix}"
            if self.pictures.setdefault(path, content) != content:
                path = f"figures/{_slug(name)}-{len(self.pictures)}.{suffix}"
                self.pictures[path] = content
            uri = f"data:image/{_KINDS[suffix]};base64,{base64.b64encode(content).decode()}"
            said = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
            markdown.append(f"![{alt}]({path})" + (f" {caption}" if caption else ""))
            page.append(f'<figure><img src="{uri}" alt="{html.escape(alt, quote=True)}">{said}</figure>')
        kind = "gallery" if len(page) > 1 else "single"
        self.parts.append(("\n\n".join(markdown), f'<div class="{kind}">{"".join(page)}</div>'))

    def write(self, directory: str | os.PathLike[str], stem: str = "report") -> Path:
        """Write ``<stem>.html``, ``<stem>.md`` and ``figures``; files of these names are replaced.

        Returns:
            The path of the page.

        Raises:
            OSError: the folder cannot be written.
        """
        folder = Path(directory)
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        for path, content in self.pictures.items():
            (folder / path).write_bytes(content)
        text = "\n\n".join([f"# {self.title}", *([self.subtitle] if self.subtitle else []), *(part for part, _ in self.parts)])
        (folder / f"{stem}.md").write_text(text + "\n", encoding="utf-8")
        page = _template().render(title=self.title, subtitle=self.subtitle, parts=[part for _, part in self.parts])
        (folder / f"{stem}.html").write_text(page, encoding="utf-8")
        return folder / f"{stem}.html"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")[-120:]


def _template() -> Any:
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template("document.html")
