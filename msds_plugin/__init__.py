"""DeepSSIM and MSDS, deep structural similarity for image quality assessment, for torch, pyiqa and piq."""

from importlib.metadata import PackageNotFoundError as _NotInstalled
from importlib.metadata import version as _version

import lazy_loader as _lazy

try:
    __version__ = _version("msds-plugin")
except _NotInstalled:
    __version__ = "0+unknown"

# The names and where they live are in __init__.pyi. Each is imported when it is first used, torch with it.
__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)

# The one place where the mathematics knows that there are toolkits: they get the metrics when they are imported.
from . import adapters as _adapters  # noqa: E402

_adapters.attach()
