"""Maps of where two images differ: as pictures, figures and files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from msds_plugin.adapters.images.large import LargeImage
from msds_plugin.adapters.images.pairs import Pair
from msds_plugin.adapters.images.read import Opened, open_pair, to_tensor
from msds_plugin.adapters.scorers import Scorer
from msds_plugin.adapters.scoring.options import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Quantile of a map's absolute values at which colours end, so that few places do not hide the rest.
CLIPPED = 0.99


def map_of(scorer: Scorer, distorted: Opened, reference: Opened) -> tuple[torch.Tensor, torch.Tensor]:
    """The distorted image (1, 3, H, W), and the share (1, 1, H, W) of each place in the dissimilarity of two images.

    Raises:
        ValueError: the metric has no map, the images differ in size, or they are read in windows.
    """
    if not scorer.metric.has_map:
        raise ValueError(f"{scorer.name} has no map of where images differ: take one of DeepSSIM, MSDS and their forms")
    if distorted.size != reference.size:
        sizes = " and ".join(f"{width} x {height}" for height, width in (distorted.size, reference.size))
        raise ValueError(f"images of different sizes ({sizes}) have no map")
    if isinstance(distorted, LargeImage) or isinstance(reference, LargeImage):
        raise ValueError("images that are read in windows have no map: cut out the part that matters")
    x, y = (to_tensor(image, scorer.device) for image in (distorted, reference))
    with torch.inference_mode():
        shares: torch.Tensor = cast(Any, scorer.metric).map(x, y)
    return x, shares


def overlay(image: torch.Tensor, shares: torch.Tensor) -> Image.Image:
    """A grey picture of ``image`` with its map in colour: red where a place adds to the dissimilarity, blue where it takes.

    The colours go up to the 99th percentile of the map's absolute values, so that two pictures show where, not how much.

    Args:
        image: (1, 3, H, W) in [0, 1].
        shares: (1, 1, H, W).
    """
    import matplotlib

    grey = image[0].mean(0).clamp(0, 1).cpu().numpy()[..., None]
    values, limit = _scaled(shares)
    scaled = np.clip(values / limit, -1, 1)
    colour = matplotlib.colormaps["seismic"]((scaled + 1) / 2)[..., :3]
    strength = np.abs(scaled)[..., None]
    mixed = (0.35 + 0.5 * grey) * (1 - strength) + colour * strength
    return Image.fromarray((mixed * 255).round().astype(np.uint8))


def _scaled(shares: torch.Tensor) -> tuple[npt.NDArray[np.float32], float]:
    values = shares[0, 0].float().cpu().numpy()
    return values, float(np.quantile(np.abs(values), CLIPPED)) or float(np.abs(values).max()) or 1.0


def figure(image: torch.Tensor, shares: torch.Tensor, title: str = "") -> Figure:
    """The overlay of :func:`overlay` with a colour bar that states its scale."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    _, limit = _scaled(shares)
    drawn = Figure(figsize=(6, 6 * shares.shape[-2] / shares.shape[-1] + 0.6), layout="constrained")
    axes = drawn.add_subplot()
    axes.imshow(overlay(image, shares))
    axes.set_axis_off()
    axes.set_title(title)
    bar = drawn.colorbar(ScalarMappable(Normalize(-limit, limit), "seismic"), ax=axes, shrink=0.8)
    bar.set_label(f"share of the dissimilarity (colours end at the {CLIPPED:.0%} quantile)")
    return drawn


def map_names(pairs: Sequence[Pair], scorers: Sequence[Scorer]) -> dict[tuple[int, str], str]:
    """A name without suffix for the map of each pair (by its place) and each metric with maps (by its name), none twice.

    It is made of the distorted image's and the metric's name; what would be two files of one name keeps the image's suffix, its
    folder, and at last a number.
    """
    files = [pair.distorted for pair in pairs]
    images = _distinct([[_safe(path.stem), _safe(path.name), _safe(f"{path.parent.name}-{path.name}")] for path in files])
    metrics = _distinct([[_safe(scorer.name)] for scorer in scorers])
    return {
        (place, scorer.name): f"{image}.{metric}"
        for place, image in enumerate(images)
        for scorer, metric in zip(scorers, metrics, strict=True)
    }


def _distinct(choices: Sequence[Sequence[str]]) -> list[str]:
    """One of the choices for each, the first that nobody else could have, whatever a file system thinks of case; else the last
    with a number."""
    wanted = Counter(name for names in choices for name in {name.casefold() for name in names})
    found = []
    for names in choices:
        numbered = (f"{names[-1]}-{number}" for number in count(1))
        name = next(name for name in chain(names, numbered) if wanted[name.casefold()] <= (name in names))
        wanted[name.casefold()] += 1
        found.append(name)
    return found


def _safe(name: str) -> str:
    """The name of a file; long ones, and options that hold paths, are shortened."""
    plain = re.sub(r"[^\w.,=() +-]+", "_", re.sub(r"=[^,)]*/([^,)/]*)", r"=\1", name)).strip(". ")
    return plain.encode()[:100].decode(errors="ignore") or "map"


def write_maps(
    pairs: Sequence[Pair], scorers: Sequence[Scorer], folder: Path, run: Run
) -> Iterator[tuple[Pair, str, Path | str]]:
    """Write, for every pair and every metric that has maps, an overlay ``.png`` and the shares themselves, ``.npy`` float32.

    Sums of the shares are the dissimilarity, see :func:`msds_plugin.maps.dissimilarity_map`.

    Args:
        pairs: what to draw.
        scorers: those without maps are passed over.
        folder: where the files go; it is made if need be.
        run: how the files are read.

    Yields:
        The pair, the metric's name, and the path of its picture; in place of the path why there is none.
    """
    able = [scorer for scorer in scorers if scorer.metric.has_map]
    names = map_names(pairs, able)
    folder.mkdir(parents=True, exist_ok=True)
    for place, pair in enumerate(pairs):
        for scorer in able:
            try:
                path = folder / f"{names[place, scorer.name]}.png"
                _write_map(pair, scorer, path, run)
            except Exception as error:  # one pair without a map must not cost the others theirs
                yield pair, scorer.name, " ".join(str(error).split()) or type(error).__name__
            else:
                yield pair, scorer.name, path


def _write_map(pair: Pair, scorer: Scorer, path: Path, run: Run) -> None:
    image, shares = map_of(scorer, *open_pair(pair, run.reading, _silent))
    np.save(path.with_suffix(".npy"), shares[0, 0].cpu().numpy().astype(np.float32))
    overlay(image, shares).save(path)


def _silent(note: str) -> None:
    pass  # the run has said it
