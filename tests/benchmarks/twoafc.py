"""Forced choices out of opinion scores: how often SPIPS, trained on other scenes, and other metrics side with people.

    D=../shared/data/live_gblur
    python tests/benchmarks/twoafc.py WORK live_gblur=$D/labels.csv --root $D/images --lower-better

Of every two distorted images of a reference whose opinions differ, the one with the better opinion is the one that people
prefer; with ``--across``, of every two images of different references of one fold, a harder choice (intervals count the first
image's reference only, so they are somewhat narrow). SPIPS is trained once per fold of references on the opinions of the other
folds, and judges the fold it has not seen; with ``--trained-on`` a second table it is trained on all of that one instead, for
sets with too few references. Prints the agreement of each metric with 95 % intervals of a bootstrap over references, and paired
tests with Holm's correction. Scores and features are kept in WORK, so that a second run takes seconds.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer

from msds_plugin.adapters.benchmark import Dataset, load_csv, run, statistics
from msds_plugin.adapters.research.training import from_opinions, inputs_of, train_spips
from msds_plugin.adapters.scoring.options import Run
from msds_plugin.spips import SPIPS

METRICS = ("msds-hybrid", "msds-fast", "lpips", "ssim")


def part(data: Dataset, rows: pd.Series, name: str) -> Dataset:
    """Some of the rows."""
    return Dataset(name, data.table[rows].reset_index(drop=True), data.lower_is_better)


def spips_scores(weights: Path, data: Dataset, cache: Path) -> np.ndarray:
    """Scores (pairs,) of a trained file."""
    metric = SPIPS(weights)
    pairs = [(Path(r), Path(d)) for r, d in zip(data.table["reference"], data.table["distorted"], strict=True)]
    with torch.inference_mode():
        inputs, _ = inputs_of(metric, pairs, cache)
        return metric.fusion(type(inputs)(inputs.maps, inputs.thumbnails.float())).numpy()


def folds_of(data: Dataset, folds: int, seed: int) -> np.ndarray:
    """The fold of each row."""
    codes, names = pd.factorize(data.table["reference"], sort=True)
    return np.asarray((np.random.default_rng(seed).permutation(len(names)) % folds)[codes])


def trained_elsewhere(data: Dataset, fold: np.ndarray, work: Path, seed: int) -> np.ndarray:
    """Scores of SPIPS on each fold of references by weights learned from the others."""
    scores = np.empty(len(data.table))
    for index in np.unique(fold):
        held = pd.Series(fold == index)
        file = work / f"{data.name}_{index}.safetensors"
        if not file.exists():
            made = train_spips(from_opinions(part(data, ~held, data.name)), file, cache=work / "features", seed=seed)
            print(f"fold {index}: {made.facts['epochs']} epochs", flush=True)
        scores[held] = spips_scores(file, part(data, held, data.name), work / "features")
    return scores


def main(
    work: Path,
    table: str,
    root: Path | None = None,
    lower_better: bool = False,
    trained_on: Annotated[
        str | None, typer.Option(help="NAME=FILE of the table to train on, of lower-is-better opinions")
    ] = None,
    trained_root: Path | None = None,
    across: Annotated[bool, typer.Option("--across", help="choices between different references")] = False,
    folds: int = 5,
    seed: int = 0,
) -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    work.mkdir(parents=True, exist_ok=True)
    name, _, path = table.partition("=")
    data = load_csv(path, root, lower_better, name)
    made = run(METRICS, [data], work / "scores.sqlite", Run("cpu", workers=0))
    scores = {metric: made.scores.of(name, metric)["score"].to_numpy(float) for metric in METRICS}
    fold = folds_of(data, folds if trained_on is None else 1, seed)
    if trained_on is None:
        scores = {"spips": trained_elsewhere(data, fold, work, seed), **scores}
    else:
        other, _, other_path = trained_on.partition("=")
        file = work / f"{other}.safetensors"
        if not file.exists():
            train_spips(
                from_opinions(load_csv(other_path, trained_root, True, other)), file, cache=work / "features", seed=seed
            )
        scores = {f"spips of {other}": spips_scores(file, data, work / "features"), **scores}
    falling = [each for each in scores if each.startswith(("spips", "lpips"))]
    opinion = data.table["score"].to_numpy(float) * (-1 if lower_better else 1)
    reference = data.table["reference"].to_numpy()
    a, b = np.array(list(combinations(range(len(opinion)), 2))).T
    together = (reference[a] != reference[b]) & (fold[a] == fold[b]) if across else reference[a] == reference[b]
    a, b = (side[together & (opinion[a] != opinion[b])] for side in (a, b))
    sides = {metric: (values[a], values[b]) for metric, values in scores.items()}
    share, answers = (opinion[b] > opinion[a]).astype(float), np.ones(len(a))
    given = (sides, share, answers, reference[a], falling)
    found = statistics.choice_agreement(*given)[
        ["metric", "count", "references", "agreement", "agreement_low", "agreement_high"]
    ]
    print(f"{name}: {len(a)} comparisons, {len(set(reference))} references")
    print(found.to_markdown(index=False, floatfmt=".3f"))
    tests = statistics.choice_significance(*given)
    print(tests.to_markdown(index=False, floatfmt=(".3f", ".3f", "+.3f", ".2g", ".2g", ".0f")))


if __name__ == "__main__":
    typer.run(main)
