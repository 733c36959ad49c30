"""Maps of where two images differ: as pictures, figures and files."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
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
from msds_plugin.adapters.scoring.files import replace_file
from msds_plugin.adapters.scoring.loop import Run, reason

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
        raise ValueError(
            f"{scorer.name} has no map of where images differ: take msds-auto, or DeepSSIM, MSDS or a form of them"
        )
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
    """A grey picture of ``image`` (1, 3, H, W) with its map (1, 1, H, W) in colour: red adds to the dissimilarity, blue takes.

    The colours go up to the 99th percentile of the map's absolute values, so that two pictures show where, not how much.
    """
    import matplotlib

    grey = image[0].mean(0).clamp(0, 1).cpu().numpy()[..., None]
    values, limit = _scaled(shares)
    scaled = np.clip(values / limit, -1, 1)
    strength = np.abs(scaled)[..., None]
    mixed = (0.35 + 0.5 * grey) * (1 - strength) + matplotlib.colormaps["seismic"]((scaled + 1) / 2)[..., :3] * strength
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
    axes = drawn.add_subplot(title=title)
    axes.imshow(overlay(image, shares))
    axes.set_axis_off()
    label = f"share of the dissimilarity (colours end at the {CLIPPED:.0%} quantile)"
    drawn.colorbar(ScalarMappable(Normalize(-limit, limit), "seismic"), ax=axes, shrink=0.8, label=label)
    cast(Any, drawn)._repr_png_ = partial(_png, drawn)  # a notebook shows figures by itself only once pyplot is in use
    return drawn


def _png(drawn: Figure) -> bytes:
    file = io.BytesIO()
    drawn.savefig(file, format="png")
    return file.getvalue()


def map_names(pairs: Sequence[Pair], metrics: Sequence[str]) -> list[list[str]]:
    """A name without suffix for the map of each pair by each metric, none twice, whatever a file system thinks of case.

    It is made of the distorted image's and the metric's name; what would be two files of one name keeps the image's suffix, its
    folder, and at last a number.
    """
    files = [pair.distorted for pair in pairs]
    images = _distinct([[_safe(path.stem), _safe(path.name), _safe(f"{path.parent.name}-{path.name}")] for path in files])
    by_metric = _distinct([[_safe(name)] for name in metrics])
    return [[f"{image}.{metric}" for metric in by_metric] for image in images]


def _distinct(choices: Sequence[Sequence[str]]) -> list[str]:
    """One of the choices for each, the first that nobody else could have; else the last with a number."""
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

    Sums of the shares are the dissimilarity, see :func:`msds_plugin.maps.dissimilarity_map`. Yields the pair, the metric's
    name, and the path of its picture; in place of the path why there is none.
    """
    able = [scorer for scorer in scorers if scorer.metric.has_map]
    folder.mkdir(parents=True, exist_ok=True)
    for pair, names in zip(pairs, map_names(pairs, [scorer.name for scorer in able]), strict=True):
        for scorer, name in zip(able, names, strict=True):
            path = folder / f"{name}.png"
            try:
                image, shares = map_of(scorer, *open_pair(pair, run.reading))
                _write(image, shares, path)
            except Exception as error:  # one pair without a map must not cost the others theirs
                yield pair, scorer.name, reason(error)
            else:
                yield pair, scorer.name, path


def _write(image: torch.Tensor, shares: torch.Tensor, path: Path) -> None:
    """The overlay and, beside it, the shares."""
    values = io.BytesIO()  # writing to a file itself, numpy does not say that the disk is full
    np.save(values, shares[0, 0].cpu().numpy().astype(np.float32))
    replace_file(path.with_suffix(".npy"), lambda part: part.write_bytes(values.getvalue()))
    replace_file(path, lambda part: overlay(image, shares).save(part, "PNG"))
