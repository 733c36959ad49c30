"""MSDS-Retarget: how much of what people look at a retargeted or cropped image still shows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msds_plugin.backbones import Weights, build_backbone
from msds_plugin.checks import check_pair, is_true
from msds_plugin.encoder import NetworkMetric
from msds_plugin.functional import at_least_float32, global_dissimilarity, gram_matrix, positions, smooth_halve
from msds_plugin.metric import Representation
from msds_plugin.networks import Backbone
from msds_plugin.runtimes import Runtime
from msds_plugin.saliency import Saliency, keep
from msds_plugin.saliency.resample import fitted, thumbnail
from msds_plugin.windows import Image

__all__ = ["MSDSRetarget", "Retargeted", "coverage"]

#: The layers whose features are matched, and whose Gram matrix at a quarter of the size is compared.
MATCHED, COMPARED = "stage3", "stage4"
#: What the comparison of Gram matrices counts for; coverage counts for the rest.
GRAM_SHARE = 0.125
#: Longer side in pixels of what is looked at: matching costs the square of the number of positions.
LONGER = 1024
#: How sharply a position is given to the reference's positions that it resembles.
SHARPNESS = 10.0
#: What a match costs for each cell (squared) that it lies outside of where the change of size alone can have moved it.
DISTANCE_COST = 0.5
#: Cells over which coverage is averaged before it is compared.
NEIGHBOURHOOD = 7
#: Exponent of the saliency map: what is less salient still counts.
SALIENCY_EXPONENT = 0.5


def _positions(cells: int, length: float, like: Tensor) -> Tensor:
    return (torch.arange(cells, dtype=like.dtype, device=like.device) + 0.5) * (length / cells)


def _strays(cells: int, reference_cells: int, length: float, reference_length: float, like: Tensor) -> Tensor:
    """Squared distance, in cells of the reference, by which each position along one axis lies outside of where the other's
    may have gone: (cells, reference_cells).

    When a side changes by d pixels, whether by cropping, scaling or removing seams, content moves by 0 to d.
    """
    here = _positions(cells, length, like)[:, None]
    there = _positions(reference_cells, reference_length, like)
    moved = there + (length - reference_length)
    outside = (torch.minimum(there, moved) - here).clamp_min(0) + (here - torch.maximum(there, moved)).clamp_min(0)
    return (outside * (reference_cells / reference_length)).square()


def _standardised(features: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Positions as rows (h * w, C) of unit length, after scaling each channel."""
    return F.normalize(((features - mean) / std).flatten(1).mT, dim=1)


def coverage(x: Tensor, y: Tensor, size_x: tuple[float, float], size_y: tuple[float, float]) -> Tensor:
    r"""Area of an image that shows each position of a reference, relative to its area there.

    Every position q of the image is given to the reference's positions p in shares

    .. math:: P(p \mid q) \propto \exp\big(\kappa\,(\cos(f_p, f_q) - \lambda\, d_{pq}^2)\big),

    f the features with each channel standardised as in the reference, d the distance in cells by which q lies outside of
    where the change of size alone can have moved p. The shares of all q are summed.

    Args:
        x: features (C, h, w) of the image.
        y: features (C, h', w') of the reference.
        size_x: height and width of the image in pixels.
        size_y: those of the reference.

    Returns:
        (h', w'), non-negative; about 1 everywhere if the two are the same, below 1 where something was made smaller, about 0
        where it was removed.
    """
    mean = y.mean((1, 2), keepdim=True)
    std = y.std((1, 2), keepdim=True, correction=0) + 1e-6
    cosine = _standardised(x, mean, std) @ _standardised(y, mean, std).mT
    rows, columns = (
        _strays(cells, reference_cells, length, reference_length, x)
        for cells, reference_cells, length, reference_length in zip(x.shape[1:], y.shape[1:], size_x, size_y, strict=True)
    )
    strays = rows[:, None, :, None] + columns[None, :, None, :]
    shares = torch.softmax(SHARPNESS * (cosine - DISTANCE_COST * strays.flatten(2).flatten(0, 1)), 1)
    cell_x, cell_y = (size[0] * size[1] / positions(feature) for size, feature in ((size_x, x), (size_y, y)))
    return (shares.sum(0) * (cell_x / cell_y)).view(y.shape[1:])


@dataclass(frozen=True, eq=False)
class Retargeted(Representation):
    """Feature maps (N, C, h, w), weights of their positions (N, 1, h, w), Gram matrix (N, C, C) at a quarter of the size, and
    height and width of the images in pixels."""

    features: Tensor
    weights: Tensor
    gram: Tensor
    size: tuple[int, int]


class _Encoder(nn.Module):
    """Images to the features that are matched, and to the Gram matrix that is compared at a quarter of the size."""

    def __init__(self, matched: Backbone, compared: Backbone) -> None:
        super().__init__()
        self.matched = matched
        self.compared = compared
        self.description = f"{matched.description} + {compared.description}"

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = at_least_float32(self.matched(image)[0])
        quarter = self.compared(smooth_halve(smooth_halve(image)))[0]
        return features, gram_matrix(quarter) / (quarter.shape[1] * positions(quarter))


class MSDSRetarget(NetworkMetric[_Encoder]):
    r"""How much of what people look at in the reference an image still shows, for retargeted and cropped images and other
    changes of aspect. Training-free, higher is better. Not symmetric: the second image is the reference.

    Each position of the image is matched softly to the reference (:func:`coverage`), by features of EfficientNet-Lite0's
    stage 3 and by where the change of size can have moved things. With :math:`c_p` the area that position p is left with,
    relative to what it is left with where the reference is compared with itself (both averaged over 7 x 7 positions),
    :math:`w_p` the square root of the reference's saliency, divided by its sum, and S the structural similarity of the two Gram
    matrices of stage 4 at a quarter of the size, each divided by the number of channels and of positions, the score is

    .. math:: \tfrac78 \sum_p w_p \min(1, c_p) + \tfrac18 S.

    1 for identical images, at most 1, at least -1/8. It sees content that is lost or made smaller, and hardly blur, noise
    or compression: use it next to a measure of those.

    Args:
        weights: ``"imagenet"`` (they come with a package, nothing is downloaded), a path, or None for random values.
        saliency: ``"gbvs"``, ``"spectral"``, ``"features"`` (see :mod:`msds_plugin.saliency`), or a function of images
            (N, 3, H, W) to maps (N, 1, H, W).
        saliency_threshold: positions where the map is not above this do not count at all.
        runtime: see :class:`~msds_plugin.DeepSSIM`.
        backbone: ``other.backbone`` to share the network of another metric on EfficientNet-Lite0.

    Shape:
        x, y: (N, 3, H, W), RGB in [0, 1], 64 pixels a side at least; the sizes of x and y may differ. Returns (N,). Images
        of more than 1024 pixels on the longer side are shrunk to that; those larger than memory may be given as
        :class:`~msds_plugin.windows.Windows`.

    Raises:
        ValueError: values outside [0, 1], an image too small, batches of different length, bad saliency maps.
        TypeError: not floating point, or x and y of different types.
        WeightsFileError, MissingDependencyError: see :func:`build_backbone`.

    Source: this project.

    Example:
        >>> metric = MSDSRetarget(weights=None)
        >>> y = torch.rand(1, 3, 96, 128)
        >>> metric(y, y)
        tensor([1.])
        >>> metric(y[..., :64], y) < 0.8
        tensor([True])
    """

    kind = "msds-retarget"

    def __init__(
        self,
        weights: Weights = "imagenet",
        saliency_threshold: float = 0.0,
        saliency: Saliency = "gbvs",
        runtime: Runtime = "torch",
        backbone: str | Backbone = "efficientnet_lite0",
    ) -> None:
        if saliency is None:
            raise ValueError("msds-retarget is made of saliency: choose gbvs, spectral, features, or give a function")
        network = backbone if isinstance(backbone, Backbone) else build_backbone(backbone, [MATCHED, COMPARED], weights)
        encoder = _Encoder(network.tapped([MATCHED]), network.tapped([COMPARED]))
        super().__init__(encoder, 4 * network.smallest, saliency, saliency_threshold, runtime)

    def forward(self, x: Image, y: Image, saliency_y: Image | None = None) -> Tensor:
        """Scores (N,) of retargeted images ``x`` beside references ``y``."""
        if saliency_y is None:
            return super().forward(x, y)
        check_pair(x, y)
        return self.compare(self.represent(x), self.represent(y, saliency_y))

    def _masked(self, image: Image, maps: Image | None) -> Retargeted:
        assert maps is not None  # the metric is made of saliency
        height, width = image.shape[-2:]
        size = fitted(height, width, LONGER)
        if min(size) < self.smallest:
            raise ValueError(
                f"an image of {height} x {width} pixels is too long for msds-retarget, which looks at {size[0]} x {size[1]} of "
                f"it: at least {self.smallest} are needed on the shorter side"
            )
        whole = isinstance(image, Tensor) and size == (height, width)
        small = image if whole else thumbnail(image, size).to(self.first_backbone.device)
        features, gram = (self.encoder or self.compiled)(small)  # type: ignore[misc,arg-type]
        return Retargeted(self.description, features, self._weights(maps, features), gram, (height, width))

    def _compare(self, a: Retargeted, b: Retargeted) -> Tensor:
        count = max(len(a), len(b))
        lost = torch.stack([_lost(a[min(index, len(a) - 1)], b[min(index, len(b) - 1)]) for index in range(count)])
        return 1 - ((1 - GRAM_SHARE) * lost + GRAM_SHARE * global_dissimilarity(a.gram, b.gram))

    def _weights(self, maps: Image, features: Tensor) -> Tensor:
        """Weights (N, 1, h, w) of the positions of feature maps, each image's of sum one."""
        coarse = thumbnail(maps, (features.shape[-2], features.shape[-1])).to(features)
        if not is_true((coarse >= 0).logical_or(coarse.isnan()).all()):
            raise ValueError("the saliency map holds negative values: for msds-retarget they must be in [0, 1]")
        weights = coarse**SALIENCY_EXPONENT * keep(coarse, self.saliency_threshold)
        return weights / weights.sum((2, 3), keepdim=True)


def _lost(x: Retargeted, y: Retargeted) -> Tensor:
    """Share of a reference's salient area that an image does not show, of one pair."""
    half = NEIGHBOURHOOD // 2
    areas = torch.stack([coverage(each.features[0], y.features[0], each.size, y.size) for each in (x, y)])
    left, whole = F.avg_pool2d(F.pad(areas, (half,) * 4, mode="replicate"), NEIGHBOURHOOD, 1)
    return (y.weights[0, 0] * (1 - left / whole).clamp_min(0)).sum()
