"""The feature maps that graph-based saliency starts from: intensity, colour opponency, orientation."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .maps import fitted, thumbnail

__all__ = ["CHANNELS", "channels"]

#: Longer side in pixels of the scales that features are taken from.
SCALES = (128, 64, 32)
#: Maps of each channel that :func:`channels` returns one after the other: of intensity, colour, orientation.
CHANNELS = (len(SCALES), 2 * len(SCALES), 4 * len(SCALES))
#: Intensity below which a colour has no hue.
DARK = 0.1


def _gabor(angle: float, like: Tensor, wavelength: float = 5.0, sigma: float = 2.0, radius: int = 4) -> Tensor:
    """A pair of Gabor filters (2, 1, side, side) in quadrature, of mean zero and unit energy."""
    axis = torch.arange(-radius, radius + 1, dtype=torch.float64)
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    along = columns * math.cos(angle) + rows * math.sin(angle)
    envelope = torch.exp((rows.square() + columns.square()) / (-2 * sigma**2))
    phase = 2 * math.pi / wavelength * along
    waves = torch.stack([torch.cos(phase), torch.sin(phase)])
    pair = envelope * (waves - (envelope * waves).sum((1, 2), keepdim=True) / envelope.sum())
    return (pair / pair.square().sum((1, 2), keepdim=True).sqrt())[:, None].to(like)


def _orientation(intensity: Tensor) -> Tensor:
    """Gabor energy at 0, 45, 90 and 135 degrees, (N, 4, h, w)."""
    bank = torch.cat([_gabor(math.pi * quarter / 4, intensity) for quarter in range(4)])
    padded = F.pad(intensity, (4, 4, 4, 4), mode="replicate")
    response = F.conv2d(padded, bank)
    return response.unflatten(1, (4, 2)).square().sum(2).sqrt()


def _opponency(image: Tensor) -> Tensor:
    """Red-green and blue-yellow contrast relative to the brightest of the three, (N, 2, h, w)."""
    red, green, blue = image.split(1, 1)
    brightest = image.amax(1, keepdim=True).clamp_min(DARK)
    return torch.cat([(red - green).abs(), (blue - torch.minimum(red, green)).abs()], 1) / brightest


def channels(image: Tensor, cells: int) -> Tensor:
    """Feature maps (N, 21, h, w) of images (N, 3, H, W), ``cells`` on the longer side, in the order of :data:`CHANNELS`."""
    height, width = image.shape[-2:]
    size = fitted(height, width, cells)
    intensity: list[Tensor] = []
    colour: list[Tensor] = []
    orientation: list[Tensor] = []
    for longer in SCALES:
        scaled = thumbnail(image, fitted(height, width, longer))
        grey = scaled.mean(1, keepdim=True)
        for found, maps in ((intensity, grey), (colour, _opponency(scaled)), (orientation, _orientation(grey))):
            found.append(F.adaptive_avg_pool2d(maps, size))
    return torch.cat([*intensity, *colour, *orientation], 1)
