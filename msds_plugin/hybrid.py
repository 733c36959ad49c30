"""Several full-reference metrics as one score, and MSDS-Hybrid, which is that of MSDS, HaarPSI and MDSI.

>>> from msds_plugin.hybrid import MDSI, HaarPSI, Hybrid, Term
>>> metric = Hybrid([Term(HaarPSI()), Term(MDSI(), dissimilarity=None, scale=0.35)])
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor, nn

from msds_plugin.aligned import AlignedMSDS
from msds_plugin.backbones import Weights
from msds_plugin.functional import at_least_float32
from msds_plugin.fusion_file import FusionFile, FusionFileError, FusionTarget, level_parts
from msds_plugin.haarpsi import HaarPSI
from msds_plugin.mdsi import MDSI
from msds_plugin.metric import Images, Metric, PairMetric, Representation
from msds_plugin.msds import CallableMetric, Fusion, MultiScale, PyramidMetric, as_weights, target_of
from msds_plugin.runtimes import Runtime
from msds_plugin.tiles import Tile
from msds_plugin.windows import Image, common_part

__all__ = ["MDSI", "HaarPSI", "Hybrid", "Term", "from_similarity", "msds_hybrid"]

#: A pair may differ by so many pixels in height and width, as the results of super-resolution do from their reference.
FEW_PIXELS = 8


def from_similarity(score: Tensor) -> Tensor:
    """One minus a similarity whose best value is 1: the dissimilarity that a :class:`Term` needs of most metrics."""
    return 1 - score


@dataclass(frozen=True)
class Term:
    """A metric as a part of a :class:`Hybrid`.

    Attributes:
        metric: (distorted, reference), each (N, 3, H, W), to (N,), (N, 1) or, for one pair, a scalar.
        dissimilarity: a monotone map of its score to a number that is 0 for a perfect image and larger for worse ones; the
            score itself if that is one already (``None``). What falls below 0 counts as 0.
        scale: by how much the logarithm of the dissimilarity varies over images of all qualities. The terms are divided by
            it, so that equal weights mean equal influence.
        weight: of this term, beside the others'.

    Raises:
        ValueError: a scale that is not above 0, a negative weight, or a metric of which lower is better taken for a similarity.
    """

    metric: Callable[[Tensor, Tensor], Tensor]
    dissimilarity: Callable[[Tensor], Tensor] | None = from_similarity
    scale: float = 1.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.scale < math.inf and 0 <= self.weight < math.inf):
            raise ValueError(f"a term needs a scale above 0 and a weight of 0 or more, got {self.scale} and {self.weight}")
        if self.module.lower_is_better and self.dissimilarity is from_similarity:
            raise ValueError(f"{_title(self.module)} is no similarity: lower is better, so give dissimilarity=None")

    def found(self, score: Tensor) -> Tensor:
        """The dissimilarity that a score of the metric stands for, at least 0."""
        return (score if self.dissimilarity is None else self.dissimilarity(score)).clamp_min(0)

    @property
    def module(self) -> Metric:
        """The metric by the one interface."""
        return self.metric if isinstance(self.metric, Metric) else CallableMetric(self.metric)

    @property
    def pyramid(self) -> PyramidMetric | None:
        """The metric on a pyramid whose levels and layers have dissimilarities that add up to the term's own, if it is one."""
        adds_up = self.dissimilarity in (from_similarity, None)
        return self.metric if adds_up and isinstance(self.metric, PyramidMetric) else None


@dataclass(frozen=True, eq=False)
class TermRepresentations(Representation):
    """The representations by the terms that compare representations, and the images where some term compares these."""

    parts: tuple[Representation, ...]
    images: Images | None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images or self.parts[0])


class Hybrid(Metric):
    r"""One score of several full-reference metrics. Higher is better, 1 for identical images and never above.

    Each metric gives a dissimilarity :math:`d_i \ge 0`. They meet on a logarithmic scale, :math:`\log(1 + d_i/\varepsilon) /
    \sigma_i`, are averaged with weights there, and brought back:

    .. math:: 1 - \varepsilon \Big( \exp\Big[\sum_i a_i \log(1 + d_i/\varepsilon)\Big] - 1 \Big), \qquad
        a_i = \frac{w_i/\sigma_i}{\sum_j w_j/\sigma_j},

    which is one minus the geometric mean of the :math:`d_i + \varepsilon` with exponents :math:`a_i`, less
    :math:`\varepsilon`. Nothing is computed from the images but the :math:`d_i`.

    Where a metric compares pixel by pixel, so does the hybrid. Pairs that then differ by up to eight pixels in height or width
    are cropped to the part that they share at the top left, which is said once.

    Args:
        terms: the metrics. Modules among them move with the hybrid.
        eps: below this a dissimilarity hardly counts, so that one term that sees no difference cannot outvote the others.
        fusion: in place of the terms' own weights one for each term, for each level of those on a pyramid, or for each layer on
            each level, in the order of :meth:`parts`; or the path of a file that ``msds fit`` wrote.

    Shape:
        x, y: (N, 3, H, W), RGB in [0, 1]. Returns (N,).

    Raises:
        FusionFileError: a file of weights that is damaged, or for another metric.
        ValueError: no terms, no weight above 0, ``eps`` not above 0, another number of weights; images that differ more in
            size, values outside [0, 1], a term that returns another number of scores; and what the terms raise.
        TypeError: not floating point, or x and y of different types.

    Example:
        >>> from msds_plugin.hybrid import MDSI, HaarPSI, Term
        >>> metric = Hybrid([Term(HaarPSI()), Term(MDSI(), dissimilarity=None, scale=0.35)])
        >>> x = torch.rand(2, 3, 32, 32)
        >>> metric(x, x)
        tensor([1., 1.])
    """

    kind = "hybrid"
    reads_windows = True
    exponents: Tensor

    def __init__(self, terms: Sequence[Term], eps: float = 1e-3, fusion: Fusion = None, name: str | None = None) -> None:
        super().__init__()
        if not terms:
            raise ValueError("a hybrid needs at least one term")
        if not 0 < eps < math.inf:
            raise ValueError(f"eps must be above 0, got {eps}")
        self.terms = tuple(replace(term, metric=term.module) for term in _weighted(terms, fusion))
        self.eps = eps
        self.name = name
        self.metrics = nn.ModuleList(term.module for term in self.terms)
        with torch.inference_mode(False):  # what is made in inference mode would give no gradients later
            exponents = as_weights([term.weight / term.scale for term in self.terms])
            self.register_buffer("exponents", exponents.to(torch.get_default_dtype()))
        self._cropped_before = False

    @property
    def target(self) -> FusionTarget:
        """What files of weights for it are for: the names of the metrics, and the first feature network of ours."""
        targets = [
            term.module.target if isinstance(term.module, PyramidMetric) else target_of(term.module) for term in self.terms
        ]
        network = next((target for target in targets if target.backbone), FusionTarget(""))
        return FusionTarget(f"hybrid({', '.join(target.base for target in targets)})", network.backbone, network.layers)

    @property
    def smallest(self) -> int:
        """Shortest side of an image, in pixels."""
        return max(term.module.smallest for term in self.terms)

    @property
    def is_aligned(self) -> bool:
        """Whether a term compares the images pixel by pixel, so that their sizes must agree."""
        return any(_compares_images(term.module) for term in self.terms)

    @property
    def description(self) -> str:
        """The name, and what the terms are."""
        return f"{self.name or self.kind}({'; '.join(term.module.description for term in self.terms)})"

    def source(self) -> str:
        """All that scores depend on but the images."""
        maps = ", ".join(str(getattr(term.dissimilarity, "__qualname__", term.dissimilarity)) for term in self.terms)
        return f"{super().source()} eps {self.eps:g} of {maps}"

    def _representations_source(self) -> str:
        return "; ".join(term.module._representations_source() for term in self.terms)

    def weighted_modules(self) -> list[nn.Module]:
        """Itself, and what its terms hide from torch."""
        return [self, *(module for term in self.terms for module in term.module.weighted_modules()[1:])]

    def parts(self, per_layer: bool = False) -> list[list[str]]:
        """By term, the names of what can have a weight: levels, with ``per_layer`` each layer on each; or the term itself."""
        return _part_names(self.terms, per_layer)

    def part_weights(self, per_layer: bool = False) -> list[list[float]]:
        """The weights of :meth:`parts`, all together summing to one."""
        whole = sum(term.weight for term in self.terms)
        shares = [term.pyramid.part_weights(per_layer).flatten().tolist() if term.pyramid else [1.0] for term in self.terms]
        return [[term.weight / whole * each for each in share] for term, share in zip(self.terms, shares, strict=True)]

    def dissimilarities(self, x: Image, y: Image) -> Tensor:
        """What each term finds, (N, terms), 0 where it sees no difference."""
        x, y = self._alike(self._checked(x), self._checked(y))
        return self._dissimilarities([term.module._score(x, y) for term in self.terms], x.shape[0])

    def part_dissimilarities(self, x: Image, y: Image, per_layer: bool = False) -> list[Tensor]:
        """By term, what each of its :meth:`parts` finds, (N, parts); the term's own is their mean by :meth:`part_weights`."""
        x, y = self._alike(self._checked(x), self._checked(y))
        found = []
        for term in self.terms:
            one = term.module._score(x, y).reshape(-1, 1) if term.pyramid is None else term.pyramid.part_scores(x, y, per_layer)
            found.append(term.found(one))
        return found

    def fuse(self, dissimilarities: Tensor) -> Tensor:
        """Scores (N,) of what the terms found, (N, terms)."""
        exponents = self.exponents.to(dissimilarities)
        logs = (torch.log1p(dissimilarities / self.eps) * exponents).masked_fill(exponents == 0, 0)  # what is not finite too
        return 1 - self.eps * torch.expm1(logs.sum(-1))

    def _represent(self, image: Image) -> TermRepresentations:
        parts = tuple(term.module._represent(image) for term in self.terms if not _compares_images(term.module))
        return TermRepresentations(self.description, parts, Images("image", image) if self.is_aligned else None)

    def _compare(self, a: TermRepresentations, b: TermRepresentations) -> Tensor:
        images = () if a.images is None or b.images is None else self._images(a.images, b.images)
        if images and images[0].shape[-2:] != images[1].shape[-2:]:
            return self._score(*images)  # the parts are those of the whole images, not of what they share
        parts = iter(zip(a.parts, b.parts, strict=True))
        scores = [
            term.module._score(*images) if _compares_images(term.module) else term.module._compare(*next(parts))
            for term in self.terms
        ]
        return self.fuse(self._dissimilarities(scores, max(len(a), len(b))))

    def _score(self, x: Image, y: Image) -> Tensor:
        x, y = self._alike(x, y)
        return self.fuse(self._dissimilarities([term.module._score(x, y) for term in self.terms], x.shape[0]))

    def _dissimilarities(self, scores: Sequence[Tensor], number: int) -> Tensor:
        columns = []
        for term, score in zip(self.terms, scores, strict=True):
            if score.numel() != number:
                name = term.module.description
                raise ValueError(f"{name} returned shape {tuple(score.shape)} for {number} images: one score each is needed")
            columns.append(term.found(score.reshape(-1)))
        # Windows are read into the memory of the CPU, wherever the networks are.
        place = columns[0].device
        return torch.stack([at_least_float32(column).to(place) for column in columns], -1)

    def _alike(self, x: Image, y: Image) -> tuple[Image, Image]:
        """Both images, cropped to what they share if their sizes differ by a few pixels and a term needs one size."""
        sizes = [tuple(image.shape[-2:]) for image in (x, y)]
        if sizes[0] == sizes[1] or not self.is_aligned:
            return x, y
        first, second = (f"{height} x {width}" for height, width in sizes)
        if any(abs(p - q) > FEW_PIXELS for p, q in zip(*sizes, strict=True)):
            raise ValueError(
                f"x has {first} pixels and y {second}: a hybrid compares images that lie on each other pixel by pixel. Take a "
                "metric that needs no alignment: msds-align where content is displaced, msds-retarget where it was cropped or "
                "retargeted, msds-fast for any two sizes"
            )
        x, y = common_part(x, y)
        if not self._cropped_before:
            height, width = x.shape[-2:]
            warnings.warn(
                f"x has {first} pixels and y {second}: their common {height} x {width} pixels at the top left are compared "
                "(said once)",
                stacklevel=2,
            )
            self._cropped_before = True
        return x, y


def _compares_images(metric: Metric) -> bool:
    inner = metric.metric if isinstance(metric, MultiScale) else metric
    return isinstance(inner, PairMetric)


def _title(metric: Callable[[Tensor, Tensor], Tensor]) -> str:
    return metric.description if isinstance(metric, CallableMetric) else type(metric).__qualname__


def _part_names(terms: Sequence[Term], per_layer: bool = False) -> list[list[str]]:
    """The names of the parts of each term: its levels, each layer on each level, or the term itself."""
    titles = [_title(term.module) for term in terms]
    titles = [f"{title} {titles[:i].count(title) + 1}" if titles.count(title) > 1 else title for i, title in enumerate(titles)]
    found = []
    for title, term in zip(titles, terms, strict=True):
        pyramid = term.pyramid
        parts = level_parts(pyramid.levels, pyramid.layers if per_layer else ()) if pyramid else [""]
        found.append([f"{title} {part}".strip() for part in parts])
    return found


def _weighted(terms: Sequence[Term], fusion: Fusion) -> list[Term]:
    """The terms with other weights, one for each term, for each of their levels, or for each layer on each level.

    Raises:
        FusionFileError: a file of weights that is damaged, or for another metric.
        ValueError: another number of weights, a negative one, or none above zero.
    """
    if fusion is None:
        return list(terms)
    plain = [[name.partition(" level")[0]] for name, *_ in _part_names(terms)]
    known = [plain, _part_names(terms), _part_names(terms, True)]
    every = ", ".join(chain(*known[-1]))
    if isinstance(fusion, str | os.PathLike):
        file = FusionFile.load(fusion)
        file.check_target(Hybrid(terms).target, fusion)
        weights = as_weights(file.weights)
        fitting = [names for names in known if file.parts == tuple(chain(*names))]
        if not fitting:
            raise FusionFileError(
                f"{fusion} holds fusion weights for {file.metric} ({file.target}): "
                f"{', '.join(file.parts) or f'{file.levels} levels'}; this hybrid has {every}"
            )
    else:
        weights = as_weights(fusion)
        fitting = [names for names in known if sum(map(len, names)) == len(weights)]
        if not fitting:
            counts = " or ".join(str(n) for n in dict.fromkeys(sum(map(len, names)) for names in known))
            raise ValueError(f"fusion has {len(weights)} weights: this hybrid takes {counts}, for {every}")
    parts = weights.split([len(names) for names in fitting[0]])
    found = []
    for term, part in zip(terms, parts, strict=True):
        whole, metric = float(part.sum()), term.module
        weighted = metric.weighted(part) if len(part) > 1 and whole and isinstance(metric, PyramidMetric) else metric
        found.append(replace(term, metric=weighted, weight=whole))
    return found


BACKBONE = "efficientnet_lite0"
#: The first stage agrees least with opinions; the last takes a third of all operations, sees a whole small image from every
#: position and makes the score of small images waver.
STAGES = ("stage1", "stage2", "stage3")


def _mean_deviation(score: Tensor) -> Tensor:
    """MDSI before its last root."""
    return score.square().square()


def msds_hybrid(
    weights: Weights = "imagenet",
    tile: Tile = None,
    fusion: Fusion = None,
    levels: int | None = None,
    layers: str | Sequence[str] | None = None,
    runtime: Runtime = "torch",
) -> Hybrid:
    r"""MSDS-Hybrid: deep structure and deep features, HaarPSI and MDSI. Full-reference, higher is better.

    One minus the geometric mean of dissimilarities, of which the first counts twice (:class:`Hybrid` with
    :math:`\varepsilon = 10^{-3}`):

    - 1 - :class:`~msds_plugin.aligned.AlignedMSDS` on three levels, of EfficientNet-Lite0's stages 1 to 3: half of it is
      MSDS, half the difference of the features place by place;
    - 1 - HaarPSI;
    - MDSI before its last root, the mean deviation itself.

    1 for identical images, at most 1, at least -1. Nothing is trained on opinion scores.

    Args:
        weights: of the backbone, see :func:`~msds_plugin.build_backbone`.
        tile: of MSDS, see :class:`~msds_plugin.DeepSSIM`; a number of pixels also cuts the sums of HaarPSI.
        fusion: weights of the three terms, of their levels too, or of each layer on each level, see :class:`Hybrid`; the path
            of a file that ``msds fit`` wrote; None for those above.
        levels, layers: of MSDS; None for those of the file, or without one for those above.
        runtime: of MSDS, see :class:`~msds_plugin.DeepSSIM`.

    Shape:
        x, y: (N, 3, H, W), RGB in [0, 1], of 64 x 64 pixels at least, lying on each other pixel by pixel; a difference of up
        to eight pixels in size is cropped. Returns (N,).

    Raises:
        FusionFileError: a file of weights that is damaged, or for another metric.
        ValueError: sizes that differ more, images too small, values outside [0, 1]; another number of weights.
        TypeError: not floating point, or x and y of different types.
        WeightsNotFoundError, WeightsFileError, MissingDependencyError: see :func:`~msds_plugin.build_backbone`.

    Example:
        >>> import torch
        >>> metric = msds_hybrid(weights=None)
        >>> x = torch.rand(2, 3, 64, 80)
        >>> metric(x, x)
        tensor([1., 1.])
    """
    file = FusionFile.load(fusion) if isinstance(fusion, str | os.PathLike) else None
    levels = (file.levels if file else 3) if levels is None else levels
    layers = (file.target.layers if file else STAGES) if layers is None else layers
    deep = AlignedMSDS(levels, backbone=BACKBONE, weights=weights, layers=layers, tile=tile, runtime=runtime)
    return Hybrid(
        [
            Term(deep, weight=2.0),
            Term(HaarPSI(deep.tile if isinstance(deep.tile, int) else None)),
            Term(MDSI(), _mean_deviation),
        ],
        fusion=fusion,
        name="msds-hybrid",
    )
