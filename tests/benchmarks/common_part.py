"""Pairs of an opinion-scored set cut to what both images share at the top left, and reduced, for metrics that need one size.

    python tests/benchmarks/common_part.py ../shared/data/sr4k/labels.csv --root ../shared/data/sr4k/images --factor 2 WORK

Writes PNG files and ``labels.csv`` to the folder WORK. Reduced by averages of ``factor`` x ``factor`` pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from torch.nn import functional as F
from torchvision.io import write_png

from msds_plugin.adapters.benchmark.datasets import load_csv
from msds_plugin.adapters.images.read import read_image


def main(
    csv: Path,
    work: Path,
    root: Path | None = None,
    factor: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Write them."""
    work.mkdir(parents=True, exist_ok=True)
    table = load_csv(csv, root).table
    for index, row in table.iterrows():
        y, x = read_image(row["reference"]), read_image(row["distorted"])
        height, width = (min(a, b) for a, b in zip(x.shape[-2:], y.shape[-2:], strict=True))
        names = f"{Path(row['reference']).stem}_{height}x{width}.png", f"{Path(row['distorted']).stem}.png"
        for name, image in zip(names, (y, x), strict=True):
            if not (work / name).exists():
                reduced = F.avg_pool2d(image[..., :height, :width], factor)
                write_png((reduced[0] * 255).round().to(torch.uint8), str(work / name), compression_level=1)
        table.loc[index, ["reference", "distorted"]] = names
    table[["reference", "distorted", "score"]].to_csv(work / "labels.csv", index=False)


if __name__ == "__main__":
    typer.run(main)
