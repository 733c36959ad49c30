"""What a model of one size saves where a size recurs, on a quiet machine: processor time in milliseconds, by the two in turn.

python tests/benchmarks/times.py recurring
"""

import sys
from statistics import median
from time import process_time

import torch

from msds_plugin import registry, runtimes


def recurring(rounds: int = 25, in_a_row: int = 3) -> None:
    """Prints medians of one thread's time for the representation of an image by msds-fast, and of the ratio."""
    torch.set_num_threads(1)
    for height, width in ((64, 64), (384, 512), (1080, 1920)):
        image = torch.rand(1, 3, height, width)
        times: dict[int, list[float]] = {}
        metrics = {after: registry.create("msds-fast", runtime="openvino") for after in (sys.maxsize, 1)}
        for turn in range(rounds + 1):
            for after, metric in metrics.items():
                runtimes.RECURRING = after
                start = process_time()
                for _ in range(in_a_row):
                    metric.represent(image)
                if turn:  # the first compiles
                    times.setdefault(after, []).append(1000 * (process_time() - start) / in_a_row)
        general, own = times.values()
        ratios = [one / other for one, other in zip(own, general, strict=True)]
        print(f"| {height} x {width} | {median(general):.1f} | {median(own):.1f} | {median(ratios):.2f} |", flush=True)


if __name__ == "__main__":
    {"recurring": recurring}[sys.argv[1]]()
