"""The structure of the package: which room may know which, names that have moved, and a quiet installation."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from msds_plugin.adapters.moved import MOVED

ROOT = Path(__file__).parents[2]
LINT = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(sys.argv[1], no_cache=True))"


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("datasets", "load_csv"),
        ("fit", "fit_fusion"),
        ("large_images", "LargeImage"),
        ("statistics", "srcc"),
        ("summary", "summarise"),
    ],
)
def test_names_of_version_0_1(module, name):
    old = import_module(f"msds_plugin.adapters.{module}")
    assert getattr(old, name) is getattr(import_module(f"msds_plugin.adapters.{MOVED[module]}"), name)


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """A copy of the package as it is installed."""
    subprocess.run([sys.executable, str(ROOT / ".ci" / "layout.py"), str(tmp_path)], check=True)
    return tmp_path


def lint_imports(layout: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("importlinter")
    command = [sys.executable, "-W", "ignore", "-c", LINT, str(ROOT / "pyproject.toml")]
    return subprocess.run(command, cwd=layout, capture_output=True, text=True, check=False)


def test_rooms_know_only_those_below_them(layout):
    done = lint_imports(layout)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("functional.py", "from .adapters.common import names", "know no toolkit, file or terminal BROKEN"),
        ("errors.py", "from . import registry", "knows no names of metrics BROKEN"),
        ("adapters/scoring/scorers.py", "from ..cli import terminal", "arrows go downwards BROKEN"),
        ("adapters/results/tables.py", "from ..images import read", "arrows go downwards BROKEN"),
        ("errors.py", "from . import deepssim", "No circle BROKEN"),
    ],
)
def test_an_arrow_that_goes_up_is_found(layout, module, line, broken):
    with (layout / "msds_plugin" / module).open("a") as file:
        file.write(f"\n{line}\n")
    done = lint_imports(layout)
    assert done.returncode == 1
    assert broken in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("options", [["wheel"], ["install", "--target", "installed", "--editable"]], ids=str)
def test_installation_has_no_warning(tmp_path, options):
    source = tmp_path / "source"
    for part in ("msds_plugin", "registry", "adapters"):
        shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    arguments = [options[0], "--verbose", "--no-deps", "--no-build-isolation", "--no-cache-dir", *options[1:], str(source)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-m", "pip", *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "running" in said  # setuptools was heard
    # setuptools says this of every editable installation, whatever the project
    ours = said.replace("BuildBackendWarning: Editable installation", "")
    assert not [line for line in ours.splitlines() if "warning" in line.lower() or "deprecat" in line.lower()], said
