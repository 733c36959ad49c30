"""What ``import msds_plugin`` costs on top of what is imported before it.

    python tests/benchmarks/import_time.py --repeats 15

Each measurement is a process of its own; the cases take turns. Prints medians with the smallest and largest, in seconds.
"""

from __future__ import annotations

import subprocess
import sys
from statistics import median

import typer

#: What is imported first, and which toolkits must look as if they were not installed.
CASES = {
    "torch, torchvision; no toolkit installed": ("torch, torchvision", ("pyiqa", "piq")),
    "torch, torchvision, piq; pyiqa not installed": ("torch, torchvision, piq", ("pyiqa",)),
    "torch, torchvision, pyiqa, piq": ("torch, torchvision, pyiqa, piq", ()),
}
CODE = """
import sys, time
sys.modules.update(dict.fromkeys({absent!r}))
start = time.perf_counter()
import {first}
middle = time.perf_counter()
import msds_plugin
print(middle - start, time.perf_counter() - middle)
"""


def measure(first: str, absent: tuple[str, ...]) -> tuple[float, ...]:
    """Seconds for what is imported first, and for msds_plugin after it."""
    code = CODE.format(first=first, absent=absent)
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    return tuple(map(float, done.stdout.split()[-2:]))


def spread(values: list[float]) -> str:
    """Median, smallest and largest."""
    return f"{median(values):.2f} ({min(values):.2f} - {max(values):.2f})"


def main(repeats: int = 15) -> None:
    """Print one row per case."""
    rounds = [{name: measure(*case) for name, case in CASES.items()} for _ in range(repeats)]
    print("| imported first | takes, s | then msds_plugin, s |\n|---|---|---|")
    for name in CASES:
        before, ours = (list(times) for times in zip(*(times[name] for times in rounds), strict=True))
        print(f"| {name} | {spread(before)} | {spread(ours)} |")


if __name__ == "__main__":
    typer.run(main)
