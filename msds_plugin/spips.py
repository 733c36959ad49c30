"""SPIPS, the scene perceived image perceptual score: traditional and deep maps, weighed by a learned network and fused."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msds_plugin.backbones import Weights, build_backbone
from msds_plugin.checks import check_aligned
from msds_plugin.errors import WeightsFileError
from msds_plugin.functional import at_least_float32, halve
from msds_plugin.local import LocalMetric
from msds_plugin.weights import load, read_safetensors
from msds_plugin.windows import Image

__all__ = ["SPIPS", "Fusion", "Inputs", "load_weights", "save_weights"]

#: Maps are averaged to so many rows and columns, whatever the image's size.
GRID = 8
#: Side of the small images that the quality-feature extractor looks at.
THUMBNAIL = 32
#: Decibel at which a picture counts as perfect.
PERFECT = 50.0
#: Of the Gaussian window of SSIM, and its constants.
SIDE, SIGMA, C1, C2 = 11, 1.5, 0.01**2, 0.03**2
#: Exponents of the three finest scales of MS-SSIM, scaled to sum to one.
SCALES = (0.0448, 0.2856, 0.3001)


def to_grid(maps: Tensor) -> Tensor:
    """Averages (N, C, GRID, GRID) of maps (N, C, h, w)."""
    return F.adaptive_avg_pool2d(maps, GRID)


def psnr_map(x: Tensor, y: Tensor) -> Tensor:
    """1 - PSNR / 50 dB of each cell of the grid, in [0, 1]; (N, 1, GRID, GRID)."""
    error = to_grid((x - y).square().mean(1, keepdim=True))
    decibel = -10 * torch.log10(error.clamp_min(10 ** (-PERFECT / 10)))
    return (1 - decibel / PERFECT).clamp(0, 1)


def _blur(image: Tensor) -> Tensor:
    offsets = torch.arange(SIDE, dtype=image.dtype, device=image.device) - SIDE // 2
    window = torch.exp(-offsets.square() / (2 * SIGMA**2))
    window = window / window.sum()
    padded = F.pad(image, (SIDE // 2,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, window.view(1, 1, 1, SIDE)), window.view(1, 1, SIDE, 1))


def _ssim(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """1 - luminance and 1 - contrast and structure at every pixel, exactly 0 where the images are equal around it."""
    mean_x, mean_y = _blur(x), _blur(y)
    variances = (_blur(x.square()) - mean_x.square()).clamp_min(0) + (_blur(y.square()) - mean_y.square()).clamp_min(0)
    difference = (_blur((x - y).square()) - _blur(x - y).square()).clamp_min(0)
    luminance = (mean_x - mean_y).square() / (mean_x.square() + mean_y.square() + C1)
    return luminance, (difference / (variances + C2)).clamp_max(2)


def ssim_maps(x: Tensor, y: Tensor) -> Tensor:
    """1 - SSIM and 1 - MS-SSIM, halved so as to lie in [0, 1]; (N, 2, GRID, GRID). Of luma, on up to three scales."""
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=x.dtype, device=x.device).view(1, 3, 1, 1)
    a, b = ((image * luma).sum(1, keepdim=True) for image in (x, y))
    single, logs, weight = torch.empty(0), torch.zeros(()), 0.0
    for scale, exponent in enumerate(SCALES):
        luminance, structure = _ssim(a, b)
        if scale == 0:
            single = to_grid(1 - (1 - luminance) * (1 - structure)) / 2
        logs = logs + exponent * torch.log1p(-to_grid(structure / 2).clamp_max(1 - 1e-6))
        weight += exponent
        if min(a.shape[-2:]) < 4 * SIDE:
            break
        a, b = halve(a), halve(b)
    return torch.cat([single, -torch.expm1(logs / weight)], 1)


def feature_map(x: Tensor, y: Tensor) -> Tensor:
    """Half the squared difference of features (N, C, h, w) of unit length at each position, in [0, 2]; (N, 1, GRID, GRID)."""
    x, y = (F.normalize(at_least_float32(feature), dim=1, eps=1e-6) for feature in (x, y))
    return to_grid((x - y).square().sum(1, keepdim=True)) / 2


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


class SPIPS(LocalMetric):
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

    kind = "spips"
    lower_is_better = True
    reads_windows = False
    facts: dict[str, str]

    def __init__(self, weights: str | os.PathLike[str] | None = None, backbone_weights: Weights = "imagenet") -> None:
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
        self._build(backbone, STREAMS[backbone], backbone_weights)
        return self

    def _build(self, backbone: str, streams: tuple[Sequence[str], Sequence[str]], weights: Weights) -> None:
        super().__init__()
        self.facts = {}
        self.low, self.high = (tuple(layers) for layers in streams)
        self.backbone = build_backbone(backbone, [*self.low, *self.high], weights)
        self.fusion = Fusion((TRADITIONAL, len(self.low), len(self.high)))

    @property
    def smallest(self) -> int:
        """Shortest side of an image, in pixels."""
        return max(THUMBNAIL, self.backbone.smallest)

    @property
    def description(self) -> str:
        """Metric, network and layers."""
        return f"{self.kind} {self.backbone.description}"

    def inputs(self, x: Tensor, y: Tensor) -> Inputs:
        """What the learned part needs of distorted images ``x`` and references ``y``.

        Raises:
            ValueError: as the metric itself.
        """
        x, y = self._checked(x), self._checked(y)  # type: ignore[assignment]
        check_aligned(x, y, "SPIPS")
        return self._inputs(x, y)

    def _inputs(self, x: Tensor, y: Tensor) -> Inputs:
        features = self.backbone(torch.cat([x, y]))
        with torch.autocast(x.device.type, enabled=False):  # variances are small beside the squares that they come from
            maps = [feature_map(*each.chunk(2)) for each in features]
            x, y = at_least_float32(x), at_least_float32(y)
            small = [F.interpolate(image, (THUMBNAIL, THUMBNAIL), mode="area") for image in (x, y)]
            return Inputs(torch.cat([psnr_map(x, y), ssim_maps(x, y), *maps], 1), torch.cat(small, 1))

    def _aligned_score(self, x: Image, y: Image) -> Tensor:
        inputs = self._inputs(x, y)  # type: ignore[arg-type]
        with torch.autocast(inputs.maps.device.type, enabled=False):
            scores: Tensor = self.fusion(inputs)
        return scores


FORMAT = "msds_plugin.SPIPS/1"
_NEEDED = ("backbone", "low", "high")


def save_weights(path: str | os.PathLike[str], state: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
    """Write the learned part's tensors and what is to be known of them; :func:`load_weights` reads it."""
    from safetensors.torch import save_file

    # One entry, since safetensors writes several in an order of chance.
    content = json.dumps({"format": FORMAT, **facts}, sort_keys=True)
    save_file({name: tensor.detach().contiguous() for name, tensor in state.items()}, path, {"msds_plugin": content})


def load_weights(path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Facts and tensors of a file. Nothing in it is executed.

    Raises:
        FileNotFoundError: no such file.
        WeightsFileError: damaged, or another kind of file.
    """
    metadata, state = read_safetensors(path, "weights of SPIPS")
    try:
        facts = json.loads(metadata.get("msds_plugin", "{}"))
    except ValueError as error:
        raise WeightsFileError(f"{path} is damaged: {error}") from error
    if not isinstance(facts, dict) or facts.pop("format", None) != FORMAT or any(name not in facts for name in _NEEDED):
        raise WeightsFileError(f"{path} is a safetensors file but does not hold weights of SPIPS")
    return facts, state
