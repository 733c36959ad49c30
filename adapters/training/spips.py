"""Training of SPIPS on judgements of people."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from ...backbones import Weights
from ...spips import SPIPS, Fusion, Inputs, save_weights
from ..images.read import Reading
from .cache import inputs_of
from .judgements import Judgements

__all__ = ["TrainedSPIPS", "train_spips"]

#: Shares of the scenes: for stopping early, and for the figures at the end.
STOP, TEST = 0.2, 0.2
BATCH = 64
RATE = 2e-3

Step = Callable[[str, int, int], None]


@dataclass(frozen=True)
class TrainedSPIPS:
    """What a training came to.

    Attributes:
        path: the file of weights; ``SPIPS(path)`` and ``create_metric("spips", weights=path)`` take it.
        facts: what the file says of itself.
        held_out: on scenes that neither training nor stopping saw: ``accuracy``, the mean share of people that agree with the
            metric's choice, and for opinion scores ``srcc``.
    """

    path: Path
    facts: dict[str, str]
    held_out: dict[str, float]


def train_spips(
    data: Judgements,
    out: str | os.PathLike[str],
    backbone: str = "efficientnet_lite0",
    backbone_weights: Weights = "imagenet",
    epochs: int = 200,
    patience: int = 20,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
    device: str | torch.device = "cpu",
    step: Step = lambda what, done, of: None,
    reading: Reading | None = None,
) -> TrainedSPIPS:
    """Learn the weights of SPIPS, and write them.

    The loss is the cross-entropy of the share of people who preferred the second of two images and the logistic of the
    difference of their scores, times a learned gain. Scenes are divided by ``seed``: three fifths to learn from, a fifth to
    stop by (the weights kept are those with the smallest loss there), a fifth that is only looked at in the end.

    The state is written to ``<out>.checkpoint`` after every epoch, and a training that was interrupted goes on from there; the
    outcome is the same. On a CPU it depends on the data, the options and the seed alone.

    Args:
        data: see :func:`load_twoafc` and :func:`from_opinions`.
        out: file to write.
        backbone: ``efficientnet_lite0``, ``alexnet`` or ``vgg16``.
        backbone_weights: of the backbone, see :func:`~msds_plugin.build_backbone`.
        epochs, patience: at most so many, and no more than ``patience`` without a smaller loss.
        seed: of everything that is random.
        cache: folder for what the frozen network makes of the images; None for ``<out>.features``.
        device: of the frozen network and of the training.
        reading: what the image files do not say: see :class:`Reading`.
        step: called with what is being done, how much of it is, and of how much.

    Raises:
        ValueError: fewer than three scenes, a number of epochs below 1, a checkpoint of other data or options.
    """
    scenes = len(np.unique(data.scene))
    if scenes < 3:
        raise ValueError(f"{data.name} has {scenes} scene(s): at least three are needed, to learn, to stop and to judge by")
    if min(epochs, patience) < 1:
        raise ValueError(f"epochs and patience must be at least 1, got {epochs} and {patience}")
    path = Path(out)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        metric = SPIPS.untrained(backbone, backbone_weights).to(device)
    folder = Path(cache or f"{path}.features")
    inputs = inputs_of(metric, data.pairs, folder, lambda done, of: step("features", done, of), reading or Reading())
    inputs = Inputs(inputs.maps.to(device), inputs.thumbnails.to(device))
    learn, stop, test = _divide(data, seed)
    metric.fusion.scale.copy_(inputs.maps[learn.to(device)].mean((0, 2, 3)).clamp_min(1e-6))
    settings = {
        "data": data.name,
        "pairs": len(data.pairs),
        "backbone": metric.backbone.description,
        "seed": seed,
        "patience": patience,
    }
    state = _State(metric.fusion, Path(f"{path}.checkpoint"), settings)
    for epoch in range(state.epoch, epochs):
        if state.since >= patience:
            break
        _epoch(state, data, inputs, learn, seed, epoch)
        state.judge(_loss(state, *data.comparisons(stop, _generator(seed, -1)), inputs).item())
        step("epochs", epoch + 1, epochs)
    metric.fusion.load_state_dict(state.best)
    held_out = _held_out(metric.fusion, data, inputs, test, seed)
    facts = {
        "backbone": backbone,
        "low": ",".join(metric.low),
        "high": ",".join(metric.high),
        "fingerprint": str(metric.backbone.fingerprint),
        "dataset": data.name,
        "pairs": str(len(data.pairs)),
        "scenes": str(scenes),
        "seed": str(seed),
        "epochs": str(state.epoch),
        "held_out": json.dumps(held_out),
        "date": date.today().isoformat(),
        "version": version("msds-plugin"),
        "torch": torch.__version__,
    }
    part = path.with_name(f"{path.name}.part")
    save_weights(part, metric.fusion.state_dict(), facts)
    os.replace(part, path)
    state.file.unlink(missing_ok=True)
    return TrainedSPIPS(path, facts, held_out)


def _generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed + 1) * 1_000_003 + epoch)


def _divide(data: Judgements, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Masks (pairs,) of what is for learning, stopping and judging; each has at least one scene, and no scene two."""
    names = np.unique(data.scene)
    order = np.random.default_rng(seed).permutation(names)
    stop, test = (max(1, round(share * len(names))) for share in (STOP, TEST))
    parts = order[stop + test :], order[:stop], order[stop : stop + test]
    learn, stopping, judging = (torch.from_numpy(np.isin(data.scene, part)) for part in parts)
    return learn, stopping, judging


class _State:
    """What changes from epoch to epoch, on disk after each."""

    def __init__(self, fusion: Fusion, file: Path, settings: dict[str, Any]) -> None:
        self.fusion, self.file, self.settings = fusion, file, json.dumps(settings)
        self.gain = nn.Parameter(torch.tensor(1.0, device=fusion.out.device))
        self.optimiser = torch.optim.Adam([*fusion.parameters(), self.gain], RATE)
        self.epoch, self.since, self.least = 0, 0, float("inf")
        self.best = copy.deepcopy(fusion.state_dict())
        if file.is_file():
            self._load()

    def _load(self) -> None:
        kept = torch.load(self.file, weights_only=True, map_location=self.gain.device)
        if kept["settings"] != self.settings:
            raise ValueError(
                f"{self.file} is the state of another training ({kept['settings']} instead of {self.settings}): delete it to "
                "start anew, or write to another file"
            )
        self.fusion.load_state_dict(kept["fusion"])
        self.gain.data.copy_(kept["gain"])
        self.optimiser.load_state_dict(kept["optimiser"])
        self.epoch, self.since, self.least, self.best = kept["epoch"], kept["since"], kept["least"], kept["best"]

    def judge(self, loss: float) -> None:
        """Count an epoch that came to this loss on the scenes to stop by, and write everything down."""
        self.epoch += 1
        self.since += 1
        if loss < self.least:
            self.least, self.since, self.best = loss, 0, copy.deepcopy(self.fusion.state_dict())
        kept = {
            "settings": self.settings,
            "fusion": self.fusion.state_dict(),
            "gain": self.gain.detach(),
            "optimiser": self.optimiser.state_dict(),
            **{name: getattr(self, name) for name in ("epoch", "since", "least", "best")},
        }
        part = self.file.with_name(f"{self.file.name}.part")
        torch.save(kept, part)
        os.replace(part, self.file)


def _scores(fusion: Fusion, inputs: Inputs, rows: Tensor) -> Tensor:
    chosen = inputs[rows.to(inputs.maps.device)]
    return fusion(Inputs(chosen.maps, chosen.thumbnails.float()))


def _loss(state: _State, both: Tensor, share: Tensor, inputs: Inputs) -> Tensor:
    with torch.set_grad_enabled(state.fusion.training):
        first, second = _scores(state.fusion, inputs, both.T.flatten()).chunk(2)
        return F.binary_cross_entropy_with_logits(state.gain.exp() * (first - second), share.to(first))


def _epoch(state: _State, data: Judgements, inputs: Inputs, learn: Tensor, seed: int, epoch: int) -> None:
    generator = _generator(seed, epoch)
    both, share = data.comparisons(learn, generator)
    state.fusion.train()
    for rows in torch.randperm(len(both), generator=generator).split(BATCH):
        state.optimiser.zero_grad()
        _loss(state, both[rows], share[rows], inputs).backward()
        state.optimiser.step()
    state.fusion.eval()


@torch.no_grad()
def _held_out(fusion: Fusion, data: Judgements, inputs: Inputs, test: Tensor, seed: int) -> dict[str, float]:
    fusion.eval()
    scores = torch.cat([_scores(fusion, inputs, rows) for rows in torch.arange(len(data.pairs)).split(1024)]).cpu()
    both, share = data.comparisons(test, _generator(seed, -2))
    second = (scores[both[:, 0]] > scores[both[:, 1]]).float()
    if data.judged is None:
        share = share.round()
    found = {"accuracy": float((second * share + (1 - second) * (1 - share)).mean())}
    if data.opinion is not None:
        found["srcc"] = float(spearmanr(scores[test], data.opinion[test.numpy()]).statistic)
    return found
