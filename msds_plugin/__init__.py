"""DeepSSIM and MSDS, deep structural similarity for image quality assessment, for torch, pyiqa and piq."""

from importlib.metadata import PackageNotFoundError as _NotInstalled
from importlib.metadata import version as _version

from .align import MSDSAlign
from .backbones import BACKBONES, Backbone, build_backbone
from .deepssim import DeepSSIM, DeepSSIMLite
from .errors import MissingDependencyError, WeightsFileError, WeightsNotFoundError
from .fusion_file import FusionFile, FusionFileError
from .multiscale import MSDS, MultiScale
from .representation import Representation
from .retarget import MSDSRetarget

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
    "MSDSAlign",
    "MSDSRetarget",
    "MissingDependencyError",
    "MultiScale",
    "Representation",
    "WeightsFileError",
    "WeightsNotFoundError",
    "adapters",
    "build_backbone",
    "registry",
]

# Last, because they need all of the above: the one place where the mathematics knows that there are toolkits.
from . import adapters, registry

adapters.attach()
