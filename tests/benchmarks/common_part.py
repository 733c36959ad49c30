"""Pairs of an opinion-scored set cut to what both images share at the top left, and reduced, for metrics that need one size.

    python tests/benchmarks/common_part.py ../shared/data/sr4k/labels.csv --root ../shared/data/sr4k/images --factor 4 WORK

Writes PNG files and ``labels.csv`` to the folder WORK. Reduced by averages of ``factor`` x ``factor`` pixels.
"""

from pathlib import Path

import typer
from PIL import Image

from msds_plugin.adapters.benchmark.datasets import load_csv


def main(csv: Path, work: Path, root: Path | None = None, factor: int = 2) -> None:
    """Write them."""
    work.mkdir(parents=True, exist_ok=True)
    table = load_csv(csv, root).table
    for index, row in table.iterrows():
        images = [Image.open(row[kind]).convert("RGB") for kind in ("reference", "distorted")]
        width, height = (min(sides) // factor * factor for sides in zip(*(image.size for image in images), strict=True))
        names = f"{Path(row['reference']).stem}_{height}x{width}.png", f"{Path(row['distorted']).stem}.png"
        for name, image in zip(names, images, strict=True):
            if not (work / name).exists():
                image.crop((0, 0, width, height)).reduce(factor).save(work / name, compress_level=1)
        table.loc[index, ["reference", "distorted"]] = names
    table[["reference", "distorted", "score"]].to_csv(work / "labels.csv", index=False)


if __name__ == "__main__":
    typer.run(main)
