"""The one loop: pairs of image files and metrics to scores, as they come, in memory that does not grow with their number."""

from __future__ import annotations

import hashlib
import math
import threading
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from msds_plugin.adapters.images.large import LARGE, LargeImage
from msds_plugin.adapters.images.notes import Notes
from msds_plugin.adapters.images.pairs import Pair
from msds_plugin.adapters.images.read import Opened, Picture, Reading, alike, open_distorted, open_reference, to_tensor
from msds_plugin.adapters.scorers import Scorer
from msds_plugin.adapters.scoring.files import content, state
from msds_plugin.adapters.scoring.masks import Mask, describe, takes_weights, to_mask
from msds_plugin.adapters.scoring.options import Run
from msds_plugin.metric import Representation
from msds_plugin.runtimes import cores

#: (pair, reading, None) to the reference of a pair; with the reference in place of None, to its distorted image.
Opener: TypeAlias = Callable[[Pair, Reading, Opened | None], Opened]

#: Distorted images of one task at most; each task decodes its reference.
TASK = 32
MOST_WORKERS = 16
#: Pixels of an image that is scored by itself, on all cores: several of them side by side would take too much memory.
ALONE = 2**22
#: Pixels of one pass on a GPU.
PIXELS_ON_GPU = 2**24


@dataclass(frozen=True)
class Result:
    """What one metric says of one pair.

    Attributes:
        pair: the pair.
        metric: the scorer's name.
        score: NaN where there is none.
        seconds: time spent on this score, without reading the files; a reference's share counts for the first of its pairs.
        error: why there is no score.
        key: what follows from the content of the two files as they were decoded, see ``store.pair_key``; None unless asked for.
    """

    pair: Pair
    metric: str
    score: float
    seconds: float
    error: str | None = None
    key: str | None = None


def joined(reference: str, distorted: str, half: str = "", mask: str = "") -> str:
    """The key of a pair by the content of its files, by the half that is the reference where one file holds both, and by the
    content of its mask."""
    text = "\0".join([reference, distorted, *filter(None, (half, mask))])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def open_file(pair: Pair, reading: Reading, reference: Opened | None) -> Opened:
    """The reference of a pair of files; given that, the distorted image."""
    return open_reference(pair, reading) if reference is None else open_distorted(pair, reading, reference)


def score_pairs(
    pairs: Iterable[Pair],
    scorers: Sequence[Scorer],
    run: Run = Run(),  # noqa: B008 (frozen)
    keyed: bool = False,
    opener: Opener = open_file,
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
    waiting: SimpleQueue[Sequence[Pair] | None] = SimpleQueue()
    found: SimpleQueue[list[Result] | None] = SimpleQueue()
    stopped = threading.Event()
    for each in (*tasks, *[None] * workers):
        waiting.put(each)

    def work_on_tasks() -> None:
        torch.set_num_threads(max(1, work.cores // workers))
        try:
            for task in iter(waiting.get, None):
                for results in work.score(task):
                    found.put(results)
                    if stopped.is_set():
                        return
        finally:
            found.put(None)

    pool = ThreadPoolExecutor(workers, "msds")
    threads = [pool.submit(work_on_tasks) for _ in range(workers)]
    try:
        for _ in threads:
            for results in iter(found.get, None):
                yield from results
        for thread in threads:
            thread.result()  # raises what it ran into
    finally:
        stopped.set()
        pool.shutdown(wait=False, cancel_futures=True)
        torch.set_num_threads(work.cores)  # threads that are yet to come would get the share of the last one


class _File:
    """An image file that was opened, and the content that its scores belong to."""

    def __init__(self, path: Path, open_it: Callable[[], Opened], keyed: bool) -> None:
        self.path, self._keyed = path, keyed
        self._state = state(path) if keyed else ()
        self.image = open_it()
        self._content = content(path) if keyed else ""

    @property
    def content(self) -> str:
        """The hash of what was decoded.

        Raises:
            ValueError: the file has changed since.
        """
        if self._keyed and state(self.path) != self._state:
            raise ValueError(f"{self.path} changed while it was scored: start the same command again")
        return self._content


@dataclass(eq=False)
class _Reference:
    """An image beside which others are scored, what of it counts, and its representations by the metrics' places."""

    image: Opened
    mask: Mask | None
    represented: dict[int, Representation] = field(default_factory=dict)


@dataclass(frozen=True)
class _Job:
    """A pair whose files, (reference, distorted, mask if any), are open."""

    pair: Pair
    files: Sequence[_File]
    image: Opened
    reference: _Reference


class _Work:
    """Scores tasks; what they have in common."""

    def __init__(self, scorers: Sequence[Scorer], run: Run, keyed: bool, opener: Opener) -> None:
        self.scorers, self.run, self.keyed, self._opener = scorers, run, keyed, opener
        self.cores = torch.get_num_threads()
        self.notes = Notes(run.note)
        self.batch_size = 1 if any(scorer.device.type == "cpu" for scorer in scorers) else run.batch_size
        self._lock = threading.Lock()
        if run.masks:
            run.note(describe(scorers))

    def score(self, task: Sequence[Pair]) -> Iterator[list[Result]]:
        """The results of each pair of one reference."""
        try:
            file = self._open(task[0], None)
            masks = self._masks(task[0], file.image)
            mask = to_mask(masks[0].image, file.image.size, masks[0].path) if masks else None
        except Exception as error:  # whatever is wrong with one file must not cost the others
            yield from (self._failed(pair, error) for pair in task)
            return
        # As it is, and in sRGB where a distorted image has another profile.
        references = {False: _Reference(file.image, mask)}
        batch: list[_Job] = []
        for pair in task:
            try:
                job = self._job(pair, file, masks, references)
            except Exception as error:
                yield self._failed(pair, error)
                continue
            if batch and not self._fits(batch, job):
                yield from self._results(batch)
                batch = []
            batch.append(job)
        if batch:
            yield from self._results(batch)

    def _open(self, pair: Pair, reference: Opened | None) -> _File:
        """The reference of a pair; given that, the distorted image."""
        path = pair.reference if reference is None else pair.distorted
        file = _File(path, partial(self._opener, pair, self.run.reading, reference), self.keyed)
        self.notes.say(path, file.image)
        return file

    def _masks(self, pair: Pair, reference: Opened) -> list[_File]:
        if not self.run.masks:
            return []
        path = self.run.masks[pair.reference]
        reading = replace(self.run.reading, channel="rgb")
        return [_File(path, partial(self._opener, replace(pair, reference=path, half=""), reading, None), self.keyed)]

    def _job(self, pair: Pair, file: _File, masks: Sequence[_File], references: dict[bool, _Reference]) -> _Job:
        original = references[False]
        distorted = self._open(pair, original.image)
        image = distorted.image
        if original.mask is not None and image.size != original.image.size:
            raise ValueError("its size is not that of its reference, as a mask needs: let it be resized (--resize, resize=)")
        differ = image.profile != original.image.profile
        if differ:
            self.notes.say_profiles(pair.distorted, pair.reference)
            image = image.in_srgb()
            if True not in references:
                references[True] = _Reference(original.image.in_srgb(), original.mask)
        return _Job(pair, (file, distorted, *masks), image, references[differ])

    def _fits(self, batch: Sequence[_Job], job: _Job) -> bool:
        first, number = batch[0], len(batch) + 1
        same = first.reference is job.reference and first.image.size == job.image.size
        small = number * math.prod(job.image.size) <= PIXELS_ON_GPU and not isinstance(job.image, LargeImage)
        return same and small and number <= self.batch_size

    def _failed(self, pair: Pair, error: Exception) -> list[Result]:
        return [Result(pair, scorer.name, math.nan, 0.0, _reason(error)) for scorer in self.scorers]

    def _results(self, batch: Sequence[_Job]) -> Iterator[list[Result]]:
        by_metric = [self._scores(place, batch) for place in range(len(self.scorers))]
        for job, scored in zip(batch, zip(*by_metric, strict=True), strict=True):
            try:
                reference, distorted, *mask = [file.content for file in job.files]
            except ValueError as error:
                yield self._failed(job.pair, error)
                continue
            key = joined(reference, distorted, job.pair.half, *mask) if self.keyed else None
            yield [
                Result(job.pair, scorer.name, score, seconds, error, key)
                for scorer, (score, seconds, error) in zip(self.scorers, scored, strict=True)
            ]

    def _scores(self, place: int, batch: Sequence[_Job]) -> list[tuple[float, float, str | None]]:
        """Score, seconds and error of each image by one metric."""
        start = perf_counter()
        try:
            scores = self._compare(place, batch).tolist()
        except Exception as error:  # whatever a metric cannot do with one pair must not cost the others
            if len(batch) > 1:
                return [scored for job in batch for scored in self._scores(place, [job])]
            return [(math.nan, perf_counter() - start, _reason(error))]
        seconds = (perf_counter() - start) / len(batch)
        return [(score, seconds, "the score is not a number" if math.isnan(score) else None) for score in scores]

    def _compare(self, place: int, batch: Sequence[_Job]) -> Tensor:
        scorer, reference = self.scorers[place], batch[0].reference
        mask, represented = reference.mask, reference.represented
        images = [reference.image, *(job.image for job in batch)]
        if mask is not None and not takes_weights(scorer):
            images, mask = [image.crop(*mask.box) for image in images], None
        if not scorer.ours and images[0].size != images[1].size:  # they compare pixel by pixel
            pairs = [alike(image, images[0]) for image in images[1:]]
            self.notes.say_sizes(batch[0].pair.distorted, batch[0].pair.reference)
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
        with self._lock:
            share = torch.get_num_threads()
            torch.set_num_threads(self.cores)
            try:
                yield
            finally:
                torch.set_num_threads(share)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _represent(scorer: Scorer, images: Sequence[Opened], mask: Mask | None) -> Representation:
    batch: Tensor | LargeImage
    if any(isinstance(image, LargeImage) for image in images):  # one, never with others
        if not scorer.metric.reads_windows:
            raise ValueError(f"images of {LARGE // 10**6} megapixels and more are read in windows, which {scorer.name} cannot")
        batch = next(image for image in images if isinstance(image, LargeImage))
    else:
        batch = torch.cat([to_tensor(image, scorer.device) for image in images if isinstance(image, Picture)])
    if mask is None:
        return scorer.metric.represent(batch)
    metric = cast(Any, scorer.metric)
    found: Representation = metric.represent(batch, mask.saliency(metric, batch))
    return found
