"""Graph-based visual saliency (GBVS), without the eigenproblem."""

from __future__ import annotations

import torch
from torch import Tensor

from .channels import CHANNELS, channels
from .maps import resample, unit_range

__all__ = ["activation", "concentration", "gbvs"]

#: Reach of the two graphs, as a share of the mean of the map's height and width.
ACTIVATION_SIGMA, CONCENTRATION_SIGMA = 0.15, 0.06
#: Of the last smoothing, likewise.
SMOOTHING_SIGMA = 0.02
#: Added to feature maps in [0, 1] before their logarithm.
FLOOR = 0.02
#: A feature map that varies by no more than this is constant.
FAINT = 1e-4
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
    # One map at a time in one buffer, which stays in a processor's cache: fresh memory costs fifteen times as much.
    weights = torch.empty_like(near)
    degrees = [torch.sub(values[:, None], values, out=weights).abs_().mul_(near).sum(-1) for values in logs]
    return _distribution(torch.stack(degrees)).view_as(maps)


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
