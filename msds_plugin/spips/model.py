"""SPIPS: traditional and deep maps, weighed by a learned network and fused into one score."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..backbones import Weights, build_backbone
from ..errors import check_pair
from ..weights import load
from .maps import THUMBNAIL, feature_map, psnr_map, ssim_maps
from .weights_file import load_weights

__all__ = ["SPIPS", "STREAMS", "Fusion", "Inputs"]

#: Early and late layers of the backbones that have been thought about; of others the first half is early.
STREAMS = {
    "efficientnet_lite0": (("stage0", "stage1", "stage2"), ("stage3", "stage4")),
    "alexnet": (("relu1", "relu2"), ("relu3", "relu4", "relu5")),
    "vgg16": (("relu1_2", "relu2_2", "relu3_3"), ("relu4_3", "relu5_1")),
}
TRADITIONAL = 3
_HIDDEN = 16

HOW_TO_TRAIN = (
    "SPIPS has no weights that could be shipped: its authors' are not public. Train some with "
    "msds train -m spips (on 2AFC judgements or opinion scores) and pass weights=<the file>"
)


@dataclass(frozen=True)
class Inputs:
    """All that the learned part needs of a batch of pairs; it comes from frozen networks and can be kept.

    Attributes:
        maps: (N, M, 8, 8), each 0 where nothing differs: traditional, low-level, then semantic ones.
        thumbnails: (N, 6, 32, 32), both images, small.
    """

    maps: Tensor
    thumbnails: Tensor

    def __getitem__(self, rows: Tensor | slice) -> Inputs:
        """Some of the pairs."""
        return Inputs(self.maps[rows], self.thumbnails[rows])


class _Rising(nn.Module):
    """Hidden units that rise with each input and are 0 where all inputs are."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.randn(outputs, inputs) * 0.5 - 1.5)

    def forward(self, values: Tensor) -> Tensor:
        return torch.tanh(F.linear(values, F.softplus(self.raw)))


class Fusion(nn.Module):
    """The learned part: quality-feature extractor, weighted fusion, and a multilayer perceptron whose weights are not negative.

    So the score rises with every map, and is exactly 0 where no map differs from 0.

    Args:
        streams: number of maps of each stream, which are kept apart up to the last layer.
    """

    scale: Tensor

    def __init__(self, streams: Sequence[int]) -> None:
        super().__init__()
        self.streams = tuple(streams)
        self.extractor = nn.Sequential(
            nn.Conv2d(6, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, sum(streams), 1)
        )
        self.branches = nn.ModuleList(_Rising(count, _HIDDEN) for count in streams)
        self.head = _Rising(_HIDDEN * len(self.streams), _HIDDEN)
        self.out = nn.Parameter(torch.full((_HIDDEN,), -2.0))
        self.register_buffer("scale", torch.ones(sum(streams)))

    def forward(self, inputs: Inputs) -> Tensor:
        """Scores (N,), 0 for identical images."""
        weights = F.softplus(self.extractor(inputs.thumbnails - 0.5))
        pooled = (weights * inputs.maps / self.scale.view(1, -1, 1, 1)).mean((2, 3))
        parts = zip(self.branches, pooled.split(self.streams, 1), strict=True)
        hidden = torch.cat([branch(part) for branch, part in parts], 1)
        return self.head(hidden) @ F.softplus(self.out)


class SPIPS(nn.Module):
    """SPIPS, the scene perceived image perceptual score. Full-reference, **lower is better**, 0 for identical images.

    Maps of PSNR, SSIM and MS-SSIM (each 1 - its normalised value) and, per layer of a frozen network, of the squared
    difference of features; early layers (detail) and late ones (semantics) are streams of their own. A small network looks at
    both images and says how much each map weighs in each of 8 x 8 cells; the weighed maps are pooled and go through a
    multilayer perceptron. Unlike the published one it has no negative weights, so that no distortion can better a score; maps
    are weighed on the grid, so that all that is frozen can be computed once.

    Args:
        weights: file that ``msds train -m spips`` wrote. Backbone and layers are those it names.
        backbone_weights: of the backbone, see :func:`~msds_plugin.build_backbone`.

    Shape:
        x, y: (N, 3, H, W), RGB in [0, 1], of one size. Returns (N,).

    Raises:
        ValueError: no weights; sizes that differ, images too small, values outside [0, 1].
        FileNotFoundError, WeightsFileError: no such file of weights, or not one of SPIPS.

    Source: Z. Lao, H. Yu, "Scene Perceived Image Perceptual Score (SPIPS): combining global and local perception for image
    quality assessment", 2025 (arXiv 2504.17234).

    Example:
        >>> metric = SPIPS.untrained("alexnet", backbone_weights=None)
        >>> x = torch.rand(2, 3, 64, 64)
        >>> metric(x, x).detach()
        tensor([0., 0.])
    """

    def __init__(self, weights: str | os.PathLike[str] | None = None, backbone_weights: Weights = "imagenet") -> None:
        super().__init__()
        if weights is None:
            raise ValueError(HOW_TO_TRAIN)
        facts, state = load_weights(weights)
        self._build(facts["backbone"], (facts["low"].split(","), facts["high"].split(",")), backbone_weights)
        self.facts = facts
        load(self.fusion, state, str(weights))
        self.requires_grad_(False).eval()

    @classmethod
    def untrained(cls, backbone: str = "efficientnet_lite0", backbone_weights: Weights = "imagenet") -> SPIPS:
        """One to be trained: its scores mean nothing yet."""
        if backbone not in STREAMS:
            raise ValueError(f"streams are known of {', '.join(STREAMS)}, not of {backbone!r}")
        self = cls.__new__(cls)
        nn.Module.__init__(self)
        self._build(backbone, STREAMS[backbone], backbone_weights)
        self.facts = {}
        return self

    def _build(self, backbone: str, streams: tuple[Sequence[str], Sequence[str]], weights: Weights) -> None:
        self.low, self.high = (tuple(layers) for layers in streams)
        self.backbone = build_backbone(backbone, [*self.low, *self.high], weights)
        self.fusion = Fusion((TRADITIONAL, len(self.low), len(self.high)))

    @property
    def smallest(self) -> int:
        """Shortest side of an image, in pixels."""
        return max(THUMBNAIL, self.backbone.smallest)

    def inputs(self, x: Tensor, y: Tensor) -> Inputs:
        """What the learned part needs of distorted images ``x`` and references ``y``."""
        check_pair(x, y)
        if x.shape != y.shape:
            sizes = " and ".join(f"{height} x {width}" for height, width in (x.shape[-2:], y.shape[-2:]))
            raise ValueError(f"SPIPS compares pixel by pixel and needs images of one size, got {sizes}: msds-fast needs not")
        if min(x.shape[-2:]) < self.smallest:
            raise ValueError(f"images of {x.shape[-2]} x {x.shape[-1]} pixels are too small: at least {self.smallest}")
        features = [feature_map(*each.chunk(2)) for each in self.backbone(torch.cat([x, y]))]
        x, y = (image.float() if image.dtype in (torch.float16, torch.bfloat16) else image for image in (x, y))
        small = [F.interpolate(image, (THUMBNAIL, THUMBNAIL), mode="area") for image in (x, y)]
        return Inputs(torch.cat([psnr_map(x, y), ssim_maps(x, y), *features], 1), torch.cat(small, 1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Scores (N,) of distorted images ``x`` beside references ``y``."""
        return self.fusion(self.inputs(x, y))
