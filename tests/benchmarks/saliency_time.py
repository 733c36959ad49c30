"""Times the saliency maps of one image of 384 x 512 pixels, to be run on a quiet machine.

    python tests/benchmarks/saliency_time.py

Median of 30 calls in milliseconds, on one thread and on two. ``option`` is what ``saliency="gbvs"`` costs a metric: the map of
an image of at most 512 pixels on the longer side, enlarged to the image.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import pandas as pd
import torch

from msds_plugin import build_backbone
from msds_plugin.saliency import Attention, feature_energy, gbvs, spectral_residual

ROUNDS = 30


def milliseconds(call: Callable[[], object]) -> float:
    """Median of so many calls, after two that warm up."""
    times = []
    for _ in range(ROUNDS + 2):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1000 * median(times[2:])


def main() -> None:
    """One row per map, one column per number of threads."""
    torch.manual_seed(0)
    image, backbone = torch.rand(1, 3, 384, 512), build_backbone("efficientnet_lite0")
    option = Attention("gbvs")
    calls: dict[str, Callable[[], object]] = {
        "gbvs": lambda: gbvs(image),
        "option": lambda: option.maps(image, backbone),
        "spectral": lambda: spectral_residual(image),
        "features": lambda: feature_energy(image, backbone),
    }
    rows = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        rows[f"{threads} thread{'s' * (threads > 1)}"] = {name: round(milliseconds(call), 1) for name, call in calls.items()}
    print(pd.DataFrame(rows).to_markdown())


if __name__ == "__main__":
    main()
