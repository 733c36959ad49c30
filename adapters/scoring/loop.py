"""The one loop: pairs of image files and metrics to scores, as they come, in memory that does not grow with their number."""

from __future__ import annotations

import hashlib
import logging
import math
import threading
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter
from typing import Any, TypeAlias, cast, get_args

import torch
from torch import Tensor

from msds_plugin.adapters.images.large import LargeImage
from msds_plugin.adapters.images.pairs import Pair
from msds_plugin.adapters.images.read import (
    LARGE,
    PROFILES,
    SIZES,
    Notes,
    Opened,
    Picture,
    Reading,
    alike,
    open_side,
    to_tensor,
)
from msds_plugin.adapters.scorers import Scorer
from msds_plugin.adapters.scoring.files import content, state
from msds_plugin.adapters.scoring.masks import Mask, describe, takes_weights, to_mask
from msds_plugin.encoder import MatrixMetric
from msds_plugin.metric import Representation
from msds_plugin.runtimes import Runtime, cores

#: (pair, reading, None) to the reference of a pair; with the reference in place of None, to its distorted image.
Opener: TypeAlias = Callable[[Pair, Reading, Opened | None], Opened]

#: Distorted images of one task at most; each task decodes its reference.
TASK = 32
MOST_WORKERS = 16
#: Pixels of an image that is scored by itself, on all cores: several of them side by side would take too much memory.
ALONE = 2**22
#: Pixels of one pass on a GPU.
PIXELS_ON_GPU = 2**24

_LOG = logging.getLogger("msds_plugin")
_ALONE = threading.Lock()


@dataclass(frozen=True)
class Run:
    """Where and how metrics are computed, and how image files are read.

    Attributes:
        device: ``cpu``, ``cuda``, ``cuda:1``, ...; None for the GPU if there is one.
        runtime: ``torch`` or ``openvino``; None for OpenVINO on a CPU where it is installed, else torch.
        amp: compute in half precision (autocast).
        batch_size: images of one pass on a GPU, at most; on a CPU images go one by one.
        workers: threads that decode and score; 0 for the calling one alone, None for one per core (at most 16).
        reading: what the user states about the files.
        masks: an image for each reference that says by white where it counts, see :mod:`msds_plugin.adapters.scoring.masks`.
        note: called with each remark on how files were read.

    Raises:
        ValueError: a batch size below one, a negative number of workers, or an unknown runtime.
    """

    device: str | None = None
    runtime: str | None = None
    amp: bool = False
    batch_size: int = 8
    workers: int | None = None
    reading: Reading = Reading()  # noqa: RUF009 (frozen)
    masks: Mapping[Any, Any] = field(default_factory=dict)
    note: Callable[[str], object] = _LOG.warning

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"workers must not be negative, got {self.workers}")
        if self.runtime not in (None, *get_args(Runtime)):
            raise ValueError(f"unknown runtime {self.runtime!r}: choose {' or '.join(get_args(Runtime))}")


@dataclass(frozen=True)
class Result:
    """What one metric says of one pair.

    Attributes:
        pair: the pair.
        metric: the scorer's name.
        score: NaN where there is none.
        seconds: time spent on this score, without reading the files; a reference's share counts for the first of its pairs.
        error: why there is no score.
        key: that of the content that was decoded, see ``store.pair_keys``; None unless asked for.
    """

    pair: Pair
    metric: str
    score: float
    seconds: float
    error: str | None = None
    key: str | None = None


def joined(reference: str, distorted: str, half: str = "", mask: str = "") -> str:
    """The key of a pair: hashes of its files and its mask, and the half that is the reference where one file holds both."""
    text = "\0".join([reference, distorted, *filter(None, (half, mask))])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def score_pairs(
    pairs: Iterable[Pair],
    scorers: Sequence[Scorer],
    run: Run = Run(),
    keyed: bool = False,
    opener: Opener = open_side,
) -> Generator[Result, None, None]:
    """Score every pair with every metric; results come as they are there, those of one pair one after the other.

    A task is one reference with up to 32 distorted images: the reference is decoded and represented once, then every distorted
    image is decoded, represented and compared. Threads work on tasks side by side, each on its share of the cores; metrics of
    toolkits, which may not bear that, and large images have the cores to themselves, one at a time. An image that cannot be
    read, and a pair that a metric cannot score, give a result that says why and cost no other. The calling thread only waits,
    so that it hears signals.

    Args:
        pairs: what to score.
        scorers: what to score it with.
        run: how.
        keyed: give each result the key of the content that was decoded.
        opener: for pairs of other things than files.

    Raises:
        ValueError: no metric.
    """
    if not scorers:
        raise ValueError("no metric to score with")
    by_reference: dict[tuple[Path, str], list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_reference[pair.reference, pair.half].append(pair)
    groups = list(by_reference.values())
    workers = min(cores(), MOST_WORKERS) if run.workers is None else run.workers
    size = max(1, min(TASK, -(-sum(map(len, groups)) // max(1, workers))))
    tasks = [group[at : at + size] for group in groups for at in range(0, len(group), size)]
    return _side_by_side(_Work(scorers, run, keyed, opener), tasks, min(workers, len(tasks)))


def _side_by_side(work: _Work, tasks: Sequence[Sequence[Pair]], workers: int) -> Generator[Result, None, None]:
    if not workers:
        for task in tasks:
            for results in work.score(task):
                yield from results
        return
    found: SimpleQueue[list[Result] | None] = SimpleQueue()  # None at the end of a task
    stopped = threading.Event()

    def work_on(task: Sequence[Pair]) -> None:
        try:
            for results in work.score(task):
                found.put(results)
                if stopped.is_set():
                    return
        finally:
            found.put(None)

    pool = ThreadPoolExecutor(workers, "msds", torch.set_num_threads, (max(1, work.cores // workers),))
    try:
        running = [pool.submit(work_on, task) for task in tasks]
        for _ in running:
            for results in iter(found.get, None):
                yield from results
        for each in running:
            each.result()  # raises what it ran into
    finally:
        stopped.set()
        pool.shutdown(wait=False, cancel_futures=True)
        torch.set_num_threads(work.cores)  # threads that are yet to come would get the share of the last one


@dataclass(frozen=True)
class _File:
    """An image file that was opened; if scores are to be ``keyed`` also its hash, and what tells that it has changed since."""

    path: Path
    image: Opened
    content: str
    state: tuple[int, ...]


@dataclass(eq=False)
class _Reference:
    """An image beside which others are scored, what of it counts, and its representations by the metrics' places.

    ``files``: its own, and that of the mask if any.
    """

    files: Sequence[_File]
    image: Opened
    mask: Mask | None
    represented: dict[int, Representation] = field(default_factory=dict)


@dataclass(frozen=True)
class _Job:
    """A pair whose files are open; ``image`` is the distorted one, in sRGB if need be."""

    pair: Pair
    file: _File
    image: Opened
    reference: _Reference

    def key(self) -> str:
        """The key of what was decoded; a ValueError if a file has changed since."""
        reference, *mask = self.reference.files
        files = (reference, self.file, *mask)
        for file in files:
            if state(file.path) != file.state:
                raise ValueError(f"{file.path} changed while it was scored: start the same command again")
        return joined(reference.content, self.file.content, self.pair.half, *(file.content for file in mask))


class _Work:
    """Scores tasks; what they have in common."""

    def __init__(self, scorers: Sequence[Scorer], run: Run, keyed: bool, opener: Opener) -> None:
        self.scorers, self.run, self.keyed, self._opener = scorers, run, keyed, opener
        self.cores = torch.get_num_threads()
        self.notes = Notes(run.note)
        self.batch_size = 1 if any(scorer.device.type == "cpu" for scorer in scorers) else run.batch_size
        if run.masks:
            run.note(describe(scorers))

    def score(self, task: Sequence[Pair]) -> Iterator[list[Result]]:
        """The results of each pair of one reference."""
        first = task[0]
        try:
            files, mask = [self._open(first.reference, first)], None
            if self.run.masks:
                files.append(self._open(self.run.masks[first.reference], first, mask=True))
                mask = to_mask(files[1].image, files[0].image.size, files[1].path)
        except Exception as error:  # whatever is wrong with one file must not cost the others
            yield from (self._failed(pair, error) for pair in task)
            return
        # As it is, and in sRGB where a distorted image has another profile.
        references = {False: _Reference(files, files[0].image, mask)}
        batch: list[_Job] = []
        for pair in task:
            try:
                job = self._job(pair, references)
            except Exception as error:
                yield self._failed(pair, error)
                continue
            if batch and not self._fits(batch, job):
                yield from self._results(batch)
                batch = []
            batch.append(job)
        if batch:
            yield from self._results(batch)

    def _open(self, path: Path, pair: Pair, reference: Opened | None = None, mask: bool = False) -> _File:
        """The reference of a pair, or its mask; given the reference, the distorted image."""
        reading = self.run.reading
        if mask:
            pair, reading = replace(pair, reference=path, half=""), replace(reading, channel="rgb")
        before = state(path) if self.keyed else ()
        image = self._opener(pair, reading, reference)
        self.notes.say(path, *image.notes)
        return _File(path, image, content(path) if self.keyed else "", before)

    def _job(self, pair: Pair, references: dict[bool, _Reference]) -> _Job:
        original = references[False]
        distorted = self._open(pair.distorted, pair, original.image)
        image = distorted.image
        if original.mask is not None and image.size != original.image.size:
            raise ValueError("its size is not that of its reference, as a mask needs: let it be resized (--resize, resize=)")
        differ = image.profile != original.image.profile
        if differ:
            self.notes.say(f"{pair.distorted} and {pair.reference}", PROFILES)
            image = image.in_srgb()
            if True not in references:
                references[True] = replace(original, image=original.image.in_srgb(), represented={})
        return _Job(pair, distorted, image, references[differ])

    def _fits(self, batch: Sequence[_Job], job: _Job) -> bool:
        first, number = batch[0], len(batch) + 1
        same = first.reference is job.reference and first.image.size == job.image.size
        small = number * math.prod(job.image.size) <= PIXELS_ON_GPU and not isinstance(job.image, LargeImage)
        return same and small and number <= self.batch_size

    def _failed(self, pair: Pair, error: Exception) -> list[Result]:
        return [Result(pair, scorer.name, math.nan, 0.0, reason(error)) for scorer in self.scorers]

    def _results(self, batch: Sequence[_Job]) -> Iterator[list[Result]]:
        by_metric = [self._scores(place, batch) for place in range(len(self.scorers))]
        for job, *results in zip(batch, *by_metric, strict=True):
            try:
                key = job.key() if self.keyed else None
            except ValueError as error:
                yield self._failed(job.pair, error)
            else:
                yield [replace(result, key=key) for result in results]

    def _scores(self, place: int, batch: Sequence[_Job]) -> list[Result]:
        """What one metric says of each image."""
        name, start = self.scorers[place].name, perf_counter()
        try:
            scores = self._compare(place, batch).tolist()
        except Exception as error:  # whatever a metric cannot do with one pair must not cost the others
            if len(batch) > 1:
                return [result for job in batch for result in self._scores(place, [job])]
            return [Result(batch[0].pair, name, math.nan, perf_counter() - start, reason(error))]
        seconds = (perf_counter() - start) / len(batch)
        return [
            Result(job.pair, name, score, seconds, "the score is not a number" if math.isnan(score) else None)
            for job, score in zip(batch, scores, strict=True)
        ]

    def _compare(self, place: int, batch: Sequence[_Job]) -> Tensor:
        scorer, reference = self.scorers[place], batch[0].reference
        mask, represented = reference.mask, reference.represented
        images = [reference.image, *(job.image for job in batch)]
        if mask is not None and not takes_weights(scorer):
            images, mask = [image.crop(*mask.box) for image in images], None
        if not scorer.ours and images[0].size != images[1].size:  # they compare pixel by pixel
            pairs = [alike(image, images[0]) for image in images[1:]]
            self.notes.say(f"{batch[0].pair.distorted} and {batch[0].pair.reference}", SIZES)
            images, represented = [pairs[0][1], *(image for image, _ in pairs)], {}
        large = max(math.prod(image.size) for image in images) > ALONE
        with (
            self._alone(large or not scorer.ours),
            torch.inference_mode(),
            torch.autocast(scorer.device.type, enabled=self.run.amp),
        ):
            if place not in represented:
                represented[place] = _represent(scorer, images[:1], mask)
            return scorer.metric.compare(_represent(scorer, images[1:], mask), represented[place])

    @contextmanager
    def _alone(self, needed: bool) -> Iterator[None]:
        """Where needed, no other thread is in here, and torch has all cores."""
        if not needed:
            yield
            return
        with _ALONE:
            share = torch.get_num_threads()
            torch.set_num_threads(self.cores)
            try:
                yield
            finally:
                torch.set_num_threads(share)


def reason(error: Exception) -> str:
    """An error in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _represent(scorer: Scorer, images: Sequence[Opened], mask: Mask | None) -> Representation:
    batch: Tensor | LargeImage
    if isinstance(images[0], LargeImage):  # alone in its batch
        if not scorer.metric.reads_windows:
            size = f"TIFFs of {LARGE // 10**6} megapixels and more"
            raise ValueError(f"{size} are read in windows, which {scorer.name} cannot: cut out a part, or save them as PNG")
        batch = images[0]
    else:
        batch = torch.cat([to_tensor(image, scorer.device) for image in images if isinstance(image, Picture)])
    if mask is None:
        return scorer.metric.represent(batch)
    metric = cast(MatrixMetric, scorer.metric)  # which alone gets a mask
    return metric.represent(batch, mask.saliency(metric, batch))
