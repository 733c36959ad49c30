"""What the commands have in common: tables on stdout; errors, notes and progress on stderr; signals; streams that are broken.

While a command works towards something that is worth keeping, the first signal raises KeyboardInterrupt there; at any other
time, while modules are imported for example, and the second time, the process ends at once with one line.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from shutil import get_terminal_size
from types import FrameType
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    import pandas as pd

#: Exit codes: a result is missing; the command could not start, or what it found could not be written; as a shell counts a
#: program that SIGPIPE ended, since who reads stdout wanted no more.
INCOMPLETE, USAGE, NO_READER = 1, 2, 141

#: Images without a score that are named.
_NAMED = 20
#: Seconds between two lines of progress where stderr is no terminal.
_NOW_AND_THEN = 30.0
#: Columns that sentences are given at least; names are never broken.
_NARROWEST = 24
#: Control characters, separators of lines and paragraphs, and surrogates, which no encoding takes.
_BREAKS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

_stoppable = 0  # how many are entered
_signal: int | None = None  # that asked the process to end
_stdout_is_closed = False  # since before the program began


# signals


def catch_signals() -> None:
    """From now on signals do what the module says; those that are ignored (``nohup``) stay so."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _on_signal)


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _signal
    if _stoppable and _signal is None:
        _signal = number
        raise KeyboardInterrupt
    with contextlib.suppress(OSError):
        os.write(2, b"Interrupted\n")
    os._exit(128 + number)


@contextmanager
def stoppable() -> Iterator[None]:
    """In here a signal raises KeyboardInterrupt."""
    global _stoppable
    _stoppable += 1
    try:
        yield
    finally:
        _stoppable -= 1


def exit_code() -> int:
    """After KeyboardInterrupt, as shells count: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return 128 + (_signal or signal.SIGINT)


# streams


class _Forgiving(io.TextIOWrapper):
    """A stderr that cannot fail: notes that nobody can read must not cost results."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            super().flush()


def mend_streams() -> None:
    """Redirect closed standard streams to the null device, and escape names that a stream cannot show."""
    global _stdout_is_closed
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
    if sys.stdout is None:
        _stdout_is_closed = True
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (lives as long as the process)
    elif isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    elif isinstance(sys.stderr, io.TextIOWrapper):
        raw = io.FileIO(2, "wb", closefd=False)  # a buffer would fail again and again with what it could not get rid of
        sys.stderr = _Forgiving(raw, encoding=sys.stderr.encoding, errors="backslashreplace", write_through=True)


def unshown(error: OSError) -> int:
    """Say that stdout failed, and drop what else goes there, so that it does not fail again at the end; the exit code."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        sys.stdout = io.StringIO()
    if isinstance(error, BrokenPipeError):
        return NO_READER
    say(f"Error: cannot write to stdout: {error.strerror or error}")
    return USAGE


def say(message: str) -> None:
    """One line on stderr."""
    print(one_line(message), file=sys.stderr, flush=True)


def one_line(text: str) -> str:
    """Text in which what would break a line or a table, as names of files may hold it, is written out: ``\\t``, ``\\n``."""
    return _BREAKS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


@contextmanager
def clean_stdout() -> Iterator[None]:
    """Send to stderr what libraries print, so that stdout holds results only."""
    with redirect_stdout(sys.stderr):
        yield


# errors


@contextmanager
def setup(*others: type[Exception]) -> Iterator[None]:
    """Expected errors, but for ``others``, become one line on stderr and exit code 2; what libraries print goes to stderr."""
    try:
        with clean_stdout():
            yield
    except others:
        raise
    except (ValueError, TypeError, KeyError, OSError, ImportError, RuntimeError) as error:
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        say(f"Error: {' '.join(text.split())}")
        raise typer.Exit(USAGE) from error


@contextmanager
def resumable(kept: bool = True) -> Iterator[None]:
    """Expected errors as one line and exit code 2; after a signal a line that says how to go on, and its exit code.

    Scores that cannot be kept any more are shown on stdout. ``kept``: whether any are.
    """
    from msds_plugin.adapters.benchmark.runner import NotKeptError

    try:
        with setup(NotKeptError):
            yield
    except NotKeptError as error:
        say(f"Error: {error}. stdout has what this run computed; the same command goes on from what was kept")
        rows = [[*map(str, names), f"{score:.7g}"] for *names, score in error.computed.to_numpy().tolist()]
        show_table(["metric", "reference", "distorted", "score"], rows, 1, "scores of this run")
        raise typer.Exit(USAGE) from None
    except KeyboardInterrupt:
        say("Interrupted: start again to go on from here" if kept else "Interrupted: nothing is kept without --output")
        raise typer.Exit(exit_code()) from None


def finish(failures: pd.DataFrame, unavailable: Mapping[str, str] | None = None, notes: Sequence[str] = ()) -> None:
    """Say what a reader has to know, and which scores and metrics are missing and why; exit with 1 if any is."""
    for note in notes:
        say(note)
    for name, reason in (unavailable or {}).items():
        say(f"{name} could not be made, and is left out: {reason}")
    if len(failures):
        say(f"Missing scores: {len(failures)}")
    for row in failures.head(_NAMED).to_dict("records"):
        say(f"  {row['distorted']} ({row['metric']}): {row['error']}")
    if len(failures) > _NAMED:
        say(f"  and {len(failures) - _NAMED} more")
    if unavailable or len(failures):
        raise typer.Exit(INCOMPLETE)


# progress


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[], None]]:
    """Progress with the time left, on stderr: a bar on a terminal, a line now and then elsewhere.

    What it gives is to be called after each step. Within it a signal raises KeyboardInterrupt, and what libraries print goes to
    stderr.
    """
    with stoppable(), clean_stdout():
        if not sys.stderr.isatty():
            yield _lines(description, total)
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
            task = bar.add_task(description, total=total)
            yield lambda: bar.advance(task)


def _lines(description: str, total: int) -> Callable[[], None]:
    """Progress in lines, for logs."""
    done, start = 0, time.monotonic()
    said = start

    def advance() -> None:
        nonlocal done, said
        done, now = done + 1, time.monotonic()
        if now - said >= _NOW_AND_THEN and done < total:
            said = now
            left = (now - start) / done * (total - done)
            hours, minutes = divmod(round(left / 60), 60)
            text = f"{hours} h {minutes:02} min" if hours else f"{minutes} min" if minutes else f"{left:.0f} s"
            say(f"{description}: {done} of {total}, about {text} left")

    return advance


# tables


def arrow(lower_is_better: bool) -> str:
    """The direction of a metric as a sign, in words where stdout cannot show it."""
    sign = "↓" if lower_is_better else "↑"
    try:
        sign.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "(lower is better)" if lower_is_better else "(higher is better)"
    return sign


def show_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = 0, title: str | None = None, needed: bool = True
) -> None:
    """Print a table on stdout: drawn on a terminal, tab-separated lines with a heading elsewhere.

    On a terminal names and numbers are never broken: a table that is too wide is turned, or its rows are stacked.

    Args:
        columns, rows: headings and cells.
        numbers: how many of the last columns are numbers, to be aligned to the right.
        title: for a terminal only.
        needed: what it says is nowhere else, so that a closed stdout is an error.
    """
    if _stdout_is_closed and not needed:
        say("stdout is closed: nothing is shown there")
        return
    heading, *body = [[one_line(cell) for cell in row] for row in (columns, *rows)]
    try:
        if _stdout_is_closed:
            raise OSError(errno.EBADF, "it is closed")
        if sys.stdout.isatty():
            _draw(heading, body, numbers, title)
        else:
            print("\n".join("\t".join(line) for line in (heading, *body)))
        sys.stdout.flush()
    except OSError as error:
        raise typer.Exit(unshown(error)) from None


def _draw(columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: int, title: str | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text  # in plain strings rich reads markup and names of emoji

    console = Console(width=get_terminal_size().columns)  # where COLUMNS is 0 rich would draw nothing
    turned, *lines = (list(line) for line in zip(columns, *rows, strict=True))  # rows as columns
    for heading, body, texts in ((columns, rows, len(columns) - numbers), (turned, lines, 1)):
        widths = _widths(heading, body, console.width)
        if widths is not None:
            table = Table(title=Text(title, "table.title") if title else None)
            for place, (column, width) in enumerate(zip(heading, widths, strict=True)):
                table.add_column(Text(column), justify="left" if place < texts else "right", width=width, overflow="fold")
            for row in body:
                table.add_row(*map(Text, row))
            console.print(table)
            return
    if title:
        console.print(Text(title), soft_wrap=True)
    for row in rows:
        for place, (name, cell) in enumerate(zip(columns, row, strict=True)):
            console.print(Text(f"{'  ' * bool(place)}{name}: {cell}"), soft_wrap=True)


def _widths(columns: Sequence[str], rows: Sequence[Sequence[str]], most: int) -> list[int] | None:
    """The columns' widths in a drawn table of ``most`` signs; None if there is no room for its names and numbers.

    Headings and sentences may be broken between words, names and numbers not at all.
    """
    from rich.cells import cell_len

    natural, widths = [], []
    for place, heading in enumerate(columns):
        cells = [row[place] for row in rows]
        longest = max(map(cell_len, cells), default=0)
        is_prose = max((cell.count(" ") for cell in cells), default=0) > 2
        natural.append(max(longest, cell_len(heading)))
        widths.append(max(min(longest, _NARROWEST) if is_prose else longest, *map(cell_len, heading.split() or [""])))
    left = most - sum(widths) - 3 * len(widths) - 1
    if left < 0:
        return None
    for place, wanted in enumerate(natural):
        more = min(left, wanted - widths[place])
        widths[place] += more
        left -= more
    return widths
