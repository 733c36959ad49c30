"""Chooses the constants of msds-align with one scene left out at a time, and draws penalty against agreement.

    python tests/benchmarks/geometry_nested.py ../shared/data CACHE [FIGURE.png]

CACHE is what geometry_features.py has kept. Forms are tried from few constants to many. For each scene of view_synthesis, sr4k
and live_gblur the constants with the best sum of SRCC over the three sets, less the mean penalty, are chosen on all other
scenes among those of a smallest rank of 0.98, and the scene is scored with them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from geometry_tables import DEFORMATIONS, METRICS, SETS, Metric, Tables, half, share, spread
from scipy.stats import rankdata

Numbers = npt.NDArray[np.float64]

EQUAL, HALF, FULL = ((1, 1, 1),), ({1: 1},), ({0: 1},)
SHARES = (0.0, 0.04, 0.08, 0.12, 0.16, 0.25)
SHALLOW = ((1, 1, 1), (1, 2, 2), (1, 1, 2), (2, 1, 2), (1, 0, 1))
DEEP = ((1, 1), (2, 1), (1, 0), (1, 2), (0, 1))
DEEP_LEVELS = ({0: 1}, {0: 1, 1: 1}, {1: 1}, {0: 1, 1: 1, 2: 1}, {0: 2, 1: 1}, {2: 1}, {1: 1, 2: 1})

PENALTIES = (0.05, 0.10, 0.15, 0.20)

GRAMS = (0, 1, 2, 3, 4, 5)

#: Constants that a form leaves open: weights of the shallow stages, their levels, of the deep ones, their levels, the share,
#: and the weight of stage 1's Gram matrix at half size.
FORMS: dict[str, tuple[Any, ...]] = {
    "nothing: shallow stages alone, equal": (EQUAL, HALF, ((1, 1),), FULL, (0.0,), (0,)),
    "share of the deep stages": (EQUAL, HALF, ((1, 1),), FULL, SHARES, (0,)),
    "and a Gram matrix at half size": (EQUAL, HALF, ((1, 1),), FULL, SHARES, GRAMS),
    "share and the stages' weights": (SHALLOW, HALF, DEEP, FULL, SHARES, (0,)),
    "and a Gram matrix: the form of msds-align": (SHALLOW, HALF, DEEP, FULL, SHARES, GRAMS),
    "and the deep stages' levels": (SHALLOW, HALF, DEEP, DEEP_LEVELS, SHARES, GRAMS),
}
OWN = "and a Gram matrix: the form of msds-align"
#: The form with most constants.
WIDEST = list(FORMS)[-1]


def candidates(form: tuple[Any, ...]) -> Iterator[Metric]:
    """Every choice of a form's constants, each once."""
    for shallow, shallow_levels, deep, deep_levels, of_deep, gram in product(*form):
        first = half(_without_zeros((0, 1, 2), shallow), shallow_levels, gram)
        second = spread("pos", _without_zeros((3, 4), deep), deep_levels)
        yield share(first, second, of_deep) if of_deep else first


def _without_zeros(stages: tuple[int, ...], weights: tuple[int, ...]) -> dict[int, float]:
    return {stage: weight for stage, weight in zip(stages, weights, strict=True) if weight}


class Scene(NamedTuple):
    """Images of one scene."""

    data: str
    name: str
    own: npt.NDArray[np.bool_]


def correlation(scores: Numbers, opinions: Numbers) -> Numbers:
    """Spearman's correlation of every row of scores with the opinions."""
    ranks = [rankdata(values, axis=-1) for values in (scores, opinions)]
    first, second = ((values - values.mean(-1, keepdims=True)) / values.std(-1, keepdims=True) for values in ranks)
    return np.asarray((first * second).mean(-1))


class Candidates:
    """Scores of many choices of constants on all sets."""

    def __init__(self, tables: Tables, metrics: list[Metric]) -> None:
        self.tables = tables
        parts = sorted({part for metric in metrics for part in metric})
        weights = np.array([[metric.get(part, 0.0) for part in parts] for metric in metrics], float)
        weights /= weights.sum(1, keepdims=True)
        self.scores = {
            data: 1 - weights @ np.stack([tables.dissimilarities(data, part) for part in parts]) for data in (*SETS, "kodak")
        }
        self.opinions = {
            data: tables.labels[data][column].to_numpy(float) * (-1 if column == "dmos" else 1) for data, column in SETS.items()
        }
        self.rank, self.penalty = self._deformed()

    def _deformed(self) -> tuple[Numbers, Numbers]:
        """Smallest rank over deformations, and mean penalty, as Tables.deformed gives them."""
        place = {image: index for index, image in enumerate(self.tables.kodak)}
        parts = [image.split(".") for image in place]
        damages = sorted({".".join(part[1:-1]) for part in parts} - {"clean"})
        index = [
            [[place[f"{photograph}.{damage}.{kind}"] for damage in ("clean", *damages)] for kind in ("none", *DEFORMATIONS)]
            for photograph in sorted({part[0] for part in parts})
        ]
        scores = self.scores["kodak"][:, index]  # candidate, photograph, deformation, damage
        rank = correlation(scores[:, :, 1:, 1:], scores[:, :, :1, 1:]).mean(1).min(1)
        return rank, (scores[:, :, :1, 1:] > scores[:, :, 1:, :1]).mean((1, 2, 3))

    def srcc(self, data: str, images: npt.NDArray[np.bool_]) -> Numbers:
        """SRCC of every candidate on some images of a set."""
        return correlation(self.scores[data][:, images], self.opinions[data][images])

    def best(self, without: Scene | None) -> int:
        """The choice that is best where the scene is not seen."""
        total = -self.penalty
        for data, opinions in self.opinions.items():
            seen = ~without.own if without is not None and without.data == data else np.ones(len(opinions), bool)
            total = total + self.srcc(data, seen)
        return int(np.where(self.rank >= 0.98, total, -np.inf).argmax())


def scenes(tables: Tables) -> list[Scene]:
    """Scenes of all sets; the two of view_synthesis have four references each."""
    found = []
    for data in SETS:
        of = tables.labels[data].ref_name
        if data == "view_synthesis":
            of = of.str.contains("book_arrival", case=False).map({True: "Book Arrival", False: "Lovebird"})
        found += [Scene(data, name, (of == name).to_numpy()) for name in sorted(of.unique())]
    return found


def describe(metric: Metric) -> str:
    """Weights of the parts in percent."""
    shares = {part: 100 * weight / sum(metric.values()) for part, weight in sorted(metric.items()) if weight}
    return ", ".join(f"{part.kind}{part.stage}@{part.level} {percent:.0f}" for part, percent in shares.items())


def nested(tables: Tables) -> tuple[pd.DataFrame, dict[str, tuple[Candidates, list[Metric]]]]:
    """One row per form; means over held-out scenes of the SRCC within the scene."""
    rows, kept = {}, {}
    for name, form in FORMS.items():
        metrics = list(candidates(form))
        made = Candidates(tables, metrics)
        kept[name] = made, metrics
        held: dict[str, list[float]] = {data: [] for data in SETS}
        chosen: set[int] = set()
        for scene in scenes(tables):
            best = made.best(scene)
            chosen.add(best)
            held[scene.data].append(made.srcc(scene.data, scene.own)[best])
        every = made.best(None)
        everything = {data: made.srcc(data, np.ones(len(made.opinions[data]), bool))[every] for data in SETS}
        rows[name] = {
            "choices": len(metrics),
            **{f"{data}, held out": f"{np.mean(values):.3f}" for data, values in held.items()},
            "different choices": len(chosen),
            **{f"{data}, chosen on all": f"{value:.3f}" for data, value in everything.items()},
            "penalty": f"{made.penalty[every]:.3f}",
            "chosen on all": describe(metrics[every]),
        }
    return pd.DataFrame(rows).T, kept


def fixed(tables: Tables) -> pd.DataFrame:
    """The same figures of metrics that leave nothing open."""
    made = Candidates(tables, list(METRICS.values()))
    rows = {}
    for index, name in enumerate(METRICS):
        within: dict[str, list[float]] = {data: [] for data in SETS}
        for scene in scenes(tables):
            within[scene.data].append(made.srcc(scene.data, scene.own)[index])
        rows[name] = {data: f"{np.mean(values):.3f}" for data, values in within.items()}
        rows[name]["penalty"] = f"{made.penalty[index]:.3f}"
    return pd.DataFrame(rows).T


def aims(made: Candidates) -> pd.DataFrame:
    """What the aims of docs/research/alignment.md cost each other, among choices of a rank of 0.98 and 0.80 on views."""
    found = {data: made.srcc(data, np.ones(len(opinions), bool)) for data, opinions in made.opinions.items()}
    table = pd.DataFrame({**found, "penalty": made.penalty})[(made.rank >= 0.98) & (found["view_synthesis"] >= 0.80)]
    cheaper = {most: table[table.penalty <= most].sort_values("sr4k") for most in PENALTIES}
    rows = {f"best sr4k, penalty up to {most:.2f}": found.iloc[-1] for most, found in cheaper.items() if len(found)}
    rows["least penalty, sr4k from 0.946"] = table[table.sr4k >= 0.9455].sort_values("penalty").iloc[0]
    return pd.DataFrame(rows).T.round(3)


def front(made: Candidates) -> pd.DataFrame:
    """The choices than which none has both less penalty and more agreement (mean SRCC of the three sets)."""
    agreement = np.mean([made.srcc(data, np.ones(len(opinions), bool)) for data, opinions in made.opinions.items()], 0)
    table = pd.DataFrame({"penalty": made.penalty, "agreement": agreement})[made.rank >= 0.98].sort_values("penalty")
    return table[table.agreement > table.agreement.cummax().shift(fill_value=0)]


def draw(tables: Tables, kept: dict[str, tuple[Candidates, list[Metric]]], path: Path) -> None:
    """Penalty against agreement: what the widest form can reach, and the metrics that there are."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, colour in ((WIDEST, "tab:blue"), (OWN, "tab:orange")):
        reached = front(kept[name][0])
        axes.plot(reached.penalty, reached.agreement, ".-", color=colour, label=f"best of {len(kept[name][1])} choices")
    made = Candidates(tables, list(METRICS.values()))
    agreement = np.mean([made.srcc(data, np.ones(len(opinions), bool)) for data, opinions in made.opinions.items()], 0)
    axes.plot(made.penalty, agreement, "o", color="tab:red")
    for name, x, y in zip(METRICS, made.penalty, agreement, strict=True):
        axes.annotate(name.strip("*"), (x, y), textcoords="offset points", xytext=(6, -11), fontsize=9)
    axes.set(xlabel="mean penalty of deformations (lower is better)", ylabel="mean SRCC of views, blur and 4K")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=9)
    figure.savefig(path)


def main(data: Path, cache: Path, figure: Path | None) -> None:
    """Print the tables and draw the figure."""
    torch.set_num_threads(1)
    tables = Tables(data, cache)
    print(fixed(tables).to_markdown(disable_numparse=True), "\n")
    table, kept = nested(tables)
    print(table.to_markdown(disable_numparse=True), "\n")
    print(aims(kept[WIDEST][0]).to_markdown(), "\n")
    if figure is not None:
        draw(tables, kept, figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None)
