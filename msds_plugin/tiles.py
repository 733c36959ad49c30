"""Sums over feature positions of images of any size, tile by tile, equal to those of the whole image.

A Gram matrix is a sum over positions, so it may be summed tile by tile as long as each position is counted once, with the
value it has in the whole image. A position that is computed from a window cut out of the image has that value if

- the window begins at a multiple of the layer's stride, so that its positions are positions of the image, and
- the position's receptive field touches no end of the window that is not an end of the image. The padding that every
  convolution adds at such an end stands for positions whose own fields lie partly outside the window (left of its first
  pixel, or beyond the last position that fits), so no position whose field lies inside can depend on it.

Both follow from the backbone's table alone (:class:`~msds_plugin.backbones.Layer`). At the image's own border the window
ends where the image does, and is padded just as the image is.

Tiles are nested. The memory of a network is in its first layers, at full resolution, while the large fields are those of
its last layers. So a tile, of a size that makes the margin of the last layers small beside it, runs through the first
layers in smaller tiles, which are joined where a map is small, and through the rest at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from msds_plugin.checks import check_image, check_size
from msds_plugin.functional import gram_matrix, positions
from msds_plugin.networks import Backbone, Layer
from msds_plugin.windows import Cropped, Windows, as_windows

__all__ = ["Span", "Tile", "pair_sums", "spans", "tile_sums"]

Tile: TypeAlias = int | Literal["auto"] | None
#: A sum over positions, and how many these are.
Sum: TypeAlias = tuple[Tensor, int]
T = TypeVar("T")

#: Side in pixels of the small tiles that the first layers run on: their maps then stay in a processor's cache.
SMALL = 512

#: Side of a tile of two images, both of whose features are held.
PAIR = 768

#: Bytes that ``"auto"`` takes for a tile on a CPU: its margin is small beside it then, and more gains little.
MOST_BYTES = 7 << 26


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


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def _margins(layers: Sequence[Layer]) -> tuple[int, int]:
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
    before, after = _margins(layers)
    number = -(-length // _round_up(core, step))
    core = _round_up(-(-length // number), step)
    found = []
    for first in range(0, length, core):
        last = min(first + core, _round_up(length, step))
        begin = max(0, min(first - before, length - smallest) // step * step)
        found.append(Span(begin, min(length, max(last + after, begin + smallest)), first, last))
    return found


def tile_sums(
    backbone: Backbone,
    image: Windows,
    mask: Windows | None,
    tile: Tile = "auto",
    part: Callable[[Tensor], Tensor] = gram_matrix,
) -> list[Sum]:
    """The sum over positions and their number for each chosen layer, as of the whole image.

    Where gradients flow, a tile is computed again in the backward pass instead of being kept.

    Args:
        backbone: one whose geometry is known.
        image: (N, 3, H, W); windows are moved to the backbone's device.
        mask: (N, 1, H, W) of zeros and ones, or None.
        tile: side in pixels of what a tile owns, rounded up to the stride; otherwise as large as memory allows.
        part: features (N, C, h, w) to a sum over positions, as the Gram matrix is one.

    Raises:
        ValueError: the image is too small, has values outside [0, 1], or the backbone's geometry is not known.
    """
    check_size(image, backbone.smallest)
    tiles = _Tiles(backbone, image, mask, _wants_gradient(image), part)
    core = tile if isinstance(tile, int) else tiles.affordable()
    height, width = image.shape[-2:]
    totals: dict[Layer, Sum] = {}
    for row in tiles.spans(height, core):
        for column in tiles.spans(width, core):
            _add(totals, tiles.checkpointed(tiles.tile, row, column))
    return [totals[layer] for layer in tiles.layers]


def _wants_gradient(image: Windows) -> bool:
    return torch.is_grad_enabled() and image.read(0, 0, 1, 1).requires_grad


def pair_sums(backbone: Backbone, x: Windows, y: Windows, tile: Tile, part: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
    """Sums over positions of the feature maps of two images of one size, for each layer of the backbone, tile by tile.

    Args:
        backbone: its table of layers must be known.
        x, y: the images.
        tile: pixels that a tile owns; otherwise :data:`PAIR`.
        part: what is summed, of the two maps (N, C, h, w) of a tile.
    """
    layers = backbone.geometry()
    core = tile if isinstance(tile, int) else PAIR

    def of_tile(row: Span, column: Span) -> list[Tensor]:
        window = (row.begin, column.begin, len(row), len(column))
        features = [backbone(image.read(*window).to(backbone.device)) for image in (x, y)]
        owned = [(..., row.owned(layer.stride), column.owned(layer.stride)) for layer in layers]
        return [part(p[each], q[each]) for p, q, each in zip(*features, owned, strict=True)]

    gradient = _wants_gradient(x) or _wants_gradient(y)
    totals: list[Tensor] = []
    for row in spans(x.shape[-2], core, layers, backbone.smallest):
        for column in spans(x.shape[-1], core, layers, backbone.smallest):
            sums = checkpoint(of_tile, row, column, use_reentrant=False) if gradient else of_tile(row, column)
            totals = [p + q for p, q in zip(totals, sums, strict=True)] if totals else sums
    return totals


def _add(totals: dict[Layer, Sum], sums: Mapping[Layer, Sum]) -> None:
    for layer, (total, number) in sums.items():
        if layer in totals:
            total, number = totals[layer][0] + total, totals[layer][1] + number
        totals[layer] = total, number


def _cut(layers: Sequence[Layer], known: Iterable[Layer]) -> Layer | None:
    """Where small tiles are joined: the smallest map among those whose field is far smaller than the last layer's."""
    largest = max(layer.receptive_field for layer in layers)
    if largest <= SMALL // 8:
        return None
    early = [layer for layer in known if layer.receptive_field <= largest // 4]
    return min(early, key=lambda layer: (layer.channels / layer.stride**2, -layer.index), default=None)


class _Tiles:
    """The tiles of one image under one backbone, which is cut into a part for small tiles and a part for tiles.

    A backbone of small fields is not cut: all of its tiles are small.
    """

    def __init__(
        self,
        backbone: Backbone,
        image: Windows,
        mask: Windows | None,
        gradient: bool,
        part: Callable[[Tensor], Tensor],
    ) -> None:
        self.backbone, self.image, self.mask, self.gradient, self.part = backbone, image, mask, gradient, part
        self.layers = backbone.geometry()
        self.cut = _cut(self.layers, backbone.known_layers.values())
        depth = max(layer.index for layer in self.layers) if self.cut is None else self.cut.index
        self.late = [layer for layer in self.layers if layer.index > depth]
        self.early = [layer for layer in self.layers if layer.index <= depth]
        self.joined = self.early if self.cut is None else [*self.early, self.cut]
        first, second = [layer.index for layer in self.joined], [layer.index for layer in self.late]
        self.first_part, self.second_part = backbone.parts(first, second)

    def spans(self, length: int, core: int) -> list[Span]:
        """The tiles along one axis."""
        return spans(length, core if self.cut else min(core, SMALL), self.layers, self.backbone.smallest)

    def checkpointed(self, function: Callable[..., T], *arguments: object) -> T:
        """The function's result; where gradients flow, nothing that it computes on the way is kept."""
        if not self.gradient:
            return function(*arguments)
        return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)

    def tile(self, row: Span, column: Span) -> dict[Layer, Sum]:
        """What one tile adds to the sums of every layer."""
        window = (row.begin, column.begin, len(row), len(column))
        # A small tile's gradient is as large as what it is cut from: that must not be the whole image.
        image = as_windows(self.image.read(*window)) if self.gradient else Cropped(self.image, window)
        mask = None if self.mask is None else Cropped(self.mask, window)
        sums: dict[Layer, Sum] = {}
        strips: list[list[Tensor]] = []
        for small_row in self._small(len(row)):
            strips.append([])
            for small_column in self._small(len(column)):
                more, joined = self.checkpointed(self._early, image, mask, (small_row, row), (small_column, column))
                _add(sums, more)
                strips[-1].append(joined)
        if self.late:
            features = self.second_part(torch.cat([torch.cat(strip, 3) for strip in strips], 2))
            for layer, feature in zip(self.late, features, strict=True):
                sums[layer] = self._sum(feature, row.owned(layer.stride), column.owned(layer.stride))
        return sums

    def _sum(self, feature: Tensor, rows: slice, columns: slice) -> Sum:
        own = feature[..., rows, columns]
        return self.part(own), positions(own)

    def _small(self, length: int) -> list[Span]:
        return spans(length, SMALL if self.cut else length, self.joined, self.backbone.smallest)

    def _early(
        self, image: Windows, mask: Windows | None, rows: tuple[Span, Span], columns: tuple[Span, Span]
    ) -> tuple[dict[Layer, Sum], Tensor]:
        """What a small tile adds to the early layers' sums, and its part of the joined map; spans are (its own, the tile's)."""
        (row, tile_row), (column, tile_column) = rows, columns
        window = (row.begin, column.begin, len(row), len(column))
        pixels = image.read(*window).to(self.backbone.device)
        check_image(pixels)
        kept = None if mask is None else mask.read(*window).to(pixels)
        features = self.first_part(self.backbone.normalise(pixels), kept)
        sums = {
            layer: self._sum(
                feature, row.owned_by_both(tile_row, layer.stride), column.owned_by_both(tile_column, layer.stride)
            )
            for layer, feature in zip(self.early, features, strict=False)
        }
        stride = self.joined[-1].stride
        return sums, features[-1][..., row.owned(stride), column.owned(stride)] if self.late else features[-1][..., :0, :0]

    def affordable(self) -> int:
        """Side of a tile that the memory is enough for; the whole image's if that is."""
        height, width = self.image.shape[-2:]
        if self.cut is None:
            return max(height, width)
        pixels = _budget(self.backbone.device) / (self.image.shape[0] * self._bytes_per_pixel())
        if height * width <= pixels:
            return max(height, width)
        margin = sum(_margins(self.layers))
        return max(margin, math.isqrt(int(pixels)) - margin)  # with less, most of the work would be for margins

    def _bytes_per_pixel(self) -> float:
        """Memory of the second part per pixel of a tile: measured by hooks on a small map, per pixel of the image."""
        assert self.cut is not None
        side = _round_up(2 * self.backbone.smallest, 128)
        second = self.second_part
        parameter = next(second.parameters())
        sample = parameter.new_zeros(1, self.cut.channels, side // self.cut.stride, side // self.cut.stride)
        sizes: list[tuple[int, int]] = []
        hooks = [
            module.register_forward_hook(lambda _, given, out: sizes.append((given[0].nbytes, out.nbytes)))
            for module in second.modules()
            if not list(module.children())
        ]
        try:
            with torch.no_grad():
                second(sample)
        finally:
            for hook in hooks:
                hook.remove()
        kept = sum(out for _, out in sizes) if self.gradient else 0
        # Twice the joined map: while it is joined, and as what a residual connection keeps.
        return (2 * sample.nbytes + kept + max(given + out for given, out in sizes)) / side**2


def _budget(device: torch.device) -> int:
    """Bytes for a tile: on CUDA half of what is free, elsewhere MOST_BYTES."""
    if device.type != "cuda":
        return MOST_BYTES
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return (torch.cuda.mem_get_info(device)[0] + unused) // 2
