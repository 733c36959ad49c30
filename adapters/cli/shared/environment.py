"""What libraries read from the environment when they are loaded; what the user has set stays."""

from __future__ import annotations

import os
import sys


def set_environment() -> None:
    """Bound the memory that goes with ever new image sizes, and speed up large images."""
    # oneDNN keeps 1024 compiled operations, each for one image size: with sizes that never come again, memory for nothing.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    if sys.platform == "linux":
        # Huge pages for torch's large maps: page faults are a third of the time of a large image.
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
