"""The parts of a hybrid that can have a weight of their own: its terms, and the levels and layers of terms on a pyramid."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from torch import Tensor

from ..functional import normalise_fusion
from ..fusion_file import FusionFile, FusionFileError, FusionTarget, layers_of, level_parts
from ..multiscale import Fusion, MultiScale
from ..windows import Windows
from .term import Term, from_similarity

__all__ = ["part_dissimilarities", "part_names", "part_weights", "target_of", "weighted"]


def _name(metric: object) -> str:
    named = metric if hasattr(metric, "__qualname__") else type(metric)
    return str(getattr(named, "__qualname__", "metric"))


def target_of(terms: Sequence[Term]) -> FusionTarget:
    """What tells hybrids of other terms apart: the names of the metrics, and the first feature network of ours."""
    metrics = [term.metric.metric if isinstance(term.metric, MultiScale) else term.metric for term in terms]
    targets = [FusionTarget.of(metric) for metric in metrics]
    network = next((target for target in targets if target.backbone), FusionTarget(""))
    return FusionTarget(f"hybrid({', '.join(target.base for target in targets)})", network.backbone, network.layers)


def _splits(term: Term) -> bool:
    """Whether the dissimilarities of its levels and layers add up to its own."""
    return isinstance(term.metric, MultiScale) and term.dissimilarity in (from_similarity, None)


def part_names(terms: Sequence[Term], per_layer: bool = False) -> list[list[str]]:
    """The names of the parts of each term: its levels, each layer on each level, or the term itself."""
    titles = [_name(term.metric) for term in terms]
    titles = [f"{title} {titles[:i].count(title) + 1}" if titles.count(title) > 1 else title for i, title in enumerate(titles)]
    found = []
    for title, term in zip(titles, terms, strict=True):
        if not _splits(term):
            found.append([title])
            continue
        metric = cast(MultiScale, term.metric)
        layers = layers_of(metric.metric) if per_layer else ()
        found.append([f"{title} {part}" for part in level_parts(metric.levels, layers)])
    return found


def weighted(terms: Sequence[Term], fusion: Fusion) -> list[Term]:
    """The terms with other weights; networks are shared.

    Args:
        terms: of a hybrid.
        fusion: one weight for each term, for each of their levels, or for each layer on each level, in the order of
            :func:`part_names`; or the path of a file that ``msds fit`` wrote.

    Raises:
        FusionFileError: a file of weights that is damaged, or for another metric.
        ValueError: another number of weights, a negative one, or none above zero.
    """
    if fusion is None:
        return list(terms)
    plain = [[name.partition(" level")[0]] for name, *_ in part_names(terms)]
    known = [plain, part_names(terms), part_names(terms, True)]
    if isinstance(fusion, str | os.PathLike):
        names, weights = _from_file(fusion, terms, known)
    else:
        count = fusion.numel() if isinstance(fusion, Tensor) else len(fusion)
        fitting = [names for names in known if sum(map(len, names)) == count]
        if not fitting:
            counts = " or ".join(str(n) for n in dict.fromkeys(sum(map(len, names)) for names in known))
            raise ValueError(f"fusion has {count} weights: this hybrid takes {counts}, for {_flat(known[-1])}")
        names, weights = fitting[0], normalise_fusion(fusion, count)
    parts = weights.split([len(each) for each in names])
    return [_reweighted(term, part) for term, part in zip(terms, parts, strict=True)]


def _from_file(
    path: str | os.PathLike[str], terms: Sequence[Term], known: Sequence[list[list[str]]]
) -> tuple[list[list[str]], Tensor]:
    file = FusionFile.load(path)
    file.check_target(target_of(terms), path)
    for names in known:
        if file.parts == tuple(name for each in names for name in each):
            return names, normalise_fusion(file.weights, len(file.weights))
    raise FusionFileError(
        f"{path} holds fusion weights for {file.metric} ({file.target}): {', '.join(file.parts) or f'{file.levels} levels'}; "
        f"this hybrid has {_flat(known[-1])}"
    )


def _flat(names: Sequence[Sequence[str]]) -> str:
    return ", ".join(name for each in names for name in each)


def _reweighted(term: Term, weights: Tensor) -> Term:
    whole = float(weights.sum())
    if len(weights) == 1 or whole == 0:
        return replace(term, weight=whole)
    return replace(term, metric=cast(MultiScale, term.metric).weighted(weights), weight=whole)


def part_weights(terms: Sequence[Term], per_layer: bool = False) -> list[list[float]]:
    """The weights of the parts of each term, all together summing to one."""
    whole = sum(term.weight for term in terms)
    return [[term.weight / whole * share for share in _shares(term, per_layer)] for term in terms]


def _shares(term: Term, per_layer: bool) -> list[float]:
    if not _splits(term):
        return [1.0]
    metric = cast(MultiScale, term.metric)
    layers = len(layers_of(metric.metric)) if per_layer else 0
    levels = metric.fusion.detach().double().unsqueeze(1)
    by_layer = levels.new_full((metric.levels, layers or 1), 1 / (layers or 1))
    if layers and metric.layer_weights is not None:
        by_layer = metric.layer_weights.double()
    return (levels * by_layer).flatten().tolist()


def part_dissimilarities(terms: Sequence[Term], x: Tensor | Windows, y: Tensor | Windows, per_layer: bool) -> list[Tensor]:
    """What each part finds, (N, parts) for each term; a term's own is the weighted mean of them."""
    return [_of_term(term, x, y, per_layer) for term in terms]


def _of_term(term: Term, x: Tensor | Windows, y: Tensor | Windows, per_layer: bool) -> Tensor:
    metric: Any = term.metric
    if not _splits(term):
        scores = metric(x, y).reshape(x.shape[0], 1)
    elif per_layer and layers_of(metric.metric):
        scores = metric.layer_scores(x, y).flatten(1)
    else:
        scores = metric.level_scores(x, y)
    found: Tensor = scores if term.dissimilarity is None else term.dissimilarity(scores)
    return found.clamp_min(0)
