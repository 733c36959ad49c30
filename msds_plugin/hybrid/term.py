"""A metric as a part of a hybrid."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Term", "from_similarity"]


def from_similarity(score: Tensor) -> Tensor:
    """One minus a similarity whose best value is 1: the dissimilarity that a :class:`Term` needs of most metrics."""
    return 1 - score


@dataclass(frozen=True)
class Term:
    """A metric as a part of a :class:`Hybrid`.

    Attributes:
        metric: (distorted, reference), each (N, 3, H, W), to (N,), (N, 1) or, for one pair, a scalar.
        dissimilarity: a monotone map of its score to a number that is 0 for a perfect image and larger for worse ones; the
            score itself if that is one already (``None``). What falls below 0 counts as 0.
        scale: by how much the logarithm of the dissimilarity varies over images of all qualities. The terms are divided by
            it, so that equal weights mean equal influence.
        weight: of this term, beside the others'.

    Raises:
        ValueError: a scale that is not above 0, or a negative weight.
    """

    metric: Callable[[Tensor, Tensor], Tensor]
    dissimilarity: Callable[[Tensor], Tensor] | None = from_similarity
    scale: float = 1.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.scale < math.inf and 0 <= self.weight < math.inf):
            raise ValueError(f"a term needs a scale above 0 and a weight of 0 or more, got {self.scale} and {self.weight}")
