"""``msds_plugin.score``: from anything that holds images to scores."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ... import registry
from ...deepssim import pixels_at_once
from ..common.scorer import Scorer
from ..scoring.scorers import create_scorer
from .show import thumbnail, to_html, to_text
from .take import Taken, split, take

#: Pairs that are shown as pictures.
_PICTURED = 6


class Scores(Sequence[float]):
    """Scores of pairs of images: a sequence of floats that shows itself, in a notebook with small pictures.

    Attributes:
        values: (N,) float64.
        metric: its name.
        lower_is_better: direction.
        notes: what was done to images beyond reading 8-bit RGB, one line per image.

    Example:
        >>> scores = Scores([0.5, 1.0], "msds", False)
        >>> scores
        msds, higher is better: 0.5000, 1.0000 (mean 0.7500)
        >>> scores[1], scores.mean()
        (1.0, 0.75)
        >>> float(Scores([0.25], "msds", False))
        0.25
    """

    def __init__(
        self,
        values: Sequence[float],
        metric: str,
        lower_is_better: bool,
        notes: Sequence[str] = (),
        pictures: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.values: npt.NDArray[np.float64] = np.asarray(values, dtype=np.float64)
        self.metric = metric
        self.lower_is_better = lower_is_better
        self.notes = tuple(notes)
        self._pictures = tuple(pictures)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any) -> Any:
        chosen = self.values[index]
        return chosen.tolist() if isinstance(chosen, np.ndarray) else float(chosen)

    def __iter__(self) -> Iterator[float]:
        return iter(self.values.tolist())

    def __float__(self) -> float:
        if len(self) != 1:
            raise TypeError(f"{len(self)} scores are not one number: take one by its index, or mean()")
        return float(self.values[0])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.values, dtype=dtype)

    def mean(self) -> float:
        """The arithmetic mean."""
        return float(self.values.mean())

    def __repr__(self) -> str:
        return to_text(self.values, self.metric, self.lower_is_better, self.notes)

    def _repr_html_(self) -> str:
        return to_html(self.values, self.metric, self.lower_is_better, self.notes, self._pictures)


def score(x: Any, y: Any, metric: str = "msds-fast", device: str | torch.device | None = None, **options: Any) -> Scores:
    """Score distorted images beside their references, whatever holds them.

    Args:
        x: distorted image or images: paths, PIL images, numpy arrays (uint8, uint16 or float in [0, 1]; grey (H, W), RGB
            (H, W, 3) or RGBA), tensors ((3, H, W) or (1, H, W)), batches of either (N, ...), or lists of any of these.
            An EXIF orientation is applied, 16 bits are kept, transparent images are laid over white, pairs whose colour
            profiles differ are compared in sRGB; ``notes`` of the result says where.
        y: references; a single one serves every image of ``x``. The sizes of a pair may differ if the metric allows.
        metric: any name of ``msds list --all``, options after commas if need be: ``"msds,backbone=alexnet"``.
        device: None for the GPU if there is one.
        options: those of the metric.

    Returns:
        One score per image of ``x``, a sequence of floats; ``float()`` of it if it is a single one.

    Raises:
        ValueError: no metric of this name (names the nearest), other numbers of x and y, a file that cannot be read,
            values outside [0, 1], sizes that the metric does not take.
        TypeError: what holds no image, or values whose range is not known.

    Example:
        >>> y = np.zeros((64, 64, 3), np.uint8)
        >>> x = y.copy()
        >>> x[16:48, 16:48] = 255
        >>> scores = score([x, y], y, "msds", backbone="alexnet", weights=None, levels=1)
        >>> len(scores), scores[1]
        (2, 1.0)
    """
    distorted, references = split(x), split(y)
    if len(references) not in (1, len(distorted)):
        raise ValueError(f"{len(distorted)} distorted images and {len(references)} references: give one each, or a single one")
    scorer = _scorer(metric, device, options)
    notes: list[str] = []
    pictures: list[tuple[str, str]] = []
    values: list[float] = []
    batch: list[tuple[Tensor, Tensor]] = []
    shared = _take(references[0], "y", notes) if len(references) == 1 else None
    for index, given in enumerate(distorted):
        name = _name("x", index, distorted)
        one = _take(given, name, notes)
        other = shared if shared is not None else _take(references[index], _name("y", index, references), notes)
        image, reference = one.image, other.image
        if one.profile != other.profile:
            image, reference = one.in_srgb(), other.in_srgb()
            notes.append(f"{name}: compared in sRGB, as the colour profiles of the pair differ")
        if len(pictures) < _PICTURED:
            pictures.append((thumbnail(image), thumbnail(reference)))
        if batch and not _fits(batch, image, reference, scorer.device):
            values += _score(scorer, batch)
            batch = []
        batch.append((image, reference))
    values += _score(scorer, batch)
    return Scores(values, scorer.name, scorer.lower_is_better, notes, pictures)


def _name(side: str, index: int, images: Sequence[Any]) -> str:
    return side if len(images) == 1 else f"{side}[{index}]"


def _take(given: Any, name: str, notes: list[str]) -> Taken:
    taken = take(given)
    if taken.notes:
        notes.append(f"{name}: {', '.join(taken.notes)}")
    return taken


def _fits(batch: Sequence[tuple[Tensor, Tensor]], image: Tensor, reference: Tensor, device: torch.device) -> bool:
    same = batch[0][0].shape == image.shape and batch[0][1].shape == reference.shape
    return same and (len(batch) + 1) * image[0, 0].numel() <= pixels_at_once(device)


def _score(scorer: Scorer, batch: Sequence[tuple[Tensor, Tensor]]) -> list[float]:
    x, y = (torch.cat(images).to(scorer.device) for images in zip(*batch, strict=True))
    with torch.inference_mode():
        return scorer.score(x, y).tolist()


def _scorer(metric: str, device: str | torch.device | None, options: dict[str, Any]) -> Scorer:
    known = registry.get(metric) if metric in registry.names() else None
    if all(isinstance(value, Hashable) for value in options.values()) and options.get("weights", "") is not None:
        return _kept(metric, str(device or ""), tuple(sorted(options.items())), known)
    return create_scorer(metric, device, **options)


@lru_cache(maxsize=4)  # a cell is run again and again
def _kept(metric: str, device: str, options: tuple[tuple[str, Any], ...], known: registry.Metric | None) -> Scorer:
    return create_scorer(metric, device or None, **dict(options))
