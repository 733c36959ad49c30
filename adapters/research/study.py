"""Which layers, levels, comparisons and backbones agree with people: a grid on one opinion-scored set."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from msds_plugin.adapters.benchmark import runner
from msds_plugin.adapters.benchmark.datasets import Dataset
from msds_plugin.adapters.benchmark.runner import Progress, no_progress
from msds_plugin.adapters.scorers import Scorer, choose_device
from msds_plugin.adapters.scoring import Run
from msds_plugin.backbones import BACKBONES, build_backbone
from msds_plugin.errors import MissingDependencyError, WeightsFileError, WeightsNotFoundError
from msds_plugin.functional import block_dissimilarity, global_dissimilarity, gram_matrix, pyramid
from msds_plugin.metric import Metric, Representation, digest
from msds_plugin.networks import Backbone
from msds_plugin.toolboxes import torchvision_names, torchvision_weights
from msds_plugin.weights import cached, hub_path

CELL = ["backbone", "layer", "level", "comparison"]
#: After a network's name: the same network with random values, as a control.
RANDOM = ":random"
#: Published top-1 accuracy on ImageNet in per cent, where the library that makes the network does not say it.
_LITE = "Google, tensorflow/tpu, models/official/efficientnet/lite, float model"
_ACCURACY = {
    "efficientnet_lite0": (75.1, _LITE),
    "timm:tf_efficientnet_lite1": (76.7, _LITE),
    "timm:tf_efficientnet_lite2": (77.6, _LITE),
}


@dataclass(frozen=True, eq=False)
class Features(Representation):
    """Feature maps (N, C, h, w) at one layer and level, and their Gram matrices (N, C, C), not divided by anything."""

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
    a, b = (F.normalize(maps, dim=1, eps=1e-10) for maps in _alike(x, y))
    return (a - b).square().sum(1).mean((1, 2))


def cosine(x: Features, y: Features) -> Tensor:
    """1 - cosine of the two feature maps, each as one vector."""
    # By the distance of the unit vectors: 1 - cosine cancels where the two are nearly equal.
    a, b = (F.normalize(maps.flatten(1).double(), dim=1, eps=1e-10) for maps in _alike(x, y))
    return ((a - b).square().sum(1) / 2).to(x.maps.dtype)


def _alike(x: Features, y: Features) -> tuple[Tensor, Tensor]:
    if x.maps.shape[-2:] != y.maps.shape[-2:]:
        sizes = " and ".join(" x ".join(map(str, each.maps.shape[-2:])) for each in (x, y))
        raise ValueError(f"features of {sizes} positions cannot be compared place by place")
    return x.maps, y.maps


#: Distances of features; 0 for equal features.
COMPARISONS: Mapping[str, Callable[[Features, Features], Tensor]] = {
    each.__name__: each for each in (deepssim, lite, squared, cosine)
}


@dataclass(frozen=True)
class Study:
    """Every cell of the grid on every pair.

    Attributes:
        table: one row per pair and cell: ``backbone``, ``layer``, ``level``, ``comparison``, ``reference``, ``distorted``,
            ``opinion``, ``distortion``, ``score`` (a distance; NaN where it failed), ``seconds`` (of the whole grid of this
            backbone on this pair), ``error``.
        networks: ``backbone``, ``parameters``, ``accuracy`` (top-1 on ImageNet in per cent, NaN where not known), ``source``.
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
    levels: int = 3,
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
        results, run, progress: as for :func:`~msds_plugin.adapters.benchmark.run`; networks run on torch.

    Raises:
        ValueError: opinions that are all the same, a single reference, a network that takes images of one size only, a name
            twice, an unknown backbone or comparison, no levels, or no backbone whose weights are here.
        ResultsFileError: the results file is something else.
    """
    if levels < 1:
        raise ValueError(f"levels must be at least 1, got {levels}")
    unknown = [name for name in comparisons if name not in COMPARISONS]
    if unknown or not comparisons:
        raise ValueError(f"no comparison {', '.join(unknown) or 'given'}: choose from {', '.join(COMPARISONS)}")
    if data.table["score"].nunique() < 2:
        raise ValueError(f"the opinions of {data.name} are all the same: nothing can agree with them")
    if data.table["reference"].nunique() < 2:
        raise ValueError(f"{data.name} has one reference: at least two are needed, to choose by one and judge by the other")
    named, elsewhere = at_hand() if backbones is None else (list(backbones), [])
    networks, notes = _make_networks(named, choose_device(run.device))
    tables, described = [], []
    for name, backbone in networks.items():
        tables.append(_scored(name, backbone, data, levels, comparisons, results, run, progress))
        parameters = sum(parameter.numel() for parameter in backbone.parameters())
        described.append((name, parameters, *accuracy_of(name)))
    about = pd.DataFrame(described, columns=["backbone", "parameters", "accuracy", "source"])
    return Study(pd.concat(tables, ignore_index=True), about, data, (*elsewhere, *notes))


def at_hand() -> tuple[list[str], list[str]]:
    """The networks whose weights are on this machine, each followed by its random twin, and why others are left out."""
    found, left_out = [], []
    for name, table in BACKBONES.items():
        try:
            path = table.locate() if table.url is None else cached(table.url) or hub_path(table.url)
            if not path.is_file():
                raise WeightsNotFoundError(f"no {path}; see msds weights")
            found += [name, name + RANDOM]
        except (MissingDependencyError, WeightsNotFoundError) as error:
            left_out.append(_left_out(name, error))
    return found, left_out


def _left_out(name: str, error: Exception) -> str:
    return f"{name} is left out: {' '.join(str(error).split())}"


def _make_networks(names: Sequence[str], device: torch.device) -> tuple[dict[str, Backbone], list[str]]:
    """The networks that can be had, with all their layers, and why others are left out."""
    if len(set(names)) < len(names):
        raise ValueError(f"a backbone is given twice: {', '.join(names)}")
    made, left_out = {}, []
    for name in names:
        own = name.removesuffix(RANDOM)
        layers = list(BACKBONES[own].layers) if own in BACKBONES else None
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                made[name] = build_backbone(own, layers, None if own != name else "imagenet").to(device)
        except (MissingDependencyError, WeightsNotFoundError, WeightsFileError) as error:
            left_out.append(_left_out(name, error))
    if not made:
        raise ValueError(f"no backbone to study: {'; '.join(left_out) or 'none was named'}")
    return made, left_out


def accuracy_of(name: str) -> tuple[float, str]:
    """Published top-1 accuracy on ImageNet in per cent, and where it is published; NaN where it is not known."""
    if name.endswith(RANDOM):
        return math.nan, "random values"
    model = name.removeprefix("torchvision:")
    if model not in torchvision_names():
        return _ACCURACY.get(name, (math.nan, "not known"))
    entry = torchvision_weights(model)
    return float(entry.meta["_metrics"]["ImageNet-1K"]["acc@1"]), f"torchvision, {entry.name}"


def _scored(
    name: str,
    backbone: Backbone,
    data: Dataset,
    levels: int,
    comparisons: Sequence[str],
    results: str | Path | None,
    run: Run,
    progress: Progress,
) -> pd.DataFrame:
    shared, weights = _Shared(backbone, levels), digest(backbone)
    cells, scorers = {}, []
    for layer, level, comparison in product(backbone.layers, range(levels), comparisons):
        metric = _Cell(f"study {name} {layer} level {level} {comparison}", weights, shared, layer, level, comparison)
        cells[metric.description] = (name, layer, level, comparison)
        scorers.append(Scorer(metric.description, metric, backbone.device, {}, True, True))
    one_by_one = replace(run, workers=0)  # the features of a network's layers take much memory
    table = runner.run(scorers, [data], results, one_by_one, progress).scores.table
    cell = pd.DataFrame([cells[name] for name in table["metric"]], table.index, CELL)
    seconds = table.groupby(["reference", "distorted"])["seconds"].transform("sum")
    columns = ["reference", "distorted", "opinion", "distortion", "score", "seconds", "error"]
    return pd.concat([cell, table.assign(seconds=seconds)[columns]], axis=1)


class _Shared:
    """The features of the two images that were seen last: all cells of a network are asked about a pair, one by one."""

    def __init__(self, backbone: Backbone, levels: int) -> None:
        self.backbone, self.levels = backbone, levels
        self.seen: list[tuple[Tensor, list[list[tuple[Tensor, Tensor]]]]] = []

    def __call__(self, image: Tensor) -> list[list[tuple[Tensor, Tensor]]]:
        """Maps and Gram matrices by level and layer."""
        for known, features in self.seen:
            if torch.equal(known, image):
                return features
        found = [[(maps, gram_matrix(maps)) for maps in self.backbone(level)] for level in pyramid(image, self.levels)]
        self.seen = [*self.seen[-1:], (image, found)]
        return found


class _Cell(Metric):
    """One layer, level and comparison of a network."""

    lower_is_better = True

    def __init__(self, name: str, weights: str, shared: _Shared, layer: str, level: int, comparison: str) -> None:
        super().__init__()
        self.name, self.weights, self.shared = name, weights, shared
        self.place, self.level, self.comparison = shared.backbone.layers.index(layer), level, comparison

    @property
    def description(self) -> str:
        return self.name

    def source(self) -> str:
        return f"{self.name} weights {self.weights}"  # hashed once for all cells

    def _represent(self, image: Tensor) -> Features:  # type: ignore[override]
        return Features(self.name, *self.shared(image)[self.level][self.place])

    def _compare(self, a: Features, b: Features) -> Tensor:
        return COMPARISONS[self.comparison](a, b)
