"""Pairs whose images differ in size: which metrics can compare them as they are, and a stated resampling for the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from ..common.scorer import Scorer
from ..images.read import size_of
from ..scoring.scorers import create_scorer
from .datasets import Dataset
from .runner import Benchmark, run
from .summary import Summary

#: How a distorted image may be brought to the size of its reference.
Resampling = Literal["nearest", "bilinear", "bicubic"]
METHODS: tuple[str, ...] = get_args(Resampling)


@dataclass(frozen=True)
class Sizes:
    """What was done about pairs that differ in size.

    Attributes:
        resize: how the distorted image was resampled for metrics that need equal sizes; None where it was not.
        differing: by data set, the pairs whose images differ in size.
        total: by data set, all pairs.
        need_equal: names of the metrics that need equal sizes, of those that were asked.
    """

    resize: str | None
    differing: Mapping[str, int]
    total: Mapping[str, int]
    need_equal: tuple[str, ...]

    def resampled(self, dataset: str, metric: str) -> int:
        """Pairs of which this metric saw a resampled image."""
        return self.differing.get(dataset, 0) if self.resize and metric in self.need_equal else 0

    @property
    def notes(self) -> list[str]:
        """The same in sentences; none where all pairs are of equal size."""
        found = []
        for name, count in self.differing.items():
            if not count:
                continue
            said = f"In {count} of {self.total[name]} pairs of {name} the two images differ in size"
            if not self.need_equal:
                found.append(f"{said}: every metric compares them as they are.")
            elif self.resize:
                found.append(f"{said}: {', '.join(self.need_equal)} got the distorted one resampled ({self.resize}).")
            else:
                found.append(f"{said}: {', '.join(self.need_equal)} cannot compare them; --resize would resample.")
        return found


def run_any_size(
    metrics: Sequence[str | Scorer],
    datasets: Sequence[Dataset],
    results: str | Path | None = None,
    device: str | torch.device | None = None,
    *args: Any,
    resize: Resampling | None = None,
    **options: Any,
) -> tuple[Benchmark, Sizes]:
    """:func:`run` on sets whose pairs may differ in size.

    Metrics that represent each image by itself (ours) compare pairs as they are. The others get the distorted image resampled
    to the size of its reference or, without ``resize``, give no score for such a pair.

    Args:
        metrics, datasets, results, device, args, options: as for :func:`run`.
        resize: ``nearest``, ``bilinear``, ``bicubic`` (the last two antialiased); None to leave images as they are.

    Raises:
        ValueError: an unknown method; and as :func:`run`.
    """
    if resize is not None and resize not in METHODS:
        raise ValueError(f"images cannot be resampled by {resize!r}: choose {', '.join(METHODS)}")
    differing = {data.name: _differing(data) for data in datasets}
    total = {data.name: len(data.table) for data in datasets}
    if resize is None and not any(differing.values()):
        return run(metrics, datasets, results, device, *args, **options), Sizes(resize, differing, total, ())
    prepared = [_prepared(metric, device, resize) for metric in metrics]
    need_equal = tuple(one.name for one in prepared if isinstance(one, Scorer) and isinstance(one.score, _Equalising))
    made = run(prepared, datasets, results, device, *args, **options)
    return made, Sizes(resize, differing, total, need_equal)


def _differing(data: Dataset) -> int:
    known: dict[str, tuple[int, int] | None] = {}
    for path in {*data.table["reference"], *data.table["distorted"]}:
        known[path] = _size(path)
    pairs = zip(data.table["reference"], data.table["distorted"], strict=True)
    return sum(known[a] != known[b] for a, b in pairs if known[a] and known[b])


def _size(path: str) -> tuple[int, int] | None:
    try:
        return size_of(path)
    except Exception:  # whoever scores it says what is wrong
        return None


def _prepared(metric: str | Scorer, device: str | torch.device | None, resize: str | None) -> str | Scorer:
    scorer = metric if isinstance(metric, Scorer) else create_scorer(metric, device)
    if not needs_equal_sizes(scorer):
        return metric  # as it came, so that scores that were kept under this name are found again
    options = scorer.options if resize is None else dict(scorer.options or {}) | {"resize": resize}
    return replace(scorer, score=_Equalising(scorer, resize), options=options)


def needs_equal_sizes(scorer: Scorer) -> bool:
    """Whether a metric compares the two images place by place: all do but those that represent each image by itself."""
    return scorer.representing is None and getattr(scorer.module, "metric_mode", "FR") == "FR"


class _Equalising:
    """A score of images of equal size, whatever size they come in."""

    def __init__(self, scorer: Scorer, resize: str | None) -> None:
        self.scorer = scorer
        self.resize = resize

    def __call__(self, distorted: Tensor, reference: Tensor) -> Tensor:
        if distorted.shape[-2:] == reference.shape[-2:]:
            return self.scorer.score(distorted, reference)
        if self.resize is None:
            sizes = " and ".join(f"{image.shape[-1]} x {image.shape[-2]}" for image in (distorted, reference))
            raise ValueError(f"{self.scorer.name} needs images of equal size, got {sizes}: give --resize bicubic, for example")
        return self.scorer.score(resample(distorted, reference.shape[-2:], self.resize), reference)


def resample(image: Tensor, size: Sequence[int], method: str) -> Tensor:
    """An image (N, 3, H, W) at another size, clipped to [0, 1]; antialiased but for ``nearest``."""
    if method == "nearest":
        return F.interpolate(image, tuple(size), mode="nearest-exact")
    return F.interpolate(image, tuple(size), mode=method, antialias=True).clamp(0, 1)


def noted(summed: Summary, sizes: Sizes) -> Summary:
    """A summary that says which metrics saw resampled images: in its notes, and in ``resampled`` of its table."""
    pairs = zip(summed.table["dataset"], summed.table["metric"], strict=True)
    table = summed.table.assign(resampled=[sizes.resampled(dataset, metric) for dataset, metric in pairs])
    return replace(summed, table=table, notes=[*sizes.notes, *summed.notes])
