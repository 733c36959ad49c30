"""Masks: what lies outside of them does not count."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from msds_plugin.adapters.images.colours import unit
from msds_plugin.adapters.images.large import LargeImage
from msds_plugin.adapters.images.listing import Listing, list_folder
from msds_plugin.adapters.images.pairs import match_listings
from msds_plugin.adapters.images.read import Opened
from msds_plugin.adapters.scorers import Scorer
from msds_plugin.encoder import MatrixMetric
from msds_plugin.windows import Image


@dataclass(frozen=True, eq=False)
class Mask:
    """A mask that is white somewhere and not everywhere.

    Attributes:
        weights: (1, 1, H, W), 1 where the images count, else 0.
        box: top, left, height and width of the smallest rectangle around that.
    """

    weights: Tensor
    box: tuple[int, int, int, int]

    def saliency(self, metric: MatrixMetric, images: Image) -> Tensor:
        """The saliency maps (N, 1, H, W) of images: the mask, times the maps that the metric makes for itself."""
        own = metric.attend(images)
        if own is None:
            return self.weights.expand(images.shape[0], -1, -1, -1)
        if not isinstance(own, Tensor):
            raise ValueError("images that are read in windows have a mask or saliency, not both: leave one out")
        return own * self.weights.to(own)


def to_mask(image: Opened, size: tuple[int, int], name: object) -> Mask | None:
    """An image, white (more than 0.5) where a reference of this height and width counts, as a mask; None if that is everywhere.

    Raises:
        ValueError: another size, or nothing is white; names what it is.
    """
    if image.size != size:
        (height, width), (wanted_height, wanted_width) = image.size, size
        raise ValueError(f"the mask {name} has {width} x {height} pixels, its reference {wanted_width} x {wanted_height}")
    if isinstance(image, LargeImage):
        raise ValueError(f"the mask {name} is too large a TIFF: save it as PNG")
    white = unit(image.colours).mean(2) > 0.5
    if not white.any():
        raise ValueError(f"the mask {name} is nowhere white, so that nothing would be compared")
    if white.all():
        return None
    rows, columns = (np.flatnonzero(white.any(axis)) for axis in (1, 0))
    box = int(rows[0]), int(columns[0]), int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
    return Mask(torch.from_numpy(white.astype(np.float32))[None, None], box)


def takes_weights(scorer: Scorer) -> bool:
    """Whether a mask is the metric's saliency; of other metrics the images are cropped to its bounding box.

    MSDS-Retarget takes saliency as well, but compares the Gram matrices of whole images.
    """
    return isinstance(scorer.metric, MatrixMetric)


def describe(scorers: Sequence[Scorer]) -> str:
    """What a mask means for these metrics, in a sentence."""
    parts = [
        f"{words} {', '.join(names)}"
        for words, weighs in (("as saliency for", True), ("as a crop to its bounding box for", False))
        if (names := [scorer.name for scorer in scorers if takes_weights(scorer) == weighs])
    ]
    return f"Mask: {' and '.join(parts)}"


def find_masks(mask: Path, references: Iterable[Path], unused: Iterable[Path] = ()) -> dict[Path, Path]:
    """The mask of each reference: one file for all, or those in a folder, matched by name; ``unused``: images whose masks are
    passed over.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: a reference without a mask, or a mask without a reference.
    """
    if not mask.exists():
        raise FileNotFoundError(f"no mask at {mask}")
    if not mask.is_dir():
        return dict.fromkeys(references, mask)
    given = {path: path for path in references}
    if len({path.is_absolute() for path in given}) > 1:
        given = {Path(os.path.abspath(path)): path for path in given}
    folder = Path(os.path.commonpath([path.parent for path in given]))
    try:
        found = match_listings(Listing(folder, tuple(given)), list_folder(mask, True))
    except ValueError as error:
        raise ValueError(f"masks of the images in {folder}: {error}") from error
    spare = {path.stem for path in unused}
    if lacking := [path for path in found.unmatched if path in given or path.stem not in spare]:
        names = ", ".join(map(str, lacking[:3])) + ", ..." * (len(lacking) > 3)
        raise ValueError(f"a mask for every reference, and a reference for every mask, of the same name; without one: {names}")
    return {given[pair.reference]: pair.distorted for pair in found.pairs}
