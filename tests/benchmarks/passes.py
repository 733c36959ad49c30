"""Time per megapixel against the number of pixels that share a pass: what ``ONE_PASS_PIXELS`` was chosen by.

    python tests/benchmarks/passes.py --repeats 3

Weights are random. Every size is represented once per round; prints medians over the rounds, the first left out.
"""

from __future__ import annotations

from statistics import median
from time import perf_counter

import torch
import typer

from msds_plugin import DeepSSIM

SIZES = [(n, 128, 128) for n in (1, 4, 16, 64)] + [(n, 256, 256) for n in (1, 4, 8, 16, 32)]


def milliseconds(metric: DeepSSIM, count: int, height: int, width: int) -> float:
    """Per megapixel."""
    images = torch.rand(count, 3, height, width)
    start = perf_counter()
    metric.represent(images)
    return (perf_counter() - start) / images[:, 0].numel() * 1e9


@torch.inference_mode()
def main(repeats: int = 3) -> None:
    """Print one row per size."""
    metrics = [DeepSSIM(backbone, weights=None) for backbone in ("vgg16", "efficientnet_lite0")]
    rounds = [[[milliseconds(metric, *size) for metric in metrics] for size in SIZES] for _ in range(repeats + 1)][1:]
    print("| pixels at once | images | deepssim | deepssim-fast |\n|---|---|---|---|")
    for place, (count, height, width) in enumerate(SIZES):
        times = [f"{median(times):.0f}" for times in zip(*(one[place] for one in rounds), strict=True)]
        print(f"| {count * height * width} | {count} of {height} x {width} | {' | '.join(times)} |")


if __name__ == "__main__":
    typer.run(main)
