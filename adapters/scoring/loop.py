"""The one loop: pairs of image files and metrics to scores, as they come, in memory that does not grow with their number."""

from __future__ import annotations

import hashlib
import math
import os
import sys
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter
from typing import TypeAlias

import torch
from torch import Tensor

from msds_plugin.adapters.images.large import LARGE, LargeImage
from msds_plugin.adapters.images.notes import Notes
from msds_plugin.adapters.images.pairs import Pair
from msds_plugin.adapters.images.read import Opened, Picture, Reading, alike, open_distorted, open_reference, to_tensor
from msds_plugin.adapters.scorers import Scorer
from msds_plugin.adapters.scoring.files import content, state
from msds_plugin.adapters.scoring.options import Run
from msds_plugin.metric import Representation

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


def joined(reference: str, distorted: str, half: str = "") -> str:
    """The key of a pair by the content of its files, and by the half that is the reference where one file holds both."""
    text = "\0".join((reference, distorted, half) if half else (reference, distorted))
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
    return _results(list(by_reference.values()), _Work(scorers, run, keyed, opener))


def _results(groups: Sequence[Sequence[Pair]], work: _Work) -> Generator[Result, None, None]:
    run = work.run
    count = sum(map(len, groups))
    workers = min(_cores(), MOST_WORKERS) if run.workers is None else run.workers
    size = max(1, min(TASK, -(-count // max(1, workers))))
    tasks = deque(group[at : at + size] for group in groups for at in range(0, len(group), size))
    if not workers:
        for task in tasks:
            for results in work.score(task):
                yield from results
        return
    yield from _side_by_side(work, tasks, min(workers, max(1, len(tasks))))


def _side_by_side(work: _Work, tasks: deque[Sequence[Pair]], workers: int) -> Generator[Result, None, None]:
    found: SimpleQueue[list[Result] | None] = SimpleQueue()
    stopped = threading.Event()

    def work_on_tasks() -> None:
        torch.set_num_threads(max(1, work.cores // workers))
        try:
            while (task := _next(tasks)) is not None:
                for results in work.score(task):
                    found.put(results)
                    if stopped.is_set():
                        return
        finally:
            found.put(None)

    pool = ThreadPoolExecutor(workers, "msds")
    threads = [pool.submit(work_on_tasks) for _ in range(workers)]
    try:
        for results in _until_all_end(found, workers):
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


class _Reference:
    """An image beside which others are scored, and its representations by the metrics' places."""

    def __init__(self, image: Opened) -> None:
        self.image = image
        self.represented: dict[int, Representation] = {}


@dataclass(frozen=True)
class _Job:
    """A pair whose files are open."""

    pair: Pair
    file: _File
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

    def score(self, task: Sequence[Pair]) -> Iterator[list[Result]]:
        """The results of each pair of one reference."""
        reading = self.run.reading
        try:
            file = _File(task[0].reference, lambda: self._opener(task[0], reading, None), self.keyed)
            self.notes.say(file.path, file.image)
        except Exception as error:  # whatever is wrong with one file must not cost the others
            yield from (self._failed(pair, error) for pair in task)
            return
        references = {False: _Reference(file.image)}  # as it is, and in sRGB where a distorted image has another profile
        batch: list[_Job] = []
        for pair in task:
            try:
                job = self._open(pair, references)
            except Exception as error:
                yield self._failed(pair, error)
                continue
            if batch and not self._fits(batch, job):
                yield from self._results(batch, file)
                batch = []
            batch.append(job)
            if len(batch) >= self.batch_size:
                yield from self._results(batch, file)
                batch = []
        if batch:
            yield from self._results(batch, file)

    def _open(self, pair: Pair, references: dict[bool, _Reference]) -> _Job:
        reference = references[False].image
        file = _File(pair.distorted, lambda: self._opener(pair, self.run.reading, reference), self.keyed)
        image = file.image
        self.notes.say(file.path, image)
        differ = image.profile != reference.profile
        if differ:
            self.notes.say_profiles(pair.distorted, pair.reference)
            image = image.in_srgb()
            if True not in references:
                references[True] = _Reference(reference.in_srgb())
        return _Job(pair, file, image, references[differ])

    def _fits(self, batch: Sequence[_Job], job: _Job) -> bool:
        first = batch[0]
        same = first.reference is job.reference and first.image.size == job.image.size
        return same and (len(batch) + 1) * math.prod(job.image.size) <= PIXELS_ON_GPU and not isinstance(job.image, LargeImage)

    def _failed(self, pair: Pair, error: Exception) -> list[Result]:
        reason = " ".join(str(error).split()) or type(error).__name__
        return [Result(pair, scorer.name, math.nan, 0.0, reason) for scorer in self.scorers]

    def _results(self, batch: Sequence[_Job], reference: _File) -> Iterator[list[Result]]:
        by_metric = [self._scores(place, batch) for place in range(len(self.scorers))]
        for job, scored in zip(batch, zip(*by_metric, strict=True), strict=True):
            try:
                key = joined(reference.content, job.file.content, job.pair.half) if self.keyed else None
            except ValueError as error:
                yield self._failed(job.pair, error)
                continue
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
            reason = " ".join(str(error).split()) or type(error).__name__
            return [(math.nan, perf_counter() - start, reason)]
        seconds = (perf_counter() - start) / len(batch)
        return [(score, seconds, "the score is not a number" if math.isnan(score) else None) for score in scores]

    def _compare(self, place: int, batch: Sequence[_Job]) -> Tensor:
        scorer, reference = self.scorers[place], batch[0].reference
        images = [job.image for job in batch]
        if not scorer.ours and images[0].size != reference.image.size:  # they compare pixel by pixel
            pairs = [alike(image, reference.image) for image in images]
            self.notes.say_sizes(batch[0].pair.distorted, batch[0].pair.reference)
            images, reference = [image for image, _ in pairs], _Reference(pairs[0][1])
        large = max(math.prod(image.size) for image in (reference.image, *images)) > ALONE
        with (
            self._alone(large or not scorer.ours),
            torch.inference_mode(),
            torch.autocast(scorer.device.type, enabled=self.run.amp),
        ):
            if place not in reference.represented:
                reference.represented[place] = scorer.metric.represent(_stack([reference.image], scorer))
            return scorer.metric.compare(scorer.metric.represent(_stack(images, scorer)), reference.represented[place])

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


def _stack(images: Sequence[Opened], scorer: Scorer) -> Tensor | LargeImage:
    if any(isinstance(image, LargeImage) for image in images):  # one, never with others
        if not scorer.metric.reads_windows:
            raise ValueError(f"images of {LARGE // 10**6} megapixels and more are read in windows, which {scorer.name} cannot")
        return next(image for image in images if isinstance(image, LargeImage))
    return torch.cat([to_tensor(image, scorer.device) for image in images if isinstance(image, Picture)])


def _next(tasks: deque[Sequence[Pair]]) -> Sequence[Pair] | None:
    try:
        return tasks.popleft()
    except IndexError:
        return None


def _until_all_end(found: SimpleQueue[list[Result] | None], threads: int) -> Iterator[list[Result]]:
    while threads:
        results = found.get()
        if results is None:
            threads -= 1
        else:
            yield results


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
