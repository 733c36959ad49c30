"""MSDS-Align: structural similarity for pairs whose content is displaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .backbones import Weights, build_backbone
from .deepssim import fit_together, saliency_maps
from .errors import check_pair, check_size, check_source
from .functional import block_dissimilarities, gram_matrix
from .network.sharing import unchanging
from .representation import Representation, check_comparable
from .saliency import Attention, Saliency
from .saliency.matrices import Matrix, calibration, matrices
from .tiling import Tile, check_tile
from .windows import Windows, as_windows

__all__ = ["MSDSAlign", "covariance_matrix", "smooth_halve"]

#: Layers of EfficientNet-Lite0 and their weights: at half size by covariance and one by its Gram matrix too, at full size by
#: Gram matrix.
HALF = {"stage0": 1.0, "stage1": 2.0, "stage2": 2.0}
HALF_GRAM = {"stage1": 3.0}
FULL = {"stage3": 2.0, "stage4": 1.0}
#: What the layers at full size count for together; those at half size share the rest.
FULL_SHARE = 0.12


def covariance_matrix(features: Tensor) -> Tensor:
    """Covariances of the channels of feature maps (N, C, h, w) over positions, (N, C, C), in float32 at least.

    Example:
        >>> covariance_matrix(torch.tensor([[[[1.0, 3.0]], [[5.0, 5.0]]]]))
        tensor([[[1., 0.],
                 [0., 0.]]])
    """
    with torch.autocast(features.device.type, enabled=False):
        wide = features.float() if features.dtype in (torch.float16, torch.bfloat16) else features
        return gram_matrix(wide - wide.mean((2, 3), keepdim=True)) / wide[0, 0].numel()


def _moments(features: Tensor) -> Tensor:
    """The Gram matrix (N, C + 1, C + 1) of the channels and a channel of ones: their products, their sums, their number."""
    with torch.autocast(features.device.type, enabled=False):
        wide = features.float() if features.dtype in (torch.float16, torch.bfloat16) else features
        return gram_matrix(torch.cat([wide, torch.ones_like(wide[:, :1])], 1))


def _covariance_and_mean(features: Tensor) -> Tensor:
    """Covariances of the channels, and in a last column their means, (N, C, C + 1)."""
    wide = features.float() if features.dtype in (torch.float16, torch.bfloat16) else features
    return torch.cat([covariance_matrix(features), wide.mean((2, 3)).unsqueeze(2)], 2)


def _covariance_and_mean_of(moments: Tensor) -> Tensor:
    products, sums, number = moments[:, :-1, :-1], moments[:, :-1, -1:], moments[:, -1:, -1:]
    mean = sums / number
    return torch.cat([products / number - mean * mean.mT, mean], 2)


def _half_matrices(made: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The covariances of all layers, and the Gram matrices of HALF_GRAM's: covariances plus products of means."""
    covariances = {layer: (both[..., :-1].contiguous(), both[..., -1:]) for layer, both in zip(HALF, made, strict=True)}
    grams = (covariance + mean * mean.mT for covariance, mean in (covariances[layer] for layer in HALF_GRAM))
    return (*(covariance for covariance, _ in covariances.values()), *grams)


#: Divided by the number of positions, so that images of different size can be compared.
_GRAM = Matrix(
    lambda feature: gram_matrix(feature) / feature[0, 0].numel(), gram_matrix, lambda gram, positions: gram / positions
)
_COVARIANCE = Matrix(_covariance_and_mean, _moments, lambda moments, _: _covariance_and_mean_of(moments))


def _binomial(values: Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
    """The 1 4 6 4 1 averages of every second row and column, after mirroring so many at the two ends of each axis."""
    values = F.pad(values, (*columns, *rows), mode="reflect")
    height, width = ((side - 3) // 2 for side in values.shape[-2:])
    down = [values[..., tap : tap + 2 * height - 1 : 2, :] for tap in range(5)]
    values = (down[0] + down[4] + 4 * (down[1] + down[3]) + 6 * down[2]) / 16
    across = [values[..., tap : tap + 2 * width - 1 : 2] for tap in range(5)]
    return (across[0] + across[4] + 4 * (across[1] + across[3]) + 6 * across[2]) / 16


def smooth_halve(image: Tensor) -> Tensor:
    """Images (N, C, H, W) of half the size, rounded up, after a 1 4 6 4 1 low pass, mirrored at the border.

    Passes less of what the half size cannot show than 2 x 2 averages do, so that it matters less where content lies.

    Example:
        >>> smooth_halve(torch.ones(1, 1, 7, 8)).shape
        torch.Size([1, 1, 4, 4])
    """
    return _binomial(image, (2, 2), (2, 2))


@dataclass(frozen=True)
class _SmoothHalved:
    """:func:`smooth_halve` of an image, where it is read."""

    source: Windows

    @property
    def shape(self) -> tuple[int, ...]:
        *batch, height, width = self.source.shape
        return (*batch, -(-height // 2), -(-width // 2))

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        first, rows, row_padding = self._span(top, height, self.source.shape[-2])
        begin, columns, column_padding = self._span(left, width, self.source.shape[-1])
        values = self.source.read(first, begin, rows, columns)
        return _binomial(values, row_padding, column_padding)

    @staticmethod
    def _span(first: int, length: int, limit: int) -> tuple[int, int, tuple[int, int]]:
        """First pixel and number of pixels of the source that so many halved ones need, and what is missing at the ends."""
        begin, end = 2 * first - 2, 2 * (first + length - 1) + 3
        inside = max(begin, 0), min(end, limit)
        return inside[0], inside[1] - inside[0], (inside[0] - begin, end - inside[1])


class MSDSAlign(nn.Module):
    r"""Similarity of images whose content is displaced: rendered novel views, interpolated frames, registered or
    super-resolved images. Full-reference, training-free, higher is better, for any two sizes.

    Features are those of EfficientNet-Lite0. The shallow stages 0, 1, 2 see the images at half size, after a low pass, and
    are compared by the covariances :math:`C` of their channels, stage 1 by its Gram matrix too; the deep stages 3, 4 see them
    at full size and are compared by their Gram matrices :math:`G`, divided by the number of positions. With :math:`S` the mean
    structural similarity of 4 x 4 blocks, as in DeepSSIM,

    .. math:: 0.88\, \frac{S(C_0) + 2 S(C_1) + 2 S(C_2) + 3 S(G_1)}{8} + 0.12\, \frac{2 S(G_3) + S(G_4)}{3}.

    1 for identical images, at most 1, at least -1. Neither matrix knows where things are: content may move, by fractions of a
    pixel or by many. At half size it may also be resampled, which would otherwise count as damage; covariances forgive a
    change of brightness. The weights are those that agree with people, see ``docs/alignment.md``.

    Args:
        weights: ``"imagenet"`` (they come with a package, nothing is downloaded), a path, or None for random values.
        saliency_threshold, tile, saliency: see :class:`~msds_plugin.DeepSSIM`.

    Shape:
        x, y: (N, 3, H, W), RGB in [0, 1], 32 pixels a side at least; the sizes of x and y may differ. Returns (N,). Images
        larger than memory may be given as :class:`~msds_plugin.windows.Windows`.

    Raises:
        ValueError: values outside [0, 1], an image too small, batches of different length, bad saliency maps.
        TypeError: not floating point, or x and y of different types.
        WeightsFileError, MissingDependencyError: see :func:`build_backbone`.

    Source: this project; the comparison of blocks is that of K. Zhang et al., IEEE TPAMI 2025 (arXiv 2412.19553).

    Example:
        >>> metric = MSDSAlign(weights=None)
        >>> y = torch.rand(1, 3, 64, 64)
        >>> metric(y, y)
        tensor([1.])
        >>> metric(torch.rand(1, 3, 50, 70), y).shape
        torch.Size([1])
    """

    kind = "msds-align"

    def __init__(
        self,
        weights: Weights = "imagenet",
        saliency_threshold: float = 0.0,
        tile: Tile = None,
        saliency: Saliency = None,
    ) -> None:
        super().__init__()
        self.attention = None if saliency is None else Attention(saliency)
        self.saliency_threshold = saliency_threshold
        with torch.random.fork_rng(devices=[]):  # so that random values are the same in both
            self.shallow = build_backbone("efficientnet_lite0", list(HALF), weights)
        self.deep = build_backbone("efficientnet_lite0", list(FULL), weights)
        check_tile(tile, self.deep)
        self.tile = tile

    @property
    def smallest(self) -> int:
        """Shortest side of an image, in pixels."""
        return 2 * self.shallow.smallest

    @property
    def source(self) -> str:
        """What two representations must agree in to be comparable."""
        described = f"{self.kind} {self.deep.description} + half {self.shallow.description}"
        return described + calibration(self.attention, self.saliency_threshold)

    def represent(self, image: Tensor | Windows, saliency: Tensor | Windows | None = None) -> Representation:
        """What is to be kept of images (N, 3, H, W) in [0, 1]: Gram matrices at full size, covariances and one at half.

        Args:
            image: as above.
            saliency: (N, 1, H, W) or (N, H, W); None for the maps that the metric makes for itself, if it was made with
                ``saliency``.
        """
        check_source(image)
        return self._represent(image, saliency)

    def compare(self, a: Representation, b: Representation) -> Tensor:
        """Scores (N,) of two representations; one of a single image is compared with every image of the other."""
        check_comparable(a, b, self.source, 2)
        full, half = (
            _weighted(weights, first, second) for weights, first, second in zip(_WEIGHTS, a.grams, b.grams, strict=True)
        )
        return 1 - (FULL_SHARE * full + (1 - FULL_SHARE) * half)

    def forward(
        self,
        x: Tensor | Windows,
        y: Tensor | Windows,
        saliency_x: Tensor | Windows | None = None,
        saliency_y: Tensor | Windows | None = None,
    ) -> Tensor:
        """Scores (N,) of distorted images ``x`` beside references ``y``."""
        check_pair(x, y)
        with unchanging():
            if saliency_x is None and saliency_y is None and self.tile is None and fit_together(x, y):
                both = self._represent(torch.cat([x, y]))  # type: ignore[list-item]
                return self.compare(both[: x.shape[0]], both[x.shape[0] :])
            return self.compare(self._represent(x, saliency_x), self._represent(y, saliency_y))

    def _represent(self, image: Tensor | Windows, saliency: Tensor | Windows | None = None) -> Representation:
        check_size(image, self.smallest)
        maps = self._attend(image) if saliency is None else saliency_maps(saliency, image)
        full = matrices(self.deep, image, maps, self.saliency_threshold, self.tile, _GRAM)
        half_maps = None if maps is None else self._half(maps)
        half = matrices(self.shallow, self._half(image), half_maps, self.saliency_threshold, self.tile, _COVARIANCE)
        return Representation((full, _half_matrices(half)), self.source)

    def _attend(self, image: Tensor | Windows) -> Tensor | Windows | None:
        return None if self.attention is None else self.attention.maps(image, self.deep)

    def _half(self, image: Tensor | Windows) -> Tensor | Windows:
        return smooth_halve(image) if self.tile is None and isinstance(image, Tensor) else _SmoothHalved(as_windows(image))


_WEIGHTS = tuple(FULL.values()), (*HALF.values(), *HALF_GRAM.values())


def _weighted(weights: Sequence[float], a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Dissimilarities (N,) of so many pairs of matrices, averaged with their weights."""
    parts = [weight * part for weight, part in zip(weights, block_dissimilarities(a, b), strict=True)]
    return torch.stack(parts).sum(0) / sum(weights)
