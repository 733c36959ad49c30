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

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from msds_plugin.checks import check_pair
from msds_plugin.encoder import MatrixMetric
from msds_plugin.functional import positions
from msds_plugin.networks import Backbone, Layer
from msds_plugin.saliency import Mask
from msds_plugin.tiles import Tile, spans
from msds_plugin.windows import Image, Windows

__all__ = ["dissimilarity_map", "map_parts"]

_BLOCK, _C = 4, 1e-6
#: Side of a tile in pixels where the metric leaves it open.
_TILE = 1024


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
    x, y = metric._ready(x, "x"), metric._ready(y, "y")
    maps_x, maps_y = metric.attend(x), metric.attend(y)
    factors = _factors(metric, metric._masked(x, maps_x), metric._masked(y, maps_y))
    return _part(metric, x, maps_x, factors), _part(metric, y, maps_y, factors)


def _factors(metric: MatrixMetric, x: Any, y: Any) -> list[list[Tensor]]:
    """M of every layer of every view times its weight, (N, C, C), in float64."""
    weights = metric.map_weights(len(x.views[0])).tolist()
    blocks = metric.kind != "deepssim-lite"
    return [
        [
            weight * _factor(a.double(), b.double(), _BLOCK if blocks else a.shape[-1])
            for a, b, weight in zip(*layers, strict=True)
        ]
        for layers in zip(x.views, y.views, weights, strict=True)
    ]


def _factor(a: Tensor, b: Tensor, block: int) -> Tensor:
    """M of two matrices, cut into blocks of this side."""
    x, y = (g.unflatten(2, (-1, block)).unflatten(1, (-1, block)) for g in (a, b))
    difference, x, y = (each - each.mean((2, 4), keepdim=True) for each in (x - y, x, y))
    variances = x.square().mean((2, 4), keepdim=True) + y.square().mean((2, 4), keepdim=True)
    # The entries of all blocks are those of the matrix.
    return (difference / (a.shape[-1] ** 2 * (variances + _C))).flatten(3, 4).flatten(1, 2)


def _part(metric: MatrixMetric, image: Image, maps: Image | None, factors: Sequence[Sequence[Tensor]]) -> Tensor:
    """The sum over views and layers of the forms f^T M f at every position of one image, spread over its pixels."""
    height, width = image.shape[-2:]
    tile = metric.tile if isinstance(image, Tensor) else metric.tile or "auto"
    total: Tensor | None = None
    for view, of_view in zip(metric.network.views, factors, strict=True):
        level = view.windows(image)
        mask = None if maps is None else Mask(view.windows(maps), metric.saliency_threshold)
        forms = _forms(view.backbone, level, mask, of_view, tile)
        layers = view.backbone.geometry() if view.backbone.known_layers else [None] * len(forms)
        for form, factor, layer in zip(forms, of_view, layers, strict=True):
            if metric.kind == "deepssim-lite":  # whose matrices are divided by C h w
                form = form / (factor.shape[-1] * positions(form))
            rows, columns = (
                _spread(cells, pixels, *_grid(layer, cells, side), view.level).to(form.device)
                for cells, pixels, side in zip(form.shape[-2:], (height, width), level.shape[-2:], strict=True)
            )
            shares = rows @ form @ columns.mT
            total = shares if total is None else total + shares
    assert total is not None  # a metric has at least one layer
    return total.unsqueeze(1)


def _grid(layer: Layer | None, cells: int, side: int) -> tuple[float, float]:
    """Where so many positions lie along a side of so many pixels: the centre of the first, and the step to the next."""
    if layer is None:  # of a network of which nothing is known: they are taken to divide the image evenly
        return (side / cells - 1) / 2, side / cells
    return layer.start + (layer.receptive_field - 1) / 2, layer.stride


def _form(feature: Tensor, factor: Tensor) -> Tensor:
    flat = feature.double().flatten(2)
    return ((factor @ flat) * flat).sum(1).unflatten(1, feature.shape[-2:])


def _forms(backbone: Backbone, image: Windows, mask: Mask | None, factors: Sequence[Tensor], tile: Tile) -> list[Tensor]:
    """f^T M f at every position, (N, h, w), of each layer."""

    def features_of(*window: int) -> list[Tensor]:
        pixels = image.read(*window).to(backbone.device, backbone.dtype)
        features: list[Tensor] = backbone(pixels, None if mask is None else mask.read(*window).to(pixels))
        return features

    height, width = image.shape[-2:]
    if tile is None:
        return [_form(feature, factor) for feature, factor in zip(features_of(0, 0, height, width), factors, strict=True)]
    layers = backbone.geometry()
    core = tile if isinstance(tile, int) else _TILE
    rows: list[list[Tensor]] = [[] for _ in layers]
    for row in spans(height, core, layers, backbone.smallest):
        strips: list[list[Tensor]] = [[] for _ in layers]
        for column in spans(width, core, layers, backbone.smallest):
            features = features_of(row.begin, column.begin, len(row), len(column))
            for strip, layer, feature, factor in zip(strips, layers, features, factors, strict=True):
                strip.append(_form(feature[..., row.owned(layer.stride), column.owned(layer.stride)], factor))
        for whole, strip in zip(rows, strips, strict=True):
            whole.append(torch.cat(strip, 2))
    return [torch.cat(whole, 1) for whole in rows]


def _spread(cells: int, pixels: int, first: float, step: float, level: int) -> Tensor:
    """(pixels, cells): how the share of each position is spread over pixels of level 0; every column sums to one."""
    scale = 1 << level
    centres = (first + 0.5 + step * torch.arange(cells, dtype=torch.float64, device="cpu")) * scale - 0.5
    # The fields of the first and last positions may be centred in the padding.
    centres = centres.clamp(0, pixels - 1)
    places = torch.arange(pixels, dtype=torch.float64, device="cpu").unsqueeze(1)
    distance = (places - centres).abs() / max(1.0, step * scale)
    tent = (1 - distance).clamp(min=0)
    return tent / tent.sum(0)
