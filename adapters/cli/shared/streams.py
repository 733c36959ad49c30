"""stdout and stderr that are closed, full, or read by nobody."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import IO, Any

#: As a shell counts a program that SIGPIPE ended: who reads stdout wanted no more.
NO_READER = 141


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
    """Have what is closed lead nowhere, so that no file gets its number, and names that cannot be shown be escaped."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
    if sys.stdout is None:
        sys.stdout = _Closed(open(os.devnull, "wb"), encoding="utf-8")  # noqa: SIM115 (lives as long as the process)
    elif isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name that stdout cannot show must not cost the results
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    elif isinstance(sys.stderr, io.TextIOWrapper):
        encoding = sys.stderr.encoding
        sys.stderr = _Forgiving(_Raw(2), encoding=encoding, errors="backslashreplace", write_through=True)


class _Closed(io.TextIOWrapper):
    """In place of a stdout that was closed from the start."""


class _Raw(io.FileIO):
    """stderr without a buffer, which would fail again and again with what it could not get rid of."""

    def __init__(self, number: int) -> None:
        super().__init__(number, "wb", closefd=False)


def is_closed(stream: IO[Any]) -> bool:
    """Whether stdout was closed before the program began."""
    return isinstance(stream, _Closed)


def drop_stdout() -> None:
    """Have stdout lead nowhere, so that what it could not take does not fail again at the end."""
    try:
        number = os.open(os.devnull, os.O_WRONLY)
        os.dup2(number, sys.stdout.fileno())
        os.close(number)
    except (OSError, ValueError):
        sys.stdout = io.StringIO()
