"""Metrics side by side on opinion-scored data sets: every score is computed once and kept."""

from __future__ import annotations

import hashlib
import logging
import math
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
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
from ..results.store import Outcome, Results, pair_key
from ..scoring.engine import Result, score_pairs
from ..scoring.scorers import create_scorer
from .datasets import Dataset
from .summary import Scores

#: Seconds after which scores go to the results file, of waiting or of computing what waits (a batch comes all at once).
WRITE_EVERY = 0.5
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
    """

    scores: Scores
    metrics: pd.DataFrame
    made: Mapping[str, str]


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
    kind of device and precision, from the same two files, unchanged since. Failures are tried again.

    Args:
        metrics: ``msds``, ``lpips``, ``piq:fsim``, with options after commas: ``msds,backbone=alexnet,levels=4``; or scorers.
        datasets: with different names.
        results: the results file, made if there is none; None to keep nothing.
        device: None for the GPU if there is one.
        amp: compute under autocast, in half precision where torch thinks fit.
        batch_size: pairs of equal size at a time.
        workers: processes that decode images; None for one per core.
        progress: shows how far it is, for example :func:`terminal.progress`.
        reading: what the files do not say: the range of floating-point files, and so on.
        note: called once for everything of note in how files were read.

    Raises:
        ValueError: no metric or data set, two of one name, an unknown metric or device.
        ResultsFileError: the results file is something else.
        MissingDependencyError, MetricUnavailableError, WeightsNotFoundError: a metric cannot be made.
    """
    chosen = choose_device(device)
    _check_names("data set", [data.name for data in datasets], "name them, --csv NAME=FILE or load_csv(name=...)")
    reading = reading or Reading()
    entries = [_entry(metric, chosen, amp, reading) for metric in metrics]
    _check_names("metric", [entry.scorer.name for entry in entries], "give each once")
    keys = {data.name: [pair_key(*pair) for pair in _paths(data)] for data in datasets}
    with Results(results) as kept:
        numbers = [kept.metric(entry.scorer.name, entry.identity) for entry in entries]
        scorers = {number: entry.scorer for number, entry in zip(numbers, entries, strict=True)}
        pairs = {key: pair for data in datasets for key, pair in zip(keys[data.name], _paths(data), strict=True)}
        with torch.autocast(chosen.type, enabled=amp):
            _fill(kept, scorers, pairs, batch_size, workers, progress, reading, note)
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
    return Benchmark(scores, pd.DataFrame([_described(entry) for entry in entries]), _made(chosen, amp))


def _check_names(kind: str, names: Sequence[str], advice: str) -> None:
    if not names:
        raise ValueError(f"no {kind} given")
    if len(set(names)) < len(names):
        raise ValueError(f"two {kind}s of one name: {', '.join(names)}; {advice}")


def _paths(data: Dataset) -> list[tuple[str, str]]:
    return list(zip(data.table["reference"], data.table["distorted"], strict=True))


def _entry(metric: str | Scorer, device: torch.device, amp: bool, reading: Reading) -> _Entry:
    if isinstance(metric, Scorer):
        return _Entry(metric, _identity(metric, metric.name, amp, reading))
    scorer = create_scorer(metric, device)
    return _Entry(scorer, _identity(scorer, parse_metric(metric)[0], amp, reading))


def _identity(scorer: Scorer, name: str, amp: bool, reading: Reading) -> dict[str, Any]:
    """All that scores depend on, as plain values."""
    return {
        "metric": name,
        "options": {key: str(value) for key, value in (scorer.options or {}).items()},
        "source": str(getattr(scorer.module, "source", type(scorer.module).__qualname__)),
        "parameters_sha256": _parameters_hash(scorer.module),
        "versions": _versions({"msds-plugin", _toolkit(scorer)} | _packages(scorer.module)),
        "device": scorer.device.type,
        "amp": amp,
        "reading": {"peak": reading.peak, "background": list(reading.background)},
    }


def _toolkit(scorer: Scorer) -> str:
    package = type(scorer.module).__module__.partition(".")[0]
    return "piq" if scorer.name.startswith("piq:") else "msds-plugin" if package == "msds_plugin" else package


def _packages(module: nn.Module) -> set[str]:
    """Whose code computes the metric, besides ours and torch's."""
    found = {type(part).__module__.partition(".")[0] for part in module.modules()}
    return found - {"msds_plugin", "torch", "torchvision"}


def _versions(packages: Iterable[str]) -> dict[str, str]:
    found = {}
    for package in sorted(packages):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _parameters_hash(module: nn.Module) -> str | None:
    state = module.state_dict()
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest() if any(tensor.numel() for tensor in state.values()) else None


def _fill(
    kept: Results,
    scorers: Mapping[int, Scorer],
    pairs: Mapping[str, tuple[str, str]],
    batch_size: int,
    workers: int | None,
    progress: Progress,
    reading: Reading,
    note: Callable[[str], object],
) -> None:
    """Compute what is missing, and keep it as it comes."""
    lacking: dict[tuple[int, ...], list[str]] = defaultdict(list)  # the pairs by the metrics that have no score for them
    there = {number: kept.scored(number) for number in scorers}
    for key in pairs:
        lacking[tuple(number for number in scorers if key not in there[number])].append(key)
    lacking.pop((), None)
    with progress("scoring", sum(len(numbers) * len(keys) for numbers, keys in lacking.items())) as advance:
        for numbers, keys in lacking.items():
            # By number in place of name, so that an outcome knows where it belongs.
            chosen = [replace(scorers[number], name=str(number)) for number in numbers]
            files = {Pair(*map(Path, pairs[key])): key for key in keys}
            _warm_up(next(iter(files)), chosen, reading)
            with _Writer(kept) as writer:
                for result in score_pairs(files, chosen, batch_size, workers, reading, note):
                    writer.add(_outcome(result, files[result.pair]))
                    advance()


def _warm_up(pair: Pair, scorers: Sequence[Scorer], reading: Reading) -> None:
    """What is only slow the first time is not to count as a metric's time."""
    for _ in score_pairs([pair], scorers, workers=0, reading=reading, note=lambda _: None):
        pass


def _outcome(result: Result, key: str) -> Outcome:
    error = result.error
    if error is None and not math.isfinite(result.score):
        error = f"the score is {result.score}"
    score = None if error else result.score
    return Outcome(
        int(result.metric), key, str(result.pair.reference), str(result.pair.distorted), score, result.seconds, error
    )


class _Writer:
    """Gathers outcomes for a moment, since to be on disk for certain takes some milliseconds each time."""

    def __init__(self, kept: Results) -> None:
        self.kept = kept
        self.waiting: list[Outcome] = []
        self.since, self.computed = time.monotonic(), 0.0

    def add(self, outcome: Outcome) -> None:
        self.waiting.append(outcome)
        self.computed += outcome.seconds or 0.0
        if max(time.monotonic() - self.since, self.computed) >= WRITE_EVERY:
            self.write()

    def write(self) -> None:
        self.kept.add(self.waiting)
        self.waiting.clear()
        self.since, self.computed = time.monotonic(), 0.0

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.write()


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
    toolkit = _toolkit(scorer)
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
        "versions": ", ".join(f"{package} {number}" for package, number in _versions(PACKAGES).items()),
        "system": f"Python {platform.python_version()}, {platform.system()}",
    }
