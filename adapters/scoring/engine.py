"""The engine: pairs of image files and metrics to scores, as they come, in memory that does not grow with their number."""

from __future__ import annotations

import logging
import math
import os
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import Any, TypeAlias

import torch

from ...deepssim import pixels_at_once
from ..common.scorer import Scorer
from ..images.large import open_large
from ..images.notes import Notes
from ..images.pairs import Pair
from ..images.read import Reading, decode
from .blocks import in_blocks
from .compute import Claims, Job, Pixels, Reference, Result, claim, score_batch, size

__all__ = ["Pair", "Result", "score_pairs"]

_Read: TypeAlias = Job | tuple[Pair, str]

#: Images of one batch at most.
BATCH_SIZE = 32
MOST_WORKERS = 16
#: Pairs and pixels of one batch of our metrics on a processor, where more bring nothing.
BATCH_ON_CPU, PIXELS_ON_CPU = 8, 2**18

_LOG = logging.getLogger(__name__)


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

    All happens in this process. Threads decode images; on a processor, where every metric is one of ours, they score too, each
    its own pairs on its share of the cores, which no other thread can hold up. Metrics of toolkits, which may not bear that,
    images too large for it, and GPUs are given one batch after the other, by one thread: the calling one only waits, so that
    it hears signals.

    On a processor the set of pairs alone decides which of them share a batch, not their order, nor the number of workers: see
    :func:`~msds_plugin.adapters.scoring.blocks.in_blocks`.

    Args:
        pairs: what to score.
        scorers: what to score it with.
        batch_size: pairs per batch at most; large images go in smaller batches.
        workers: threads; 0 to do everything in the calling one, None for one per core (at most 16, and one per pair).
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
    ordered = sorted(pairs, key=lambda pair: (str(pair.reference), str(pair.distorted)))
    if workers is None:
        workers = min(_cores(), MOST_WORKERS, max(1, len(ordered)))
    files = _Files(reading or Reading(), Notes(note))
    return _results(_blocks(ordered, scorers), scorers, _plan(scorers, batch_size, workers), workers, files)


def _blocks(ordered: Sequence[Pair], scorers: Sequence[Scorer]) -> list[list[list[Pair]]]:
    """Pairs by reference, in blocks beyond which no batch reaches; all in one where a GPU is to be kept busy."""
    if all(scorer.device.type == "cpu" for scorer in scorers):
        return list(in_blocks(ordered, lambda pair: pair.reference))
    return [[list(group) for _, group in groupby(ordered, lambda pair: pair.reference)]]


@dataclass(frozen=True)
class _Plan:
    """How large batches are, and how many are scored beside each other."""

    batch_size: int
    pixels: int  # of one batch
    waiting: int  # pairs of batches that are not full
    pixels_waiting: int  # of these
    beside: int = 1
    pixels_beside: int = 0  # of one image: more take so much memory that they are scored one after the other
    threads: int = 0  # of each of them
    together: bool = True  # both images of a pair may share a pass

    def takes(self, job: Job) -> bool:
        """Whether pairs of this size are scored beside others."""
        return self.beside > 1 and max(map(math.prod, job.sizes)) <= self.pixels_beside

    def is_full(self, batch: Sequence[Job]) -> bool:
        return len(batch) >= min(self.batch_size, self.pixels // max(map(math.prod, batch[0].sizes)))


def _plan(scorers: Sequence[Scorer], batch_size: int, workers: int) -> _Plan:
    pixels = min(pixels_at_once(scorer.device) for scorer in scorers)
    if not all(scorer.device.type == "cpu" and scorer.representing is not None for scorer in scorers):
        return _Plan(batch_size, pixels, 4 * batch_size, 4 * pixels)
    beside = max(1, workers)
    threads = max(1, torch.get_num_threads() // beside)
    size = min(batch_size, BATCH_ON_CPU)
    return _Plan(
        size, min(pixels, PIXELS_ON_CPU), 4 * batch_size, 4 * pixels, beside, pixels // beside, threads, together=False
    )


@contextmanager
def _threads(workers: int, each: int) -> Iterator[ThreadPoolExecutor | None]:
    """So many threads, whose own operations run on ``each`` threads of torch's (0: as many as here)."""
    if not workers:
        yield None
        return
    ours = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, "msds", torch.set_num_threads, (each or ours,))
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        torch.set_num_threads(ours)  # or threads that are yet to come would get the number of the pool's


@dataclass(frozen=True)
class _Files:
    """How files are read, and who is told what is of note."""

    reading: Reading
    notes: Notes

    def load(self, path: Path) -> Pixels | str:
        """A decoded file; in place of one that cannot be read, the reason."""
        try:
            return open_large(path, self.reading) or decode(path, self.reading)
        except Exception as error:  # whatever is wrong with one file must not cost the others
            return str(error) or type(error).__name__


def _results(
    blocks: Sequence[Sequence[Sequence[Pair]]], scorers: Sequence[Scorer], plan: _Plan, workers: int, files: _Files
) -> Iterator[Result]:
    threads = plan.threads if plan.beside > 1 else 0
    with _threads(workers, threads) as pool, _threads(min(workers, 1), 0) as apart:
        groups = chain.from_iterable(blocks)
        paths = (path for group in groups for path in (group[0].reference, *(pair.distorted for pair in group)))
        images = _images(paths, pool, 2 * workers, files)
        running: deque[Future[list[Result]]] = deque()
        precision = _Precision(scorers[0].device.type)
        for batch in (batch for block in blocks for batch in _batches(_jobs(block, images, files.notes), plan)):
            if isinstance(batch, tuple):
                pair, reason = batch
                yield from (Result(pair, scorer.name, math.nan, 0.0, reason) for scorer in scorers)
                continue
            if pool is not None and plan.takes(batch[0]):
                claims = claim(batch, scorers)
                running.append(pool.submit(precision.score, batch, scorers, claims, plan.beside, plan.together))
                while running and (running[0].done() or len(running) > 2 * plan.beside):
                    yield from running.popleft().result()
                continue
            while running:
                yield from running.popleft().result()
            claims = claim(batch, scorers)
            if apart is None:
                yield from score_batch(batch, scorers, claims, together=plan.together)
            else:  # so that the calling thread only waits, and hears signals during operations that take long
                yield from apart.submit(precision.score, batch, scorers, claims, 1, plan.together).result()
        while running:
            yield from running.popleft().result()


class _Precision:
    """The autocast and the GPU of the caller, which torch keeps by thread."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.half = torch.is_autocast_enabled(device)
        self.dtype = torch.get_autocast_dtype(device)
        self.gpu = torch.cuda.current_device() if device == "cuda" else None

    def score(
        self, batch: Sequence[Job], scorers: Sequence[Scorer], claims: Sequence[Claims], beside: int, together: bool
    ) -> list[Result]:
        on_gpu = nullcontext() if self.gpu is None else torch.cuda.device(self.gpu)
        with on_gpu, torch.autocast(self.device, self.dtype, self.half):
            return score_batch(batch, scorers, claims, beside, together)


def _batches(jobs: Iterator[_Read], plan: _Plan) -> Iterator[list[Job] | tuple[Pair, str]]:
    """Pairs of equal sizes together, as soon as a batch is full or too many wait; what cannot be read by itself."""
    waiting: dict[Any, list[Job]] = defaultdict(list)
    for job in jobs:
        if isinstance(job, tuple):
            yield job
            continue
        waiting[job.sizes].append(job)
        if plan.is_full(waiting[job.sizes]):
            yield waiting.pop(job.sizes)
        elif _too_many(waiting, plan.waiting, plan.pixels_waiting):
            yield waiting.pop(max(waiting, key=lambda sizes: len(waiting[sizes])))
    yield from waiting.values()


def _too_many(waiting: Mapping[Any, Sequence[Job]], most: int, most_pixels: int) -> bool:
    jobs = [job for batch in waiting.values() for job in batch]
    return len(jobs) >= most or sum(math.prod(size(job.distorted)) for job in jobs) >= most_pixels


def _jobs(groups: Iterable[Sequence[Pair]], images: Iterator[Pixels | str], notes: Notes) -> Iterator[_Read]:
    """The pairs by reference, with their images or the reason why they cannot be read."""
    for group in groups:
        image = next(images)
        if isinstance(image, str):
            yield from ((pair, image) for pair, _ in zip(group, images, strict=False))
            continue
        references = {False: Reference(image)}  # as it is, and in sRGB where a distorted image has another profile
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
                        references[True] = Reference(image.in_srgb())
            except ValueError as error:
                yield pair, f"{pair.distorted} beside {pair.reference}: {error}"
                continue
            yield Job(pair, distorted, references[differ])


def _images(paths: Iterable[Path], pool: ThreadPoolExecutor | None, ahead: int, files: _Files) -> Iterator[Pixels | str]:
    """Decoded files, a few of them ahead of need."""
    if pool is None:
        yield from map(files.load, paths)
        return
    waiting: deque[Future[Pixels | str]] = deque()
    for path in paths:
        waiting.append(pool.submit(files.load, path))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
