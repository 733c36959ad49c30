"""Pairs per second on a local Ray cluster of two workers beside the local engine, and the driver's memory.

python tests/benchmarks/ray_pairs.py [NUMBER_OF_PAIRS]
"""

import resource
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import ray
from msds_plugin.adapters.images.pairs import Pair
from msds_plugin.adapters.ray import Progress, score
from msds_plugin.adapters.scoring.engine import score_pairs
from msds_plugin.adapters.scoring.scorers import create_scorers
from PIL import Image

METRIC, SIDE, DISTORTED = "msds-fast", 96, 20


def make(folder: Path, number: int) -> list[tuple[str, str]]:
    rng = np.random.default_rng(0)
    pairs = []
    for scene in range(-(-number // DISTORTED)):
        y = rng.integers(0, 256, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(y).save(folder / f"{scene}.png")
        for index in range(DISTORTED):
            x = (y + (1 + index) * rng.standard_normal(y.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(x).save(folder / f"{scene}_{index}.png")
            pairs.append((str(folder / f"{scene}.png"), str(folder / f"{scene}_{index}.png")))
    return pairs[:number]


def memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(number: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        pairs = make(Path(name), number)
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        score(pairs[:8], [METRIC], Path(name, "warm"), shard_size=4)
        start, peaks = perf_counter(), []

        def note(_: Progress) -> None:
            peaks.append(memory())

        score(pairs, [METRIC], Path(name, "out"), shard_size=500, on_progress=note)
        on_ray = perf_counter() - start
        ray.shutdown()
        scorers = create_scorers([METRIC], "cpu")
        start = perf_counter()
        assert (
            sum(result.error is None for result in score_pairs([Pair(Path(r), Path(d)) for r, d in pairs], scorers)) == number
        )
        local = perf_counter() - start
    print(f"{number} pairs: Ray, two workers {number / on_ray:.1f} pairs/s; local engine {number / local:.1f} pairs/s")
    print(f"driver's peak memory after the first shard {peaks[0]:.0f} MiB, after the last {peaks[-1]:.0f} MiB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
