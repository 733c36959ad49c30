"""A pyramid around a metric, and MSDS, which is that around DeepSSIM."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .backbones import Weights
from .deepssim import DeepSSIM, DeepSSIMLite, saliency_maps
from .errors import check_has_values, check_pair, check_size, check_source, checked_already, too_small
from .functional import check_levels, fuse, pyramid, split_fusion
from .fusion_file import FusionFile, FusionFileError, layers_of
from .network.sharing import unchanging
from .representation import Representation, check_comparable
from .saliency import Saliency
from .tiling import Tile
from .windows import Windows, halvings

__all__ = ["MSDS", "MultiScale"]

Fusion = Sequence[float] | Tensor | str | os.PathLike[str] | None

#: A side in pixels that no metric known to us finds too small (the largest demand is 161, of the five-scale SSIMs).
_LARGE = 512


class MultiScale(nn.Module):
    r"""Any full-reference metric on an image pyramid, its per-level scores fused with one weight per level.

    .. math:: \sum_l w_l\, m(x_l, y_l), \qquad w_l \ge 0, \quad \sum_l w_l = 1,

    where level 0 is the image and each next level its 2 x 2 averages. Direction and range are those of the metric.

    A metric that has ``represent`` and ``compare`` keeps them: an image is then represented on all levels at once. What
    images any other metric takes (channels, range of values, smallest size) is its own affair. Where it fails on a level
    but not on the one before, the level is too small for it, which the error says; where it fails on the image itself, it
    is tried on a larger image to see whether the size was why.

    Args:
        metric: called with (x, y), it returns (N,), (N, 1) or a scalar (then the fused score is a scalar too).
        levels: number of levels, at least 1.
        fusion: weights of the levels, or of each layer on each level (level 0 first), non-negative, scaled to sum to one; the
            path of a file that ``msds fit`` wrote; or None for equal weights.
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
        levels = check_levels(levels)
        if isinstance(fusion, str | os.PathLike):
            fusion = FusionFile.load(fusion).weights_for(metric, levels, fusion)
        self.metric = metric
        self.levels = levels
        self.fusion_logits: nn.Parameter | None
        self.fusion_weights: Tensor | None
        self.layer_weights: Tensor | None
        dtype = torch.get_default_dtype()
        with torch.inference_mode(False):  # as for the backbone: what is made in inference mode would give no gradients later
            weights, by_layer = split_fusion(fusion, levels, layers_of(metric))
            self.register_buffer("layer_weights", None if by_layer is None else by_layer.to(dtype))
            if learn_fusion and not weights.all():
                raise ValueError(f"a weight of zero cannot be learned as a softmax logit, got {weights.tolist()}")
            self.register_parameter("fusion_logits", nn.Parameter(weights.log().to(dtype)) if learn_fusion else None)
            self.register_buffer("fusion_weights", None if learn_fusion else weights.to(dtype))

    @torch.inference_mode(False)
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MultiScale:
        return super()._apply(fn, recurse)

    @property
    def fusion(self) -> Tensor:
        """The weights of the levels, (levels,), summing to one."""
        if self.fusion_logits is not None:
            return self.fusion_logits.softmax(0)
        assert self.fusion_weights is not None  # one of the two always is
        return self.fusion_weights

    @property
    def smallest(self) -> int:
        """Shortest side of an image, in pixels."""
        return getattr(self.metric, "smallest", 1) << (self.levels - 1)

    @property
    def source(self) -> str:
        """What two representations must agree in to be comparable, next to their number of levels."""
        return str(getattr(self.metric, "source", type(self.metric).__name__))

    def weighted(self, fusion: Fusion) -> MultiScale:
        """The same metric with other weights; they share the network."""
        return MultiScale(self.metric, self.levels, fusion)

    def represent(self, image: Tensor | Windows, saliency: Tensor | Windows | None = None) -> Representation:
        """What is to be kept of images (N, 3, H, W) in [0, 1], on every level.

        Args:
            image: as above.
            saliency: (N, 1, H, W) or (N, H, W); averaged from level to level like the image. None for the maps that the metric
                makes for itself, if it was made with ``saliency``.

        Raises:
            TypeError: the wrapped metric has no ``represent``, or levels of its own.
        """
        if not hasattr(self.metric, "represent"):
            raise TypeError(f"{type(self.metric).__name__} has no represent and compare: call the metric with both images")
        check_source(image)
        with checked_already(image), unchanging():
            parts = [self.metric.represent(*given) for given in self._with_maps(image, saliency)]
            if any(len(part.grams) != 1 for part in parts):
                raise TypeError(f"{type(self.metric).__name__} has levels of its own: wrap a metric that has none")
            return Representation(tuple(part.grams[0] for part in parts), self.source)

    def compare(self, a: Representation, b: Representation) -> Tensor:
        """Scores (N,) of two representations; one of a single image is compared with every image of the other."""
        return fuse(self.compare_levels(a, b), self.fusion)

    def compare_levels(self, a: Representation, b: Representation) -> Tensor:
        """Scores of each level alone, (N, levels), before they are fused."""
        with unchanging():
            check_comparable(a, b, self.source, self.levels)
            compare = self.metric.compare  # type: ignore[attr-defined]
            return torch.stack(
                [compare(a.level(index), b.level(index), **self._of_layers(index)) for index in range(self.levels)], 1
            )

    def layer_scores(self, x: Tensor | Windows, y: Tensor | Windows) -> Tensor:
        """Scores of each layer on each level alone, (N, levels, layers), of a metric that has ``represent``."""
        levels = zip(self.represent(x).grams, self.represent(y).grams, strict=True)
        return torch.stack(
            [torch.stack([self._of_one(*grams) for grams in zip(*level, strict=True)], 1) for level in levels], 1
        )

    def _of_one(self, a: Tensor, b: Tensor) -> Tensor:
        compare = self.metric.compare  # type: ignore[attr-defined]
        scores: Tensor = compare(*(Representation(((gram,),), self.source) for gram in (a, b)))
        return scores

    def level_scores(
        self,
        x: Tensor | Windows,
        y: Tensor | Windows,
        saliency_x: Tensor | Windows | None = None,
        saliency_y: Tensor | Windows | None = None,
    ) -> Tensor:
        """Scores of each level alone, (N, levels), before they are fused; (levels,) where the metric returns a scalar."""
        if hasattr(self.metric, "represent"):
            check_pair(x, y)
            both = zip(self._with_maps(x, saliency_x), self._with_maps(y, saliency_y), strict=True)
            with checked_already(x, y), unchanging():
                # Each level by the metric itself, which may take both images in one pass.
                return torch.stack([self._score_maps(index, *level) for index, level in enumerate(both)], 1)
        if saliency_x is not None or saliency_y is not None:
            raise TypeError(f"{type(self.metric).__name__} takes no saliency maps")
        if not (isinstance(x, Tensor) and isinstance(y, Tensor)):
            raise TypeError(f"{type(self.metric).__name__} needs whole images as tensors, it cannot read them in windows")
        _check_batches(x, y)
        pairs = list(zip(self._pyramid(x), self._pyramid(y), strict=True))
        return torch.stack([self._score(level, pairs) for level in range(self.levels)], -1)

    def _with_maps(
        self, image: Tensor | Windows, saliency: Tensor | Windows | None
    ) -> list[tuple[Tensor | Windows] | tuple[Tensor | Windows, Tensor | Windows]]:
        """Each level of an image, with that of its saliency map if there is one."""
        self._check_size(image)
        if saliency is None and hasattr(self.metric, "attend"):
            saliency = self.metric.attend(image)  # once for all levels
        if saliency is None:
            return [(level,) for level in self._levels(image)]
        return list(zip(self._levels(image), self._levels(saliency_maps(saliency, image)), strict=True))

    def _score_maps(self, level: int, x: tuple[Any, ...], y: tuple[Any, ...]) -> Tensor:
        maps = {name: given[1] for name, given in (("saliency_x", x), ("saliency_y", y)) if len(given) > 1}
        return self.metric(x[0], y[0], **maps, **self._of_layers(level))

    def _of_layers(self, level: int) -> dict[str, Tensor]:
        return {} if self.layer_weights is None else {"layer_weights": self.layer_weights[level]}

    def _score(self, level: int, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        x, y = pairs[level]
        try:
            score = self.metric(x, y)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # every metric has an exception of its own for an image that is too small
            if level == 0 and not self._works_on_larger(x, y):
                raise
            smaller = min(pairs[0], key=lambda image: min(image.shape[-2:]))
            reason = f"where the metric fails ({type(error).__name__}: {error})"
            raise ValueError(too_small(smaller, level, self.levels, reason)) from error
        if score.dim() and score.numel() != len(x):
            raise ValueError(f"the metric returned shape {tuple(score.shape)} for {len(x)} images: one score each is needed")
        return score.reshape(-1) if score.dim() else score

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

    def forward(
        self,
        x: Tensor | Windows,
        y: Tensor | Windows,
        saliency_x: Tensor | Windows | None = None,
        saliency_y: Tensor | Windows | None = None,
    ) -> Tensor:
        """Scores (N,) of distorted images ``x`` beside references ``y``."""
        return fuse(self.level_scores(x, y, saliency_x, saliency_y), self.fusion)

    def map(self, x: Tensor | Windows, y: Tensor | Windows) -> Tensor:
        """Where they differ, (N, 1, H, W): see :func:`msds_plugin.maps.dissimilarity_map`."""
        from .maps import dissimilarity_map

        return dissimilarity_map(self, x, y)

    def _pyramid(self, image: Tensor) -> list[Tensor]:
        self._check_size(image)
        return pyramid(image, self.levels)

    def _levels(self, image: Tensor | Windows) -> Sequence[Tensor | Windows]:
        """The pyramid; where the metric works in tiles, computed in tiles too."""
        if not isinstance(image, Tensor) or getattr(self.metric, "tile", None) is not None:
            return halvings(image, self.levels)
        return pyramid(image, self.levels)

    def _check_size(self, image: Tensor | Windows) -> None:
        check_size(image, getattr(self.metric, "smallest", 1), self.levels)


def _check_batches(x: Tensor, y: Tensor) -> None:
    for name, image in (("x", x), ("y", y)):
        if not isinstance(image, Tensor) or image.dim() != 4 or not image.is_floating_point():
            shape = f"{tuple(image.shape)} of {image.dtype}" if isinstance(image, Tensor) else type(image).__name__
            raise ValueError(f"{name} must be a floating-point batch of images (N, C, H, W), got {shape}")
        check_has_values(image, name)
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} images and y has {len(y)}: one reference per distorted image is needed")
    if x.device != y.device:
        raise ValueError(f"x is on {x.device} and y on {y.device}: move one of them")


class MSDS(MultiScale):
    r"""MSDS, the multiscale form of DeepSSIM. Full-reference, higher is better.

    .. math:: \sum_l w_l\, \mathrm{DeepSSIM}(x_l, y_l)

    over an image pyramid. 1 for identical images, at most 1, can be negative (at least -1). The weights of the paper are
    not public; equal weights are the default.

    Args:
        levels: number of levels, at least 1. With VGG16, 3 levels need images of 64 x 64 pixels at least.
        fusion: weights of the levels, or of each layer on each level (level 0 first), non-negative, scaled to sum to one; the
            path of a file that ``msds fit`` wrote; or None for equal weights.
        learn_fusion: make the weights of the levels trainable, as the softmax of the parameter ``fusion_logits``.
        backbone, weights, layers, saliency_threshold, tile, saliency: see :class:`DeepSSIM`; a map is made of the image itself
            and averaged from level to level.

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
    ) -> None:
        super().__init__(DeepSSIM(backbone, weights, layers, saliency_threshold, tile, saliency), levels, fusion, learn_fusion)

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
        if file.target.base != DeepSSIM.kind:
            raise FusionFileError(f"{path} holds fusion weights for {file.metric} ({file.target}), not for MSDS")
        network = {} if "backbone" in options else {"backbone": file.target.backbone, "layers": file.target.layers}
        return cls(file.levels, path, **{**network, **options})


def msds_lite(levels: int = 3, fusion: Fusion = None, learn_fusion: bool = False, **options: Any) -> MultiScale:
    """DeepSSIM-Lite on a pyramid, a training loss; ``options`` are those of :class:`DeepSSIMLite`.

    Example:
        >>> loss = msds_lite(levels=2, backbone="alexnet", weights=None)
        >>> x = torch.rand(1, 3, 96, 64)
        >>> loss(x, x)
        tensor([0.])
    """
    return MultiScale(DeepSSIMLite(**options), levels, fusion, learn_fusion)
