from . import adapters as adapters
from . import registry as registry
from .adapters.scoring.arrays import score as score
from .align import MSDSAlign as MSDSAlign
from .auto import MSDSAuto as MSDSAuto
from .backbones import BACKBONES as BACKBONES
from .backbones import build_backbone as build_backbone
from .deepssim import DeepSSIM as DeepSSIM
from .deepssim import DeepSSIMLite as DeepSSIMLite
from .errors import MissingDependencyError as MissingDependencyError
from .errors import WeightsFileError as WeightsFileError
from .errors import WeightsNotFoundError as WeightsNotFoundError
from .fusion_file import FusionFile as FusionFile
from .fusion_file import FusionFileError as FusionFileError
from .metric import Metric as Metric
from .metric import Representation as Representation
from .msds import MSDS as MSDS
from .msds import MSDSLite as MSDSLite
from .msds import MultiScale as MultiScale
from .networks import Backbone as Backbone
from .retarget import MSDSRetarget as MSDSRetarget

__version__: str
