"""The hybrid that this package names: half of it global, half local."""

from __future__ import annotations

import os
from collections.abc import Sequence

from torch import Tensor

from ..backbones import Weights
from ..fusion_file import FusionFile
from ..multiscale import MSDS, Fusion
from ..tiling import Tile
from .haarpsi import HaarPSI
from .hybrid import Hybrid
from .mdsi import MDSI
from .term import Term

__all__ = ["msds_hybrid"]

BACKBONE = "efficientnet_lite0"
#: The first stage agrees least with opinions; the last takes a third of all operations, sees a whole small image from every
#: position and makes the score of small images waver.
STAGES = ("stage1", "stage2", "stage3")


def _mean_deviation(score: Tensor) -> Tensor:
    """MDSI before its last root."""
    return score.square().square()


def msds_hybrid(
    weights: Weights = "imagenet",
    tile: Tile = None,
    fusion: Fusion = None,
    levels: int | None = None,
    layers: str | Sequence[str] | None = None,
) -> Hybrid:
    r"""MSDS-Hybrid: deep structure on three levels, HaarPSI and MDSI. Full-reference, higher is better.

    One minus the geometric mean of dissimilarities, of which the first counts twice (:class:`Hybrid` with
    :math:`\varepsilon = 10^{-3}`):

    - 1 - MSDS on three levels, of EfficientNet-Lite0's stages 1 to 3;
    - 1 - HaarPSI;
    - MDSI before its last root, the mean deviation itself.

    1 for identical images, at most 1, at least -1. Nothing is trained on opinion scores.

    Args:
        weights: of the backbone, see :func:`~msds_plugin.build_backbone`.
        tile: of MSDS, see :class:`~msds_plugin.DeepSSIM`; a number of pixels also cuts the sums of HaarPSI.
        fusion: weights of the three terms, of their levels too, or of each layer on each level, see :class:`Hybrid`; the path
            of a file that ``msds fit`` wrote; None for those above.
        levels, layers: of MSDS; None for those of the file, or without one for those above.

    Shape:
        x, y: (N, 3, H, W), RGB in [0, 1], of 64 x 64 pixels at least, lying on each other pixel by pixel; a difference of up
        to eight pixels in size is cropped. Returns (N,).

    Raises:
        FusionFileError: a file of weights that is damaged, or for another metric.
        ValueError: sizes that differ more, images too small, values outside [0, 1]; another number of weights.
        TypeError: not floating point, or x and y of different types.
        WeightsNotFoundError, WeightsFileError, MissingDependencyError: see :func:`~msds_plugin.build_backbone`.

    Example:
        >>> import torch
        >>> metric = msds_hybrid(weights=None)
        >>> x = torch.rand(2, 3, 64, 80)
        >>> metric(x, x)
        tensor([1., 1.])
    """
    file = FusionFile.load(fusion) if isinstance(fusion, str | os.PathLike) else None
    levels = levels or (file.levels if file else 3)
    layers = layers or (file.target.layers if file else STAGES)
    deep = MSDS(levels, backbone=BACKBONE, weights=weights, layers=layers, tile=tile)
    return Hybrid(
        [
            Term(deep, weight=2.0),
            Term(HaarPSI(tile if isinstance(tile, int) else None)),
            Term(MDSI(), _mean_deviation),
        ],
        fusion=fusion,
    )
