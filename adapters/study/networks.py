"""The networks of a study: which are at hand, how many parameters they have, how well they classify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from ...backbones import BACKBONES, Backbone, build_backbone
from ...errors import MissingDependencyError, WeightsFileError, WeightsNotFoundError
from ...network import torchvision
from ...network.torchvision import PREFIX
from ...weights import hub_path

#: After a network's name: the same network with random values, as a control.
RANDOM = ":random"
SEED = 0

#: What timm fetches of a model.
_TIMM_FILE = "model.safetensors"

#: Published top-1 accuracy on ImageNet in per cent, where the library that makes the network does not say it.
_ACCURACY = {
    "efficientnet_lite0": (75.1, "Google, tensorflow/tpu, models/official/efficientnet/lite, float model"),
}


@dataclass(frozen=True)
class Network:
    """A network of a study.

    Attributes:
        name: with ``:random`` for random values.
        backbone: with all its layers.
        parameters: of what computes the layers.
        accuracy: top-1 on ImageNet in per cent; NaN where not known, and for random values.
        source: of the accuracy.
    """

    name: str
    backbone: Backbone
    parameters: int
    accuracy: float
    source: str


def at_hand() -> tuple[list[str], list[str]]:
    """The networks whose weights are on this machine, each followed by its random twin, and why others are left out.

    Those of :data:`BACKBONES`, of torchvision those in torch's hub, and of timm those in the cache of its hub. Nothing is
    downloaded.
    """
    found, left_out = [], []
    for name in (*BACKBONES, *_torchvision_at_hand(), *_timm_at_hand()):
        reason = _missing(name)
        if reason is None:
            found += [name, name + RANDOM]
        else:
            left_out.append(f"{name} is left out: {reason}")
    return found, left_out


def _missing(name: str) -> str | None:
    table = BACKBONES.get(name)
    if table is None:
        return None
    if table.url is not None:
        path = hub_path(table.url)
        return None if path.is_file() else f"no {path}; see msds weights"
    try:
        table.locate()
    except (MissingDependencyError, WeightsNotFoundError) as error:
        return " ".join(str(error).split())
    return None


def _torchvision_at_hand() -> list[str]:
    others = (name for name in torchvision.known() if name not in BACKBONES)
    return [PREFIX + name for name in others if hub_path(torchvision.published(name).url).is_file()]


def _timm_at_hand() -> list[str]:
    if find_spec("timm") is None:
        return []
    import timm
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return []
    complete = (r for r in repositories if any(f.file_name == _TIMM_FILE for v in r.revisions for f in v.files))
    names = sorted(r.repo_id.removeprefix("timm/") for r in complete if r.repo_id.startswith("timm/"))
    return [f"timm:{name}" for name in names if timm.is_model_pretrained(name)]


def make_networks(names: Sequence[str], device: torch.device) -> tuple[list[Network], list[str]]:
    """The networks of these names, and why others are left out.

    Args:
        names: of :data:`BACKBONES`, ``torchvision:<model>`` or ``timm:<model>``, with ``:random`` for random values.
        device: where they go.

    Raises:
        ValueError: an unknown name, one twice, or none that can be made.
    """
    if len(set(names)) < len(names):
        raise ValueError(f"a backbone is given twice: {', '.join(names)}")
    made, left_out = [], []
    for name in names:
        try:
            made.append(_network(name, device))
        except (MissingDependencyError, WeightsNotFoundError, WeightsFileError) as error:
            left_out.append(f"{name} is left out: {' '.join(str(error).split())}")
    if not made:
        raise ValueError(f"no backbone to study: {'; '.join(left_out) or 'none was named'}")
    return made, left_out


def _network(name: str, device: torch.device) -> Network:
    own = name.removesuffix(RANDOM)
    random = own != name
    layers = list(BACKBONES[own].layers) if own in BACKBONES else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        backbone = build_backbone(own, layers, None if random else "imagenet").to(device)
    accuracy, source = (float("nan"), "random values") if random else accuracy_of(own)
    return Network(name, backbone, sum(p.numel() for p in backbone.parameters()), accuracy, source)


def accuracy_of(name: str) -> tuple[float, str]:
    """Published top-1 accuracy on ImageNet, and where it is published; NaN where it is not known."""
    if name in _ACCURACY:
        return _ACCURACY[name]
    model = name.removeprefix(PREFIX)
    if model not in torchvision.known():
        return float("nan"), "not known"
    entry = torchvision.published(model)
    return float(entry.meta["_metrics"]["ImageNet-1K"]["acc@1"]), f"torchvision, {entry.name}"
