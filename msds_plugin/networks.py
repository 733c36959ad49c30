"""Feature networks: modules that turn images into feature maps."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msds_plugin.checks import check_size

__all__ = ["Backbone", "Layer", "OwnModule", "Taps", "check_unchanged", "choose", "efficientnet_lite0"]


@dataclass(frozen=True)
class Layer:
    """Where features are taken: after module ``index`` of the sequence.

    One feature position sees ``receptive_field`` x ``receptive_field`` pixels; the field of the first position begins at
    pixel ``start`` (negative: in the padding), that of each next one ``stride`` pixels on.
    """

    index: int
    channels: int
    stride: int
    receptive_field: int
    start: int


def choose(layers: str | Sequence[str] | None, known: Sequence[str], default: Sequence[str], name: str) -> tuple[str, ...]:
    """The chosen layers in order of depth.

    Raises:
        ValueError: unknown layers, one twice, or none.
    """
    chosen = tuple(default) if layers is None else (layers,) if isinstance(layers, str) else tuple(layers)
    unknown = [layer for layer in chosen if layer not in known]
    if unknown or not chosen or len(set(chosen)) < len(chosen):
        problem = f"unknown layers {unknown}" if unknown else "layers must be given once each, and at least one"
        raise ValueError(f"{name}: {problem}; choose from {', '.join(known)}")
    return tuple(layer for layer in known if layer in chosen)


def check_unchanged(module: nn.Module, kind: type[nn.Module]) -> None:
    """Raise a ValueError where a module that is not called as a whole has another forward than its kind."""
    if "forward" in vars(module) or type(module).forward is not kind.forward:
        raise ValueError(
            f"{type(module).__name__} has a forward of its own, which would not count: in tiles, and by metrics that take some "
            "of its layers, it is run in parts. Change the modules inside of backbone.net, or take whole images and tile=None"
        )


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
            raise ValueError(
                "saliency maps need a backbone by name (its first layer must be known): one of msds_plugin.BACKBONES"
            )
        try:
            out = self.module(image)
        except (AssertionError, RuntimeError) as error:
            if isinstance(error, torch.cuda.OutOfMemoryError):
                raise
            raise ValueError(f"the backbone cannot take images of shape {tuple(image.shape)}: {error}") from error
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
        known_layers: by name in order of depth, every layer of which it is known where its positions lie; empty for a network
            of which nothing is known.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self,
        net: nn.Module,
        name: str,
        layers: Sequence[str],
        mean: Sequence[float] | Tensor | None,
        std: Sequence[float] | Tensor | None,
        smallest: int,
        known_layers: Mapping[str, Layer] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.net = net
        self.name = name
        self.layers = tuple(layers)
        self.smallest = smallest
        self.known_layers = dict(known_layers)
        for label, values in (("mean", mean), ("std", std)):
            constant = None if values is None else torch.as_tensor(values, dtype=torch.float32, device=self.device)
            self.register_buffer(label, None if constant is None else constant.view(1, 3, 1, 1))
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
            if not isinstance(feature, Tensor):
                raise TypeError(f"the backbone {self.name} gave {type(feature).__name__}, not feature maps (N, C, h, w)")
            if feature.dim() != 4 or 0 in feature.shape[-2:]:
                raise ValueError(f"the backbone {self.name} gave features of shape {tuple(feature.shape)}, not (N, C, h, w)")
        return features

    def normalise(self, image: Tensor) -> Tensor:
        """Images as the network wants them.

        Raises:
            ValueError, TypeError: the image is on another device or of another type than the parameters.
        """
        parameter = next(self.net.parameters(), image)
        if parameter.device != image.device:
            raise ValueError(f"the image is on {image.device} but the metric on {parameter.device}: move one with .to(device)")
        autocast = torch.is_autocast_enabled(image.device.type) and torch.float64 not in (image.dtype, parameter.dtype)
        if parameter.dtype != image.dtype and not autocast:
            raise TypeError(
                f"the image is {image.dtype} but the metric is {parameter.dtype}: "
                "convert the image, or the metric with .to(dtype); for half precision use torch.autocast"
            )
        if self.mean is None or self.std is None:
            return image  # somebody else's module, which takes it as it is
        return (image - self.mean) / self.std

    def geometry(self) -> tuple[Layer, ...]:
        """Where the positions of each chosen layer lie.

        Raises:
            ValueError: nothing is known of the network.
        """
        if not self.known_layers:
            raise ValueError(
                f"{self.name} cannot be evaluated in tiles: it is not known which pixels its features depend on, whether it "
                "has global operations, or padding that depends on the size; use one of msds_plugin.BACKBONES, or tile=None"
            )
        return tuple(self.known_layers[layer] for layer in self.layers)

    def tapped(self, layers: Sequence[str]) -> Backbone:
        """The same network, the very same modules, with some of its layers only.

        Raises:
            ValueError: as :meth:`parts`.
        """
        self._check_unchanged()
        taps = [self.known_layers[layer].index for layer in layers]
        net = Taps(list(self.net.children())[: max(taps) + 1], taps)
        return Backbone(net, self.name, layers, self.mean, self.std, self.smallest, self.known_layers)

    def parts(self, first: Sequence[int], second: Sequence[int]) -> tuple[Taps, Taps]:
        """The network in two: up to the last of the modules ``first``, and from there to the last of ``second``.

        Each returns what the modules named to it compute. The first takes what :meth:`normalise` returns and a mask, the
        second what the last of ``first`` computes.

        Raises:
            ValueError: the backbone or its ``net`` was patched or replaced.
        """
        self._check_unchanged()
        modules = list(self.net.children())
        end = max(first) + 1
        last = max(second, default=max(first)) + 1
        return Taps(modules[:end], first), Taps(modules[end:last], [index - end for index in second])

    def _check_unchanged(self) -> None:
        check_unchanged(self, Backbone)
        check_unchanged(self.net, Taps)


#: One row per stage: blocks, kernel, stride of the first block, expansion, channels out.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
#: Channels of the stem.
STEM = 32


class Residual(nn.Sequential):
    """A sequence whose input is added to what it computes."""

    def forward(self, features: Tensor) -> Tensor:
        """Maps (N, C, h, w) to the same shape."""
        changed: Tensor = super().forward(features)
        return changed + features


def block(channels: int, out: int, kernel: int, stride: int, expansion: int) -> nn.Sequential:
    """Widen, filter each channel by itself, narrow."""
    wide = channels * expansion
    depthwise = nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide, bias=False)
    if expansion == 1:
        convolutions = {"conv_dw": depthwise, "conv_pw": nn.Conv2d(wide, out, 1, bias=False)}
    else:
        widen, narrow = nn.Conv2d(channels, wide, 1, bias=False), nn.Conv2d(wide, out, 1, bias=False)
        convolutions = {"conv_pw": widen, "conv_dw": depthwise, "conv_pwl": narrow}
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (name, convolution) in enumerate(convolutions.items(), start=1):
        layers |= {name: convolution, f"bn{number}": nn.BatchNorm2d(convolution.out_channels)}
        if number < len(convolutions):
            layers[f"act{number}"] = nn.ReLU6(inplace=True)
    return (Residual if stride == 1 and channels == out else nn.Sequential)(layers)


def efficientnet_lite0() -> nn.Sequential:
    """The stem and the seven stages, with He's random values (fan out)."""
    stem = nn.Sequential(nn.Conv2d(3, STEM, 3, 2, 1, bias=False), nn.BatchNorm2d(STEM), nn.ReLU6(inplace=True))
    stages, channels = [stem], STEM
    for blocks, kernel, stride, expansion, out in STAGES:
        first = block(channels, out, kernel, stride, expansion)
        stages.append(nn.Sequential(first, *(block(out, out, kernel, 1, expansion) for _ in range(blocks - 1))))
        channels = out
    network = nn.Sequential(*stages)
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
            nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
    return network
