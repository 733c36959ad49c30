"""The mathematics of DeepSSIM and MSDS as plain functions of tensors.

Both similarities are written as one minus a ratio of non-negative sums,

    (2 cov(a, b) + c) / (var(a) + var(b) + c)  =  1 - var(a - b) / (var(a) + var(b) + c),

which is the same number without its cancellation: never above 1, exactly 1 for equal inputs, and precise when the two
are nearly equal, where a training loss spends its time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "block_dissimilarity",
    "covariance_matrix",
    "energy_dissimilarity",
    "fuse",
    "global_dissimilarity",
    "gram_matrix",
    "pyramid",
    "smooth_halve",
]


def at_least_float32(x: Tensor) -> Tensor:
    """The tensor itself, or in float32 what is in half precision."""
    return x if x.dtype == torch.float64 else x.float()


def gram_matrix(features: Tensor) -> Tensor:
    r"""Gram matrix :math:`G = F F^T` of feature maps, in float32 at least.

    Args:
        features: (N, C, h, w), any memory format. Half precision is summed in float32, under autocast too.

    Returns:
        (N, C, C), not divided by anything: entries grow with the number of positions.

    Example:
        >>> gram_matrix(torch.ones(1, 2, 3, 3))
        tensor([[[9., 9.],
                 [9., 9.]]])
    """
    with torch.autocast(features.device.type, enabled=False):
        flat = at_least_float32(features.flatten(2))
        return flat @ flat.transpose(1, 2)


def covariance_matrix(features: Tensor) -> Tensor:
    """Covariances of the channels of feature maps (N, C, h, w) over positions, (N, C, C), in float32 at least.

    Example:
        >>> covariance_matrix(torch.tensor([[[[1.0, 3.0]], [[5.0, 5.0]]]]))
        tensor([[[1., 0.],
                 [0., 0.]]])
    """
    with torch.autocast(features.device.type, enabled=False):
        wide = at_least_float32(features)
        return gram_matrix(wide - wide.mean((2, 3), keepdim=True)) / positions(features)


def positions(features: Tensor) -> int:
    """Number of positions h * w of feature maps (N, C, h, w)."""
    return features.shape[-2] * features.shape[-1]


def _variance(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    # One pass over memory for the difference and its square.
    return F.mse_loss(x, x.mean(dims, keepdim=True).expand_as(x), reduction="none").mean(dims)


def _dissimilarity(a: Tensor, b: Tensor, dims: tuple[int, ...], c: float) -> Tensor:
    a, b = at_least_float32(a), at_least_float32(b)
    return _variance(a - b, dims) / (_variance(a, dims) + _variance(b, dims) + c)


def block_dissimilarity(a: Tensor, b: Tensor, block: int = 4, c: float = 1e-6) -> Tensor:
    r"""One minus the structural similarity of two Gram matrices, block by block: the core of DeepSSIM.

    Both are cut into non-overlapping ``block`` x ``block`` blocks; in each,
    :math:`S = (2\sigma_{ab} + c) / (\sigma_a^2 + \sigma_b^2 + c)` with biased variance and covariance; the result is the
    mean of :math:`1 - S`.

    Args:
        a: (N, C, C) or (1, C, C), which is compared with every matrix of ``b``.
        b: likewise.
        block: side of a block; divides C.
        c: keeps blocks of no variance stable.

    Returns:
        (N,), in [0, 2], exactly 0 for equal matrices; lower is more similar.

    Raises:
        ValueError: C is not a multiple of ``block``.

    Source: Zhang et al., "Structural Similarity in Deep Features", IEEE TPAMI 2025 (arXiv 2412.19553).

    Example:
        >>> g = torch.arange(16.).reshape(1, 4, 4)
        >>> block_dissimilarity(g, g)
        tensor([0.])
    """
    return block_dissimilarities([a], [b], block, c)[0]


def block_dissimilarities(a: Sequence[Tensor], b: Sequence[Tensor], block: int = 4, c: float = 1e-6) -> Tensor:
    """:func:`block_dissimilarity` (L, N) of L pairs of matrices, which may differ in C, at once: a fraction of the calls."""
    x, y = [torch.cat([_blocks(gram, block) for gram in grams], 2) for grams in (a, b)]
    parts = _dissimilarity(x, y, (0,), c).split([(gram.shape[-1] // block) ** 2 for gram in a], 1)
    return torch.stack([part.mean(1) for part in parts])


def _blocks(gram: Tensor, block: int) -> Tensor:
    """(block^2, N, blocks) of (N, C, C): sums over the first axis run through memory in order, up to three times as fast."""
    number, channels, _ = gram.shape
    if channels % block:
        raise ValueError(
            f"a Gram matrix of {channels} channels cannot be cut into {block} x {block} blocks: "
            f"choose a layer whose channel count is a multiple of {block}"
        )
    parts = gram.reshape(number, channels // block, block, channels // block, block)
    return parts.permute(2, 4, 0, 1, 3).reshape(block * block, number, -1)


def global_dissimilarity(a: Tensor, b: Tensor, c: float = 1e-6) -> Tensor:
    r"""One minus the structural similarity of two whole matrices: the loss of DeepSSIM-Lite.

    :math:`1 - (2\sigma_{ab} + c) / (\sigma_a^2 + \sigma_b^2 + c)` with the statistics over all entries.

    Args:
        a: (N, C, C) or (1, C, C), normalised Gram matrices.
        b: likewise.
        c: keeps matrices of no variance stable.

    Returns:
        (N,), in [0, 2], exactly 0 for equal matrices; lower is more similar.

    Example:
        >>> g = torch.arange(16.).reshape(1, 4, 4)
        >>> global_dissimilarity(g, 30 - g).round(decimals=4)
        tensor([2.])
    """
    return _dissimilarity(a, b, (-2, -1), c)


def energies(a: Tensor, b: Tensor) -> Tensor:
    """The energy of the difference of feature maps (N, C, h, w), and that of both, (2, N): what tiles add up."""
    a, b = at_least_float32(a), at_least_float32(b)
    dims = (1, 2, 3)
    return torch.stack([(a - b).square().sum(dims), a.square().sum(dims) + b.square().sum(dims)])


def energy_dissimilarity(a: Tensor, b: Tensor, c: float = 1e-6) -> Tensor:
    r"""Energy of the difference of two feature maps, as a share of the energy of both, place by place.

    .. math:: \frac{\sum \lVert a_p - b_p \rVert^2}{\sum \lVert a_p \rVert^2 + \sum \lVert b_p \rVert^2 + c}

    Args:
        a: (N, C, h, w).
        b: of the same shape.
        c: keeps maps of no energy stable.

    Returns:
        (N,), in [0, 2], at most 1 for features that are never negative; exactly 0 for equal maps; lower is more similar.

    Example:
        >>> energy_dissimilarity(torch.ones(1, 2, 3, 3), torch.zeros(1, 2, 3, 3)).round(decimals=4)
        tensor([1.])
    """
    return ratio_of_energies(energies(a, b), c)


def ratio_of_energies(sums: Tensor, c: float = 1e-6) -> Tensor:
    """:func:`energy_dissimilarity` (N,) of the sums (2, N) of :func:`energies`."""
    return sums[0] / (sums[1] + c)


def pyramid(image: Tensor, levels: int) -> list[Tensor]:
    """Image pyramid: level 0 is the image, each next one its 2 x 2 averages, an odd last row or column dropped.

    Args:
        image: (N, C, H, W).
        levels: at least 1.

    Returns:
        ``levels`` tensors; level l has H >> l rows and W >> l columns.

    Raises:
        ValueError: ``levels`` is below 1, or the image is too small to be halved so often.

    Example:
        >>> [tuple(level.shape) for level in pyramid(torch.rand(1, 3, 65, 96), 3)]
        [(1, 3, 65, 96), (1, 3, 32, 48), (1, 3, 16, 24)]
    """
    height, width = image.shape[-2:]
    if levels < 1:
        raise ValueError(f"levels must be at least 1, got {levels}")
    if min(height, width) >> (levels - 1) == 0:
        raise ValueError(f"an image of {height} x {width} pixels cannot be halved {levels - 1} times")
    images = [image]
    for _ in range(levels - 1):
        images.append(halve(images[-1]))
    return images


def _in_a_graph() -> bool:
    """Whether a graph is made, for OpenVINO or another program: of images of any size, and convolutions are fast there."""
    return torch.compiler.is_compiling() or bool(torch.jit.is_tracing())  # type: ignore[attr-defined]


def halve(image: Tensor) -> Tensor:
    """The 2 x 2 averages of (..., H, W), an odd last row or column dropped; several times as fast as ``avg_pool2d`` on a CPU.

    Example:
        >>> halve(torch.arange(10.0).reshape(2, 5))
        tensor([[3., 5.]])
    """
    if _in_a_graph():
        return F.avg_pool2d(image, 2)
    height, width = image.shape[-2] // 2 * 2, image.shape[-1] // 2 * 2
    rows = image[..., 0:height:2, :width] + image[..., 1:height:2, :width]
    return (rows[..., 0::2] + rows[..., 1::2]) * 0.25


def smooth_halve(image: Tensor) -> Tensor:
    """Images (N, C, H, W) of half the size, rounded up, after a 1 4 6 4 1 low-pass, with reflect padding at the border.

    Passes less of what the half size cannot show than 2 x 2 averages do, so that it matters less where content lies.

    Example:
        >>> smooth_halve(torch.ones(1, 1, 7, 8)).shape
        torch.Size([1, 1, 4, 4])
    """
    if _in_a_graph():
        taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]).to(image) / 16
        kernel = taps.outer(taps).expand(image.shape[1], 1, 5, 5)
        return F.conv2d(F.pad(image, (2, 2, 2, 2), mode="reflect"), kernel, stride=2, groups=image.shape[1])
    return binomial_halve(image, (2, 2), (2, 2))


def binomial_halve(values: Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
    """The 1 4 6 4 1 averages of every second row and column, after reflect padding of so many at the two ends of each axis."""
    values = F.pad(values, (*columns, *rows), mode="reflect")
    height, width = ((side - 3) // 2 for side in values.shape[-2:])
    down = [values[..., tap : tap + 2 * height - 1 : 2, :] for tap in range(5)]
    values = (down[0] + down[4] + 4 * (down[1] + down[3]) + 6 * down[2]) / 16
    across = [values[..., tap : tap + 2 * width - 1 : 2] for tap in range(5)]
    return (across[0] + across[4] + 4 * (across[1] + across[3]) + 6 * across[2]) / 16


def fuse(scores: Tensor, fusion: Tensor) -> Tensor:
    r"""Fuse per-level scores: :math:`\sum_l w_l s_l` for weights that sum to one.

    Computed as :math:`m + \sum_l w_l (s_l - m)` with :math:`m = \max_l s_l`, so that levels which agree fuse to their very
    value and nothing rises above the best level (a perfect score is 1 to the last bit, whatever the rounding of the weights).

    Args:
        scores: (N, L), or (L,) for a single score.
        fusion: (L,), non-negative, sum one.

    Returns:
        (N,), or a scalar.

    Example:
        >>> fuse(torch.tensor([[1.0, 0.5]]), torch.tensor([0.5, 0.5]))
        tensor([0.7500])
    """
    top = scores.detach().amax(-1, keepdim=True)  # cancels out, so that no gradient is lost
    top = top.where(top.isfinite(), 0)  # the PSNR of equal images is infinite, and stays so
    weights = fusion.to(scores)
    # A level of weight zero does not count, an infinite score included.
    return top.squeeze(-1) + ((scores - top) * weights).masked_fill(weights == 0, 0).sum(-1)
