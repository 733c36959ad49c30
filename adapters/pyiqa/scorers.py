"""pyiqa's metrics as scorers, by the names that pyiqa gives them."""

from __future__ import annotations

import difflib
from typing import Any, cast

import torch
from torch import Tensor

from ... import registry
from ...errors import MissingDependencyError
from ..common.scorer import MetricUnavailableError, Scorer


def create_pyiqa_scorer(name: str, device: torch.device, **options: Any) -> Scorer:
    """A metric of pyiqa, ready to score.

    Args:
        name: any of ``pyiqa.list_models()``, the ``ms-`` forms among them.
        device: where images will be.
        options: those of the metric.

    Raises:
        ValueError: no such metric; names the nearest.
        MissingDependencyError: pyiqa is not installed.
        MetricUnavailableError: pyiqa cannot make it, for want of its weights for example.
    """
    try:
        import pyiqa
    except ImportError as error:
        raise MissingDependencyError(
            f"no metric named {name!r} here ({', '.join(registry.names())}); "
            f"pyiqa's metrics need pyiqa ({error}): pip install 'msds-plugin[pyiqa]'"
        ) from error
    from . import attach

    attach()  # for the ms- forms of metrics that have come straight into pyiqa
    known = pyiqa.list_models()
    if name not in known:
        near = difflib.get_close_matches(name, known) or registry.names()
        raise ValueError(f"no metric named {name!r}; did you mean {', '.join(near)}?")
    try:
        model = pyiqa.create_metric(name, device=device, **options)
    except Exception as error:  # each of its metrics fails in its own way
        raise MetricUnavailableError(f"pyiqa cannot make {name!r} ({type(error).__name__}: {error})") from error

    def score(distorted: Tensor, reference: Tensor) -> Tensor:
        scores = model(distorted, reference) if model.metric_mode == "FR" else model(distorted)
        if scores.numel() != len(distorted):
            raise ValueError(f"{name} gave {scores.numel()} scores for {len(distorted)} images")
        return cast(Tensor, scores).reshape(-1)

    return Scorer(name, bool(model.lower_better), score, device, model)


def describe() -> list[tuple[str, str, str, str, str]]:
    """The metrics as (name, title, better direction, range, summary)."""
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    rows = []
    for name, config in sorted(DEFAULT_CONFIGS.items()):
        if name not in registry.names():
            kind = "full-reference" if config.get("metric_mode") == "FR" else "no-reference"
            direction = "lower" if config.get("lower_better") else "higher"
            rows.append((name, name, direction, config.get("score_range", ""), f"pyiqa, {kind}"))
    return rows
