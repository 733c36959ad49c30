"""What the local terms have in common: they look at aligned pairs of one size, window by window where need be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import check_pair, check_size
from ..windows import Windows

__all__ = ["blocks", "check_local", "luma_chroma", "read_padded", "similarity_deficit"]

#: Side of the tiles that images read in windows are cut into.
TILE = 1024


def check_local(x: Tensor | Windows, y: Tensor | Windows, smallest: int) -> None:
    """Raise a clear error unless the images of two batches lie on each other pixel by pixel."""
    check_pair(x, y)
    if tuple(x.shape[-2:]) != tuple(y.shape[-2:]):
        sizes = " and ".join(f"{height} x {width}" for height, width in (x.shape[-2:], y.shape[-2:]))
        raise ValueError(f"a local term compares pixel by pixel and needs images of one size, got {sizes}")
    check_size(x, smallest)


def blocks(height: int, width: int, tile: int | None, windows: bool) -> Iterator[tuple[int, int, int, int]]:
    """(top, left, height, width) of the tiles of a map of this size; one of all of it if there is no need for more."""
    side = tile or (TILE if windows else max(height, width))
    for top in range(0, height, side):
        for left in range(0, width, side):
            yield top, left, min(side, height - top), min(side, width - left)


def read_padded(image: Windows, top: int, left: int, height: int, width: int) -> Tensor:
    """A window in float32 at least, which may reach beyond the image; there are zeros."""
    bottom, right = (
        min(begin + size, end) for begin, size, end in zip((top, left), (height, width), image.shape[-2:], strict=True)
    )
    first, start = max(top, 0), max(left, 0)
    pixels = image.read(first, start, bottom - first, right - start)
    pixels = pixels.float() if pixels.dtype in (torch.float16, torch.bfloat16) else pixels
    padding = (start - left, left + width - right, first - top, top + height - bottom)
    return F.pad(pixels, padding) if any(padding) else pixels


def luma_chroma(image: Tensor, matrix: Sequence[Sequence[float]], factor: float) -> Tensor:
    """A linear change of colour space, (N, 3, H, W) to (N, 3, H, W), in the type of the image, under autocast too."""
    red, green, blue = image.unbind(1)
    return torch.stack([(r * factor) * red + (g * factor) * green + (b * factor) * blue for r, g, b in matrix], 1)


def similarity_deficit(a: Tensor, b: Tensor, c: float) -> Tensor:
    """1 - (2ab + c) / (a² + b² + c), exactly 0 where a equals b."""
    return (a - b).square() / (a.square() + b.square() + c)
