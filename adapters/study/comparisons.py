"""Distances of features, all of one set of feature maps; lower is more similar, 0 for equal features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...functional import block_dissimilarity, global_dissimilarity, gram_matrix


@dataclass(frozen=True)
class Described:
    """What comparisons need of the features of one image at one layer.

    Attributes:
        features: (1, C, h, w).
        gram: (1, C, C), not divided by anything.
    """

    features: Tensor
    gram: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Described:
        """The Gram matrix is computed once, whatever compares it."""
        return cls(features, gram_matrix(features))


def deepssim(x: Described, y: Described) -> Tensor:
    """1 - DeepSSIM."""
    return block_dissimilarity(x.gram, y.gram)


def lite(x: Described, y: Described) -> Tensor:
    """DeepSSIM-Lite: Gram matrices divided by C h w, compared as a whole."""
    return global_dissimilarity(x.gram / x.features[0].numel(), y.gram / y.features[0].numel())


def squared(x: Described, y: Described) -> Tensor:
    """LPIPS without learned weights: squared distance of features normalised over channels, mean over positions.

    Source: R. Zhang, P. Isola, A. A. Efros, E. Shechtman, O. Wang, "The Unreasonable Effectiveness of Deep Features as a
    Perceptual Metric", CVPR 2018.
    """
    _check(x, y)
    a, b = (F.normalize(each.features, dim=1, eps=1e-10) for each in (x, y))
    return (a - b).square().sum(1).mean((1, 2))


def cosine(x: Described, y: Described) -> Tensor:
    """1 - cosine of the two feature maps, each as one vector."""
    _check(x, y)
    # By the distance of the unit vectors: 1 - cosine cancels where the two are nearly equal.
    a, b = (F.normalize(each.features.flatten(1).double(), dim=1, eps=1e-10) for each in (x, y))
    return ((a - b).square().sum(1) / 2).to(x.features.dtype)


def _check(x: Described, y: Described) -> None:
    if x.features.shape != y.features.shape:
        sizes = " and ".join(" x ".join(map(str, each.features.shape[-2:])) for each in (x, y))
        raise ValueError(f"features of {sizes} positions cannot be compared place by place")


COMPARISONS: Mapping[str, Callable[[Described, Described], Tensor]] = {
    "deepssim": deepssim,
    "lite": lite,
    "squared": squared,
    "cosine": cosine,
}


def describe(features: list[Tensor]) -> list[Described]:
    """Each layer's features with their Gram matrix."""
    return [Described.of(each) for each in features]


def compare(name: str, x: Described, y: Described) -> float:
    """One comparison of one pair at one layer."""
    with torch.inference_mode():
        return float(COMPARISONS[name](x, y))
