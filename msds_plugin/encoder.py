"""From an image to the matrices of its feature maps: of the whole image or in tiles, run by torch or by OpenVINO."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from numbers import Integral, Real
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from msds_plugin.checks import check_pair
from msds_plugin.functional import (
    at_least_float32,
    block_dissimilarities,
    covariance_matrix,
    global_dissimilarity,
    gram_matrix,
    positions,
    pyramid,
    smooth_halve,
)
from msds_plugin.metric import Metric, Representation, digest
from msds_plugin.networks import Backbone, check_unchanged
from msds_plugin.runtimes import Compiled, Runtime
from msds_plugin.saliency import Attention, Mask, Saliency, keep, saliency_maps
from msds_plugin.tiles import Tile, tile_sums
from msds_plugin.windows import Image, SmoothHalved, Windows, as_windows, halvings

__all__ = ["Encoder", "Matrices", "MatrixKind", "MatrixMetric", "NetworkMetric", "View"]

N = TypeVar("N", bound=nn.Module)


class MatrixKind(Enum):
    """A kind of matrix of feature maps (N, C, h, w), which can also be made from sums over positions."""

    #: The Gram matrix itself.
    GRAM = "gram"
    #: Divided by the number of positions.
    MEAN_GRAM = "mean gram"
    #: Divided by the number of channels and of positions.
    LITE_GRAM = "lite gram"
    #: Covariances of the channels, and in a last column their means, (N, C, C + 1).
    COVARIANCE = "covariance"

    def whole(self, features: Tensor) -> Tensor:
        """The matrix of feature maps."""
        if self is MatrixKind.GRAM:
            return gram_matrix(features)
        if self is not MatrixKind.COVARIANCE:
            return self.finish(self.part(features), positions(features))
        # More exact than from sums.
        mean = at_least_float32(features).mean((2, 3)).unsqueeze(2)
        return torch.cat([covariance_matrix(features), mean], 2)

    def part(self, features: Tensor) -> Tensor:
        """What is summed over parts of the feature maps; of covariances with a channel of ones, so that it holds the sums."""
        if self is not MatrixKind.COVARIANCE:
            return gram_matrix(features)
        wide = at_least_float32(features)
        return gram_matrix(torch.cat([wide, torch.ones_like(wide[:, :1])], 1))

    def finish(self, sums: Tensor, number: int) -> Tensor:
        """The matrix from the sum over all parts and the number of positions."""
        if self is MatrixKind.GRAM:
            return sums
        if self is MatrixKind.MEAN_GRAM:
            return sums / number
        if self is MatrixKind.LITE_GRAM:
            return sums / (sums.shape[-1] * number)
        products, mean = sums[:, :-1, :-1], sums[:, :-1, -1:] / number
        return torch.cat([products / number - mean * mean.mT, mean], 2)


@dataclass(frozen=True)
class View:
    """One look at an image: a network, the level of the image pyramid that it sees, and the matrices of its feature maps.

    Attributes:
        backbone: the network.
        level: of the pyramid of 2 x 2 averages; -1 is half size after the low-pass of :func:`functional.smooth_halve`.
        kind: the matrices.
        kept: layers whose feature maps are wanted too, for what compares them place by place.
    """

    backbone: Backbone
    level: int
    kind: MatrixKind
    kept: tuple[str, ...] = ()

    def windows(self, image: Image) -> Windows:
        """What it sees of an image (N, C, H, W), computed where and when it is read."""
        return SmoothHalved(as_windows(image)) if self.level < 0 else halvings(image, self.level + 1)[self.level]


class Encoder(nn.Module):
    """Images to one matrix for each layer of each view, and the feature maps that are kept; flat, the latter at the end."""

    def __init__(self, views: Sequence[View], saliency_threshold: float = 0.0) -> None:
        super().__init__()
        backbones = list(dict.fromkeys(view.backbone for view in views))
        self.backbones = nn.ModuleList(backbones)
        # By number: torch may put other modules in the place of these, as nn.DataParallel does.
        self.looks = tuple((backbones.index(view.backbone), view.level, view.kind, view.kept) for view in views)
        self.description = " + ".join(dict.fromkeys(f"{view.backbone.description} level {view.level}" for view in views))
        self.saliency_threshold = saliency_threshold

    @property
    def views(self) -> list[View]:
        """The views, in order."""
        backbones: list[Any] = list(self.backbones)
        return [View(backbones[which], level, kind, kept) for which, level, kind, kept in self.looks]

    def forward(self, image: Tensor, maps: Tensor | None = None) -> tuple[Tensor, ...]:
        """Matrices of images (N, 3, H, W); of what lies where saliency maps (N, 1, H, W) are above the threshold."""
        views = self.views
        masks = [None] * len(views) if maps is None else [mask.to(image) for mask in self.masks(maps)]
        matrices, kept = [], []
        for view, level, mask in zip(views, self._levels(image), masks, strict=True):
            features = view.backbone(level, mask)
            matrices += [view.kind.whole(feature) for feature in features]
            if view.kept:
                named = dict(zip(view.backbone.layers, features, strict=True))
                kept += [named[layer] for layer in view.kept]
        return (*matrices, *kept)

    def masks(self, maps: Tensor) -> list[Tensor]:
        """Where saliency maps are above the threshold, for each view.

        Raises:
            ValueError: of some image nothing is, or a map is not finite.
        """
        return [keep(each, self.saliency_threshold) for each in self._levels(maps)]

    def in_tiles(self, image: Image, maps: Image | None, tile: Tile) -> tuple[Tensor, ...]:
        """The matrices that :meth:`forward` returns, summed over tiles; always by torch, whose memory is known."""
        check_unchanged(self, Encoder)
        found: list[Tensor] = []
        for view in self.views:
            mask = None if maps is None else Mask(view.windows(maps), self.saliency_threshold)
            sums = tile_sums(view.backbone, view.windows(image), mask, tile, view.kind.part)
            if mask is not None:
                mask.check()
            found += [view.kind.finish(*each) for each in sums]
        return tuple(found)

    def _levels(self, image: Tensor) -> list[Tensor]:
        levels = [level for _, level, *_ in self.looks]
        whole = pyramid(image, max(0, *levels) + 1)
        return [smooth_halve(image) if level < 0 else whole[level] for level in levels]


@dataclass(frozen=True, eq=False)
class Matrices(Representation):
    """Matrices of feature maps: for each view, for each layer, (N, C, C)."""

    views: tuple[tuple[Tensor, ...], ...]


class NetworkMetric(Metric, Generic[N]):
    """What the metrics have in common that represent an image by a network, run by torch or OpenVINO, and by saliency.

    Args:
        network: images to what they are represented by.
        smallest: shortest side of an image, in pixels.
        saliency, saliency_threshold, runtime: see :class:`~msds_plugin.DeepSSIM`.

    Raises:
        ValueError: an unknown runtime or saliency, or a threshold that is no finite number.
        MissingDependencyError: OpenVINO is not installed.
    """

    reads_windows = True
    takes_saliency = True
    attention: Attention | None
    saliency_threshold: float
    encoder: N | None
    compiled: Compiled | None
    _smallest: int

    def __init__(self, network: N, smallest: int, saliency: Saliency, saliency_threshold: float, runtime: Runtime) -> None:
        super().__init__()
        if not (isinstance(saliency_threshold, Real) and math.isfinite(saliency_threshold)):
            raise ValueError(f"saliency_threshold must be a finite number, got {saliency_threshold!r}")
        self.attention = None if saliency is None else Attention(saliency)
        self.saliency_threshold = saliency_threshold
        self.encoder = network if runtime == "torch" else None
        self.compiled = None if runtime == "torch" else Compiled(network, smallest, runtime)
        self._smallest = smallest

    @property
    def network(self) -> N:
        """The network as a torch module, which OpenVINO's runtime has for itself alone."""
        return self.encoder if self.compiled is None else self.compiled.module  # type: ignore[return-value]

    @property
    def first_backbone(self) -> Backbone:
        """The first feature network, also where OpenVINO runs it: saliency is made of it."""
        return next(module for module in self.network.modules() if isinstance(module, Backbone))

    @property
    def smallest(self) -> int:
        """Shortest side of an image, in pixels."""
        return self._smallest

    @property
    def description(self) -> str:
        """Metric, networks, layers, and how saliency is made."""
        made = "" if self.attention is None else f" saliency {self.attention.name} > {self.saliency_threshold:g}"
        return f"{self.kind} {self.network.description}{made}"

    def weighted_modules(self) -> list[nn.Module]:
        """The metric itself, and the network that OpenVINO runs."""
        return [self] if self.compiled is None else [self, self.compiled.module]

    def represent(self, image: Image, saliency: Image | None = None) -> Representation:
        """The representation that :meth:`compare` needs of images (N, 3, H, W) in [0, 1].

        Args:
            image: as above. One that is read in windows (:class:`~msds_plugin.windows.Windows`) is evaluated in tiles, with
                ``tile="auto"`` unless the metric has another.
            saliency: (N, 1, H, W) or (N, H, W), by custom in [0, 1]; what is not above the threshold does not count. None for
                the maps that the metric makes for itself, if it was made with ``saliency``.

        Raises:
            ValueError: as the metric itself; a map with values that are not finite, or that is nowhere above the threshold.
        """
        return self._kept(self._represent(self._checked(image), saliency), image)

    def attend(self, image: Image) -> Image | None:
        """The saliency maps (N, 1, H, W) that this metric makes for itself, None if it makes none."""
        return None if self.attention is None else self.attention.maps(image, self.first_backbone)

    def _represent(self, image: Image, saliency: Image | None = None) -> Representation:
        return self._masked(image, self.attend(image) if saliency is None else saliency_maps(saliency, image))

    @abstractmethod
    def _masked(self, image: Image, maps: Image | None) -> Any:
        """The representation of images that have been checked and of their saliency maps (N, 1, H, W)."""

    def _representations_source(self) -> str:
        return f"{self.description} weights {digest(self.network)}"


class MatrixMetric(NetworkMetric[Encoder]):
    """What the metrics have in common that represent an image by matrices of feature maps.

    Args:
        views: see :class:`View`; the first one's backbone makes saliency from features.
        saliency, saliency_threshold, tile, runtime: see :class:`~msds_plugin.DeepSSIM`.

    Raises:
        ValueError: ``tile`` is no size, or the geometry of the backbone is not known; as :class:`NetworkMetric`.
    """

    matrix_kind: ClassVar[MatrixKind]
    tile: Tile

    def __init__(
        self,
        views: Sequence[View],
        saliency: Saliency = None,
        saliency_threshold: float = 0.0,
        tile: Tile = None,
        runtime: Runtime = "torch",
    ) -> None:
        pixels = int(tile) if isinstance(tile, Integral) and not isinstance(tile, bool) else 0
        if tile not in (None, "auto") and pixels < 1:
            raise ValueError(f"tile must be a number of pixels (at least 1), 'auto' or None, got {tile!r}")
        if tile is not None:
            views[0].backbone.geometry()
        smallest = max(view.backbone.smallest << abs(view.level) for view in views)
        super().__init__(Encoder(views, saliency_threshold), smallest, saliency, saliency_threshold, runtime)
        self.tile = pixels or tile

    @property
    def backbone(self) -> Backbone:
        """The feature network.

        Raises:
            ValueError: OpenVINO runs the network: nothing in it can be changed.
        """
        if self.compiled is not None:
            raise ValueError(
                "runtime='openvino' has no network to look into or to change: make the metric with runtime='torch'"
            )
        return self.first_backbone

    def forward(self, x: Image, y: Image, saliency_x: Image | None = None, saliency_y: Image | None = None) -> Tensor:
        """Scores (N,) of distorted images ``x`` beside references ``y``: ``compare(represent(x), represent(y))``."""
        if saliency_x is None and saliency_y is None:
            return super().forward(x, y)
        check_pair(x, y)
        return self.compare(self.represent(x, saliency_x), self.represent(y, saliency_y))

    def map_weights(self, layers: int) -> Tensor:
        """What the dissimilarity of each layer of each view counts for in the score, (views, layers)."""
        return torch.full((1, layers), 1 / layers, dtype=torch.float64, device="cpu")

    def _by_layer(self, a: Any, b: Any) -> Tensor:
        """Scores (views, layers, N) of Gram matrices."""
        # Level by level: what is computed on the way then stays in a processor's cache.
        return torch.stack([self._of_layers(*level) for level in zip(a.views, b.views, strict=True)])

    def _of_layers(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """Scores (layers, N)."""
        if self.matrix_kind is MatrixKind.LITE_GRAM:
            return torch.stack([global_dissimilarity(p, q) for p, q in zip(a, b, strict=True)])
        return 1 - block_dissimilarities(a, b)

    def _masked(self, image: Image, maps: Image | None) -> Representation:
        return self.of_matrices(self._matrices(image, maps))

    def _matrices(self, image: Image, maps: Image | None) -> tuple[Tensor, ...]:
        if self.compiled is not None and isinstance(image, Tensor):
            self.compiled.check(image)
        if self.tile is not None or not isinstance(image, Tensor) or not (maps is None or isinstance(maps, Tensor)):
            return self.network.in_tiles(image, maps, self.tile)
        if self.compiled is None:
            found: tuple[Tensor, ...] = self.network(image, maps)
            return found
        if maps is not None:
            self.network.masks(maps)  # compiled, it raises no errors
        return self.compiled(image, maps)

    def of_matrices(self, matrices: Sequence[Tensor]) -> Representation:
        """The representation made of what the encoder returns, of views that share a network."""
        views = len(self.network.looks)
        layers = len(matrices) // views  # of a module of the caller's own, as many as it returns
        return Matrices(self.description, tuple(tuple(matrices[i * layers : (i + 1) * layers]) for i in range(views)))
