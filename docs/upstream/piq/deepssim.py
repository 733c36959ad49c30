r"""PyTorch implementation of DeepSSIM and of MSDS, its multiscale form.

References:
    [1] K. Zhang, W. Chen, T. Zhao, Z. Wang (2025)
        Structural Similarity in Deep Features: Unified Image Quality Assessment
        Robust to Geometrically Disparate Reference
        https://arxiv.org/abs/2412.19553
    [2] D. Kang, X.-H. Chen, B. Liu, K. Zhang, W. Chen, T. Zhao (2026)
        MSDS: Deep Structural Similarity with Multiscale Representation
        https://arxiv.org/abs/2604.19159
"""
from typing import List, Optional

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.modules.loss import _Loss
from torchvision.models import vgg16

from piq.perceptual import IMAGENET_MEAN, IMAGENET_STD
from piq.utils import _reduce, _validate_input

# Layers of VGG16 up to relu5_1, in torchvision's order
RELU5_1 = 26
# Side of the blocks of a Gram matrix
BLOCK = 4
# Keeps blocks of no variance stable
EPS = 1e-6


def _gram_matrix(features: torch.Tensor) -> torch.Tensor:
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2)


def _block_dissimilarity(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    r"""One minus the structural similarity of Gram matrices, block by block.

    ``(2 cov(x, y) + c) / (var(x) + var(y) + c)`` is written as ``1 - var(x - y) / (var(x) + var(y) + c)``:
    the same number without its cancellation, 1 for equal matrices to the last bit.

    Args:
        x: Gram matrices. Shape :math:`(N, C, C)`.
        y: Gram matrices. Shape :math:`(N, C, C)`.

    Returns:
        Values in [0, 2]. Shape :math:`(N,)`.
    """
    n, c, _ = x.shape
    blocks = [g.reshape(n, c // BLOCK, BLOCK, c // BLOCK, BLOCK).transpose(2, 3).flatten(3) for g in (x, y)]
    difference = (blocks[0] - blocks[1]).var(-1, unbiased=False)
    energy = blocks[0].var(-1, unbiased=False) + blocks[1].var(-1, unbiased=False)
    return (difference / (energy + EPS)).mean((1, 2))


class DeepSSIMLoss(_Loss):
    r"""Creates a criterion of structural dissimilarity in deep features, ``1 - DeepSSIM``.

    The Gram matrices of VGG16's features after ``relu5_1`` are compared, so that images of a pair may differ
    in size and need not be aligned. Nothing in it is trained for image quality.
    Expects input to be in range [0, 1] or [0, ``data_range``] with RGB channels order.

    Args:
        reduction: Specifies the reduction type:
            ``'none'`` | ``'mean'`` | ``'sum'``. Default:``'mean'``
        data_range: Maximum value range of images (usually 1.0 or 255).
        feature_extractor: A module from normalised images to features :math:`(N, C, h, w)`, where C is
            a multiple of 4. Default: pretrained VGG16 up to ``relu5_1``.
        mean: List of float values used for data standardization. Default: ImageNet mean.
        std: List of float values used for data standardization. Default: ImageNet std.

    Examples:
        >>> loss = DeepSSIMLoss()
        >>> x = torch.rand(3, 3, 256, 256, requires_grad=True)
        >>> y = torch.rand(3, 3, 256, 256)
        >>> output = loss(x, y)
        >>> output.backward()

    References:
        K. Zhang, W. Chen, T. Zhao, Z. Wang (2025).
        Structural Similarity in Deep Features: Unified Image Quality Assessment
        Robust to Geometrically Disparate Reference
        https://arxiv.org/abs/2412.19553
    """

    levels = 1

    def __init__(self, reduction: str = 'mean', data_range: float = 1., feature_extractor: Optional[nn.Module] = None,
                 mean: List[float] = IMAGENET_MEAN, std: List[float] = IMAGENET_STD) -> None:
        super().__init__()
        self.reduction = reduction
        self.data_range = data_range
        self.model = feature_extractor or vgg16(pretrained=True, progress=False).features[:RELU5_1]
        self.model.eval()
        for param in self.model.parameters():
            param.requires_grad_(False)
        self.mean = torch.tensor(mean).view(1, -1, 1, 1)
        self.std = torch.tensor(std).view(1, -1, 1, 1)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        r"""Computation of ``1 - DeepSSIM``.

        Args:
            x: An input tensor. Shape :math:`(N, 3, H, W)`.
            y: A target tensor. Shape :math:`(N, 3, H', W')`.

        Returns:
            Value of the loss to be minimized in range [0, 2], 0 for equal images.
        """
        _validate_input([x, y], dim_range=(4, 4), data_range=(0, self.data_range), size_range=(0, 2))
        x, y = x / float(self.data_range), y / float(self.data_range)
        losses = []
        for level in range(self.levels):
            if level > 0:
                x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
            losses.append(_block_dissimilarity(self._gram(x), self._gram(y)))
        return _reduce(torch.stack(losses).mean(0), self.reduction)

    def _gram(self, image: torch.Tensor) -> torch.Tensor:
        return _gram_matrix(self.model((image - self.mean.to(image)) / self.std.to(image)))


class MSDSLoss(DeepSSIMLoss):
    r"""Creates a criterion of multiscale structural dissimilarity in deep features, ``1 - MSDS``.

    DeepSSIM on a pyramid of three levels of 2 x 2 averages, with equal weights. Images of 64 x 64 pixels at least.
    Arguments are those of :class:`DeepSSIMLoss`.

    Examples:
        >>> loss = MSDSLoss()
        >>> x = torch.rand(3, 3, 256, 256, requires_grad=True)
        >>> y = torch.rand(3, 3, 256, 256)
        >>> output = loss(x, y)
        >>> output.backward()

    References:
        D. Kang, X.-H. Chen, B. Liu, K. Zhang, W. Chen, T. Zhao (2026).
        MSDS: Deep Structural Similarity with Multiscale Representation
        https://arxiv.org/abs/2604.19159
    """

    levels = 3
