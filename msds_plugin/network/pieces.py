"""A network on large maps, a few of its blocks at a time and piece by piece: the same features, in memory that is used again.

Inside a block maps are several times as wide as what it returns. On a CPU fresh memory for a map of megabytes, which no cache
holds, costs more than the arithmetic done with it. So blocks run on pieces of their input whose maps fit into a cache, and
what they return is written in its place. Only the margins, a few positions, are computed twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .spans import spans
from .table import Layer

#: Bytes of the largest map of a piece, for each thread.
PIECE_BYTES = 1 << 22

#: Pixels of an image from which on pieces pay.
FROM_PIXELS = 1 << 17

#: Share of the positions that may be computed twice.
OVERLAP = 0.15

#: Bytes of a block, just below the largest for which glibc's malloc learns from experience (mallopt(3), M_MMAP_THRESHOLD).
LESSON = (1 << 25) - (1 << 16)


@cache
def keep_freed_memory() -> None:
    """Once per process: teach malloc that maps of megabytes come and go.

    glibc gives freed memory back to the system beyond twice the largest block that it has seen freed, and gets it anew, page by
    page, for the next image: up to a quarter of the time. One block, which nobody writes to, so that it takes no memory,
    raises the limit to 64 MiB, as any large image does. Elsewhere it does nothing.
    """
    torch.empty(LESSON, dtype=torch.uint8)


def worth_it(image: Tensor) -> bool:
    """Whether a network should run on ``image`` (N, 3, H, W) in pieces: a large one, on a CPU, without gradients."""
    plain = not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())
    large = image.device.type == "cpu" and image.shape[-2] * image.shape[-1] >= FROM_PIXELS
    return plain and large and not (image.requires_grad and torch.is_grad_enabled())


def run(net: nn.Sequential, taps: Sequence[int], normalise: Callable[[Tensor], Tensor], image: Tensor) -> list[Tensor]:
    """The maps after the modules ``taps`` of ``net``, as ``net`` itself computes them of ``normalise(image)``.

    Args:
        net: modules made of convolutions, max pooling and what works position by position; nothing branches and joins over
            more than one of them, or over more than one module of a sequence among them.
        taps: numbers of modules.
        normalise: works position by position, too.
        image: (N, 3, H, W).
    """
    found, features = [], image
    first: Callable[[Tensor], Tensor] = normalise
    for chain in _chains(net, tuple(taps), torch.get_num_threads()):
        features = _on(chain, first, features)
        first = _as_it_is
        if chain.tapped:
            found.append(features)
    return found


def _as_it_is(x: Tensor) -> Tensor:
    return x


_known: WeakKeyDictionary[nn.Module, dict[Hashable, list[_Chain]]] = WeakKeyDictionary()


def _chains(net: nn.Sequential, taps: tuple[int, ...], threads: int) -> list[_Chain]:
    """The chains of a network, found once: that takes as long as a network on a small map."""
    known = _known.setdefault(net, {})
    key = (taps, threads, PIECE_BYTES)
    if key not in known:
        known[key] = list(_new_chains(list(net)[: taps[-1] + 1], taps))
    return known[key]


def _new_chains(modules: Sequence[nn.Module], taps: Sequence[int]) -> Iterator[_Chain]:
    blocks: list[nn.Module] = []
    for index, module in enumerate(modules):
        for block in module if isinstance(module, nn.Sequential) else [module]:
            longer = [*blocks, block]
            if blocks and not _Shape.of(longer).cheap:
                yield _Chain(blocks, tapped=False)
                longer = [block]
            blocks = longer
        if index in taps:
            yield _Chain(blocks, tapped=True)
            blocks = []


@dataclass(frozen=True)
class _Shape:
    """What a chain of blocks does to a map: its geometry, and the widest map within, in channels per position of its input."""

    layer: Layer
    widest: float

    @staticmethod
    def of(blocks: Sequence[nn.Module]) -> _Shape:
        stride, field, start, channels, widest = 1, 1, 0, 0, 0.0
        for module in (each for block in blocks for each in block.modules()):
            if isinstance(module, nn.Conv2d | nn.MaxPool2d):
                kernel, step, padding, dilation = (
                    value if isinstance(value, int) else int(value[0])
                    for value in (module.kernel_size, module.stride, module.padding, module.dilation)
                )
                start -= padding * stride
                field += (kernel - 1) * dilation * stride
                stride *= step
            if isinstance(module, nn.Conv2d):
                channels = module.out_channels
                widest = max(widest, channels / stride**2)
        return _Shape(Layer(0, channels, stride, field, start), widest)

    @property
    def margin(self) -> int:
        """Positions of the input that two neighbours share."""
        return max(0, self.layer.receptive_field - self.layer.stride)

    def positions(self, channels: int = 0, bytes_each: int = 4) -> int:
        """Positions of a piece's input, which has so many channels."""
        return int(PIECE_BYTES * torch.get_num_threads() / (max(self.widest, channels) * bytes_each))

    @property
    def cheap(self) -> bool:
        """Whether square pieces of the usual size overlap little."""
        return self.widest > 0 and (1 + self.margin / math.sqrt(self.positions())) ** 2 <= 1 + OVERLAP


class _Chain:
    """Blocks that are computed together; ``tapped`` if their result is wanted."""

    def __init__(self, blocks: Sequence[nn.Module], tapped: bool) -> None:
        self.blocks = blocks
        self.shape = _Shape.of(blocks)
        self.tapped = tapped

    def __call__(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def _on(chain: _Chain, first: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    """Of as many images at once as have small maps together; of one in pieces where its map is large."""
    positions = chain.shape.positions(features.shape[1], features.element_size())
    images = positions // (features.shape[-2] * features.shape[-1])
    if len(features) <= images:
        return chain(first(features))
    if images:
        return torch.cat([chain(first(part)) for part in features.split(images)])
    return _in_pieces(chain, first, features, positions)


def _in_pieces(chain: _Chain, first: Callable[[Tensor], Tensor], features: Tensor, positions: int) -> Tensor:
    layer, margin = chain.shape.layer, chain.shape.margin
    height, width = features.shape[-2:]
    smallest = layer.receptive_field + layer.stride
    # Whole rows lie together in channels_last, so that strips of them are read without a copy.
    tall, wide = positions // width, width
    if margin > OVERLAP * tall or tall < 1:
        tall = wide = max(math.isqrt(positions), math.ceil(margin / (math.sqrt(1 + OVERLAP) - 1)), 1)
    rows = spans(height, tall, [layer], smallest)
    columns = spans(width, wide, [layer], smallest)
    whole, most, end = features, rows[-1].last // layer.stride, 0
    for index, image in enumerate(features.split(1)):
        end = 0
        for row in rows:
            pieces = [
                chain(first(image[..., row.begin : row.end, column.begin : column.end]))[
                    ..., row.owned(layer.stride), column.owned(layer.stride)
                ]
                for column in columns
            ]
            strip = pieces[0] if len(pieces) == 1 else torch.cat(pieces, 3)
            if whole is features:
                size = (len(features), strip.shape[1], most, strip.shape[3])
                whole = torch.empty(size, dtype=strip.dtype, memory_format=torch.channels_last)
            begin, end = end, end + strip.shape[2]
            whole[index : index + 1, :, begin:end] = strip
    return whole[..., :end, :]
