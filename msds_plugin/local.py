"""What the local metrics have in common: they compare pairs of one size pixel by pixel, tile by tile where need be."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from msds_plugin.checks import check_aligned, check_image
from msds_plugin.functional import at_least_float32
from msds_plugin.metric import PairMetric
from msds_plugin.windows import Image

__all__ = ["LocalMetric", "luma_chroma", "read_padded", "similarity_deficit", "tiles_of"]

#: Side of the tiles that images read in windows are cut into.
TILE = 1024


class LocalMetric(PairMetric):
    """A metric of pairs that lie on each other pixel by pixel."""

    reads_windows = True

    def _score(self, x: Image, y: Image) -> Tensor:
        check_aligned(x, y, type(self).__name__)
        return self._aligned_score(x, y)

    @abstractmethod
    def _aligned_score(self, x: Image, y: Image) -> Tensor:
        """Scores (N,) of images of one size."""


def tiles_of(height: int, width: int, tile: int | None, windows: bool) -> Iterator[tuple[int, int, int, int]]:
    """(top, left, height, width) of the tiles of a map of this size; one of all of it if there is no need for more."""
    if not (tile or windows):
        yield 0, 0, height, width
        return
    side = tile or TILE
    for top in range(0, height, side):
        for left in range(0, width, side):
            yield top, left, min(side, height - top), min(side, width - left)


def read_padded(image: Image, top: int, left: int, height: int, width: int) -> Tensor:
    """A window in float32 at least, which may reach beyond the image; there are zeros."""
    if isinstance(image, Tensor):
        rows, columns = image.shape[-2:]
        return at_least_float32(F.pad(image, (-left, left + width - columns, -top, top + height - rows)))
    bottom, right = (
        min(begin + size, end) for begin, size, end in zip((top, left), (height, width), image.shape[-2:], strict=True)
    )
    first, start = max(top, 0), max(left, 0)
    pixels = image.read(first, start, bottom - first, right - start)
    check_image(pixels)
    return F.pad(at_least_float32(pixels), (start - left, left + width - right, first - top, top + height - bottom))


def luma_chroma(image: Tensor, matrix: Sequence[Sequence[float]], factor: float) -> Tensor:
    """A linear change of colour space, (N, 3, H, W) to (N, 3, H, W), in the type of the image, under autocast too."""
    red, green, blue = image.unbind(1)
    return torch.stack([(r * factor) * red + (g * factor) * green + (b * factor) * blue for r, g, b in matrix], 1)


def similarity_deficit(a: Tensor, b: Tensor, c: float) -> Tensor:
    """1 - (2ab + c) / (a² + b² + c), exactly 0 where a equals b."""
    return (a - b).square() / (a.square() + b.square() + c)
