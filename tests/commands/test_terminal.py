"""What commands show: tables of any width, progress, help, signs."""

import os
import re
import shlex
import subprocess
import sys
from contextlib import suppress

import pytest

from msds_plugin import __version__, registry
from msds_plugin.adapters.cli.list import list_metrics
from msds_plugin.adapters.cli.shared import terminal
from msds_plugin.adapters.cli.shared.options import run_options


def drawn(capsys, monkeypatch, width, columns, rows, numbers=0):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    terminal.show_table(columns, rows, numbers)
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).rstrip("\n").split("\n")


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("pairs", [1, 3, 20])
@pytest.mark.parametrize("metrics", [1, 3, 9])
def test_names_and_numbers_are_whole_at_any_width(capsys, monkeypatch, width, pairs, metrics):
    names = [f"a_rather_long_name_of_a_result_{index:04}.png" for index in range(pairs)]
    columns = ["reference", "distorted", *(f"msds-fast(levels={index}) ↑" for index in range(metrics))]
    rows = [[f"{index}.png", name, *["0.1234"] * metrics] for index, name in enumerate(names)]
    lines = drawn(capsys, monkeypatch, width, columns, rows, metrics)
    text = "\n".join(lines)
    assert all(name in text for name in names)
    assert text.count("0.1234") == pairs * metrics
    assert max(map(len, lines)) <= width


def test_sentences_are_broken_between_words(capsys, monkeypatch):
    lines = drawn(capsys, monkeypatch, 60, ["name", "summary"], [["msds", "one two three four five six seven " * 3]])
    assert max(map(len, lines)) <= 60
    assert "summary" in lines[1]


@pytest.mark.parametrize("width", [20, 80])
def test_names_are_shown_as_they_are(capsys, monkeypatch, width):
    name = "a[bold]:cat:[1].png"
    assert any(name in line for line in drawn(capsys, monkeypatch, width, ["distorted", "piq:x:y"], [[name, "1"]], 1))


@pytest.mark.parametrize("width", [0, 60, 80, 120])
def test_the_list_on_a_terminal(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    list_metrics()
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert all(any(name in line for line in shown) for name in registry.names())
    if width > 60:  # below that rows are stacked, in lines that a terminal breaks
        assert ("title" in shown[1]) == (width == 120)
        assert max(map(len, shown)) <= width


def test_a_closed_pipe_and_odd_signs(capsys, monkeypatch):
    terminal.show_table(["a"], [["x\ty\nz\u2028"]])
    assert capsys.readouterr().out == "a\nx\\ty\\nz\\u2028\n"

    class Ascii:
        encoding = "ascii"

    monkeypatch.setattr(sys, "stdout", Ascii())
    assert terminal.arrow(True) == "(lower is better)"


def test_progress_in_lines_where_there_is_no_terminal(capsys, monkeypatch):
    now = iter(range(0, 1000, 20))
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(now))
    with terminal.progress("scoring", 5) as advance:
        for _ in range(5):
            advance()
    assert capsys.readouterr().err.splitlines() == ["scoring: 2 of 5, about 1 min left", "scoring: 4 of 5, about 20 s left"]


def test_list(msds):
    result = msds("list")
    rows = {line.split("\t")[0]: line.split("\t") for line in result.stdout.splitlines()}
    assert set(registry.names()) <= set(rows)
    assert rows["msds"][:4] == ["msds", "MSDS", "higher", "-1, 1"]
    assert rows["deepssim-lite"][2] == "lower"
    assert "lpips" not in rows
    assert len(msds("list", "--mine").stdout.splitlines()) == 1


@pytest.mark.slow
def test_list_all_shows_the_toolkits_metrics_too(msds):
    import pyiqa

    every, full = ({line.split("\t")[0] for line in msds("list", *more).stdout.splitlines()} for more in (["--all"], ["--fr"]))
    assert set(pyiqa.list_models()) | set(registry.names()) | {"piq:fsim"} <= every
    assert "niqe" in every - full
    assert "lpips" in full


def test_help_and_version(msds):
    for flag in ("-h", "--help"):
        shown = msds(flag).stdout
        assert all(command in shown for command in ("score", "compare", "list", "benchmark", "fit", "video", "ray"))
        assert "..." not in shown.partition("Commands:")[2]
        assert "install-completion" in shown
    assert "TEXT" in msds("score", "-h").stdout
    assert "<" not in msds("score", "-h").stdout
    assert __version__ in msds("--version").stdout
    assert run_options()(lambda *, run: None).__doc__ is None  # as python -OO leaves a command


def test_a_module_with_a_metric_of_ones_own(msds, tmp_path, toolkits_as_before):
    (tmp_path / "my_metrics.py").write_text(
        "from msds_plugin import registry\n"
        "from torch import nn\n"
        "class Difference(nn.Module):\n"
        "    def forward(self, x, y):\n"
        "        return (x - y).abs().mean((1, 2, 3))\n"
        "registry.register(registry.Metric('my-l1', 'L1', Difference, True, (0, 1), 'mean difference'), override=True)\n"
    )
    msds("--import", "my_metrics", "list", "--mine", stdout="my-l1\tL1\tlower")
    msds("--import", "absent_module", "list", code=2, stderr="absent_module")
    with (tmp_path / "my_metrics.py").open("a") as file:
        file.write("print('loaded')")
    del sys.modules["my_metrics"]
    done = msds("--import", str(tmp_path / "my_metrics.py"), "list", "--mine", stdout="my-l1", stderr="loaded")
    assert "loaded" not in done.stdout
    for content, error in (("a b", "SyntaxError"), ("raise SystemExit", "SystemExit")):
        (tmp_path / f"{error}.py").write_text(content)
        msds("--import", error, "list", code=2, stdout="", stderr=f"Error: cannot import {error}: {error}")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("score a.png b.png -o x.csv --output y.csv", "--output is given 2 times and takes one value"),
        ("fit -m msds -o f.json --csv a.csv --csv b.csv", "--csv is given 2 times and takes one value"),
        ("fit -m msds -o f.json --csv a.csv --folds 3 --leave-one-out", "with --leave-one-out there is no --folds"),
        ("list --mine --all", "with --mine there is no --all"),
        ("benchmark --csv a.csv --data-root .", "without --dataset there is no --data-root"),
        ("benchmark --dataset live --data-root . --root . --lower-better", "without --csv there is no --root, --lower-better"),
        ("benchmark --choices choices.csv --root .", "with --choices alone there is no --root"),
        ("train -o spips.safetensors --twoafc . --root .", "with --twoafc there is no --root"),
        ("ray pairs.csv -o out -m ,", "-m names no metric"),
        ("score reference.png distorted.png --map ''", "--map is empty"),
        ("score reference.png distorted.png -o=scores.csv", "write -o scores.csv"),
        ("score -- -o=absent.png distorted.png", "no file or folder at -o=absent.png"),
        ("score reference.png ''", "an argument is empty"),
        ("robustness . --resize cubic", "images cannot be resampled by 'cubic'"),
    ],
)
def test_an_option_that_would_have_no_effect_is_refused(msds, tmp_path, line, said):
    (tmp_path / "choices.csv").write_text("reference,a,b,share\n")
    msds(*shlex.split(line), code=2, stdout="", stderr=said)


@pytest.mark.slow
def test_progress_is_shown_on_stderr_only(folders, tmp_path):
    pty = pytest.importorskip("pty", reason="needs a pseudo-terminal")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "msds_plugin", "score", "-m", "piq:psnr", "ref", "dist"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with (tmp_path / "stdout").open("wb") as stdout:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=stdout, stderr=theirs, env=environment, start_new_session=True)
    os.close(theirs)
    seen = b""
    with suppress(OSError):  # what Linux says when the other end is closed
        while chunk := os.read(ours, 4096):
            seen += chunk
    assert process.wait(200) == 0, seen
    assert b"3/3" in seen
    lines = (tmp_path / "stdout").read_text().splitlines()
    assert [line.count("\t") for line in lines] == [2] * 4
