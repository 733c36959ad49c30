"""Photographs made worse (distortions) and moved (deformations), at known strengths.

What a deformation moves into view comes from the photograph's own margin, never from beyond its border.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage
from skimage import filters, transform

from msds_plugin.errors import MissingDependencyError

Photo: TypeAlias = npt.NDArray[np.uint8]
Grid: TypeAlias = npt.NDArray[np.float64]

#: Width of the margin around the reference, as a share of the photograph's longer side.
MARGIN = 1 / 16
#: Smoothness of the elastic field, as a share of the longer side: 12 pixels of 512.
_SMOOTH = 12 / 512
#: Smoothness of the border between two layers, likewise.
_LAYERS = 1 / 16


@dataclass(frozen=True)
class Change:
    """One way to change a photograph.

    Attributes:
        name: for tables.
        unit: what a strength is.
        strengths: those used unless others are given, from mild to strong.
        apply: (photograph, strength) to the changed photograph, uint8 (H, W, 3); of a deformation, without the margin.
        least, most: strengths lie in this range.
        usual: it is among those that are used where none are named.
    """

    name: str
    unit: str
    strengths: tuple[float, ...]
    apply: Callable[[Photo, float], Photo]
    least: float
    most: float
    usual: bool = True

    def __call__(self, photo: Photo, strength: float) -> Photo:
        """The changed photograph; zero of a deformation gives the unmoved one.

        Raises:
            ValueError: a strength out of range, or one that would need pixels from beyond the photograph.
            MissingDependencyError: seam carving without its package.
        """
        if not self.least <= strength <= self.most:
            raise ValueError(f"{self.name}: strengths go from {self.least:g} to {self.most:g}, got {strength:g}")
        return self.apply(photo, strength) if strength else inner(photo)


def margin(photo: Photo) -> int:
    """Pixels of the margin on each side, at least one."""
    return max(1, round(MARGIN * max(photo.shape[:2])))


def inner(photo: Photo) -> Photo:
    """The reference: the photograph without its margin."""
    edge = margin(photo)
    return photo[edge:-edge, edge:-edge]


def to_bytes(image: npt.NDArray[Any]) -> Photo:
    """Values in [0, 1] as bytes, clipped and rounded."""
    return np.asarray((image.clip(0, 1) * 255).round(), dtype=np.uint8)


# Distortions


def blur(photo: Photo, sigma: float) -> Photo:
    """Gaussian, of a standard deviation in pixels."""
    return to_bytes(filters.gaussian(photo / 255, sigma, channel_axis=2))


def noise(photo: Photo, deviation: float) -> Photo:
    """Gaussian, of a standard deviation out of 255; the same for every photograph of one size."""
    return to_bytes(photo / 255 + np.random.default_rng(0).normal(0, deviation / 255, photo.shape))


def jpeg(photo: Photo, quality: float) -> Photo:
    """Coded and decoded at Pillow's quality."""
    return _coded(photo, "JPEG", quality=round(quality))


def _jpeg2000(photo: Photo, rate: float) -> Photo:
    return _coded(photo, "JPEG2000", quality_mode="rates", quality_layers=[rate], irreversible=True)


def _coded(photo: Photo, kind: str, **options: Any) -> Photo:
    file = BytesIO()
    Image.fromarray(photo).save(file, kind, **options)
    with Image.open(file) as image:
        return np.array(image.convert("RGB"))


def _floaters(photo: Photo, count: float) -> Photo:
    """So many soft, coloured, half transparent ellipses, as badly placed splats leave them; more include the fewer."""
    random, image = np.random.default_rng(0), photo / 255
    rows, columns = np.mgrid[: photo.shape[0], : photo.shape[1]]
    for _ in range(round(count)):
        down, right, angle = random.random(3) * (*photo.shape[:2], np.pi)
        long, wide = random.uniform(0.01, 0.05, 2) * max(photo.shape[:2])
        along = (rows - down) * np.cos(angle) + (columns - right) * np.sin(angle)
        across = (columns - right) * np.cos(angle) - (rows - down) * np.sin(angle)
        opacity = random.uniform(0.4, 0.8) * np.exp(-((along / long) ** 2 + (across / wide) ** 2) / 2)[..., None]
        image = image + opacity * (random.random(3) - image)
    return to_bytes(image)


# Deformations


def _grid(photo: Photo) -> tuple[Grid, Grid]:
    """Rows and columns (2, h, w) of the inner pixels in the photograph with its margin, and its centre (2, 1, 1)."""
    edge = margin(photo)
    height, width = inner(photo).shape[:2]
    grid = np.stack(np.meshgrid(np.arange(height) + edge, np.arange(width) + edge, indexing="ij")).astype(float)
    return grid, (np.array(photo.shape[:2])[:, None, None] - 1) / 2


def _sample(photo: Photo, places: Grid, what: str) -> Photo:
    """The photograph at other places (2, h, w), rows and columns, by cubic interpolation; ``what`` asked for them."""
    limits = np.array(photo.shape[:2])[:, None, None] - 1
    if (places < 0).any() or (places > limits).any():
        raise ValueError(
            f"{what} would need pixels from beyond a photograph of {photo.shape[1]} x {photo.shape[0]}: give a smaller strength"
        )
    # Symmetric at the borders, which only the interpolation's outermost taps see.
    channels = [transform.warp(channel / 255, places, order=3, mode="symmetric") for channel in np.moveaxis(photo, 2, 0)]
    return to_bytes(np.stack(channels, axis=2))


def _rotate(photo: Photo, degrees: float) -> Photo:
    grid, centre = _grid(photo)
    rows, columns = grid - centre
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    turned = np.stack([cos * rows + sin * columns, cos * columns - sin * rows]) + centre
    return _sample(photo, turned, f"rotation of {degrees:g}")


def _zoom(photo: Photo, percent: float) -> Photo:
    grid, centre = _grid(photo)
    return _sample(photo, (grid - centre) / (1 + percent / 100) + centre, f"zoom of {percent:g}")


def _perspective(photo: Photo, percent: float) -> Photo:
    """Seen from the side: the right edge is farther away, so that it shrinks by ``percent`` at each end."""
    edge = margin(photo)
    height, width = inner(photo).shape[:2]
    give = percent / 100 * max(photo.shape[:2])
    left, top, right, bottom = edge, edge, edge + width - 1, edge + height - 1
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], dtype=float)
    seen = np.array([[left, top], [right, top - give], [right, bottom + give], [left, bottom]], dtype=float)
    (rows, columns), _ = _grid(photo)
    mapping = transform.estimate_transform("projective", corners, seen)
    places = mapping(np.column_stack([columns.ravel(), rows.ravel()]))
    return _sample(photo, places[:, ::-1].T.reshape(2, height, width), f"perspective of {percent:g}")


def _elastic(photo: Photo, percent: float) -> Photo:
    """A smooth random field, the same for every photograph of one size, of a root mean square of ``percent``."""
    (grid, _), longer = _grid(photo), max(photo.shape[:2])
    random = np.random.default_rng(0).standard_normal(grid.shape)
    field = ndimage.gaussian_filter(random, (0, _SMOOTH * longer, _SMOOTH * longer), mode="reflect")
    field *= percent / 100 * longer / np.sqrt((field**2).mean())
    return _sample(photo, grid + field, f"elastic of {percent:g}")


def _moved(photo: npt.NDArray[Any], down: int, right: int, what: str) -> npt.NDArray[Any]:
    """The picture moved by whole pixels, so that none is interpolated."""
    edge = margin(photo)
    if max(abs(down), abs(right)) > edge:
        raise ValueError(f"{what} is more than the margin of {edge} pixels: give a smaller strength")
    height, width = inner(photo).shape[:2]
    return photo[edge - down : edge - down + height, edge - right : edge - right + width]


def _shift(photo: Photo, percent: float) -> Photo:
    """To the right and down, by one pixel at least."""
    pixels = max(1, round(percent / 100 * max(photo.shape[:2])))
    return _moved(photo, pixels, pixels, f"shift of {percent:g} %")


def _offset(photo: Photo, pixels: float) -> Photo:
    return _moved(photo, round(pixels), round(pixels), f"offset of {pixels:g}")


def _parallax(photo: Photo, pixels: float) -> Photo:
    """Two layers, as if the camera had gone to the left: the near one moves to the right, the far one half as far."""
    what = f"parallax of {pixels:g}"
    near, far = (_moved(photo, 0, round(pixels * share), what) for share in (1, 0.5))
    depth = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(photo.shape[:2]), _LAYERS * max(photo.shape[:2]))
    return np.where(_moved(depth[..., None], 0, round(pixels), what) > 0, near, far)


def _smaller(photo: Photo, percent: float) -> tuple[Photo, int, int]:
    """The reference, and its height and width less ``percent``."""
    image = inner(photo)
    height, width = (max(1, round(side * (1 - percent / 100))) for side in image.shape[:2])
    return image, height, width


def _scale(photo: Photo, percent: float) -> Photo:
    image, height, width = _smaller(photo, percent)
    return to_bytes(transform.resize(image / 255, (height, width), order=3, anti_aliasing=True))


def _crop(photo: Photo, percent: float) -> Photo:
    image, height, width = _smaller(photo, percent)
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def _seams(photo: Photo, percent: float) -> Photo:
    try:
        from seam_carving import resize
    except ImportError as error:
        needed = f"seam carving needs the package seam-carving ({error}): pip install 'msds-plugin[retarget]'"
        raise MissingDependencyError(needed) from error
    image, _, width = _smaller(photo, percent)
    return np.ascontiguousarray(resize(np.ascontiguousarray(image), size=(width, image.shape[0]), energy_mode="forward"))


def _named(*changes: Change) -> Mapping[str, Change]:
    return {each.name: each for each in changes}


DISTORTIONS = _named(
    Change("blur", "σ in pixels", (0.5, 1, 2, 3, 5), blur, 0.01, 100),
    Change("noise", "σ of 255", (5, 10, 20, 40, 60), noise, 0.01, 255),
    Change("jpeg", "quality", (70, 40, 20, 10, 5), jpeg, 1, 95),
    Change("jpeg2000", "compression to one of", (20, 40, 80, 120, 200), _jpeg2000, 1.01, 10_000),
    Change("floaters", "number", (1, 4, 12), _floaters, 1, 1000, usual=False),
)
DEFORMATIONS = _named(
    Change("rotation", "degrees", (1, 3, 5), _rotate, 0, 45),
    Change("scale", "% smaller", (5, 15, 30), _scale, 0, 99),
    Change("shift", "% of the longer side", (0.5, 1.5, 4), _shift, 0, 99),
    Change("crop", "% of each side cut away", (5, 15, 30), _crop, 0, 99),
    Change("perspective", "% of the longer side at each far corner", (1, 3, 5), _perspective, 0, 99),
    Change("elastic", "% of the longer side, root mean square", (0.1, 0.2, 0.4), _elastic, 0, 99),
    Change("seam carving", "% of the width", (5, 15, 30), _seams, 0, 99),
    Change("offset", "pixels", (2, 4, 8), _offset, 0, 1000, usual=False),
    Change("zoom", "% larger", (2,), _zoom, 0, 99, usual=False),
    Change("parallax", "pixels of the near layer", (2, 8), _parallax, 0, 1000, usual=False),
)
#: What a view rendered from a pose that is a bit off looks like, and what renderers do besides.
VIEW_DEFORMATIONS = {"rotation": (1, 3), "offset": (2, 4, 8), "zoom": (2,), "parallax": (2, 8)}
VIEW_DISTORTIONS = {"blur": (1, 2, 4), "noise": (5, 15, 40), "floaters": (1, 4, 12)}
