"""What people said, as comparisons of two distorted images of which one is preferred."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from msds_plugin.adapters.scoring.files import content

if TYPE_CHECKING:
    from msds_plugin.adapters.benchmark.datasets import Dataset

__all__ = ["Judgements", "from_opinions", "load_twoafc"]

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
#: Comparisons drawn per image and epoch from opinion scores.
_DRAWN = 8
#: A difference in opinion of this many standard deviations makes the preference 73 %.
_SOFT = 0.25


@dataclass(frozen=True)
class Judgements:
    """Distorted images beside references, and how they compare.

    Attributes:
        name: for the record.
        pairs: (reference, distorted) image files.
        scene: which reference a pair belongs to, as a number; references of equal content are one scene.
        opinion: (pairs,), higher is worse; or None.
        judged: (comparisons, 2) indices of pairs and (comparisons,) the share of people who preferred the second; or None.
    """

    name: str
    pairs: Sequence[tuple[Path, Path]]
    scene: NDArray[np.intp]
    opinion: NDArray[np.float64] | None = None
    judged: tuple[Tensor, Tensor] | None = None

    def comparisons(self, chosen: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Indices (n, 2) of pairs among ``chosen`` (pairs,), a mask, and the share that preferred the second."""
        if self.judged is not None:
            both, share = self.judged
            kept = chosen[both[:, 0]] & chosen[both[:, 1]]
            return both[kept], share[kept]
        assert self.opinion is not None
        rows = chosen.nonzero().squeeze(1)
        both = rows[torch.randint(len(rows), (len(rows) * _DRAWN, 2), generator=generator)]
        worse = torch.from_numpy(self.opinion).float() / float(self.opinion.std())
        difference = worse[both[:, 0]] - worse[both[:, 1]]
        kept = difference != 0
        return both[kept], torch.sigmoid(difference[kept] / _SOFT)

    def labels(self) -> str:
        """Tells the labels of judgements apart."""
        values = [] if self.opinion is None else [self.opinion]
        values += [each.numpy() for each in self.judged or ()]
        return hashlib.sha256(b"".join(np.ascontiguousarray(each).tobytes() for each in values)).hexdigest()


def from_opinions(data: Dataset) -> Judgements:
    """The judgements of a data set with opinion scores.

    Raises:
        ValueError: opinions that are all the same.
    """
    pairs = [(Path(r), Path(d)) for r, d in zip(data.table["reference"], data.table["distorted"], strict=True)]
    opinion = data.table["score"].to_numpy(np.float64) * (1 if data.lower_is_better else -1)
    if np.ptp(opinion) == 0:
        raise ValueError(f"nothing can be learned from {data.name}: its opinions are all the same")
    return Judgements(data.name, pairs, _scenes(pairs), opinion)


def load_twoafc(folder: str | os.PathLike[str], name: str | None = None) -> Judgements:
    """Two-alternative forced choices laid out as BAPPS does: ``ref/X.png``, ``p0/X.png``, ``p1/X.png`` and ``judge/X.npy``.

    A judge's file holds one number, the share of people who found p1 closer to the reference. Folders that hold such folders
    (BAPPS's ``train/traditional``, ``train/cnn``, ...) are taken together.

    Raises:
        FileNotFoundError: no such folders, or an image of a judgement that is missing.
        ValueError: a judgement that is not a number in [0, 1].
    """
    root = Path(folder)
    parts = [root] if (root / "judge").is_dir() else sorted(path.parent for path in root.glob("*/judge"))
    judges = [file for part in parts for file in sorted((part / "judge").glob("*.npy"))]
    if not judges:
        raise FileNotFoundError(f"{root} holds no judgements: folders ref, p0, p1 and judge are needed, as in BAPPS")
    pairs, shares = [], []
    for judge in judges:
        value = np.load(judge, allow_pickle=False)
        if value.size != 1 or not 0 <= float(value.reshape(-1)[0]) <= 1:
            raise ValueError(f"{judge} must hold one number in [0, 1], got {value}")
        shares.append(float(value.reshape(-1)[0]))
        reference, first, second = (_image(judge, kind) for kind in ("ref", "p0", "p1"))
        pairs += [(reference, first), (reference, second)]
    both = torch.arange(len(pairs)).view(-1, 2)
    return Judgements(name or root.name, pairs, _scenes(pairs), None, (both, torch.tensor(shares)))


def _image(judge: Path, kind: str) -> Path:
    folder = judge.parents[1] / kind
    for suffix in _IMAGES:
        path = folder / f"{judge.stem}{suffix}"  # the stem may have dots of its own
        if path.is_file():
            return path
    raise FileNotFoundError(f"{judge} has no image {folder / judge.stem} ({', '.join(_IMAGES)})")


def _scenes(pairs: Sequence[tuple[Path, Path]]) -> NDArray[np.intp]:
    known = {reference: content(reference) for reference in {reference for reference, _ in pairs}}
    return np.asarray(np.unique([known[reference] for reference, _ in pairs], return_inverse=True)[1])
