"""Prints the tables of docs/research/alignment-tables.md and draws its figure, from what geometry_features.py has kept.

    python tests/benchmarks/geometry_tables.py ../shared/data CACHE [FIGURE.png]

Scores are computed from the kept Gram matrices; tests/metrics/test_align.py checks that msds-align is this formula.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from scipy.stats import kendalltau, spearmanr
from torch import Tensor

from msds_plugin.functional import block_dissimilarity, global_dissimilarity

DEFORMATIONS = ("rotation", "scale", "shift", "perspective", "elastic")
SETS = {"view_synthesis": "mos", "live_gblur": "dmos", "sr4k": "mos"}


class Part(NamedTuple):
    """One comparison: by blocks of ``raw`` or ``pos`` Gram matrices or ``cov``; ``glob`` and ``covglob`` as a whole."""

    kind: str
    pyramid: str
    level: int
    stage: int


Metric = dict[Part, float]


def spread(kind: str, stages: dict[int, float], levels: dict[int, float], pyramid: str = "binomial") -> Metric:
    """Every stage on every level, with the product of their weights."""
    return {
        Part(kind, pyramid if level else "box", level, stage): a * b
        for stage, a in stages.items()
        for level, b in levels.items()
    }


def share(half: Metric, full: Metric, of_full: float) -> Metric:
    """Two metrics together, the second with this share."""
    scaled = ((half, 1 - of_full), (full, of_full))
    return {part: weight * factor / sum(metric.values()) for metric, factor in scaled for part, weight in metric.items()}


def half(
    stages: dict[int, float], levels: dict[int, float], gram: float, kind: str = "cov", pyramid: str = "binomial"
) -> Metric:
    """The shallow stages, and stage 1 by its Gram matrix too, with this weight."""
    first = spread(kind, stages, levels, pyramid)
    return {**first, **spread("pos", {1: gram}, levels, pyramid)} if gram else first


EVERY = dict.fromkeys(range(5), 1.0)
SHALLOW, DEEP = {0: 1.0, 1: 2.0, 2: 2.0}, {3: 2.0, 4: 1.0}
METRICS: dict[str, Metric] = {
    "deepssim-fast": spread("raw", EVERY, {0: 1}),
    "msds-fast": spread("raw", EVERY, {0: 1, 1: 1, 2: 1}, "box"),
    "**msds-align**": share(half(SHALLOW, {1: 1}, 3), spread("pos", DEEP, {0: 1}), 0.12),
}
_DEEP = spread("pos", DEEP, {0: 1})
#: Between full size and a quarter: what the shallow stages see, and what is left out or done otherwise.
VARIANTS: dict[str, Metric] = {
    "shallow stages at full size": share(half(SHALLOW, {0: 1}, 3), _DEEP, 0.12),
    "at full and half size 1 : 1": share(half(SHALLOW, {0: 1, 1: 1}, 3), _DEEP, 0.12),
    "at full and half size 1 : 3": share(half(SHALLOW, {0: 1, 1: 3}, 3), _DEEP, 0.12),
    "at half size (msds-align)": METRICS["**msds-align**"],
    "at half and quarter size": share(half(SHALLOW, {1: 1, 2: 1}, 3), _DEEP, 0.12),
    "no Gram matrix at half size": share(half(SHALLOW, {1: 1}, 0), _DEEP, 0.12),
    "its weight 1": share(half(SHALLOW, {1: 1}, 1), _DEEP, 0.12),
    "its weight 2": share(half(SHALLOW, {1: 1}, 2), _DEEP, 0.12),
    "its weight 4": share(half(SHALLOW, {1: 1}, 4), _DEEP, 0.12),
    "its weight 5": share(half(SHALLOW, {1: 1}, 5), _DEEP, 0.12),
    "that of every shallow stage, half of each": share(
        {**spread("cov", SHALLOW, {1: 1}), **spread("pos", SHALLOW, {1: 1})}, _DEEP, 0.12
    ),
    "Gram matrices, no covariances": share(spread("pos", SHALLOW, {1: 1}), _DEEP, 0.12),
    "deep stages at half size too": share(half(SHALLOW, {1: 1}, 3), spread("pos", DEEP, {1: 1}), 0.12),
    "no deep stages": half(SHALLOW, {1: 1}, 3),
    "deep share 0.06": share(half(SHALLOW, {1: 1}, 3), _DEEP, 0.06),
    "deep share 0.25": share(half(SHALLOW, {1: 1}, 3), _DEEP, 0.25),
    "equal weights of all four": share(half(dict.fromkeys(range(3), 1.0), {1: 1}, 1), _DEEP, 0.12),
    "2 x 2 means, no low pass": share(half(SHALLOW, {1: 1}, 3, pyramid="box"), _DEEP, 0.12),
    "covariances as a whole, not by blocks": share(half(SHALLOW, {1: 1}, 3, "covglob"), _DEEP, 0.12),
    "deep Gram matrices as a whole": share(half(SHALLOW, {1: 1}, 3), spread("glob", DEEP, {0: 1}), 0.12),
    "stages 2, 3 at levels 0, 1, Gram / positions": spread("pos", {2: 1, 3: 1}, {0: 1, 1: 1}, "box"),
    "stage 2 at half size, Gram as a whole": spread("glob", {2: 1}, {1: 1}, "box"),
    "stages 1, 2 at half size, Gram as a whole": spread("glob", {1: 1, 2: 1}, {1: 1}, "box"),
}


#: What the figure draws as a curve.
CURVE = list(VARIANTS)[:5]


class Tables:
    """The data sets and what is kept of their images."""

    def __init__(self, data: Path, cache: Path) -> None:
        self.data, self.cache = data, cache
        self.labels = {name: pd.read_csv(data / name / "labels.csv") for name in (*SETS, "retargetme")}
        self.kodak = [path.name.removesuffix(".safetensors") for path in sorted((cache / "kodak").glob("*.safetensors"))]
        self.dissimilarities = lru_cache(None)(self._dissimilarities)

    def pairs(self, name: str) -> list[tuple[str, str]]:
        if name == "kodak":
            return [(image, f"{image.split('.')[0]}.clean.none") for image in self.kodak]
        return list(zip(self.labels[name].dist_name, self.labels[name].ref_name, strict=True))

    def _matrix(self, name: str, image: str, part: Part) -> Tensor:
        label = f"{part.pyramid}.{part.level}.{part.stage}"
        with safe_open(self.cache / name / f"{image}.safetensors", "pt") as file:
            gram, mean, positions = (file.get_tensor(f"{what}.{label}") for what in ("gram", "mean", "positions"))
        if part.kind == "raw":
            return gram * positions
        return gram - mean[:, None] * mean if part.kind.startswith("cov") else gram

    def _dissimilarities(self, name: str, part: Part) -> np.ndarray[Any, Any]:
        compare = global_dissimilarity if part.kind.endswith("glob") else block_dissimilarity
        pairs = [tuple(self._matrix(name, image, part)[None] for image in pair) for pair in self.pairs(name)]
        return np.array([compare(*pair).item() for pair in pairs])

    def scores(self, name: str, metric: Metric) -> np.ndarray[Any, Any]:
        total = sum(weight * self.dissimilarities(name, part) for part, weight in metric.items())
        return 1 - np.asarray(total) / sum(metric.values())

    def srcc(self, name: str, scores: np.ndarray[Any, Any]) -> float:
        found = spearmanr(scores, self.labels[name][SETS[name]])[0]
        return -found if SETS[name] == "dmos" else found

    def scenes(self, scores: np.ndarray[Any, Any]) -> tuple[float, float]:
        labels = self.labels["view_synthesis"]
        book = labels.ref_name.str.contains("book_arrival", case=False).to_numpy()
        return tuple(spearmanr(scores[scene], labels.mos[scene])[0] for scene in (book, ~book))  # type: ignore[return-value]

    def interval(self, name: str, scores: np.ndarray[Any, Any]) -> tuple[float, float]:
        """95 % over references, resampled 1000 times; over images where there are three references only."""
        labels = self.labels[name]
        groups = list(labels.groupby("ref_name").indices.values()) if name != "sr4k" else [np.array([i]) for i in labels.index]
        random, found = np.random.default_rng(0), []
        opinions = labels[SETS[name]].to_numpy()
        for _ in range(1000):
            chosen = np.concatenate([groups[i] for i in random.integers(len(groups), size=len(groups))])
            found.append(abs(spearmanr(scores[chosen], opinions[chosen])[0]))
        return tuple(np.percentile(found, [2.5, 97.5]))  # type: ignore[return-value]

    def tau(self, scores: np.ndarray[Any, Any]) -> float:
        labels = self.labels["retargetme"]
        groups = labels.groupby("ref_name").indices.values()
        return float(np.mean([kendalltau(scores[i], labels.votes.to_numpy()[i])[0] for i in groups]))

    def deformed(self, scores: np.ndarray[Any, Any]) -> pd.DataFrame:
        """Rank and penalty of each deformation, see docs/research/alignment.md."""
        parts = [image.split(".") for image in self.kodak]
        index = pd.MultiIndex.from_tuples([(part[0], ".".join(part[1:-1]), part[-1]) for part in parts])
        table = pd.Series(scores, index=index).unstack()
        rows = []
        for deformation in DEFORMATIONS:
            ranks, penalties = [], []
            for photograph in table.index.levels[0]:
                own = table.loc[photograph]
                damaged = own.drop("clean")
                ranks.append(spearmanr(damaged[deformation], damaged["none"])[0])
                penalties.append((damaged["none"] > own.loc["clean", deformation]).mean())
            rows.append((deformation, np.mean(ranks), np.mean(penalties)))
        return pd.DataFrame(rows, columns=["deformation", "rank", "penalty"]).set_index("deformation")


def summary(tables: Tables, metrics: dict[str, Metric], intervals: bool) -> pd.DataFrame:
    rows = {}
    for name, metric in metrics.items():
        row: dict[str, str] = {}
        for data in SETS:
            scores = tables.scores(data, metric)
            row[data] = f"{tables.srcc(data, scores):.3f}"
            if intervals:
                row[data] += " ({:.2f} – {:.2f})".format(*tables.interval(data, scores))
            elif data == "view_synthesis":
                row["each scene"] = "{:.2f}, {:.2f}".format(*tables.scenes(scores))
        deformed = tables.deformed(tables.scores("kodak", metric))
        row["smallest rank"] = f"{deformed['rank'].min():.2f}"
        row["penalties"] = " / ".join(f"{value:.2f}" for value in deformed.penalty)
        row["mean penalty"] = f"{deformed.penalty.mean():.3f}"
        if all(part.level == 0 or part.kind != "raw" for part in metric):
            row["RetargetMe tau"] = f"{tables.tau(tables.scores('retargetme', metric)):.2f}"
        rows[name] = row
    return pd.DataFrame(rows).T


def stages(tables: Tables) -> pd.DataFrame:
    rows = {}
    for kind in ("raw", "pos", "cov", "glob", "covglob"):
        for pyramid, level in (("box", 0), ("box", 1), ("binomial", 1), ("box", 2), ("binomial", 2)):
            measured = [
                tables.srcc(data, tables.scores(data, {Part(kind, pyramid, level, stage): 1}))
                for data in ("view_synthesis", "sr4k")
                for stage in range(5)
            ]
            rows[kind, pyramid, level] = measured
    columns = [f"{data} {stage}" for data in ("views", "4K") for stage in range(5)]
    return pd.DataFrame(rows, index=columns).T.round(2)


def draw(tables: Tables, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 4.6))

    def place(metric: Metric) -> tuple[float, float]:
        penalty = tables.deformed(tables.scores("kodak", metric)).penalty.mean()
        return penalty, tables.srcc("view_synthesis", tables.scores("view_synthesis", metric))

    curve = {name: place(VARIANTS[name]) for name in CURVE}
    axes.plot(*zip(*curve.values(), strict=True), "o-", color="tab:blue", label="size at which the shallow stages look")
    for name, metric in METRICS.items():
        curve[name.strip("*")] = place(metric)
        axes.plot(*curve[name.strip("*")], "o", color="tab:red", zorder=3)
    for name, metric in VARIANTS.items():
        if name not in CURVE:
            axes.plot(
                *place(metric), ".", color="grey", label=None if name != "no deep stages" else "other variants of the table"
            )
    for name, point in curve.items():
        if "(" not in name:
            axes.annotate(name, point, textcoords="offset points", xytext=(6, -11), fontsize=8)
    axes.legend(loc="lower right", fontsize=8)
    axes.axvspan(0.02, 0.10, color="tab:green", alpha=0.1)
    axes.set(xlabel="mean penalty of deformations (lower is better)", ylabel="SRCC with MOS, synthesised views", xlim=(0, 0.32))
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(data: Path, cache: Path, figure: Path | None) -> None:
    torch.set_num_threads(1)
    tables = Tables(data, cache)
    show: Callable[[pd.DataFrame], None] = lambda table: print(table.to_markdown(), "\n", flush=True)  # noqa: E731
    show(summary(tables, METRICS, intervals=True))
    show(summary(tables, VARIANTS, intervals=False))
    show(stages(tables))
    if figure is not None:
        draw(tables, figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None)
