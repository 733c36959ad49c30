"""Maps laid over images, and their files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..common.scorer import Scorer
from ..images.pairs import Pair
from ..images.read import Reading, decode_pair, to_tensor

#: Share of the strongest pixels that is drawn in full colour.
_CLIPPED = 0.005
_DEFAULT = Reading()


def overlay(image: Tensor, shares: Tensor) -> Image.Image:
    """A grey picture of ``image`` with its map in colour: red where a place adds to the dissimilarity, blue where it takes.

    The colours are scaled to the map itself, so that two pictures show where, not how much.

    Args:
        image: (1, 3, H, W) in [0, 1].
        shares: (1, 1, H, W).
    """
    grey = image[0].mean(0).clamp(0, 1).cpu().numpy()[..., None]
    values = shares[0, 0].float().cpu().numpy()
    largest = np.quantile(np.abs(values), 1 - _CLIPPED) or 1.0
    scaled = np.clip(values / largest, -1, 1)
    colour = matplotlib.colormaps["seismic"]((scaled + 1) / 2)[..., :3]
    strength = np.abs(scaled)[..., None]
    mixed = (0.35 + 0.5 * grey) * (1 - strength) + colour * strength
    return Image.fromarray((mixed * 255).round().astype(np.uint8))


def has_map(scorer: Scorer) -> bool:
    """Whether it can say where two images differ."""
    return scorer.representing is not None and hasattr(scorer.module, "map")


def overlay_of(pair: Pair, scorer: Scorer, reading: Reading = _DEFAULT) -> Image.Image:
    """The overlay of a pair of files, see :func:`overlay`.

    Raises:
        ValueError: the images differ in size, or the metric has no map.
        ImageFileError: a file cannot be read.
    """
    x, y = (to_tensor(picture, scorer.device) for picture in decode_pair(pair.distorted, pair.reference, reading))
    with torch.inference_mode():
        return overlay(x, scorer.module.map(x, y))  # type: ignore[operator]


def write_maps(pairs: Iterable[Pair], scorers: Sequence[Scorer], folder: Path, reading: Reading = _DEFAULT) -> Iterator[Path]:
    """Write, for every pair and every metric that has maps, an overlay ``.png`` and the shares themselves, ``.npy`` float32.

    The files are named after the distorted image and the metric; the folder is made if need be. Sums of the shares are the
    dissimilarity, see :func:`msds_plugin.maps.dissimilarity_map`.

    Args:
        pairs: what to draw.
        scorers: those without maps are passed over.
        folder: where the files go.
        reading: what the image files do not say: see :class:`Reading`.

    Yields:
        The path of each picture, as it is written.

    Raises:
        ValueError: none of the metrics has maps.
        ImageFileError: a file cannot be read.
    """
    able = [scorer for scorer in scorers if has_map(scorer)]
    if not able:
        names = ", ".join(scorer.name for scorer in scorers)
        raise ValueError(f"maps are for DeepSSIM, MSDS and their forms, not for {names}")
    return _written(pairs, able, folder, reading)


def _written(pairs: Iterable[Pair], scorers: Sequence[Scorer], folder: Path, reading: Reading) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    taken: dict[str, int] = {}
    for pair in pairs:
        stem = pair.distorted.stem
        taken[stem] = taken.get(stem, 0) + 1
        name = stem if taken[stem] == 1 else f"{stem}-{taken[stem]}"
        x, y = map(to_tensor, decode_pair(pair.distorted, pair.reference, reading))
        for scorer in scorers:
            shares = scorer.module.map(x.to(scorer.device), y.to(scorer.device))  # type: ignore[operator]
            target = folder / f"{name}.{scorer.name}.png"
            overlay(x, shares).save(target)
            np.save(target.with_suffix(".npy"), shares[0, 0].cpu().numpy().astype(np.float32))
            yield target
