"""MSDS for aligned pairs: Gram matrices of whole images, and how the features differ place by place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from msds_plugin.checks import check_aligned
from msds_plugin.encoder import Matrices
from msds_plugin.functional import energies, energy_dissimilarity, ratio_of_energies
from msds_plugin.metric import Images
from msds_plugin.msds import MSDS
from msds_plugin.networks import Backbone
from msds_plugin.tiles import Tile, pair_sums
from msds_plugin.windows import Image, as_windows

__all__ = ["AlignedMSDS", "place_dissimilarities"]


@dataclass(frozen=True, eq=False)
class AlignedMatrices(Matrices):
    """Matrices, the feature maps at full size unless the image is evaluated in tiles, and the image itself for these."""

    features: tuple[Tensor, ...]
    images: Images


def energy_dissimilarities(x: Sequence[Tensor], y: Sequence[Tensor]) -> Tensor:
    """:func:`~msds_plugin.functional.energy_dissimilarity` (layers, N) of feature maps."""
    return torch.stack([energy_dissimilarity(p, q) for p, q in zip(x, y, strict=True)])


def place_dissimilarities(backbone: Backbone, tile: Tile, x: Image, y: Image) -> Tensor:
    """The same of the features of images of one size, in tiles."""
    sums = pair_sums(backbone, as_windows(x), as_windows(y), tile, energies)
    return torch.stack([ratio_of_energies(each) for each in sums])


class AlignedMSDS(MSDS):
    r"""MSDS and, with equal weight, the features' difference place by place. Full-reference, higher is better.

    .. math:: \sum_l w_l \frac1S \sum_s \Big( 1 - \tfrac12 \big[ 1 - \mathrm{DeepSSIM}_s(x_l, y_l) \big] - \tfrac12
        \frac{\sum_p \lVert F_s(x)_p - F_s(y)_p \rVert^2}{\sum_p \lVert F_s(x)_p \rVert^2 + \lVert F_s(y)_p \rVert^2} \Big)

    over the levels l and the layers s; the second term is that of the images at full size. Gram matrices forget where something
    is, and how much a difference counts then depends on what else is in the image: across contents the same score stands for
    different qualities, by far less so with both. It is the deep term of :func:`~msds_plugin.hybrid.msds_hybrid`.

    Arguments and errors are those of :class:`MSDS`, without saliency; also a ValueError where x and y differ in size.
    1 for identical images, at most 1, at least -1.

    Example:
        >>> metric = AlignedMSDS(levels=2, backbone="alexnet", weights=None)
        >>> x = torch.rand(1, 3, 96, 64)
        >>> metric(x, x)
        tensor([1.])
    """

    kind = "msds-aligned"
    has_map = False
    takes_saliency = False
    keeps_features = True

    def map(self, x: Image, y: Image) -> NoReturn:
        """There is none."""
        raise ValueError("MSDS for aligned pairs has no map: take MSDS")

    def _masked(self, image: Image, maps: Image | None) -> AlignedMatrices:
        if maps is not None:
            raise ValueError("MSDS for aligned pairs takes no saliency: take MSDS")
        found = self._matrices(image, None)
        number = self.levels * len(self.layers)
        matrices: Any = self.of_matrices(found[:number])
        return AlignedMatrices(self.description, matrices.views, found[number:], Images(self.description, image))

    def _by_layer(self, a: Any, b: Any) -> Tensor:
        x, y = self._images(a.images, b.images)
        check_aligned(x, y, "MSDS for aligned pairs")
        as_a_whole = super()._by_layer(a, b)
        if a.features and b.features:
            by_place = energy_dissimilarities(a.features, b.features)
        else:
            by_place = place_dissimilarities(self.first_backbone, self.tile, x, y)
        return (as_a_whole + 1 - by_place) / 2
