"""Pairs per second on a Ray cluster of two workers beside the engine of ``msds score``, and the driver's memory over time.

    python tests/benchmarks/ray_pairs.py                    # 10,000 pairs of 96 x 96 pixels
    python tests/benchmarks/ray_pairs.py --pairs 300        # a trial
    python tests/benchmarks/ray_pairs.py --json figures.json

Both score the same files, each in a process of its own, one after the other. Rates are given for the whole command, start of
the cluster and of the workers included, and between the first and the last shard. The last lines are the paper estimate of
docs/research/ray.md, computed from what was measured; the prices and sizes that it assumes are the constants below.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
from PIL import Image

METRIC, SIDE, DISTORTED = "msds-fast", 96, 20

#: What the estimate assumes: nodes, cores of each, price of a core in an hour (US dollars, spot), pairs, bytes of an image.
NODES, CORES, CORE_HOUR, PAIRS, IMAGE_BYTES = 100, 16, 0.02, 10**10, 20_000
#: Pairs of one file in the estimate.
SHARD = 1000


def make(folder: Path, number: int) -> None:
    """References of random squares, each with noisy versions of it, and the list of the pairs."""
    rng = np.random.default_rng(0)
    (folder / "r").mkdir()
    (folder / "d").mkdir()
    names = []
    for index in range(number):
        scene, version = divmod(index, DISTORTED)
        if version == 0:
            y = rng.integers(0, 256, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            Image.fromarray(y).save(folder / "r" / f"{scene:05}.png")
        x = (y + (1 + version) * rng.standard_normal(y.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(x).save(folder / "d" / f"{scene:05}_{version:02}.png")
        names.append(f"{folder}/r/{scene:05}.png,{folder}/d/{scene:05}_{version:02}.png")
    (folder / "pairs.csv").write_text("\n".join(["reference,distorted", *names]))


def memory() -> float:
    """MiB that this process holds now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def on_ray(folder: Path, shard_size: int) -> None:
    """The driver, in a process of its own: prints what it measured as JSON."""
    start = perf_counter()
    import ray

    from msds_plugin.adapters.ray import Progress, score

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    seen: list[tuple[float, int, float]] = []

    def note(progress: Progress) -> None:
        seen.append((perf_counter() - start, progress.pairs, memory()))

    done = score(folder / "pairs.csv", [METRIC], folder / "out", shard_size=shard_size, on_progress=note)
    assert done.failed == 0, done
    print(json.dumps({"seen": seen, "seconds": perf_counter() - start}))


def locally(folder: Path) -> None:
    """What ``msds score`` does, whose folders cannot say which distorted images belong to which reference here."""
    import pandas as pd

    from msds_plugin.adapters.scoring import Pair, create_scorers, score_pairs

    lines = (line.split(",") for line in (folder / "pairs.csv").read_text().splitlines()[1:])
    results = score_pairs([Pair(Path(r), Path(d)) for r, d in lines], create_scorers([METRIC], "cpu"))
    table = pd.DataFrame([{"distorted": str(result.pair.distorted), METRIC: result.score} for result in results])
    table.to_parquet(folder / "local.parquet")


def hand_out(pairs: int) -> float:
    """Pairs per second that a driver can cut into shards and name, which no number of nodes makes faster."""
    from msds_plugin.adapters.ray.pairs import shards

    names = ((f"s3://bucket/r/{index // DISTORTED:09}.png", f"s3://bucket/d/{index:09}.png") for index in range(pairs))
    start = perf_counter()
    for shard in shards(names, SHARD):
        json.dumps(shard)
    return pairs / (perf_counter() - start)


def measure(number: int, shard_size: int) -> dict[str, float]:
    """All figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, number)
        driver = [sys.executable, __file__, "--driver", name, "--shard-size", str(shard_size)]
        ray = json.loads(subprocess.run(driver, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        start = perf_counter()
        subprocess.run([sys.executable, __file__, "--local", name], check=True, capture_output=True)
        local = perf_counter() - start
        bytes_out = sum(path.stat().st_size for path in (folder / "out").glob("*.parquet")) / number
        same = same_scores(folder)
    seen = ray["seen"]
    # The first shards of both workers come together, and so may the last.
    steady = (seen[-1][1] - seen[1][1]) / (seen[-1][0] - seen[1][0]) if len(seen) > 3 else number / ray["seconds"]
    return {
        "pairs": number,
        "ray_per_second": number / ray["seconds"],
        "ray_steady_per_second": steady,
        "local_per_second": number / local,
        "same_to_the_bit": same,
        "memory_first": seen[0][2],
        "memory_middle": seen[len(seen) // 2][2],
        "memory_last": seen[-1][2],
        "bytes_per_row": bytes_out,
        "handed_out_per_second": hand_out(200_000),
    }


def same_scores(folder: Path) -> float:
    """The share of pairs whose two scores are equal to the bit."""
    import pandas as pd

    local = pd.read_parquet(folder / "local.parquet").set_index("distorted")[METRIC]
    ray = pd.concat([pd.read_parquet(path) for path in (folder / "out").glob("*.parquet")]).set_index("distorted")[METRIC]
    return float((local.sort_index() == ray.sort_index()).mean())


def report(figures: dict[str, float]) -> str:
    """What docs/research/ray.md says, as Markdown."""
    core = figures["ray_steady_per_second"] / 2
    cluster = core * NODES * CORES
    hours = PAIRS / cluster / 3600
    used = hours * NODES * CORES
    ratio = figures["ray_per_second"] / figures["local_per_second"]
    handed, rows = figures["handed_out_per_second"], figures["bytes_per_row"]
    images = cluster * (1 + 1 / DISTORTED)
    held = ", ".join(f"{figures[f'memory_{when}']:.0f}" for when in ("first", "middle", "last"))
    return f"""
| {figures["pairs"]:,} pairs of {SIDE} x {SIDE}, {DISTORTED} per reference, `{METRIC}`, two cores | |
| --- | --- |
| engine of `msds score`, whole process | {figures["local_per_second"]:.1f} pairs/s |
| Ray, two workers, whole process | {figures["ray_per_second"]:.1f} pairs/s, {ratio:.2f} of it |
| Ray, without start and end | {figures["ray_steady_per_second"]:.1f} pairs/s |
| scores equal to the bit | {figures["same_to_the_bit"]:.0%} |
| driver's memory after the first shard, half-way, at the end | {held} MiB |
| pairs that one driver can hand out | {handed:,.0f} per second |
| Parquet | {rows:.0f} bytes per pair |

On {NODES} nodes of {CORES} cores, {PAIRS:,} such pairs: {core:.0f} pairs/s per core and {cluster:,.0f} in all make
{hours:.0f} hours, {used:,.0f} core hours, {used * CORE_HOUR:,.0f} US dollars at {CORE_HOUR} per core hour.

- The driver can hand out {handed:,.0f} pairs/s and is asked for {cluster:,.0f}: it is busy for {cluster / handed:.0%}
  of the time, and is what limits the speed from {handed / core / CORES:,.0f} nodes on.
- Reading: {images:,.0f} requests/s to the store and {images * IMAGE_BYTES / 1e9:.1f} GB/s, at {IMAGE_BYTES:,} bytes per image.
- Results: {PAIRS * rows / 1e9:,.0f} GB in {PAIRS // SHARD:,} files of {SHARD} pairs, {cluster / SHARD:.0f} files a second.
"""


def main() -> None:
    """Measure, print, and keep the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--shard-size", type=int, default=250)
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--from-json", type=Path, help="print the report of such a file, without measuring")
    parser.add_argument("--driver", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--local", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.driver is not None:
        on_ray(options.driver, options.shard_size)
        return
    if options.local is not None:
        locally(options.local)
        return
    given = options.from_json
    figures = measure(options.pairs, options.shard_size) if given is None else json.loads(given.read_text())
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1))
    print(report(figures))


if __name__ == "__main__":
    main()
