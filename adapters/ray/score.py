"""The driver: shards out to actors, never more in flight than they can take."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import MissingDependencyError
from ..images.samples import Reading
from .pairs import Names, read_pairs, shards
from .places import is_uri, names_in
from .shard import Done, Run, write_lost, write_shard

#: Shards at each actor, so that it never waits for the driver.
_AHEAD = 2
#: How often Ray gives a shard to the successor of an actor that died.
_RETRIES = 3


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        shards, pairs: what is done.
        failed: pairs without all scores.
        computed: pairs that were computed by this run.
        foreign: Parquet files in the folder that are not of this list, metrics and shard size; known when all is done.
    """

    shards: int = 0
    pairs: int = 0
    failed: int = 0
    computed: int = 0
    foreign: int = 0

    def after(self, done: Done) -> Progress:
        """With one more shard."""
        counts = self.shards + 1, self.pairs + done.rows, self.failed + done.failed, self.computed + done.computed
        return Progress(*counts, self.foreign)


class _Actor:
    """Holds the metrics, on one core unless more are asked for."""

    def __init__(self, metrics: Sequence[str], device: str | None, options: dict[str, Any], cpus: int) -> None:
        import torch

        from ..scoring.scorers import create_scorers

        torch.set_num_threads(cpus)
        self.workers = 0 if cpus == 1 else cpus
        try:
            self.scorers = create_scorers(metrics, device, **options)
        except Exception as error:  # said by start: an actor that fails here could only die
            self.error = error

    def start(self, folder: str, reading: Reading) -> Run:
        if not hasattr(self, "scorers"):
            raise self.error
        return Run.of(self.scorers, folder, reading)

    def score(self, pairs: Sequence[Names], run: Run) -> Done:
        return write_shard(pairs, self.scorers, run, self.workers)


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError(f"clusters are reached with Ray ({error}): pip install 'msds-plugin[ray]'") from error
    return ray


def score(
    pairs: Any,
    metrics: Sequence[str],
    folder: str | os.PathLike[str],
    *,
    workers: int = 2,
    shard_size: int = 1000,
    cpus: int = 1,
    gpus: float = 0,
    address: str | None = None,
    device: str | None = None,
    reading: Reading | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> Progress:
    """Score pairs on a Ray cluster, one Parquet file per shard, with the engine of ``msds score``.

    The pairs are sorted, so that those of one reference stand together, and cut into shards. The file of a shard is named
    after its pairs and metrics and written whole, so that a worker that dies, whose shard Ray gives to its successor, leaves
    nothing lost and nothing twice; a run that is started again with the same list, metrics and shard size computes only what
    is missing and what failed. Within a block of a shard each reference is read and represented once. On a processor with
    ``cpus=1`` scores are those of :func:`~msds_plugin.adapters.scoring.score_pairs` to the bit: both form the same batches.

    Args:
        pairs: see :func:`~msds_plugin.adapters.ray.read_pairs`: a ``.csv`` or ``.parquet`` list, two folders, a Ray
            dataset, pairs. Images are paths that every node sees, or URIs for fsspec.
        metrics: names, as for ``msds score``.
        folder: where the Parquet files go, a path that every node sees or a URI; columns ``reference``, ``distorted``, one per
            metric, ``error``.
        workers: actors, each with metrics of its own.
        shard_size: pairs of one file; up to 255 more, so that it holds whole blocks.
        cpus, gpus: what each actor takes; it computes on ``cpus`` threads.
        address: of the cluster; None for one that is running, or else a local one.
        device: None for the GPU if the actor has one.
        reading: what the image files do not say: see :class:`Reading`.
        on_progress: called after each shard.
        options: ``backbone``, ``weights``, ... as for ``create_scorers``.

    Returns:
        The final count.

    Raises:
        ValueError: numbers below one, a list that cannot be read, or no such metric.
        MissingDependencyError: Ray is not installed.
        MetricUnavailableError, WeightsNotFoundError: as ``create_scorers``, where the actors are.
    """
    ray = _ray()
    if min(workers, shard_size, cpus) < 1:
        raise ValueError(f"workers, shard_size and cpus must be at least 1, got {workers}, {shard_size}, {cpus}")
    if not metrics:
        raise ValueError("no metric to score with")
    if not ray.is_initialized():
        ray.init(address=address, log_to_driver=False)
    target = os.fspath(folder) if is_uri(os.fspath(folder)) else str(Path(folder).resolve())
    before = set(names_in(target, ".parquet"))
    names = read_pairs(pairs)
    # Own actors, not map_batches: its batches do not end where references do, so that scores would differ in the last digits,
    # and what it writes gets new names each time, so that a restart could not find it.
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=-1, max_task_retries=_RETRIES)(_Actor)
    device = device or (None if gpus else "cpu")
    actors = [remote.remote(list(metrics), device, options, cpus) for _ in range(workers)]
    progress = Progress()
    try:
        for done in _all_done(ray, actors, _start(ray, actors[0], target, reading or Reading()), shards(names, shard_size)):
            before.discard(done.file)
            progress = progress.after(done)
            if on_progress is not None:
                on_progress(progress)
    finally:
        for each in actors:
            ray.kill(each)
    return replace(progress, foreign=len(before))


def _start(ray: Any, actor: Any, target: str, reading: Reading) -> Run:
    try:
        run: Run = ray.get(actor.start.remote(target, reading))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    return run


def _all_done(ray: Any, actors: Sequence[Any], run: Run, every: Iterable[list[Names]]) -> Iterator[Done]:
    """What came of each shard; one that no actor survives is tried once more, with no other shard behind it, and given up."""
    lost: list[list[Names]] = []
    for shard, done in _handed_out(ray, actors, run, every, _AHEAD):
        if done is None:
            lost.append(shard)
        else:
            yield done
    for shard, done in _handed_out(ray, actors, run, lost, 1):
        yield done or write_lost(shard, run)


def _handed_out(
    ray: Any, actors: Sequence[Any], run: Run, every: Iterable[list[Names]], ahead: int
) -> Iterator[tuple[list[Names], Done | None]]:
    """Each shard and what came of it, None if its actor died time and again; ``ahead`` of them at each actor."""
    free = [each for _ in range(ahead) for each in actors]
    in_flight: dict[Any, tuple[Any, list[Names]]] = {}

    def finished() -> tuple[list[Names], Done | None]:
        (ready, *_), _ = ray.wait(list(in_flight), num_returns=1)
        actor, shard = in_flight.pop(ready)
        free.append(actor)
        try:
            return shard, ray.get(ready)
        except ray.exceptions.RayActorError:
            return shard, None

    for shard in every:
        if not free:
            yield finished()
        actor = free.pop(0)
        in_flight[actor.score.remote(shard, run)] = actor, shard
    while in_flight:
        yield finished()
