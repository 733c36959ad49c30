"""How MSDS-Auto judged pairs, as a metric beside it, so that it is computed, kept and resumed as scores are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from msds_plugin.adapters.scorers import Scorer
from msds_plugin.auto import MSDSAuto
from msds_plugin.metric import PairMetric
from msds_plugin.windows import Image

REGIMES = ("aligned", "between", "displaced", "retargeted")


class Regime(PairMetric):
    """The places of the regimes of pairs in :data:`REGIMES`, (N,)."""

    reads_windows = True

    def __init__(self, auto: MSDSAuto) -> None:
        super().__init__()
        self.auto = auto

    @property
    def description(self) -> str:
        """That of MSDS-Auto."""
        return f"regime of {self.auto.description}"

    def weighted_modules(self) -> list[nn.Module]:
        """Those of MSDS-Auto."""
        return self.auto.weighted_modules()

    def _score(self, x: Image, y: Image) -> Tensor:
        return torch.tensor([float(REGIMES.index(word)) for word in self.auto.details(x, y).regime])


def with_regimes(scorers: Iterable[Scorer]) -> list[Scorer]:
    """The same metrics, after each MSDS-Auto its :class:`Regime`.

    Raises:
        ValueError: there is none.
    """
    found: list[Scorer] = []
    for scorer in scorers:
        found.append(scorer)
        if isinstance(scorer.metric, MSDSAuto):
            found.append(replace(scorer, name=f"{scorer.name} regime", metric=Regime(scorer.metric).eval(), words=REGIMES))
    if not any(isinstance(scorer.metric, Regime) for scorer in found):
        raise ValueError("details are those of msds-auto, which is not among the metrics")
    return found
