"""The networks of a study: which are at hand, how many parameters they have, how well they classify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from msds_plugin.toolboxes import torchvision_names, torchvision_weights
from msds_plugin.backbones import BACKBONES, build_backbone
from msds_plugin.networks import Backbone
from msds_plugin.checks import MissingDependencyError, WeightsFileError, WeightsNotFoundError
from msds_plugin.weights import cached, hub_path

#: After a network's name: the same network with random values, as a control.
RANDOM = ":random"
SEED = 0

#: Published top-1 accuracy on ImageNet in per cent, where the library that makes the network does not say it.
_ACCURACY = {"efficientnet_lite0": (75.1, "Google, tensorflow/tpu, models/official/efficientnet/lite, float model")}


@dataclass(frozen=True)
class Network:
    """A network of a study.

    Attributes:
        name: with ``:random`` for random values.
        backbone: with all its layers.
        accuracy: top-1 on ImageNet in per cent; NaN where not known, and for random values.
        source: of the accuracy.
    """

    name: str
    backbone: Backbone
    accuracy: float
    source: str


def at_hand() -> tuple[list[str], list[str]]:
    """The networks of :data:`BACKBONES` whose weights are on this machine, each followed by its random twin, and why others
    are left out. Nothing is downloaded.
    """
    found, left_out = [], []
    for name, table in BACKBONES.items():
        try:
            path = table.locate() if table.url is None else cached(table.url) or hub_path(table.url)
            reason = "" if path.is_file() else f"no {path}; see msds weights"
        except (MissingDependencyError, WeightsNotFoundError) as error:
            reason = " ".join(str(error).split())
        if reason:
            left_out.append(f"{name} is left out: {reason}")
        else:
            found += [name, name + RANDOM]
    return found, left_out


def make_networks(names: Sequence[str], device: torch.device) -> tuple[list[Network], list[str]]:
    """The networks of these names on ``device``, and why others are left out.

    Args:
        names: of :data:`BACKBONES`, ``torchvision:<model>`` or ``timm:<model>``, with ``:random`` for random values.
        device: where they go.

    Raises:
        ValueError: an unknown name, a network that takes images of one size only, a name twice, or none that can be made.
    """
    if len(set(names)) < len(names):
        raise ValueError(f"a backbone is given twice: {', '.join(names)}")
    made, left_out = [], []
    for name in names:
        own = name.removesuffix(RANDOM)
        layers = list(BACKBONES[own].layers) if own in BACKBONES else None
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(SEED)
                backbone = build_backbone(own, layers, None if own != name else "imagenet").to(device)
        except (MissingDependencyError, WeightsNotFoundError, WeightsFileError) as error:
            left_out.append(f"{name} is left out: {' '.join(str(error).split())}")
            continue
        made.append(Network(name, backbone, *((float("nan"), "random values") if own != name else accuracy_of(own))))
    if not made:
        raise ValueError(f"no backbone to study: {'; '.join(left_out) or 'none was named'}")
    return made, left_out


def accuracy_of(name: str) -> tuple[float, str]:
    """Published top-1 accuracy on ImageNet, and where it is published; NaN where it is not known."""
    if name in _ACCURACY:
        return _ACCURACY[name]
    model = name.removeprefix("torchvision:")
    if model not in torchvision_names():
        return float("nan"), "not known"
    entry = torchvision_weights(model)
    return float(entry.meta["_metrics"]["ImageNet-1K"]["acc@1"]), f"torchvision, {entry.name}"
