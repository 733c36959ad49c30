"""MSDS-Align: structural similarity for pairs whose content is displaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from msds_plugin.backbones import Weights, build_backbone
from msds_plugin.encoder import MatrixKind, MatrixMetric, View
from msds_plugin.functional import block_dissimilarities
from msds_plugin.metric import Representation
from msds_plugin.runtimes import Runtime
from msds_plugin.saliency import Saliency
from msds_plugin.tiles import Tile

__all__ = ["AlignMatrices", "MSDSAlign", "align_dissimilarity"]

#: Layers of EfficientNet-Lite0 and their weights: at half size by covariance and one by its Gram matrix too, at full size by
#: Gram matrix.
HALF = {"stage0": 1.0, "stage1": 2.0, "stage2": 2.0}
HALF_GRAM = {"stage1": 3.0}
FULL = {"stage3": 2.0, "stage4": 1.0}
#: What the layers at full size count for together; those at half size share the rest.
FULL_SHARE = 0.12


@dataclass(frozen=True, eq=False)
class AlignMatrices(Representation):
    """Gram matrices at full size, and of half size covariances and Gram matrices; per layer (N, C, C)."""

    full: tuple[Tensor, ...]
    half: tuple[Tensor, ...]


def half_matrices(made: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The covariances of all layers, and the Gram matrices of HALF_GRAM's: covariances plus products of means."""
    covariances = {layer: (both[..., :-1].contiguous(), both[..., -1:]) for layer, both in zip(HALF, made, strict=True)}
    grams = (covariance + mean * mean.mT for covariance, mean in (covariances[layer] for layer in HALF_GRAM))
    return (*(covariance for covariance, _ in covariances.values()), *grams)


def align_dissimilarity(a: AlignMatrices, b: AlignMatrices) -> Tensor:
    """One minus the score of MSDS-Align, (N,)."""
    full = _weighted(tuple(FULL.values()), a.full, b.full)
    half = _weighted((*HALF.values(), *HALF_GRAM.values()), a.half, b.half)
    return FULL_SHARE * full + (1 - FULL_SHARE) * half


def _weighted(weights: Sequence[float], a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Dissimilarities (N,) of so many pairs of matrices, averaged with their weights."""
    parts = [weight * part for weight, part in zip(weights, block_dissimilarities(a, b), strict=True)]
    return torch.stack(parts).sum(0) / sum(weights)


class MSDSAlign(MatrixMetric):
    r"""Similarity of images whose content is displaced, such as rendered novel views. Full-reference, training-free, higher is
    better, for any two sizes.

    Features are those of EfficientNet-Lite0. The shallow stages 0, 1, 2 see the images at half size, after a low-pass, and
    are compared by the covariances :math:`C` of their channels, stage 1 by its Gram matrix too; the deep stages 3, 4 see them
    at full size and are compared by their Gram matrices :math:`G`, divided by the number of positions. With :math:`S` the mean
    structural similarity of 4 x 4 blocks, as in DeepSSIM,

    .. math:: 0.88\, \frac{S(C_0) + 2 S(C_1) + 2 S(C_2) + 3 S(G_1)}{8} + 0.12\, \frac{2 S(G_3) + S(G_4)}{3}.

    1 for identical images, at most 1, at least -1. Neither matrix knows where things are: content may move, by fractions of a
    pixel or by many. At half size it may also be resampled, which would otherwise count as damage; covariances forgive a
    change of brightness. The weights were chosen on opinions of synthesised views, see ``docs/research/alignment.md``.

    Args:
        weights: ``"imagenet"`` (they come with a package, nothing is downloaded), a path, or None for random values.
        saliency_threshold, tile, saliency, runtime: see :class:`~msds_plugin.DeepSSIM`.

    Shape:
        x, y: (N, 3, H, W), RGB in [0, 1], 32 pixels a side at least; the sizes of x and y may differ. Returns (N,). Images
        larger than memory may be given as :class:`~msds_plugin.windows.Windows`.

    Raises:
        ValueError: values outside [0, 1], an image too small, batches of different length, bad saliency maps.
        TypeError: not floating point, or x and y of different types.
        WeightsFileError, MissingDependencyError: see :func:`build_backbone`.

    Source: this project; the comparison of blocks is that of K. Zhang et al., IEEE TPAMI 2025 (arXiv 2412.19553).

    Example:
        >>> metric = MSDSAlign(weights=None)
        >>> y = torch.rand(1, 3, 64, 64)
        >>> metric(y, y)
        tensor([1.])
        >>> metric(torch.rand(1, 3, 50, 70), y).shape
        torch.Size([1])
    """

    kind = "msds-align"

    def __init__(
        self,
        weights: Weights = "imagenet",
        saliency_threshold: float = 0.0,
        tile: Tile = None,
        saliency: Saliency = None,
        runtime: Runtime = "torch",
    ) -> None:
        network = build_backbone("efficientnet_lite0", [*HALF, *FULL], weights)
        views = [
            View(network.tapped(list(FULL)), 0, MatrixKind.MEAN_GRAM),
            View(network.tapped(list(HALF)), -1, MatrixKind.COVARIANCE),
        ]
        super().__init__(views, saliency, saliency_threshold, tile, runtime)

    def of_matrices(self, matrices: Sequence[Tensor]) -> AlignMatrices:
        """The representation made of what the encoder returns."""
        return AlignMatrices(self.description, tuple(matrices[: len(FULL)]), half_matrices(matrices[len(FULL) :]))

    def _compare(self, a: AlignMatrices, b: AlignMatrices) -> Tensor:
        return 1 - align_dissimilarity(a, b)
