"""Batches of decoded pairs to scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from time import perf_counter
from typing import TypeAlias

import torch
from torch import Tensor

from ...deepssim import fit_together
from ...representation import Representation
from ...windows import Windows
from ..common.scorer import Representing, Scorer
from ..images.large import LARGE, LargeImage
from ..images.pairs import Pair
from ..images.read import Picture, to_tensor

Pixels: TypeAlias = Picture | LargeImage


@dataclass(frozen=True)
class Result:
    """What one metric says of one pair.

    Attributes:
        pair: the pair.
        metric: the scorer's name.
        score: NaN where there is none.
        seconds: time spent on this score, without reading the files; images of one batch share its time equally, and so do
            batches that are scored beside each other.
        error: why there is no score.
    """

    pair: Pair
    metric: str
    score: float
    seconds: float
    error: str | None = None


@dataclass(eq=False)
class Reference:
    """An image and what metrics keep of it, by their place; it lives as long as a pair that waits for it."""

    pixels: Pixels
    kept: dict[int, Future[Representation]] = field(default_factory=dict)


#: The references that a batch is to represent, for one metric.
Claims: TypeAlias = dict[Reference, "Future[Representation]"]


@dataclass(eq=False)
class Job:
    """A pair whose images have been read."""

    pair: Pair
    distorted: Pixels
    reference: Reference

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """Height and width of both images."""
        return size(self.distorted), size(self.reference.pixels)


def size(image: Pixels) -> tuple[int, ...]:
    """Height and width."""
    return image.shape[-2:] if isinstance(image, LargeImage) else image.shape[:2]


def claim(batch: Sequence[Job], scorers: Sequence[Scorer]) -> list[Claims]:
    """For each metric, the references of a batch that no batch before has claimed: it is to represent them.

    Called in the order in which batches start, so that nobody waits for one that comes later, and that what is computed
    together does not depend on which thread is faster.
    """
    claims: list[Claims] = []
    for key, scorer in enumerate(scorers):
        references = dict.fromkeys(job.reference for job in batch) if scorer.representing is not None else {}
        claims.append({reference: Future() for reference in references if key not in reference.kept})
        for reference, future in claims[key].items():
            reference.kept[key] = future
    return claims


def score_batch(
    batch: Sequence[Job], scorers: Sequence[Scorer], claims: Sequence[Claims], beside: int = 1, together: bool = True
) -> list[Result]:
    """All results of a batch, those of one pair one after the other.

    Args:
        batch: pairs of equal sizes.
        scorers: what to score them with.
        claims: from :func:`claim`.
        beside: how many batches are scored at the same time, in threads that share references.
        together: references may share a pass with distorted images. Not beside other threads: these may wait for the
            references, and must not learn of an error in a distorted image.
    """
    by_metric = [_score_with(scorer, key, batch, claims[key], beside, together) for key, scorer in enumerate(scorers)]
    return [result for results in zip(*by_metric, strict=True) for result in results]


def _score_with(scorer: Scorer, key: int, batch: Sequence[Job], claims: Claims, beside: int, together: bool) -> list[Result]:
    start = perf_counter()
    try:
        with torch.inference_mode():
            scores = _scores(scorer, key, batch, claims, together).tolist()
    except Exception as error:  # whatever a metric cannot do with one pair must not cost the others
        _give_up(claims, error)
        if len(batch) > 1:
            return [result for job in batch for result in _score_with(scorer, key, [job], {}, beside, together)]
        reason = " ".join(str(error).split()) or type(error).__name__
        return [Result(batch[0].pair, scorer.name, math.nan, (perf_counter() - start) / beside, reason)]
    except BaseException as error:
        _give_up(claims, error)
        raise
    seconds = (perf_counter() - start) / len(batch) / beside
    return [
        Result(job.pair, scorer.name, score, seconds, "the score is not a number" if math.isnan(score) else None)
        for job, score in zip(batch, scores, strict=True)
    ]


def _give_up(claims: Claims, error: BaseException) -> None:
    for future in claims.values():
        if not future.done():
            future.set_exception(error)


def _scores(scorer: Scorer, key: int, batch: Sequence[Job], claims: Claims, together: bool) -> Tensor:
    x = _stack([job.distorted for job in batch], scorer.device)
    metric = scorer.representing
    large = any(isinstance(image, LargeImage) for job in batch for image in (job.distorted, job.reference.pixels))
    if metric is None or (large and getattr(metric, "keeps_images", False)):
        y = _stack([job.reference.pixels for job in batch], scorer.device)
        if metric is None and large:
            raise ValueError(f"images of {LARGE // 10**6} megapixels and more are read in windows, which {scorer.name} cannot")
        return scorer.score(x, y)  # type: ignore[arg-type]
    distorted = _represent(metric, x, claims, scorer, together)
    if distorted is None:
        distorted = metric.represent(x)
    if len({job.reference for job in batch}) == 1:
        return metric.compare(distorted, _kept(batch[0].reference, key, metric, scorer))
    return metric.compare(distorted, Representation.cat([_kept(job.reference, key, metric, scorer) for job in batch]))


def _represent(
    metric: Representing,
    x: Tensor | Windows,
    claims: Claims,
    scorer: Scorer,
    together: bool,
) -> Representation | None:
    """Represent the references that were claimed, all of one size; where ``x`` could share their pass, what became of it."""
    if not claims:
        return None
    y = _stack([reference.pixels for reference in claims], scorer.device)
    distorted = None
    if together and fit_together(x, y):
        both = metric.represent(torch.cat([x, y]))  # type: ignore[list-item]
        distorted, represented = both[: x.shape[0]], both[x.shape[0] :]
    else:
        represented = metric.represent(y)
    for index, future in enumerate(claims.values()):
        # A copy, since a slice would keep the whole batch in memory.
        future.set_result(represented[index].to(scorer.device, copy=True))
    return distorted


def _kept(reference: Reference, key: int, metric: Representing, scorer: Scorer) -> Representation:
    kept = reference.kept[key]
    if kept.exception() is None:
        return kept.result()
    # Whoever claimed it failed, maybe by another image of its batch.
    return metric.represent(_stack([reference.pixels], scorer.device))


def _stack(images: Sequence[Pixels], device: torch.device) -> Tensor | Windows:
    if isinstance(images[0], LargeImage):  # never in a batch with others
        return images[0]
    return torch.cat([to_tensor(image, device) for image in images if not isinstance(image, LargeImage)])
