"""One score for each image out of metrics that do not all return one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def score_each(metric: Callable[[Tensor, Tensor], Any], x: Tensor, y: Tensor) -> Tensor:
    """Scores (N,) of ``x`` beside ``y``; a metric that averages over the batch is called once for each image.

    Of a metric that returns a tuple the first value is taken, as pyiqa does for a loss.

    Raises:
        ValueError: the metric returns something else than one score for each image.
    """
    scores = _first(metric(x, y))
    if scores.numel() == 1 and len(x) > 1:
        scores = torch.stack([_first(metric(x[i : i + 1], y[i : i + 1])).squeeze() for i in range(len(x))])
    if scores.numel() != len(x):
        raise ValueError(f"the metric returned shape {tuple(scores.shape)} for {len(x)} images: one score each is needed")
    return scores.reshape(-1)


def _first(output: Any) -> Tensor:
    value = output[0] if isinstance(output, tuple) else output
    if not isinstance(value, Tensor):
        raise ValueError(f"the metric returned {type(output).__name__}, not a tensor of scores")
    return value


def variant(name: str, options: dict[str, Any]) -> str:
    """What tells a metric with these options from the same metric with others."""
    if not options:
        return name
    plain = {k: v if isinstance(v, str | float | int | None) else type(v).__name__ for k, v in options.items()}
    return f"{name}({', '.join(f'{key}={value}' for key, value in sorted(plain.items()))})"
