r"""Where two images differ: each position's share in the dissimilarity of their Gram matrices.

A Gram matrix is a sum over positions, :math:`G = \sum_p f_p f_p^T`, and the dissimilarity of two of them is, block by block,
:math:`D = \mathrm{var}(G_x - G_y) / d` with the denominator :math:`d = \mathrm{var}(G_x) + \mathrm{var}(G_y) + c`. A variance
is linear in one of its two factors: with :math:`R` the difference :math:`G_x - G_y` less its mean in each block,

.. math:: D = \langle M, G_x - G_y \rangle, \qquad M = R / (n\, d),

for blocks of n entries (the mean over blocks and layers goes into M as well), and so

.. math:: D = \sum_p x_p^T M x_p - \sum_p y_p^T M y_p

over the features :math:`x_p, y_p` at each position. The p-th terms are the share of position p. They add up to D exactly; no
gradient and no approximation is involved. A share can be negative: such a position makes the matrices more alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from .backbones import Backbone
from .errors import check_pair
from .functional import halve
from .network.spans import spans
from .windows import Windows, as_windows, halvings

if TYPE_CHECKING:
    from .deepssim import DeepSSIM, DeepSSIMLite
    from .multiscale import MultiScale

__all__ = ["dissimilarity_map", "map_parts"]

_BLOCK, _C = 4, 1e-6
#: Side of a tile in pixels where the metric leaves it open.
_TILE = 1024


@dataclass(frozen=True)
class _Grid:
    """Where positions lie along one axis, in pixels of the whole image: the centre of the first, and the step."""

    first: float
    step: float


def dissimilarity_map(metric: DeepSSIM | DeepSSIMLite | MultiScale, x: Tensor | Windows, y: Tensor | Windows) -> Tensor:
    """Each pixel's share in the dissimilarity of ``x`` and ``y``.

    The shares of all pixels of an image sum to its dissimilarity: 1 − score for DeepSSIM and MSDS, the score itself for
    their -lite forms. The share of a feature position is spread over the pixels around its centre, up to the next position.

    A map says which places make the Gram matrices differ. It does not say that the image is worse there than in the
    reference at the same place: content that moves away takes from one place what it gives to another, and both show, with
    opposite signs and next to no sum.

    Args:
        metric: DeepSSIM, DeepSSIM-Lite, or either on a pyramid. With ``tile`` the features are computed in tiles of that size.
        x, y: distorted images and references of one size, (N, 3, H, W) in [0, 1].

    Returns:
        (N, 1, H, W), float32, without a gradient.

    Raises:
        ValueError: the sizes of x and y differ (see :func:`map_parts`), and what the metric itself refuses.
        TypeError: a metric without Gram matrices.

    Example:
        >>> from msds_plugin import DeepSSIM
        >>> metric = DeepSSIM("alexnet", weights=None)
        >>> x, y = torch.rand(2, 1, 3, 64, 64)
        >>> shares = dissimilarity_map(metric, x, y)
        >>> shares.shape, bool((shares.sum() - (1 - metric(x, y))).abs() < 1e-5)
        (torch.Size([1, 1, 64, 64]), True)
    """
    if x.shape != y.shape:
        raise ValueError(
            f"x {tuple(x.shape)} and y {tuple(y.shape)} differ in size, so that pixels do not belong together: "
            "map_parts gives a map of each"
        )
    of_x, of_y = map_parts(metric, x, y)
    return (of_x - of_y).float()  # after the difference: the two may be large and nearly equal


@torch.no_grad()
def map_parts(metric: DeepSSIM | DeepSSIMLite | MultiScale, x: Tensor | Windows, y: Tensor | Windows) -> tuple[Tensor, Tensor]:
    """The two terms of :func:`dissimilarity_map`, each in the size of its image: sum of the first less sum of the second is D.

    Alone, a part says how strongly a place takes part in those correlations of features in which the two images differ.

    Returns:
        (N, 1, Hx, Wx) and (N, 1, Hy, Wy), float64: they can be large and nearly equal.
    """
    pyramid = getattr(metric, "fusion", None)  # of a metric on several levels
    single = metric if pyramid is None else cast("MultiScale", metric).metric
    if not hasattr(single, "backbone") or getattr(single, "kind", None) not in ("deepssim", "deepssim-lite"):
        raise TypeError(f"{type(single).__name__} compares no Gram matrices: maps are for DeepSSIM, MSDS and their -lite forms")
    single = cast("DeepSSIM | DeepSSIMLite", single)
    check_pair(x, y)
    weights = [1.0] if pyramid is None else pyramid.double().tolist()
    images = [_levels(image, len(weights), single.tile is not None) for image in (x, y)]
    parts: list[list[Tensor]] = [[], []]
    by_layer = getattr(metric, "layer_weights", None)
    for level, weight in enumerate(weights):
        of_layers = None if by_layer is None else by_layer[level].tolist()
        matrices = _matrices(single, images[0][level], images[1][level], of_layers)
        for side in (0, 1):
            parts[side].append(weight * _part(single, images[side][level], matrices, level, images[side][0]))
    return torch.stack(parts[0]).sum(0), torch.stack(parts[1]).sum(0)


def _levels(image: Tensor | Windows, number: int, windows: bool) -> Sequence[Tensor | Windows]:
    if windows or not isinstance(image, Tensor):
        return halvings(image, number)
    levels = [image]
    for _ in range(number - 1):
        levels.append(halve(levels[-1]))
    return levels


def _matrices(
    metric: DeepSSIM | DeepSSIMLite, x: Tensor | Windows, y: Tensor | Windows, weights: Sequence[float] | None
) -> list[Tensor]:
    """M of every layer times its weight, (N, C, C), in float64."""
    grams = [metric.represent(image).grams[0] for image in (x, y)]
    found = []
    for a, b, weight in zip(*grams, weights or [1 / len(grams[0])] * len(grams[0]), strict=True):
        matrix = _blockwise(a.double(), b.double()) if metric.kind == "deepssim" else _whole(a.double(), b.double())
        found.append(matrix * weight)
    return found


def _variance(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return (x - x.mean(dims, keepdim=True)).square().mean(dims, keepdim=True)


def _blockwise(a: Tensor, b: Tensor) -> Tensor:
    x, y = (g.unflatten(2, (-1, _BLOCK)).unflatten(1, (-1, _BLOCK)) for g in (a, b))
    dims, entries = (2, 4), _BLOCK**2
    blocks = (a.shape[-1] // _BLOCK) ** 2
    difference = x - y
    centred = difference - difference.mean(dims, keepdim=True)
    spread = _variance(x, dims) + _variance(y, dims) + _C
    return (centred / (entries * blocks * spread)).flatten(3, 4).flatten(1, 2)


def _whole(a: Tensor, b: Tensor) -> Tensor:
    difference = a - b
    dims = (-2, -1)
    centred = difference - difference.mean(dims, keepdim=True)
    spread = _variance(a, dims) + _variance(b, dims) + _C
    return centred / (a.shape[-1] ** 2 * spread)


def _part(
    metric: DeepSSIM | DeepSSIMLite, image: Tensor | Windows, matrices: Sequence[Tensor], level: int, whole: Tensor | Windows
) -> Tensor:
    """The sum over layers of the forms f^T M f at every position of one image, spread over the pixels of level 0."""
    height, width = whole.shape[-2:]
    total: Tensor | None = None
    for index, (form, grids) in enumerate(_forms(metric, image, matrices)):
        if metric.kind == "deepssim-lite":  # whose matrices are divided by C h w
            form = form / (matrices[index].shape[-1] * form.shape[-2] * form.shape[-1])
        rows, columns = (
            _spread(count, side, grid, level).to(form.device)
            for count, side, grid in zip(form.shape[-2:], (height, width), grids, strict=True)
        )
        layer = rows @ form @ columns.mT
        total = layer if total is None else total + layer
    assert total is not None  # a metric has at least one layer
    return total.unsqueeze(1)


def _forms(
    metric: DeepSSIM | DeepSSIMLite, image: Tensor | Windows, matrices: Sequence[Tensor]
) -> Iterator[tuple[Tensor, tuple[_Grid, _Grid]]]:
    backbone = metric.backbone
    if metric.tile is None and isinstance(image, Tensor):
        forms = [_form(feature, matrix) for feature, matrix in zip(backbone(image), matrices, strict=True)]
    else:
        forms = _forms_in_tiles(backbone, as_windows(image), matrices, metric.tile)
    try:
        geometry = backbone.geometry
    except ValueError:  # a network of which nothing is known: its positions are taken to divide the image evenly
        for form in forms:
            steps = [side / count for side, count in zip(image.shape[-2:], form.shape[-2:], strict=True)]
            yield form, (_Grid((steps[0] - 1) / 2, steps[0]), _Grid((steps[1] - 1) / 2, steps[1]))
        return
    for form, layer in zip(forms, geometry, strict=True):
        grid = _Grid(layer.start + (layer.receptive_field - 1) / 2, layer.stride)
        yield form, (grid, grid)


def _form(feature: Tensor, matrix: Tensor) -> Tensor:
    """f^T M f at every position, (N, h, w)."""
    flat = feature.double().flatten(2)
    return ((matrix @ flat) * flat).sum(1).unflatten(1, feature.shape[-2:])


def _forms_in_tiles(backbone: Backbone, image: Windows, matrices: Sequence[Tensor], tile: int | str | None) -> list[Tensor]:
    layers = backbone.geometry
    core = tile if isinstance(tile, int) else _TILE
    height, width = image.shape[-2:]
    rows: list[list[Tensor]] = [[] for _ in layers]
    for row in spans(height, core, layers, backbone.smallest):
        strips: list[list[Tensor]] = [[] for _ in layers]
        for column in spans(width, core, layers, backbone.smallest):
            features = backbone(image.read(row.begin, column.begin, len(row), len(column)).to(backbone.device))
            for strip, layer, feature, matrix in zip(strips, layers, features, matrices, strict=True):
                strip.append(_form(feature[..., row.owned(layer.stride), column.owned(layer.stride)], matrix))
        for whole, strip in zip(rows, strips, strict=True):
            whole.append(torch.cat(strip, 2))
    return [torch.cat(whole, 1) for whole in rows]


def _spread(count: int, pixels: int, grid: _Grid, level: int) -> Tensor:
    """(pixels, count): how the share of each position is spread over pixels of level 0; every column sums to one."""
    scale = 1 << level
    centres = (grid.first + 0.5 + grid.step * torch.arange(count, dtype=torch.float64)) * scale - 0.5
    # The fields of the first and last positions may be centred in the padding.
    centres = centres.clamp(0, pixels - 1)
    distance = (torch.arange(pixels, dtype=torch.float64).unsqueeze(1) - centres).abs() / max(1.0, grid.step * scale)
    tent = (1 - distance).clamp(min=0)
    return tent / tent.sum(0)
