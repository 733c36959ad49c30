"""Peak memory and time against the size of an image pair in TIFF files.

    python tests/benchmarks/memory.py table --metric deepssim-fast 2048x2048 4096x4096 8192x8192
    python tests/benchmarks/memory.py table --metric msds-fast --runtime openvino 12000x9000

Each size is made, then scored, in processes of their own; the peak is that process's largest resident set (``ru_maxrss``),
Python and torch included.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)
TILE = 512


def sides(size: str) -> tuple[int, int]:
    """Width and height of ``12000x9000``."""
    width, height = map(int, size.split("x"))
    return width, height


@app.command()
def make(folder: Path, size: str) -> None:
    """Write a reference and a distorted image of this size as tiled, compressed TIFFs."""
    import numpy as np
    import tifffile
    from scipy.ndimage import gaussian_filter

    width, height = sides(size)
    rng = np.random.default_rng(0)
    fields = [gaussian_filter(rng.random((TILE, TILE, 3)), (s, s, 0), mode="wrap") for s in (1, 2, 4, 8, 16, 32)]
    tiles = [np.uint8(255 * (field - field.min()) / (field.max() - field.min())) for field in fields]
    order = rng.integers(len(tiles), size=-(-width // TILE) * -(-height // TILE))
    for name, step in (("reference", 1), ("distorted", 12)):
        tifffile.imwrite(
            folder / f"{name}.tif",
            (tiles[index] // step * step for index in order),
            shape=(height, width, 3),
            dtype=np.uint8,
            tile=(TILE, TILE),
            photometric="rgb",
            compression="zlib",
        )


@app.command()
def score(folder: Path, metric: str, runtime: str, how: str) -> None:
    """Score the pair in this process, in tiles or whole; print the score, the seconds and the peak in MiB."""
    import numpy as np
    import tifffile
    import torch

    from msds_plugin import registry
    from msds_plugin.adapters.images.large import LargeImage

    torch.set_grad_enabled(False)
    built = registry.create(metric, runtime=runtime)

    def read(name: str) -> LargeImage | torch.Tensor:
        path = folder / f"{name}.tif"
        if how == "tiles":
            return LargeImage(path)
        return torch.from_numpy(tifffile.imread(path).astype(np.float32) / 255).permute(2, 0, 1)[None]

    start = time.perf_counter()
    value = built.compare(built.represent(read("distorted")), built.represent(read("reference"))).item()
    seconds, unit = time.perf_counter() - start, 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    print(json.dumps({"score": value, "seconds": seconds, "peak": peak}))


@app.command()
def table(
    sizes: Annotated[list[str], typer.Argument(help="width x height")],
    metric: Annotated[str, typer.Option(help="name of a metric that works in tiles")] = "deepssim-fast",
    runtime: str = "torch",
    whole_up_to: Annotated[int, typer.Option(help="evaluate the whole image too, up to so many pixels")] = 2048**2,
) -> None:
    """Print a table of all sizes; each is a process of its own."""
    # What this process imports before it starts another counts in the other's peak: nothing heavy, then.
    print("| metric | runtime | pixels | evaluated | peak MiB | seconds | score |\n|---|---|---|---|---|---|---|")
    for size in sizes:
        width, height = sides(size)
        with tempfile.TemporaryDirectory() as folder:
            run("make", folder, size)
            for how in ("tiles", "whole") if width * height <= whole_up_to else ("tiles",):
                row = json.loads(run("score", folder, metric, runtime, how))
                figures = f"{row['peak']:.0f} | {row['seconds']:.1f} | {row['score']:.6f}"
                print(f"| {metric} | {runtime} | {size} | {how} | {figures} |", flush=True)


def run(*arguments: str) -> str:
    """What this script prints with other arguments, in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


if __name__ == "__main__":
    app()
