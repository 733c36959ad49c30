"""Training of SPIPS, whose authors' weights are not public, on what people said."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from msds_plugin.adapters.benchmark.datasets import Dataset
from msds_plugin.adapters.benchmark.statistics import srcc
from msds_plugin.adapters.images.pairs import Pair
from msds_plugin.adapters.images.read import Notes, Picture, open_pair, to_tensor
from msds_plugin.adapters.scoring import Run
from msds_plugin.adapters.scoring.files import content, replace_file, state
from msds_plugin.backbones import Weights
from msds_plugin.metric import digest
from msds_plugin.spips import SPIPS, Fusion, Inputs, save_weights

#: Shares of the scenes: for stopping early, and for the figures at the end.
STOP, TEST = 0.2, 0.2
BATCH = 64
RATE = 2e-3
#: Comparisons drawn per image and epoch from opinion scores.
DRAWN = 8
#: A difference in opinion of this many standard deviations makes the preference 73 %.
SOFT = 0.25
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")

Step = Callable[[str, int, int], object]


# What people said, as comparisons of two distorted images of which one is preferred


@dataclass(frozen=True)
class Judgements:
    """Distorted images beside references, and how they compare.

    Attributes:
        name: for the record.
        pairs: (reference, distorted) image files.
        scene: which reference a pair belongs to, as a number; references of equal content are one scene.
        opinion: (pairs,), higher is worse; or None.
        judged: (comparisons, 2) indices of pairs and (comparisons,) the share of people who preferred the second; or None.
    """

    name: str
    pairs: Sequence[tuple[Path, Path]]
    scene: NDArray[np.intp]
    opinion: NDArray[np.float64] | None = None
    judged: tuple[Tensor, Tensor] | None = None

    def comparisons(self, chosen: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Indices (n, 2) of pairs among ``chosen`` (pairs,), a mask, and the share that preferred the second."""
        if self.judged is not None:
            both, share = self.judged
            kept = chosen[both[:, 0]] & chosen[both[:, 1]]
            return both[kept], share[kept]
        assert self.opinion is not None
        rows = chosen.nonzero().squeeze(1)
        both = rows[torch.randint(len(rows), (len(rows) * DRAWN, 2), generator=generator)]
        worse = torch.from_numpy(self.opinion).float() / float(self.opinion.std())
        difference = worse[both[:, 0]] - worse[both[:, 1]]
        kept = difference != 0
        return both[kept], torch.sigmoid(difference[kept] / SOFT)

    def labels(self) -> str:
        """Tells the labels of judgements apart."""
        values = [] if self.opinion is None else [self.opinion]
        values += [each.numpy() for each in self.judged or ()]
        return hashlib.sha256(b"".join(np.ascontiguousarray(each).tobytes() for each in values)).hexdigest()


def from_opinions(data: Dataset) -> Judgements:
    """The judgements of a data set with opinion scores.

    Raises:
        ValueError: opinions that are all the same.
    """
    pairs = [(Path(r), Path(d)) for r, d in zip(data.table["reference"], data.table["distorted"], strict=True)]
    opinion = data.table["score"].to_numpy(np.float64) * (1 if data.lower_is_better else -1)
    if np.ptp(opinion) == 0:
        raise ValueError(f"nothing can be learned from {data.name}: its opinions are all the same")
    return Judgements(data.name, pairs, _scenes(pairs), opinion)


def load_twoafc(folder: str | os.PathLike[str]) -> Judgements:
    """Two-alternative forced choices laid out as BAPPS does: ``ref/X.png``, ``p0/X.png``, ``p1/X.png`` and ``judge/X.npy``.

    A judge's file holds one number, the share of people who found p1 closer to the reference. Folders that hold such folders
    (BAPPS's ``train/traditional``, ``train/cnn``, ...) are taken together.

    Raises:
        FileNotFoundError: no such folders, or an image of a judgement that is missing.
        ValueError: a judgement that is not a number in [0, 1].
    """
    root = Path(folder)
    parts = [root] if (root / "judge").is_dir() else sorted(path.parent for path in root.glob("*/judge"))
    judges = [file for part in parts for file in sorted((part / "judge").glob("[!.]*.npy"))]
    if not judges:
        raise FileNotFoundError(f"{root} holds no judgements: folders ref, p0, p1 and judge are needed, as in BAPPS")
    pairs, shares = [], []
    for judge in judges:
        try:
            shares.append(float(np.load(judge, allow_pickle=False).item()))
        except (EOFError, TypeError, ValueError):
            shares.append(np.nan)
        if not 0 <= shares[-1] <= 1:
            raise ValueError(f"{judge} must hold one number in [0, 1], as numpy.save writes it")
        reference, first, second = (_image(judge, kind) for kind in ("ref", "p0", "p1"))
        pairs += [(reference, first), (reference, second)]
    both = torch.arange(len(pairs)).view(-1, 2)
    return Judgements(root.name, pairs, _scenes(pairs), None, (both, torch.tensor(shares)))


def _image(judge: Path, kind: str) -> Path:
    folder = judge.parents[1] / kind
    for suffix in _IMAGES:
        if (path := folder / f"{judge.stem}{suffix}").is_file():  # the stem may have dots of its own
            return path
    raise FileNotFoundError(f"{judge} has no image {folder / judge.stem} ({', '.join(_IMAGES)})")


def _scenes(pairs: Sequence[tuple[Path, Path]]) -> NDArray[np.intp]:
    known = {reference: content(reference) for reference in {reference for reference, _ in pairs}}
    return np.asarray(np.unique([known[reference] for reference, _ in pairs], return_inverse=True)[1])


# What is learned from them


@dataclass(frozen=True)
class TrainedSPIPS:
    """The outcome of a training.

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
    run: Run = Run(device="cpu"),  # noqa: B008 (frozen)
    step: Step = lambda what, done, of: None,
) -> TrainedSPIPS:
    """Learn the weights of SPIPS, and write them.

    The loss is the cross-entropy of the share of people who preferred the second of two images and the logistic of the
    difference of their scores, times a learned gain. Scenes are divided by ``seed``: three fifths to learn from, a fifth to
    stop by (the weights kept are those with the smallest loss there), a fifth to judge by.

    The state is written to ``<out>.checkpoint`` after every epoch; a training that was interrupted goes on from there, to the
    same outcome. On a CPU the outcome depends on the images, the labels, the network, the options and the seed alone.

    Args:
        data: see :func:`load_twoafc` and :func:`from_opinions`.
        out: file to write.
        backbone: ``efficientnet_lite0``, ``alexnet`` or ``vgg16``.
        backbone_weights: of the backbone, see :func:`~msds_plugin.build_backbone`.
        epochs, patience: at most so many, and no more than ``patience`` without a smaller loss.
        seed: of everything that is random.
        cache: folder for what the frozen network computes of the images; None for ``<out>.features``.
        run: device of the frozen network and of the training (None for the CPU), and how image files are read.
        step: called with what is being done, how much of it is, and of how much.

    Raises:
        ValueError: fewer than three scenes, or too few to compare, a number of epochs below 1, images that SPIPS cannot
            compare, or the checkpoint of a training on other images, labels or options.
    """
    scenes = len(np.unique(data.scene))
    if scenes < 3:
        raise ValueError(f"{data.name} has {scenes} scene(s): at least three are needed, to learn, to stop and to judge by")
    if min(epochs, patience) < 1:
        raise ValueError(f"epochs and patience must be at least 1, got {epochs} and {patience}")
    learn, stop, test = parts = _divide(data, seed)
    for part, use, epoch in zip(parts, ("learn from", "stop by", "judge by"), (0, -1, -2), strict=True):
        if not len(data.comparisons(part, _generator(seed, epoch))[0]):
            raise ValueError(f"the scenes of {data.name} to {use} have no two images of different opinions: give more scenes")
    path, device = Path(out), torch.device(run.device or "cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        metric = SPIPS.untrained(backbone, backbone_weights).to(device)
    kept, keys = inputs_of(metric, data.pairs, Path(cache or f"{path}.features"), run, step)
    inputs = Inputs(kept.maps.to(device), kept.thumbnails.to(device))
    metric.fusion.scale.copy_(inputs.maps[learn.to(device)].mean((0, 2, 3)).clamp_min(1e-6))
    images = hashlib.sha256("".join(keys).encode()).hexdigest()
    settings = {"images or network": images, "labels": data.labels(), "seed": seed, "patience": patience}
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
        "fingerprint": digest(metric.backbone),
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
    replace_file(path, lambda part: save_weights(part, metric.fusion.state_dict(), facts))
    state.file.unlink(missing_ok=True)
    return TrainedSPIPS(path, facts, held_out)


def inputs_of(
    metric: SPIPS, pairs: Sequence[tuple[Path, Path]], folder: Path, run: Run, step: Step
) -> tuple[Inputs, list[str]]:
    """The learned part's inputs of all pairs, on the CPU, and for each a key of the files' content, reading and network, by
    which ``folder`` keeps them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    states = {path: state(path) for pair in pairs for path in pair}
    contents = {path: content(path) for path in states}
    network = f"{version('msds-plugin')} {metric.description} {digest(metric.backbone)} {run.reading}"
    notes, found, keys = Notes(run.note), [], []
    for done, pair in enumerate(pairs, 1):
        keys.append(hashlib.sha256(" ".join((network, *(contents[path] for path in pair))).encode()).hexdigest()[:32])
        file = folder / f"{keys[-1]}.safetensors"
        try:
            kept = load_file(file)
        except (FileNotFoundError, SafetensorError):  # a file that a kill cut short is written again
            kept = _inputs(metric, Pair(*pair), run, notes)
            for path in pair:  # or what it is now would be kept as what it was
                if state(path) != states[path]:
                    raise ValueError(f"{path} changed meanwhile: start the same command again") from None
            replace_file(file, partial(save_file, kept))
        found.append(kept)
        step("features", done, len(pairs))
    return Inputs(*(torch.stack([kept[name] for kept in found]) for name in ("maps", "thumbnails"))), keys


def _inputs(metric: SPIPS, pair: Pair, run: Run, notes: Notes) -> dict[str, Tensor]:
    x, y = open_pair(pair, run.reading, notes)
    try:
        if not (isinstance(x, Picture) and isinstance(y, Picture)):
            raise ValueError("images so large are read in windows, which SPIPS cannot")
        with torch.inference_mode():
            found = metric.inputs(*(to_tensor(image, metric.backbone.device) for image in (x, y)))
    except ValueError as error:
        raise ValueError(f"{pair.distorted} beside {pair.reference}: {error}") from error
    return {"maps": found.maps[0].cpu().contiguous(), "thumbnails": found.thumbnails[0].cpu().half().contiguous()}


def _generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed + 1) * 1_000_003 + epoch)


def _divide(data: Judgements, seed: int) -> tuple[Tensor, ...]:
    """Masks (pairs,) of what is for learning, stopping and judging; each has at least one scene, and no scene two."""
    names = np.unique(data.scene)
    order = np.random.default_rng(seed).permutation(names)
    stop, test = (max(1, round(share * len(names))) for share in (STOP, TEST))
    parts = order[stop + test :], order[:stop], order[stop : stop + test]
    return tuple(torch.from_numpy(np.isin(data.scene, part)) for part in parts)


class _State:
    """What changes from epoch to epoch; on disk after each."""

    def __init__(self, fusion: Fusion, file: Path, settings: dict[str, Any]) -> None:
        self.fusion, self.file, self.settings = fusion, file, settings
        self.gain = nn.Parameter(torch.tensor(1.0, device=fusion.out.device))
        self.optimiser = torch.optim.Adam([*fusion.parameters(), self.gain], RATE)
        self.epoch, self.since, self.least = 0, 0, float("inf")
        self.best = copy.deepcopy(fusion.state_dict())
        if not file.is_file():
            return
        try:
            kept = torch.load(file, weights_only=True, map_location=self.gain.device)
            differing = [name for name, value in settings.items() if kept["settings"].get(name) != value]
        except Exception as error:  # torch has many for what it did not write
            raise ValueError(f"{file} is damaged, or no state of a training: delete it to start anew") from error
        if differing:
            raise ValueError(
                f"{file} is the state of another training, with other {' and other '.join(differing)}: delete it to start "
                "anew, or write to another file"
            )
        fusion.load_state_dict(kept["fusion"])
        self.gain.data.copy_(kept["gain"])
        self.optimiser.load_state_dict(kept["optimiser"])
        self.epoch, self.since, self.least, self.best = (kept[name] for name in ("epoch", "since", "least", "best"))

    def judge(self, loss: float) -> None:
        """Count an epoch that came to this loss on the scenes to stop by, and write everything down."""
        self.epoch += 1
        self.since += 1
        if loss < self.least:
            self.least, self.since, self.best = loss, 0, copy.deepcopy(self.fusion.state_dict())
        own = {name: getattr(self, name) for name in ("settings", "epoch", "since", "least", "best")}
        learned = {"fusion": self.fusion.state_dict(), "gain": self.gain.detach(), "optimiser": self.optimiser.state_dict()}
        replace_file(self.file, lambda part: torch.save(own | learned, part))


def _scores(fusion: Fusion, inputs: Inputs, rows: Tensor) -> Tensor:
    chosen = inputs[rows.to(inputs.maps.device)]
    scores: Tensor = fusion(Inputs(chosen.maps, chosen.thumbnails.float()))
    return scores


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
        found["srcc"] = srcc(scores[test].numpy(), data.opinion[test.numpy()])
    return found
