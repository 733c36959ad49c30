"""Graph-based visual saliency (GBVS), without the eigenproblem."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from msds_plugin.saliency.resample import fitted, resample, thumbnail, unit_range

__all__ = ["activation", "concentration", "gbvs"]

#: Longer side in pixels of the scales that features are taken from.
SCALES = (128, 64, 32)
#: Maps of each channel that :func:`channels` returns one after the other: of intensity, colour, orientation.
CHANNELS = (len(SCALES), 2 * len(SCALES), 4 * len(SCALES))
#: Intensity below which a colour has no hue.
DARK = 0.1


def _gabor(angle: float, like: Tensor, wavelength: float = 5.0, sigma: float = 2.0, radius: int = 4) -> Tensor:
    """A pair of Gabor filters (2, 1, side, side) in quadrature, of mean zero and unit energy."""
    axis = torch.arange(-radius, radius + 1, dtype=torch.float64, device="cpu")
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


#: Reach of the two graphs, as a share of the mean of the map's height and width.
ACTIVATION_SIGMA, CONCENTRATION_SIGMA = 0.15, 0.06
#: Of the last smoothing, likewise.
SMOOTHING_SIGMA = 0.02
#: Added to feature maps in [0, 1] before their logarithm.
FLOOR = 0.02
#: A feature map that varies by no more than this is constant.
FAINT = 1e-4
#: Cells whose weights are computed at once.
_ROWS = 8
#: Cells on the longer side of a map.
CELLS = 32


def _proximity(maps: Tensor, sigma: float) -> Tensor:
    """exp(-d^2 / 2 sigma^2) between all cells of maps (M, h, w), (h * w, h * w); sigma as a share of the mean side."""
    height, width = maps.shape[-2:]
    reach = sigma * (height + width) / 2
    rows, columns = (torch.arange(side, dtype=maps.dtype, device=maps.device) for side in (height, width))
    near = [torch.exp((axis[:, None] - axis).square() / (-2 * reach**2)) for axis in (rows, columns)]
    return torch.kron(*near)


def _distribution(mass: Tensor) -> Tensor:
    """Non-negative values (M, cells) divided by their sum; where there are none, all cells are equal."""
    total = mass.sum(-1, keepdim=True)
    return torch.where(total > 0, mass / total.clamp_min(torch.finfo(mass.dtype).tiny), 1 / mass.shape[-1])


@torch.no_grad()
def activation(maps: Tensor, sigma: float = ACTIVATION_SIGMA) -> Tensor:
    r"""What stands out of its neighbourhood: the equilibrium of a random walk on a graph of all cells.

    The walk goes from cell i to cell j with a probability proportional to
    :math:`w_{ij} = |\log(M_i / M_j)|\, e^{-d_{ij}^2 / 2\sigma^2}`. These weights are symmetric, so the walk is reversible
    and its equilibrium is known in closed form: the degree :math:`\sum_j w_{ij}` of each cell, divided by the sum of all.

    Args:
        maps: (M, h, w), positive.
        sigma: share of the mean of h and w.

    Returns:
        (M, h, w), each map of sum one; uniform for a constant map.

    Example:
        >>> spot = torch.ones(1, 5, 5)
        >>> spot[0, 1, 3] = 2
        >>> divmod(activation(spot).argmax().item(), 5)
        (1, 3)
    """
    near = _proximity(maps, sigma)
    logs = maps.flatten(1).log()
    # A few cells at a time: what stays in a processor's cache is several times as fast.
    degrees = [
        (some[:, :, None] - logs[:, None]).abs_().mul_(weights).sum(-1)
        for some, weights in zip(logs.split(_ROWS, 1), near.split(_ROWS), strict=True)
    ]
    return _distribution(torch.cat(degrees, 1)).view_as(maps)


def concentration(maps: Tensor, sigma: float = CONCENTRATION_SIGMA) -> Tensor:
    r"""Activation drawn together into few places: the equilibrium of a second random walk.

    From cell i to cell j it goes with a probability proportional to :math:`A_j\, e^{-d_{ij}^2 / 2\sigma^2}`. With
    :math:`\pi_i = A_i \sum_j A_j e^{-d_{ij}^2 / 2\sigma^2}` the flow from i to j equals that from j to i, so
    :math:`\pi`, divided by its sum, is the equilibrium.

    Args:
        maps: (M, h, w), non-negative.
        sigma: share of the mean of h and w.

    Returns:
        (M, h, w), each map of sum one.
    """
    near = _proximity(maps, sigma)
    mass = maps.flatten(1)
    return _distribution(mass * (mass @ near)).view_as(maps)


@torch.no_grad()
def gbvs(image: Tensor) -> Tensor:
    """Graph-based visual saliency.

    Channels: intensity, colour opponency (red-green, blue-yellow) and orientation (0, 45, 90, 135 degrees), each on three
    scales (128, 64 and 32 pixels on the longer side, whatever the image's size), brought to 32 cells on the longer side.
    Each map becomes an :func:`activation` and then a :func:`concentration`; the mean within a channel, then over channels,
    is smoothed and scaled to [0, 1].

    Args:
        image: (N, 3, H, W), RGB in [0, 1].

    Returns:
        (N, 1, h, w) in [0, 1], float32, at most 32 cells on the longer side, on the image's device, detached. An image of
        one colour gives ones: nothing stands out of it, so nothing is left out.

    Source: J. Harel, C. Koch, P. Perona, "Graph-Based Visual Saliency", NIPS 2006. The reach of the graphs is relative to
    the mean side of the map, so that a transposed image has the transposed map.

    Example:
        >>> image = torch.zeros(1, 3, 64, 64)
        >>> image[..., 40:48, 8:16] = 1
        >>> gbvs(image)[0, 0, 20:24, 4:8].max()  # the same place on 32 x 32 cells
        tensor(1.)
    """
    found = channels(image.detach().float(), CELLS)
    height, width = found.shape[-2:]
    scaled = unit_range(found, FAINT)
    nothing = (scaled == 1).flatten(1).all(1).view(-1, 1, 1, 1)
    maps = scaled.flatten(0, 1) + FLOOR
    walked = concentration(activation(maps)).view(*found.shape)
    within = [part.mean(1) for part in walked.split(CHANNELS, 1)]
    smooth = resample(torch.stack(within, 1).mean(1, keepdim=True), (height, width), SMOOTHING_SIGMA * (height + width) / 2)
    return unit_range(smooth).masked_fill(nothing, 1)
