"""The classification networks of torchvision: their stages, and where their weights are."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..weights import from_hub, hub_path

__all__ = ["PREFIX", "Stage", "known", "load_state", "locate", "make", "published", "stages"]

PREFIX = "torchvision:"

#: Height and width that every one of them works on.
_SIDE = 224

#: What torchvision calls the sequences that hold all stages.
_SEQUENCES = ("features", "layers", "blocks", "trunk_output")

_POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)


@dataclass(frozen=True)
class Stage:
    """The last maps of about one size: the path of the module that returns them, and the pixels between two positions."""

    name: str
    stride: int


def known() -> list[str]:
    """Names of the models."""
    from torchvision import models

    return list(models.list_models(module=models))


def published(model: str) -> Any:
    """torchvision's entry for the pretrained weights: those whose file is on this machine, else the first published.

    Raises:
        ValueError: an unknown model.
    """
    from torchvision import models

    if model not in known():
        raise ValueError(f"torchvision has no classification network {model!r}: choose from {', '.join(known())}")
    entries = list(models.get_model_weights(model))
    return next((entry for entry in entries if hub_path(entry.url).is_file()), entries[0])


def locate(model: str) -> Path:
    """The file of the pretrained weights, fetched if need be.

    Raises:
        WeightsNotFoundError: not on this machine and not to be downloaded.
    """
    return from_hub(published(model).url)


def _whole(model: str) -> nn.Module:
    from torchvision import models

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on how two of them will be initialised
        network: nn.Module = models.get_model(model, weights=None)
    return network.eval()


def _on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """Without values, where the network's own code allows it; else with some that leave the caller's seed alone."""
    try:
        with torch.device("meta"):
            return build()
    except NotImplementedError:  # RegNet computes with tensors as it is made
        with torch.random.fork_rng(devices=[]):
            return build()


@cache
def stages(model: str) -> tuple[Stage, ...]:
    """The last maps of each size, those of pooling aside, in order of depth."""
    network = _on_meta(lambda: _whole(model))
    sizes: dict[str, int] = {}

    def seen(path: str, out: object) -> None:
        # Transformers keep channels last: their maps are not square in the last two dimensions.
        if isinstance(out, Tensor) and out.dim() == 4 and 1 < out.shape[2] == out.shape[3] < _SIDE:
            sizes[path] = out.shape[2]

    for name, child in network.named_children():
        parts = child.named_children() if name in _SEQUENCES else [("", child)]
        for inner, module in parts:
            if not isinstance(module, _POOLING):
                path = f"{name}.{inner}".rstrip(".")
                module.register_forward_hook(lambda module, given, out, path=path: seen(path, out))
    with torch.no_grad():
        network(torch.zeros(1, 3, _SIDE, _SIDE, device=next(network.parameters()).device))
    # Without padding a size is a little less than half the one before: the nearest power of two.
    last = {round(math.log2(_SIDE / size)): path for path, size in sizes.items()}
    return tuple(Stage(path, 2**halvings) for halvings, path in sorted(last.items()))


def make(model: str, layers: list[str], random: bool) -> nn.Module:
    """The network up to the deepest of ``layers``, which it returns; without values unless they are to be ``random``."""
    from torchvision.models.feature_extraction import create_feature_extractor

    def build() -> nn.Module:
        return create_feature_extractor(_whole(model), layers).eval()

    return build() if random else _on_meta(build)


def load_state(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """``state`` by the names of ``network``: old files have other names, and lack counters that nothing reads."""
    renamed = {re.sub(r"\.(norm|conv)\.([12])\.", r".\1\2.", name): value for name, value in state.items()}
    counters = (name for name in network.state_dict() if name.endswith("num_batches_tracked"))
    return {name: torch.tensor(0) for name in counters} | renamed
