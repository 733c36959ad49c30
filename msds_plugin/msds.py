"""A pyramid around a metric, and MSDS, which is that around DeepSSIM."""

from __future__ import annotations

import copy
import operator
import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msds_plugin.backbones import Weights, build_backbone
from msds_plugin.checks import check_batches, check_has_values, too_small
from msds_plugin.deepssim import DeepSSIM, DeepSSIMLite, GramMetric
from msds_plugin.encoder import Matrices, MatrixKind, MatrixMetric, View
from msds_plugin.functional import fuse, pyramid
from msds_plugin.fusion_file import FusionFile, FusionFileError, FusionTarget
from msds_plugin.local import LocalMetric
from msds_plugin.metric import Metric, PairMetric, Representation
from msds_plugin.runtimes import Runtime
from msds_plugin.saliency import Saliency
from msds_plugin.tiles import Tile
from msds_plugin.windows import Image, Windows, halvings

__all__ = ["MSDS", "CallableMetric", "Fusion", "MSDSLite", "MultiScale", "PyramidMetric", "as_weights", "target_of"]

#: Weights, the path of a file of them, or None for equal ones.
Fusion: TypeAlias = Sequence[float] | Tensor | str | os.PathLike[str] | None

P = TypeVar("P", bound="PyramidMetric")

#: A side in pixels that no metric known to us finds too small (the largest demand is 161, of the five-scale SSIMs).
_LARGE = 512


def target_of(metric: object) -> FusionTarget:
    """What fusion weights learned on a pyramid around ``metric`` are for: its kind, or the name of its class or function."""
    if isinstance(metric, MatrixMetric):
        return FusionTarget(metric.kind, metric.first_backbone.name, metric.first_backbone.layers)
    if isinstance(metric, Metric) and not isinstance(metric, LocalMetric):
        return FusionTarget(metric.description)
    return FusionTarget(_name(metric))


def _name(metric: object) -> str:
    metric = metric.func if isinstance(metric, partial) else metric
    named = type(metric) if isinstance(metric, nn.Module) else metric
    # pyiqa's metrics are of one class, and have a name each.
    return str(getattr(metric, "metric_name", getattr(named, "__qualname__", type(metric).__qualname__)))


class CallableMetric(PairMetric):
    """Any module or function of (distorted, reference) as a :class:`Metric`.

    What images it takes (channels, range of values, smallest size) is its own affair.

    Args:
        metric: returns (N,), (N, 1) or a scalar.
        name: for descriptions; None for the name of its class or function.
    """

    def __init__(self, metric: Callable[[Tensor, Tensor], Tensor], name: str | None = None) -> None:
        super().__init__()
        self.metric = metric
        self.name = name or _name(metric)
        # Losses are made from torch's, as piq's are; metrics of pyiqa and torchmetrics say their direction.
        is_loss = any(kind.__module__ == nn.L1Loss.__module__ for kind in type(metric).__mro__)
        lower = getattr(metric, "higher_is_better", not is_loss) is False
        self.lower_is_better = bool(getattr(metric, "lower_better", lower))

    @property
    def description(self) -> str:
        """The name."""
        return self.name

    def _check_images(self, *images: Image) -> None:
        for image, name in zip(images, ("x", "y") if len(images) > 1 else ("the image",), strict=True):
            if isinstance(image, Windows) and not isinstance(image, Tensor):
                raise TypeError(f"{self.description} needs whole images as tensors, it cannot read them in windows")
            if not isinstance(image, Tensor) or image.dim() != 4 or not image.is_floating_point():
                shape = f"{tuple(image.shape)} of {image.dtype}" if isinstance(image, Tensor) else type(image).__name__
                raise ValueError(f"{name} must be a floating-point batch of images (N, C, H, W), got {shape}")
            if image.numel() == 0:
                raise ValueError(f"{name} is an empty batch: {tuple(image.shape)}")
            check_has_values(image, name)
        if len(images) > 1:
            check_batches(*images)

    def _ready(self, image: Image, name: str) -> Image:
        return image

    def _score(self, x: Image, y: Image) -> Tensor:
        return scores_of(self.metric(x, y), x.shape[0])  # type: ignore[arg-type]


def scores_of(found: Any, number: int) -> Tensor:
    """What a metric returned for so many images, as (N,), or the scalar that it is; a ValueError for anything else."""
    if not isinstance(found, Tensor):
        raise ValueError(f"the metric returned {type(found).__name__}, not a tensor of scores")
    if found.dim() and found.numel() != number:
        raise ValueError(f"the metric returned shape {tuple(found.shape)} for {number} images: one score each is needed")
    return found.reshape(-1) if found.dim() else found


def check_levels(levels: int) -> int:
    """The number of pyramid levels as an int.

    Raises:
        TypeError: not a whole number (``True`` is none).
        ValueError: below 1.
    """
    try:
        number = operator.index(levels)
    except TypeError:
        number = None
    if number is None or isinstance(levels, bool):
        raise TypeError(f"levels must be a whole number of at least 1, got {levels!r}")
    if number < 1:
        raise ValueError(f"levels must be at least 1, got {levels}")
    return number


def as_weights(fusion: Sequence[float] | Tensor) -> Tensor:
    """Weights as a float64 tensor (weights,) that sums to one.

    Raises:
        ValueError: no numbers, a negative or non-finite one, or none above zero.
    """
    try:
        weights = torch.as_tensor(fusion, dtype=torch.float64, device="cpu").detach().flatten()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"fusion must be numbers, one weight for each level, got {fusion!r}") from error
    if not weights.isfinite().all() or (weights < 0).any() or weights.sum() == 0:
        raise ValueError(f"fusion weights must be finite and non-negative with a positive sum, got {weights.tolist()}")
    return weights / weights.sum()


def split_fusion(
    fusion: Sequence[float] | Tensor | None, levels: int, layers: Sequence[str] = ()
) -> tuple[Tensor, Tensor | None]:
    """Weights of the levels (levels,), and those of the layers within each (levels, layers); both sum to one.

    Args:
        fusion: one weight per level, or one per layer on each level, level 0 first; None for equal ones.
        levels: their number.
        layers: names of the layers; with fewer than two there are no weights of layers.

    Raises:
        ValueError: another number of weights, and as :func:`as_weights`.
    """
    weights = as_weights([1.0] * levels if fusion is None else fusion)
    if len(weights) == levels:
        return weights, None
    if len(layers) < 2 or len(weights) != levels * len(layers):
        raise ValueError(
            f"fusion has {len(weights)} weights for {levels} levels: pass levels={len(weights)} or {levels} weights"
        )
    cells = weights.view(levels, -1)
    of_levels = cells.sum(1)
    unused = (of_levels == 0).unsqueeze(1)  # a level of no weight: its layers do not matter
    return of_levels, cells.masked_fill(unused, 1 / len(layers)) / of_levels.unsqueeze(1).masked_fill(unused, 1)


class PyramidMetric(Metric):
    """What the metrics on an image pyramid have in common: one weight per level, by which the levels' scores are fused."""

    fusion_logits: nn.Parameter | None
    fusion_weights: Tensor | None
    layer_weights: Tensor | None

    def _set_fusion(self, fusion: Fusion, learn_fusion: bool = False) -> None:
        if isinstance(fusion, str | os.PathLike):
            fusion = FusionFile.load(fusion).weights_for(self.target, self.levels, self.layers, fusion)
        dtype = torch.get_default_dtype()
        with torch.inference_mode(False):  # what is made in inference mode would give no gradients later
            weights, by_layer = split_fusion(fusion, self.levels, self.layers)
            if learn_fusion and not weights.all():
                raise ValueError(f"a weight of zero cannot be learned as a softmax logit, got {weights.tolist()}")
            self.register_buffer("layer_weights", None if by_layer is None else by_layer.to(dtype))
            self.register_parameter("fusion_logits", nn.Parameter(weights.log().to(dtype)) if learn_fusion else None)
            self.register_buffer("fusion_weights", None if learn_fusion else weights.to(dtype))

    @property
    def fusion(self) -> Tensor:
        """The weights of the levels, (levels,), summing to one."""
        if self.fusion_logits is not None:
            return self.fusion_logits.softmax(0)
        assert self.fusion_weights is not None  # one of the two always is
        return self.fusion_weights

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that can have weights of their own; none for metrics that are not ours."""
        return ()

    @property
    @abstractmethod
    def target(self) -> FusionTarget:
        """What files of weights for it are for."""

    def weighted(self: P, fusion: Fusion) -> P:
        """The same metric with other weights; they share the network."""
        other = copy.deepcopy(self, {id(module): module for module in self.children()})
        other._set_fusion(fusion)
        return other

    @abstractmethod
    def compare_levels(self, a: Any, b: Any) -> Tensor:
        """Scores of each level alone, (N, levels), before they are fused."""

    def level_scores(self, x: Image, y: Image) -> Tensor:
        """Scores of each level alone, (N, levels), before they are fused; (levels,) where the metric returns a scalar."""
        return self.compare_levels(self.represent(x), self.represent(y))

    def part_weights(self, per_layer: bool = False) -> Tensor:
        """What each level counts for, (levels, 1), or each layer on each level, (levels, layers); all together one, float64."""
        levels = self.fusion.detach().double().cpu().unsqueeze(1)
        if not (per_layer and self.layers):
            return levels
        if self.layer_weights is None:
            return (levels / len(self.layers)).expand(-1, len(self.layers))
        return levels * self.layer_weights.double().cpu()

    def part_scores(self, x: Image, y: Image, per_layer: bool = False) -> Tensor:
        """Scores of each level alone, (N, levels), or of each layer on each level, (N, levels * layers)."""
        return self.level_scores(x, y)

    def _compare(self, a: Any, b: Any) -> Tensor:
        return fuse(self.compare_levels(a, b), self.fusion)


@dataclass(frozen=True, eq=False)
class Levels(Representation):
    """The representations of an image on each level, by the metric on the pyramid."""

    parts: tuple[Representation, ...]


class MultiScale(PyramidMetric):
    r"""Any full-reference metric on an image pyramid, its per-level scores fused with one weight per level.

    .. math:: \sum_l w_l\, m(x_l, y_l), \qquad w_l \ge 0, \quad \sum_l w_l = 1,

    where level 0 is the image and each next level its 2 x 2 averages. Direction and range are those of the metric.

    What images a metric that is not ours takes (channels, range of values, smallest size) is its own affair. Where it fails on
    a level but not on the one before, the level is too small for it, which the error says; where it fails on the image itself,
    it is tried on a larger image to see whether the size was why.

    Args:
        metric: one of ours, or anything that called with (x, y) returns (N,), (N, 1) or a scalar (then the fused score is a
            scalar too).
        levels: number of levels, at least 1.
        fusion: weights of the levels, non-negative, scaled to sum to one; the path of a file that ``msds fit`` wrote; or None
            for equal weights.
        learn_fusion: make the weights of the levels trainable, as the softmax of the parameter ``fusion_logits``.

    Shape:
        x, y: (N, C, H, W), as the metric takes them. Returns (N,).

    Raises:
        FusionFileError: a file of weights that is damaged, or for another metric or number of levels.
        ValueError: a number of weights other than levels, negative weights, an image too small for the levels or, on a
            level, for the metric (with the metric's own error as the cause), a metric that returns several scores per image.

    Source: D. Kang et al., "MSDS: Deep Structural Similarity with Multiscale Representation", 2026 (arXiv 2604.19159).

    Example:
        >>> metric = MultiScale(lambda x, y: (x - y).abs().mean((1, 2, 3)), levels=2)
        >>> metric(torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.5))
        tensor([0.5000])
    """

    def __init__(
        self,
        metric: Callable[[Tensor, Tensor], Tensor],
        levels: int = 3,
        fusion: Fusion = None,
        learn_fusion: bool = False,
    ) -> None:
        super().__init__()
        self.metric = metric if isinstance(metric, Metric) else CallableMetric(metric)
        self.levels = check_levels(levels)
        self._set_fusion(fusion, learn_fusion)
        self.lower_is_better = self.metric.lower_is_better
        self.reads_windows = self.metric.reads_windows

    @property
    def target(self) -> FusionTarget:
        """What files of weights for it are for."""
        return target_of(self.metric)

    @property
    def smallest(self) -> int:
        """Shortest side of an image, in pixels."""
        return self.metric.smallest << (self.levels - 1)

    @property
    def description(self) -> str:
        """The metric's, and the number of levels."""
        return f"{self.levels} levels of {self.metric.description}"

    def weighted_modules(self) -> list[nn.Module]:
        """Itself, and what the metric on the pyramid hides from torch."""
        return [self, *self.metric.weighted_modules()]

    def _representations_source(self) -> str:
        return f"{self.levels} levels of {self.metric._representations_source()}"

    def _check_images(self, *images: Image) -> None:
        self.metric._check_images(*images)

    def _ready(self, image: Image, name: str) -> Image:
        ready = super()._ready(image, name)
        return image if isinstance(self.metric, CallableMetric) else ready

    def compare_levels(self, a: Levels, b: Levels) -> Tensor:
        """Scores of each level alone, (N, levels), before they are fused; (levels,) where the metric returns a scalar."""
        if not isinstance(self.metric, CallableMetric):
            pairs = zip(a.parts, b.parts, strict=True)
            return torch.stack([self.metric.compare(*pair) for pair in pairs], 1)
        return torch.stack([self._of_level(level, a, b) for level in range(self.levels)], -1)

    def _represent(self, image: Image) -> Levels:
        levels: Sequence[Image] = pyramid(image, self.levels) if isinstance(image, Tensor) else halvings(image, self.levels)
        return Levels(self.description, tuple(self.metric._represent(level) for level in levels))

    def _score(self, x: Image, y: Image) -> Tensor:
        return self._compare(self._represent(x), self._represent(y))

    def _of_level(self, level: int, a: Levels, b: Levels) -> Tensor:
        try:
            return self.metric._compare(a.parts[level], b.parts[level])
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # every metric has an exception of its own for an image that is too small
            pairs = [(p.image, q.image) for p, q in zip(a.parts, b.parts, strict=True)]  # type: ignore[attr-defined]
            if level == 0 and not self._works_on_larger(*pairs[0]):
                raise
            smaller = min(pairs[0], key=lambda image: min(image.shape[-2:]))
            reason = f"where the metric fails ({type(error).__name__}: {error})"
            raise ValueError(too_small(smaller, level, self.levels, reason)) from error

    def _works_on_larger(self, x: Tensor, y: Tensor) -> bool:
        """Whether the first pair fails as it is but not in another size; two sizes at once tell nothing.

        Necessary because foreign metrics fail on small images with errors that do not say so; asked only after a failure.
        """
        if x.shape[-2:] != y.shape[-2:] or min(x.shape[-2:]) >= _LARGE:
            return False
        first = [image[:1].detach() for image in (x, y)]
        larger = [F.interpolate(image, (_LARGE, _LARGE)) for image in first]
        return not self._works_on(first) and self._works_on(larger)

    def _works_on(self, pair: Sequence[Tensor]) -> bool:
        try:
            self.metric(*pair)
        except Exception:
            return False
        return True


class MSDS(PyramidMetric, GramMetric):
    r"""MSDS, the multiscale form of DeepSSIM. Full-reference, higher is better.

    .. math:: \sum_l w_l\, \mathrm{DeepSSIM}(x_l, y_l)

    over an image pyramid. 1 for identical images, at most 1, can be negative (at least -1). The weights of the paper are
    not public; equal weights are the default.

    Args:
        levels: number of levels, at least 1. With VGG16, 3 levels need images of 64 x 64 pixels at least.
        fusion: weights of the levels, or of each layer on each level (level 0 first, layers in order of depth), non-negative,
            scaled to sum to one; the path of a file that ``msds fit`` wrote; or None for equal weights.
        learn_fusion: make the weights of the levels trainable, as the softmax of the parameter ``fusion_logits``.
        backbone, weights, layers, saliency_threshold, tile, saliency, runtime: see :class:`DeepSSIM`; a map is made of the
            image itself and averaged from level to level.

    Shape:
        x, y: (N, 3, H, W), RGB in [0, 1]; the sizes of x and y may differ. Returns (N,).

    Raises:
        FusionFileError: a file of weights that is damaged, or for another metric or number of levels.
        ValueError: a number of weights other than levels, an image too small for the levels, and as in :class:`DeepSSIM`.

    Source: D. Kang, X.-H. Chen, B. Liu, K. Zhang, W. Chen, T. Zhao, "MSDS: Deep Structural Similarity with Multiscale
    Representation", 2026 (arXiv 2604.19159).

    Example:
        >>> metric = MSDS(levels=2, fusion=(0.7, 0.3), backbone="alexnet", weights=None)
        >>> x = torch.rand(1, 3, 96, 64)
        >>> metric(x, x)
        tensor([1.])
    """

    kind = DeepSSIM.kind
    matrix_kind = MatrixKind.GRAM
    keeps_features = False  # those of the image itself

    def __init__(
        self,
        levels: int = 3,
        fusion: Fusion = None,
        learn_fusion: bool = False,
        backbone: str | nn.Module = "vgg16",
        weights: Weights = "imagenet",
        layers: str | Sequence[str] | None = None,
        saliency_threshold: float = 0.0,
        tile: Tile = None,
        saliency: Saliency = None,
        runtime: Runtime = "torch",
    ) -> None:
        levels = check_levels(levels)
        network = build_backbone(backbone, layers, weights)
        kept = network.layers if self.keeps_features else ()
        views = [View(network, level, self.matrix_kind, () if level else kept) for level in range(levels)]
        GramMetric.__init__(self, views, saliency, saliency_threshold, tile, runtime)
        self.levels = levels
        self._set_fusion(fusion, learn_fusion)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], **options: Any) -> MSDS:
        """MSDS with the fusion weights, levels, backbone and layers of a file that ``msds fit`` wrote.

        Args:
            path: the file.
            options: further ones, ``weights`` for example if those of the backbone are not its default; a ``backbone`` of your
                own must be given again.

        Raises:
            FileNotFoundError: no such file.
            FusionFileError: it is damaged, or for another metric.
        """
        file = FusionFile.load(path)
        if file.target.base != cls.kind:
            raise FusionFileError(f"{path} holds fusion weights for {file.metric} ({file.target}), not for {cls.__name__}")
        network = {} if "backbone" in options else {"backbone": file.target.backbone, "layers": file.target.layers}
        return cls(file.levels, path, **{**network, **options})

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, which can have weights of their own."""
        return self.first_backbone.layers

    @property
    def target(self) -> FusionTarget:
        """What files of weights for it are for."""
        return target_of(self)

    def part_scores(self, x: Image, y: Image, per_layer: bool = False) -> Tensor:
        """See :class:`PyramidMetric`."""
        return self.layer_scores(x, y).flatten(1) if per_layer else self.level_scores(x, y)

    def layer_scores(self, x: Image, y: Image) -> Tensor:
        """Scores of each layer on each level alone, (N, levels, layers)."""
        return self._by_layer(self.represent(x), self.represent(y)).permute(2, 0, 1)

    def compare_levels(self, a: Matrices, b: Matrices) -> Tensor:
        """Scores of each level alone, (N, levels), before they are fused."""
        by_layer = self._by_layer(a, b)
        if self.layer_weights is None:
            return by_layer.mean(1).mT
        return (self.layer_weights.to(by_layer).unsqueeze(2) * by_layer).sum(1).mT

    def map_weights(self, layers: int) -> Tensor:
        """See :class:`MatrixMetric`."""
        weights = self.part_weights(per_layer=self.layer_weights is not None)
        return weights.expand(-1, layers) * (weights.shape[1] / layers)


class MSDSLite(MSDS):
    """DeepSSIM-Lite on a pyramid, a training loss. **Lower is better**, 0 for identical images, at most 2.

    Arguments, shapes, errors and source are those of :class:`MSDS`.

    Example:
        >>> loss = MSDSLite(levels=2, backbone="alexnet", weights=None)
        >>> x = torch.rand(1, 3, 96, 64)
        >>> loss(x, x)
        tensor([0.])
    """

    kind = DeepSSIMLite.kind
    lower_is_better = True
    matrix_kind = MatrixKind.LITE_GRAM
