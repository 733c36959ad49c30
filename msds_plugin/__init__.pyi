from . import adapters as adapters
from . import registry as registry
from .adapters.notebook import score as score
from .align import MSDSAlign as MSDSAlign
from .backbones import BACKBONES as BACKBONES
from .backbones import Backbone as Backbone
from .backbones import build_backbone as build_backbone
from .deepssim import DeepSSIM as DeepSSIM
from .deepssim import DeepSSIMLite as DeepSSIMLite
from .errors import MissingDependencyError as MissingDependencyError
from .errors import WeightsFileError as WeightsFileError
from .errors import WeightsNotFoundError as WeightsNotFoundError
from .fusion_file import FusionFile as FusionFile
from .fusion_file import FusionFileError as FusionFileError
from .multiscale import MSDS as MSDS
from .multiscale import MultiScale as MultiScale
from .representation import Representation as Representation
from .retarget import MSDSRetarget as MSDSRetarget

__version__: str
