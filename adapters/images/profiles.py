"""Colour profiles: files of equal ones, or of none, are compared as they are; others as sRGB."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import imagecodecs
import numpy as np
from PIL import Image, ImageCms

from .samples import Array, unit


def to_srgb(colours: Array, profile: bytes) -> Array:
    """Colours (H, W, 1 or 3) from a profile to sRGB, (H, W, 3), by littlecms with its perceptual intent.

    uint8 stays uint8; what is deeper is converted with 16 bits.

    Raises:
        ValueError: the profile is damaged, or is for other colours.
    """
    grey = colours.shape[2] == 1
    space = profile[16:20].strip()
    if space not in (b"RGB", b"GRAY"):
        raise ValueError(f"its colour profile is for {space.decode('latin-1')}, its pixels are {'grey' if grey else 'RGB'}")
    if space == b"RGB" and grey:
        colours, grey = np.repeat(colours, 3, axis=2), False
    if space == b"GRAY" and not grey:
        raise ValueError("its colour profile is for grey, its pixels are RGB")
    try:
        if colours.dtype == np.uint8:
            image = Image.fromarray(colours[..., 0] if grey else colours)
            return np.array(ImageCms.applyTransform(image, _transform(profile, image.mode)))
        deep = colours if colours.dtype == np.uint16 else np.rint(unit(colours) * np.float32(65535)).astype(np.uint16)
        converted = imagecodecs.cms_transform(
            np.ascontiguousarray(deep[..., 0] if grey else deep),
            profile,
            imagecodecs.cms_profile("srgb"),
            colorspace="minisblack" if grey else "rgb",
            outcolorspace="rgb",
        )
    except Exception as error:  # littlecms' own, by either library
        raise ValueError(f"its colour profile cannot be used: {error}") from error
    return np.asarray(converted)


@lru_cache(16)
def _transform(profile: bytes, mode: str) -> Any:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")


def cmyk_to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """An image of inks as RGB, by its profile."""
    return ImageCms.applyTransform(image, _transform(profile, image.mode)) or image
