"""Images that are read window by window, so that they need not be in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from msds_plugin.functional import binomial_halve, halve

__all__ = ["Cropped", "Halved", "Image", "Resized", "SmoothHalved", "Windows", "as_windows", "common_part", "halvings"]

#: Values that ``Halved`` asks its source for at once, at most, unless a single row of them is longer.
_STRIP = 1 << 23


#: Side of what ``Resized`` computes at once: a product of matrices, most of whose entries are zero if it is larger.
_SIDE = 128


@runtime_checkable
class Windows(Protocol):
    """What a metric needs of an image that is not a tensor: its size, and any window of it.

    Example:
        >>> class Grey:
        ...     shape = (1, 3, 100_000, 100_000)
        ...     def read(self, top, left, height, width):
        ...         return torch.full((1, 3, height, width), 0.5)
        >>> isinstance(Grey(), Windows)
        True
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, 3, H, W) of an image, (N, 1, H, W) of a saliency map."""
        ...

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """The window (N, C, height, width) whose first pixel is (top, left), in [0, 1]; never reaches beyond the image."""
        ...


#: (N, 3, H, W), RGB in [0, 1]: in memory, or read window by window.
Image: TypeAlias = Tensor | Windows


@dataclass(frozen=True)
class _InMemory:
    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        return self.tensor[..., top : top + height, left : left + width]


@dataclass(frozen=True)
class Halved:
    """The next level of an image pyramid: 2 x 2 averages, an odd last row or column dropped."""

    source: Windows

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W)."""
        *batch, height, width = self.source.shape
        return (*batch, height // 2, width // 2)

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """See :class:`Windows`."""
        images, channels = self.shape[:2]
        rows = max(1, _STRIP // (4 * images * channels * width))
        strips = [
            halve(self.source.read(2 * row, 2 * left, 2 * min(rows, top + height - row), 2 * width))
            for row in range(top, top + height, rows)
        ]
        return strips[0] if len(strips) == 1 else torch.cat(strips, 2)


@dataclass(frozen=True)
class SmoothHalved:
    """An image at half size after a low-pass: :func:`msds_plugin.functional.smooth_halve`, where it is read."""

    source: Windows

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W)."""
        *batch, height, width = self.source.shape
        return (*batch, -(-height // 2), -(-width // 2))

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """See :class:`Windows`."""
        first, rows, row_padding = _taps(top, height, self.source.shape[-2])
        begin, columns, column_padding = _taps(left, width, self.source.shape[-1])
        return binomial_halve(self.source.read(first, begin, rows, columns), row_padding, column_padding)


def _taps(first: int, length: int, limit: int) -> tuple[int, int, tuple[int, int]]:
    """First pixel and number of pixels of the source that so many halved ones need, and what is missing at the ends."""
    begin, end = 2 * first - 2, 2 * (first + length - 1) + 3
    inside = max(begin, 0), min(end, limit)
    return inside[0], inside[1] - inside[0], (inside[0] - begin, end - inside[1])


@dataclass(frozen=True)
class Cropped:
    """A window (top, left, height, width) of an image as an image of its own, still read window by window."""

    source: Windows
    window: tuple[int, int, int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        """Batch and channels of the source, height and width of the window."""
        return (*self.source.shape[:2], *self.window[2:])

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """See :class:`Windows`."""
        return self.source.read(self.window[0] + top, self.window[1] + left, height, width)


@dataclass(frozen=True)
class Resized:
    """An image in another size where it is read: bicubic, with a low-pass where it shrinks, as ``F.interpolate`` has it."""

    source: Windows
    size: tuple[int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        """Batch and channels of the source, height and width of the size."""
        return (*self.source.shape[:2], *self.size)

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """See :class:`Windows`."""
        step = max(1, _SIDE * self.size[0] // max(self.source.shape[-2], self.size[0]))
        strips = [self._strip(row, min(step, top + height - row), left, width) for row in range(top, top + height, step)]
        return torch.cat(strips, 2).clamp(0, 1)

    def _strip(self, top: int, height: int, left: int, width: int) -> Tensor:
        (rows, columns), (tall, wide) = self.size, self.source.shape[-2:]
        first, by_row = _bicubic(top, height, rows, tall)
        blocks = [
            _bicubic(column, min(_SIDE, left + width - column), columns, wide) for column in range(left, left + width, _SIDE)
        ]
        begin, end = blocks[0][0], blocks[-1][0] + blocks[-1][1].shape[1]
        pixels = self.source.read(first, begin, by_row.shape[1], end - begin)
        strip = by_row.to(pixels) @ pixels
        return torch.cat([strip.narrow(3, at - begin, each.shape[1]) @ each.to(pixels).mT for at, each in blocks], 3)


def _bicubic(first: int, length: int, target: int, source: int) -> tuple[int, Tensor]:
    """The first of the source's pixels that count for those from ``first`` of the target, and how much each counts for each."""
    scale = source / target
    width = max(scale, 1.0)
    centres = (torch.arange(first, first + length, dtype=torch.float64, device="cpu") + 0.5) * scale
    begin, end = max(int(centres[0] - 2 * width + 0.5), 0), min(int(centres[-1] + 2 * width + 0.5), source)
    pixels = torch.arange(begin, end, dtype=torch.float64, device="cpu") + 0.5
    near = (pixels - centres[:, None]).abs() / width
    inner, outer = (1.5 * near - 2.5) * near**2 + 1, ((2.5 - 0.5 * near) * near - 4) * near + 2
    weights = inner.where(near < 1, outer.where(near < 2, 0))
    return begin, weights / weights.sum(1, keepdim=True)


def as_windows(image: Image) -> Windows:
    """The image itself if it can be read window by window, or a view of a tensor (N, C, H, W) that can."""
    return _InMemory(image) if isinstance(image, Tensor) else image


def common_part(x: Image, y: Image) -> tuple[Image, Image]:
    """What two images of different size share at the top left."""
    height, width = (min(p, q) for p, q in zip(x.shape[-2:], y.shape[-2:], strict=True))
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return x[..., :height, :width], y[..., :height, :width]
    window = (0, 0, height, width)
    return Cropped(as_windows(x), window), Cropped(as_windows(y), window)


def halvings(image: Image, levels: int) -> list[Windows]:
    """The levels of :func:`msds_plugin.functional.pyramid`, computed where and when they are read.

    Example:
        >>> level = halvings(torch.rand(1, 3, 65, 96), 3)[2]
        >>> level.shape, level.read(0, 8, 16, 16).shape
        ((1, 3, 16, 24), torch.Size([1, 3, 16, 16]))
    """
    sources = [as_windows(image)]
    for _ in range(levels - 1):
        sources.append(Halved(sources[-1]))
    return sources
