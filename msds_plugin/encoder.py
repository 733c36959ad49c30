"""From an image to the matrices of its feature maps: of the whole image or in tiles, run by torch or by OpenVINO."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from msds_plugin.backbones import Backbone
from msds_plugin.checks import check_pair
from msds_plugin.functional import at_least_float32, covariance_matrix, gram_matrix, positions, pyramid, smooth_halve
from msds_plugin.metric import Metric, Representation, digest
from msds_plugin.runtimes import Compiled, Runtime, check_runtime
from msds_plugin.saliency import Attention, Mask, Saliency, keep, saliency_maps
from msds_plugin.tiles import Tile, check_tile, tile_sums
from msds_plugin.windows import Image, SmoothHalved, Windows, as_windows, halvings

__all__ = ["Encoder", "Matrices", "MatrixKind", "MatrixMetric", "View"]


@dataclass(frozen=True)
class MatrixKind:
    """A kind of matrix of feature maps that can also be made from sums over positions.

    Attributes:
        whole: of feature maps (N, C, h, w); more exact than sums may be.
        part: what is summed, of a part of the feature maps.
        finish: (sum, number of positions) to what ``whole`` gives.
    """

    whole: Callable[[Tensor], Tensor]
    part: Callable[[Tensor], Tensor]
    finish: Callable[[Tensor, int], Tensor]


def _mean_gram(features: Tensor) -> Tensor:
    return gram_matrix(features) / positions(features)


def _lite_gram(features: Tensor) -> Tensor:
    return gram_matrix(features) / (features.shape[1] * positions(features))


def _unchanged(gram: Tensor, _: int) -> Tensor:
    return gram


def _mean_gram_of_sums(gram: Tensor, number: int) -> Tensor:
    return gram / number


def _lite_gram_of_sums(gram: Tensor, number: int) -> Tensor:
    return gram / (gram.shape[-1] * number)


def _with_ones(features: Tensor) -> Tensor:
    """The Gram matrix (N, C + 1, C + 1) of the channels and a channel of ones: their products, their sums, their number."""
    with torch.autocast(features.device.type, enabled=False):
        wide = at_least_float32(features)
        return gram_matrix(torch.cat([wide, torch.ones_like(wide[:, :1])], 1))


def _covariance_and_mean(features: Tensor) -> Tensor:
    return torch.cat([covariance_matrix(features), at_least_float32(features).mean((2, 3)).unsqueeze(2)], 2)


def _covariance_and_mean_of_sums(sums: Tensor, _: int) -> Tensor:
    products, totals, number = sums[:, :-1, :-1], sums[:, :-1, -1:], sums[:, -1:, -1:]
    mean = totals / number
    return torch.cat([products / number - mean * mean.transpose(1, 2), mean], 2)


#: The Gram matrix itself.
GRAM = MatrixKind(gram_matrix, gram_matrix, _unchanged)
#: Divided by the number of positions.
MEAN_GRAM = MatrixKind(_mean_gram, gram_matrix, _mean_gram_of_sums)
#: Divided by the number of channels and of positions.
LITE_GRAM = MatrixKind(_lite_gram, gram_matrix, _lite_gram_of_sums)
#: Covariances of the channels, and in a last column their means, (N, C, C + 1).
COVARIANCE = MatrixKind(_covariance_and_mean, _with_ones, _covariance_and_mean_of_sums)


@dataclass(frozen=True)
class View:
    """One look at an image: a network, the level of the image pyramid that it sees, and the matrices of its feature maps.

    Attributes:
        backbone: the network.
        level: of the pyramid of 2 x 2 averages; -1 is half size after the low-pass of :func:`functional.smooth_halve`.
        kind: the matrices.
    """

    backbone: Backbone
    level: int
    kind: MatrixKind


class Encoder(nn.Module):
    """Images to one matrix for each layer of each view, flat."""

    def __init__(self, views: Sequence[View], saliency_threshold: float = 0.0) -> None:
        super().__init__()
        backbones = list(dict.fromkeys(view.backbone for view in views))
        self.backbones = nn.ModuleList(backbones)
        self.which = tuple(backbones.index(view.backbone) for view in views)
        self.levels = tuple(view.level for view in views)
        self.kinds = tuple(view.kind for view in views)
        self.saliency_threshold = saliency_threshold

    @property
    def views(self) -> list[View]:
        """The views, in order."""
        each = zip(self.which, self.levels, self.kinds, strict=True)
        return [View(self.backbones[which], level, kind) for which, level, kind in each]  # type: ignore[arg-type]

    def forward(self, image: Tensor, maps: Tensor | None = None) -> tuple[Tensor, ...]:
        """Matrices of images (N, 3, H, W); of what lies where saliency maps (N, 1, H, W) are above the threshold."""
        images = self._levels(image)
        masks = None if maps is None else [mask.to(image) for mask in self.masks(maps)]
        found = []
        for index, which in enumerate(self.which):
            features = self.backbones[which](images[index], None if masks is None else masks[index])
            found += [self.kinds[index].whole(feature) for feature in features]
        return tuple(found)

    def masks(self, maps: Tensor) -> list[Tensor]:
        """Where saliency maps are above the threshold, for each view.

        Raises:
            ValueError: of some image nothing is, or a map is not finite.
        """
        return [keep(each, self.saliency_threshold) for each in self._levels(maps)]

    def in_tiles(self, image: Image, maps: Image | None, tile: Tile) -> tuple[Tensor, ...]:
        """What :meth:`forward` returns, summed over tiles; always by torch, whose memory is known."""
        found: list[Tensor] = []
        for view in self.views:
            mask = None if maps is None else Mask(_windows(maps, view.level), self.saliency_threshold)
            sums = tile_sums(view.backbone, _windows(image, view.level), mask, tile, view.kind.part)
            if mask is not None:
                mask.check()
            found += [view.kind.finish(*each) for each in sums]
        return tuple(found)

    def _levels(self, image: Tensor) -> list[Tensor]:
        whole = pyramid(image, max(0, *self.levels) + 1)
        return [smooth_halve(image) if level < 0 else whole[level] for level in self.levels]


def _windows(image: Image, level: int) -> Windows:
    return SmoothHalved(as_windows(image)) if level < 0 else halvings(image, level + 1)[level]


@dataclass(frozen=True, eq=False)
class Matrices(Representation):
    """Matrices of feature maps: for each view, for each layer, (N, C, C)."""

    views: tuple[tuple[Tensor, ...], ...]


class MatrixMetric(Metric):
    """What the metrics have in common that represent an image by matrices of feature maps.

    Args:
        views: see :class:`View`; the first one's backbone makes saliency from features.
        saliency, saliency_threshold, tile, runtime: see :class:`~msds_plugin.DeepSSIM`.
    """

    reads_windows = True
    takes_saliency = True

    def __init__(
        self,
        views: Sequence[View],
        saliency: Saliency = None,
        saliency_threshold: float = 0.0,
        tile: Tile = None,
        runtime: Runtime = "torch",
    ) -> None:
        super().__init__()
        check_runtime(runtime)
        check_tile(tile, views[0].backbone)
        self.attention = None if saliency is None else Attention(saliency)
        self.saliency_threshold = saliency_threshold
        self.tile = tile
        self.runtime = runtime
        encoder = Encoder(views, saliency_threshold)
        self.encoder: Encoder | None = encoder if runtime == "torch" else None
        self.compiled = None if runtime == "torch" else Compiled(encoder)

    @property
    def network(self) -> Encoder:
        """The encoder as a torch module, which OpenVINO's runtime has for itself alone."""
        return self.encoder if self.compiled is None else self.compiled.module  # type: ignore[return-value]

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
        return self.network.views[0].backbone

    @property
    def smallest(self) -> int:
        """Shortest side of an image, in pixels."""
        return max(view.backbone.smallest << abs(view.level) for view in self.network.views)

    @property
    def description(self) -> str:
        """Metric, networks, layers, and how saliency is made."""
        views = dict.fromkeys(f"{view.backbone.description} level {view.level}" for view in self.network.views)
        made = "" if self.attention is None else f" saliency {self.attention.name} > {self.saliency_threshold:g}"
        return f"{self.kind} {' + '.join(views)}{made}"

    def weighted_modules(self) -> list[nn.Module]:
        """The metric itself, and the network that OpenVINO runs."""
        return [self] if self.compiled is None else [self, self.compiled.module]

    def represent(self, image: Image, saliency: Image | None = None) -> Representation:
        """The representation that :meth:`compare` needs of images (N, 3, H, W) in [0, 1].

        Args:
            image: as above. One that is read in windows (:class:`~msds_plugin.windows.Windows`) is evaluated in tiles, with
                ``tile="auto"`` unless the metric has another.
            saliency: (N, 1, H, W) or (N, H, W); the first layer's output is set to zero where it is not above the
                threshold. None for the maps that the metric makes for itself, if it was made with ``saliency``.

        Raises:
            ValueError: as the metric itself; a map with values that are not finite, or that is nowhere above the threshold.
        """
        return self._represent(self._checked(image), saliency)

    def forward(self, x: Image, y: Image, saliency_x: Image | None = None, saliency_y: Image | None = None) -> Tensor:
        """Scores (N,) of distorted images ``x`` beside references ``y``: ``compare(represent(x), represent(y))``."""
        if saliency_x is None and saliency_y is None:
            return super().forward(x, y)
        check_pair(x, y)
        return self.compare(self.represent(x, saliency_x), self.represent(y, saliency_y))

    def map_weights(self) -> list[list[float]]:
        """What the dissimilarity of each layer of each view counts for in the score."""
        return [[1 / len(view.backbone.layers)] * len(view.backbone.layers) for view in self.network.views]

    def attend(self, image: Image) -> Image | None:
        """The saliency maps (N, 1, H, W) that this metric makes for itself, None if it makes none."""
        return None if self.attention is None else self.attention.maps(image, self.network.views[0].backbone)

    def _representations_source(self) -> str:
        return f"{self.description} weights {digest(self.network)}"

    def _represent(self, image: Image, saliency: Image | None = None) -> Representation:
        maps = self.attend(image) if saliency is None else saliency_maps(saliency, image)
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
        """The representation made of what the encoder returns."""
        remaining = iter(matrices)
        views = [tuple(islice(remaining, len(view.backbone.layers))) for view in self.network.views]
        return Matrices(self.description, tuple(views))
