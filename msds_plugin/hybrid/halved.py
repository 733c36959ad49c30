"""A metric on images of half size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..deepssim import check_pair, check_source
from ..errors import check_size
from ..functional import halve
from ..multiscale import MSDS
from ..representation import Representation
from ..windows import Windows, halvings

__all__ = ["Halved"]


class Halved(nn.Module):
    """MSDS on the 2 x 2 averages of the images: its levels below the first, without the cost of the first.

    Args:
        metric: called with images of half size; direction, range and errors are its own.

    Example:
        >>> metric = Halved(MSDS(levels=2, backbone="alexnet", weights=None))
        >>> x = torch.rand(1, 3, 128, 128)
        >>> metric(x, x)
        tensor([1.])
    """

    def __init__(self, metric: MSDS) -> None:
        super().__init__()
        self.metric = metric

    @property
    def smallest(self) -> int:
        """Shortest side of an image, in pixels."""
        return 2 * self.metric.smallest

    @property
    def levels(self) -> int:
        """Number of levels of a representation."""
        return self.metric.levels

    @property
    def source(self) -> str:
        """What two representations must agree in to be comparable."""
        return f"half-size {self.metric.source}"

    def forward(self, x: Tensor | Windows, y: Tensor | Windows) -> Tensor:
        """Scores (N,) of distorted images ``x`` beside references ``y``."""
        check_pair(x, y)
        return self.metric(self._halve(x), self._halve(y))

    def represent(self, image: Tensor | Windows) -> Representation:
        """What is to be kept of images (N, 3, H, W) in [0, 1]."""
        check_source(image)
        return Representation(self.metric.represent(self._halve(image)).grams, self.source)

    def compare(self, a: Representation, b: Representation) -> Tensor:
        """Scores (N,) of two representations."""
        return self.metric.compare(*(Representation(each.grams, self._theirs(each)) for each in (a, b)))

    def _theirs(self, representation: Representation) -> str:
        return self.metric.source if representation.source == self.source else representation.source

    def _halve(self, image: Tensor | Windows) -> Tensor | Windows:
        check_size(image, self.metric.smallest, self.levels + 1)
        if isinstance(image, Tensor) and self.metric.metric.tile is None:  # type: ignore[union-attr]
            return halve(image)
        return halvings(image, 2)[1]
