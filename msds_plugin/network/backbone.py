"""The frozen module that runs a feature network."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import check_size
from . import pieces
from . import sharing as _sharing
from .convolution import Convolution
from .table import BACKBONES, Layer

__all__ = ["Backbone"]


def _cells(mask: Tensor, first: nn.Module) -> Tensor:
    """The mask as the first layer's positions see it: one is kept if any pixel of its cell, a stride long, is."""
    stride = next(module.stride for module in first.modules() if isinstance(module, nn.Conv2d))
    return F.max_pool2d(mask, stride, stride, ceil_mode=True)


#: Elements at most of a map that images of a batch share on a CPU: fresh memory for larger ones costs more than that saves.
_TOGETHER = 2**19


def _at_once(maps: Tensor) -> int:
    """How many images share maps of this size."""
    return max(1, _TOGETHER // maps[0].numel())


def _joined(parts: list[Tensor]) -> list[Tensor]:
    """The images of a batch in fewer parts, where maps have become small."""
    number = 1 if len(parts) == 1 else _at_once(parts[0]) // len(parts[0])
    if number < 2:
        return parts
    return [torch.cat(parts[first : first + number]) for first in range(0, len(parts), number)]


class FixedSequence(nn.Sequential):
    """A sequence of modules that also returns what it computes on the way."""

    def __init__(self, modules: Sequence[nn.Module], taps: Sequence[int]) -> None:
        super().__init__(*modules)
        self.taps = tuple(taps)

    def forward(self, image: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        apart = len(image) > 1 and image.device.type == "cpu" and not torch.compiler.is_compiling()
        parts = list(image.split(_at_once(image))) if apart else [image]
        found: dict[int, list[Tensor]] = {}
        for index, module in enumerate(self):
            parts = [module(part) for part in _joined(parts)]
            if index == 0 and mask is not None:
                kept = _cells(mask, module)[..., : parts[0].shape[-2], : parts[0].shape[-1]]
                parts = [part * cells for part, cells in zip(parts, kept.split(len(parts[0])), strict=True)]
            if index in self.taps:
                found[index] = parts
        return [torch.cat(found[tap]) if len(found[tap]) > 1 else found[tap][0] for tap in self.taps]


class ForeignModule(nn.Module):
    """Somebody else's module, whose outputs are the features: (N, C, h, w), or (N, h, w, C) if ``channels_at_end``."""

    def __init__(self, module: nn.Module, channels_at_end: bool = False) -> None:
        super().__init__()
        self.module = module
        self.channels_at_end = channels_at_end

    def forward(self, image: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        if mask is not None:
            raise ValueError("saliency maps need a backbone by name (its first layer must be known): " + ", ".join(BACKBONES))
        out = self.module(image)
        features = list(out.values()) if isinstance(out, Mapping) else [out] if isinstance(out, Tensor) else list(out)
        return [feature.movedim(-1, 1) for feature in features] if self.channels_at_end else features


class Backbone(nn.Module):
    """A frozen feature network: images in [0, 1] to a list of feature maps, one per chosen layer.

    Always in eval mode, also after ``.train()`` on a parent. On a CPU its parameters share the memory of every other
    backbone of the same weights until they are changed, which no other backbone sees. Made by :func:`build_backbone`.
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
        key: Hashable,
        foreign: bool = False,
    ) -> None:
        super().__init__()
        self.net = net
        self.name = name
        self.layers = tuple(layers)
        self.smallest = smallest
        self._key = key
        self._foreign = foreign  # somebody else's module is used as it is
        device = next((parameter.device for parameter in net.parameters()), None)
        for label, values in (("mean", mean), ("std", std)):
            constant = None if values is None else torch.tensor(values, dtype=torch.float32, device=device).view(1, 3, 1, 1)
            self.register_buffer(label, constant, persistent=False)
        net.requires_grad_(False)
        self._share()
        self.eval()
        pieces.keep_freed_memory()

    def _share(self) -> None:
        originals = {} if self._foreign else _sharing.share(self.net, self._key)
        self._fingerprint = _sharing.Fingerprint({f"net.{name}": original for name, original in originals.items()})
        for path, module in self.net.named_modules():
            if isinstance(module, Convolution):
                names = (name for name in ("weight", "bias") if f"{path}.{name}" in originals)
                module.share({name: originals[f"{path}.{name}"] for name in names})

    def train(self, mode: bool = True) -> Backbone:
        """Stays in eval mode, whatever is asked for."""
        return super().train(False)

    @property
    def fingerprint(self) -> str:
        """Tells the values of the weights, as they are now (under ``torch.compile``: when it compiled), apart from others."""
        return self._current_fingerprint()

    def _current_fingerprint(self) -> str:
        return self._fingerprint.of(self)

    # What torch.compiler.assume_constant_result does, without the second that importing the compiler takes.
    _current_fingerprint._dynamo_marked_constant = True  # type: ignore[attr-defined]

    @property
    def description(self) -> str:
        """What representations must agree in to be comparable: network, layers and values of the weights."""
        return f"{self.name}[{','.join(self.layers)}] weights {self.fingerprint}"

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
        with _sharing.unchanging():
            features = self._features(image, mask)
        for feature in features:
            if feature.dim() != 4 or feature.shape[-2] * feature.shape[-1] == 0:
                raise ValueError(f"the backbone {self.name} gave features of shape {tuple(feature.shape)}, not (N, C, h, w)")
        return features

    def _features(self, image: Tensor, mask: Tensor | None) -> list[Tensor]:
        if mask is None and isinstance(self.net, FixedSequence) and pieces.worth_it(image):
            return pieces.run(self.net, self.net.taps, self.normalise, image)
        features: list[Tensor] = self.net(self.normalise(image), mask)
        return features

    def normalise(self, image: Tensor) -> Tensor:
        """Images as the network wants them.

        Raises:
            TypeError: the image's type is not the network's.
        """
        parameter = next(self.net.parameters(), None)
        if parameter is not None:
            _check_match(image, parameter)
        if self.mean is None or self.std is None:
            return image  # somebody else's module, which takes it as it is
        image = (image - self.mean) / self.std
        if image.device.type == "cpu" and not torch._C._are_functorch_transforms_active():  # vmap has no channels_last
            # Convolutions run faster on it. A stack is the fastest way there, and whatever the strides were they are not kept.
            image = torch.stack(image.unbind(1), -1).permute(0, 3, 1, 2)
        return image

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.net.parameters()).device

    @property
    def known_layers(self) -> tuple[Layer, ...]:
        """Every layer of which it is known where its positions lie, in order of depth.

        Raises:
            ValueError: nothing is known of the network.
        """
        if not isinstance(self.net, FixedSequence):
            raise ValueError(
                f"{self.name} cannot be evaluated in tiles: it is not known which pixels its features depend on, whether it "
                f"has global operations, or padding that depends on the size; use one of {', '.join(BACKBONES)}, or tile=None"
            )
        return tuple(BACKBONES[self.name].layers.values())

    @property
    def geometry(self) -> tuple[Layer, ...]:
        """Where the positions of each chosen layer lie.

        Raises:
            ValueError: nothing is known of the network.
        """
        _ = self.known_layers
        return tuple(BACKBONES[self.name].layers[layer] for layer in self.layers)

    def parts(self, first: Sequence[int], second: Sequence[int]) -> tuple[FixedSequence, FixedSequence]:
        """The network in two: up to the last of the modules ``first``, and from there to the last of ``second``.

        Each returns what the modules named to it compute. The first takes what :meth:`normalise` returns and a mask, the
        second what the last of ``first`` computes.
        """
        modules = list(self.net.children())
        end = max(first) + 1
        last = max(second, default=max(first)) + 1
        return FixedSequence(modules[:end], first), FixedSequence(modules[end:last], [index - end for index in second])

    @torch.inference_mode(False)  # what is made in inference mode would give no gradients later
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Backbone:
        for name, constant in self._buffers.items():
            self._buffers[name] = None if constant is None else fn(constant)
        parameter = next(self.net.parameters(), None)
        if parameter is None:
            self.net._apply(fn, recurse)
            return self
        probe = torch.empty(0, dtype=parameter.dtype, device=parameter.device)
        after = fn(probe)
        if (after.dtype, after.device) == (probe.dtype, probe.device):
            return self  # neither a move nor a conversion
        if self._key is not None and (after.is_meta or not all(torch.equal(fn(p).to(p), p) for p in self.net.parameters())):
            self._key = None  # no values, or rounded ones: no longer those of the file
        self.net._apply(fn, recurse)
        self._share()
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_fingerprint"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()


def _check_match(image: Tensor, parameter: Tensor) -> None:
    if parameter.device != image.device:
        raise ValueError(f"the image is on {image.device} but the metric on {parameter.device}: move one with .to(device)")
    autocast = torch.is_autocast_enabled(image.device.type) and torch.float64 not in (image.dtype, parameter.dtype)
    if parameter.dtype != image.dtype and not autocast:
        raise TypeError(
            f"the image is {image.dtype} but the metric is {parameter.dtype}: "
            "convert the image, or the metric with .to(dtype); for half precision use torch.autocast"
        )
