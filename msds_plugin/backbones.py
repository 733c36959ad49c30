"""Feature networks: how one is made from a name, a file or a module of the caller's own."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import weights as _weights
from .errors import WeightsFileError, WeightsNotFoundError
from .network import sharing as _sharing
from .network import torchvision
from .network.backbone import Backbone, FixedSequence, ForeignModule
from .network.convolution import ACTIVATIONS, Convolution
from .network.table import BACKBONES, Architecture, Layer, import_timm

__all__ = ["BACKBONES", "Architecture", "Backbone", "Layer", "build_backbone"]

Weights = str | os.PathLike[str] | Mapping[str, Tensor] | None


def _fold_batch_norms(net: nn.Module) -> None:
    """Fold each batch norm in eval mode into the convolution before it: the same function, fewer passes over memory."""
    previous: tuple[nn.Module, str, nn.Conv2d] | None = None
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d):
                previous = (parent, name, child)
            elif isinstance(child, nn.BatchNorm2d) and previous is not None and previous[0] is parent:
                holder, conv_name, conv = previous
                dtype = conv.weight.dtype
                # In float64, so that the rounded result, and with it the fingerprint, is the same on every processor.
                folded = torch.nn.utils.fuse_conv_bn_eval(conv.double().eval(), child.double().eval()).to(dtype)
                # A file's strides may be any; weights with other than these would be copied at every call.
                folded.weight = nn.Parameter(folded.weight.detach().contiguous())
                setattr(holder, conv_name, folded)
                # timm's batch norms carry the activation that follows them.
                setattr(parent, name, getattr(child, "act", nn.Identity()))
                previous = None


def _join_activations(net: nn.Module) -> None:
    """Make one module of each convolution and the activation after it: the same names, fewer passes over memory."""
    for parent in list(net.modules()):
        children = list(parent.named_children())
        for (name, child), after in zip(children, [*children[1:], None][: len(children)], strict=True):
            if type(child) is not nn.Conv2d or child.padding_mode != "zeros" or isinstance(child.padding, str):
                continue
            if after is None or type(after[1]) not in ACTIVATIONS:
                setattr(parent, name, Convolution(child, nn.Identity()))
            else:
                setattr(parent, name, Convolution(child, after[1]))
                setattr(parent, after[0], nn.Identity())


def _choose(layers: str | Sequence[str] | None, known: Sequence[str], default: Sequence[str], name: str) -> tuple[str, ...]:
    chosen = tuple(default) if layers is None else (layers,) if isinstance(layers, str) else tuple(layers)
    unknown = [layer for layer in chosen if layer not in known]
    if unknown or not chosen or len(set(chosen)) < len(chosen):
        problem = f"unknown layers {unknown}" if unknown else "layers must be given once each, and at least one"
        raise ValueError(f"{name}: {problem}; choose from {', '.join(known)}")
    return tuple(layer for layer in known if layer in chosen)


def _named(name: str, layers: str | Sequence[str] | None, weights: Weights) -> Backbone:
    table = BACKBONES[name]
    chosen = _choose(layers, list(table.layers), table.default, name)
    taps = [table.layers[layer].index for layer in chosen]
    net = FixedSequence(list(table.build(weights is None))[: max(taps) + 1], taps).eval()
    key: Hashable = None
    if isinstance(weights, Mapping):
        if any(isinstance(module, nn.BatchNorm2d) for module in net.modules()):
            raise ValueError(f"weights as tensors are for networks without batch norms, not {name}")
        _sharing.adopt(net, table.rename(dict(weights)))
    elif weights is not None:
        path = table.locate() if weights == "imagenet" else Path(weights)
        state = _weights.read_state_dict(path)
        renamed = table.rename(state)
        _weights.load(net, renamed, str(path))
        _weights.check_sums(path, state, [renamed[label] for label in net.state_dict()])
        key = (name, _weights.file_identity(path))
    _fold_batch_norms(net)
    _join_activations(net)
    if key is not None:
        for label, parameter in net.named_parameters():  # a variance below zero shows only now
            _weights.check_tensor(label, parameter, str(path))
    return Backbone(net, name, chosen, table.mean, table.std, table.smallest, key)


def _timm_failure(model_name: str, weights: Weights, error: Exception) -> Exception:
    if weights is None or "nknown model" in str(error):
        return ValueError(f"timm cannot make {model_name!r} with features_only: {error}")
    if weights != "imagenet":
        return WeightsFileError(f"{weights} does not hold the weights of timm's {model_name}: {error}")
    return WeightsNotFoundError(f"timm cannot get the weights of {model_name} ({error}). {_weights._OFFLINE}")


def _from_timm(name: str, layers: str | Sequence[str] | None, weights: Weights) -> Backbone:
    timm = import_timm()
    model_name = name.removeprefix("timm:")
    options: dict[str, Any] = {"pretrained": weights is not None}
    key: Hashable = (name, "imagenet") if weights == "imagenet" else None
    if isinstance(weights, Mapping):
        raise ValueError(f"weights as tensors are for {', '.join(BACKBONES)}, not {name}")
    if weights is not None and weights != "imagenet":
        state = _weights.read_state_dict(weights)
        _weights.check_sums(weights, state, state.values())
        for label, value in state.items():
            _weights.check_tensor(label, value, str(weights))
        options["pretrained_cfg_overlay"] = {"state_dict": state}
        key = (name, _weights.file_identity(weights))
    create = partial(timm.create_model, model_name, features_only=True, **options)
    with torch.random.fork_rng(devices=[]):  # the caller's seed is for the values that stay random
        try:
            whole = create()
        except (OSError, RuntimeError, KeyError) as error:
            raise _timm_failure(model_name, weights, error) from error
        info = whole.feature_info
        known = list(info.module_name())
        chosen = _choose(layers, known, known, name)
        indices = [known.index(layer) for layer in chosen]
        net = create(out_indices=indices)
    if weights is None:
        net = create(out_indices=indices)
    else:
        # timm leaves what the file lacks at random values, in which two networks differ.
        before = whole.state_dict()
        lacking = [label for label, value in net.state_dict().items() if not torch.equal(value, before[label])]
        if lacking:
            raise WeightsFileError(f"{weights} does not hold the weights of timm's {model_name}: it lacks {lacking[0]!r}")
    config = net.pretrained_cfg if hasattr(net, "pretrained_cfg") else net.default_cfg
    smallest = max(info.reduction()[index] for index in indices)
    at_end = str(getattr(net, "output_fmt", "NCHW")).endswith("NHWC")  # swin, mambaout: as they compute
    return Backbone(ForeignModule(net, at_end), name, chosen, config["mean"], config["std"], smallest, key)


def _from_torchvision(name: str, layers: str | Sequence[str] | None, weights: Weights) -> Backbone:
    model = name.removeprefix(torchvision.PREFIX)
    if isinstance(weights, Mapping):
        raise ValueError(f"weights as tensors are for {', '.join(BACKBONES)}, not {name}")
    entry = torchvision.published(model)
    known = {stage.name: stage.stride for stage in torchvision.stages(model)}
    chosen = _choose(layers, list(known), list(known), name)
    net = torchvision.make(model, list(chosen), weights is None)
    key: Hashable = None
    if weights is not None:
        path = torchvision.locate(model) if weights == "imagenet" else Path(weights)
        state = torchvision.load_state(_weights.read_state_dict(path), net)
        _weights.load(net, state, str(path))
        _weights.check_sums(path, state, [state[label] for label in net.state_dict()])
        key = (name, _weights.file_identity(path))
    normalisation = entry.transforms()
    smallest = max(known[layer] for layer in chosen)
    return Backbone(ForeignModule(net), name, chosen, normalisation.mean, normalisation.std, smallest, key)


def _from_module(module: nn.Module, layers: str | Sequence[str] | None) -> Backbone:
    if layers is not None:
        from torchvision.models.feature_extraction import create_feature_extractor

        layers = [layers] if isinstance(layers, str) else list(layers)
        module = create_feature_extractor(module.eval(), layers)
    return Backbone(ForeignModule(module), type(module).__name__, layers or ("output",), None, None, 1, None, foreign=True)


def build_backbone(
    backbone: str | nn.Module = "vgg16",
    layers: str | Sequence[str] | None = None,
    weights: Weights = "imagenet",
) -> Backbone:
    """Make a frozen feature network.

    Args:
        backbone: a name in :data:`BACKBONES`, ``"timm:<model>"`` for any timm model with ``features_only``,
            ``"torchvision:<model>"`` for any of torchvision's classification networks, or a module of your own. Your own
            module gets images (N, 3, H, W) in [0, 1] as they are (normalise inside it) and returns one feature map
            (N, C, h, w) or a sequence or mapping of them; it is used as it is, frozen and in eval mode.
        layers: name or names of the layers to take features after; None for the backbone's default. For a module of your
            own, names as in ``torchvision.models.feature_extraction.get_graph_node_names``.
        weights: ``"imagenet"``, the path of a ``.pth`` or ``.safetensors`` file, a mapping from names to tensors (which
            are then used without a copy until either is changed), or None for random values (seed torch yourself).

    Raises:
        ValueError: unknown backbone or layer, or weights for a module of your own.
        WeightsNotFoundError: the weights are not on this machine and cannot be downloaded.
        WeightsFileError: the weights file is damaged or belongs to another network.
        MissingDependencyError: timm, or the package with EfficientNet-Lite0's weights, is not installed.

    Example:
        >>> net = build_backbone("alexnet", layers=["relu2", "relu5"], weights=None)
        >>> [tuple(f.shape) for f in net(torch.rand(1, 3, 64, 64))]
        [(1, 192, 7, 7), (1, 256, 3, 3)]
    """
    if isinstance(backbone, nn.Module) and weights not in ("imagenet", None):
        raise ValueError("weights belong to a backbone by name; load them into your own module yourself")
    if isinstance(backbone, Backbone):
        if layers is not None:
            raise ValueError("layers are chosen when the backbone is built: build_backbone(name, layers)")
        return backbone
    # Weights must be ordinary tensors, also when the caller happens to be in inference mode.
    with torch.inference_mode(False):
        if isinstance(backbone, nn.Module):
            return _from_module(backbone, layers)
        if not isinstance(backbone, str):
            raise TypeError(f"backbone must be a name or an nn.Module, got {type(backbone).__name__}")
        if backbone in BACKBONES:
            return _named(backbone, layers, weights)
        if backbone.startswith("timm:"):
            return _from_timm(backbone, layers, weights)
        if backbone.startswith(torchvision.PREFIX):
            return _from_torchvision(backbone, layers, weights)
    others = "'timm:<model>', 'torchvision:<model>', or pass an nn.Module"
    raise ValueError(f"unknown backbone {backbone!r}: choose from {', '.join(BACKBONES)}, {others}")
