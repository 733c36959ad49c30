"""What a hybrid is worth, term by term: the tables that msds-hybrid was chosen by.

    python tests/benchmarks/hybrid.py ../shared/data/live_gblur/labels.csv --root ../shared/data/live_gblur/images

CSV lists reference, distorted and score, as for ``msds benchmark``. Prints the SRCC (sign removed) of each term and of
hybrids of them, with 95 % intervals of a bootstrap over references, and the difference of msds-hybrid from each with such an
interval.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
import typer
from numpy.typing import NDArray
from scipy.stats import spearmanr

from msds_plugin import BACKBONES, MSDS
from msds_plugin.adapters.benchmark.datasets import load_csv
from msds_plugin.adapters.images.read import read_image
from msds_plugin.hybrid import MDSI, HaarPSI

Array = NDArray[np.float64]
EPS = 1e-3
#: Deep terms by name: levels, and first and last stage.
DEEP = {
    "deepssim-fast": ((0,), 0, 4),
    "msds-fast": ((0, 1, 2), 0, 4),
    "levels 1, 2": ((1, 2), 0, 4),
    "levels 1 to 3": ((1, 2, 3), 0, 4),
    "stages 0 to 2": ((0, 1, 2), 0, 2),
    "stages 0 to 3": ((0, 1, 2), 0, 3),
    "stages 1 to 3": ((0, 1, 2), 1, 3),
    "stages 1 to 4": ((0, 1, 2), 1, 4),
    "stages 2 to 4": ((0, 1, 2), 2, 4),
}
#: Hybrids by name: (term, weight) each.
HYBRIDS = {
    **{f"{name} + HaarPSI": ((name, 1), ("HaarPSI", 1)) for name in DEEP},
    **{f"{name} + HaarPSI + MDSI": ((name, 1), ("HaarPSI", 1), ("MDSI⁴", 1)) for name in DEEP},
    **{f"2 {name} + HaarPSI + MDSI": ((name, 2), ("HaarPSI", 1), ("MDSI⁴", 1)) for name in DEEP},
    "2 stages 1 to 3 + HaarPSI + MDSI / 0.35": (("stages 1 to 3", 2), ("HaarPSI", 1), ("MDSI", 1 / 0.35)),
    "HaarPSI + MDSI": (("HaarPSI", 1), ("MDSI⁴", 1)),
}
CHOSEN = "2 stages 1 to 3 + HaarPSI + MDSI"


@torch.inference_mode()
def found(table: pd.DataFrame) -> dict[str, Array]:
    """What each term finds, (pairs,) by name."""
    metric = MSDS(levels=4, backbone="efficientnet_lite0", layers=list(BACKBONES["efficientnet_lite0"].layers), tile="auto")
    cells, local = [], []
    for reference, path in zip(table["reference"], table["distorted"], strict=True):
        x, y = read_image(path), read_image(reference)
        cells.append(1 - metric.layer_scores(x, y)[0].numpy())
        height, width = (min(p, q) for p, q in zip(x.shape[-2:], y.shape[-2:], strict=True))
        pair = x[..., :height, :width], y[..., :height, :width]
        local.append((1 - HaarPSI()(*pair).item(), MDSI()(*pair).item()))
    levels, (haarpsi, mdsi) = np.stack(cells), np.array(local).T
    terms = {name: levels[:, list(chosen), first : last + 1].mean((1, 2)) for name, (chosen, first, last) in DEEP.items()}
    return {**terms, "HaarPSI": haarpsi, "MDSI": mdsi, "MDSI⁴": mdsi**4}


def fuse(terms: dict[str, Array], parts: tuple[tuple[str, float], ...]) -> Array:
    """The dissimilarity that a hybrid makes of them."""
    exponents = np.array([weight for _, weight in parts]) / sum(weight for _, weight in parts)
    return np.asarray(EPS * np.expm1(exponents @ np.stack([np.log1p(terms[name] / EPS) for name, _ in parts])))


def srcc(score: Array, opinion: Array) -> float:
    """Without its sign."""
    return abs(float(spearmanr(score, opinion).statistic))


def interval(values: list[float]) -> str:
    """The middle 95 %."""
    low, high = np.quantile(values, [0.025, 0.975])
    return f"{low:+.3f} to {high:+.3f}" if low < 0 else f"{low:.3f} to {high:.3f}"


def main(csv: Path, root: Path | None = None, resamples: int = 1000) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    table = load_csv(csv, root).table
    terms, opinion = found(table), table["score"].to_numpy(float)
    scores = {name: terms[name] for name in terms if name != "MDSI⁴"}
    scores |= {name: fuse(terms, parts) for name, parts in HYBRIDS.items()}
    of = {name: rows.to_numpy() for name, rows in table.reset_index().groupby("reference")["index"]}
    rng = np.random.default_rng(0)
    drawn = [np.concatenate([of[name] for name in rng.choice(list(of), len(of))]) for _ in range(resamples)]
    chosen = [srcc(scores[CHOSEN][rows], opinion[rows]) for rows in drawn]
    lines = []
    for name, score in scores.items():
        boot = [srcc(score[rows], opinion[rows]) for rows in drawn]
        less = interval([a - b for a, b in zip(chosen, boot, strict=True)])
        lines.append([name, f"{srcc(score, opinion):.3f}", interval(boot), less])
    print(f"{csv}: {len(opinion)} pairs, {len(of)} references")
    headings = ["score", "SRCC", "95 %", "msds-hybrid minus it"]
    print(pd.DataFrame(lines, columns=headings).to_markdown(index=False, disable_numparse=True))


if __name__ == "__main__":
    typer.run(main)
