"""The console script ``msds``: a signal ends it with one line from the start, before anything that takes long is imported.

Installed as ``msds_command``, since a module of ``msds_plugin`` would import that first. pytest's plugin is in here too, and
loaded by every run of pytest: importing this package changes nothing.
"""

import os
import signal
from types import FrameType


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, b"Interrupted\n")
    os._exit(128 + number)


def main() -> None:
    """Run the command; :mod:`msds_plugin.adapters.cli` takes the signals over."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is not signal.SIG_IGN:
            signal.signal(getattr(signal, name), _end)
    from msds_plugin.adapters.cli import main as run

    run()
