"""Distortions that people mind: blur, noise, JPEG, JPEG 2000. Each gives an image of the same size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image
from skimage import filters

from .deformations import Photo, to_bytes


@dataclass(frozen=True)
class Distortion:
    """One way to spoil a picture.

    Attributes:
        name: for tables.
        unit: what a strength is.
        strengths: those used unless others are given, from mild to strong.
        apply: (photograph, strength) to the distorted photograph, uint8 (H, W, 3).
        least, most: strengths lie in this range.
    """

    name: str
    unit: str
    strengths: tuple[float, ...]
    apply: Callable[[Photo, float], Photo]
    least: float
    most: float


def distort(photo: Photo, distortion: Distortion, strength: float) -> Photo:
    """A distorted photograph of the same size.

    Raises:
        ValueError: a strength out of range.
    """
    if not distortion.least <= strength <= distortion.most:
        raise ValueError(f"{distortion.name}: strengths go from {distortion.least:g} to {distortion.most:g}, got {strength:g}")
    return distortion.apply(photo, strength)


def _blur(photo: Photo, sigma: float) -> Photo:
    return to_bytes(filters.gaussian(photo / 255, sigma, channel_axis=2))


def _noise(photo: Photo, deviation: float) -> Photo:
    return to_bytes(photo / 255 + np.random.default_rng(0).normal(0, deviation / 255, photo.shape))


def _jpeg(photo: Photo, quality: float) -> Photo:
    return _coded(photo, "JPEG", quality=round(quality))


def _jpeg2000(photo: Photo, rate: float) -> Photo:
    return _coded(photo, "JPEG2000", quality_mode="rates", quality_layers=[rate], irreversible=True)


def _coded(photo: Photo, kind: str, **options: Any) -> Photo:
    file = BytesIO()
    Image.fromarray(photo).save(file, kind, **options)
    with Image.open(file) as image:
        return np.array(image.convert("RGB"))


DISTORTIONS: Mapping[str, Distortion] = {
    each.name: each
    for each in (
        Distortion("blur", "σ in pixels", (0.5, 1, 2, 3, 5), _blur, 0.01, 100),
        Distortion("noise", "σ of 255", (5, 10, 20, 40, 60), _noise, 0.01, 255),
        Distortion("jpeg", "quality", (70, 40, 20, 10, 5), _jpeg, 1, 95),
        Distortion("jpeg2000", "compression to one of", (20, 40, 80, 120, 200), _jpeg2000, 1.01, 10_000),
    )
}
