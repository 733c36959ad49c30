"""The time of msds-fast in this checkout and in another one (an older version, a branch), beside pyiqa's dists.

    git worktree add --detach ../old cd86954        # version 0.1.0
    python tests/benchmarks/versions.py ../old --size 64x64 --size 384x512

Each runs in a process of its own and is called when its turn comes, some times in a row, of which the median counts. Ratios are
taken within a round; medians over the rounds are printed, with the smallest and largest. Weights are random, no gradients.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

ROOT = Path(__file__).parents[2]

CHILD = """
import sys, time
from statistics import median
import torch

torch.manual_seed(0)
if sys.argv[1] == "dists":
    sys.path.insert(0, sys.argv[2])
    from speed import without_downloads
    import pyiqa

    without_downloads()
    metric = pyiqa.create_metric("dists", pretrained=False, device="cpu").net
else:
    import msds_plugin
    from msds_plugin import DeepSSIM, MultiScale

    assert msds_plugin.__file__.startswith(sys.argv[3]), msds_plugin.__file__
    metric = MultiScale(DeepSSIM("efficientnet_lite0", weights=None), 3)
print("ready", flush=True)
for line in sys.stdin:
    height, width, calls = map(int, line.split())
    torch.manual_seed(0)
    x, y = torch.rand(2, 1, 3, height, width)
    seconds = []
    with torch.inference_mode():
        for _ in range(calls):
            start = time.perf_counter()
            metric(x, y)
            seconds.append(time.perf_counter() - start)
    print(median(seconds), flush=True)
"""


class Process:
    """One metric, in a process that waits for its turn."""

    def __init__(self, what: str, packages: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, what, str(Path(__file__).resolve().parent), str(packages)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=packages,  # which python -c looks into first
        )
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


def packages_of(checkout: Path, folder: Path) -> Path:
    """A folder from which ``import msds_plugin`` takes all of a checkout, whatever is installed."""
    package = folder / "msds_plugin"
    package.mkdir(parents=True)
    for part in [*(checkout / "msds_plugin").iterdir(), checkout / "registry", checkout / "adapters"]:
        (package / part.name).symlink_to(part)
    return folder


def main(
    other: Path,
    size: Annotated[list[str] | None, typer.Option(help="height x width")] = None,
    rounds: int = 8,
    in_a_row: int = 9,
) -> None:
    """Print one row per size: seconds of dists, both versions as multiples of it, and this version as one of the other."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        checkouts = {"other": other.resolve(), "this": ROOT}
        waiting = {what: Process(what, packages_of(at, folder / what)) for what, at in checkouts.items()}
        waiting["dists"] = Process("dists", folder / "this")
        print("| size | dists, s | other | this | this / other |\n" + "|---" * 5 + "|")
        for text in size or ["384x512"]:
            height, width = map(int, text.split("x"))
            found = []
            for turn in range(rounds + 1):  # the first one warms up
                order = [*waiting] if turn % 2 else [*reversed(waiting)]
                found.append(
                    {what: waiting[what].seconds((height, width), 1 if what == "dists" else in_a_row) for what in order}
                )
            found = found[1:]
            cells = [f"{median(each['dists'] for each in found):.3f}"]
            for what, base in (("other", "dists"), ("this", "dists"), ("this", "other")):
                ratios = [each[what] / each[base] for each in found]
                cells.append(f"{median(ratios):.4f} ({min(ratios):.4f} - {max(ratios):.4f})")
            print(f"| {height} x {width} | {' | '.join(cells)} |", flush=True)
        for process in waiting.values():
            process.process.kill()


if __name__ == "__main__":
    typer.run(main)
