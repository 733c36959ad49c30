"""Many pairs: the engine behind ``msds score`` beside the naive loop, and its cost per pair from few pairs to many.

Naive means what one writes first: read both files, call the metric, next pair. Both see the same files and take turns
within one run; the table gives medians and, in parentheses, the smallest and largest value of the repetitions.

    python tests/benchmarks/many_pairs.py                          # 1,000 small and 50 large pairs
    python tests/benchmarks/many_pairs.py --growth 100 10000       # and how the cost per pair grows
    python tests/benchmarks/many_pairs.py --small 0 --large 0 --workers 0 1 2 4            # pairs side by side
    python tests/benchmarks/many_pairs.py --small 0 --large 0 --workers 0 2 4 --busy 2     # beside busy loops

``--workers 0`` is one pair after the other on all of torch's threads, 1 the same with a thread that reads ahead; from 2 on
pairs are scored side by side. The share of the calling thread, which is serial, bounds the speed on more cores (Amdahl); what
threads lose by waiting for the interpreter comes on top.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import torch
from PIL import Image
from skimage import data

from msds_plugin.adapters.common.scorer import Scorer
from msds_plugin.adapters.images.pairs import Pair
from msds_plugin.adapters.images.read import read_image
from msds_plugin.adapters.scoring.engine import score_pairs
from msds_plugin.adapters.scoring.scorers import create_scorer


def make_pairs(folder: Path, count: int, size: tuple[int, int], per_reference: int) -> list[Pair]:
    """Photographs and noisy versions of them as PNG files, ``per_reference`` versions of each."""
    width, height = size
    photos = [np.asarray(Image.fromarray(photo).resize(size)) for photo in (data.astronaut(), data.coffee(), data.chelsea())]
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 10, (height * 2, width * 2, 3)).astype(np.float32)
    pairs = []
    folder.mkdir()
    for index in range(count):
        scene, version = divmod(index, per_reference)
        photo = np.roll(photos[scene % len(photos)], scene, axis=1)
        reference, distorted = folder / f"r{scene}.png", folder / f"d{scene}_{version}.png"
        if version == 0:
            Image.fromarray(photo).save(reference)
        top, left = rng.integers(height), rng.integers(width)
        noisy = photo + noise[top : top + height, left : left + width]
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(distorted)
        pairs.append(Pair(reference, distorted))
    return pairs


def naive(pairs: Sequence[Pair], scorer: Scorer) -> list[float]:
    """Read both, call the metric, next."""
    with torch.no_grad():
        return [scorer.score(read_image(pair.distorted), read_image(pair.reference)).item() for pair in pairs]


def engine(pairs: Sequence[Pair], scorer: Scorer) -> list[float]:
    """What ``msds score`` does, with its defaults."""
    scores = {result.pair: result.score for result in score_pairs(pairs, [scorer])}
    return [scores[pair] for pair in pairs]


def seconds(
    function: Callable[[Sequence[Pair], Scorer], list[float]], pairs: Sequence[Pair], scorer: Scorer
) -> tuple[float, float]:
    """How long scoring all pairs takes, and how much time of processors, that of finished workers included."""
    start, used = perf_counter(), sum(os.times()[:4])
    function(pairs, scorer)
    return perf_counter() - start, sum(os.times()[:4]) - used


def spread(values: Sequence[float], digits: int) -> str:
    """Median, smallest and largest."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} - {max(values):.{digits}f})"


def compare(name: str, pairs: Sequence[Pair], scorer: Scorer, repeats: int) -> None:
    """One line of the table: pairs per second of both, and the ratios of their times."""
    few = pairs[:: max(1, len(pairs) // 20)]
    difference = max(abs(a - b) for a, b in zip(naive(few, scorer), engine(few, scorer), strict=True))
    times = [(seconds(naive, pairs, scorer), seconds(engine, pairs, scorer)) for _ in range(repeats)]
    rates = [spread([len(pairs) / both[which][0] for both in times], 1) for which in (0, 1)]
    ratios = [spread([loop[which] / ours[which] for loop, ours in times], 2) for which in (0, 1)]
    print("| " + " | ".join([name, *rates, *ratios, f"{difference:.0e}"]) + " |", flush=True)


def growth(pairs: Sequence[Pair], counts: Sequence[int], scorer: Scorer, repeats: int) -> None:
    """Milliseconds per pair and peak memory for each number of pairs, taking turns, the smallest number first."""
    times: dict[int, list[float]] = {count: [] for count in counts}
    peak: dict[int, float] = {}
    for _ in range(repeats):
        for count in counts:
            times[count].append(seconds(engine, pairs[:count], scorer)[0] / count * 1e3)
            peak.setdefault(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print("\n| pairs | ms per pair | peak memory so far, MiB |\n|---|---|---|")
    for count in counts:
        print(f"| {count} | {spread(times[count], 2)} | {peak[count]:.0f} |")


def side_by_side(pairs: Sequence[Pair], counts: Sequence[int], scorer: Scorer, repeats: int) -> None:
    """Pairs per second for each number of workers, taking turns, and on paper for 64 cores."""
    times: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(repeats):
        for count in counts:
            start = perf_counter()
            for _result in score_pairs(pairs, [scorer], workers=count):
                pass
            times[count].append(perf_counter() - start)
    print(f"\n| workers | pairs per second | times {counts[0]} workers |\n|---|---|---|")
    for count in counts:
        ratios = [first / own for first, own in zip(times[counts[0]], times[count], strict=True)]
        print(f"| {count} | {spread([len(pairs) / one for one in times[count]], 2)} | {spread(ratios, 2)} |")


def serial_share(pairs: Sequence[Pair], scorer: Scorer) -> None:
    """The share of one pair's time that threads of one interpreter cannot share, and what follows for 64 cores."""
    torch.set_num_threads(1)
    start, used = perf_counter(), time.thread_time()
    jobs = list(score_pairs(pairs, [scorer], workers=2))
    wall, main = perf_counter() - start, time.thread_time() - used
    work = sum(2 * result.seconds for result in jobs)
    share = main / work
    print(
        f"\nThe calling thread, which hands out work, takes {main / len(pairs) * 1e3:.2f} ms of "
        f"{work / len(pairs) * 1e3:.1f} ms per pair ({share:.2%}; {wall:.1f} s in all): on paper at most "
        f"{1 / (share + (1 - share) / 64):.0f} times one core on 64."
    )


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """So many processes that do nothing, as fast as they can."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def _size(text: str) -> tuple[int, int]:
    width, height = map(int, text.split("x"))
    return width, height


def main() -> None:
    """Make the images, measure, print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metric", default="msds-fast")
    parser.add_argument("--device")
    parser.add_argument("--small", type=int, default=1000, help="number of small pairs")
    parser.add_argument("--small-size", type=_size, default=(128, 128), metavar="WxH")
    parser.add_argument("--large", type=int, default=50, help="number of large pairs")
    parser.add_argument("--large-size", type=_size, default=(1920, 1080), metavar="WxH")
    parser.add_argument("--per-reference", type=int, nargs="+", default=[1, 10], help="distorted images per reference")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--growth", type=int, nargs="+", default=[], help="numbers of pairs to compare the cost per pair of")
    parser.add_argument("--workers", type=int, nargs="+", default=[], help="numbers of workers to compare")
    parser.add_argument("--worker-pairs", type=int, default=60, help="number of pairs for that")
    parser.add_argument("--worker-size", type=_size, default=(512, 384), metavar="WxH")
    parser.add_argument("--busy", type=int, default=0, help="busy loops beside that comparison")
    options = parser.parse_args()

    scorer = create_scorer(options.metric, options.device)
    print(
        f"{options.metric} on {scorer.device}, {os.cpu_count()} cores, torch {torch.__version__} with "
        f"{torch.get_num_threads()} threads, Python {platform.python_version()}; load before: {os.getloadavg()[0]:.1f}\n"
    )
    columns = (
        "pairs",
        "naive loop, pairs/s",
        "engine, pairs/s",
        "times as fast",
        "times less processor time",
        "difference",
    )
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|", flush=True)
    with TemporaryDirectory() as folder:
        for per_reference in options.per_reference:
            for count, size in ((options.small, options.small_size), (options.large, options.large_size)):
                if count:
                    pairs = make_pairs(Path(folder, f"{count}_{per_reference}"), count, size, per_reference)
                    name = f"{count} of {size[0]} x {size[1]}, {per_reference} per reference"
                    compare(name, pairs, scorer, options.repeats)
        if options.workers:
            pairs = make_pairs(Path(folder, "workers"), options.worker_pairs, options.worker_size, 1)
            with busy_loops(options.busy):
                side_by_side(pairs, options.workers, scorer, options.repeats)
            serial_share(pairs, scorer)
        if options.growth:
            pairs = make_pairs(Path(folder, "growth"), max(options.growth), options.small_size, 10)
            growth(pairs, sorted(options.growth), scorer, options.repeats)


if __name__ == "__main__":
    sys.exit(main())
