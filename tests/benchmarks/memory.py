"""Peak memory and time against the size of an image pair in TIFF files.

    python tests/benchmarks/memory.py table --metric deepssim-fast 2048 4096 8192 16384

Each size is made, then scored, in processes of their own; the peak is that process's largest resident set (``ru_maxrss``),
Python and torch included.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)
TILE = 512


class How(str, Enum):
    """How an image is evaluated."""

    tiles = "tiles"
    whole = "whole"


@app.command()
def make(folder: Path, size: int) -> None:
    """Write a reference and a distorted image of size x size pixels as tiled, compressed TIFFs."""
    import numpy as np
    import tifffile
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    fields = [gaussian_filter(rng.random((TILE, TILE, 3)), (s, s, 0), mode="wrap") for s in (1, 2, 4, 8, 16, 32)]
    tiles = [np.uint8(255 * (field - field.min()) / (field.max() - field.min())) for field in fields]
    number = -(-size // TILE)
    order = rng.integers(len(tiles), size=number * number)
    for name, step in (("reference", 1), ("distorted", 12)):
        tifffile.imwrite(
            folder / f"{name}.tif",
            (tiles[index] // step * step for index in order),
            shape=(size, size, 3),
            dtype=np.uint8,
            tile=(TILE, TILE),
            photometric="rgb",
            compression="zlib",
        )


@app.command()
def score(folder: Path, metric: str, how: How) -> None:
    """Score the pair in this process; print the score, the seconds and the peak in MiB."""
    import numpy as np
    import tifffile
    import torch

    from msds_plugin import registry
    from msds_plugin.adapters.images.large import LargeImage

    torch.set_grad_enabled(False)
    built = registry.create(metric)

    def read(name: str) -> LargeImage | torch.Tensor:
        path = folder / f"{name}.tif"
        if how is How.tiles:
            return LargeImage(path)
        return torch.from_numpy(tifffile.imread(path).astype(np.float32) / 255).permute(2, 0, 1)[None]

    start = time.perf_counter()
    value = built.compare(built.represent(read("distorted")), built.represent(read("reference"))).item()
    seconds = time.perf_counter() - start
    print(json.dumps({"score": value, "seconds": seconds, "peak": _peak(resource.RUSAGE_SELF)}))


@app.command()
def command(folder: Path, metric: str) -> None:
    """Score the pair with ``msds score``; print what it prints, the seconds and its peak in MiB."""
    files = ["--reference", folder / "reference.tif", "--distorted", folder / "distorted.tif"]
    start = time.perf_counter()
    subprocess.run(["msds", "score", "-m", metric, *files], check=True)
    print(f"{time.perf_counter() - start:.0f} s, {_peak(resource.RUSAGE_CHILDREN):.0f} MiB")


@app.command()
def table(
    sizes: Annotated[list[int] | None, typer.Argument()] = None,
    metric: Annotated[str, typer.Option(help="name of a metric that works in tiles")] = "deepssim-fast",
    whole_up_to: Annotated[int, typer.Option(help="evaluate the whole image too, up to this size")] = 2048,
    plot: Annotated[Path | None, typer.Option(help="where to draw peak memory against size")] = None,
    kept: Annotated[Path | None, typer.Option(help="file of earlier rows, which new ones are added to")] = None,
) -> None:
    """Print a table of all sizes; each is a process of its own."""
    # What this process imports before it starts another counts in the other's peak: nothing heavy, then.
    rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept and kept.exists() else []
    for size in sizes or []:
        with tempfile.TemporaryDirectory() as folder:
            _run("make", folder, str(size))
            for how in How:
                if how is How.whole and size > whole_up_to:
                    continue
                row = {"metric": metric, "size": size, "how": how.value, **json.loads(_run("score", folder, metric, how.value))}
                print(row, file=sys.stderr)
                rows.append(row)
                if kept is not None:
                    with kept.open("a") as file:
                        file.write(json.dumps(row) + "\n")
    print("| metric | pixels | evaluated in | peak MiB | seconds | score |\n|---|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: (row["metric"], row["size"], row["how"])):
        peak, seconds = f"{row['peak']:.0f}", f"{row['seconds']:.1f}"
        print(f"| {row['metric']} | {row['size']}² | {row['how']} | {peak} | {seconds} | {row['score']:.6f} |")
    if plot is not None:
        _draw(rows, plot)


@app.command()
def pixels(
    size: int = 30_000, tiles: Annotated[str, typer.Option(help="sides, separated by commas")] = "1024,4096,auto"
) -> None:
    """Print how many pixels are computed, relative to those of the image: margins are computed more than once."""
    import torch

    from msds_plugin import BACKBONES, build_backbone
    from msds_plugin.tiling import _Tiles
    from msds_plugin.windows import as_windows

    image = as_windows(torch.empty(1, 1, 1, 1).expand(1, 3, size, size))
    print("| backbone | field of the last layer | joined after | tile | first part | second part |\n|---|---|---|---|---|---|")
    for name, known in BACKBONES.items():
        plan = _Tiles(build_backbone(name, weights=None), image, None, gradient=False)
        joined = next((label for label, layer in known.layers.items() if layer == plan.cut), "")
        for tile in tiles.split(","):
            side = plan.affordable() if tile == "auto" else int(tile)
            owned = plan.spans(size, side)
            first = sum(len(piece) for span in owned for piece in plan._pieces(len(span))) / size
            second = sum(map(len, owned)) / size
            label = f"auto: {side}" if tile == "auto" else tile
            field = max(layer.receptive_field for layer in plan.layers)
            print(f"| {name} | {field} | {joined} | {label} | {first**2:.2f} | {second**2:.2f} |")


def _peak(whose: int) -> float:
    """Largest resident set in MiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(whose).ru_maxrss * unit / 2**20


def _run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def _draw(rows: list[dict[str, object]], path: Path) -> None:
    import matplotlib.pyplot as plt
    import pandas as pd

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for (metric, how), group in pd.DataFrame(rows).sort_values("size").groupby(["metric", "how"]):
        axes.plot(group["size"] ** 2 / 1e6, group["peak"], "o-", label=f"{metric}, {how}")
    axes.set(xscale="log", xlabel="megapixels per image", ylabel="peak memory of the process, MiB")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    app()
