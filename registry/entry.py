"""One row of the registry."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Metric:
    """A full-reference metric by name.

    Attributes:
        name: lower case, as in ``create_metric(name)``: letters, digits, ``-``, ``_``, ``+`` and ``.``.
        title: as written in tables; also the stem of class names (``MSDS-Fast`` gives ``MSDSFastLoss``).
        factory: keyword options to a module called with (distorted, reference), each (N, 3, H, W) in [0, 1]; returns (N,).
        lower_is_better: direction of the score.
        score_range: smallest and largest value it can take; infinite where there is no bound.
        summary: one line.
        citation: where it was published.
        takes_backbone: the factory has the options ``backbone`` and ``weights``, because the name promises no other network.
        multiscale: it works on a pyramid already, with the options ``levels`` and ``fusion``.

    Raises:
        ValueError: a name that could not be typed, or a range that is not one.
    """

    name: str
    title: str
    factory: Callable[..., nn.Module]
    lower_is_better: bool
    score_range: tuple[float, float]
    summary: str
    citation: str = ""
    takes_backbone: bool = False
    multiscale: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_.+-]*", self.name):
            raise ValueError(f"a metric's name is lower-case letters, digits, '-', '_', '+' and '.', got {self.name!r}")
        if not re.match(r"[A-Za-z]", self.title):
            raise ValueError(f"a metric's title starts with a letter, got {self.title!r}")
        low, high = self.score_range
        if not low < high:
            raise ValueError(f"score_range of {self.name!r} must be (smallest, largest), got {self.score_range}")

    @property
    def best(self) -> float:
        """The score of a perfect image, infinite where there is no bound."""
        return self.score_range[0] if self.lower_is_better else self.score_range[1]
