"""The parts of a metric that can have a weight each, as metrics of their own: levels, layers, terms of a hybrid."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ... import registry
from ...errors import check_size
from ...functional import pyramid
from ...fusion_file import FusionTarget, layers_of, level_parts
from ...hybrid import Hybrid
from ...multiscale import MultiScale
from ...representation import Representation
from ..common.names import on_a_pyramid, parse_metric
from ..common.scorer import Scorer
from ..scoring.scorers import create_scorer
from .learning import Array, Combine, Geometric, linear

__all__ = ["Parts", "parts_of"]


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
    combine: Combine
    lower_is_better: bool
    named: bool


def parts_of(metric: str, levels: int, per_layer: bool = False, device: str | torch.device | None = None) -> Parts:
    """The parts of a metric by its name.

    Args:
        metric: with options after commas.
        levels: of its pyramid.
        per_layer: each layer on each level by itself.
        device: see :func:`create_scorer`.

    Raises:
        ValueError: nothing in it that could be weighed, or with ``per_layer`` no two layers; and as :func:`create_scorer`.
    """
    name = parse_metric(metric)[0]
    if not on_a_pyramid(name):
        known = ", ".join(each for each in registry.names() if registry.get(each).multiscale)
        raise ValueError(f"{name} has no levels to weigh: choose {known} or ms-<name>")
    scorer = create_scorer(metric, device, levels=levels)
    whole = next((module for module in scorer.module.modules() if isinstance(module, Hybrid | MultiScale)), None)
    if whole is None:
        raise ValueError(f"{name} has no MultiScale in it, so its levels cannot be scored one by one")
    if isinstance(whole, Hybrid):
        return _of_hybrid(scorer, whole, per_layer)
    layers = layers_of(whole.metric)
    if per_layer and len(layers) < 2:
        raise ValueError(f"{name} has no layers to weigh, or only one: choose some, as in msds,layers=[relu3_3,relu5_1]")
    names = tuple(level_parts(levels, layers if per_layer else ()))
    scorers = _columns(scorer, whole, names, lambda x, y: whole.layer_scores(x, y).flatten(1)) if per_layer else ()
    return Parts(
        scorer,
        FusionTarget.of(whole.metric),
        names,
        scorers or tuple(level_scorers(scorer, whole)),
        np.full(len(names), 1 / len(names)),
        linear,
        scorer.lower_is_better,
        per_layer,
    )


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


def _columns(
    scorer: Scorer, whole: nn.Module, names: tuple[str, ...], find: Callable[[Any, Any], Tensor]
) -> tuple[Scorer, ...]:
    once = _Once(find)
    modules = [_Column(whole, once, index, name) for index, name in enumerate(names)]
    return tuple(
        replace(scorer, name=f"{scorer.name} {name}", score=module, module=module)
        for name, module in zip(names, modules, strict=True)
    )


class _Once:
    """Computes what all parts say of a batch once, though each part is asked by itself, one after the other."""

    def __init__(self, find: Callable[[Any, Any], Tensor]) -> None:
        self.find = find
        self.last: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=1)

    def __call__(self, x: Any, y: Any) -> Tensor:
        for a, b, found in self.last:
            if a.shape == x.shape and b.shape == y.shape and torch.equal(a, x) and torch.equal(b, y):
                return found
        found = self.find(x, y)
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            self.last.append((x, y, found))
        return found


class _Column(nn.Module):
    """What one of the parts says."""

    def __init__(self, whole: nn.Module, once: _Once, index: int, name: str) -> None:
        super().__init__()
        self.whole, self.once, self.index = whole, once, index
        self.source = f"{whole.source}, {name}"

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.once(x, y)[:, self.index]


class _Level(nn.Module):
    """What a multiscale metric computes on one of its levels."""

    def __init__(self, whole: MultiScale, level: int) -> None:
        super().__init__()
        self.metric = whole.metric
        self.level = level
        self.levels = whole.levels
        self.source = f"{FusionTarget.of(whole.metric)}, {whole.source}, level {level}"

    def _at(self, image: Tensor) -> Tensor:
        check_size(image, getattr(self.metric, "smallest", 1), self.levels)
        return pyramid(image, self.level + 1)[-1]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        scores: Tensor = self.metric(self._at(x), self._at(y))
        return scores.reshape(-1)


class _RepresentingLevel(_Level):
    """The same where a reference can be represented once."""

    metric: Any  # it has represent and compare

    def represent(self, image: Tensor) -> Representation:
        represented: Representation = self.metric.represent(self._at(image))
        return represented

    def compare(self, a: Representation, b: Representation) -> Tensor:
        scores: Tensor = self.metric.compare(a, b)
        return scores


def level_scorers(scorer: Scorer, whole: MultiScale) -> list[Scorer]:
    """The levels of a metric, each by itself."""
    kind = _Level if scorer.representing is None else _RepresentingLevel
    found = []
    for level, name in enumerate(level_parts(whole.levels)):
        module = kind(whole, level)
        found.append(replace(scorer, name=f"{scorer.name} {name}", score=module, module=module))
    return found
