"""Metrics side by side on opinion-scored data sets: every score is computed once and kept."""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext, suppress
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
from msds_plugin.adapters.scorers import UNAVAILABLE, Scorer, choose_device, create_scorer
from msds_plugin.adapters.scoring import Run
from msds_plugin.adapters.scoring.store import Results, ResultsWriteError, identity, pair_keys, score_and_keep
from msds_plugin.adapters.wrap import ToolkitMetric
from msds_plugin.local import LocalMetric
from msds_plugin.metric import Metric, PairMetric
from msds_plugin.msds import CallableMetric
from msds_plugin.networks import Backbone

#: How a distorted image may be brought to the size of its reference.
Resampling = Literal["nearest", "bilinear", "bicubic"]
#: Called with a description and the number of steps; gives, as a context, what is to be called after each step.
Progress = Callable[[str, int], AbstractContextManager[Callable[[], None]]]
_PAIR = ["reference", "distorted"]


def no_progress(description: str, total: int) -> AbstractContextManager[Callable[[], None]]:
    """Shows nothing."""
    return nullcontext(lambda: None)


@dataclass(frozen=True)
class Benchmark:
    """Scores, and how they were made.

    Attributes:
        scores: beside the opinions.
        metrics: one row per metric: ``metric``, ``packages`` with versions, ``options``, ``backbone``, ``source`` (what it
            computes, with a hash of all weights).
        made: device, precision, date, versions, by name, for reading.
        run, scorers: how files were read, and what made the scores.
        unavailable: metrics that could not be made, with the reason.
        notes: how tables were read, and what was done about pairs that differ in size, in sentences.
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

    A score in the file is used only if it was made by the same metric with the same options, weights, versions, kind of device
    and precision, from files of the same content. Failures are tried again. A metric that cannot be made, for want of its
    weights for example, is left out and named.

    Args:
        metrics: ``msds``, ``lpips``, ``piq:fsim``, with options after commas: ``msds,backbone=alexnet,levels=4``; or scorers.
        datasets: with different names.
        results: the results file, made if there is none; None to keep nothing.
        run: device, runtime, precision, threads, how files are read.
        progress: shows how far it is, for example :func:`terminal.progress`.
        resize: resample distorted images to the size of their references, for the metrics that compare pixel by pixel.

    Raises:
        ValueError: no metric or data set, two of one name, an unknown metric, device or way to resample.
        ResultsFileError: the results file is something else, or damaged.
        NotKeptError: the disk is full; what was kept before is safe, and the error holds what was computed.
        MissingDependencyError, MetricUnavailableError, WeightsNotFoundError: none of the metrics can be made.
    """
    check_resize(resize)
    _check_names("data set", [data.name for data in datasets], "name them, --csv NAME=FILE or load_csv(name=...)")
    scorers, unavailable = make_scorers(metrics, run)
    aligned = [scorer.name for scorer in scorers if _is_aligned(scorer.metric)]
    differing = {data.name: count for data in datasets if (count := _differing(data))}
    if resize is not None and differing:
        scorers = [_resized(scorer, resize) if scorer.name in aligned else scorer for scorer in scorers]
    rows = pd.concat([data.table.assign(dataset=data.name) for data in datasets], ignore_index=True)
    rows = rows.reindex(columns=["dataset", *_PAIR, "distortion", "score", "std"]).rename(columns={"score": "opinion"})
    rows = rows.astype({**dict.fromkeys(_PAIR, str), "distortion": object})  # of whatever type a user's columns are
    pairs = [Pair(Path(reference), Path(distorted)) for reference, distorted in rows[_PAIR].itertuples(index=False)]
    frames = score(scorers, pairs, results, run, progress, warm_up=True)
    parts = [
        pd.concat([rows, frame], axis=1)[rows["dataset"] == data.name].assign(metric=scorer.name)
        for data in datasets
        for scorer, frame in zip(scorers, frames, strict=True)
    ]
    columns = ["dataset", "metric", *_PAIR, "distortion", "opinion", "std", "score", "seconds", "error"]
    scores = Scores(
        pd.concat(parts, ignore_index=True)[columns],
        {scorer.name: scorer.lower_is_better for scorer in scorers},
        {data.name: data.lower_is_better for data in datasets},
    )
    described = pd.DataFrame([_described(scorer, run) for scorer in scorers])
    notes = [note for data in datasets for note in data.notes]
    notes += [_size_note(data, differing[data.name], aligned, resize) for data in datasets if data.name in differing]
    resampled = {(data, name): count for data, count in differing.items() for name in aligned if resize}
    return Benchmark(scores, described, _made(run), run, tuple(scorers), unavailable, tuple(notes), resampled)


def score(
    scorers: Sequence[Scorer],
    pairs: Sequence[Pair],
    results: str | Path | None,
    run: Run,
    progress: Progress = no_progress,
    warm_up: bool = False,
) -> list[pd.DataFrame]:
    """For each metric ``score``, ``seconds`` and ``error`` of each pair, from the results file as far as they are there.

    With ``warm_up`` what is slow the first time does not count as a metric's time. The rest, and errors, as for :func:`run`.
    """
    keys = pair_keys(pairs, run.masks)
    work = dict(zip(keys, pairs, strict=True))
    with Results(results) as kept:
        by_number = {kept.metric(scorer.name, identity(scorer, run)): scorer for scorer in scorers}
        steps = sum(len(work.keys() - kept.scored(number)) for number in by_number)
        computed = []
        with progress("scoring", steps) as advance:
            try:
                with closing(score_and_keep(kept, by_number, work, run, warm_up)) as outcomes:
                    for _, each in outcomes:
                        computed.append((each.metric, str(each.pair.reference), str(each.pair.distorted), each.score))
                        advance()
            except ResultsWriteError as error:
                raise NotKeptError(str(error), pd.DataFrame(computed, columns=["metric", *_PAIR, "score"])) from error
        return [kept.frame(number).reindex(keys).reset_index(drop=True) for number in by_number]


def check_resize(resize: str | None) -> None:
    """Raise a ValueError unless this is a way to resample images, or None."""
    if resize is not None and resize not in get_args(Resampling):
        raise ValueError(f"images cannot be resampled by {resize!r}: choose {', '.join(get_args(Resampling))}")


def make_scorers(metrics: Sequence[str | Scorer], run: Run) -> tuple[list[Scorer], dict[str, str]]:
    """The metrics that can be made, and why the others cannot; an error where none can, or two have one name."""
    scorers: list[Scorer] = []
    failed: dict[str, Exception] = {}
    for metric in metrics:
        try:
            scorers.append(metric if isinstance(metric, Scorer) else create_scorer(metric, run.device, run.runtime))
        except UNAVAILABLE as error:
            failed[str(metric)] = error
    if failed and not scorers:
        raise next(iter(failed.values()))
    _check_names("metric", [scorer.name for scorer in scorers], "give each once")
    return scorers, {name: " ".join(str(error).split()) for name, error in failed.items()}


def _check_names(kind: str, names: Sequence[str], advice: str) -> None:
    if not names:
        raise ValueError(f"no {kind} given")
    if len(set(names)) < len(names):
        raise ValueError(f"two {kind}s of one name: {', '.join(names)}; {advice}")


def _described(scorer: Scorer, run: Run) -> dict[str, Any]:
    backbone, about = backbone_of(scorer.metric), identity(scorer, run)
    return {
        "metric": scorer.name,
        "packages": ", ".join(f"{name} {number}" for name, number in about["versions"].items()),
        "options": ", ".join(f"{key}={value}" for key, value in scorer.options.items()),
        "backbone": "" if backbone is None else f"{backbone.name} ({', '.join(backbone.layers)})",
        "source": about["source"],
    }


def backbone_of(metric: Metric) -> Backbone | None:
    """The first feature network of ours in a metric, also one that is compiled."""
    modules = (part for module in metric.weighted_modules() for part in module.modules())
    return next((module for module in modules if isinstance(module, Backbone)), None)


def _made(run: Run) -> dict[str, str]:
    device, on_cpu = choose_device(run.device), f"{platform.machine()}, {torch.get_num_threads()} threads"
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "device": f"{device} ({torch.cuda.get_device_name(device) if device.type == 'cuda' else on_cpu})",
        "precision": "autocast" if run.amp else "float32",
        "system": f"Python {platform.python_version()}, torch {torch.__version__}, {platform.system()}",
    }


# Pairs that differ in size


def _is_aligned(metric: Metric) -> bool:
    """Whether a metric compares the two images pixel by pixel, so that they must be of one size."""
    return isinstance(metric, LocalMetric | CallableMetric) or (isinstance(metric, ToolkitMetric) and metric.full_reference)


def _differing(data: Dataset) -> int:
    """Pairs whose images differ in size; those that cannot be read do not count."""
    sizes: dict[str, tuple[int, int]] = {}
    for path in pd.unique(data.table[_PAIR].to_numpy().ravel()):
        with suppress(Exception):  # whoever scores it says what is wrong
            sizes[path] = size_of(path)
    pairs = data.table[_PAIR].itertuples(index=False)
    return sum({x, y} <= sizes.keys() and sizes[x] != sizes[y] for x, y in pairs)


def _size_note(data: Dataset, differing: int, aligned: Sequence[str], resize: str | None) -> str:
    names = ", ".join(aligned)
    if not aligned:
        outcome = "every metric compares them as they are."
    elif resize:
        outcome = f"{names} got the distorted one resampled ({resize})."
    else:
        outcome = f"{names} can compare them only where few pixels differ; --resize would resample."
    return f"In {differing} of {len(data.table)} pairs of {data.name} the two images differ in size: {outcome}"


def _resized(scorer: Scorer, method: str) -> Scorer:
    return replace(scorer, metric=_Resized(scorer.metric, method), options={**scorer.options, "resize": method}, ours=True)


class _Resized(PairMetric):
    """A metric that gets distorted images resampled to the size of their references."""

    def __init__(self, metric: Metric, method: str) -> None:
        super().__init__()
        self.metric, self.method = metric, method
        self.lower_is_better = metric.lower_is_better
        self._one_at_a_time = threading.Lock()  # toolkits' metrics may not bear several threads

    @property
    def description(self) -> str:
        return f"{self.metric.description}, distorted images resampled ({self.method})"

    def _score(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        with self._one_at_a_time:
            return self.metric(resample(x, y.shape[-2:], self.method), y)


def resample(image: Tensor, size: Sequence[int], method: str) -> Tensor:
    """An image (N, 3, H, W) at another size, clipped to [0, 1]; antialiased but for ``nearest``."""
    if image.shape[-2:] == torch.Size(size):
        return image
    if method == "nearest":
        return F.interpolate(image, tuple(size), mode="nearest-exact")
    return F.interpolate(image, tuple(size), mode=method, antialias=True).clamp(0, 1)
