"""The time of a metric in this version, by each runtime, and in another one, beside pyiqa's dists.

    python tests/benchmarks/versions.py --other FOLDER_OF_0_2_0 --size 64x64 --size 384x512
    python tests/benchmarks/versions.py --metric msds --rounds 4 --in-a-row 1
    python tests/benchmarks/versions.py --threads 1 --processor        # on a machine that is not quiet

Each runs in a process of its own and is called when its turn comes, some times in a row, of which the median counts. Ratios are
taken within a round, and their medians over the rounds are printed, with the smallest and largest. Weights are random, no
gradients. ``--other`` is a folder in which the package ``msds_plugin`` lies as it is installed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

CHILD = """
import contextlib, sys, time
from statistics import median
import torch

name, runtime, clock, threads = sys.argv[1:5]
if int(threads):
    torch.set_num_threads(int(threads))
torch.manual_seed(0)
if name == "dists":
    sys.path.insert(0, sys.argv[5])
    from speed import without_downloads
    import pyiqa

    without_downloads()
    metric = pyiqa.create_metric("dists", pretrained=False, device="cpu").net
else:
    from msds_plugin import registry

    metric = registry.create(name, weights=None, **({} if runtime == "other" else {"runtime": runtime.split()[0]}))
half = torch.autocast("cpu", torch.bfloat16) if "bfloat16" in runtime else contextlib.nullcontext()
print("ready", flush=True)
for line in sys.stdin:
    height, width, calls = map(int, line.split())
    torch.manual_seed(0)
    x, y = torch.rand(2, 1, 3, height, width)
    seconds = []
    with torch.inference_mode(), half:
        for _ in range(calls):
            start = getattr(time, clock)()
            metric(x, y)
            seconds.append(getattr(time, clock)() - start)
    print(median(seconds), flush=True)
"""


class Process:
    """One metric, in a process that waits for its turn."""

    def __init__(self, name: str, runtime: str, clock: str, threads: int, folder: Path | None) -> None:
        here = str(Path(__file__).resolve().parent)
        command = [sys.executable, "-c", CHILD, name, runtime, clock, str(threads), here]
        # python -c looks into the folder that it runs in first
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder)
        while self._line() != "ready":  # a toolkit may print something
            pass

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a process ended; its error is above")
        return line.strip()

    def seconds(self, size: tuple[int, int], calls: int) -> float:
        """The median of so many calls."""
        assert self.process.stdin is not None
        print(*size, calls, file=self.process.stdin, flush=True)
        return float(self._line())


def main(
    metric: str = "msds-fast",
    other: Annotated[Path | None, typer.Option(help="folder with another version")] = None,
    runtime: Annotated[list[str] | None, typer.Option(help='"torch", "openvino", "openvino bfloat16", ...')] = None,
    size: Annotated[list[str] | None, typer.Option(help="height x width")] = None,
    rounds: int = 8,
    in_a_row: int = 9,
    threads: Annotated[int, typer.Option(help="of torch and OpenVINO; 0 for as many as there are cores")] = 0,
    processor: Annotated[bool, typer.Option("--processor", help="processor time in place of time")] = False,
) -> None:
    """Print one row per size and runtime: its time as a multiple of that of dists and of the other version."""
    clock = "process_time" if processor else "perf_counter"
    runtimes = runtime or ["openvino", "openvino bfloat16", "torch"]
    waiting = {what: Process(metric, what, clock, threads, None) for what in runtimes}
    waiting["dists"] = Process("dists", "", clock, threads, None)
    if other:
        waiting["other"] = Process(metric, "other", clock, threads, other.resolve())
    print(f"{metric}\n\n| size | by | ms | x dists | x other |\n|---|---|---|---|---|")
    for text in size or ["64x64", "384x512"]:
        height, width = map(int, text.split("x"))
        found = []
        for turn in range(rounds + 1):  # the first one warms up
            order = [*waiting] if turn % 2 else [*reversed(waiting)]
            found.append({what: waiting[what].seconds((height, width), 1 if what == "dists" else in_a_row) for what in order})
        for what in waiting:
            cells = [f"{median(each[what] for each in found[1:]) * 1e3:.2f}"]
            for base in ("dists", "other"):
                ratios = [each[what] / each[base] for each in found[1:]] if base in waiting else [float("nan")]
                cells.append(f"{median(ratios):.4f} ({min(ratios):.4f} - {max(ratios):.4f})")
            print(f"| {text} | {what} | {' | '.join(cells)} |", flush=True)
    for process in waiting.values():
        process.process.kill()


if __name__ == "__main__":
    typer.run(main)
