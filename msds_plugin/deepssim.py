"""DeepSSIM and DeepSSIM-Lite: structural similarity of the Gram matrices of deep features."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from msds_plugin.backbones import Weights, build_backbone
from msds_plugin.encoder import Matrices, MatrixKind, MatrixMetric, View
from msds_plugin.maps import dissimilarity_map
from msds_plugin.runtimes import Runtime
from msds_plugin.saliency import Saliency
from msds_plugin.tiles import Tile
from msds_plugin.windows import Image

__all__ = ["DeepSSIM", "DeepSSIMLite", "GramMetric"]


class GramMetric(MatrixMetric):
    """What DeepSSIM and MSDS have in common: an image is represented by one Gram matrix per layer on each level."""

    has_map = True

    def map(self, x: Image, y: Image) -> Tensor:
        """Where they differ, (N, 1, H, W): see :func:`msds_plugin.maps.dissimilarity_map`."""
        return dissimilarity_map(self, x, y)


class DeepSSIM(GramMetric):
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
            chooses tiles, or the whole image if it fits, for 448 MiB, on CUDA for half of the free memory. None for the whole
            image at once.
            Gradients are then computed tile by tile too, each tile twice. For backbones by name.
        saliency: how the metric makes the saliency maps that it is not given: ``"gbvs"``, ``"spectral"``, ``"features"``
            (see :mod:`msds_plugin.saliency`), or a function of images (N, 3, H, W) to maps (N, 1, H, W). None for no maps, as
            published. For pairs whose content was cropped, resized or retargeted. For backbones by name.
        runtime: ``"torch"``, or ``"openvino"``: faster on a CPU, without gradients; the network is then compiled and cannot be
            looked into or changed. Scores agree to 1e-5.

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
        >>> import torch
        >>> metric = DeepSSIM(backbone="alexnet", weights=None)
        >>> x = torch.rand(2, 3, 64, 64)
        >>> metric(x, x)
        tensor([1., 1.])
        >>> reference = metric.represent(x[:1])              # once, for many comparisons
        >>> metric.compare(metric.represent(x), reference).shape
        torch.Size([2])
    """

    kind = "deepssim"
    matrix_kind = MatrixKind.GRAM

    def __init__(
        self,
        backbone: str | nn.Module = "vgg16",
        weights: Weights = "imagenet",
        layers: str | Sequence[str] | None = None,
        saliency_threshold: float = 0.0,
        tile: Tile = None,
        saliency: Saliency = None,
        runtime: Runtime = "torch",
    ) -> None:
        view = View(build_backbone(backbone, layers, weights), 0, self.matrix_kind)
        super().__init__([view], saliency, saliency_threshold, tile, runtime)

    def _compare(self, a: Matrices, b: Matrices) -> Tensor:
        return self._by_layer(a, b)[0].mean(0)


class DeepSSIMLite(DeepSSIM):
    r"""DeepSSIM-Lite, a training loss. Full-reference, training-free, **lower is better**.

    The Gram matrix is divided by :math:`C h w`; mean, variance and covariance are taken once over the whole matrix:

    .. math:: 1 - (2 \mathrm{cov}(G_x, G_y) + c) / (\mathrm{var}(G_x) + \mathrm{var}(G_y) + c), \qquad c = 10^{-6},

    then the mean over layers. 0 for identical images, at most 2.

    Arguments, shapes, errors and source are those of :class:`DeepSSIM`.

    Example:
        >>> import torch
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
    lower_is_better = True
    matrix_kind = MatrixKind.LITE_GRAM
