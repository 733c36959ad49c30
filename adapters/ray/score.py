"""The driver: shards out to actors, never more in flight than they can take."""

from __future__ import annotations

import logging
import math
import os
import pickle
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from msds_plugin import registry
from msds_plugin.adapters.ray.pairs import Names, read_pairs, shards
from msds_plugin.adapters.ray.places import names_in
from msds_plugin.adapters.ray.shard import Done, Job, write_lost, write_shard
from msds_plugin.adapters.scorers import Scorer, create_scorers, parse_metric
from msds_plugin.adapters.scoring import Run
from msds_plugin.adapters.wrap import MULTISCALE_PREFIX
from msds_plugin.errors import MissingDependencyError

_LOG = logging.getLogger("msds_plugin")
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


class _Actor:
    """Holds the metrics, on one core unless more are asked for."""

    def __init__(self, metrics: Sequence[str], own: bytes, run: Run, options: dict[str, Any], cpus: int) -> None:
        self._metrics, self._own, self._run, self._options, self._cpus = metrics, own, run, options, cpus

    @cached_property
    def _scorers(self) -> list[Scorer]:  # not made by __init__, where an actor that fails could only die
        torch.set_num_threads(self._cpus)
        try:
            for row in pickle.loads(self._own):
                registry.register(row, override=True)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"a worker cannot import a metric of yours: {error}; start where its module lies") from None
        return create_scorers(self._metrics, self._run.device, self._run.runtime, **self._options)

    def start(self, folder: str) -> Job:
        return Job.of(self._scorers, folder, self._run)

    def score(self, pairs: Sequence[Names], job: Job) -> Done:
        return write_shard(pairs, self._scorers, job)


def score(
    pairs: Any,
    metrics: str | Sequence[str],
    folder: str | os.PathLike[str],
    *,
    workers: int = 2,
    shard_size: int = 1000,
    cpus: int = 1,
    gpus: float = 0,
    address: str | None = None,
    run: Run = Run(),  # noqa: B008 (frozen)
    on_progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> Progress:
    """Score pairs on a Ray cluster, one Parquet file per shard, with the loop of ``msds score``.

    The pairs are sorted by reference and cut into shards. The file of a shard is named after its pairs and all that its scores
    depend on, and written whole, so that a worker that dies leaves nothing lost and nothing twice. Every row holds a hash of
    the content of its two files: a run that is started again with the same list, metrics and shard size computes what is
    missing, what failed, and images that are others now.

    Args:
        pairs: see :func:`~msds_plugin.adapters.ray.read_pairs`: a ``.csv`` or ``.parquet`` list, two folders, a Ray
            dataset, pairs. Images are paths that every node sees, or URIs for fsspec.
        metrics: a name, or several, as for ``msds score``.
        folder: where the Parquet files go, a path that every node sees or a URI; columns ``reference``, ``distorted``, one per
            metric, ``error``, ``content``.
        workers: actors, each with metrics of its own; no more than the cluster has room for.
        shard_size: pairs of one file; up to twice as many, so that it ends where a reference does.
        cpus, gpus: what each actor takes; it computes on ``cpus`` threads.
        address: of the cluster; None for one that is running, or else a local one, which ends with the run.
        run: how scores are made; its ``workers`` and ``note`` do not count, its device is the CPU unless actors have GPUs.
        on_progress: called after each shard.
        options: ``backbone``, ``weights``, ... as for ``create_scorers``.

    Returns:
        The final count.

    Raises:
        ValueError: numbers below one, more cores or GPUs than any node has, a list that cannot be read, or no such metric.
        MissingDependencyError: Ray is not installed.
        MetricUnavailableError, WeightsNotFoundError: as ``create_scorers``, where the actors are.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError(f"clusters are reached with Ray ({error}): pip install 'msds-plugin[ray]'") from error
    if min(workers, shard_size, cpus) < 1:
        raise ValueError(f"workers, shard_size and cpus must be at least 1, got {workers}, {shard_size}, {cpus}")
    if not metrics:
        raise ValueError("no metric to score with")
    target = os.fspath(folder)
    target = target if "://" in target else str(Path(folder).resolve())
    if Path(target).is_file():
        raise ValueError(f"{folder} is a file: the scores go into a folder")
    threads = 0 if cpus == 1 else cpus
    run = replace(run, device=run.device or (None if gpus else "cpu"), workers=threads, note=_LOG.debug)
    started = not ray.is_initialized()
    actors: list[Any] = []
    progress = Progress()
    try:
        if started:
            _connect(ray, address)
        workers = min(workers, _room(ray, cpus, gpus))
        before = set(names_in(target, ".parquet"))
        names = read_pairs(pairs)
        # Own actors, not map_batches: what that writes gets new names each time, so that a restart could not find it.
        remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=-1, max_task_retries=_RETRIES)(_Actor)
        names_of_metrics = [metrics] if isinstance(metrics, str) else list(metrics)
        used = {parse_metric(name)[0].removeprefix(MULTISCALE_PREFIX) for name in names_of_metrics} & set(registry.names())
        own = ray.cloudpickle.dumps([row for row in map(registry.get, used) if not row.built_in])
        actors += [remote.remote(names_of_metrics, own, run, options, cpus) for _ in range(workers)]
        job = ray.get(actors[0].start.remote(target))
        for done in _all_done(ray, actors, job, shards(names, shard_size)):
            before.discard(done.file)
            counts = progress.shards + 1, progress.pairs + done.rows, progress.failed + done.failed
            progress = Progress(*counts, progress.computed + done.computed)
            if on_progress is not None:
                on_progress(progress)
        if not progress.shards:
            raise ValueError("the list holds no pair")
    except ray.exceptions.RayTaskError as error:  # which quotes the worker's traceback
        raise error.cause from None
    finally:
        for each in actors:
            ray.kill(each)
        if started:
            ray.shutdown()
    return replace(progress, foreign=len(before))


def _connect(ray: Any, address: str | None) -> None:
    """Start Ray, which takes the signals of the process, and give them back to whom they belonged."""
    host, _, port = (address or "").rpartition(":")
    if port.isdecimal() and "/" not in host:  # Ray itself would try for minutes
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=30).close()
        except OSError as error:
            raise ValueError(f"no Ray cluster answers at {address}: {error}") from error
    ours = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)} if ours else {}
    stopped: SystemExit | None = None
    try:
        ray.init(address=address, log_to_driver=False)
    except SystemExit as error:  # how Ray answers SIGTERM, also while it starts
        stopped = error
    finally:
        for number, handler in handlers.items():
            if handler is not None:  # as that of a library in C is, which Python cannot set
                signal.signal(number, handler)
    if stopped is not None:
        if stopped.code == signal.SIGTERM:
            signal.raise_signal(signal.SIGTERM)
        raise stopped


def _room(ray: Any, cpus: int, gpus: float) -> int:
    """How many actors fit into the cluster; an error if there is no node for one."""
    nodes = [(each["Resources"].get("CPU", 0), each["Resources"].get("GPU", 0)) for each in ray.nodes() if each["Alive"]]
    # Not by //, for which 0.1 goes into 1 nine times.
    room = sum(int(min(has_cpus / cpus, has_gpus / gpus if gpus else math.inf) + 1e-9) for has_cpus, has_gpus in nodes)
    if not room:
        largest = max(nodes)
        raise ValueError(
            f"no node has {cpus} cores and {gpus:g} GPUs for a worker: the largest of {len(nodes)} has {largest[0]:g} cores "
            f"and {largest[1]:g} GPUs"
        )
    return room


def _all_done(ray: Any, actors: Sequence[Any], job: Job, every: Iterable[list[Names]]) -> Iterator[Done]:
    """What came of each shard; one that no actor survives is tried once more, with no other shard behind it, and given up."""
    lost: list[list[Names]] = []
    for shards_of_round, ahead in ((every, _AHEAD), (lost, 1)):
        waiting = iter(shards_of_round)
        free = [actor for _ in range(ahead) for actor in actors]
        in_flight: dict[Any, tuple[Any, list[Names]]] = {}
        while True:
            for shard in islice(waiting, len(free)):
                actor = free.pop(0)
                in_flight[actor.score.remote(shard, job)] = actor, shard
            if not in_flight:
                break
            (ready, *_), _ = ray.wait(list(in_flight), num_returns=1)
            actor, shard = in_flight.pop(ready)
            free.append(actor)
            try:
                done = ray.get(ready)
            except ray.exceptions.RayTaskError:
                raise
            except ray.exceptions.RayError:  # it died time and again, or its node had no memory left
                if shards_of_round is every:
                    lost.append(shard)
                    continue
                done = write_lost(shard, job)
            yield done
