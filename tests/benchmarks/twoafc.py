"""Forced choices out of opinion scores: how often SPIPS, trained on other scenes, and other metrics side with people.

    D=../shared/data/live_gblur
    python tests/benchmarks/twoafc.py WORK live_gblur=$D/labels.csv --root $D/images --lower-better

Of every two distorted images of a reference whose opinions differ, the one with the better opinion is the one that people
prefer; with ``--across``, of every two images of different references of one fold, a harder choice (intervals count the first
image's reference only, so they are somewhat narrow). SPIPS is trained once per fold of references on the opinions of the other
folds, and judges the fold it has not seen. Prints the agreement of each metric with 95 % intervals of a bootstrap over
references, and paired tests with Holm's correction. Scores and features are kept in WORK.
"""

from itertools import combinations
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer

from msds_plugin.adapters.benchmark import Dataset, load_csv, run, statistics
from msds_plugin.adapters.research.training import from_opinions, train_spips
from msds_plugin.adapters.scoring import Run

METRICS = ("msds-hybrid", "msds-fast", "lpips", "ssim")


def main(
    work: Path,
    table: str,
    root: Path | None = None,
    lower_better: bool = False,
    across: Annotated[bool, typer.Option("--across", help="choices between different references")] = False,
    folds: int = 5,
    seed: int = 0,
) -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    work.mkdir(parents=True, exist_ok=True)
    name, _, path = table.partition("=")
    data = load_csv(path, root, lower_better, name)

    def part(rows: np.ndarray) -> Dataset:
        return Dataset(name, data.table[rows].reset_index(drop=True), data.lower_is_better)

    def scores_of(metrics: list[str], of: Dataset) -> list[np.ndarray]:
        made = run(metrics, [of], work / "scores.sqlite", Run("cpu", workers=0)).scores
        return [made.of(name, metric)["score"].to_numpy(float) for metric in made.metrics]

    codes, names = pd.factorize(data.table["reference"], sort=True)
    fold = (np.random.default_rng(seed).permutation(len(names)) % folds)[codes]
    spips = np.empty(len(fold))
    for index in range(folds):
        file = work / f"{name}_{index}.safetensors"
        if not file.exists():
            made = train_spips(from_opinions(part(fold != index)), file, cache=work / "features", seed=seed)
            print(f"fold {index}: {made.facts['epochs']} epochs", flush=True)
        spips[fold == index] = scores_of([f"spips,weights={file}"], part(fold == index))[0]
    scores = {"spips": spips, **dict(zip(METRICS, scores_of(list(METRICS), data), strict=True))}
    opinion = data.table["score"].to_numpy(float) * (-1 if lower_better else 1)
    reference = data.table["reference"].to_numpy()
    a, b = np.array(list(combinations(range(len(opinion)), 2))).T
    together = (reference[a] != reference[b]) & (fold[a] == fold[b]) if across else reference[a] == reference[b]
    a, b = (side[together & (opinion[a] != opinion[b])] for side in (a, b))
    sides = {metric: (values[a], values[b]) for metric, values in scores.items()}
    share, answers = (opinion[b] > opinion[a]).astype(float), np.ones(len(a))
    agreement, tests = statistics.choices(sides, share, answers, reference[a], ["spips", "lpips"])
    columns = ["metric", "count", "references", "agreement", "agreement_low", "agreement_high"]
    print(f"{name}: {len(a)} comparisons, {len(set(reference))} references")
    print(agreement[columns].to_markdown(index=False, floatfmt=".3f"))
    print(tests.to_markdown(index=False, floatfmt=".3g"))


if __name__ == "__main__":
    typer.run(main)
