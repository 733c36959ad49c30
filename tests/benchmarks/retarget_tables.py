"""Prints the tables of msds-retarget in docs/alignment.md.

    python tests/benchmarks/retarget_tables.py ../shared/data/retargetme

Mean Kendall tau of scores and votes within each photograph. AlexNet's weights are taken from torch.hub's cache.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.stats import kendalltau
from torch import Tensor

from msds_plugin import MSDS, DeepSSIM, MSDSRetarget
from msds_plugin.functional import global_dissimilarity
from msds_plugin.retarget import GRAM_SHARE, _smooth, coverage
from msds_plugin.saliency import spectral_residual
from msds_plugin.saliency.maps import resample

Weights = Callable[[Tensor, Tensor], Tensor]


def centre(image: Tensor, gbvs: Tensor) -> Tensor:
    rows, columns = (torch.linspace(-1, 1, side) for side in gbvs.shape)
    return torch.exp(-2 * (rows[:, None].square() + columns.square()))


def spectral(image: Tensor, gbvs: Tensor) -> Tensor:
    height, width = gbvs.shape
    return resample(spectral_residual(image), (height, width), 1.0)[0, 0].clamp_min(0).sqrt()


#: What weights positions; GBVS comes as its square root.
WEIGHTS: dict[str, Weights] = {
    "square root of GBVS": lambda image, root: root,
    "GBVS": lambda image, root: root.square(),
    "square root of the spectral residual": spectral,
    "a Gaussian about the centre": centre,
    "all alike": lambda image, root: torch.ones_like(root),
}
SHARES = (0.0, 0.05, GRAM_SHARE, 0.2, 0.3, 1.0)


def read(path: Path) -> Tensor:
    return torch.from_numpy(np.asarray(Image.open(path).convert("RGB"), np.float32) / 255).permute(2, 0, 1)[None]


def taus(labels: pd.DataFrame, scores: np.ndarray) -> np.ndarray:
    groups = labels.groupby("ref_name").indices.values()
    return np.array([kendalltau(scores[i], labels.votes.to_numpy()[i])[0] for i in groups])


def interval(values: np.ndarray) -> str:
    """Mean and 95 % by bootstrap over photographs."""
    random = np.random.default_rng(0)
    means = [random.choice(values, len(values)).mean() for _ in range(5000)]
    return "{:.3f} ({:.2f} – {:.2f})".format(values.mean(), *np.percentile(means, [2.5, 97.5]))


def left_out(table: np.ndarray) -> float:
    """Mean of each photograph's tau under the row that is best on all others."""
    return float(np.mean([table[np.delete(table, i, 1).mean(1).argmax(), i] for i in range(table.shape[1])]))


@torch.no_grad()
def main(folder: Path) -> None:
    torch.set_num_threads(1)
    labels = pd.read_csv(folder / "labels.csv")
    pairs = list(zip(labels.dist_name, labels.ref_name, strict=True))
    files = sorted({*labels.dist_name, *labels.ref_name})
    metric = MSDSRetarget()
    made = {name: metric.represent(read(folder / "images" / name)).grams[0] for name in files}

    missing: dict[str, list[float]] = {name: [] for name in WEIGHTS}
    grams = np.array([global_dissimilarity(made[a][3], made[b][3]).item() for a, b in pairs])
    for a, b in pairs:
        y, size = made[b][0][0], tuple(made[b][2][0].tolist())
        left, whole = (_smooth(coverage(made[n][0][0], y, tuple(made[n][2][0].tolist()), size)) for n in (a, b))
        lost = (1 - left / whole).clamp_min(0)
        for name, weigh in WEIGHTS.items():
            weights = weigh(read(folder / "images" / b), made[b][1][0, 0])
            missing[name].append((weights / weights.sum() * lost).sum().item())
    rows = {}
    for name, values in missing.items():
        rows[name] = {f"{share:g}": taus(labels, share * -grams - (1 - share) * np.array(values)).mean() for share in SHARES}
    print(pd.DataFrame(rows).T.round(3).to_markdown(), "\n")

    lost = np.array(missing["square root of GBVS"])
    table = np.stack([taus(labels, share * -grams - (1 - share) * lost) for share in np.linspace(0, 0.3, 25)])
    print("msds-retarget", interval(taus(labels, GRAM_SHARE * -grams - (1 - GRAM_SHARE) * lost)))
    print(f"share chosen on the other photographs: {left_out(table):.3f}\n", flush=True)

    plain = {"deepssim": DeepSSIM, "msds": MSDS}
    for options in ({}, *({"saliency": name, "saliency_threshold": 0.25} for name in ("gbvs", "spectral", "features"))):
        for name, kind in plain.items():
            for backbone in ("alexnet", "efficientnet_lite0"):
                other = kind(backbone=backbone, **options)
                kept = {file: other.represent(read(folder / "images" / file)) for file in files}
                scores = np.array([other.compare(kept[a], kept[b]).item() for a, b in pairs])
                print(name, backbone, options.get("saliency"), interval(taus(labels, scores)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
