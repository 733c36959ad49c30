"""Feature networks: frozen modules that turn images into feature maps, made from a name, a file or a module of the caller's."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msds_plugin import weights as weight_files
from msds_plugin.architectures import BACKBONES, Architecture, Layer, Made, choose, from_timm, from_torchvision
from msds_plugin.checks import check_size

__all__ = ["BACKBONES", "Architecture", "Backbone", "Layer", "Weights", "build_backbone", "vgg16_around"]

#: ``"imagenet"``, a file, tensors by name, or None for random values.
Weights: TypeAlias = str | os.PathLike[str] | Mapping[str, Tensor] | None


class Taps(nn.Sequential):
    """A sequence of modules that returns what those numbered ``taps`` compute."""

    def __init__(self, modules: Sequence[nn.Module], taps: Sequence[int]) -> None:
        super().__init__(*modules)
        self.taps = tuple(taps)

    def forward(self, image: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """Feature maps of normalised images; ``mask`` (N, 1, H, W) multiplies what the first module computes."""
        features, found = _channels_last(image), []
        for index, module in enumerate(self):
            features = module(features)
            if index == 0 and mask is not None:
                features = features * _cells(mask, module)[..., : features.shape[-2], : features.shape[-1]]
            if index in self.taps:
                found.append(features)
        return found


def _channels_last(image: Tensor) -> Tensor:
    """The same values, channels last in memory: so a CPU computes depthwise convolutions several times as fast."""
    return image.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # torch.func.vmap takes no memory format


def _cells(mask: Tensor, first: nn.Module) -> Tensor:
    """The mask as the first layer's positions see it: one is kept if any pixel of its cell, a stride long, is."""
    stride = next(module.stride for module in first.modules() if isinstance(module, nn.Conv2d))
    return F.max_pool2d(mask, stride, stride, ceil_mode=True)


class OwnModule(nn.Module):
    """A module of timm, torchvision or the caller's, whose outputs are the features; (N, h, w, C) if ``channels_at_end``."""

    def __init__(self, module: nn.Module, channels_at_end: bool = False) -> None:
        super().__init__()
        self.module = module
        self.channels_at_end = channels_at_end

    def forward(self, image: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """Feature maps (N, C, h, w)."""
        if mask is not None:
            raise ValueError("saliency maps need a backbone by name (its first layer must be known): " + ", ".join(BACKBONES))
        out = self.module(image)
        features = list(out.values()) if isinstance(out, Mapping) else [out] if isinstance(out, Tensor) else list(out)
        return [feature.movedim(-1, 1) for feature in features] if self.channels_at_end else features


class Backbone(nn.Module):
    """A frozen feature network: images in [0, 1] to a list of feature maps, one per chosen layer.

    An ordinary module of ordinary layers, always in eval mode, also after ``.train()`` on a parent. Made by
    :func:`build_backbone`.

    Attributes:
        net: normalised images to feature maps.
        name: of the network.
        layers: names of the layers, in order of depth.
        smallest: shortest side of an image in pixels.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self,
        net: nn.Module,
        name: str,
        layers: Sequence[str],
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        smallest: int,
    ) -> None:
        super().__init__()
        self.net = net
        self.name = name
        self.layers = tuple(layers)
        self.smallest = smallest
        like = next(net.parameters(), torch.empty(0))
        for label, values in (("mean", mean), ("std", std)):
            constant = (
                None if values is None else torch.tensor(values, dtype=torch.float32, device=like.device).view(1, 3, 1, 1)
            )
            self.register_buffer(label, constant, persistent=False)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Backbone:
        """Stays in eval mode, whatever is asked for."""
        return super().train(False)

    @property
    def description(self) -> str:
        """Network and layers; without the weights."""
        return f"{self.name}[{','.join(self.layers)}]"

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next((parameter.device for parameter in self.net.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype | None:
        """Type of the parameters; None where there are none."""
        return next((parameter.dtype for parameter in self.net.parameters()), None)

    def forward(self, image: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """Feature maps (N, C, h, w) of images (N, 3, H, W) in [0, 1], one for each of ``layers``, in order of depth.

        Args:
            image: as above.
            mask: (N, 1, H, W) of zeros and ones, multiplies the output of the first layer.

        Raises:
            ValueError: the image is too small or on another device, or a mask is given to a network whose first layer is
                not known.
            TypeError: the image's type is not the network's.
        """
        check_size(image, self.smallest)
        features: list[Tensor] = self.net(self.normalise(image), mask)
        for feature in features:
            if feature.dim() != 4 or 0 in feature.shape[-2:]:
                raise ValueError(f"the backbone {self.name} gave features of shape {tuple(feature.shape)}, not (N, C, h, w)")
        return features

    def normalise(self, image: Tensor) -> Tensor:
        """Images as the network wants them.

        Raises:
            ValueError, TypeError: the image is on another device or of another type than the parameters.
        """
        parameter = next(self.net.parameters(), None)
        if parameter is not None:
            _check_match(image, parameter)
        if self.mean is None or self.std is None:
            return image  # somebody else's module, which takes it as it is
        return (image - self.mean) / self.std

    def known_layers(self) -> tuple[Layer, ...]:
        """Every layer of which it is known where its positions lie, in order of depth.

        Raises:
            ValueError: nothing is known of the network.
        """
        if not isinstance(self.net, Taps):
            raise ValueError(
                f"{self.name} cannot be evaluated in tiles: it is not known which pixels its features depend on, whether it "
                f"has global operations, or padding that depends on the size; use one of {', '.join(BACKBONES)}, or tile=None"
            )
        return tuple(BACKBONES[self.name].layers.values())

    def geometry(self) -> tuple[Layer, ...]:
        """Where the positions of each chosen layer lie.

        Raises:
            ValueError: nothing is known of the network.
        """
        _ = self.known_layers()
        return tuple(BACKBONES[self.name].layers[layer] for layer in self.layers)

    def tapped(self, layers: Sequence[str]) -> Backbone:
        """The same network, the very same modules, with some of its layers only."""
        table = BACKBONES[self.name]
        taps = [table.layers[layer].index for layer in layers]
        modules = list(self.net.children())[: max(taps) + 1]
        return Backbone(Taps(modules, taps), self.name, layers, table.mean, table.std, self.smallest)

    def parts(self, first: Sequence[int], second: Sequence[int]) -> tuple[Taps, Taps]:
        """The network in two: up to the last of the modules ``first``, and from there to the last of ``second``.

        Each returns what the modules named to it compute. The first takes what :meth:`normalise` returns and a mask, the
        second what the last of ``first`` computes.
        """
        modules = list(self.net.children())
        end = max(first) + 1
        last = max(second, default=max(first)) + 1
        return Taps(modules[:end], first), Taps(modules[end:last], [index - end for index in second])


def _check_match(image: Tensor, parameter: Tensor) -> None:
    if parameter.device != image.device:
        raise ValueError(f"the image is on {image.device} but the metric on {parameter.device}: move one with .to(device)")
    autocast = torch.is_autocast_enabled(image.device.type) and torch.float64 not in (image.dtype, parameter.dtype)
    if parameter.dtype != image.dtype and not autocast:
        raise TypeError(
            f"the image is {image.dtype} but the metric is {parameter.dtype}: "
            "convert the image, or the metric with .to(dtype); for half precision use torch.autocast"
        )


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
                # timm's batch norms carry the activation that follows them.
                setattr(parent, name, getattr(child, "act", nn.Identity()))
            before = (name, child) if isinstance(child, nn.Conv2d) else None


def _by_table(name: str, layers: str | Sequence[str] | None, weights: Weights) -> Backbone:
    table = BACKBONES[name]
    chosen = choose(layers, list(table.layers), table.default, name)
    taps = [table.layers[layer].index for layer in chosen]
    net = Taps(list(table.build(weights is None))[: max(taps) + 1], taps).eval()
    if isinstance(weights, Mapping):
        weight_files.load(net, table.rename(dict(weights)), "the tensors given as weights")
    elif weights is not None:
        path = table.locate() if weights == "imagenet" else Path(weights)
        state = weight_files.read_state_dict(path)
        renamed = table.rename(state)
        weight_files.load(net, renamed, str(path))
        weight_files.check_sums(path, state, [renamed[label] for label in net.state_dict()])
    _fold_batch_norms(net)
    if weights is not None:
        weight_files.check_tensors(net.named_parameters(), str(weights))  # a variance below zero shows only now
    return Backbone(net, name, chosen, table.mean, table.std, table.smallest)


def _by_toolbox(made: Made, name: str) -> Backbone:
    return Backbone(OwnModule(made.net, made.channels_at_end), name, made.layers, made.mean, made.std, made.smallest)


def _from_module(module: nn.Module, layers: str | Sequence[str] | None) -> Backbone:
    if layers is not None:
        from torchvision.models.feature_extraction import create_feature_extractor

        layers = [layers] if isinstance(layers, str) else list(layers)
        module = create_feature_extractor(module.eval(), layers)
    return Backbone(OwnModule(module), type(module).__name__, layers or ("output",), None, None, 1)


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
    whole = table.build(False)
    modules = [next(theirs) if isinstance(module, nn.Conv2d) else module for module in whole]
    return Backbone(Taps(modules[: max(taps) + 1], taps), "vgg16", chosen, table.mean, table.std, table.smallest)


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
            return _by_toolbox(from_timm(name, layers, file), backbone)
        if kind == "torchvision":
            return _by_toolbox(from_torchvision(name, layers, file), backbone)
    others = "'timm:<model>', 'torchvision:<model>', or pass an nn.Module"
    raise ValueError(f"unknown backbone {backbone!r}: choose from {', '.join(BACKBONES)}, {others}")
