"""Which layers, levels, comparisons and backbones agree with people: a grid on one opinion-scored set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from time import perf_counter

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from msds_plugin.adapters.benchmark.datasets import Dataset
from msds_plugin.adapters.benchmark.runner import Progress, no_progress
from msds_plugin.adapters.images.notes import Notes
from msds_plugin.adapters.images.pairs import Pair
from msds_plugin.adapters.images.read import Opened, Picture, open_distorted, open_reference, reconcile, to_tensor
from msds_plugin.adapters.research.networks import RANDOM, Network, at_hand, make_networks
from msds_plugin.adapters.scorers import choose_device
from msds_plugin.adapters.scoring.options import Run
from msds_plugin.adapters.scoring.store import Outcome, Results, pair_key, pair_keys
from msds_plugin.functional import block_dissimilarity, global_dissimilarity, gram_matrix, pyramid
from msds_plugin.metric import digest

LEVELS = 3
#: To be raised when scores come out differently.
_RECIPE = 3

#: Layer, level, comparison.
Key = tuple[str, int, str]


@dataclass(frozen=True)
class Features:
    """Feature maps (1, C, h, w) of one image at one layer, and their Gram matrix (1, C, C), not divided by anything."""

    maps: Tensor
    gram: Tensor


def deepssim(x: Features, y: Features) -> Tensor:
    """1 - DeepSSIM."""
    return block_dissimilarity(x.gram, y.gram)


def lite(x: Features, y: Features) -> Tensor:
    """DeepSSIM-Lite: Gram matrices divided by C h w, compared as a whole."""
    return global_dissimilarity(x.gram / x.maps[0].numel(), y.gram / y.maps[0].numel())


def squared(x: Features, y: Features) -> Tensor:
    """LPIPS without learned weights: squared distance of features normalised over channels, mean over positions.

    Source: R. Zhang, P. Isola, A. A. Efros, E. Shechtman, O. Wang, "The Unreasonable Effectiveness of Deep Features as a
    Perceptual Metric", CVPR 2018.
    """
    _check(x, y)
    a, b = (F.normalize(each.maps, dim=1, eps=1e-10) for each in (x, y))
    return (a - b).square().sum(1).mean((1, 2))


def cosine(x: Features, y: Features) -> Tensor:
    """1 - cosine of the two feature maps, each as one vector."""
    _check(x, y)
    # By the distance of the unit vectors: 1 - cosine cancels where the two are nearly equal.
    a, b = (F.normalize(each.maps.flatten(1).double(), dim=1, eps=1e-10) for each in (x, y))
    return ((a - b).square().sum(1) / 2).to(x.maps.dtype)


def _check(x: Features, y: Features) -> None:
    if x.maps.shape != y.maps.shape:
        sizes = " and ".join(" x ".join(map(str, each.maps.shape[-2:])) for each in (x, y))
        raise ValueError(f"features of {sizes} positions cannot be compared place by place")


#: Distances of features; 0 for equal features.
COMPARISONS: Mapping[str, Callable[[Features, Features], Tensor]] = {
    "deepssim": deepssim,
    "lite": lite,
    "squared": squared,
    "cosine": cosine,
}


@dataclass(frozen=True)
class Study:
    """Every cell of the grid on every pair.

    Attributes:
        table: one row per pair and cell: ``backbone``, ``layer``, ``level``, ``comparison``, ``reference``, ``distorted``,
            ``opinion``, ``distortion``, ``score`` (a distance; NaN where it failed), ``seconds`` (for the features of the
            distorted image at all layers of this level, and the comparison), ``error``.
        networks: ``backbone``, ``parameters``, ``accuracy``, ``source``.
        data: the set.
        notes: networks that are left out, and why.
    """

    table: pd.DataFrame
    networks: pd.DataFrame
    data: Dataset
    notes: tuple[str, ...]

    @property
    def failures(self) -> pd.DataFrame:
        """Images without a score, by backbone: ``distorted``, ``metric``, ``error``."""
        failed = self.table[self.table["error"].notna()].drop_duplicates(["backbone", "distorted"])
        return failed.rename(columns={"backbone": "metric"})[["distorted", "metric", "error"]]


def run_study(
    data: Dataset,
    backbones: Sequence[str] | None = None,
    levels: int = LEVELS,
    comparisons: Sequence[str] = tuple(COMPARISONS),
    results: str | Path | None = None,
    run: Run = Run(),  # noqa: B008 (frozen)
    progress: Progress = no_progress,
) -> Study:
    """Score every pair with every backbone, layer, level and comparison, or take the score from the results file.

    Args:
        data: images with opinion scores.
        backbones: names of :data:`BACKBONES`, ``torchvision:<model>`` or ``timm:<model>``, with ``:random`` for random values
            of a fixed seed; None for those whose weights are at hand, each with its random twin.
        levels: of the pyramid, from 1.
        comparisons: of :data:`COMPARISONS`.
        results: file that keeps the scores, image by image; None to keep none.
        run: the device, and how files are read. Networks run on torch.
        progress: shows how far it is.

    Raises:
        ValueError: opinions that are all the same, an unknown backbone or comparison, no levels, or no backbone whose weights
            are here.
        ResultsFileError: the results file is something else.
    """
    if levels < 1:
        raise ValueError(f"levels must be at least 1, got {levels}")
    unknown = [name for name in comparisons if name not in COMPARISONS]
    if unknown or not comparisons:
        raise ValueError(f"no comparison {', '.join(unknown) or 'given'}: choose from {', '.join(COMPARISONS)}")
    if data.table["score"].nunique() < 2:
        raise ValueError(f"the opinions of {data.name} are all the same: nothing can agree with them")
    named, elsewhere = at_hand() if backbones is None else (list(backbones), [])
    networks, notes = make_networks(named, choose_device(run.device))
    with Results(results) as kept, progress("study", len(networks) * len(data.table)) as advance:
        grid = [
            _of_network(network, data, list(product(network.backbone.layers, range(levels), comparisons)), kept, run, advance)
            for network in networks
        ]
    described = pd.DataFrame(
        {
            "backbone": [each.name for each in networks],
            "parameters": [sum(parameter.numel() for parameter in each.backbone.parameters()) for each in networks],
            "accuracy": [each.accuracy for each in networks],
            "source": [each.source for each in networks],
        }
    )
    return Study(pd.concat(grid, ignore_index=True), described, data, (*elsewhere, *notes))


def _of_network(
    network: Network, data: Dataset, cells: list[Key], kept: Results, run: Run, advance: Callable[[], None]
) -> pd.DataFrame:
    shared = {
        "kind": "study",
        "recipe": _RECIPE,
        "backbone": network.name.removesuffix(RANDOM),
        "weights": digest(network.backbone),
        "device": network.backbone.device.type,
        "reading": str(run.reading),
    }
    numbers: dict[Key, int] = {}
    for layer, level, comparison in cells:
        own = {"layer": layer, "level": level, "comparison": comparison}
        name = f"study {network.name} {layer} level {level} {comparison}"
        numbers[layer, level, comparison] = kept.metric(name, shared | own)
    pairs = [Pair(Path(r), Path(d)) for r, d in zip(data.table["reference"], data.table["distorted"], strict=True)]
    keys = pair_keys((pair.reference, pair.distorted) for pair in pairs)
    done = set.intersection(*(kept.scored(number) for number in numbers.values()))
    lacking: dict[Path, list[tuple[str, Pair]]] = {}
    for key, pair in zip(keys, pairs, strict=True):
        if key in done:
            advance()
        else:
            lacking.setdefault(pair.reference, []).append((key, pair))
    notes = Notes(run.note)
    for those in lacking.values():
        reference = _Reference(network, run, notes)
        for key, pair in those:
            kept.add(reference.outcomes(key, pair, numbers))
            advance()
    base = data.table.rename(columns={"score": "opinion"}).reset_index(drop=True)
    base = base.reindex(columns=["reference", "distorted", "opinion", "distortion"])
    rows = []
    for (layer, level, comparison), number in numbers.items():
        found = kept.frame(number).reindex(keys).reset_index(drop=True)
        part = pd.concat([base, found], axis=1)
        for place, value in enumerate((network.name, layer, level, comparison)):
            part.insert(place, ("backbone", "layer", "level", "comparison")[place], value)
        rows.append(part)
    return pd.concat(rows, ignore_index=True)


class _Reference:
    """Compares distorted images with one reference, whose features are computed once: as it is, and once more in sRGB where a
    distorted image has another colour profile.
    """

    def __init__(self, network: Network, run: Run, notes: Notes) -> None:
        self.network, self.run, self.notes = network, run, notes
        self.image: Opened | None = None
        self.features: dict[bytes | None, list[tuple[list[Features], float]]] = {}

    def outcomes(self, key: str, pair: Pair, numbers: Mapping[Key, int]) -> list[Outcome]:
        """What came of every cell on one pair."""
        paths = str(pair.reference), str(pair.distorted)
        try:
            both = self._beside(pair, 1 + max(level for _, level, _ in numbers))
            if pair_key(*paths) != key:
                raise ValueError("one of its two files changed while the run lasted: start the same command again")
        except Exception as error:  # whatever is wrong with one image must not cost the others
            reason = " ".join(str(error).split()) or type(error).__name__
            return [Outcome(number, key, *paths, None, None, reason) for number in numbers.values()]
        found = []
        for (layer, level, comparison), number in numbers.items():
            (x, seconds), (y, _) = (features[level] for features in both)
            place, start = self.network.backbone.layers.index(layer), perf_counter()
            try:
                score = float(COMPARISONS[comparison](x[place], y[place]))
                found.append(Outcome(number, key, *paths, score, seconds + perf_counter() - start))
            except ValueError as error:
                found.append(Outcome(number, key, *paths, None, None, str(error)))
        return found

    def _beside(self, pair: Pair, levels: int) -> tuple[list[tuple[list[Features], float]], ...]:
        if self.image is None:
            self.image = open_reference(pair, self.run.reading)
            self.notes.say(pair.reference, self.image)
        opened = open_distorted(pair, self.run.reading, self.image)
        self.notes.say(pair.distorted, opened)
        x, y = reconcile(opened, self.image)
        if y.profile not in self.features:
            self.features[y.profile] = self._features(y, levels)
        return self._features(x, levels), self.features[y.profile]

    def _features(self, image: Opened, levels: int) -> list[tuple[list[Features], float]]:
        """For each level the features of all layers, and the seconds they took."""
        if not isinstance(image, Picture):
            raise ValueError("images so large are read in windows, which a study cannot")
        found = []
        with torch.inference_mode():
            for level in pyramid(to_tensor(image, self.network.backbone.device), levels):
                start = perf_counter()
                features = [Features(maps, gram_matrix(maps)) for maps in self.network.backbone(level)]
                found.append((features, perf_counter() - start))
        return found
