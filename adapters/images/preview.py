"""Small pictures of image files, for people to look at."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image

from .large import open_large
from .read import Picture, Reading, decode
from .samples import ImageFileError, to_bytes


def preview(path: str | os.PathLike[str], side: int, reading: Reading) -> Image.Image:
    """An image file as RGB in sRGB, at most ``side`` pixels on each side.

    Raises:
        ImageFileError: it cannot be read.
    """
    large = open_large(path, reading)
    picture = decode(path, reading) if large is None else Picture(large.thin(2 * side), large.profile)
    try:
        colours = to_bytes(picture.in_srgb().colours)
    except ValueError as error:
        raise ImageFileError(f"cannot show {path}: {error}") from error
    image = Image.fromarray(np.ascontiguousarray(np.broadcast_to(colours, (*colours.shape[:2], 3))))
    image.thumbnail((side, side))
    return image
