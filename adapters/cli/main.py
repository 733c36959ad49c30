"""The console script: a frame around the commands that handles closed streams and signals, from before they are imported."""

from __future__ import annotations

import os
import sys
import warnings
from typing import NoReturn

from msds_plugin.adapters.cli.shared.process import NO_READER, catch_signals, drop_stdout, exit_code, mend_streams


def main() -> NoReturn:
    """The console script ``msds``."""
    catch_signals()
    mend_streams()
    # oneDNN keeps 1024 compiled operations, each for one image size: with sizes that never come again, memory for nothing.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    warnings.formatwarning = lambda message, category, *_, **__: f"{category.__name__}: {message}\n"  # no line of source
    try:
        from msds_plugin.adapters.cli.app import app

        app(prog_name="msds")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else bool(end.code)
    except KeyboardInterrupt as error:
        code = exit_code(error)
    except OSError as error:
        if error.errno is None or error.filename is not None:  # what a file could not take names the file
            raise
        code = _unshown(error)
    try:
        sys.stdout.flush()
    except OSError as error:
        code = _unshown(error)
    sys.stderr.flush()
    if code > 128:
        os._exit(code)  # without waiting for threads that are in the middle of an image
    sys.exit(code)


def _unshown(error: OSError) -> int:
    drop_stdout()
    if isinstance(error, BrokenPipeError):
        return NO_READER
    print(f"Error: cannot write to stdout: {error.strerror}", file=sys.stderr)
    return 2
