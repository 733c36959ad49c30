"""Pairs per second on a Ray cluster of two workers beside the loop of ``msds score``, and the driver's memory over time.

    python tests/benchmarks/ray_pairs.py [PAIRS]     # 10,000 pairs of 96 x 96 pixels

Both score the same files, each in a process of its own, one after the other. Rates are given for the whole command, start of
the cluster and of the workers included, and between the first and the last shard. The last line is the paper estimate of
docs/research/ray.md; the prices and sizes that it assumes are the constants below.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
from PIL import Image

METRIC, SIDE, DISTORTED, SHARD = "msds-fast", 96, 20, 250
#: What the estimate assumes: nodes, cores of each, price of a core in an hour (US dollars, spot), pairs, bytes of an image.
NODES, CORES, CORE_HOUR, PAIRS, IMAGE_BYTES = 100, 16, 0.02, 10**10, 20_000


def make(folder: Path, number: int) -> None:
    """References of random squares, each with noisy versions of it, and the list of the pairs."""
    rng = np.random.default_rng(0)
    names = []
    for index in range(number):
        scene, version = divmod(index, DISTORTED)
        if version == 0:
            y = rng.integers(0, 256, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            Image.fromarray(y).save(folder / f"r{scene:05}.png")
        x = (y + (1 + version) * rng.standard_normal(y.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(x).save(folder / f"d{scene:05}_{version:02}.png")
        names.append((f"{folder}/r{scene:05}.png", f"{folder}/d{scene:05}_{version:02}.png"))
    pd.DataFrame(names, columns=["reference", "distorted"]).to_csv(folder / "pairs.csv", index=False)


def on_ray(folder: Path) -> None:
    """The driver: prints seconds, pairs and MiB held after each shard, and seconds in all."""
    start = perf_counter()
    import ray

    from msds_plugin.adapters.ray import Progress, score

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    seen: list[tuple[float, int, float]] = []

    def note(progress: Progress) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        seen.append((perf_counter() - start, progress.pairs, pages * os.sysconf("SC_PAGE_SIZE") / 2**20))

    done = score(folder / "pairs.csv", [METRIC], folder / "out", shard_size=SHARD, on_progress=note)
    assert done.failed == 0, done
    print(json.dumps({"seen": seen, "seconds": perf_counter() - start}))


def locally(folder: Path) -> None:
    """What ``msds score`` does."""
    from msds_plugin.adapters.scorers import create_scorers
    from msds_plugin.adapters.scoring import Pair, score_pairs

    pairs = [Pair(Path(r), Path(d)) for r, d in pd.read_csv(folder / "pairs.csv").to_numpy()]
    results = score_pairs(pairs, create_scorers([METRIC], "cpu"))
    table = pd.DataFrame([{"distorted": str(result.pair.distorted), METRIC: result.score} for result in results])
    table.to_parquet(folder / "local.parquet")


def main(number: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, number)
        process = [sys.executable, __file__]
        done = subprocess.run([*process, "ray", name], check=True, capture_output=True, text=True)
        ray = json.loads(done.stdout.splitlines()[-1])
        start = perf_counter()
        subprocess.run([*process, "local", name], check=True, capture_output=True)
        local = number / (perf_counter() - start)
        files = list((folder / "out").glob("*.parquet"))
        row = sum(path.stat().st_size for path in files) / number
        both = (pd.read_parquet(folder / "local.parquet"), pd.concat(map(pd.read_parquet, files)))
        ours, theirs = (table.set_index("distorted")[METRIC].sort_index() for table in both)
    seen, rate = ray["seen"], number / ray["seconds"]
    # The first shards of both workers come together, and so may the last.
    steady = (seen[-1][1] - seen[1][1]) / (seen[-1][0] - seen[1][0]) if len(seen) > 3 else rate
    held = ", ".join(f"{seen[at][2]:.0f}" for at in (0, len(seen) // 2, -1))
    print(f"whole process: local {local:.1f} pairs/s, Ray {rate:.1f}, {rate / local:.2f} of it; between shards {steady:.1f}")
    print(f"equal to the bit: {(ours == theirs).mean():.0%}; driver held {held} MiB; Parquet: {row:.0f} bytes per pair")
    cluster = steady / 2 * NODES * CORES
    hours = PAIRS / cluster / 3600
    used, images = hours * NODES * CORES, cluster * (1 + 1 / DISTORTED)
    print(
        f"{PAIRS:,} pairs on {NODES} nodes of {CORES} cores: {cluster:,.0f} pairs/s, {hours:.0f} hours, {used:,.0f} core hours,"
    )
    print(f"{used * CORE_HOUR:,.0f} dollars; {images:,.0f} images/s, {images * IMAGE_BYTES / 1e9:.1f} GB/s, ", end="")
    print(f"results {PAIRS * row / 1e9:,.0f} GB")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        {"ray": on_ray, "local": locally}[sys.argv[1]](Path(sys.argv[2]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
