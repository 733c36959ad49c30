"""What half precision (autocast) changes in scores and in their rank correlation with opinions.

    python tests/benchmarks/half_precision.py labels.csv --root images -m msds,backbone=alexnet -m msds-fast

The table lists reference, distorted and score, as for ``msds benchmark``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer

from msds_plugin.adapters.benchmark.datasets import Dataset, load_csv
from msds_plugin.adapters.benchmark.statistics import srcc
from msds_plugin.adapters.common.scorer import Scorer
from msds_plugin.adapters.images.pairs import Pair
from msds_plugin.adapters.scoring.engine import score_pairs
from msds_plugin.adapters.scoring.scorers import create_scorer


def scores(scorer: Scorer, data: Dataset, dtype: torch.dtype | None) -> pd.Series[float]:
    """One score per row of the data set, under autocast unless ``dtype`` is None."""
    files = [Pair(Path(row.reference), Path(row.distorted)) for row in data.table.itertuples()]
    with torch.autocast(scorer.device.type, dtype, enabled=dtype is not None):
        found = {result.pair: result.score for result in score_pairs(files, [scorer])}
    return pd.Series([found[pair] for pair in files])


def main(
    csv: Path,
    metric: Annotated[list[str], typer.Option("--metric", "-m", help="with options after commas")],
    root: Path | None = None,
    dtype: Annotated[list[str] | None, typer.Option(help="bfloat16, float16")] = None,
    device: str | None = None,
) -> None:
    """Print one row per metric and type."""
    data = load_csv(csv, root)
    print("| metric | type | mean change | largest change | SRCC float32 | SRCC half | change of SRCC |\n" + "|---" * 7 + "|")
    for name in metric:
        scorer = create_scorer(name, device)
        exact = scores(scorer, data, None)
        before = abs(srcc(exact, data.table["score"]))
        for kind in dtype or ("bfloat16", "float16"):
            half = scores(scorer, data, getattr(torch, kind))
            after = abs(srcc(half, data.table["score"]))
            change = (half - exact).abs()
            figures = (change.mean(), change.max(), before, after, after - before)
            print(f"| {scorer.name} | {kind} | {' | '.join(f'{figure:.4f}' for figure in figures)} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
