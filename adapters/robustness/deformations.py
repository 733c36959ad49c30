"""Geometric deformations that nobody minds: the picture is whole, only not where it was. Strength zero changes nothing.

Strengths are relative to the photograph, so that one list does for photographs of any size. What a deformation moves into
view comes from the photograph's own margin, never from beyond its border.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage import transform

from ...errors import MissingDependencyError

Photo: TypeAlias = npt.NDArray[np.uint8]
Grid: TypeAlias = npt.NDArray[np.float64]

#: Width of the margin around the reference, as a share of the photograph's longer side.
MARGIN = 1 / 16
#: Smoothness of the elastic field, as a share of the longer side: 12 pixels of 512.
_SMOOTH = 12 / 512


@dataclass(frozen=True)
class Deformation:
    """One way to move a picture.

    Attributes:
        name: for tables.
        unit: what a strength is.
        strengths: those used unless others are given.
        apply: (photograph with its margin, strength > 0) to the deformed photograph without margin, uint8 (H, W, 3).
        most: strengths lie below this.
    """

    name: str
    unit: str
    strengths: tuple[float, ...]
    apply: Callable[[Photo, float], Photo]
    most: float = 100.0


def inner(photo: Photo) -> Photo:
    """The reference: the photograph without its margin."""
    edge = margin(photo)
    return photo[edge:-edge, edge:-edge]


def margin(photo: Photo) -> int:
    """Pixels of the margin on each side, at least one."""
    return max(1, round(MARGIN * max(photo.shape[:2])))


def deform(photo: Photo, deformation: Deformation, strength: float) -> Photo:
    """A deformed photograph, without margin; the undeformed one at strength zero.

    Args:
        photo: uint8, (H, W, 3), with the margin that is cut off.
        deformation: which.
        strength: in its unit, from zero.

    Raises:
        ValueError: a strength out of range, or one that would need pixels from beyond the photograph.
    """
    if not 0 <= strength < deformation.most:
        raise ValueError(f"{deformation.name}: strengths go from 0 to below {deformation.most:g}, got {strength:g}")
    return inner(photo) if strength == 0 else deformation.apply(photo, strength)


def to_bytes(image: npt.NDArray[Any]) -> Photo:
    """Values in [0, 1] as bytes, clipped and rounded."""
    return np.asarray((image.clip(0, 1) * 255).round(), dtype=np.uint8)


def _grid(photo: Photo) -> Grid:
    """Rows and columns (2, h, w) of the inner pixels, in the photograph with its margin."""
    edge = margin(photo)
    height, width = inner(photo).shape[:2]
    return np.stack(np.meshgrid(np.arange(height) + edge, np.arange(width) + edge, indexing="ij")).astype(float)


def _sample(photo: Photo, places: Grid, name: str, strength: float) -> Photo:
    """The photograph at other places (2, h, w), by cubic interpolation."""
    limits = np.array(photo.shape[:2])[:, None, None] - 1
    if (places < 0).any() or (places > limits).any():
        raise ValueError(
            f"{name} of {strength:g} would need pixels from beyond a photograph of {photo.shape[1]} x {photo.shape[0]}: "
            "give a smaller strength"
        )
    # Symmetric at the borders, which only the interpolation's outermost taps see.
    channels = [transform.warp(channel / 255, places, order=3, mode="symmetric") for channel in np.moveaxis(photo, 2, 0)]
    return to_bytes(np.stack(channels, axis=2))


def _rotate(photo: Photo, degrees: float) -> Photo:
    grid = _grid(photo)
    centre = (np.array(photo.shape[:2])[:, None, None] - 1) / 2
    rows, columns = grid - centre
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return _sample(photo, np.stack([cos * rows + sin * columns, cos * columns - sin * rows]) + centre, "rotation", degrees)


def _shift(photo: Photo, percent: float) -> Photo:
    """To the right and down by whole pixels, at least one, so that no pixel is interpolated."""
    pixels = max(1, round(percent / 100 * max(photo.shape[:2])))
    edge = margin(photo)
    if pixels > edge:
        raise ValueError(f"shift of {percent:g} % is more than the margin of {100 * MARGIN:g} %: give a smaller strength")
    height, width = inner(photo).shape[:2]
    first = edge - pixels
    return photo[first : first + height, first : first + width]


def _perspective(photo: Photo, percent: float) -> Photo:
    """Seen from the side: the right edge is farther away, so that it shrinks by ``percent`` at each end."""
    edge = margin(photo)
    height, width = inner(photo).shape[:2]
    give = percent / 100 * max(photo.shape[:2])
    left, top, right, bottom = edge, edge, edge + width - 1, edge + height - 1
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], dtype=float)
    seen = np.array([[left, top], [right, top - give], [right, bottom + give], [left, bottom]], dtype=float)
    rows, columns = _grid(photo)
    mapping = transform.ProjectiveTransform.from_estimate(corners, seen)
    places = mapping(np.column_stack([columns.ravel(), rows.ravel()]))
    return _sample(photo, np.stack([places[:, 1], places[:, 0]]).reshape(2, height, width), "perspective", percent)


def _elastic(photo: Photo, percent: float) -> Photo:
    """A smooth random field, the same for every photograph of one size, of a root mean square of ``percent``."""
    grid = _grid(photo)
    long = max(photo.shape[:2])
    noise = np.random.default_rng(0).standard_normal(grid.shape)
    field = ndimage.gaussian_filter(noise, (0, _SMOOTH * long, _SMOOTH * long), mode="reflect")
    field *= percent / 100 * long / np.sqrt((field**2).mean())
    return _sample(photo, grid + field, "elastic", percent)


def _scale(photo: Photo, percent: float) -> Photo:
    image = inner(photo)
    height, width = (max(1, round(side * (1 - percent / 100))) for side in image.shape[:2])
    return to_bytes(transform.resize(image / 255, (height, width), order=3, anti_aliasing=True))


def _crop(photo: Photo, percent: float) -> Photo:
    image = inner(photo)
    height, width = (max(1, round(side * (1 - percent / 100))) for side in image.shape[:2])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def _seams(photo: Photo, percent: float) -> Photo:
    try:
        from seam_carving import resize
    except ImportError as error:
        raise MissingDependencyError(
            f"seam carving needs the package seam-carving ({error}): pip install 'msds-plugin[retarget]'"
        ) from error
    image = inner(photo)
    width = max(1, round(image.shape[1] * (1 - percent / 100)))
    return np.ascontiguousarray(resize(np.ascontiguousarray(image), size=(width, image.shape[0]), energy_mode="forward"))


DEFORMATIONS: Mapping[str, Deformation] = {
    each.name: each
    for each in (
        Deformation("rotation", "degrees", (1, 3, 5), _rotate, 45),
        Deformation("scale", "% smaller", (5, 15, 30), _scale),
        Deformation("shift", "% of the longer side", (0.5, 1.5, 4), _shift),
        Deformation("crop", "% of each side cut away", (5, 15, 30), _crop),
        Deformation("perspective", "% of the longer side at each far corner", (1, 3, 5), _perspective),
        Deformation("elastic", "% of the longer side, root mean square", (0.1, 0.2, 0.4), _elastic),
        Deformation("seam carving", "% of the width", (5, 15, 30), _seams),
    )
}
