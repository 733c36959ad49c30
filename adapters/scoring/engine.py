"""The engine: pairs of image files and metrics to scores, as they come, in memory that does not grow with their number."""

from __future__ import annotations

import logging
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ...deepssim import fit_together, pixels_at_once
from ...representation import Representation
from ...windows import Windows
from ..common.scorer import Representing, Scorer
from ..images.large import LARGE, LargeImage, open_large
from ..images.notes import Notes
from ..images.pairs import Pair
from ..images.read import Picture, Reading, decode, to_tensor

__all__ = ["Pair", "Result", "score_pairs"]

Pixels: TypeAlias = Picture | LargeImage

#: Images of one batch at most.
BATCH_SIZE = 32
#: Below this many images, starting workers takes longer than they save.
FEW_IMAGES = 16
MOST_WORKERS = 8

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What one metric says of one pair.

    Attributes:
        pair: the pair.
        metric: the scorer's name.
        score: NaN where there is none.
        seconds: time spent on this score, without reading the files; images of one batch share its time equally.
        error: why there is no score.
    """

    pair: Pair
    metric: str
    score: float
    seconds: float
    error: str | None = None


def score_pairs(
    pairs: Iterable[Pair],
    scorers: Sequence[Scorer],
    batch_size: int = BATCH_SIZE,
    workers: int | None = None,
    reading: Reading | None = None,
    note: Callable[[str], object] = _LOG.warning,
) -> Iterator[Result]:
    """Score every pair with every metric, giving results as they come, those of one pair one after the other.

    Pairs of one reference are taken together, so that each file is decoded once per reference it belongs to and each
    reference is represented once by every metric that can. Only pairs of equal image sizes share a batch. An image that
    cannot be read, and a pair that a metric cannot score, give a result that says why, and cost no other.

    Args:
        pairs: what to score.
        scorers: what to score it with.
        batch_size: pairs per batch at most; large images go in smaller batches.
        workers: processes that decode images; 0 to do it here, None for one per core (at most eight; none for few images).
        reading: what the files do not say: see :class:`Reading`.
        note: called once for everything of note in how files were read: transparency, several frames, colour profiles.

    Raises:
        ValueError: a batch size below one, a negative number of workers, or no metric.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if workers is not None and workers < 0:
        raise ValueError(f"workers must not be negative, got {workers}")
    if not scorers:
        raise ValueError("no metric to score with")
    return _results(_read(pairs, workers, reading or Reading(), note), scorers, batch_size)


@dataclass(eq=False)
class _Reference:
    """An image and what metrics keep of it; it lives as long as a pair that waits for it."""

    pixels: Pixels
    representations: dict[int, Representation] = field(default_factory=dict)


@dataclass(eq=False)
class _Job:
    """A pair whose images have been read."""

    pair: Pair
    distorted: Pixels
    reference: _Reference

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        return _size(self.distorted), _size(self.reference.pixels)


def _size(image: Pixels) -> tuple[int, ...]:
    return image.shape[-2:] if isinstance(image, LargeImage) else image.shape[:2]


def _results(jobs: Iterator[_Job | tuple[Pair, str]], scorers: Sequence[Scorer], batch_size: int) -> Iterator[Result]:
    waiting: dict[Any, list[_Job]] = defaultdict(list)
    pixels = min(pixels_at_once(scorer.device) for scorer in scorers)
    for job in jobs:
        if isinstance(job, tuple):
            pair, reason = job
            yield from (Result(pair, scorer.name, math.nan, 0.0, reason) for scorer in scorers)
            continue
        waiting[job.sizes].append(job)
        if len(waiting[job.sizes]) >= min(batch_size, pixels // max(map(math.prod, job.sizes))):
            yield from _score(waiting.pop(job.sizes), scorers)
        elif _too_many(waiting, 4 * batch_size, 4 * pixels):
            yield from _score(waiting.pop(max(waiting, key=lambda sizes: len(waiting[sizes]))), scorers)
    for batch in waiting.values():
        yield from _score(batch, scorers)


class _Images(Dataset[Any]):
    """Decoded files; in place of one that cannot be read, the reason."""

    def __init__(self, paths: Sequence[Path], reading: Reading) -> None:
        self.paths, self.reading = paths, reading

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Pixels | str:
        try:
            return open_large(self.paths[index], self.reading) or decode(self.paths[index], self.reading)
        except Exception as error:  # whatever is wrong with one file must not cost the others
            return str(error) or type(error).__name__


def _as_it_is(image: Any) -> Any:
    # An array travels through a pipe. As a tensor it would take shared memory, of which containers often have 64 MB.
    return image


def _read(
    pairs: Iterable[Pair], workers: int | None, reading: Reading, note: Callable[[str], object]
) -> Iterator[_Job | tuple[Pair, str]]:
    """The pairs by reference, with their images or the reason why they cannot be read; workers start at once."""
    groups: dict[Path, list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[pair.reference].append(pair)
    paths = [path for reference, group in groups.items() for path in (reference, *(pair.distorted for pair in group))]
    if workers is None:
        workers = 0 if len(paths) < FEW_IMAGES else min(_cores(), MOST_WORKERS)
    loader = DataLoader(
        _Images(paths, reading),
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # or it draws from the caller's random numbers
    )
    return _jobs(groups.values(), iter(loader), Notes(note))


def _jobs(groups: Iterable[Sequence[Pair]], images: Iterator[Pixels | str], notes: Notes) -> Iterator[_Job | tuple[Pair, str]]:
    for group in groups:
        image = next(images)
        if isinstance(image, str):
            yield from ((pair, image) for pair, _ in zip(group, images, strict=False))
            continue
        references = {False: _Reference(image)}  # as it is, and in sRGB where a distorted image has another profile
        notes.say(group[0].reference, image)
        for pair, distorted in zip(group, images, strict=False):
            if isinstance(distorted, str):
                yield pair, distorted
                continue
            notes.say(pair.distorted, distorted)
            differ = distorted.profile != image.profile
            try:
                if differ:
                    notes.say_profiles(pair.distorted, pair.reference)
                    distorted = distorted.in_srgb()
                    if True not in references:
                        references[True] = _Reference(image.in_srgb())
            except ValueError as error:
                yield pair, f"{pair.distorted} beside {pair.reference}: {error}"
                continue
            yield _Job(pair, distorted, references[differ])


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _too_many(waiting: Mapping[Any, Sequence[_Job]], most: int, most_pixels: int) -> bool:
    jobs = [job for batch in waiting.values() for job in batch]
    return len(jobs) >= most or sum(math.prod(_size(job.distorted)) for job in jobs) >= most_pixels


def _score(batch: Sequence[_Job], scorers: Sequence[Scorer]) -> Iterator[Result]:
    by_metric = [_score_with(scorer, key, batch) for key, scorer in enumerate(scorers)]
    for results in zip(*by_metric, strict=True):
        yield from results


def _score_with(scorer: Scorer, key: int, batch: Sequence[_Job]) -> list[Result]:
    start = perf_counter()
    try:
        with torch.inference_mode():
            scores = _scores(scorer, key, batch).tolist()
    except Exception as error:  # whatever a metric cannot do with one pair must not cost the others
        if len(batch) > 1:
            return [result for job in batch for result in _score_with(scorer, key, [job])]
        reason = " ".join(str(error).split()) or type(error).__name__
        return [Result(batch[0].pair, scorer.name, math.nan, perf_counter() - start, reason)]
    seconds = (perf_counter() - start) / len(batch)
    return [
        Result(job.pair, scorer.name, score, seconds, "the score is not a number" if math.isnan(score) else None)
        for job, score in zip(batch, scores, strict=True)
    ]


def _scores(scorer: Scorer, key: int, batch: Sequence[_Job]) -> Tensor:
    x = _stack([job.distorted for job in batch], scorer.device)
    metric = scorer.representing
    if metric is None:
        y = _stack([job.reference.pixels for job in batch], scorer.device)
        if not isinstance(x, Tensor) or not isinstance(y, Tensor):
            raise ValueError(f"images of {LARGE // 10**6} megapixels and more are read in windows, which {scorer.name} cannot")
        return scorer.score(x, y)
    references = list(dict.fromkeys(job.reference for job in batch))
    new = [reference for reference in references if key not in reference.representations]
    distorted = _represent(metric, x, key, new, scorer)
    kept = [job.reference.representations[key] for job in batch]
    return metric.compare(distorted, kept[0] if len(references) == 1 else Representation.cat(kept))


def _represent(
    metric: Representing, x: Tensor | Windows, key: int, references: Sequence[_Reference], scorer: Scorer
) -> Representation:
    """The representation of ``x``; those of ``references``, all of one size, are stored in them."""
    if not references:
        return metric.represent(x)
    y = _stack([reference.pixels for reference in references], scorer.device)
    if fit_together(x, y):
        both = metric.represent(torch.cat([x, y]))  # type: ignore[list-item]
        distorted, represented = both[: x.shape[0]], both[x.shape[0] :]
    else:
        distorted, represented = metric.represent(x), metric.represent(y)
    for index, reference in enumerate(references):
        # A copy, since a slice would keep the whole batch in memory.
        reference.representations[key] = represented[index].to(scorer.device, copy=True)
    return distorted


def _stack(images: Sequence[Pixels], device: torch.device) -> Tensor | Windows:
    if isinstance(images[0], LargeImage):  # never in a batch with others
        return images[0]
    return torch.cat([to_tensor(image, device) for image in images if not isinstance(image, LargeImage)])
