"""Prints the tables of msds-retarget in docs/research/alignment-tables.md.

    TORCH_HOME=../shared/torch_home python tests/benchmarks/retarget_tables.py ../shared/data/retargetme

Mean Kendall tau of scores and votes within each photograph. AlexNet's weights are taken from torch.hub's cache.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import kendalltau
from torch import Tensor
from torch.nn import functional as F

from msds_plugin import MSDS, DeepSSIM, MSDSRetarget
from msds_plugin.adapters.images.read import read_image
from msds_plugin.functional import global_dissimilarity
from msds_plugin.retarget import GRAM_SHARE, NEIGHBOURHOOD, coverage
from msds_plugin.saliency import spectral_residual
from msds_plugin.saliency.resample import resample

SHARES = (0.0, 0.05, GRAM_SHARE, 0.2, 0.3, 1.0)


def centre(image: Tensor, gbvs: Tensor) -> Tensor:
    rows, columns = (torch.linspace(-1, 1, side) for side in gbvs.shape)
    return torch.exp(-2 * (rows[:, None].square() + columns.square()))


def spectral(image: Tensor, gbvs: Tensor) -> Tensor:
    return resample(spectral_residual(image), tuple(gbvs.shape), 1.0)[0, 0].clamp_min(0).sqrt()


#: What weights positions; GBVS comes as its square root.
WEIGHTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "square root of GBVS": lambda image, root: root,
    "GBVS": lambda image, root: root.square(),
    "square root of the spectral residual": spectral,
    "a Gaussian about the centre": centre,
    "all alike": lambda image, root: torch.ones_like(root),
}


def smooth(values: Tensor) -> Tensor:
    edge = NEIGHBOURHOOD // 2
    return F.avg_pool2d(F.pad(values[None, None], (edge,) * 4, mode="replicate"), NEIGHBOURHOOD, 1)[0, 0]


def interval(values: np.ndarray) -> str:
    """Mean and 95 % by bootstrap over photographs."""
    random = np.random.default_rng(0)
    means = [random.choice(values, len(values)).mean() for _ in range(5000)]
    return "{:.3f} ({:.2f} – {:.2f})".format(values.mean(), *np.percentile(means, [2.5, 97.5]))


@torch.no_grad()
def main(folder: Path) -> None:
    torch.set_num_threads(1)
    labels = pd.read_csv(folder / "labels.csv")
    pairs = list(zip(labels.dist_name, labels.ref_name, strict=True))
    images = {name: read_image(folder / "images" / name) for name in sorted({*labels.dist_name, *labels.ref_name})}

    def taus(scores: np.ndarray) -> np.ndarray:
        groups = labels.groupby("ref_name").indices.values()
        return np.array([kendalltau(scores[i], labels.votes.to_numpy()[i])[0] for i in groups])

    metric = MSDSRetarget()
    made = {name: metric.represent(image) for name, image in images.items()}
    grams = np.array([global_dissimilarity(made[a].gram, made[b].gram).item() for a, b in pairs])
    missing: dict[str, list[float]] = {name: [] for name in WEIGHTS}
    for a, b in pairs:
        y = made[b]
        left, whole = (smooth(coverage(made[n].features[0], y.features[0], made[n].size, y.size)) for n in (a, b))
        lost = (1 - left / whole).clamp_min(0)
        for name, weigh in WEIGHTS.items():
            weights = weigh(images[b], y.weights[0, 0])
            missing[name].append((weights / weights.sum() * lost).sum().item())

    def fused(share: float, name: str = "square root of GBVS") -> np.ndarray:
        return taus(share * -grams - (1 - share) * np.array(missing[name]))

    rows = {name: {f"{share:g}": fused(share, name).mean() for share in SHARES} for name in WEIGHTS}
    print(pd.DataFrame(rows).T.round(3).to_markdown(), "\n")
    table = np.stack([fused(share) for share in np.linspace(0, 0.3, 25)])
    others = [table[np.delete(table, i, 1).mean(1).argmax(), i] for i in range(table.shape[1])]
    print(f"msds-retarget {interval(fused(GRAM_SHARE))}, share chosen on the others: {np.mean(others):.3f}", flush=True)
    for saliency in (None, "gbvs", "spectral", "features"):
        options = {"saliency": saliency, "saliency_threshold": 0.25} if saliency else {}
        for kind in (DeepSSIM, MSDS):
            for backbone in ("alexnet", "efficientnet_lite0"):
                other = kind(backbone=backbone, **options)
                kept = {name: other.represent(image) for name, image in images.items()}
                scores = np.array([other.compare(kept[a], kept[b]).item() for a, b in pairs])
                print(kind.__name__, backbone, saliency, interval(taus(scores)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
