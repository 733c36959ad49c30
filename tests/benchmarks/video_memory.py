"""Peak memory of scoring a short and a long video, each in a process of its own.

python tests/benchmarks/video_memory.py [--frames 200 2000] [--metric deepssim-fast] [--size 320x240]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write(path: Path, count: int, size: tuple[int, int], noise: float) -> None:
    """A moving pattern of 25 frames per second."""
    rng = np.random.default_rng(0)
    width, height = size
    rows, columns = np.mgrid[:height, :width]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(count):
            wave = 127 + 90 * np.sin(rows / 5 + index / 4) * np.cos(columns / 7)
            pixels = wave[..., None] + noise * rng.standard_normal((height, width, 3))
            frame = av.VideoFrame.from_ndarray(pixels.clip(0, 255).astype(np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def score(reference: str, distorted: str, metrics: list[str]) -> None:
    """The process that is measured: prints its number of frames and its peak memory in MiB."""
    from msds_plugin.adapters.scorers import create_scorers
    from msds_plugin.adapters.video import score_video

    count = sum(1 for _ in score_video(reference, distorted, create_scorers(metrics, "cpu")))
    print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    """Make the videos, measure, print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[200, 2000])
    parser.add_argument("--metric", nargs="+", default=["deepssim-fast"])
    parser.add_argument("--size", default="320x240")
    parser.add_argument("--score", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.score:
        score(*options.score, options.metric)
        return
    width, height = map(int, options.size.split("x"))
    print(f"{', '.join(options.metric)}, {options.size}\n\n| frames | peak memory, MiB |\n|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for count in options.frames:
            names = [str(Path(folder, f"{kind}{count}.mkv")) for kind in "yx"]
            for name, noise in zip(names, (0.0, 20.0), strict=True):
                write(Path(name), count, (width, height), noise)
            run = [sys.executable, __file__, "--metric", *options.metric, "--score", *names]
            scored, peak = subprocess.run(run, check=True, capture_output=True, text=True).stdout.split()
            print(f"| {scored} | {float(peak):.0f} |", flush=True)


if __name__ == "__main__":
    main()
