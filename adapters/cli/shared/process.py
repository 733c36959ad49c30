"""The process around a command: signals that ask it to end, and standard streams that are closed, full or read by nobody.

While a command works towards something that is worth keeping, the first signal raises :class:`Stopped` there; at any other
time, while modules are imported for example, and the second time, the process ends at once with one line.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import IO, Any

#: As a shell counts a program that SIGPIPE ended: who reads stdout wanted no more.
NO_READER = 141

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
_depth = 0
_told: int | None = None  # the signal


class Stopped(KeyboardInterrupt):
    """A signal that asks the process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def catch_signals() -> None:
    """From now on signals do what the module says; those that are ignored (``nohup``) stay so."""
    for name in _SIGNALS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _on_signal)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """In here a signal raises :class:`Stopped`."""
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1


def exit_code(error: KeyboardInterrupt) -> int:
    """As shells count: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    if isinstance(error, Stopped):
        return 128 + error.number
    return 128 + (_told or signal.SIGINT)  # a library may have raised a plain KeyboardInterrupt in its place


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _told
    if _depth and _told is None:
        _told = number
        raise Stopped(number)
    with contextlib.suppress(OSError):
        os.write(2, b"Interrupted\n")
    os._exit(128 + number)


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


class _Closed(io.TextIOWrapper):
    """In place of a stdout that was closed from the start."""


def mend_streams() -> None:
    """Redirect closed standard streams to the null device, and escape names that a stream cannot show."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
    if sys.stdout is None:
        sys.stdout = _Closed(open(os.devnull, "wb"), encoding="utf-8")  # noqa: SIM115 (lives as long as the process)
    elif isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    elif isinstance(sys.stderr, io.TextIOWrapper):
        raw = io.FileIO(2, "wb", closefd=False)  # a buffer would fail again and again with what it could not get rid of
        sys.stderr = _Forgiving(raw, encoding=sys.stderr.encoding, errors="backslashreplace", write_through=True)


def is_closed(stream: IO[Any]) -> bool:
    """Whether stdout was closed before the program began."""
    return isinstance(stream, _Closed)


def drop_stdout() -> None:
    """Redirect stdout to the null device, so that what it could not take does not fail again at the end."""
    try:
        number = os.open(os.devnull, os.O_WRONLY)
        os.dup2(number, sys.stdout.fileno())
        os.close(number)
    except (OSError, ValueError):
        sys.stdout = io.StringIO()
