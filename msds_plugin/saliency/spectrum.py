"""Saliency from the spectral residual: one Fourier transform of a small grey image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .maps import fitted, resample, thumbnail, unit_range

__all__ = ["spectral_residual"]

#: Longer side in pixels of what is transformed.
SIDE = 64
#: Of the last smoothing, in pixels of it.
SIGMA = 2.5


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
    size = fitted(height, width, SIDE)
    grey = thumbnail(image.detach().float(), size).mean(1, keepdim=True)
    flat = (grey.amax((-2, -1), keepdim=True) - grey.amin((-2, -1), keepdim=True)) <= 1e-5
    spectrum = torch.fft.fft2(grey)
    amplitude = spectrum.abs()
    logs = (amplitude + 1e-8).log()
    residual = logs - F.avg_pool2d(F.pad(logs, (1, 1, 1, 1), mode="circular"), 3, 1)
    phase = spectrum / amplitude.clamp_min(1e-12)
    energy = torch.fft.ifft2(residual.exp() * phase).abs().square()
    return unit_range(resample(energy, size, SIGMA)).masked_fill(flat, 1)
