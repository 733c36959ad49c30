"""MSDS-Auto: one metric for any two images, which finds out by itself how the two belong together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msds_plugin.align import FULL, HALF, AlignMatrices, align_dissimilarity, half_matrices
from msds_plugin.aligned import energy_dissimilarities, place_dissimilarities
from msds_plugin.backbones import Weights, build_backbone
from msds_plugin.encoder import MatrixKind, MatrixMetric, View
from msds_plugin.functional import block_dissimilarities
from msds_plugin.haarpsi import HaarPSI
from msds_plugin.hybrid import FEW_PIXELS, STAGES
from msds_plugin.mdsi import MDSI
from msds_plugin.metric import Images, Metric, Representation
from msds_plugin.msds import MSDS
from msds_plugin.retarget import MSDSRetarget
from msds_plugin.runtimes import Runtime
from msds_plugin.tiles import Tile
from msds_plugin.windows import Image, Resized, as_windows, common_part

__all__ = ["AutoDetails", "MSDSAuto"]

LEVELS = 3
#: Below this a dissimilarity hardly counts, as in MSDS-Hybrid.
EPS = 1e-3
#: How much more the local term finds than the global one where content is aligned for sure, and where it is displaced for sure.
ALIGNED_RATIO, DISPLACED_RATIO = 3.0, 6.0
#: Side in pixels of images so small that the global term, with few positions, finds half as much beside the local one.
SMALL_SIDE = 48.0
#: Difference of the sides' scale factors, as a logarithm, up to which a pair counts as resized (or a few pixels, if these are
#: more), and by how much more as retargeted alone.
RESIZED, RAMP = 0.02, 0.04
#: What MSDS-Align finds between retargeted images that are not damaged; more than that is subtracted.
UNDAMAGED = 0.1
#: What brings the dissimilarities of MSDS-Align to the scale of MSDS-Hybrid.
ALIGN_SCALE = 1.5


def _log(dissimilarity: Tensor) -> Tensor:
    return torch.log1p(dissimilarity.clamp_min(0) / EPS)


@dataclass(frozen=True, eq=False)
class AutoMatrices(Representation):
    """Gram matrices of the stages on each level, feature maps at full size unless in tiles, and what MSDS-Align compares."""

    levels: tuple[tuple[Tensor, ...], ...]
    features: tuple[Tensor, ...]
    align: AlignMatrices


@dataclass(frozen=True, eq=False)
class AutoRepresentation(Representation):
    """Matrices of deep features, and the image for the local terms."""

    matrices: AutoMatrices
    images: Images


@dataclass(frozen=True)
class AutoDetails:
    """How pairs were judged; each (N,).

    Attributes:
        score: MSDS-Auto.
        displaced: 0 where the pair was judged as aligned, 1 where its content is displaced, between the two in between; NaN
            where it was judged as retargeted alone.
        retargeted: 0 where one of the images is at most a resized form of the other, 1 where its aspect was changed.
        hybrid: MSDS-Hybrid, of images brought to one size; NaN where it was not computed.
        align: MSDS-Align, likewise.
        retarget: MSDS-Retarget; NaN where it was not computed.
    """

    score: Tensor
    displaced: Tensor
    retargeted: Tensor
    hybrid: Tensor
    align: Tensor
    retarget: Tensor

    @property
    def regime(self) -> list[str]:
        """In a word for each pair: aligned, between, displaced or retargeted."""
        shares = zip(self.displaced.tolist(), self.retargeted.tolist(), strict=True)
        return [_word(displaced, retargeted) for displaced, retargeted in shares]

    def where(self, condition: Tensor, other: AutoDetails) -> AutoDetails:
        """The details of this judgement where ``condition`` (N,) holds, else those of the other."""
        pairs = [(getattr(self, field.name), getattr(other, field.name)) for field in fields(self)]
        return AutoDetails(*(torch.where(condition, mine, theirs) for mine, theirs in pairs))


def _word(displaced: float, retargeted: float) -> str:
    if retargeted > 0.5:
        return "retargeted"
    return "aligned" if displaced == 0 else "displaced" if displaced == 1 else "between"


class _Deep(MatrixMetric):
    """The matrices of MSDS-Fast, MSDS-Hybrid and MSDS-Align in one pass each at full and at half size."""

    kind = "msds-auto"

    def of_matrices(self, matrices: Sequence[Tensor]) -> AutoMatrices:
        """The representation made of what the encoder returns."""
        views = self.network.views
        remaining = iter(matrices)
        *levels, half = (tuple(next(remaining) for _ in view.backbone.layers) for view in views)
        align = AlignMatrices(self.description, (), half_matrices(half))
        return AutoMatrices(self.description, tuple(levels), tuple(remaining), align)

    def _compare(self, a: AutoMatrices, b: AutoMatrices) -> Tensor:
        return _global(a, b)[0]


def _global(a: AutoMatrices, b: AutoMatrices) -> tuple[Tensor, Tensor]:
    """The dissimilarities (N,) of MSDS-Fast and of MSDS in the stages of MSDS-Hybrid."""
    by_level = torch.stack([block_dissimilarities(*level) for level in zip(a.levels, b.levels, strict=True)])
    stages = [int(stage.removeprefix("stage")) for stage in STAGES]
    return by_level.mean((0, 1)), by_level[:, stages].mean((0, 1))


class MSDSAuto(Metric):
    r"""One similarity for any two images: distorted, displaced or retargeted. Full-reference, training-free, higher is better.

    How much more a local term finds than a global one tells whether the content of a pair is displaced:

    .. math:: \rho = \frac{1 - \mathrm{HaarPSI}}{1 - \mathrm{MSDS}}, \qquad
        w = \operatorname{clip}\Big( \frac{\log \rho - \log 3 s}{\log 6 s - \log 3 s}, 0, 1 \Big),
        \qquad s = 1 + \frac{48^2}{HW}.

    Aligned pairs (w = 0) are judged by MSDS-Hybrid, displaced ones (w = 1) by MSDS-Align, and what is between by a mean on the
    logarithmic scale :math:`L(d) = \log(1 + d / 10^{-3})`:

    .. math:: 1 - L^{-1}\big( (1 - w)\, L(1 - \text{hybrid}) + w\, L(\tfrac32 (1 - \text{align})) \big).

    The part of MSDS-Hybrid that compares features place by place counts (1 - w)/2 there in place of 1/2: displaced content
    differs place by place whatever its quality.

    The thresholds are higher for small images, whose Gram matrices are sums over few positions. A resized image is brought to
    the size of the reference (one whose sides differ by up to eight pixels is also cropped, and the better score counts). Where
    the aspect was changed the score is that of MSDS-Retarget, less what MSDS-Align finds beyond 0.1, which damage causes and
    retargeting does not. 1 for identical images, at most 1, at least -2.

    Args:
        weights: ``"imagenet"`` (they come with a package, nothing is downloaded), a path, or None for random values.
        tile, runtime: see :class:`~msds_plugin.DeepSSIM`.

    Shape:
        x, y: (N, 3, H, W), RGB in [0, 1], 64 pixels a side at least; the sizes of x and y may differ. Returns (N,). Images
        larger than memory may be given as :class:`~msds_plugin.windows.Windows`.

    Raises:
        ValueError: values outside [0, 1], an image too small, batches of different length.
        TypeError: not floating point, or x and y of different types.
        WeightsFileError, MissingDependencyError: see :func:`~msds_plugin.build_backbone`.

    Source: this project; its parts are those of :class:`~msds_plugin.MSDS`, :func:`~msds_plugin.hybrid.msds_hybrid`,
    :class:`~msds_plugin.MSDSAlign` and :class:`~msds_plugin.MSDSRetarget`.

    Example:
        >>> metric = MSDSAuto(weights=None)
        >>> y = torch.rand(1, 3, 64, 96)
        >>> metric(y, y)
        tensor([1.])
        >>> metric.details(y, y).regime
        ['aligned']
    """

    kind = "msds-auto"
    reads_windows = True
    has_map = True

    def __init__(self, weights: Weights = "imagenet", tile: Tile = None, runtime: Runtime = "torch") -> None:
        super().__init__()
        network = build_backbone("efficientnet_lite0", None, weights)
        views = [View(network, level, MatrixKind.GRAM, () if level else STAGES) for level in range(LEVELS)]
        self.deep = _Deep([*views, View(network.tapped(list(HALF)), -1, MatrixKind.COVARIANCE)], tile=tile, runtime=runtime)
        self.haarpsi = HaarPSI(self.deep.tile if isinstance(self.deep.tile, int) else None)
        self.mdsi = MDSI()
        self.retarget = MSDSRetarget(runtime=runtime, backbone=network)

    @property
    def smallest(self) -> int:
        """Shortest side of an image, in pixels."""
        return self.deep.smallest

    @property
    def description(self) -> str:
        """Metric, network and layers."""
        return self.deep.description

    def weighted_modules(self) -> list[nn.Module]:
        """Itself, and the network that OpenVINO runs."""
        return [self, *self.deep.weighted_modules()[1:]]

    def details(self, x: Image, y: Image) -> AutoDetails:
        """The scores and how they came about, of distorted images ``x`` beside references ``y``."""
        self._check_images(x, y)
        return self._details(*(self._represent(self._ready(image, name)) for image, name in ((x, "x"), (y, "y"))))

    def map(self, x: Image, y: Image) -> Tensor:
        """Where the deep features of two images of one size differ, (N, 1, H, W): the map of its part MSDS-Fast.

        It sums to the dissimilarity of that part; see :func:`msds_plugin.maps.dissimilarity_map`.
        """
        if self.deep.compiled is not None:  # which takes any type, and whose network is in float32
            x, y = (image.float() if isinstance(image, Tensor) else image for image in (x, y))
        return MSDS(LEVELS, backbone=self.deep.first_backbone, tile=self.deep.tile).map(x, y)

    def _representations_source(self) -> str:
        return self.deep._representations_source()

    def _represent(self, image: Image) -> AutoRepresentation:
        return AutoRepresentation(self.description, self._matrices(image), Images(self.description, image))

    def _compare(self, a: AutoRepresentation, b: AutoRepresentation) -> Tensor:
        return self._details(a, b).score

    def _details(self, a: AutoRepresentation, b: AutoRepresentation) -> AutoDetails:
        x, y = self._images(a.images, b.images)
        if x.shape[-2:] == y.shape[-2:]:
            return self._of_one_size(x, y, a.matrices, b.matrices)
        mismatch = abs(math.log(x.shape[-2] * y.shape[-1] / (x.shape[-1] * y.shape[-2])))
        resized_until = max(RESIZED, FEW_PIXELS / min(y.shape[-2:]))
        share = min(max((mismatch - resized_until) / RAMP, 0.0), 1.0)
        few = max(abs(p - q) for p, q in zip(x.shape[-2:], y.shape[-2:], strict=True)) <= FEW_PIXELS
        if not few and share == 1:
            return self._retargeted(x, y, a.matrices, b.matrices)
        resized = self._of_pair(_resized(x, y), y)
        if few:
            cropped = self._of_pair(*common_part(x, y))
            return cropped.where(cropped.score >= resized.score, resized)
        if share == 0:
            return resized
        retargeted = self._retargeted(x, y, a.matrices, b.matrices)
        score = torch.lerp(resized.score, retargeted.score.to(resized.score.dtype), share)
        return replace(resized, score=score, retargeted=torch.full_like(score, share), retarget=retargeted.retarget)

    def _of_pair(self, x: Image, y: Image) -> AutoDetails:
        return self._of_one_size(x, y, self._matrices(x), self._matrices(y))

    def _matrices(self, image: Image) -> AutoMatrices:
        return cast(AutoMatrices, self.deep._represent(image))

    def _of_one_size(self, x: Image, y: Image, a: AutoMatrices, b: AutoMatrices) -> AutoDetails:
        everywhere, as_a_whole = _global(a, b)
        if a.features and b.features:
            by_place = energy_dissimilarities(a.features, b.features)
        else:
            stages = self.deep.first_backbone.tapped(list(STAGES))
            by_place = place_dissimilarities(stages, self.deep.tile, x, y)
        local = 1 - self.haarpsi._score(x, y)
        deviation = self.mdsi._score(x, y).square().square()

        def hybrid(share: Tensor | float) -> Tensor:
            deep = as_a_whole + share * (by_place.mean(0) - as_a_whole)
            return (2 * _log(deep) + _log(local) + _log(deviation)) / 4

        align = self._align(a, b, x.shape, y.shape)
        ratio = (local / everywhere.clamp_min(1e-6)).clamp_min(1e-6)
        aligned = ALIGNED_RATIO * (1 + SMALL_SIDE**2 / (x.shape[-2] * x.shape[-1]))
        displaced = ((ratio / aligned).log() / math.log(DISPLACED_RATIO / ALIGNED_RATIO)).clamp(0, 1)
        # Displaced content differs place by place whatever its quality: that share goes out as displacement grows.
        # OpenVINO's features are float32 beside images in double precision.
        found = torch.lerp(hybrid((1 - displaced) / 2), _log(ALIGN_SCALE * align).to(displaced.dtype), displaced)
        score = 1 - EPS * torch.expm1(found)
        none = torch.full_like(score, math.nan)
        return AutoDetails(score, displaced, torch.zeros_like(score), 1 - EPS * torch.expm1(hybrid(0.5)), 1 - align, none)

    def _retargeted(self, x: Image, y: Image, a: AutoMatrices, b: AutoMatrices) -> AutoDetails:
        retarget = self.retarget._score(x, y)
        align = self._align(a, b, x.shape, y.shape)
        score = (retarget - (align - UNDAMAGED).clamp_min(0)).clamp_min(-2)
        none = torch.full_like(score, math.nan)
        return AutoDetails(score, none, torch.ones_like(score), none, 1 - align, retarget)

    def _align(self, a: AutoMatrices, b: AutoMatrices, size_a: Sequence[int], size_b: Sequence[int]) -> Tensor:
        """The dissimilarity of MSDS-Align, whose Gram matrices at full size are divided by the number of positions."""
        sides = [
            AlignMatrices(
                "", tuple(matrices.levels[0][stage] / _positions(stage, size) for stage in _FULL_STAGES), matrices.align.half
            )
            for matrices, size in ((a, size_a), (b, size_b))
        ]
        return align_dissimilarity(*sides)


_FULL_STAGES = [int(stage.removeprefix("stage")) for stage in FULL]


def _positions(stage: int, size: Sequence[int]) -> int:
    stride = 2 << stage
    return -(-size[-2] // stride) * -(-size[-1] // stride)


def _resized(x: Image, y: Image) -> Image:
    """Images in the size of others, bicubic, with a low-pass where they shrink."""
    height, width = y.shape[-2:]
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return F.interpolate(x, (height, width), mode="bicubic", antialias=True).clamp(0, 1)
    return Resized(as_windows(x), (height, width))
