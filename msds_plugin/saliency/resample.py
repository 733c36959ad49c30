"""Small maps: shrinking images to them, smoothing, scaling, and reading an enlarged one window by window."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from msds_plugin.windows import Image

__all__ = ["Enlarged", "fitted", "resample", "thumbnail", "unit_range"]

#: Values that are read at once, at most, unless a single cell of the thumbnail has more.
_STRIP = 1 << 24


def fitted(height: int, width: int, longer: int) -> tuple[int, int]:
    """The size of the same shape whose longer side is ``longer``; that of the image itself if it is smaller."""
    scale = min(1.0, longer / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def thumbnail(image: Image, size: tuple[int, int]) -> Tensor:
    """An image (N, C, H, W) averaged over the areas of ``size`` cells; one read in windows is never read whole.

    Example:
        >>> thumbnail(torch.arange(16.0).reshape(1, 1, 4, 4), (2, 2)).flatten().tolist()
        [2.5, 4.5, 10.5, 12.5]
    """
    if isinstance(image, Tensor):
        return F.adaptive_avg_pool2d(image, size)
    height, width = image.shape[-2:]

    def bounds(cell: int, cells: int, side: int) -> tuple[int, int]:
        return cell * side // cells, -(-(cell + 1) * side // cells)

    rows = []
    for row in range(size[0]):
        top, bottom = bounds(row, size[0], height)
        across = image.shape[0] * image.shape[1] * (bottom - top) * -(-width // size[1])
        together = max(1, _STRIP // across)
        cells = []
        for column in range(0, size[1], together):
            last = min(column + together, size[1])
            left, right = bounds(column, size[1], width)[0], bounds(last - 1, size[1], width)[1]
            strip = image.read(top, left, bottom - top, right - left).mean(2)
            ends = [bounds(cell, size[1], width) for cell in range(column, last)]
            cells += [strip[..., begin - left : end - left].mean(-1) for begin, end in ends]
        rows.append(torch.stack(cells, -1))
    return torch.stack(rows, -2)


def unit_range(maps: Tensor, least: float = 0.0) -> Tensor:
    """Each map (..., h, w) scaled to [0, 1]; ones where a map is constant, up to rounding or a difference of ``least``.

    Example:
        >>> unit_range(torch.tensor([[[2.0, 4.0]], [[3.0, 3.0]]])).tolist()
        [[[0.0, 1.0]], [[1.0, 1.0]]]
    """
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    spread = high - low
    flat = spread <= (1e-5 * high.abs()).clamp_min(least)
    return torch.where(flat, 1.0, (maps - low) / spread.masked_fill(flat, 1))


def _weights(target: int, begin: int, length: int, source: int, sigma: float | None, like: Tensor) -> Tensor:
    """How much each of ``source`` cells counts for the pixels from ``begin`` of ``target``, (length, source)."""
    cells = torch.arange(source, dtype=torch.float64, device="cpu")
    pixels = (torch.arange(begin, begin + length, dtype=torch.float64, device="cpu") + 0.5) * (source / target) - 0.5
    if sigma is None:
        near = (1 - (pixels.clamp(0, source - 1)[:, None] - cells).abs()).clamp_min(0)
    else:
        near = torch.exp((pixels[:, None] - cells).square() / (-2 * sigma**2))
    return (near / near.sum(1, keepdim=True)).to(like)


def resample(maps: Tensor, size: tuple[int, int], sigma: float | None = None) -> Tensor:
    """Maps (N, C, h, w) in another size: linear interpolation, or a Gaussian of ``sigma`` cells of the maps given."""
    rows, columns = (
        _weights(target, 0, target, source, sigma, maps) for target, source in zip(size, maps.shape[-2:], strict=True)
    )
    return rows @ maps @ columns.mT


@dataclass(frozen=True)
class Enlarged:
    """A small map (N, 1, h, w) as one of ``size`` pixels, interpolated linearly where it is read."""

    small: Tensor
    size: tuple[int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, 1, H, W)."""
        return (*self.small.shape[:2], *self.size)

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """See :class:`~msds_plugin.windows.Windows`."""
        rows = _weights(self.size[0], top, height, self.small.shape[-2], None, self.small)
        columns = _weights(self.size[1], left, width, self.small.shape[-1], None, self.small)
        return rows @ self.small @ columns.mT
