"""Where two images look different that may be off by a pixel: what ``msds assert`` tests by."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from msds_plugin.checks import check_aligned
from msds_plugin.msds import CallableMetric

__all__ = ["LocalDifference", "local_difference"]

Array = npt.NDArray[np.float32]

#: Of harmless changes, by docs/research/gate.md: difference beside contrast, and share of detail that is lost.
CONTRAST, DETAIL = 1.3, 0.2
#: Whole pixels by which an image may be moved as a whole.
MOVE = 2
#: Images with a shorter side, icons for example, are compared where they are.
SMALLEST = 24
#: sRGB of 0 to 255 to luma and two colour differences (JPEG's).
_YCC = np.array([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]], np.float32)


def local_difference(new: Array, golden: Array) -> Array:
    r"""How different two images look at each pixel; the largest value stands for the image.

    The new image is moved over the golden, by up to 2.75 pixels. At each pixel the larger of two terms counts, with
    :math:`d` the difference of the two in luma and colour (0 to 255), :math:`y` the golden's luma, and
    :math:`G_\sigma` a Gaussian low-pass:

    .. math:: \frac{1}{1.3} \sqrt{\frac{G_2 |G_2 d|^2}{1 + G_2 (y - G_2 y)^2}}, \qquad
        \frac{1}{0.2} \frac{G_{16}(h\, \delta)}{G_{16}(h^2) + 4},\quad h = (G_1 - G_2) y,\; \delta = (G_1 - G_2) d_y.

    The first is the difference that resampling and antialiasing do not explain, beside the contrast that hides it: objects,
    colours, banding. The second is the share of fine detail that is missing: blur, other letters.

    Args:
        new, golden: (H, W, 3), sRGB in [0, 1].

    Returns:
        (H, W), from 0, the value of identical images, without an upper bound; 0 on borders that only one image shows.
        1 is about as much as harmless changes give at most.

    Raises:
        ValueError: images of different shapes.
    """
    if new.shape != golden.shape:
        raise ValueError(f"the local difference needs images of one shape, got {new.shape} and {golden.shape}")
    place, moved, kept = _aligned(*(255 * image.astype(np.float32) @ _YCC.T for image in (new, golden)))
    d, y = kept - moved, kept[..., 0]
    difference = _blur((_blur(d, 2) ** 2).sum(-1), 2) / (1 + _blur((y - _blur(y, 2)) ** 2, 2))
    detail, lost = (_blur(luma, 1) - _blur(luma, 2) for luma in (y, d[..., 0]))
    share = _blur(detail * lost, 16) / (_blur(detail**2, 16) + 4)
    found = np.zeros(golden.shape[:2], np.float32)
    found[place] = np.maximum(np.sqrt(difference) / CONTRAST, share / DETAIL)
    return found


def _blur(image: Array, sigma: float) -> Array:
    return ndimage.gaussian_filter(image, (sigma, sigma, 0)[: image.ndim], truncate=3)


def _aligned(new: Array, golden: Array) -> tuple[tuple[slice, slice], Array, Array]:
    """What both images show: its place in the golden, and the two parts of one size."""
    height, width = golden.shape[:2]
    if min(height, width) < SMALLEST:
        return (slice(height), slice(width)), new, golden
    y, x = _whole_shift(new[..., 0], golden[..., 0])
    place = (slice(max(0, -y), height - max(0, y)), slice(max(0, -x), width - max(0, x)))
    golden, new = golden[place], new[slice(max(0, y), height - max(0, -y)), slice(max(0, x), width - max(0, -x))]
    shift = _subpixel_shift(new[..., 0], golden[..., 0])
    if np.abs(shift).max() > 0.05:
        moved = ndimage.shift(new, (*-shift, 0), order=3, mode="nearest")
        inner = (slice(2, -2), slice(2, -2))  # the spline knows nothing beyond the border
        before, after = (np.abs(golden - image)[inner][..., 0].mean() for image in (new, moved))
        if after < 0.8 * before:
            place = (slice(place[0].start + 2, place[0].stop - 2), slice(place[1].start + 2, place[1].stop - 2))
            return place, moved[inner], golden[inner]
    return place, new, golden


def _whole_shift(new: Array, golden: Array) -> tuple[int, int]:
    """Rows and columns by which ``new`` is moved: the smallest mean difference of luma."""
    height, width = golden.shape
    inner = golden[MOVE:-MOVE, MOVE:-MOVE]
    moves = range(-MOVE, MOVE + 1)

    def distance(y: int, x: int) -> float:
        moved = new[MOVE + y : height - MOVE + y, MOVE + x : width - MOVE + x]
        return float(np.abs(inner - moved).mean()) + 1e-6 * (x * x + y * y)

    return min(((y, x) for y in moves for x in moves), key=lambda shift: distance(*shift))


def _subpixel_shift(new: Array, golden: Array) -> Array:
    """The rest of the shift, at most 0.75 each: one step of Lucas and Kanade for the whole image."""
    new, golden = _blur(new, 1.5), _blur(golden, 1.5)
    slopes = np.stack([slope.ravel() for slope in np.gradient(new)])
    shift = np.linalg.solve(slopes @ slopes.T + 1e-3 * np.eye(2), slopes @ (golden - new).ravel())
    return np.asarray(shift.clip(-0.75, 0.75), np.float32)


class LocalDifference(CallableMetric):
    """:func:`local_difference` as a metric: its largest value in each image, 0 for identical ones. Lower is better."""

    lower_is_better = True
    has_map = True

    def __init__(self) -> None:
        super().__init__(lambda x, y: _maps(x, y).amax((1, 2, 3)), "local-difference/1")

    def map(self, x: Tensor, y: Tensor) -> Tensor:
        """The differences (N, 1, H, W) of images ``x`` from goldens ``y``, (N, 3, H, W) in [0, 1] and of one size."""
        return _maps(x, y)


def _maps(x: Tensor, y: Tensor) -> Tensor:
    check_aligned(x, y, "the local difference")
    pairs = zip(*(images.detach().permute(0, 2, 3, 1).float().cpu().numpy() for images in (x, y)), strict=True)
    return torch.stack([torch.from_numpy(local_difference(*pair))[None] for pair in pairs]).to(x.device)
