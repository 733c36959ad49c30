"""What mkdocs needs beyond its plugins: pages of the reference and of the commands, and formulas as MathML without a script."""

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
from typer.main import get_command

from msds_plugin.adapters.cli.app import app, named_types

sys.path.insert(0, str(Path(__file__).parent))
from layout import ROOT, lay_out

#: Pages written for readers of the repository, and what they are called here.
FRONT = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
#: What programs use of the adapters. Where it is a package, that names what they use of its modules.
ADAPTERS = ("", "benchmark", "images.read", "piq", "pyiqa", "ray", "research.robustness", "scoring")
ADAPTERS += ("scoring.arrays", "torchmetrics", "video")
#: Modules of the mathematics that only serve the metrics.
OWN = ("toolboxes", "encoder", "local", "__main__")
#: A name that the package exports, and the module that it is from.
EXPORT = re.compile(r"^from \.(\S+) import (\w+) as \2$", re.MULTILINE)
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
    files.append(File.generated(config, "reference/commands.md", content=_commands()))
    for name, page in FRONT.items():
        files.append(File.generated(config, page, content=_as_in_docs((ROOT / name).read_text())))
    package = Path(_sources.name)
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if _is_public(name.removeprefix("msds_plugin").removeprefix(".")):
            short = name.removeprefix("msds_plugin.").removeprefix("adapters.")
            content = f"---\ntitle: {short}\n---\n\n# {name}\n\n::: {name}\n{_exports(path)}"
            files.append(File.generated(config, f"reference/{name}.md", content=content))


def _as_in_docs(text: str) -> str:
    """Markdown of the top folder with the links that lead to the same places from ``docs``."""
    text = text.replace("](docs/", "](")
    for name, page in FRONT.items():
        text = text.replace(f"]({name}", f"]({page}")
    return text


def _exports(path: Path) -> str:
    """What a package exports on demand, from its stub: a list that leads to the pages."""
    stub = path.with_suffix(".pyi")
    found = EXPORT.findall(stub.read_text()) if stub.exists() else []
    return "".join(f"\n- [`msds_plugin.{name}`](msds_plugin.{module}.md)" for module, name in found) + "\n"


def _commands() -> str:
    """Every command with its options, from the program itself."""
    group = get_command(app)
    context = group.make_context("msds", [], resilient_parsing=True)
    page = ["# Commands and their options", "", "The same as `msds COMMAND --help`.", "", *_options(group, context)]
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        inside = command.context_class(command, info_name=name, parent=context)
        usage = " ".join(command.collect_usage_pieces(inside))
        page += ["", f"## msds {name}", "", f"`msds {name} {usage}`", "", _text(command.help), "", *_options(command, inside)]
    return "\n".join(page) + "\n"


def _options(command: Any, context: Any) -> list[str]:
    records = [record for option in command.get_params(context) if (record := option.get_help_record(context))]
    rows = [f"| `{_cell(named_types(name))}` | {_cell(_text(text))} |" for name, text in records]
    return ["| option | meaning |", "| --- | --- |", *rows]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _text(text: str) -> str:
    """Help texts are for a terminal: what Markdown takes for markup is written out."""
    return re.sub(r"([*_<{[\]])", r"\\\1", text)


def _is_public(name: str) -> bool:
    """Whether a module has a page, by its name without ``msds_plugin``."""
    package, _, rest = name.partition(".")
    if package == "adapters":
        return rest in ADAPTERS
    return package not in OWN and not rest  # the packages registry and saliency name what programs use


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
