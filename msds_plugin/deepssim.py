"""DeepSSIM and DeepSSIM-Lite: structural similarity of the Gram matrices of deep features."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .backbones import Weights, build_backbone
from .errors import check_has_values, check_pair, check_source
from .functional import block_dissimilarities, check_blocks, global_dissimilarity, gram_matrix
from .representation import Representation, check_comparable
from .saliency import Attention, Saliency
from .saliency.matrices import Matrix, calibration, matrices
from .tiling import Tile, check_tile
from .windows import Windows

__all__ = ["DeepSSIM", "DeepSSIMLite"]

#: Pixels that go through a network at once, by kind of device: beyond this a larger batch costs memory and saves no time.
ONE_PASS_PIXELS = {"cpu": 2**20, "cuda": 2**23}


def pixels_at_once(device: torch.device) -> int:
    """Pixels of one batch at most on this device."""
    return ONE_PASS_PIXELS.get(device.type, ONE_PASS_PIXELS["cpu"])


def fit_together(x: Tensor | Windows, y: Tensor | Windows) -> bool:
    """Whether two batches can share a pass through a network: tensors of one image size, and not too large together."""
    if not (isinstance(x, Tensor) and isinstance(y, Tensor)) or x.shape[1:] != y.shape[1:]:
        return False
    if torch.is_grad_enabled() and x.requires_grad != y.requires_grad:
        return False  # the gradient of the one would take a way through the other as well
    return (len(x) + len(y)) * x.shape[-2] * x.shape[-1] <= pixels_at_once(x.device)


def saliency_maps(saliency: Tensor | Windows, image: Tensor | Windows) -> Tensor | Windows:
    """Maps (N, 1, H, W), or a tensor (N, H, W), of any type, as (N, 1, H, W); tensors of the images' type and device.

    Raises:
        TypeError: neither a tensor nor read in windows.
        ValueError: another shape than that of the images (N, C, H, W).
    """
    if not isinstance(saliency, Tensor) and not isinstance(saliency, Windows):
        raise TypeError(f"the saliency map must be a torch.Tensor (N, 1, H, W) or (N, H, W), got {type(saliency).__name__}")
    maps = saliency.unsqueeze(1) if isinstance(saliency, Tensor) and saliency.dim() == 3 else saliency
    if tuple(maps.shape) != (image.shape[0], 1, *image.shape[-2:]):
        raise ValueError(
            f"the saliency map of images {tuple(image.shape)} must have shape (N, 1, H, W) or (N, H, W) of the same size, "
            f"got {tuple(saliency.shape)}"
        )
    if not isinstance(maps, Tensor):
        return maps
    check_has_values(maps, "the saliency map")
    return maps.to(image) if isinstance(image, Tensor) else maps.to(torch.get_default_dtype())


class _GramMetric(nn.Module):
    """What DeepSSIM and DeepSSIM-Lite have in common: an image is represented by one Gram matrix per layer."""

    kind: str

    def __init__(
        self,
        backbone: str | nn.Module = "vgg16",
        weights: Weights = "imagenet",
        layers: str | Sequence[str] | None = None,
        saliency_threshold: float = 0.0,
        tile: Tile = None,
        saliency: Saliency = None,
    ) -> None:
        super().__init__()
        self.attention = None if saliency is None else Attention(saliency)
        self.backbone = build_backbone(backbone, layers, weights)
        self.saliency_threshold = saliency_threshold
        check_tile(tile, self.backbone)
        self.tile = tile

    @property
    def smallest(self) -> int:
        """Shortest side of an image, in pixels."""
        return self.backbone.smallest

    @property
    def source(self) -> str:
        """What two representations must agree in to be comparable."""
        return f"{self.kind} {self.backbone.description}{calibration(self.attention, self.saliency_threshold)}"

    def represent(self, image: Tensor | Windows, saliency: Tensor | Windows | None = None) -> Representation:
        """What is to be kept of images (N, 3, H, W) in [0, 1]: one Gram matrix (N, C, C) per layer.

        Args:
            image: as above. One that is read in windows (:class:`~msds_plugin.windows.Windows`) is evaluated in tiles, with
                ``tile="auto"`` unless the metric has another.
            saliency: (N, 1, H, W) or (N, H, W); the first layer's output is set to zero where it is not above the
                threshold. None for the maps that the metric makes for itself, if it was made with ``saliency``.

        Raises:
            ValueError: as the metric itself; a map with values that are not finite, or that is nowhere above the threshold.
        """
        check_source(image)
        return Representation((self._grams(image, saliency),), self.source)

    def attend(self, image: Tensor | Windows) -> Tensor | Windows | None:
        """The saliency maps (N, 1, H, W) that this metric makes for itself, None if it makes none."""
        return None if self.attention is None else self.attention.maps(image, self.backbone)

    def _grams(self, image: Tensor | Windows, saliency: Tensor | Windows | None = None) -> tuple[Tensor, ...]:
        maps = self.attend(image) if saliency is None else saliency_maps(saliency, image)
        kind = Matrix(lambda feature: self._gram(gram_matrix(feature), feature[0, 0].numel()), gram_matrix, self._gram)
        return matrices(self.backbone, image, maps, self.saliency_threshold, self.tile, kind)

    def compare(self, a: Representation, b: Representation, layer_weights: Tensor | None = None) -> Tensor:
        """Scores (N,) of two representations; one of a single image is compared with every image of the other.

        Args:
            a, b: as above.
            layer_weights: of the layers, (layers,), summing to one; None for equal ones.
        """
        check_comparable(a, b, self.source)
        return self._score(a.grams[0], b.grams[0], layer_weights)

    def forward(
        self,
        x: Tensor | Windows,
        y: Tensor | Windows,
        saliency_x: Tensor | Windows | None = None,
        saliency_y: Tensor | Windows | None = None,
        layer_weights: Tensor | None = None,
    ) -> Tensor:
        """Scores (N,) of distorted images ``x`` beside references ``y``: ``compare(represent(x), represent(y))``."""
        check_pair(x, y)
        if saliency_x is None and saliency_y is None and self.tile is None and fit_together(x, y):
            both = self._grams(torch.cat([x, y]))  # type: ignore[list-item]
            count = x.shape[0]
            return self._score([gram[:count] for gram in both], [gram[count:] for gram in both], layer_weights)
        return self._score(self._grams(x, saliency_x), self._grams(y, saliency_y), layer_weights)

    def map(self, x: Tensor | Windows, y: Tensor | Windows) -> Tensor:
        """Where they differ, (N, 1, H, W): see :func:`msds_plugin.maps.dissimilarity_map`."""
        from .maps import dissimilarity_map

        return dissimilarity_map(self, x, y)  # type: ignore[arg-type]

    @abstractmethod
    def _gram(self, gram: Tensor, positions: int) -> Tensor:
        """What is kept of a Gram matrix that is the sum over so many positions."""

    @abstractmethod
    def _score(self, a: Sequence[Tensor], b: Sequence[Tensor], layer_weights: Tensor | None) -> Tensor:
        """Scores (N,) of the matrices of each layer."""


def _mean_over_layers(layers: Tensor, weights: Tensor | None) -> Tensor:
    return layers.mean(0) if weights is None else (weights.to(layers).unsqueeze(1) * layers).sum(0)


class DeepSSIM(_GramMetric):
    r"""Deep structural similarity. Full-reference, training-free, higher is better.

    With features :math:`F` of a deep network, :math:`G = F F^T` is cut into 4 x 4 blocks, and the score is the mean over
    blocks of

    .. math:: (2 \mathrm{cov}(G_x, G_y) + c) / (\mathrm{var}(G_x) + \mathrm{var}(G_y) + c), \qquad c = 10^{-6},

    then the mean over layers if several are chosen. The score is 1 for identical images, at most 1, and can be negative
    (at least -1). G does not depend on the image size, so the two images of a pair may differ in size.

    Args:
        backbone: name of the feature network, ``"timm:<model>"``, ``"torchvision:<model>"``, or a module of your own; see
            :func:`build_backbone`.
        weights: ``"imagenet"``, a path, a mapping of tensors, or None for random values.
        layers: layer or layers to take features after; None for the backbone's default (VGG16: ``relu5_1``).
        saliency_threshold: a pixel counts as salient where its map is above this. With ``saliency``, 0.25 leaves about the
            more salient half; 0, the default, is for maps of your own that are masks already.
        tile: evaluate images in tiles that own this many pixels in height and width (rounded up to the largest stride), and
            keep no more than one in memory; the result is that of the whole image up to the rounding of sums. ``"auto"``
            chooses tiles, or the whole image if it fits, for half of the free memory: on CUDA as the driver tells it,
            elsewhere as the operating system does, and 512 MiB at most. None for the whole image at once.
            Gradients are then computed tile by tile too, each tile twice. For backbones by name.
        saliency: how the metric makes the saliency maps that it is not given: ``"gbvs"``, ``"spectral"``, ``"features"``
            (see :mod:`msds_plugin.saliency`), or a function of images (N, 3, H, W) to maps (N, 1, H, W). None for no maps, as
            published. For pairs whose content was cropped, resized or retargeted. For backbones by name.

    Shape:
        x, y: (N, 3, H, W), RGB in [0, 1]; the sizes of x and y may differ. Returns (N,). Images larger than memory may be
        given as :class:`~msds_plugin.windows.Windows`.

    Raises:
        ValueError: values outside [0, 1], an image too small for the backbone, batches of different length; ``tile`` with
            a backbone that is not exact in tiles, as far as is known.
        TypeError: not floating point, or x and y of different types.
        WeightsNotFoundError, WeightsFileError, MissingDependencyError: see :func:`build_backbone`.

    Source: K. Zhang, W. Chen, T. Zhao, Z. Wang, "Structural Similarity in Deep Features: Unified Image Quality Assessment
    Robust to Geometrically Disparate Reference", IEEE TPAMI 2025 (arXiv 2412.19553).

    Example:
        >>> metric = DeepSSIM(backbone="alexnet", weights=None)
        >>> x = torch.rand(2, 3, 64, 64)
        >>> metric(x, x)
        tensor([1., 1.])
        >>> reference = metric.represent(x[:1])              # once, for many comparisons
        >>> metric.compare(metric.represent(x), reference).shape
        torch.Size([2])
    """

    kind = "deepssim"

    def _gram(self, gram: Tensor, positions: int) -> Tensor:
        check_blocks(gram.shape[-1])
        return gram

    def _score(self, a: Sequence[Tensor], b: Sequence[Tensor], layer_weights: Tensor | None) -> Tensor:
        return 1 - _mean_over_layers(block_dissimilarities(a, b), layer_weights)


class DeepSSIMLite(_GramMetric):
    r"""DeepSSIM-Lite, a training loss. Full-reference, training-free, **lower is better**.

    The Gram matrix is divided by :math:`C h w`; mean, variance and covariance are taken once over the whole matrix:

    .. math:: 1 - (2 \mathrm{cov}(G_x, G_y) + c) / (\mathrm{var}(G_x) + \mathrm{var}(G_y) + c), \qquad c = 10^{-6},

    then the mean over layers. 0 for identical images, at most 2.

    Arguments, shapes, errors and source are those of :class:`DeepSSIM`.

    Example:
        >>> loss = DeepSSIMLite(backbone="alexnet", weights=None)
        >>> y = torch.rand(1, 3, 64, 64)
        >>> loss(y, y)
        tensor([0.])
        >>> x = torch.rand(1, 3, 64, 64, requires_grad=True)
        >>> loss(x, y).sum().backward()
        >>> x.grad.shape
        torch.Size([1, 3, 64, 64])
    """

    kind = "deepssim-lite"

    def _gram(self, gram: Tensor, positions: int) -> Tensor:
        return gram / (gram.shape[-1] * positions)

    def _score(self, a: Sequence[Tensor], b: Sequence[Tensor], layer_weights: Tensor | None) -> Tensor:
        layers = torch.stack([global_dissimilarity(p, q) for p, q in zip(a, b, strict=True)])
        return _mean_over_layers(layers, layer_weights)
