"""Being told to stop: Ctrl-C, and the signals of ``kill``, ``timeout``, batch systems and closed terminals.

While a command works towards something that is worth keeping, the first signal raises :class:`Stopped` there; at any other
time, while modules are imported for example, and the second time, the process ends at once with one line.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
_depth = 0
_told = False


class Stopped(KeyboardInterrupt):
    """A signal that asks the process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def catch_signals() -> None:
    """From now on signals do what the module says; those that are ignored (``nohup``) stay so."""
    for name in _NAMES:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _on_signal)


@contextmanager
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
    return 128 + (error.number if isinstance(error, Stopped) else signal.SIGINT)


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _told
    if _depth and not _told:
        _told = True
        raise Stopped(number)
    with suppress(OSError):
        os.write(2, b"Interrupted\n")
    os._exit(128 + number)
