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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from msds_plugin.checks import check_pair
from msds_plugin.encoder import MatrixMetric, View
from msds_plugin.functional import positions, pyramid
from msds_plugin.networks import Backbone
from msds_plugin.tiles import Tile, spans
from msds_plugin.windows import Image, Windows, as_windows, halvings

__all__ = ["dissimilarity_map", "map_parts"]

_BLOCK, _C = 4, 1e-6
#: Side of a tile in pixels where the metric leaves it open.
_TILE = 1024


@dataclass(frozen=True)
class _Grid:
    """Where positions lie along one axis, in pixels of the whole image: the centre of the first, and the step."""

    first: float
    step: float


def dissimilarity_map(metric: MatrixMetric, x: Image, y: Image) -> Tensor:
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
def map_parts(metric: MatrixMetric, x: Image, y: Image) -> tuple[Tensor, Tensor]:
    """The two terms of :func:`dissimilarity_map`, each in the size of its image: sum of the first less sum of the second is D.

    Alone, a part says how strongly a place takes part in those correlations of features in which the two images differ.

    Returns:
        (N, 1, Hx, Wx) and (N, 1, Hy, Wy), float64: they can be large and nearly equal.
    """
    if not (isinstance(metric, MatrixMetric) and metric.has_map):
        raise TypeError(f"{type(metric).__name__} compares no Gram matrices: maps are for DeepSSIM, MSDS and their -lite forms")
    check_pair(x, y)
    factors = _factors(metric, metric.represent(x), metric.represent(y))
    of_x, of_y = (_part(metric, image, factors) for image in (x, y))
    return of_x, of_y


def _factors(metric: MatrixMetric, x: Any, y: Any) -> list[list[Tensor]]:
    """M of every layer of every view times its weight, (N, C, C), in float64."""
    factor = _whole if metric.kind == "deepssim-lite" else _blockwise
    return [
        [weight * factor(a.double(), b.double()) for a, b, weight in zip(*layers, strict=True)]
        for layers in zip(x.views, y.views, metric.map_weights(), strict=True)
    ]


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


def _part(metric: MatrixMetric, image: Image, factors: Sequence[Sequence[Tensor]]) -> Tensor:
    """The sum over views and layers of the forms f^T M f at every position of one image, spread over its pixels."""
    height, width = image.shape[-2:]
    total: Tensor | None = None
    for view, of_view in zip(metric.network.views, factors, strict=True):
        level = _level(image, view.level, metric.tile is not None)
        for form, factor, grids in zip(_forms(view, level, of_view, metric.tile), of_view, _grids(view, level), strict=True):
            if metric.kind == "deepssim-lite":  # whose matrices are divided by C h w
                form = form / (factor.shape[-1] * positions(form))
            rows, columns = (
                _spread(count, side, grid, view.level).to(form.device)
                for count, side, grid in zip(form.shape[-2:], (height, width), grids(form), strict=True)
            )
            layer = rows @ form @ columns.mT
            total = layer if total is None else total + layer
    assert total is not None  # a metric has at least one layer
    return total.unsqueeze(1)


def _level(image: Image, level: int, windows: bool) -> Image:
    if windows or not isinstance(image, Tensor):
        return halvings(image, level + 1)[level]
    return pyramid(image, level + 1)[level]


def _grids(view: View, image: Image) -> list[Callable[[Tensor], tuple[_Grid, _Grid]]]:
    """For each layer, where the positions of a map of it lie."""
    try:
        geometry = view.backbone.geometry()
    except ValueError:  # a network of which nothing is known: its positions are taken to divide the image evenly
        return [lambda form: _even(form, image)] * len(view.backbone.layers)
    grids = [_Grid(layer.start + (layer.receptive_field - 1) / 2, layer.stride) for layer in geometry]
    return [lambda form, grid=grid: (grid, grid) for grid in grids]  # type: ignore[misc]


def _even(form: Tensor, image: Image) -> tuple[_Grid, _Grid]:
    rows, columns = (side / count for side, count in zip(image.shape[-2:], form.shape[-2:], strict=True))
    return _Grid((rows - 1) / 2, rows), _Grid((columns - 1) / 2, columns)


def _forms(view: View, image: Image, factors: Sequence[Tensor], tile: Tile) -> list[Tensor]:
    """f^T M f at every position, (N, h, w), of each layer."""
    if tile is None and isinstance(image, Tensor):
        return [_form(feature, factor) for feature, factor in zip(view.backbone(image), factors, strict=True)]
    return _forms_in_tiles(view.backbone, as_windows(image), factors, tile)


def _form(feature: Tensor, factor: Tensor) -> Tensor:
    flat = feature.double().flatten(2)
    return ((factor @ flat) * flat).sum(1).unflatten(1, feature.shape[-2:])


def _forms_in_tiles(backbone: Backbone, image: Windows, factors: Sequence[Tensor], tile: Tile) -> list[Tensor]:
    layers = backbone.geometry()
    core = tile if isinstance(tile, int) else _TILE
    height, width = image.shape[-2:]
    rows: list[list[Tensor]] = [[] for _ in layers]
    for row in spans(height, core, layers, backbone.smallest):
        strips: list[list[Tensor]] = [[] for _ in layers]
        for column in spans(width, core, layers, backbone.smallest):
            features = backbone(image.read(row.begin, column.begin, len(row), len(column)).to(backbone.device))
            for strip, layer, feature, factor in zip(strips, layers, features, factors, strict=True):
                strip.append(_form(feature[..., row.owned(layer.stride), column.owned(layer.stride)], factor))
        for whole, strip in zip(rows, strips, strict=True):
            whole.append(torch.cat(strip, 2))
    return [torch.cat(whole, 1) for whole in rows]


def _spread(count: int, pixels: int, grid: _Grid, level: int) -> Tensor:
    """(pixels, count): how the share of each position is spread over pixels of level 0; every column sums to one."""
    scale = 1 << level
    centres = (grid.first + 0.5 + grid.step * torch.arange(count, dtype=torch.float64, device="cpu")) * scale - 0.5
    # The fields of the first and last positions may be centred in the padding.
    centres = centres.clamp(0, pixels - 1)
    places = torch.arange(pixels, dtype=torch.float64, device="cpu").unsqueeze(1)
    distance = (places - centres).abs() / max(1.0, grid.step * scale)
    tent = (1 - distance).clamp(min=0)
    return tent / tent.sum(0)
