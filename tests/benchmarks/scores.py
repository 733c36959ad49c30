"""Scores of all named metrics on the material beside the checkout, to compare two versions of the package.

python tests/benchmarks/scores.py record FILE     writes them
python tests/benchmarks/scores.py compare FILE    computes those in the file anew, prints the largest differences
"""

import json
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from pictures import SHARED, pairs, read

from msds_plugin import registry

os.environ.setdefault("TORCH_HOME", str(SHARED / "torch_home"))
FAST = ["deepssim-fast", "msds-fast", "deepssim-lite-fast", "msds-lite-fast", "msds-align", "msds-hybrid", "msds-retarget"]
OTHERS = [
    ("deepssim", {"backbone": "alexnet"}),
    ("msds", {"backbone": "alexnet"}),
    ("msds-lite", {"backbone": "squeezenet1_1"}),
    ("deepssim", {"backbone": "squeezenet1_1"}),
    ("deepssim-fast", {"saliency": "gbvs", "saliency_threshold": 0.25}),
    ("msds-fast", {"fusion": [0.5, 0.3, 0.2]}),
]


def scores(names: list[str], known: dict[str, float] | None = None) -> Iterator[tuple[str, float]]:
    for name in names:
        plain = [(metric, {}) for metric in FAST]
        wanted = plain if name.startswith(("sr4k", "view")) else [*plain, *OTHERS]
        metrics = {f"{metric} {options}": registry.create(metric, **options).eval() for metric, options in wanted}
        kept: tuple[Path | None, torch.Tensor | None] = (None, None)
        images = None if known is None else {key.split(" ")[0] for key in known}
        for reference, distorted in pairs(name):
            if images is not None and f"{name}/{distorted.name}" not in images:
                continue
            if kept[0] != reference:
                kept = reference, read(reference)
            x, y = read(distorted), kept[1]
            for label, metric in metrics.items():
                with torch.no_grad():
                    try:
                        value = metric(x, y).item()
                    except ValueError:
                        value = math.nan
                yield f"{name}/{distorted.name} {label}", value


def main(mode: str, file: str) -> None:
    sets = ["live_gblur", "view_synthesis", "retargetme", "sr4k_quarter", "sr4k"]
    if mode == "record":
        start = time.time()
        Path(file).write_text(json.dumps(dict(scores(sets)), indent=0))
        print(f"{time.time() - start:.0f} s")
        return
    before = json.loads(Path(file).read_text())
    wanted = [name for name in sets if any(key.startswith(name + "/") for key in before)]
    worst: dict[str, tuple[float, str]] = {}
    for key, value in scores(wanted, before):
        label = key.split(" ", 1)[1]
        if math.isnan(value) != math.isnan(before[key]):
            worst[label] = (math.inf, key)
        elif not math.isnan(value):
            worst[label] = max(worst.get(label, (0.0, "")), (abs(value - before[key]), key))
    for label, (difference, key) in worst.items():
        print(f"{difference:.2e}  {label}  ({key.split(' ')[0]})")


if __name__ == "__main__":
    main(*sys.argv[1:])
