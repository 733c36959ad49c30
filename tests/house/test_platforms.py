"""What only Linux has, taken away: the way around is used. What was run elsewhere than on Linux is in docs/install.md."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path, PureWindowsPath

import pytest

from msds_plugin import runtimes
from msds_plugin.adapters.scoring import files

ROOT = Path(__file__).parents[2]


def test_processors_without_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert runtimes.cores() == 1
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert runtimes.cores() == 7


@pytest.mark.parametrize("module", ["msds_command", "msds_plugin.adapters.cli"])
def test_the_command_without_the_signals_of_unix(module, python):
    unix = [name for name in ("SIGHUP", "SIGPIPE", "SIGUSR1", "SIGALRM", "SIGCHLD") if hasattr(signal, name)]
    code = f"""
import asyncio, os, signal, sys  # asyncio asks for the platform's name, which stays
for name in {unix}:
    delattr(signal, name)
for name in ("fork", "sched_getaffinity", "sysconf"):
    delattr(os, name)
sys.modules |= dict.fromkeys(("fcntl", "resource", "pwd", "grp", "termios"))
sys.argv = ["msds", "--version"]
from {module} import main
main()
"""
    done = python(code)
    assert done.stderr == ""
    assert done.stdout.startswith("msds-plugin ")


def test_a_file_that_cannot_be_written_at_all_is_left_as_it_was_and_named(tmp_path, monkeypatch):
    target = tmp_path / "scores.csv"
    target.write_text("old", encoding="utf-8")

    def refuse(*args, **options):
        raise PermissionError(13, "Access is denied", str(target))

    monkeypatch.setattr(Path, "replace", refuse)
    monkeypatch.setattr(shutil, "copyfile", refuse)
    with pytest.raises(PermissionError, match=r"scores\.csv"):
        files.replace_file(target, lambda part: part.write_text("new", encoding="utf-8"))
    assert target.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["scores.csv"]


def test_text_is_utf_8_whatever_the_system_takes_for_granted():
    ruff = shutil.which("ruff", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if ruff is None:
        pytest.skip("needs ruff")
    folders = [str(ROOT / name) for name in ("msds_plugin", "registry", "adapters")]
    options = ["--no-cache", "--isolated", "--preview", "--select", "PLW1514", "--output-format", "concise"]
    done = subprocess.run([ruff, "check", *options, *folders], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_names_in_the_repository_are_names_everywhere():
    """No two paths that differ in case only, no character or name that Windows refuses."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("no repository here")
    names = [name for name in done.stdout.split("\0") if name]
    assert len({name.casefold() for name in names}) == len(names)
    assert not [name for name in names if set(name) & set('<>:"\\|?*') or PureWindowsPath(name).is_reserved()]
