"""Image files to tensors."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

#: What counts as an image in a folder.
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".gif"})


class ImageFileError(ValueError):
    """An image file that cannot be read."""


def read_image(path: str | os.PathLike[str]) -> Tensor:
    """An image file as RGB, (1, 3, H, W), float32 in [0, 1], the same numbers that pyiqa reads.

    Grey images become RGB, transparency is dropped, 16-bit grey keeps its precision.

    Raises:
        ImageFileError: no such file, not an image, or damaged; names the file and the cause.
    """
    try:
        with Image.open(path) as image:
            deep = image.mode.startswith("I")
            array = np.asarray(image) if deep else np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise ImageFileError(f"cannot read {path}: {error}") from error
    if deep:
        array = np.repeat(array[..., None], 3, axis=2)
    largest = 65535 if deep else 255
    return torch.from_numpy(array.astype(np.float32) / largest).permute(2, 0, 1).unsqueeze(0).contiguous()


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """The image files of a folder, sorted by name, its sub-folders left out.

    Raises:
        ImageFileError: there is none.
    """
    found = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise ImageFileError(f"no image in {folder}: looked for {', '.join(sorted(SUFFIXES))}")
    return found
