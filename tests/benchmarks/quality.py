"""Rank correlation of every layer and level of a backbone with opinion scores: what the defaults were chosen by.

    python tests/benchmarks/quality.py CSV --backbone alexnet --backbone efficientnet_lite0

CSV lists reference, distorted and score, as for ``msds benchmark``. Prints one table per backbone: SRCC (sign removed) of
DeepSSIM on one layer and one level alone, of the mean over all layers, and of equal weights over the levels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer
from rich import print as show
from rich.progress import track
from scipy.stats import spearmanr

from msds_plugin import BACKBONES, MSDS
from msds_plugin.adapters.benchmark.datasets import load_csv
from msds_plugin.adapters.images.read import read_image
from msds_plugin.functional import block_dissimilarity


@torch.inference_mode()
def scores(csv: Path, root: Path | None, backbone: str, levels: int) -> tuple[torch.Tensor, pd.Series]:
    """Dissimilarities (pairs, levels, layers) and the opinion scores."""
    table = load_csv(csv, root).table
    metric = MSDS(levels=levels, backbone=backbone, layers=list(BACKBONES[backbone].layers))
    found: dict[int, torch.Tensor] = {}
    for reference, rows in track(table.groupby("reference"), description=backbone):
        kept = metric.represent(read_image(reference))
        for index, path in rows["distorted"].items():
            grams = zip(kept.grams, metric.represent(read_image(path)).grams, strict=True)
            found[index] = torch.stack(
                [torch.cat([block_dissimilarity(p, q) for p, q in zip(*pair, strict=True)]) for pair in grams]
            )
    return torch.stack([found[index] for index in table.index]), table["score"]


def main(csv: Path, backbone: Annotated[list[str], typer.Option()], root: Path | None = None, levels: int = 3) -> None:
    """Print the tables."""
    for name in backbone:
        values, opinion = scores(csv, root, name, levels)
        values = torch.cat([values, values.mean(2, keepdim=True)], 2)
        values = torch.cat([values, values.mean(1, keepdim=True)], 1)
        srcc = [[abs(spearmanr(column, opinion).statistic) for column in level.T] for level in values.permute(1, 0, 2).numpy()]
        rows = [f"level {level}" for level in range(levels)] + ["equal weights"]
        show(f"{name}: {len(opinion)} pairs")
        show(pd.DataFrame(srcc, rows, [*BACKBONES[name].layers, "all layers"]).T.to_markdown(floatfmt=".3f"))


if __name__ == "__main__":
    typer.run(main)
