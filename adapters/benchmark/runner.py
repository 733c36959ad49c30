"""Metrics side by side on opinion-scored data sets: every score is computed once and kept."""

from __future__ import annotations

import math
import platform
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from msds_plugin.adapters.benchmark.datasets import Dataset
from msds_plugin.adapters.benchmark.summary import Scores
from msds_plugin.adapters.images.pairs import Pair
from msds_plugin.adapters.images.read import size_of
from msds_plugin.adapters.scorers import MetricUnavailableError, Scorer, choose_device, create_scorer
from msds_plugin.adapters.scoring.options import Run
from msds_plugin.adapters.scoring.store import Outcome, Results, ResultsWriteError, identity, pair_keys, score_and_keep
from msds_plugin.adapters.wrap import ToolkitMetric
from msds_plugin.backbones import Backbone
from msds_plugin.checks import MissingDependencyError, WeightsFileError, WeightsNotFoundError
from msds_plugin.local import LocalMetric
from msds_plugin.metric import Images, Metric
from msds_plugin.msds import CallableMetric

#: How a distorted image may be brought to the size of its reference.
Resampling = Literal["nearest", "bilinear", "bicubic"]
#: Why one of several metrics cannot be made; a name that nobody knows is not among them.
_UNAVAILABLE = (MetricUnavailableError, MissingDependencyError, WeightsFileError, WeightsNotFoundError)

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
        metrics: one row per metric: ``metric``, ``packages`` with versions, ``options``, ``backbone``, ``source`` (what it
            computes, with a hash of all weights).
        made: device, precision, date, versions, by name, for reading.
        run: how files were read and scores made.
        scorers: what made them, for a closer look at single pairs.
        unavailable: metrics that could not be made, with the reason.
        notes: what was done about pairs that differ in size, and how tables were read, in sentences.
        resampled: by (data set, metric), of how many pairs the metric saw a resampled image.
    """

    scores: Scores
    metrics: pd.DataFrame
    made: Mapping[str, str]
    run: Run
    scorers: Sequence[Scorer] = ()
    unavailable: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    resampled: Mapping[tuple[str, str], int] = field(default_factory=dict)


class NotKeptError(OSError):
    """Scores cannot be kept any more; ``computed`` holds those of this run: metric, reference, distorted and score."""

    def __init__(self, reason: str, computed: pd.DataFrame) -> None:
        super().__init__(reason)
        self.computed = computed


def run(
    metrics: Sequence[str | Scorer],
    datasets: Sequence[Dataset],
    results: str | Path | None = None,
    run: Run = Run(),  # noqa: B008 (frozen)
    progress: Progress = no_progress,
    resize: Resampling | None = None,
) -> Benchmark:
    """Score every pair of every data set with every metric, or take the score from the results file if it is there.

    A score in the file is used only if it was made by the same metric with the same options, values of the weights, version,
    kind of device and precision, from files of the same content. Failures are tried again. A metric that cannot be made, for
    want of its weights for example, is left out and named.

    Args:
        metrics: ``msds``, ``lpips``, ``piq:fsim``, with options after commas: ``msds,backbone=alexnet,levels=4``; or scorers.
        datasets: with different names.
        results: the results file, made if there is none; None to keep nothing.
        run: device, runtime, precision, threads, how files are read.
        progress: shows how far it is, for example :func:`terminal.progress`.
        resize: resample distorted images to the size of their references, for the metrics that compare pixel by pixel; the
            others compare images of any size as they are.

    Raises:
        ValueError: no metric or data set, two of one name, an unknown metric, device or way to resample.
        ResultsFileError: the results file is something else, or damaged.
        NotKeptError: the disk is full; what was kept before is safe, and the error holds what was computed.
        MissingDependencyError, MetricUnavailableError, WeightsNotFoundError: none of the metrics can be made.
    """
    if resize is not None and resize not in get_args(Resampling):
        raise ValueError(f"images cannot be resampled by {resize!r}: choose {', '.join(get_args(Resampling))}")
    _check_names("data set", [data.name for data in datasets], "name them, --csv NAME=FILE or load_csv(name=...)")
    scorers, unavailable = make_scorers(metrics, run)
    _check_names("metric", [scorer.name for scorer in scorers], "give each once")
    notes = [note for data in datasets for note in data.notes]
    aligned = {scorer.name for scorer in scorers if _is_aligned(scorer.metric)}
    differing = {data.name: _differing(data) for data in datasets}
    notes += _size_notes(datasets, differing, [scorer.name for scorer in scorers if scorer.name in aligned], resize)
    if resize is not None and any(differing.values()):
        scorers = [_resized(scorer, resize) if scorer.name in aligned else scorer for scorer in scorers]
    pairs = {data.name: [Pair(Path(reference), Path(distorted)) for reference, distorted in _paths(data)] for data in datasets}
    keys = {name: pair_keys(own) for name, own in pairs.items()}
    with Results(results) as kept:
        identities = [identity(scorer, run) for scorer in scorers]
        numbers = [kept.metric(scorer.name, each) for scorer, each in zip(scorers, identities, strict=True)]
        by_number = dict(zip(numbers, scorers, strict=True))
        work = {key: pair for name, own in pairs.items() for key, pair in zip(keys[name], own, strict=True)}
        computed: list[Outcome] = []
        steps = sum(len(work.keys() - kept.scored(number)) for number in numbers)
        with progress("scoring", steps) as advance:
            try:
                with closing(score_and_keep(kept, by_number, work, run, warm_up=True)) as outcomes:
                    for outcome in outcomes:
                        computed.append(outcome)
                        advance()
            except ResultsWriteError as error:
                rows = [(by_number[each.metric].name, each.reference, each.distorted, each.score) for each in computed]
                raise NotKeptError(str(error), pd.DataFrame(rows, columns=["metric", *_PAIR, "score"])) from error
        frames = {number: kept.frame(number) for number in numbers}
    tables = [_table(data, keys[data.name], by_number[number].name, frames[number]) for data in datasets for number in numbers]
    scores = Scores(
        pd.concat(tables, ignore_index=True),
        {scorer.name: scorer.lower_is_better for scorer in scorers},
        {data.name: data.lower_is_better for data in datasets},
    )
    return Benchmark(
        scores,
        pd.DataFrame([_described(*each) for each in zip(scorers, identities, strict=True)]),
        _made(run),
        run,
        tuple(scorers),
        unavailable,
        tuple(notes),
        {(data, name): count for data, count in differing.items() for name in aligned if resize and count},
    )


_PAIR = ["reference", "distorted"]


def make_scorers(metrics: Sequence[str | Scorer], run: Run) -> tuple[list[Scorer], dict[str, str]]:
    """The metrics that can be made, and why the others cannot.

    Raises:
        ValueError: no metric given, or one of an unknown name.
        MissingDependencyError, MetricUnavailableError, WeightsNotFoundError: none of them can be made.
    """
    scorers: list[Scorer] = []
    failed: dict[str, Exception] = {}
    for metric in metrics:
        try:
            scorers.append(metric if isinstance(metric, Scorer) else create_scorer(metric, run.device, run.runtime))
        except _UNAVAILABLE as error:
            failed[str(metric)] = error
    if failed and not scorers:
        raise next(iter(failed.values()))
    return scorers, {name: " ".join(str(error).split()) for name, error in failed.items()}


def _check_names(kind: str, names: Sequence[str], advice: str) -> None:
    if not names:
        raise ValueError(f"no {kind} given")
    if len(set(names)) < len(names):
        raise ValueError(f"two {kind}s of one name: {', '.join(names)}; {advice}")


def _paths(data: Dataset) -> list[tuple[str, str]]:
    return list(zip(data.table["reference"], data.table["distorted"], strict=True))


def _table(data: Dataset, keys: Sequence[str], metric: str, outcomes: pd.DataFrame) -> pd.DataFrame:
    rows = data.table.rename(columns={"score": "opinion"}).reset_index(drop=True)
    for column, missing in (("distortion", None), ("std", math.nan)):
        if column not in rows:
            rows[column] = missing
    table = pd.concat([rows, outcomes.reindex(list(keys)).reset_index(drop=True)], axis=1)
    table.insert(0, "dataset", data.name)
    table.insert(1, "metric", metric)
    return table[["dataset", "metric", *_PAIR, "distortion", "opinion", "std", "score", "seconds", "error"]]


def _described(scorer: Scorer, identity: Mapping[str, Any]) -> dict[str, Any]:
    backbone = backbone_of(scorer.metric)
    return {
        "metric": scorer.name,
        "packages": ", ".join(f"{name} {number}" for name, number in identity["versions"].items()),
        "options": ", ".join(f"{key}={value}" for key, value in scorer.options.items()),
        "backbone": "" if backbone is None else f"{backbone.name} ({', '.join(backbone.layers)})",
        "source": identity["source"],
    }


def backbone_of(metric: Metric) -> Backbone | None:
    """The first feature network of ours in a metric, also one that is compiled."""
    modules = (part for module in metric.weighted_modules() for part in module.modules())
    return next((module for module in modules if isinstance(module, Backbone)), None)


def _made(run: Run) -> dict[str, str]:
    device = choose_device(run.device)
    threads = f"{platform.machine()}, {torch.get_num_threads()} threads"
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "device": f"{device} ({torch.cuda.get_device_name(device) if device.type == 'cuda' else threads})",
        "precision": "autocast" if run.amp else "float32",
        "system": f"Python {platform.python_version()}, torch {torch.__version__}, {platform.system()}",
    }


# Pairs that differ in size


def _is_aligned(metric: Metric) -> bool:
    """Whether a metric compares the two images pixel by pixel, so that they must be of one size."""
    return isinstance(metric, LocalMetric | CallableMetric) or (isinstance(metric, ToolkitMetric) and metric.full_reference)


def _differing(data: Dataset) -> int:
    """Pairs whose images differ in size; those that cannot be read do not count."""
    sizes = {path: _size(path) for path in {*data.table["reference"], *data.table["distorted"]}}
    return sum(bool(sizes[a] and sizes[b]) and sizes[a] != sizes[b] for a, b in _paths(data))


def _size(path: str) -> tuple[int, int] | None:
    try:
        return size_of(path)
    except Exception:  # whoever scores it says what is wrong
        return None


def _size_notes(
    datasets: Sequence[Dataset], differing: Mapping[str, int], aligned: Sequence[str], resize: str | None
) -> list[str]:
    notes = []
    for data in datasets:
        said = f"In {differing[data.name]} of {len(data.table)} pairs of {data.name} the two images differ in size: "
        if not differing[data.name]:
            continue
        if not aligned:
            notes.append(f"{said}every metric compares them as they are.")
        elif resize:
            notes.append(f"{said}{', '.join(aligned)} got the distorted one resampled ({resize}).")
        else:
            notes.append(f"{said}{', '.join(aligned)} can compare them only where few pixels differ; --resize would resample.")
    return notes


def _resized(scorer: Scorer, method: str) -> Scorer:
    return replace(scorer, metric=_Resized(scorer.metric, method), options={**scorer.options, "resize": method}, ours=True)


class _Resized(Metric):
    """A metric that gets distorted images resampled to the size of their references."""

    def __init__(self, metric: Metric, method: str) -> None:
        super().__init__()
        self.metric, self.method = metric, method
        self.lower_is_better = metric.lower_is_better
        self._one_at_a_time = threading.Lock()  # toolkits' metrics may not bear several threads

    @property
    def description(self) -> str:
        return f"{self.metric.description}, distorted images resampled ({self.method})"

    def _represent(self, image: Any) -> Images:
        return Images(self.description, image)

    def _compare(self, a: Images, b: Images) -> Tensor:
        x, y = a.of_number(len(a)), b.of_number(len(a))
        assert isinstance(x, Tensor)
        assert isinstance(y, Tensor)
        with self._one_at_a_time:
            return self.metric(resample(x, y.shape[-2:], self.method), y)


def resample(image: Tensor, size: Sequence[int], method: str) -> Tensor:
    """An image (N, 3, H, W) at another size, clipped to [0, 1]; antialiased but for ``nearest``."""
    if image.shape[-2:] == torch.Size(size):
        return image
    if method == "nearest":
        return F.interpolate(image, tuple(size), mode="nearest-exact")
    return F.interpolate(image, tuple(size), mode=method, antialias=True).clamp(0, 1)
