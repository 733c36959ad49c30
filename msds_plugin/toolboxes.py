"""Networks of timm and torchvision as backbones: ``timm:<model>`` and ``torchvision:<model>``."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from msds_plugin import weights as weight_files
from msds_plugin.errors import MissingDependencyError, WeightsFileError, WeightsNotFoundError
from msds_plugin.networks import Backbone, OwnModule, choose

__all__ = ["from_timm", "from_torchvision", "torchvision_names", "torchvision_weights"]


def from_timm(name: str, layers: str | Sequence[str] | None, weights: str | Path | None) -> Backbone:
    """A network of timm with ``features_only``; ``weights`` are ``"imagenet"``, a file, or None for random values.

    Raises:
        ValueError: timm has no such network, or unknown layers.
        WeightsFileError, WeightsNotFoundError: the weights are damaged, of another network, or not to be had.
    """
    try:
        import timm
    except ImportError as error:
        raise MissingDependencyError(f"timm:{name} needs timm ({error}): pip install timm") from error
    options: dict[str, Any] = {"pretrained": weights is not None, "features_only": True}
    if weights is not None and weights != "imagenet":
        state = weight_files.read_state_dict(weights)
        weight_files.check_tensors(state.items(), str(weights))
        options["pretrained_cfg_overlay"] = {"state_dict": state}
    with torch.random.fork_rng(devices=[]):  # the caller's seed is for the values that stay random
        try:
            whole: Any = timm.create_model(name, **options)
        except (OSError, RuntimeError, KeyError) as error:
            raise _timm_failure(name, weights, error) from error
        info = whole.feature_info
        known = list(info.module_name())
        chosen = choose(layers, known, known, f"timm:{name}")
        indices = [known.index(layer) for layer in chosen]
        net: Any = timm.create_model(name, out_indices=indices, **options)
    if weights is None:
        net = timm.create_model(name, out_indices=indices, **options)
    else:
        # timm leaves what the file lacks at random values, in which two networks differ.
        before = whole.state_dict()
        lacking = [label for label, value in net.state_dict().items() if not torch.equal(value, before[label])]
        if lacking:
            raise WeightsFileError(f"{weights} does not hold the weights of timm's {name}: it lacks {lacking[0]!r}")
    config = getattr(net, "pretrained_cfg", None) or net.default_cfg
    smallest = max(info.reduction()[index] for index in indices)
    at_end = str(getattr(net, "output_fmt", "NCHW")).endswith("NHWC")  # swin, mambaout: as they compute
    return Backbone(OwnModule(net, at_end), f"timm:{name}", chosen, config["mean"], config["std"], smallest)


def _timm_failure(name: str, weights: str | Path | None, error: Exception) -> Exception:
    if weights is None or "nknown model" in str(error):
        return ValueError(f"timm cannot make {name!r} with features_only: {error}")
    if weights != "imagenet":
        return WeightsFileError(f"{weights} does not hold the weights of timm's {name}: {error}")
    return WeightsNotFoundError(f"timm cannot get the weights of {name} ({error}). {weight_files.OFFLINE}")


#: Height and width that every network of torchvision works on.
_SIDE = 224
#: What torchvision calls the sequences that hold all stages.
_SEQUENCES = ("features", "layers", "blocks", "trunk_output")
_POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)


def torchvision_names() -> list[str]:
    """Names of torchvision's classification networks."""
    from torchvision import models

    return list(models.list_models(module=models))


def torchvision_weights(name: str) -> Any:
    """torchvision's entry for the pretrained weights: those whose file is on this machine, else the first published.

    Raises:
        ValueError: an unknown network.
    """
    from torchvision import models

    if name not in torchvision_names():
        raise ValueError(f"torchvision has no classification network {name!r}: choose from {', '.join(torchvision_names())}")
    entries = list(models.get_model_weights(name))
    return next((entry for entry in entries if weight_files.hub_path(entry.url).is_file()), entries[0])


def from_torchvision(name: str, layers: str | Sequence[str] | None, weights: str | Path | None) -> Backbone:
    """A classification network of torchvision, its stages being its layers; ``weights`` as for :func:`from_timm`.

    Raises:
        ValueError: an unknown network, unknown layers, or a network that takes images of one size only.
        WeightsFileError, WeightsNotFoundError: the weights are damaged, of another network, or not to be had.
    """
    from torchvision.models.feature_extraction import create_feature_extractor

    entry = torchvision_weights(name)
    strides = torchvision_stages(name)
    chosen = choose(layers, list(strides), list(strides), f"torchvision:{name}")

    def build() -> nn.Module:
        return create_feature_extractor(_whole(name), list(chosen)).eval()

    net = build() if weights is None else _without_values(build)
    if weights is not None:
        path = weight_files.from_hub(entry.url) if weights == "imagenet" else Path(weights)
        state = weight_files.read_state_dict(path)
        # Old files have other names, and lack counters that nothing reads.
        renamed = {re.sub(r"\.(norm|conv)\.([12])\.", r".\1\2.", key): value for key, value in state.items()}
        counters = {key: torch.tensor(0) for key in net.state_dict() if key.endswith("num_batches_tracked")}
        weight_files.load(net, counters | renamed, str(path))
    images = entry.transforms()
    smallest = max(strides[layer] for layer in chosen)
    return Backbone(OwnModule(net), f"torchvision:{name}", chosen, images.mean, images.std, smallest)


def _whole(name: str) -> nn.Module:
    from torchvision import models

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on how two of them will be initialised
        network: nn.Module = models.get_model(name, weights=None)
    return network.eval()


def _without_values(build: Callable[[], nn.Module]) -> nn.Module:
    """On ``meta``, where the network's own code allows it; else with values that leave the caller's seed alone."""
    try:
        with torch.device("meta"):
            return build()
    except RuntimeError:  # RegNet computes with tensors as it is made
        with torch.random.fork_rng(devices=[]):
            return build()


@cache
def torchvision_stages(name: str) -> dict[str, int]:
    """The last maps of each size, those of pooling aside, in order of depth: path of the module to stride in pixels.

    Raises:
        ValueError: the network takes images of one size only.
    """
    network = _without_values(lambda: _whole(name))
    if hasattr(network, "image_size") or not any(isinstance(module, nn.Conv2d) for module in network.modules()):
        raise ValueError(
            f"torchvision:{name} takes images of {_SIDE} x {_SIDE} pixels only and has no feature maps of other sizes: "
            "choose a convolutional network or a swin transformer"
        )
    sizes: dict[str, int] = {}

    def seen(path: str, out: object) -> None:
        # Transformers keep channels last: their maps are not square in the last two dimensions.
        if isinstance(out, Tensor) and out.dim() == 4 and 1 < out.shape[2] == out.shape[3] < _SIDE:
            sizes[path] = out.shape[2]

    for name_of_child, child in network.named_children():
        parts = child.named_children() if name_of_child in _SEQUENCES else [("", child)]
        for inner, module in parts:
            if not isinstance(module, _POOLING):
                path = f"{name_of_child}.{inner}".rstrip(".")
                module.register_forward_hook(lambda module, given, out, path=path: seen(path, out))
    with torch.no_grad():
        network(torch.zeros(1, 3, _SIDE, _SIDE, device=next(network.parameters()).device))
    # Without padding a size is a little less than half the one before: the nearest power of two.
    last = {round(math.log2(_SIDE / size)): path for path, size in sizes.items()}
    return {path: 2**halvings for halvings, path in sorted(last.items())}
