"""Saliency from the spectral residual, and from the energy of a backbone's own features."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from msds_plugin.networks import Backbone
from msds_plugin.saliency.resample import fitted, resample, thumbnail, unit_range

__all__ = ["feature_energy", "spectral_residual"]

#: Longer side in pixels of what is transformed.
SPECTRAL_SIDE = 64
#: Of the last smoothing, in pixels of it.
SPECTRAL_SIGMA = 2.5


@torch.no_grad()
def spectral_residual(image: Tensor) -> Tensor:
    """Saliency as what the amplitude spectrum has beyond its own local average.

    The log amplitude of the grey image, 64 pixels on the longer side, less its 3 x 3 mean, is transformed back with the
    image's phase; its squared magnitude is smoothed and scaled to [0, 1].

    Args:
        image: (N, 3, H, W), RGB in [0, 1].

    Returns:
        (N, 1, h, w) in [0, 1], float32, at most 64 pixels on the longer side, on the image's device, detached. An image of
        one colour gives ones.

    Source: X. Hou, L. Zhang, "Saliency Detection: A Spectral Residual Approach", CVPR 2007.

    Example:
        >>> spectral_residual(torch.rand(1, 3, 96, 128)).shape
        torch.Size([1, 1, 48, 64])
    """
    height, width = image.shape[-2:]
    size = fitted(height, width, SPECTRAL_SIDE)
    grey = thumbnail(image.detach().float(), size).mean(1, keepdim=True)
    flat = (grey.amax((-2, -1), keepdim=True) - grey.amin((-2, -1), keepdim=True)) <= 1e-5
    spectrum = torch.fft.fft2(grey)
    amplitude = spectrum.abs()
    logs = (amplitude + 1e-8).log()
    residual = logs - F.avg_pool2d(F.pad(logs, (1, 1, 1, 1), mode="circular"), 3, 1)
    phase = spectrum / amplitude.clamp_min(1e-12)
    energy = torch.fft.ifft2(residual.exp() * phase).abs().square()
    return unit_range(resample(energy, size, SPECTRAL_SIGMA)).masked_fill(flat, 1)


#: Longer side in pixels of the image whose features are taken, and of the map.
ENERGY_SIDE, ENERGY_CELLS = 256, 32


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
    longer = max(ENERGY_SIDE, -(-backbone.smallest * max(height, width) // min(height, width)))
    features = backbone(thumbnail(image.detach(), fitted(height, width, longer)))
    size = fitted(height, width, ENERGY_CELLS)
    energies = [feature.float().square().sum(1, keepdim=True) for feature in features]
    return unit_range(torch.stack([unit_range(resample(energy, size, 1.0)) for energy in energies]).mean(0))
