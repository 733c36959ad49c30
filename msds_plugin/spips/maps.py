"""What SPIPS is given: maps of where two images differ, traditional ones and those of a frozen network, on one grid."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..functional import halve

__all__ = ["GRID", "THUMBNAIL", "feature_map", "psnr_map", "ssim_maps"]

#: Maps are averaged to so many rows and columns, whatever the image's size.
GRID = 8
#: Side of the small images that the quality-feature extractor looks at.
THUMBNAIL = 32
#: Decibel at which a picture counts as perfect.
PERFECT = 50.0
#: Of the Gaussian window of SSIM, and its constants.
SIDE, SIGMA, C1, C2 = 11, 1.5, 0.01**2, 0.03**2
#: Exponents of the three finest scales of MS-SSIM, scaled to sum to one.
SCALES = (0.0448, 0.2856, 0.3001)


def to_grid(maps: Tensor) -> Tensor:
    """Averages (N, C, GRID, GRID) of maps (N, C, h, w)."""
    return F.adaptive_avg_pool2d(maps, GRID)


def psnr_map(x: Tensor, y: Tensor) -> Tensor:
    """1 - PSNR / 50 dB of each cell of the grid, in [0, 1]; (N, 1, GRID, GRID)."""
    error = to_grid((x - y).square().mean(1, keepdim=True))
    decibel = -10 * torch.log10(error.clamp_min(10 ** (-PERFECT / 10)))
    return (1 - decibel / PERFECT).clamp(0, 1)


def _blur(image: Tensor) -> Tensor:
    offsets = torch.arange(SIDE, dtype=image.dtype, device=image.device) - SIDE // 2
    window = torch.exp(-offsets.square() / (2 * SIGMA**2))
    window = window / window.sum()
    padded = F.pad(image, (SIDE // 2,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, window.view(1, 1, 1, SIDE)), window.view(1, 1, SIDE, 1))


def _ssim(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """1 - luminance and 1 - contrast and structure at every pixel, exactly 0 where the images are equal around it."""
    mean_x, mean_y = _blur(x), _blur(y)
    variances = (_blur(x.square()) - mean_x.square()).clamp_min(0) + (_blur(y.square()) - mean_y.square()).clamp_min(0)
    difference = (_blur((x - y).square()) - _blur(x - y).square()).clamp_min(0)
    luminance = (mean_x - mean_y).square() / (mean_x.square() + mean_y.square() + C1)
    return luminance, (difference / (variances + C2)).clamp_max(2)


def ssim_maps(x: Tensor, y: Tensor) -> Tensor:
    """1 - SSIM and 1 - MS-SSIM, halved so as to lie in [0, 1]; (N, 2, GRID, GRID). Of luma, on up to three scales."""
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=x.dtype, device=x.device).view(1, 3, 1, 1)
    a, b = ((image * luma).sum(1, keepdim=True) for image in (x, y))
    single, logs, weight = torch.empty(0), torch.zeros(()), 0.0
    for scale, exponent in enumerate(SCALES):
        luminance, structure = _ssim(a, b)
        if scale == 0:
            single = to_grid(1 - (1 - luminance) * (1 - structure)) / 2
        logs = logs + exponent * torch.log1p(-to_grid(structure / 2).clamp_max(1 - 1e-6))
        weight += exponent
        if min(a.shape[-2:]) < 4 * SIDE:
            break
        a, b = halve(a), halve(b)
    return torch.cat([single, -torch.expm1(logs / weight)], 1)


def feature_map(x: Tensor, y: Tensor) -> Tensor:
    """Half the squared difference of features (N, C, h, w) of unit length at each position, in [0, 2]; (N, 1, GRID, GRID)."""
    x, y = (F.normalize(feature.float() if feature.dtype != torch.float64 else feature, dim=1, eps=1e-6) for feature in (x, y))
    return to_grid((x - y).square().sum(1, keepdim=True)) / 2
