"""The command line ``msds``: one module per command, and what several of them need in ``shared``."""

from __future__ import annotations

import os
import sys
import warnings
from typing import NoReturn

from msds_plugin.adapters.cli.shared.terminal import catch_signals, exit_code, mend_streams, unshown

__all__ = ["main"]


def main() -> NoReturn:
    """The console script ``msds``: closed streams and signals are handled from before the commands are imported."""
    catch_signals()
    mend_streams()
    # oneDNN keeps 1024 compiled operations, each for one image size: with sizes that never come again, memory for nothing.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    warnings.formatwarning = lambda message, category, *_, **__: f"{category.__name__}: {message}\n"  # no line of source
    code = 0
    try:
        from msds_plugin.adapters.cli.app import app

        app(prog_name="msds")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else bool(end.code)
    except KeyboardInterrupt:
        code = exit_code()
    except OSError as error:
        if error.errno is None or error.filename is not None:  # what a file could not take names the file
            raise
        code = unshown(error)
    try:
        sys.stdout.flush()
    except OSError as error:
        code = unshown(error)
    sys.stderr.flush()
    if code > 128:
        os._exit(code)  # without waiting for threads that are in the middle of an image
    sys.exit(code)
