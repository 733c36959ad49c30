"""Where two images look different that may be off by a pixel: what ``msds assert`` tests by."""

from __future__ import annotations

from itertools import product

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage, special
from torch import Tensor

from msds_plugin.checks import check_aligned
from msds_plugin.msds import CallableMetric

__all__ = ["LocalDifference", "local_difference"]

Array = npt.NDArray[np.float32]

#: Each term is divided by what lies between the most of harmless changes and the least of harmful ones: docs/research/gate.md.
LUMA, COLOUR, DETAIL = 2.5, 3.3, 0.17
#: Pixels of the sides of the blocks whose levels are counted, and of the window in which detail is.
BLOCK, WINDOW = 64, 58
#: Whole pixels by which an image may be moved as a whole.
MOVE = 2
#: Images with a shorter side, icons for example, are compared where they are.
SMALLEST = 24
#: sRGB of 0 to 255 to luma and two colour differences (JPEG's).
_YCC = np.array([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]], np.float32)


def local_difference(new: Array, golden: Array) -> Array:
    r"""How different two images look at each pixel; the largest value stands for the image.

    The new image is moved over the golden, by up to 2.75 pixels. At each pixel the largest of four terms counts, with :math:`y`
    and :math:`c` luma and the two colour differences of the golden (0 to 255), :math:`d` how far those of the new image are
    off, :math:`G_\sigma` a Gaussian low-pass, :math:`M` the mean of means of 58 x 58 pixels, and :math:`N` the number of levels
    that a channel uses in a block of 64 x 64 pixels (the exponential of the entropy of its histogram):

    .. math:: \frac{1}{2.5} \sqrt{\frac{G_2 (G_2 d_y)^2}{1 + G_2 (y - G_2 y)^2}}, \quad
        \frac{1}{3.3} \sqrt{\frac{G_2 |G_2 d_c|^2}{1 + G_2 |c - G_2 c|^2 / 100}}, \quad
        \frac{1}{0.17} \frac{M(h\, \delta)}{M(h^2) + 4}, \quad \log_2 \frac{N_{golden} + 8}{N_{new} + 8},

    with :math:`h = (G_1 - G_2) y` and :math:`\delta = (G_1 - G_2) d_y`. The first two are the difference that resampling,
    antialiasing and compression do not explain, beside the contrast that hides it: objects and colours. The third is the share
    of fine detail that is missing: blur, other letters. The last finds banding, which texture hides from the others.

    Args:
        new, golden: (H, W, 3), sRGB in [0, 1].

    Returns:
        (H, W), from 0, the value of identical images, without an upper bound; on borders that only one image shows the last
        term alone. 1 is more than harmless changes give.

    Raises:
        ValueError: images of different shapes.
    """
    if new.shape != golden.shape:
        raise ValueError(f"the local difference needs images of one shape, got {new.shape} and {golden.shape}")
    found = _lost_levels(new, golden)
    place, d, kept = _aligned(*(np.tensordot(_YCC, 255 * image.astype(np.float32), (1, 2)) for image in (new, golden)))
    luma = _beside_contrast(d[:1], kept[:1], 1)
    colour = _beside_contrast(d[1:], kept[1:], 1 / 100)
    detail, lost = (_blur(image, 1) - _blur(image, 2) for image in (kept[0], d[0]))
    share = _mean(detail * lost) / (_mean(detail**2) + 4)
    found[place] = np.maximum.reduce([found[place], luma / LUMA, colour / COLOUR, share / DETAIL])
    return found


def _blur(image: Array, sigma: float) -> Array:
    return ndimage.gaussian_filter(image, sigma, truncate=3, axes=(-2, -1))


def _mean(image: Array) -> Array:
    return ndimage.uniform_filter(ndimage.uniform_filter(image, WINDOW), WINDOW)


def _beside_contrast(difference: Array, golden: Array, hiding: float) -> Array:
    """The low-passed difference, made smaller by the golden's contrast there."""
    seen = _blur((_blur(difference, 2) ** 2).sum(0), 2)
    return np.sqrt(seen / (1 + hiding * _blur(((golden - _blur(golden, 2)) ** 2).sum(0), 2)))


def _lost_levels(new: Array, golden: Array) -> Array:
    """Bits by which the 8-bit levels in use become fewer, of the channel that loses most."""
    images = [(255 * image).round().clip(0, 255).astype(np.uint8) for image in (golden, new)]
    found = np.zeros(golden.shape[:2], np.float32)
    rows, columns = (np.array_split(np.arange(side), max(1, side // BLOCK)) for side in golden.shape[:2])
    for y, x in product(rows, columns):
        block = np.s_[y[0] : y[-1] + 1, x[0] : x[-1] + 1]
        before, after = (_levels(image[block]) + 8 for image in images)
        found[block] = np.log2(before / after).max().clip(0)
    return found


def _levels(block: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """How many levels each channel uses: of evenly used ones their number, rare ones count less."""
    counts = [np.bincount(channel, minlength=256) for channel in block.reshape(-1, 3).T]
    return np.exp(special.entr(np.array(counts) / counts[0].sum()).sum(1))


def _aligned(new: Array, golden: Array) -> tuple[tuple[slice, slice], Array, Array]:
    """The place in the golden (channels, rows, columns) that both images show, the difference there, and the golden there."""
    height, width = golden.shape[1:]
    if min(height, width) < SMALLEST:
        return (slice(height), slice(width)), golden - new, golden
    y, x = _whole_shift(new[0], golden[0])
    place = (slice(max(0, -y), height - max(0, y)), slice(max(0, -x), width - max(0, x)))
    golden, new = golden[:, place[0], place[1]], new[:, max(0, y) : height - max(0, -y), max(0, x) : width - max(0, -x)]
    shift = _subpixel_shift(new[0], golden[0])
    if np.abs(shift).max() > 0.05:
        moved = np.stack([ndimage.shift(channel, -shift, order=3, mode="nearest") for channel in new])
        inner = np.s_[:, 2:-2, 2:-2]  # the spline knows nothing beyond the border
        before, after = (np.abs(golden[0] - image[0])[inner[1:]].mean() for image in (new, moved))
        if after < 0.8 * before:
            place = (slice(place[0].start + 2, place[0].stop - 2), slice(place[1].start + 2, place[1].stop - 2))
            return place, golden[inner] - moved[inner], golden[inner]
    return place, golden - new, golden


def _whole_shift(new: Array, golden: Array) -> tuple[int, int]:
    """Rows and columns by which ``new`` is moved: the smallest mean difference of luma."""
    height, width = golden.shape
    inner = golden[MOVE:-MOVE, MOVE:-MOVE]
    moves = range(-MOVE, MOVE + 1)

    def distance(shift: tuple[int, int]) -> float:
        y, x = shift
        moved = new[MOVE + y : height - MOVE + y, MOVE + x : width - MOVE + x]
        return float(np.abs(inner - moved).mean()) + 1e-6 * (x * x + y * y)

    return min(product(moves, moves), key=distance)


def _subpixel_shift(new: Array, golden: Array) -> Array:
    """The rest of the shift, at most 0.75 each: one step of Lucas and Kanade for the whole image."""
    new, golden = _blur(new, 1.5), _blur(golden, 1.5)
    slopes = np.stack([slope.ravel() for slope in np.gradient(new)])
    shift = np.linalg.solve(slopes @ slopes.T + 1e-3 * np.eye(2), slopes @ (golden - new).ravel())
    return np.asarray(shift.clip(-0.75, 0.75), np.float32)


class LocalDifference(CallableMetric):
    """:func:`local_difference` as a metric: its largest value in each image, 0 for identical ones. Lower is better."""

    has_map = True

    def __init__(self) -> None:
        super().__init__(lambda x, y: LocalDifference.map(x, y).amax((1, 2, 3)), "local-difference/1")
        self.lower_is_better = True

    @staticmethod
    def map(x: Tensor, y: Tensor) -> Tensor:
        """The differences (N, 1, H, W) of images ``x`` from goldens ``y``, (N, 3, H, W) in [0, 1] and of one size."""
        check_aligned(x, y, "the local difference")
        pairs = zip(*(images.detach().permute(0, 2, 3, 1).float().cpu().numpy() for images in (x, y)), strict=True)
        return torch.stack([torch.from_numpy(local_difference(*pair))[None] for pair in pairs]).to(x.device)
