"""A metric by name that follows its inputs from device to device, outside of the module that uses it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import registry
from ..common.scorer import Scorer
from ..scoring.scorers import create_scorer


class Held:
    """The metric of a name, made once and kept where its inputs are.

    It is no sub-module on purpose: the weights of a feature network belong neither into a checkpoint nor to an optimiser.
    Ours are pickled with their values; those of toolkits are made again from their names.
    """

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self.name, self.options = name, options
        self._scorer: Scorer | None = create_scorer(name, "cpu", **options)
        self.lower_is_better = self._scorer.lower_is_better
        self.ours = name.partition(",")[0] in registry.names()

    def __call__(self, preds: Tensor, target: Tensor) -> Tensor:
        """Scores (N,), in float32 whatever the type of the images; under autocast as autocast has it."""
        scores = self._on(preds.device).score(preds.float(), target.float())
        return scores.float()

    def _on(self, device: torch.device) -> Scorer:
        scorer = self._scorer
        if scorer is None or (scorer.device != device and not self.ours):
            scorer = create_scorer(self.name, device, **self.options)
        elif scorer.device != device:
            scorer = Scorer(scorer.name, scorer.lower_is_better, scorer.module.to(device), device, scorer.module)
        self._scorer = scorer
        return scorer

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ if self.ours else {**self.__dict__, "_scorer": None}
