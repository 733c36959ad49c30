"""What the scripts share: the material beside the checkout, images as tensors and back, codecs."""

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image

from msds_plugin.runtimes import has_openvino

SHARED = Path(os.environ.get("SHARED", Path(__file__).parents[2].parent / "shared")).resolve()
RUNTIME = "openvino" if has_openvino() else "torch"
KODAK = sorted((SHARED / "data/kodak").glob("*.png"))


def tensor(image: Image.Image | np.ndarray) -> torch.Tensor:
    """(1, 3, H, W) in [0, 1] of 8-bit pixels."""
    return torch.from_numpy(np.asarray(image, np.float32) / 255).permute(2, 0, 1)[None].contiguous()


def read(path: Path | IO[bytes]) -> torch.Tensor:
    return tensor(Image.open(path).convert("RGB"))


def coded(image: Image.Image, kind: str, **options: object) -> Image.Image:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(file).convert("RGB")


def pairs(name: str) -> Iterator[tuple[Path, Path]]:
    """References and distorted images of a set."""
    folder = SHARED / "data" / name
    with (folder / "labels.csv").open() as file:
        for row in csv.DictReader(file):
            yield folder / "images" / row["ref_name"], folder / "images" / row["dist_name"]
