"""The matrices of an image's feature maps, or of what is salient in it; of the whole image or in tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..backbones import Backbone
from ..tiling import Tile, gram_sums
from ..windows import Windows, as_windows
from .attention import Attention, Mask, keep

__all__ = ["Matrix", "calibration", "matrices"]


@dataclass(frozen=True)
class Matrix:
    """A kind of matrix that can be made from sums over positions.

    Attributes:
        whole: of feature maps (N, C, h, w); more exact than sums may be.
        part: what is summed, of a part of the feature maps.
        finish: (sum, number of positions) to what ``whole`` gives.
    """

    whole: Callable[[Tensor], Tensor]
    part: Callable[[Tensor], Tensor]
    finish: Callable[[Tensor, int], Tensor]


def matrices(
    backbone: Backbone,
    image: Tensor | Windows,
    maps: Tensor | Windows | None,
    threshold: float,
    tile: Tile,
    kind: Matrix,
) -> tuple[Tensor, ...]:
    """One matrix per layer of the backbone, of what lies where ``maps`` is above the threshold.

    Raises:
        ValueError: a map that is not finite, or nowhere above the threshold.
    """
    if tile is None and isinstance(image, Tensor) and (maps is None or isinstance(maps, Tensor)):
        mask = None if maps is None else keep(maps, threshold).to(image)
        return tuple(kind.whole(feature) for feature in backbone(image, mask))
    kept = None if maps is None else Mask(as_windows(maps), threshold)
    sums = gram_sums(backbone, as_windows(image), kept, tile, kind.part)
    if kept is not None:
        kept.check()
    return tuple(kind.finish(*each) for each in sums)


def calibration(attention: Attention | None, threshold: float) -> str:
    """What a representation's source says of the maps that a metric makes for itself; nothing where it makes none."""
    return "" if attention is None else f" saliency {attention.name} > {threshold:g}"
