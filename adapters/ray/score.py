"""The driver: shards out to actors, never more in flight than they can take."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import MissingDependencyError
from ..images.samples import Reading
from .pairs import read_pairs, shards
from .shard import Done, write_shard

#: Shards that wait for each actor, so that it never waits for the driver.
_AHEAD = 2


@dataclass(frozen=True)
class Progress:
    """How far a run has come: shards and pairs done, pairs without all scores, and pairs that were computed by this run."""

    shards: int = 0
    pairs: int = 0
    failed: int = 0
    computed: int = 0

    def after(self, done: Done) -> Progress:
        """With one more shard."""
        return Progress(self.shards + 1, self.pairs + done.rows, self.failed + done.failed, self.computed + done.computed)


class _Actor:
    """Holds the metrics, on one core unless more are asked for."""

    def __init__(
        self, metrics: Sequence[str], device: str | None, options: dict[str, Any], threads: int, reading: Reading
    ) -> None:
        import torch

        from ..scoring.scorers import create_scorers

        torch.set_num_threads(threads)
        self.metrics = list(metrics)
        self.reading = reading
        self.scorers = create_scorers(metrics, device, **options)

    def run(self, pairs: Sequence[tuple[str, str]], folder: str) -> Done:
        return write_shard(pairs, self.scorers, self.metrics, folder, self.reading)

    def pid(self) -> int:
        return os.getpid()


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

    A shard is ``shard_size`` consecutive pairs of the list. Its file is named after its content and written whole, so that a
    worker that dies, whose shard Ray gives to another, leaves nothing lost and nothing twice; a run that is started again with
    the same list, metrics and shard size computes only what is missing and what failed. Within a shard each reference is read
    and represented once: sort the list by reference.

    Args:
        pairs: see :func:`~msds_plugin.adapters.ray.read_pairs`: a ``.csv`` or ``.parquet`` list, two folders, a Ray
            dataset, pairs. Images are paths that every node sees, or URIs for fsspec.
        metrics: names, as for ``msds score``.
        folder: where the Parquet files go, seen by every node; columns ``reference``, ``distorted``, one per metric, ``error``.
        workers: actors, each with metrics of its own.
        shard_size: pairs of one file.
        cpus, gpus: what each actor takes; it computes in ``cpus`` threads.
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
    """
    ray = _ray()
    if min(workers, shard_size, cpus) < 1:
        raise ValueError(f"workers, shard_size and cpus must be at least 1, got {workers}, {shard_size}, {cpus}")
    if not metrics:
        raise ValueError("no metric to score with")
    Path(folder).mkdir(parents=True, exist_ok=True)
    if not ray.is_initialized():
        ray.init(address=address, log_to_driver=False)
    actor = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=-1, max_task_retries=-1)(_Actor)
    chosen = device or (None if gpus else "cpu")
    actors = [actor.remote(list(metrics), chosen, options, cpus, reading or Reading()) for _ in range(workers)]
    target = str(Path(folder).resolve())
    progress = Progress()
    in_flight: dict[Any, Any] = {}

    def collect() -> Any:
        nonlocal progress
        (ready, *_), _ = ray.wait(list(in_flight), num_returns=1)
        free = in_flight.pop(ready)
        progress = progress.after(ray.get(ready))
        if on_progress is not None:
            on_progress(progress)
        return free

    try:
        waiting = [each for _ in range(_AHEAD) for each in actors]
        for shard in shards(read_pairs(pairs), shard_size):
            free = waiting.pop() if waiting else collect()
            in_flight[free.run.remote(shard, target)] = free
        while in_flight:
            collect()
    finally:
        for each in actors:
            ray.kill(each)
    return progress
