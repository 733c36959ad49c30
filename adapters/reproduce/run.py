"""Measured beside published."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ..benchmark import statistics
from ..benchmark.runner import Benchmark, Progress, no_progress, run
from ..benchmark.summary import Summary, summarise
from .layout import Found, look
from .published import PUBLISHED, SETS

_STATISTICS = ("srcc", "plcc")


@dataclass(frozen=True)
class Reproduction:
    """Published figures with those measured here.

    Attributes:
        table: one row per metric, data set, statistic (``srcc``, ``plcc``): ``state`` of the set (``whole``, ``partial``,
            ``missing``), ``images``, ``measured`` with ``low`` and ``high`` (95 % over references), ``published`` (NaN where
            there is none), ``difference`` (measured - published, of the nearest listing), ``inside`` (whether the interval
            holds the published figure; None where that is not known).
        found: what there is of each data set.
        benchmark, summary: of the sets that are there; None where there is none.
        notes: what a reader has to know.
    """

    table: pd.DataFrame
    found: tuple[Found, ...]
    benchmark: Benchmark | None
    summary: Summary | None
    notes: tuple[str, ...]


def reproduce(
    which: str,
    data_root: str | os.PathLike[str],
    sets: Sequence[str] = tuple(SETS),
    results: str | Path | None = None,
    device: str | torch.device | None = None,
    batch_size: int = 8,
    workers: int | None = None,
    resamples: int = statistics.RESAMPLES,
    seed: int = statistics.SEED,
    progress: Progress = no_progress,
) -> Reproduction:
    """Measure the published configuration on the data sets that lie under a folder. Nothing is downloaded but weights.

    Args:
        which: ``msds``, ``deepssim`` or ``all``.
        data_root: the folder that holds data sets in pyiqa's layout, ``meta_info`` among them.
        sets: pyiqa's names, of :data:`SETS`.
        results, device, batch_size, workers, progress: as for :func:`benchmark.run`.
        resamples, seed: of the bootstrap over references.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: another name of a metric or set.
        MissingDependencyError: pyiqa is not installed.
        WeightsNotFoundError: VGG16's weights are not here and cannot be downloaded.
    """
    chosen = list(PUBLISHED) if which == "all" else [which]
    if which != "all" and which not in PUBLISHED:
        raise ValueError(f"nothing published is known of {which!r}: choose {', '.join(PUBLISHED)} or all")
    unknown = [name for name in sets if name not in SETS]
    if unknown or not sets:
        raise ValueError(f"no data set {', '.join(unknown) or 'given'}: choose from {', '.join(SETS)}")
    root = Path(data_root)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}: give the folder that holds the data sets")
    found = tuple(look(name, root) for name in sets)
    here = [each.data for each in found if each.data is not None]
    benchmark = summed = None
    if here:
        specs = [PUBLISHED[name].metric for name in chosen]
        benchmark = run(specs, here, results, device, False, batch_size, workers, progress)
        summed = summarise(benchmark.scores, resamples=resamples, seed=seed)
    table = pd.DataFrame([row for name in chosen for each in found for row in _rows(name, each, benchmark, summed, chosen)])
    return Reproduction(table, found, benchmark, summed, _notes(chosen, found))


def _rows(
    name: str, found: Found, benchmark: Benchmark | None, summed: Summary | None, chosen: Sequence[str]
) -> list[dict[str, Any]]:
    measured: dict[str, Any] = {}
    if benchmark is not None and summed is not None and found.data is not None:
        metric = benchmark.scores.metrics[chosen.index(name)]
        table = summed.table
        measured = table[(table["dataset"] == found.name) & (table["metric"] == metric)].iloc[0].to_dict()
    nan = float("nan")
    rows = []
    for statistic in _STATISTICS:
        value, low, high = (measured.get(f"{statistic}{end}", nan) for end in ("", "_low", "_high"))
        listed = getattr(PUBLISHED[name], statistic).get(found.name, ())
        nearest = min(listed, key=lambda one: abs(one - value) if value == value else 0, default=nan)
        comparable = found.state == "whole" and bool(listed) and low == low
        rows.append(
            {
                "metric": name,
                "dataset": found.name,
                "statistic": statistic,
                "state": found.state,
                "images": int(measured.get("count", 0)),
                "measured": value,
                "low": low,
                "high": high,
                "published": nearest,
                "difference": value - nearest,
                "inside": (low <= nearest <= high) if comparable else None,
            }
        )
    return rows


def _notes(chosen: Sequence[str], found: Sequence[Found]) -> tuple[str, ...]:
    notes = [f"{name}: {PUBLISHED[name].configuration}. {PUBLISHED[name].source}." for name in chosen]
    for each in found:
        known = SETS[each.name]
        if each.state == "partial":
            notes.append(f"{known.title} is there in part, so its figures are not those of the whole set: {each.reason}.")
        elif each.state == "missing":
            notes.append(f"{known.title} is missing: {each.reason}.")
        elif known.note:
            notes.append(f"{known.title}: {known.note}")
        if each.state == "whole" and each.data is not None and len(each.data.table) != known.images:
            notes.append(f"{known.title} has {len(each.data.table)} images here, {known.images} in the whole set.")
    return tuple(notes)
