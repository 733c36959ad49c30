"""piq's full-reference metrics as scorers, by the names that piq gives them: ``piq:fsim``, ``piq:LPIPS``."""

from __future__ import annotations

import difflib
import inspect
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import MissingDependencyError
from ..common.scorer import MetricUnavailableError, Scorer

PREFIX = "piq:"

#: piq says nowhere which of its metrics are distances: name to whether lower is better.
METRICS = {
    "psnr": False,
    "ssim": False,
    "multi_scale_ssim": False,
    "information_weighted_ssim": False,
    "vif_p": False,
    "fsim": False,
    "srsim": False,
    "vsi": False,
    "dss": False,
    "haarpsi": False,
    "gmsd": True,
    "multi_scale_gmsd": True,
    "mdsi": True,
    "LPIPS": True,
    "DISTS": True,
    "PieAPP": True,
    "ContentLoss": True,
    "StyleLoss": True,
}


#: What scales by the largest value in the batch: called with one pair at a time.
WHOLE_BATCH = ("srsim",)


class _Function(nn.Module):
    """A function of piq where a module is needed."""

    def __init__(self, function: Any, options: dict[str, Any]) -> None:
        super().__init__()
        inspect.signature(function).bind(None, None, **options)
        self.function = partial(function, data_range=1.0, reduction="none", **options)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        scores: Tensor = self.function(x, y)
        return scores


def create_piq_scorer(name: str, device: torch.device, **options: Any) -> Scorer:
    """A metric of piq, ready to score.

    Args:
        name: ``piq:`` and a name of :data:`METRICS`.
        device: where images will be.
        options: those of piq's function or class, without ``data_range`` and ``reduction``.

    Raises:
        ValueError: no such metric; names the nearest.
        MissingDependencyError: piq is not installed.
        MetricUnavailableError: piq cannot make it, for want of its weights for example.
    """
    own = name.removeprefix(PREFIX)
    if own not in METRICS:
        near = difflib.get_close_matches(own, METRICS) or list(METRICS)
        raise ValueError(f"piq has no full-reference metric named {own!r}; did you mean {', '.join(PREFIX + n for n in near)}?")
    try:
        import piq
    except ImportError as error:
        raise MissingDependencyError(f"{name} needs piq ({error}): pip install 'msds-plugin[piq]'") from error
    made: Any = getattr(piq, own)
    is_function = inspect.isfunction(made)
    try:
        module: nn.Module = _Function(made, options) if is_function else made(reduction="none", **options)
    except Exception as error:  # each of its metrics fails in its own way
        raise MetricUnavailableError(f"piq cannot make {own!r} ({type(error).__name__}: {error})") from error
    module = module.to(device).eval()

    def score(distorted: Tensor, reference: Tensor) -> Tensor:
        if own in WHOLE_BATCH:
            pairs = zip(distorted.split(1), reference.split(1), strict=True)
            return torch.cat([module(*pair).reshape(1) for pair in pairs])
        scores: Tensor = module(distorted, reference)
        if scores.numel() != len(distorted):
            raise ValueError(f"{name} gave {scores.numel()} scores for {len(distorted)} images")
        return scores.reshape(-1)

    return Scorer(name, METRICS[own], score, device, module)


def describe() -> list[tuple[str, str, str, str, str]]:
    """The metrics as (name, title, better direction, range, summary)."""
    return [
        (PREFIX + name, name, "lower" if lower_is_better else "higher", "", "piq, full-reference")
        for name, lower_is_better in METRICS.items()
    ]
