"""Metrics on deformed and distorted photographs, on the benchmark's engine and results file."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import torch

from ..benchmark.datasets import Dataset
from ..benchmark.runner import Progress, no_progress
from ..benchmark.sizes import Resampling, Sizes, run_any_size
from ..common.scorer import Scorer
from ..images.read import Reading
from .deformations import DEFORMATIONS
from .distortions import DISTORTIONS
from .images import cells, make_images

_LOG = logging.getLogger(__name__)
_NAME = "photographs"


@dataclass(frozen=True)
class Robustness:
    """Scores of deformed and distorted photographs, and how they were made.

    Attributes:
        table: one row per metric and image: ``metric``, ``photograph``, ``reference``, ``distorted``, ``distortion``,
            ``level``, ``deformation``, ``strength``, ``score`` (NaN where it failed), ``seconds``, ``error``.
        lower_is_better: by metric.
        metrics: how each was made, see :class:`Benchmark`.
        made: device, versions, date.
        sizes: which metrics needed equal sizes, and what was done.
        notes: what a reader has to know.
    """

    table: pd.DataFrame
    lower_is_better: Mapping[str, bool]
    metrics: pd.DataFrame
    made: Mapping[str, str]
    sizes: Sizes
    notes: tuple[str, ...] = ()


def run_robustness(
    metrics: Sequence[str | Scorer],
    photographs: str | os.PathLike[str],
    deformations: Mapping[str, Sequence[float]] | None = None,
    distortions: Mapping[str, Sequence[float]] | None = None,
    images: str | os.PathLike[str] = "msds-robustness-images",
    results: str | Path | None = None,
    resize: Resampling | None = "bicubic",
    device: str | torch.device | None = None,
    batch_size: int = 8,
    workers: int | None = None,
    progress: Progress = no_progress,
    reading: Reading | None = None,
    note: Callable[[str], object] = _LOG.warning,
) -> Robustness:
    """Score every photograph in every distortion, undeformed and in every deformation, beside the undeformed clean one.

    Images and scores are kept: what is there is not made again.

    Args:
        metrics: names with options after commas, or scorers.
        photographs: folder of clean photographs; a margin of each is set aside for what comes into view.
        deformations: strengths by name of :data:`DEFORMATIONS`; None for all of them that can be had here.
        distortions: strengths by name of :data:`DISTORTIONS`; None for all of them.
        images: folder for the images that are made.
        results: file that keeps scores; None to keep none.
        resize: how an image of another size is resampled for metrics that need equal sizes; None to leave such scores out.
        device, batch_size, workers, progress, reading, note: as for :func:`benchmark.run`.

    Raises:
        ValueError: an unknown deformation or distortion, or a strength out of range; and as :func:`benchmark.run`.
        FileNotFoundError, ImageFileError: no folder, no photographs, or one that cannot be read.
        MissingDependencyError: seam carving is asked for without its package.

    Example:
        >>> from msds_plugin.adapters.robustness import run_robustness, summarise
        >>> made = run_robustness(["msds-fast", "ssim"], "photographs", {"rotation": [1, 3]})  # doctest: +SKIP
        >>> print(summarise(made).table)  # doctest: +SKIP
    """
    notes: list[str] = []
    moves = _chosen("deformation", deformations, {each.name: each.strengths for each in DEFORMATIONS.values()})
    if deformations is None and find_spec("seam_carving") is None:
        moves.pop("seam carving")
        notes.append("Seam carving is left out: it needs the package seam-carving, pip install 'msds-plugin[retarget]'.")
    levels = _chosen("distortion", distortions, {each.name: each.strengths for each in DISTORTIONS.values()})
    listed = make_images(photographs, images, cells(moves, levels), progress, reading, note)
    data = Dataset(_NAME, listed[["reference", "distorted"]].assign(score=0.0), False)
    benchmark, sizes = run_any_size(metrics, [data], results, device, False, batch_size, workers, progress, resize=resize)
    scored = benchmark.scores.table[["metric", "distorted", "score", "seconds", "error"]]
    table = scored.merge(listed, on="distorted", how="left", validate="many_to_one")
    columns = ["metric", *listed.columns, "score", "seconds", "error"]
    return Robustness(
        table[columns],
        benchmark.scores.lower_is_better,
        benchmark.metrics,
        benchmark.made,
        sizes,
        (*notes, *sizes.notes),
    )


def _chosen(
    kind: str, chosen: Mapping[str, Sequence[float]] | None, known: Mapping[str, Sequence[float]]
) -> dict[str, Sequence[float]]:
    if chosen is None:
        return dict(known)
    if not chosen:
        raise ValueError(f"no {kind} given: choose from {', '.join(known)}")
    for name in chosen:
        if name not in known:
            raise ValueError(f"no {kind} named {name!r}: choose from {', '.join(known)}")
    return {name: tuple(strengths) or known[name] for name, strengths in chosen.items()}
