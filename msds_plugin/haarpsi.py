"""HaarPSI: agreement of Haar wavelet coefficients, a fast local term."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from msds_plugin.functional import halve
from msds_plugin.local import LocalMetric, luma_chroma, read_padded, similarity_deficit, tiles_of
from msds_plugin.windows import Image

__all__ = ["HaarPSI"]

#: Constants of the paper, for values up to 255.
C = 30.0
ALPHA = 4.2
#: Y, I and Q of the paper.
YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
#: Positions before and after the first, of the largest filter (8 x 8).
BEFORE, AFTER = 3, 4


def _halved(image: Image, top: int, left: int, height: int, width: int) -> Tensor:
    """Y, I and Q times 255 of 2 x 2 averages, zeros beyond the image; the window is counted in averages."""
    return luma_chroma(halve(read_padded(image, 2 * top, 2 * left, 2 * height, 2 * width)), YIQ, 255)


def _pairs(x: Tensor, dim: int, step: int) -> tuple[Tensor, Tensor]:
    return x.narrow(dim, 0, x.shape[dim] - step), x.narrow(dim, step, x.shape[dim] - step)


def _coefficients(luma: Tensor) -> list[Tensor]:
    """Magnitudes (..., height - 7, width - 7): vertical and horizontal detail of sides 2, 4 and 8."""
    height, width = (side - BEFORE - AFTER for side in luma.shape[-2:])
    sums, found = luma, []
    for scale in range(3):
        half = 1 << scale  # ``sums`` are those of half x half pixels
        upper, lower = _pairs(sums, -2, half)
        left, right = _pairs(upper + lower, -1, half)
        first, second = _pairs(upper - lower, -1, half)
        begin = BEFORE + 1 - half
        for detail in (first + second, left - right):
            found.append(detail[..., begin : begin + height, begin : begin + width].abs() / (2 * half))
        sums = left + right
    return found


def _sums(x: Tensor, y: Tensor) -> Tensor:
    """What a window adds: the weighted loss of similarity and the weights, (N, 2)."""
    a, b = _coefficients(x[:, 0]), _coefficients(y[:, 0])
    vertical, horizontal = (torch.maximum(p, q) for p, q in zip(a[4:], b[4:], strict=True))
    losses = [similarity_deficit(p, q, C) for p, q in zip(a[:4], b[:4], strict=True)]
    inner = (slice(None), slice(1, 3), slice(BEFORE, 1 - AFTER), slice(BEFORE, 1 - AFTER))
    chroma = [image[inner] for image in (x, y)]
    averages = [(c[..., :-1, :-1] + c[..., 1:, :-1] + c[..., :-1, 1:] + c[..., 1:, 1:]).abs() / 4 for c in chroma]
    chroma_loss = similarity_deficit(averages[0], averages[1], C).mean(1)
    maps = ((losses[0] + losses[2]) / 2, (losses[1] + losses[3]) / 2, chroma_loss)
    weights = (vertical, horizontal, (vertical + horizontal) / 2)
    lost: Any = sum((_sigmoid_loss(loss) * weight).sum((-2, -1)) for loss, weight in zip(maps, weights, strict=True))
    return torch.stack([lost, 1.5 * (vertical + horizontal).sum((-2, -1))], -1)


def _sigmoid_loss(loss: Tensor) -> Tensor:
    """sigmoid(ALPHA) - sigmoid(ALPHA * (1 - loss)), exactly 0 where nothing is lost and precise near it."""
    rest = 1 - math.tanh(ALPHA / 2) * torch.tanh(ALPHA / 2 * (1 - loss))
    return torch.tanh(ALPHA / 2 * loss) * rest / 2


class HaarPSI(LocalMetric):
    r"""HaarPSI, the Haar wavelet-based perceptual similarity index. Full-reference, symmetric, higher is better.

    On 2 x 2 averages, with Haar coefficients :math:`|g|` of sides 2, 4 and 8 in two directions and
    :math:`S(a, b) = (2ab + C) / (a^2 + b^2 + C)`, the local similarity of a direction is the mean of S over the sides 2 and 4,
    its weight the larger of the two coefficients of side 8; a third similarity is that of I and Q under the mean weight:

    .. math:: \Big( \tfrac1\alpha \operatorname{logit} \frac{\sum w\, \sigma(\alpha S)}{\sum w} \Big)^2,
        \qquad C = 30,\ \alpha = 4.2

    for values up to 255. 1 for identical images and for flat ones of equal hue, never above, at least 0. The value is that of
    the paper and of ``piq.haarpsi`` to rounding, but exactly 1 where nothing differs. Half precision is computed in float32.

    Args:
        tile: sum over tiles of so many 2 x 2 averages in height and width: the same value up to the order of sums, in less
            memory. None for the whole image at once; images read in windows are always cut.

    Shape:
        x, y: (N, 3, H, W), RGB in [0, 1], of one size. Returns (N,).

    Raises:
        ValueError: sizes that differ, below 16 x 16 pixels, or values outside [0, 1].
        TypeError: not floating point, or x and y of different types.

    Source: R. Reisenhofer, S. Bosse, G. Kutyniok, T. Wiegand, "A Haar wavelet-based perceptual similarity index for image
    quality assessment", Signal Processing: Image Communication 61, 2018.

    Example:
        >>> x = torch.rand(2, 3, 32, 32)
        >>> HaarPSI()(x, x)
        tensor([1., 1.])
    """

    kind = "haarpsi"

    def __init__(self, tile: int | None = None) -> None:
        super().__init__()
        if tile is not None and tile < 1:
            raise ValueError(f"tile must be a number of 2 x 2 averages (at least 1) or None, got {tile!r}")
        self.tile = tile

    @property
    def smallest(self) -> int:
        """Shortest side of an image, in pixels."""
        return 16

    def _aligned_score(self, x: Image, y: Image) -> Tensor:
        height, width = (-(-side // 2) for side in x.shape[-2:])
        total: Tensor | None = None
        for top, left, rows, columns in tiles_of(height, width, self.tile, not isinstance(x, Tensor)):
            window = (top - BEFORE, left - BEFORE, rows + BEFORE + AFTER, columns + BEFORE + AFTER)
            part = _sums(*(_halved(image, *window) for image in (x, y)))
            total = part if total is None else total + part
        assert total is not None
        lost, weight = total.unbind(-1)
        mean = lost / weight.clamp_min(torch.finfo(weight.dtype).eps)
        # logit(sigmoid(ALPHA) - mean) / ALPHA - 1, without the cancellation
        change = (torch.log1p(-mean * (1 + math.exp(-ALPHA))) - torch.log1p(mean * (1 + math.exp(ALPHA)))) / ALPHA
        return (1 + change).square()
