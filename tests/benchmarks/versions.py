"""The time of metrics in this version, by each runtime, beside one another, another version and pyiqa's dists.

    python tests/benchmarks/versions.py --other FOLDER_OF_0_2_0 --size 64x64 --size 384x512
    python tests/benchmarks/versions.py --metric msds-fast --metric msds-auto --metric msds-hybrid --runtime openvino
    python tests/benchmarks/versions.py --metric msds --rounds 4 --in-a-row 1
    python tests/benchmarks/versions.py --threads 1 --processor        # on a machine that is not quiet

Each runs in a process of its own and is called when its turn comes, some times in a row, of which the median counts. Ratios are
taken within a round, and their medians over the rounds are printed, with the smallest and largest. Weights are random, no
gradients. ``--other`` is a folder in which the package ``msds_plugin`` lies as it is installed.
"""

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
    import pyiqa
    from torchvision import models

    make = models.vgg16
    models.vgg16 = lambda *_, **__: make(weights=None)  # nothing is downloaded
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

    def __init__(self, name: str, runtime: str, clock: str, threads: int, folder: Path | None = None) -> None:
        command = [sys.executable, "-c", CHILD, name, runtime, clock, str(threads)]
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
    metric: Annotated[list[str] | None, typer.Option(help="what the first takes is what the others are seen beside")] = None,
    other: Annotated[Path | None, typer.Option(help="folder with another version, of the first metric")] = None,
    runtime: Annotated[list[str] | None, typer.Option(help='"torch", "openvino", "openvino bfloat16", ...')] = None,
    size: Annotated[list[str] | None, typer.Option(help="height x width")] = None,
    rounds: int = 8,
    in_a_row: int = 9,
    threads: Annotated[int, typer.Option(help="of torch and OpenVINO; 0 for as many as there are cores")] = 0,
    processor: Annotated[bool, typer.Option("--processor", help="processor time in place of time")] = False,
    dists: Annotated[bool, typer.Option(help="beside pyiqa's dists")] = True,
) -> None:
    """Print one row per size, metric and runtime: its time as a multiple of those of the three that it is seen beside."""
    clock = "process_time" if processor else "perf_counter"
    metrics, runtimes = metric or ["msds-fast"], runtime or ["openvino", "openvino bfloat16", "torch"]
    waiting = {(name, what): Process(name, what, clock, threads) for name in metrics for what in runtimes}
    if dists:
        waiting["dists", ""] = Process("dists", "", clock, threads)
    if other:
        waiting[metrics[0], "other"] = Process(metrics[0], "other", clock, threads, other.resolve())
    print(f"| size | metric | by | ms | x {metrics[0]} | x dists | x other |\n|---|---|---|---|---|---|---|")
    for text in size or ["64x64", "384x512"]:
        height, width = map(int, text.split("x"))
        found = []
        for turn in range(rounds + 1):  # the first one warms up
            order = [*waiting] if turn % 2 else [*reversed(waiting)]
            found.append({key: waiting[key].seconds((height, width), 1 if "dists" in key else in_a_row) for key in order})
        for name, what in waiting:
            cells = [f"{median(each[name, what] for each in found[1:]) * 1e3:.2f}"]
            for base in ((metrics[0], what), ("dists", ""), (metrics[0], "other")):
                ratios = [each[name, what] / each[base] for each in found[1:]] if base in waiting else [float("nan")]
                cells.append(f"{median(ratios):.4f} ({min(ratios):.4f} - {max(ratios):.4f})")
            print(f"| {text} | {name} | {what} | {' | '.join(cells)} |", flush=True)
    for process in waiting.values():
        process.process.kill()


if __name__ == "__main__":
    typer.run(main)
