"""The parts of a metric that can have a weight each, as metrics of their own: levels, layers, terms of a hybrid."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from msds_plugin import registry
from msds_plugin.adapters.benchmark.learning import Array, Geometric, linear
from msds_plugin.adapters.scorers import Scorer, create_scorer, parse_metric
from msds_plugin.adapters.scoring import Run
from msds_plugin.adapters.wrap import on_a_pyramid
from msds_plugin.fusion_file import FusionTarget, level_parts
from msds_plugin.hybrid import Hybrid
from msds_plugin.metric import Metric, PairMetric
from msds_plugin.msds import PyramidMetric
from msds_plugin.windows import Image


@dataclass(frozen=True)
class Parts:
    """What can be weighed in a metric.

    Attributes:
        scorer: the whole metric.
        target: what files of weights for it are for.
        names: of the parts.
        scorers: what each part says by itself; of a hybrid, dissimilarities.
        equal: the weights of the metric without a file, (parts,).
        combine: how the parts become one score, or for a hybrid one dissimilarity.
        lower_is_better: direction of what ``combine`` gives.
        named: whether a file has to name the parts, because they are not the levels of a pyramid.
    """

    scorer: Scorer
    target: FusionTarget
    names: tuple[str, ...]
    scorers: tuple[Scorer, ...]
    equal: Array
    combine: Callable[[Array, Array], tuple[Array, Array]]
    lower_is_better: bool
    named: bool


def parts_of(metric: str, levels: int, per_layer: bool = False, run: Run = Run()) -> Parts:  # noqa: B008 (frozen)
    """The parts of a metric by its name with options, on so many levels; with ``per_layer`` each layer on each level by itself.

    Raises:
        ValueError: nothing in it that could be weighed, or with ``per_layer`` no two layers; and as :func:`create_scorer`.
    """
    name = parse_metric(metric)[0]
    if not on_a_pyramid(name):
        known = ", ".join(each for each in registry.names() if registry.get(each).multiscale)
        raise ValueError(f"{name} has no levels to weigh: choose {known} or ms-<name>")
    scorer = create_scorer(metric, run.device, run.runtime, levels=levels)
    whole = next((module for module in scorer.metric.modules() if isinstance(module, Hybrid | PyramidMetric)), None)
    if isinstance(whole, Hybrid):
        return _of_hybrid(scorer, whole, per_layer)
    if whole is None:
        raise ValueError(f"{name} has no pyramid in it, so its levels cannot be scored one by one")
    if per_layer and len(whole.layers) < 2:
        raise ValueError(f"{name} has no layers to weigh, or only one: choose some, as in msds,layers=[relu3_3,relu5_1]")
    names = tuple(level_parts(levels, whole.layers if per_layer else ()))
    scorers = _columns(scorer, whole, names, lambda x, y: whole.part_scores(x, y, per_layer).reshape(-1, len(names)))
    equal = np.full(len(names), 1 / len(names))
    return Parts(scorer, whole.target, names, scorers, equal, linear, scorer.lower_is_better, per_layer)


def _of_hybrid(scorer: Scorer, whole: Hybrid, per_layer: bool) -> Parts:
    equal = np.concatenate(whole.part_weights(per_layer))
    if not equal.all():
        raise ValueError(f"{scorer.name} has a term of weight 0: leave it out to learn the weights of the others")
    names = tuple(name for term in whole.parts(per_layer) for name in term)
    sizes = [len(term) for term in whole.parts(per_layer)]
    fuse = Geometric(sizes, [term.scale for term in whole.terms], whole.eps)
    scorers = _columns(scorer, whole, names, lambda x, y: torch.cat(whole.part_dissimilarities(x, y, per_layer), 1))
    scorers = tuple(replace(each, lower_is_better=True) for each in scorers)
    return Parts(scorer, whole.target, names, scorers, equal / equal.sum(), fuse, True, True)


def _columns(scorer: Scorer, whole: Metric, names: tuple[str, ...], find: Callable[[Any, Any], Tensor]) -> tuple[Scorer, ...]:
    once = _Once(find)
    parts = [_Part(whole, once, index, name) for index, name in enumerate(names)]
    return tuple(replace(scorer, name=f"{scorer.name} {part.name}", metric=part) for part in parts)


class _Once(threading.local):
    """Computes what all parts say of a pair once in a thread, though each part is asked by itself, one after the other."""

    def __init__(self, find: Callable[[Any, Any], Tensor]) -> None:
        self.find = find
        self.last: tuple[Tensor, Tensor, Tensor] | None = None

    def __call__(self, x: Any, y: Any) -> Tensor:
        if not (isinstance(x, Tensor) and isinstance(y, Tensor)):  # a large image: read in tiles
            return self.find(x, y)
        if self.last is None or not (torch.equal(self.last[0], x) and torch.equal(self.last[1], y)):
            self.last = x, y, self.find(x, y)
        return self.last[2]


class _Part(PairMetric):
    """What one of the parts says."""

    def __init__(self, whole: Metric, once: _Once, index: int, name: str) -> None:
        super().__init__()
        self.whole, self.once, self.index, self.name = whole, once, index, name
        self.lower_is_better, self.reads_windows = whole.lower_is_better, whole.reads_windows

    @property
    def description(self) -> str:
        return f"{self.whole.description}, {self.name}"

    def weighted_modules(self) -> list[nn.Module]:
        return self.whole.weighted_modules()

    def _score(self, x: Image, y: Image) -> Tensor:
        return self.once(x, y)[:, self.index]
