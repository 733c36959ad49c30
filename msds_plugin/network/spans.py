"""How an axis is cut into tiles that see what they need beyond what they own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .table import Layer

__all__ = ["Span", "spans"]


@dataclass(frozen=True)
class Span:
    """A tile along one axis: it owns the pixels from ``first`` to ``last`` and sees those from ``begin`` to ``end``."""

    begin: int
    end: int
    first: int
    last: int

    def __len__(self) -> int:
        return self.end - self.begin

    def owned(self, stride: int) -> slice:
        """Which positions of the window's map are the tile's own."""
        return slice((self.first - self.begin) // stride, (self.last - self.begin) // stride)

    def owned_by_both(self, other: Span, stride: int) -> slice:
        """Which positions are its own and those of ``other`` too, in whose window it is a tile."""
        first = max(self.first, other.first - other.begin)
        last = max(first, min(self.last, other.last - other.begin))
        return slice((first - self.begin) // stride, (last - self.begin) // stride)


def round_up(value: int, step: int) -> int:
    """The next multiple of ``step``."""
    return -(-value // step) * step


def margins(layers: Sequence[Layer]) -> tuple[int, int]:
    """Pixels that the layers need before and after what a tile owns."""
    before = max(0, *(-layer.start for layer in layers))
    after = max(0, *(layer.start + layer.receptive_field - layer.stride for layer in layers))
    return before, after


def spans(length: int, core: int, layers: Sequence[Layer], smallest: int) -> list[Span]:
    """Cut ``length`` pixels into tiles of nearly equal length, each with the margin it needs.

    Args:
        length: side of the image.
        core: how many pixels a tile owns at most, rounded up to the largest stride.
        layers: every layer that features are taken from.
        smallest: pixels that a window must have.

    Example:
        >>> for span in spans(100, 40, [Layer(25, 512, 16, 132, -58)], 16):
        ...     print(span)
        Span(begin=0, end=100, first=0, last=48)
        Span(begin=0, end=100, first=48, last=96)
        Span(begin=32, end=100, first=96, last=112)
    """
    step = max(layer.stride for layer in layers)
    before, after = margins(layers)
    number = -(-length // round_up(core, step))
    core = round_up(-(-length // number), step)
    found = []
    for first in range(0, length, core):
        last = min(first + core, round_up(length, step))
        begin = max(0, min(first - before, length - smallest) // step * step)
        found.append(Span(begin, min(length, max(last + after, begin + smallest)), first, last))
    return found
