"""Image files to tensors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFile
from torch import Tensor

#: What counts as an image in a folder.
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".gif"})


class ImageFileError(ValueError):
    """An image file that cannot be read."""


@contextmanager
def _whole_files_only() -> Iterator[None]:
    # pyiqa, once imported, has Pillow fill the missing part of a truncated file with grey, in every program.
    tolerant = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = tolerant


def decode(path: str | os.PathLike[str]) -> npt.NDArray[Any]:
    """The pixels of an image file as they are stored: RGB (H, W, 3) uint8, or 16-bit grey (H, W, 1) int32.

    Grey images become RGB, transparency is dropped, 16-bit grey keeps its precision.

    Raises:
        ImageFileError: no such file, not an image, damaged, or of floating-point values, whose range no file says.
    """
    try:
        with _whole_files_only(), Image.open(path) as image:
            if image.mode == "F":
                raise ValueError("it holds floating-point values of unknown range: save it with 8 or 16 bits")
            if image.mode.startswith("I"):
                return np.asarray(image).astype(np.int32)[..., None]
            return np.array(image.convert("RGB"))
    except Exception as error:  # a damaged file raises whatever its decoder runs into
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ImageFileError(f"cannot read {path}: {reason}") from error


def to_tensor(pixels: npt.NDArray[Any], device: str | torch.device = "cpu") -> Tensor:
    """What :func:`decode` gave as (1, 3, H, W), float32 in [0, 1]."""
    largest = torch.tensor(255.0 if pixels.dtype == np.uint8 else 65535.0, device=device)
    image = torch.from_numpy(pixels).to(device).permute(2, 0, 1).unsqueeze(0).contiguous()
    # Divided by a tensor: by a number, a GPU multiplies by its reciprocal, which rounds differently.
    return (image.float() / largest).expand(-1, 3, -1, -1)


def read_image(path: str | os.PathLike[str]) -> Tensor:
    """An image file as RGB, (1, 3, H, W), float32 in [0, 1]: for 8-bit files the same numbers that pyiqa reads.

    Raises:
        ImageFileError: as :func:`decode`; names the file and the cause.
    """
    return to_tensor(decode(path)).contiguous()


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """The image files of a folder, sorted by name, its sub-folders left out.

    Raises:
        ImageFileError: there is none.
    """
    found = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise ImageFileError(f"no image in {folder}: looked for {', '.join(sorted(SUFFIXES))}")
    return found
