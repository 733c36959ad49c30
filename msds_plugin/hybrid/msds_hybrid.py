"""The hybrid that this package names: two global terms and two local ones."""

from __future__ import annotations

import torch

from ..backbones import Weights
from ..deepssim import DeepSSIM
from ..multiscale import MSDS
from ..tiling import Tile
from .haarpsi import HaarPSI
from .halved import Halved
from .hybrid import Hybrid, Term
from .mdsi import MDSI

__all__ = ["msds_hybrid"]

BACKBONE = "efficientnet_lite0"
#: Without the first stage, which sees least of what people see; at full size without the last, a third of all operations.
FULL_SIZE = ("stage1", "stage2", "stage3")
BELOW = (*FULL_SIZE, "stage4")


def _mean_deviation(score: torch.Tensor) -> torch.Tensor:
    """MDSI before its last root."""
    return score.square().square()


def msds_hybrid(weights: Weights = "imagenet", tile: Tile = None) -> Hybrid:
    r"""MSDS-Hybrid: deep structure on three levels, HaarPSI and MDSI. Full-reference, higher is better.

    One minus the geometric mean of four dissimilarities, in equal parts (:class:`Hybrid` with :math:`\varepsilon = 10^{-3}`):

    - 1 - DeepSSIM of EfficientNet-Lite0 at full size, its stages 1 to 3;
    - 1 - MSDS at half and at quarter size, stages 1 to 4;
    - 1 - HaarPSI;
    - MDSI before its last root, the mean deviation itself.

    1 for identical images, at most 1, at least -1. Nothing is trained on opinion scores.

    Args:
        weights: of the backbone, see :func:`~msds_plugin.build_backbone`.
        tile: of the deep terms, see :class:`~msds_plugin.DeepSSIM`; a number of pixels also cuts the sums of HaarPSI.

    Shape:
        x, y: (N, 3, H, W), RGB in [0, 1], of 64 x 64 pixels at least, lying on each other pixel by pixel; a difference of up
        to eight pixels in size is cropped. Returns (N,).

    Raises:
        ValueError: sizes that differ more, images too small, values outside [0, 1].
        TypeError: not floating point, or x and y of different types.
        WeightsNotFoundError, WeightsFileError, MissingDependencyError: see :func:`~msds_plugin.build_backbone`.

    Example:
        >>> metric = msds_hybrid(weights=None)
        >>> x = torch.rand(2, 3, 64, 80)
        >>> metric(x, x)
        tensor([1., 1.])
    """
    return Hybrid(
        [
            Term(DeepSSIM(BACKBONE, weights, FULL_SIZE, tile=tile)),
            Term(Halved(MSDS(2, backbone=BACKBONE, weights=weights, layers=BELOW, tile=tile))),
            Term(HaarPSI(tile if isinstance(tile, int) else None)),
            Term(MDSI(), _mean_deviation),
        ]
    )
