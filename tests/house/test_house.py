"""The structure of the package: what code may reach for, which package may know which, documented names, installation."""

import ast
import doctest
import importlib
import inspect
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.version import Version

import msds_plugin

ROOT = Path(__file__).parents[2]
SOURCES = [path for folder in ("msds_plugin", "registry", "adapters") for path in sorted((ROOT / folder).rglob("*.py"))]
CORE = [path for path in SOURCES if "adapters" not in path.parts]
LINT = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(sys.argv[1], no_cache=True))"

#: What the mathematics never touches: private names of torch and of its modules.
PRIVATE = re.compile(
    r"\b(torch|nn|F)\._|\btorch\.(\w+\.)*_|\btorch\.ops\b|_forward_hooks|_forward_pre_hooks|\b_parameters\b|\b_buffers\b"
)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def code(path: Path) -> Iterator[tuple[int, str]]:
    """Lines without comments and strings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            yield node.lineno, ast.unparse(node)


@pytest.mark.parametrize("path", CORE, ids=name)
def test_nothing_private_of_torch(path):
    found = {f"{name(path)}:{line}: {text}" for line, text in code(path) if PRIVATE.search(text)}
    modules = {
        f"{name(path)}: {node.module}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and re.match(r"torch\b.*\._", node.module or "")
    }
    assert not found | modules


def test_capabilities_are_declared_not_probed():
    probes = [f"{name(path)}:{line}" for path in CORE for line, text in code(path) if text == "hasattr"]
    assert len(probes) <= 4, probes  # of functions, of torchvision's networks, of the operating system


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_imports_are_absolute(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    relative = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    assert path.name == "__init__.py" or not relative, relative


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_no_work_is_left_in_comments(path):
    assert not re.findall(r"\b(?:TODO|FIXME|XXX|HACK|NotImplementedError)\b", path.read_text(encoding="utf-8"))


def modules() -> list[str]:
    names = [f"msds_plugin.{info.name}" for info in pkgutil.iter_modules(msds_plugin.__path__)]
    names += [f"msds_plugin.saliency.{path.stem}" for path in (ROOT / "msds_plugin/saliency").glob("[a-z]*.py")]
    names += ["msds_plugin.registry"]
    return [each for each in names if not each.endswith(("__main__", ".adapters"))]


@pytest.mark.parametrize("module", modules())
def test_every_public_name_is_documented(module):
    found = importlib.import_module(module)
    assert found.__doc__
    for public in getattr(found, "__all__", []):
        value = getattr(found, public)
        if not (inspect.isclass(value) or inspect.isfunction(value)) or not value.__module__.startswith("msds_plugin"):
            continue
        assert inspect.getdoc(value), public
        for member, own in vars(value).items() if inspect.isclass(value) else ():
            if inspect.isfunction(own) and not member.startswith("_"):
                assert inspect.getdoc(getattr(value, member)), f"{public}.{member}"


def test_every_name_of_the_package_is_there():
    for public in msds_plugin.__all__:
        assert getattr(msds_plugin, public) is not None
    assert not {"DeepSSIM", "MSDS", "MSDSAlign", "MSDSRetarget", "MultiScale", "score"} - set(msds_plugin.__all__)


def with_examples() -> list[str]:
    """Modules beside the core with examples, by the names they are installed as; pytest collects those of the core itself."""
    found = [path for path in SOURCES if path.relative_to(ROOT).parts[0] != "msds_plugin" and ">>> " in path.read_text("utf-8")]
    return ["msds_plugin." + ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in found]


@pytest.mark.parametrize("module", with_examples())
def test_examples_of_the_registry_and_the_adapters(module):
    done = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
    assert not done.failed


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """A copy of the package as it is installed."""
    subprocess.run([sys.executable, str(ROOT / ".ci" / "layout.py"), str(tmp_path)], check=True)
    return tmp_path


def lint_imports(layout: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", LINT, str(ROOT / "pyproject.toml")]
    return subprocess.run(command, cwd=layout, capture_output=True, text=True, check=False)


def test_packages_know_only_those_below_them(layout):
    done = lint_imports(layout)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("functional.py", "from msds_plugin.adapters import wrap", "know no toolkit, file or terminal BROKEN"),
        ("checks.py", "from msds_plugin import registry", "knows no names of metrics BROKEN"),
        ("adapters/scoring/store.py", "from msds_plugin.adapters.cli import app", "arrows go downwards BROKEN"),
        ("checks.py", "from msds_plugin import deepssim", "No circle BROKEN"),
    ],
)
def test_an_arrow_that_goes_up_is_found(layout, module, line, broken):
    with (layout / "msds_plugin" / module).open("a") as file:
        file.write(f"\n{line}\n")
    done = lint_imports(layout)
    assert done.returncode == 1
    assert broken in done.stdout


@pytest.mark.parametrize(
    "options",
    [["wheel"], pytest.param(["install", "--target", "installed", "--editable"], marks=pytest.mark.slow)],
    ids=lambda options: options[0],
)
def test_installation_has_no_warning_and_the_wheel_the_package_alone(tmp_path, options):
    if Version(version("setuptools")) < Version("77"):
        pytest.skip("needs a newer setuptools to build the wheel without a network")
    source = tmp_path / "source"
    for part in ("msds_plugin", "registry", "adapters"):
        shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    files = [path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()]
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    arguments = [options[0], "--verbose", "--no-deps", "--no-build-isolation", "--no-cache-dir", *options[1:], str(source)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"  # pip looks for itself in every index of its own settings
    command = [sys.executable, "-m", "pip", *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "running" in said  # setuptools was heard
    # setuptools says this of every editable installation, whatever the project
    ours = said.replace("BuildBackendWarning: Editable installation", "")
    assert not [line for line in ours.splitlines() if "warning" in line.lower() or "deprecat" in line.lower()], said
    for wheel in tmp_path.glob("*.whl"):
        names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
        installed = {name if name.startswith("msds_plugin/") else f"msds_plugin/{name}" for name in files}
        assert names == {name.replace("msds_plugin/adapters/script/", "msds_command/") for name in installed}
