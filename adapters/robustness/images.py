"""The images of a run: every photograph in every distortion and deformation, made once and kept."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from ..benchmark.runner import Progress, no_progress
from ..images.listing import list_images
from ..images.notes import Notes
from ..images.read import Picture, Reading, decode
from ..images.samples import to_bytes
from .deformations import DEFORMATIONS, Photo, deform, inner
from .distortions import DISTORTIONS, distort

_LOG = logging.getLogger(__name__)
#: Of the rows without a deformation or a distortion.
NONE = "none"
#: Shorter photographs have no room for a margin and a network's pyramid.
SMALLEST = 32
#: Part of the folder's name: to be raised when the images come out differently.
_RECIPE = 1


@dataclass(frozen=True)
class Cell:
    """A distortion, then a deformation; ``none`` and zero where there is none."""

    distortion: str
    level: float
    deformation: str
    strength: float


def cells(deformations: Mapping[str, Sequence[float]], distortions: Mapping[str, Sequence[float]]) -> list[Cell]:
    """All combinations, the undistorted and the undeformed ones among them, each once."""
    levels = [(NONE, 0.0), *((name, float(level)) for name, chosen in distortions.items() for level in chosen)]
    moves = [(NONE, 0.0), *((name, float(s)) for name, chosen in deformations.items() for s in chosen if s > 0)]
    return [Cell(*level, *move) for move in dict.fromkeys(moves) for level in dict.fromkeys(levels)]


def make_images(
    photographs: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    wanted: Sequence[Cell],
    progress: Progress = no_progress,
    reading: Reading | None = None,
    note: Callable[[str], object] = _LOG.warning,
) -> pd.DataFrame:
    """Write what is not there yet as PNG, and list everything.

    A photograph's images lie in a folder named after its content, so that a changed photograph gets new ones, and an image
    that is there stays as it is, with its time of change, by which its scores are found again.

    Args:
        photographs: folder of clean photographs.
        folder: where the images go; made if there is none.
        wanted: from :func:`cells`.
        progress: shows how far it is.
        reading: what the photographs' files do not say: see :class:`Reading`.
        note: called once for everything of note in how they were read.

    Returns:
        ``photograph``, ``reference``, ``distorted`` (paths), ``distortion``, ``level``, ``deformation``, ``strength``.

    Raises:
        FileNotFoundError: no such folder.
        ImageFileError: no image in it, or one that cannot be read.
        ValueError: a photograph that is too small, or a strength that is out of range for one.
        MissingDependencyError: seam carving without its package.
    """
    source = Path(photographs)
    if not source.is_dir():
        raise FileNotFoundError(f"no folder of photographs at {source}")
    files = list_images(source)
    rows, notes = [], Notes(note)
    reading = reading or Reading()
    with progress("images", len(files) * len(wanted)) as advance:
        for file in files:
            picture = decode(file, reading)
            notes.say(file, picture)
            for row in _of_photograph(file, _photo(file, picture), Path(folder), wanted):
                rows.append(row)
                advance()
    return pd.DataFrame(rows)


def _of_photograph(file: Path, photo: Photo, folder: Path, wanted: Sequence[Cell]) -> Iterator[dict[str, object]]:
    own = folder / f"{file.stem}-{hashlib.sha256(photo.tobytes() + bytes([_RECIPE])).hexdigest()[:12]}"
    own.mkdir(parents=True, exist_ok=True)
    reference = own / "reference.png"
    _keep(reference, lambda: inner(photo))
    distorted: dict[tuple[str, float], Photo] = {}  # of the strength in progress; each deformation starts from it
    for cell in wanted:
        path = own / f"{_slug(cell.distortion, cell.level)}+{_slug(cell.deformation, cell.strength)}.png"

        def make(cell: Cell = cell) -> Photo:
            key = cell.distortion, cell.level
            if key not in distorted:
                distorted[key] = photo if key[0] == NONE else distort(photo, DISTORTIONS[key[0]], key[1])
            if cell.deformation == NONE:
                return inner(distorted[key])
            return deform(distorted[key], DEFORMATIONS[cell.deformation], cell.strength)

        _keep(path, make)
        yield {
            "photograph": file.name,
            "reference": str(reference),
            "distorted": str(path),
            "distortion": cell.distortion,
            "level": cell.level,
            "deformation": cell.deformation,
            "strength": cell.strength,
        }


def _photo(file: Path, picture: Picture) -> Photo:
    pixels = to_bytes(picture.colours)  # what is deeper is rounded: distortions are of 8 bits
    if min(pixels.shape[:2]) < SMALLEST:
        raise ValueError(f"{file} is {pixels.shape[1]} x {pixels.shape[0]} pixels: at least {SMALLEST} on each side are needed")
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3)).copy()


def _keep(path: Path, make: Callable[[], Photo]) -> None:
    if path.exists():
        return
    part = path.with_name(f".{path.name}.{os.getpid()}")
    Image.fromarray(make()).save(part, "PNG", compress_level=1)
    part.replace(path)  # whole or not at all, also when the run is killed


def _slug(name: str, strength: float) -> str:
    return name.replace(" ", "-") if name == NONE else f"{name.replace(' ', '-')}-{strength:g}"
