"""Metrics side by side on opinion-scored data sets: every score is computed once and kept."""

from __future__ import annotations

import hashlib
import logging
import math
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from ...backbones import BACKBONES, Backbone
from ..common.names import parse_metric
from ..common.scorer import Scorer, choose_device
from ..images.pairs import Pair
from ..images.read import Reading
from ..results.keys import pair_keys
from ..results.store import Outcome, Results, ResultsWriteError
from ..scoring.identity import identity, toolkit_of, versions_of
from ..scoring.keeping import lacking, score_and_keep
from ..scoring.scorers import create_scorer
from .datasets import Dataset
from .summary import Scores

PACKAGES = ("msds-plugin", "pyiqa", "piq", "torch", "torchvision", "timm", "numpy", "scipy", "pillow")

_LOG = logging.getLogger(__name__)

#: Called with a description and the number of steps; gives, as a context, what is to be called after each step.
Progress = Callable[[str, int], AbstractContextManager[Callable[[], None]]]


@contextmanager
def no_progress(description: str, total: int) -> Iterator[Callable[[], None]]:
    """Shows nothing."""
    yield lambda: None


@dataclass(frozen=True)
class Benchmark:
    """Scores, and how they were made.

    Attributes:
        scores: beside the opinions.
        metrics: one row per metric: ``metric``, its ``toolkit`` with version, ``options``, ``backbone``, ``weights_file``,
            ``weights_sha256`` (of the file), ``parameters_sha256`` (of all the values it computes with); None where there is
            none, or where it is not known.
        made: device, precision, date, versions, by name, for reading.
        reading: what was stated about the image files.
        scorers: what made them, for a closer look at single pairs.
    """

    scores: Scores
    metrics: pd.DataFrame
    made: Mapping[str, str]
    reading: Reading = field(default_factory=Reading)
    scorers: Sequence[Scorer] = ()


@dataclass(frozen=True)
class _Entry:
    """A metric of a run: its scorer, and what sets it apart from others of its name."""

    scorer: Scorer
    identity: Mapping[str, Any]


def run(
    metrics: Sequence[str | Scorer],
    datasets: Sequence[Dataset],
    results: str | Path | None = None,
    device: str | torch.device | None = None,
    amp: bool = False,
    batch_size: int = 8,
    workers: int | None = None,
    progress: Progress = no_progress,
    reading: Reading | None = None,
    note: Callable[[str], object] = _LOG.warning,
) -> Benchmark:
    """Score every pair of every data set with every metric, or take the score from the results file if it is there.

    A score in the file is used only if it was made by the same metric with the same options, values of the weights, version,
    kind of device and precision, from files of the same content. Failures are tried again.

    Args:
        metrics: ``msds``, ``lpips``, ``piq:fsim``, with options after commas: ``msds,backbone=alexnet,levels=4``; or scorers.
        datasets: with different names.
        results: the results file, made if there is none; None to keep nothing.
        device: None for the GPU if there is one.
        amp: compute under autocast, in half precision where torch thinks fit.
        batch_size: pairs of equal size at a time.
        workers: threads that read images and score them; None for one per core.
        progress: shows how far it is, for example :func:`terminal.progress`.
        reading: what the image files do not say: see :class:`Reading`.
        note: called once for everything of note in how files were read.

    Raises:
        ValueError: no metric or data set, two of one name, an unknown metric or device.
        ResultsFileError: the results file is something else, or damaged.
        NotKeptError: the disk is full; what was kept before is safe, and the error holds what was computed.
        MissingDependencyError, MetricUnavailableError, WeightsNotFoundError: a metric cannot be made.
    """
    chosen = choose_device(device)
    _check_names("data set", [data.name for data in datasets], "name them, --csv NAME=FILE or load_csv(name=...)")
    reading = reading or Reading()
    entries = [_entry(metric, chosen, amp, reading) for metric in metrics]
    _check_names("metric", [entry.scorer.name for entry in entries], "give each once")
    keys = {data.name: pair_keys(_paths(data)) for data in datasets}
    with Results(results) as kept:
        numbers = [kept.metric(entry.scorer.name, entry.identity) for entry in entries]
        scorers = {number: entry.scorer for number, entry in zip(numbers, entries, strict=True)}
        pairs = {
            key: Pair(*map(Path, pair)) for data in datasets for key, pair in zip(keys[data.name], _paths(data), strict=True)
        }
        work = lacking(kept, scorers, pairs)
        computed: list[Outcome] = []
        steps = sum(len(numbers) * len(keys) for numbers, keys in work.items())
        with torch.autocast(chosen.type, enabled=amp), progress("scoring", steps) as advance:
            try:
                with closing(score_and_keep(kept, scorers, pairs, work, batch_size, workers, reading, note)) as outcomes:
                    for outcome in outcomes:
                        computed.append(outcome)
                        advance()
            except ResultsWriteError as error:
                raise NotKeptError(str(error), _computed(computed, entries, numbers)) from error
        tables = [
            _table(data, keys[data.name], entry.scorer.name, kept.frame(number))
            for data in datasets
            for number, entry in zip(numbers, entries, strict=True)
        ]
    scores = Scores(
        pd.concat(tables, ignore_index=True),
        {entry.scorer.name: entry.scorer.lower_is_better for entry in entries},
        {data.name: data.lower_is_better for data in datasets},
    )
    described = pd.DataFrame([_described(entry) for entry in entries])
    return Benchmark(scores, described, _made(chosen, amp), reading, tuple(entry.scorer for entry in entries))


class NotKeptError(OSError):
    """Scores cannot be kept any more; ``computed`` holds those of this run: metric, reference, distorted and score."""

    def __init__(self, reason: str, computed: pd.DataFrame) -> None:
        super().__init__(reason)
        self.computed = computed


def _computed(outcomes: Sequence[Outcome], entries: Sequence[_Entry], numbers: Sequence[int]) -> pd.DataFrame:
    names = {number: entry.scorer.name for number, entry in zip(numbers, entries, strict=True)}
    rows = [(names[outcome.metric], outcome.reference, outcome.distorted, outcome.score) for outcome in outcomes]
    return pd.DataFrame(rows, columns=["metric", "reference", "distorted", "score"])


def _check_names(kind: str, names: Sequence[str], advice: str) -> None:
    if not names:
        raise ValueError(f"no {kind} given")
    if len(set(names)) < len(names):
        raise ValueError(f"two {kind}s of one name: {', '.join(names)}; {advice}")


def _paths(data: Dataset) -> list[tuple[str, str]]:
    return list(zip(data.table["reference"], data.table["distorted"], strict=True))


def _entry(metric: str | Scorer, device: torch.device, amp: bool, reading: Reading) -> _Entry:
    if isinstance(metric, Scorer):
        return _Entry(metric, identity(metric, metric.name, amp, reading))
    scorer = create_scorer(metric, device)
    return _Entry(scorer, identity(scorer, parse_metric(metric)[0], amp, reading))


def _table(data: Dataset, keys: Sequence[str], metric: str, outcomes: pd.DataFrame) -> pd.DataFrame:
    rows = data.table.rename(columns={"score": "opinion"}).reset_index(drop=True)
    for column, missing in (("distortion", None), ("std", math.nan)):
        if column not in rows:
            rows[column] = missing
    found = outcomes.reindex(list(keys)).reset_index(drop=True)
    table = pd.concat([rows, found], axis=1)
    table.insert(0, "dataset", data.name)
    table.insert(1, "metric", metric)
    return table[["dataset", "metric", "reference", "distorted", "distortion", "opinion", "std", "score", "seconds", "error"]]


def _described(entry: _Entry) -> dict[str, Any]:
    scorer, versions = entry.scorer, entry.identity["versions"]
    toolkit = toolkit_of(scorer)
    backbone = next((module for module in scorer.module.modules() if isinstance(module, Backbone)), None)
    path = None if backbone is None or scorer.options is None else _weights_file(backbone, scorer.options)
    return {
        "metric": scorer.name,
        "toolkit": f"{toolkit} {versions.get(toolkit, '')}".strip(),
        "options": ", ".join(f"{key}={value}" for key, value in (scorer.options or {}).items()),
        "backbone": None if backbone is None else f"{backbone.name} ({', '.join(backbone.layers)})",
        "weights_file": None if path is None else path.name,
        "weights_sha256": None if path is None else _file_hash(path),
        "parameters_sha256": entry.identity["parameters_sha256"],
    }


def _weights_file(backbone: Backbone, options: Mapping[str, Any]) -> Path | None:
    if isinstance(options.get("backbone"), nn.Module):
        return None  # where its weights come from is not known
    given = options.get("weights", "imagenet")
    if given == "imagenet":
        return BACKBONES[backbone.name].locate() if backbone.name in BACKBONES else None
    return Path(given) if isinstance(given, str | Path) else None


def _file_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _made(device: torch.device, amp: bool) -> dict[str, str]:
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{platform.machine()}, {torch.get_num_threads()} threads"
    )
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "device": f"{device} ({name})",
        "precision": "autocast" if amp else "float32",
        "versions": ", ".join(f"{package} {number}" for package, number in versions_of(PACKAGES).items()),
        "system": f"Python {platform.python_version()}, {platform.system()}",
    }
