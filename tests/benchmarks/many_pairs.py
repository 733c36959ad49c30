"""Pairs per second of ``msds score`` in this version and in another one, in turn, on a quiet machine or beside busy loops.

    python tests/benchmarks/many_pairs.py --other FOLDER_OF_0_2_0
    python tests/benchmarks/many_pairs.py --other FOLDER_OF_0_2_0 --busy 2

Both read the same PNG files, each in a process of its own; starting Python and the network counts. ``--other`` is a folder in
which the package ``msds_plugin`` lies as it is installed.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from skimage import data

COMMAND = "import sys; from msds_plugin.adapters.cli.app import app; app(sys.argv[1:])"


def make_pairs(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Photographs and noisy versions of them, of the same names, which every version of the package matches."""
    photos = [np.asarray(Image.fromarray(photo).resize(size)) for photo in (data.astronaut(), data.coffee(), data.chelsea())]
    rng = np.random.default_rng(0)
    for folder_of in ("r", "d"):
        (folder / folder_of).mkdir()
    for index in range(count):
        photo = np.roll(photos[index % 3], index, axis=1)
        noisy = photo + rng.normal(0, 10, photo.shape)
        for side, pixels in (("r", photo), ("d", noisy.clip(0, 255).astype(np.uint8))):
            Image.fromarray(pixels).save(folder / side / f"{index:04}.png")


def seconds(folder: Path, metric: str, other: Path | None) -> float:
    command = [sys.executable, "-c", COMMAND, "score", "-r", str(folder / "r"), "-d", str(folder / "d"), "-m", metric]
    environment = {**os.environ, "COLUMNS": "120", **({"PYTHONPATH": str(other)} if other else {})}
    with tempfile.TemporaryDirectory() as away:  # no store on disk is found by a second run
        start = perf_counter()
        # From there: in the checkout Python would take the package in the current folder, whatever PYTHONPATH says.
        subprocess.run([*command, "-o", "scores.csv"], env=environment, check=True, capture_output=True, cwd=away)
        return perf_counter() - start


def main(
    other: Annotated[Path | None, typer.Option(help="another version's folder")] = None,
    metric: str = "msds-fast",
    pairs: int = 500,
    size: Annotated[tuple[int, int], typer.Option(help="width and height")] = (512, 384),
    rounds: int = 3,
    busy: Annotated[int, typer.Option(help="endless loops in other processes")] = 0,
) -> None:
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            make_pairs(folder, pairs, size)
            times: dict[str, list[float]] = {"this version": [], **({"other": []} if other else {})}
            for _ in range(rounds):
                for which, taken in times.items():
                    taken.append(seconds(folder, metric, other if which == "other" else None))
    finally:
        for loop in loops:
            loop.kill()
    for which, taken in times.items():
        print(f"{which}: {pairs / median(taken):.2f} pairs/s ({pairs / max(taken):.2f} to {pairs / min(taken):.2f})")
    if other:
        ratios = [theirs / ours for ours, theirs in zip(times["this version"], times["other"], strict=True)]
        print(f"this version is {median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    typer.run(main)
