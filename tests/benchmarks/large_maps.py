"""Processor time per pixel of ``represent`` on large images, as a ratio to that at 384 x 512, with and without pieces.

    OMP_NUM_THREADS=1 python tests/benchmarks/large_maps.py --repeats 5

Sizes take turns; each ratio is of one round. Processor time, so that other programs count for little.
"""

from __future__ import annotations

from statistics import median
from time import process_time

import torch
import typer

from msds_plugin import DeepSSIM
from msds_plugin.network import pieces

SMALL, LARGE = (384, 512), ((768, 1024), (1080, 1920), (2160, 3840))


def per_pixel(metric: DeepSSIM, size: tuple[int, int], times: int = 1) -> float:
    """Seconds of processor time per pixel, of the fastest of so many."""
    image = torch.rand(1, 3, *size)
    found = []
    for _ in range(times):
        start = process_time()
        metric.represent(image)
        found.append((process_time() - start) / image[0, 0].numel())
    return min(found)


@torch.inference_mode()
def main(repeats: int = 5, backbone: str = "efficientnet_lite0") -> None:
    """Print the median, least and largest ratio of each size."""
    metric = DeepSSIM(backbone, weights=None)
    per_pixel(metric, SMALL, 3)
    usual = pieces.FROM_PIXELS
    ratios: dict[tuple[tuple[int, int], bool], list[float]] = {}
    for _ in range(repeats):
        for size in LARGE:
            for cut in (True, False):
                pieces.FROM_PIXELS = usual if cut else 1 << 60
                base = per_pixel(metric, SMALL, 3)
                ratios.setdefault((size, cut), []).append(per_pixel(metric, size) / base)
    print("| size | in pieces | time per pixel against 384 x 512: median | least | largest |\n|---|---|---|---|---|")
    for (size, cut), found in ratios.items():
        row = " | ".join(f"{value:.2f}" for value in (median(found), min(found), max(found)))
        print(f"| {size[0]} x {size[1]} | {'yes' if cut else 'no'} | {row} |")


if __name__ == "__main__":
    typer.run(main)
