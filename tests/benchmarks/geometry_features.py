"""Computes once and keeps the features of all images of all sets, for the tables of docs/research/alignment-tables.md.

    python tests/benchmarks/geometry_features.py ../shared/data CACHE [SET ...]

Per image one safetensors file: for each level of two pyramids (``box``: 2 x 2 averages, ``binomial``: 1 4 6 4 1) and each stage
of EfficientNet-Lite0 the Gram matrix divided by the number of positions, the mean of each channel, the number of
positions, and, of the coarser maps, the map itself in half precision.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from msds_plugin import build_backbone
from msds_plugin.functional import gram_matrix, halve

SETS = ("view_synthesis", "kodak", "retargetme", "live_gblur", "sr4k")
LEVELS = 4
MAPS = {(1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1), (4, 0), (4, 1)}
MOST_MAP = 700_000  # values


def to_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None].contiguous()


def read(path: Path) -> Tensor:
    return to_tensor(np.asarray(Image.open(path).convert("RGB")))


def binomial(image: Tensor) -> Tensor:
    kernel = torch.tensor([1.0, 4, 6, 4, 1]) / 16
    channels = image.shape[1]
    padded = F.pad(image, (2, 2, 2, 2), mode="reflect")
    rows = F.conv2d(padded, kernel.view(1, 1, 5, 1).expand(channels, -1, -1, -1), stride=(2, 1), groups=channels)
    return F.conv2d(rows, kernel.view(1, 1, 1, 5).expand(channels, -1, -1, -1), stride=(1, 2), groups=channels)


def quantise(pixels: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def distortions(clean: np.ndarray) -> dict[str, np.ndarray]:
    """Five strengths each of blur, JPEG and noise."""
    noise = np.random.default_rng(0).standard_normal(clean.shape)
    found = {"clean": clean}
    for sigma in (0.7, 1, 1.5, 2.5, 4):
        found[f"blur{sigma}"] = quantise(ndimage.gaussian_filter(clean.astype(float), (sigma, sigma, 0)))
    for quality in (50, 30, 20, 10, 5):
        found[f"jpeg{quality}"] = jpeg(clean, quality)
    for sigma in (5, 10, 20, 35, 60):
        found[f"noise{sigma}"] = quantise(clean + sigma * noise)
    return found


def warp(pixels: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    planes = [ndimage.map_coordinates(pixels[..., c].astype(float), [rows, columns], order=3, mode="mirror") for c in range(3)]
    return quantise(np.stack(planes, -1))


def deformations(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """As in the project's first measurement: rotation 3 degrees, scale 0.85, shift, perspective, smooth elastic."""
    height, width = pixels.shape[:2]
    rows, columns = np.mgrid[:height, :width].astype(float)
    middle_row, middle_column = (height - 1) / 2, (width - 1) / 2
    angle = np.deg2rad(3)
    dy, dx = rows - middle_row, columns - middle_column
    rotated = warp(
        pixels, middle_row + np.cos(angle) * dy - np.sin(angle) * dx, middle_column + np.sin(angle) * dy + np.cos(angle) * dx
    )
    scale = 1 + 0.06 * dx / width + 0.04 * dy / height
    bent = [ndimage.gaussian_filter(np.random.default_rng(seed).uniform(-1, 1, (height, width)), 12) * 60 for seed in (1, 2)]
    small = Image.fromarray(pixels).resize((round(width * 0.85), round(height * 0.85)), Image.Resampling.BICUBIC)
    return {
        "none": pixels,
        "rotation": rotated[24:-24, 24:-24],
        "scale": np.asarray(small),
        "shift": pixels[7:, 9:],
        "perspective": warp(pixels, middle_row + dy / scale, middle_column + dx / scale),
        "elastic": warp(pixels, rows + bent[0], columns + bent[1]),
    }


def kodak(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for path in sorted(folder.glob("*.png")):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        height, width = (384, 512) if pixels.shape[1] > pixels.shape[0] else (512, 384)
        top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
        for name, distorted in distortions(pixels[top : top + height, left : left + width]).items():
            for deformation, deformed in deformations(distorted).items():
                yield f"{path.stem}.{name}.{deformation}", to_tensor(deformed)


def images(data: Path, name: str) -> Iterator[tuple[str, Tensor]]:
    if name == "kodak":
        yield from kodak(data / name)
        return
    labels = pd.read_csv(data / name / "labels.csv")
    for file in sorted({*labels.ref_name, *labels.dist_name}):
        yield file, read(data / name / "images" / file)


@torch.no_grad()
def features(net: torch.nn.Module, image: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    levels = {("box", 0): image}
    for level in range(1, LEVELS):
        levels["box", level] = halve(levels["box", level - 1])
        levels["binomial", level] = binomial(levels["binomial" if level > 1 else "box", level - 1])
    for (kind, level), small in levels.items():
        if min(small.shape[-2:]) < 16:
            continue
        for stage, feature in enumerate(net(small)):
            positions = feature[0, 0].numel()
            label = f"{kind}.{level}.{stage}"
            found[f"gram.{label}"] = gram_matrix(feature)[0] / positions
            found[f"mean.{label}"] = feature.mean((2, 3))[0]
            found[f"positions.{label}"] = torch.tensor(positions)
            if kind == "box" and (stage, level) in MAPS and feature.numel() <= MOST_MAP:
                found[f"map.{label}"] = feature[0].half().contiguous()
    return found


def main(data: Path, cache: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    net = build_backbone("efficientnet_lite0")
    for name in names or SETS:
        (cache / name).mkdir(parents=True, exist_ok=True)
        for file, image in images(data, name):
            target = cache / name / f"{file}.safetensors"
            if not target.exists():
                save_file(features(net, image), target)
        print(name, "done", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
