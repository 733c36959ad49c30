"""A network's stages on large maps, each stage piece by piece: the same features, in memory that is used again.

Inside a stage maps are several times as wide as what it returns. On a CPU fresh memory for a map of tens of megabytes costs
more than the arithmetic done with it, so each stage runs on pieces of its input that are small enough for memory to be used
again, and what it returns is put together. Only the margin of the stage itself, a few positions, is computed twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .networks import Layer
from .spans import spans

#: Bytes of the largest map inside a stage, at most; the C library takes larger memory from the system at every call.
PIECE_BYTES = 1 << 24

#: Pixels of an image from which on pieces pay.
FROM_PIXELS = 1 << 19


def worth_it(image: Tensor) -> bool:
    """Whether a network should run on ``image`` (N, 3, H, W) in pieces: a large one, on a CPU, without gradients."""
    plain = not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())
    large = image.device.type == "cpu" and image.shape[-2] * image.shape[-1] >= FROM_PIXELS
    return plain and large and not (image.requires_grad and torch.is_grad_enabled())


def run(net: nn.Sequential, known: Sequence[Layer], taps: Sequence[int], image: Tensor) -> list[Tensor]:
    """The maps after the modules ``taps`` of ``net``, as ``net`` itself computes them.

    Args:
        net: the modules.
        known: layers of which it is known where their positions lie, in order of depth, ``taps`` among them.
        taps: numbers of modules.
        image: (N, 3, H, W), normalised.
    """
    each = [_run_one(net, known, taps, one) for one in image.split(1)]
    return each[0] if len(each) == 1 else [torch.cat(maps) for maps in zip(*each, strict=True)]


def _run_one(net: nn.Sequential, known: Sequence[Layer], taps: Sequence[int], features: Tensor) -> list[Tensor]:
    found, modules = [], list(net)
    before = Layer(-1, 3, 1, 1, 0)  # the pixels
    for layer in known:
        if layer.index > taps[-1]:
            break
        features = _stage(modules[before.index + 1 : layer.index + 1], _relative(layer, before), features)
        before = layer
        if layer.index in taps:
            found.append(features)
    return found


def _relative(layer: Layer, before: Layer) -> Layer:
    """The positions of ``layer`` as seen from those of ``before``."""
    return Layer(
        layer.index,
        layer.channels,
        layer.stride // before.stride,
        (layer.receptive_field - before.receptive_field) // before.stride + 1,
        (layer.start - before.start) // before.stride,
    )


def _stage(modules: Sequence[nn.Module], layer: Layer, features: Tensor) -> Tensor:
    stage = nn.Sequential(*modules)
    widest = max((m.out_channels for m in stage.modules() if isinstance(m, nn.Conv2d)), default=features.shape[1])
    height, width = features.shape[-2:]
    positions = PIECE_BYTES // (widest * features.element_size())
    if height * width <= positions:
        return stage(features)
    smallest = layer.receptive_field + layer.stride
    core = max(4 * layer.receptive_field, math.isqrt(positions))  # with less, margins would be most of the work
    strips = []
    for row in spans(height, core, [layer], smallest):
        strip = [
            stage(features[..., row.begin : row.end, column.begin : column.end])[
                ..., row.owned(layer.stride), column.owned(layer.stride)
            ]
            for column in spans(width, core, [layer], smallest)
        ]
        strips.append(torch.cat(strip, 3))
    return torch.cat(strips, 2)
