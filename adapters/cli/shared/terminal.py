"""What the commands have in common: tables on stdout; errors, notes and progress on stderr."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from .stop import stoppable
from .streams import NO_READER, drop_stdout, is_closed

if TYPE_CHECKING:
    import pandas as pd

#: Exit codes: a result is missing; the command could not start, or what it found could not be written.
INCOMPLETE, USAGE = 1, 2

#: Images without a score that are named.
_NAMED = 20


def say(message: str) -> None:
    """One line on stderr."""
    print(one_line(message), file=sys.stderr, flush=True)


def one_line(text: str) -> str:
    """Text in which what would break a line or a table, as names of files may hold it, is written out: ``\\t``, ``\\n``."""
    return "".join(_written_out(sign) for sign in text)


def _written_out(sign: str) -> str:
    if unicodedata.category(sign) in ("Cc", "Zl", "Zp", "Cs"):
        return sign.encode("unicode_escape").decode()
    return sign


@contextmanager
def setup(*others: type[Exception]) -> Iterator[None]:
    """What goes wrong in here, but for ``others``, is the user's to mend: one line on stderr and exit code 2, no traceback."""
    try:
        yield
    except others:
        raise
    except (ValueError, TypeError, KeyError, OSError, ImportError, RuntimeError) as error:
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        say(f"Error: {' '.join(text.split())}")
        raise typer.Exit(USAGE) from error


@contextmanager
def clean_stdout() -> Iterator[None]:
    """Send to stderr what libraries print, so that stdout holds results only."""
    with redirect_stdout(sys.stderr):
        yield


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar with the time left, on stderr if that is a terminal; what it gives is to be called after each step.

    Within it a signal raises :class:`stop.Stopped`.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with stoppable(), Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(description, total=total)
        yield lambda: bar.advance(task)


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

    Args:
        columns: headings.
        rows: their cells.
        numbers: how many of the last columns are numbers, to be aligned to the right.
        title: for a terminal only.
        needed: what it says is nowhere else, so that a closed stdout is an error.
    """
    if is_closed(sys.stdout):
        if needed:
            raise _unshown("it is closed")
        say("stdout is closed: nothing is shown there")
        return
    lines = [[one_line(cell) for cell in row] for row in (columns, *rows)]
    try:
        if sys.stdout.isatty():
            _draw(lines[0], lines[1:], numbers, title)
        else:
            print("\n".join("\t".join(line) for line in lines))
        sys.stdout.flush()
    except BrokenPipeError:
        drop_stdout()
        raise typer.Exit(NO_READER) from None
    except OSError as error:
        drop_stdout()
        raise _unshown(error.strerror or str(error)) from None


def _unshown(reason: str) -> typer.Exit:
    say(f"Error: cannot write to stdout: {reason}")
    return typer.Exit(USAGE)


def _draw(columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: int, title: str | None) -> None:
    table = Table(title=title)
    for index, column in enumerate(columns):
        is_number = index >= len(columns) - numbers
        table.add_column(escape(column), justify="right" if is_number else "left", no_wrap=is_number, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    Console().print(table)


def say_failures(failures: pd.DataFrame) -> None:
    """What is missing and why, on stderr: ``distorted``, ``metric`` and ``error`` of the first, and the number of the rest."""
    if not len(failures):
        return
    say(f"Missing scores: {len(failures)}")
    for row in failures.head(_NAMED).to_dict("records"):
        say(f"  {row['distorted']} ({row['metric']}): {row['error']}")
    if len(failures) > _NAMED:
        say(f"  and {len(failures) - _NAMED} more")


def show_unkept(computed: pd.DataFrame, reason: str) -> typer.Exit:
    """Show the scores of a run that could not all be kept; what to raise after it."""
    say(f"Error: {reason}. stdout has what this run computed; the same command goes on from what was kept")
    rows = [[*map(str, row[:3]), "nan" if row[3] is None else f"{row[3]:.7g}"] for row in computed.to_numpy().tolist()]
    show_table(["metric", "reference", "distorted", "score"], rows, 1, "scores of this run")
    return typer.Exit(USAGE)
