"""Where people look: saliency maps that a metric makes for itself.

    >>> import torch
    >>> from msds_plugin.saliency import gbvs
    >>> gbvs(torch.rand(1, 3, 96, 128)).shape
    torch.Size([1, 1, 24, 32])

Every map is detached. A metric cuts it at a threshold to a mask of zeros and ones, which has no gradient anyway, and a loss
must not be lowered by making the image less salient.
"""

from msds_plugin.saliency.attention import METHODS, Attention, Mask, Saliency, keep, saliency_maps
from msds_plugin.saliency.gbvs import gbvs
from msds_plugin.saliency.others import feature_energy, spectral_residual

__all__ = ["METHODS", "Attention", "Mask", "Saliency", "feature_energy", "gbvs", "keep", "saliency_maps", "spectral_residual"]
