"""Saliency as the energy of a backbone's own features."""

from __future__ import annotations

import torch
from torch import Tensor

from ..backbones import Backbone
from .maps import fitted, resample, thumbnail, unit_range

__all__ = ["feature_energy"]

#: Longer side in pixels of the image whose features are taken, and of the map.
SIDE, CELLS = 256, 32


@torch.no_grad()
def feature_energy(image: Tensor, backbone: Backbone) -> Tensor:
    """Where a backbone responds: the sum of squares over channels of each layer, scaled to [0, 1], then their mean.

    Args:
        image: (N, 3, H, W), RGB in [0, 1]; its features are those of 256 pixels on the longer side.
        backbone: whose chosen layers are used.

    Returns:
        (N, 1, h, w) in [0, 1], at most 32 cells on the longer side, on the image's device, detached.
    """
    height, width = image.shape[-2:]
    longer = max(SIDE, -(-backbone.smallest * max(height, width) // min(height, width)))
    features = backbone(thumbnail(image.detach(), fitted(height, width, longer)))
    size = fitted(height, width, CELLS)
    energies = [feature.float().square().sum(1, keepdim=True) for feature in features]
    return unit_range(torch.stack([unit_range(resample(energy, size, 1.0)) for energy in energies]).mean(0))
