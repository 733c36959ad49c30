"""DeepSSIM and MSDS, deep structural similarity for image quality assessment, for torch, pyiqa and piq."""

from importlib.metadata import PackageNotFoundError as _NotInstalled
from importlib.metadata import version as _version

from .backbones import BACKBONES, Backbone, build_backbone
from .deepssim import DeepSSIM, DeepSSIMLite
from .errors import MissingDependencyError, WeightsFileError, WeightsNotFoundError
from .fusion_file import FusionFile, FusionFileError
from .multiscale import MSDS, MultiScale
from .representation import Representation

try:
    __version__ = _version("msds-plugin")
except _NotInstalled:
    __version__ = "0+unknown"

__all__ = [
    "BACKBONES",
    "MSDS",
    "Backbone",
    "DeepSSIM",
    "DeepSSIMLite",
    "FusionFile",
    "FusionFileError",
    "MissingDependencyError",
    "MultiScale",
    "Representation",
    "WeightsFileError",
    "WeightsNotFoundError",
    "adapters",
    "build_backbone",
    "registry",
    "score",
]

# Last, because they need all of the above: the one place where the mathematics knows that there are toolkits.
from . import adapters, registry

adapters.attach()


def __getattr__(name: str) -> object:
    if name != "score":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .adapters.notebook import score

    return score
