"""Images of an opinion-scored set cut to what all of one reference share at the top left, and reduced.

    python tests/benchmarks/common_part.py ../shared/data/sr4k/labels.csv --root ../shared/data/sr4k/images --factor 4 WORK

For metrics that need one size, or that take too long on large images. Writes PNG files and ``labels.csv`` to the folder WORK.
Reduced by averages of ``factor`` x ``factor`` pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from msds_plugin.adapters.benchmark.datasets import load_csv
from msds_plugin.adapters.images.read import read_image
from PIL import Image
from torch.nn import functional as F
from torchvision.io import write_png


def main(
    csv: Path,
    work: Path,
    root: Path | None = None,
    factor: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Write them."""
    work.mkdir(parents=True, exist_ok=True)
    table = load_csv(csv, root).table
    for reference, rows in table.groupby("reference"):
        paths = [reference, *rows["distorted"]]
        width, height = (min(sides) for sides in zip(*(Image.open(path).size for path in paths), strict=True))
        for path in paths:
            reduced = F.avg_pool2d(read_image(path)[..., :height, :width], factor)
            write_png((reduced[0] * 255).round().to(torch.uint8), str(work / f"{Path(path).stem}.png"), compression_level=1)
    for side in ("reference", "distorted"):
        table[side] = [f"{Path(path).stem}.png" for path in table[side]]
    table[["reference", "distorted", "score"]].to_csv(work / "labels.csv", index=False)


if __name__ == "__main__":
    typer.run(main)
