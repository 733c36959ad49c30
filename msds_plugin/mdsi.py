"""MDSI: deviation of gradient and chromaticity similarity, the cheapest local term."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from msds_plugin.local import LocalMetric, luma_chroma, read_padded, similarity_deficit
from msds_plugin.windows import Image

__all__ = ["MDSI"]

#: Constants of the paper, for values up to 255.
C1, C2, C3 = 140.0, 55.0, 550.0
ALPHA, POWER = 0.6, 0.25
#: L, H and M of the paper.
LHM = ((0.2989, 0.587, 0.114), (0.3, 0.04, -0.35), (0.34, -0.6, 0.17))
#: Pixels that are read at once, at most, unless one row of averages takes more.
STRIP = 1 << 22


def _reduced(image: Image, factor: int) -> Tensor:
    """L, H and M times 255 of factor x factor averages; the image is read in strips, zeros beyond it."""
    height, width = image.shape[-2:]
    # As published: padded by half a window all round before it is averaged, what is left over is dropped.
    before, after = (factor - 1) // 2, factor // 2
    rows, columns = ((before + side + after) // factor for side in (height, width))
    traced = torch.compiler.is_compiling()  # then sizes, and so the factor and the number of strips, may be unknown
    strip = rows if traced else max(1, min(rows, STRIP // (factor * factor * columns)))
    average = _averages_of_any_factor if traced else _averages
    parts = []
    for top in (0,) if traced else range(0, rows, strip):
        count = rows if traced else min(strip, rows - top)
        pixels = read_padded(image, top * factor - before, -before, count * factor, columns * factor)
        parts.append(average(pixels, factor))
    return luma_chroma(parts[0] if len(parts) == 1 else torch.cat(parts, 2), LHM, 255)


def _averages(pixels: Tensor, factor: int) -> Tensor:
    """As ``avg_pool2d``, several times as fast on a CPU."""
    if factor == 1:
        return pixels
    rows = torch.stack([pixels[..., first::factor, :] for first in range(factor)]).sum(0)
    return torch.stack([rows[..., first::factor] for first in range(factor)]).sum(0) / factor**2


def _averages_of_any_factor(pixels: Tensor, factor: int) -> Tensor:
    """The same as products of matrices, which a graph can hold for all sizes."""

    def averaging(side: int) -> Tensor:
        places = torch.arange(side, device=pixels.device)
        return (torch.arange(side // factor, device=pixels.device)[:, None] == places // factor).to(pixels) / factor

    return averaging(pixels.shape[-2]) @ pixels @ averaging(pixels.shape[-1]).mT


def _root(squares: Tensor) -> Tensor:
    """Square root whose gradient is 0 at 0."""
    zero = squares == 0
    return squares.masked_fill(zero, 1).sqrt().masked_fill(zero, 0)


def _gradient(luma: Tensor) -> Tensor:
    """Magnitude of the Prewitt gradient of maps (N, H, W)."""
    height, width = luma.shape[-2:]
    padded = F.pad(luma, (1, 1, 1, 1))
    across = padded[..., :height, :] + padded[..., 1 : height + 1, :] + padded[..., 2:, :]
    down = padded[..., :width] + padded[..., 1 : width + 1] + padded[..., 2:]
    horizontal, vertical = across[..., 2:] - across[..., :-2], down[..., 2:, :] - down[..., :-2, :]
    squares = horizontal.square() + vertical.square()
    return squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt() / 3  # so the gradient is 0 at 0


def _similarity(x: Tensor, y: Tensor) -> Tensor:
    """Similarity (N, H, W) of gradients and chromaticity; may be below zero."""
    luma_x, luma_y = x[:, 0], y[:, 0]
    gradient_x, gradient_y, mean = (_gradient(luma) for luma in (luma_x, luma_y, (luma_x + luma_y) / 2))
    lost = (
        similarity_deficit(gradient_x, gradient_y, C1)
        + similarity_deficit(gradient_x, mean, C2)
        - similarity_deficit(gradient_y, mean, C2)
    )
    chroma_x, chroma_y = x[:, 1:], y[:, 1:]
    colour = (chroma_x - chroma_y).square().sum(1) / (chroma_x.square().sum(1) + chroma_y.square().sum(1) + C3)
    return 1 - ALPHA * lost - (1 - ALPHA) * colour


class MDSI(LocalMetric):
    r"""MDSI, the mean deviation similarity index. Full-reference, **lower is better**.

    With the similarity :math:`S_i` of gradients (Prewitt) and chromaticity at every pixel of an image that is averaged to a
    short side of about 256 pixels,

    .. math:: \Big( \tfrac1n \sum_i \big| S_i^{1/4} - \overline{S^{1/4}} \big| \Big)^{1/4},

    where the root of a negative similarity is complex. 0 for identical images, below 1 otherwise. The value is that of the
    paper and of ``piq.mdsi`` to rounding. Not quite symmetric: the sum of both images weighs as the reference's side of the
    gradient similarity. Half precision is computed in float32. Images read in windows are averaged strip by strip.

    Shape:
        x, y: (N, 3, H, W), RGB in [0, 1], of one size. Returns (N,).

    Raises:
        ValueError: sizes that differ, or values outside [0, 1].
        TypeError: not floating point, or x and y of different types.

    Source: H. Ziaei Nafchi, A. Shahkolaei, R. Hedjam, M. Cheriet, "Mean Deviation Similarity Index: Efficient and Reliable
    Full-Reference Image Quality Evaluator", IEEE Access 4, 2016 (arXiv 1608.07433).

    Example:
        >>> x = torch.rand(2, 3, 32, 32)
        >>> MDSI()(x, x)
        tensor([0., 0.])
    """

    kind = "mdsi"
    lower_is_better = True

    @property
    def smallest(self) -> int:
        """Shortest side of an image, in pixels."""
        return 3

    def _aligned_score(self, x: Image, y: Image) -> Tensor:
        shorter: Any = torch.sym_min(*x.shape[-2:])  # of sizes that may be unknown, in a graph for all of them
        factor: Any = torch.sym_max(1, round(shorter / 256))
        similarity = _similarity(*(_reduced(image, factor) for image in (x, y)))
        root = similarity.abs().clamp_min(1e-12).sqrt().sqrt()
        turned = (similarity < 0).to(root)
        cosine, sine = math.cos(math.pi * POWER), math.sin(math.pi * POWER)
        # From 1, so that nothing is left of identical images.
        real, imaginary = (root * (1 - (1 - cosine) * turned) - 1).flatten(1), (root * sine * turned).flatten(1)
        squares = [(part - part.mean(1, keepdim=True)).square() for part in (real, imaginary)]
        return _root(_root(_root(squares[0] + squares[1]).mean(1)))
