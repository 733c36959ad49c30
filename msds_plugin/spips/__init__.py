"""SPIPS, the scene perceived image perceptual score, whose learned part has to be trained."""

from .model import SPIPS, Fusion, Inputs
from .weights_file import load_weights, save_weights

__all__ = ["SPIPS", "Fusion", "Inputs", "load_weights", "save_weights"]
