"""Growth of the memory of a process that scores pairs of ever new sizes, as ``msds score`` does.

    python tests/benchmarks/growth.py --metric msds-fast --pairs 2000
    python tests/benchmarks/growth.py --metric msds-fast --pairs 2000 --capacity 1024    # oneDNN's own limit

Prints the resident memory after so many pairs, and by how much it grew from the hundredth pair on.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path


def _resident() -> float:
    """MiB, of Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metric", default="msds-fast")
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--sides", type=int, nargs=2, default=(64, 160), help="shortest and longest side")
    parser.add_argument("--capacity", type=int, help="of oneDNN's cache of operations; as the command sets it if not given")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    if options.capacity is not None:
        os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = str(options.capacity)
    from msds_plugin.adapters.cli.shared.environment import set_environment

    set_environment()
    _score(options)


def _score(options: argparse.Namespace) -> None:
    import numpy as np
    from PIL import Image

    from msds_plugin.adapters.images.pairs import Pair
    from msds_plugin.adapters.scoring.engine import score_pairs
    from msds_plugin.adapters.scoring.scorers import create_scorers

    rng = np.random.default_rng(0)
    scorers = create_scorers([options.metric], "cpu")

    def pairs(folder: Path) -> Iterator[Pair]:
        for index in range(options.pairs):
            height, width = rng.integers(options.sides[0], options.sides[1] + 1, 2)
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            for name, values in (("r", pixels), ("d", pixels // 2)):
                Image.fromarray(values).save(folder / f"{index}{name}.bmp")
            yield Pair(folder / f"{index}r.bmp", folder / f"{index}d.bmp")

    with tempfile.TemporaryDirectory() as folder:
        first, made = 0.0, list(pairs(Path(folder)))
        for done, result in enumerate(score_pairs(made, scorers, workers=options.workers), 1):
            assert result.error is None, result.error
            if done == 100:
                first = _resident()
            if done % 200 == 0 or done == 100:
                print(f"{done}\t{_resident():.0f} MiB\t{_resident() - first:+.0f}", flush=True)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
