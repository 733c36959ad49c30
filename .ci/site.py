"""What mkdocs needs beyond its plugins: the reference's sources and pages, and formulas as MathML, which needs no script."""

from __future__ import annotations

import re
import sys
import tempfile
from html import unescape
from pathlib import Path
from typing import Any

from griffe import Docstring, Extension, Object
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
from layout import ROOT, lay_out

#: Pages written for readers of the repository, and what they are called here.
FRONT = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
#: Rooms of the adapters that programs do not use.
INTERNAL = ("cli", "common", "demo", "moved", "results")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
ROLE = re.compile(r":(?:class|func|meth|mod|attr|exc|data):`~?([^`]+)`")

_sources = tempfile.TemporaryDirectory()


@event_priority(100)  # before mkdocstrings reads it
def on_config(config: MkDocsConfig) -> None:
    """Let the reference read the package as it is installed."""
    lay_out(Path(_sources.name))
    config.plugins["mkdocstrings"].config["handlers"]["python"]["paths"] = [_sources.name]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add what is written outside of ``docs``, and one page of reference per public module."""
    for name, page in FRONT.items():
        files.append(File.generated(config, page, content=_as_in_docs((ROOT / name).read_text())))
    package = Path(_sources.name)
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if _is_public(parts) and '"""' in path.read_text():
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            name = ".".join(parts)
            short = name.removeprefix("msds_plugin.").removeprefix("adapters.")
            content = f"---\ntitle: {short}\n---\n\n# {name}\n\n::: {name}\n"
            files.append(File.generated(config, f"reference/{name}.md", content=content))


def _as_in_docs(text: str) -> str:
    """Markdown of the top folder with the links that lead to the same places from ``docs``."""
    text = text.replace("](docs/", "](")
    for name, page in FRONT.items():
        text = text.replace(f"]({name}", f"]({page}")
    return text


def _is_public(parts: tuple[str, ...]) -> bool:
    if any(part.startswith("_") and part != "__init__" for part in parts):
        return False
    return len(parts) < 3 or parts[1] != "adapters" or parts[2] not in INTERNAL


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Leave out what follows the language of a code block (``no-run``), which is for the tests."""
    return re.sub(r"^(```\w+) .*$", r"\1", markdown, flags=re.MULTILINE)


def on_page_content(html: str, **_: Any) -> str:
    """Turn LaTeX into MathML."""
    return FORMULA.sub(_mathml, html)


def _mathml(found: re.Match[str]) -> str:
    return convert(unescape(found[2]).strip(), display="inline" if found[1] == "span" else "block")


class Markdown(Extension):
    """Docstrings are written with Sphinx's roles, which editors show; the site is Markdown."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Translate the docstring of one object."""
        if isinstance(obj.docstring, Docstring):
            obj.docstring.value = _markdown(obj.docstring.value)


def _markdown(text: str) -> str:
    text = re.sub(r"^( *)\.\. math:: (.*(?:\n\1 +\S.*)*)", r"\1$$\n\1\2\n\1$$", text, flags=re.MULTILINE)
    text = re.sub(r":math:`([^`]+)`", r"$\1$", text)
    text = re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.MULTILINE)  # the name of the section whose >>> is code
    return ROLE.sub(lambda role: f"`{role[1].removeprefix('msds_plugin.')}`", text)
