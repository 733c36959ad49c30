"""Training of metrics whose weights cannot be had: SPIPS."""

from .judgements import Judgements, from_opinions, load_twoafc
from .spips import TrainedSPIPS, train_spips

__all__ = ["Judgements", "TrainedSPIPS", "from_opinions", "load_twoafc", "train_spips"]
