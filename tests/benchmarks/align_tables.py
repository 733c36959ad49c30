"""How msds-align was chosen: the tables and figures of docs/research/alignment.md and alignment-tables.md.

    python tests/benchmarks/align_tables.py features ../shared/data CACHE
    python tests/benchmarks/align_tables.py tables ../shared/data CACHE docs/alignment.png
    python tests/benchmarks/align_tables.py nested ../shared/data CACHE docs/alignment-penalty.png

``features`` keeps one safetensors file per image: for each level of two pyramids (``box``: 2 x 2 averages, ``binomial``:
1 4 6 4 1) and each stage of EfficientNet-Lite0 the Gram matrix divided by the number of positions, the mean of each channel,
and that number. The others compute scores from these; tests/metrics/test_align.py checks that msds-align is this formula.
``nested`` chooses constants with one scene left out at a time: the best sum of SRCC over three sets less the mean penalty on
all others.
"""

import sys
from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from matplotlib.figure import Figure
from pictures import coded, tensor
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from scipy import ndimage
from scipy.stats import kendalltau, rankdata, spearmanr
from torch import Tensor
from torch.nn import functional as F

from msds_plugin import build_backbone
from msds_plugin.functional import block_dissimilarity, global_dissimilarity, gram_matrix, halve

Numbers = npt.NDArray[np.float64]
DEFORMATIONS = ("rotation", "scale", "shift", "perspective", "elastic")
SETS = {"view_synthesis": "mos", "live_gblur": "dmos", "sr4k": "mos"}
LEVELS = 4


# Features of all images.


def binomial(image: Tensor) -> Tensor:
    kernel = torch.tensor([1.0, 4, 6, 4, 1]) / 16
    padded = F.pad(image, (2, 2, 2, 2), mode="reflect")
    rows = F.conv2d(padded, kernel.view(1, 1, 5, 1).expand(3, -1, -1, -1), stride=(2, 1), groups=3)
    return F.conv2d(rows, kernel.view(1, 1, 1, 5).expand(3, -1, -1, -1), stride=(1, 2), groups=3)


def quantise(pixels: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def distortions(clean: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Five strengths each of blur, JPEG and noise."""
    yield "clean", clean
    for sigma in (0.7, 1, 1.5, 2.5, 4):
        yield f"blur{sigma}", quantise(ndimage.gaussian_filter(clean.astype(float), (sigma, sigma, 0)))
    for quality in (50, 30, 20, 10, 5):
        yield f"jpeg{quality}", np.asarray(coded(Image.fromarray(clean), "JPEG", quality=quality))
    noise = np.random.default_rng(0).standard_normal(clean.shape)
    for sigma in (5, 10, 20, 35, 60):
        yield f"noise{sigma}", quantise(clean + sigma * noise)


def warp(pixels: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    planes = [ndimage.map_coordinates(pixels[..., c].astype(float), [rows, columns], order=3, mode="mirror") for c in range(3)]
    return quantise(np.stack(planes, -1))


def deformations(pixels: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    height, width = pixels.shape[:2]
    rows, columns = np.mgrid[:height, :width].astype(float)
    top, left = (height - 1) / 2, (width - 1) / 2
    dy, dx, cos, sin = rows - top, columns - left, np.cos(np.deg2rad(3)), np.sin(np.deg2rad(3))
    yield "none", pixels
    yield "rotation", warp(pixels, top + cos * dy - sin * dx, left + sin * dy + cos * dx)[24:-24, 24:-24]
    small = round(width * 0.85), round(height * 0.85)
    yield "scale", np.asarray(Image.fromarray(pixels).resize(small, Image.Resampling.BICUBIC))
    yield "shift", pixels[7:, 9:]
    scale = 1 + 0.06 * dx / width + 0.04 * dy / height
    yield "perspective", warp(pixels, top + dy / scale, left + dx / scale)
    bent = [ndimage.gaussian_filter(np.random.default_rng(seed).uniform(-1, 1, (height, width)), 12) * 60 for seed in (1, 2)]
    yield "elastic", warp(pixels, rows + bent[0], columns + bent[1])


def images(data: Path, name: str) -> Iterator[tuple[str, np.ndarray]]:
    if name != "kodak":
        labels = pd.read_csv(data / name / "labels.csv")
        for file in sorted({*labels.ref_name, *labels.dist_name}):
            yield file, np.asarray(Image.open(data / name / "images" / file).convert("RGB"))
        return
    for path in sorted((data / name).glob("*.png")):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        height, width = (384, 512) if pixels.shape[1] > pixels.shape[0] else (512, 384)
        top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
        for damage, distorted in distortions(pixels[top : top + height, left : left + width]):
            for deformation, deformed in deformations(distorted):
                yield f"{path.stem}.{damage}.{deformation}", deformed


@torch.no_grad()
def features(data: Path, cache: Path) -> None:
    net = build_backbone("efficientnet_lite0")
    for name in (*SETS, "kodak", "retargetme"):
        (cache / name).mkdir(parents=True, exist_ok=True)
        for file, pixels in images(data, name):
            if (target := cache / name / f"{file}.safetensors").exists():
                continue
            levels, kept = {("box", 0): tensor(pixels)}, {}
            for level in range(1, LEVELS):
                levels["box", level] = halve(levels["box", level - 1])
                levels["binomial", level] = binomial(levels["binomial" if level > 1 else "box", level - 1])
            for (kind, level), small in levels.items():
                for stage, feature in enumerate(net(small) if min(small.shape[-2:]) >= 16 else ()):
                    label, positions = f"{kind}.{level}.{stage}", feature[0, 0].numel()
                    kept[f"gram.{label}"] = gram_matrix(feature)[0] / positions
                    kept[f"mean.{label}"] = feature.mean((2, 3))[0]
                    kept[f"positions.{label}"] = torch.tensor(positions)
            save_file(kept, target)
        print(name, "done", flush=True)


# Metrics as weights of parts.


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
_DEEP = spread("pos", DEEP, {0: 1})
METRICS: dict[str, Metric] = {
    "deepssim-fast": spread("raw", EVERY, {0: 1}),
    "msds-fast": spread("raw", EVERY, {0: 1, 1: 1, 2: 1}, "box"),
    "**msds-align**": share(half(SHALLOW, {1: 1}, 3), _DEEP, 0.12),
}
#: The first five are a curve of the figure; the others leave something out, or do it otherwise.
VARIANTS: dict[str, Metric] = {
    "shallow stages at full size": share(half(SHALLOW, {0: 1}, 3), _DEEP, 0.12),
    "at full and half size 1 : 1": share(half(SHALLOW, {0: 1, 1: 1}, 3), _DEEP, 0.12),
    "at full and half size 1 : 3": share(half(SHALLOW, {0: 1, 1: 3}, 3), _DEEP, 0.12),
    "at half size (msds-align)": METRICS["**msds-align**"],
    "at half and quarter size": share(half(SHALLOW, {1: 1, 2: 1}, 3), _DEEP, 0.12),
    "no Gram matrix at half size": share(half(SHALLOW, {1: 1}, 0), _DEEP, 0.12),
    **{f"its weight {weight}": share(half(SHALLOW, {1: 1}, weight), _DEEP, 0.12) for weight in (1, 2, 4, 5)},
    "that of every shallow stage, half of each": share(
        {**spread("cov", SHALLOW, {1: 1}), **spread("pos", SHALLOW, {1: 1})}, _DEEP, 0.12
    ),
    "Gram matrices, no covariances": share(spread("pos", SHALLOW, {1: 1}), _DEEP, 0.12),
    "deep stages at half size too": share(half(SHALLOW, {1: 1}, 3), spread("pos", DEEP, {1: 1}), 0.12),
    "no deep stages": half(SHALLOW, {1: 1}, 3),
    "deep share 0.06": share(half(SHALLOW, {1: 1}, 3), _DEEP, 0.06),
    "deep share 0.25": share(half(SHALLOW, {1: 1}, 3), _DEEP, 0.25),
    "equal weights of all four": share(half(dict.fromkeys(range(3), 1.0), {1: 1}, 1), _DEEP, 0.12),
    "2 x 2 means, no low-pass": share(half(SHALLOW, {1: 1}, 3, pyramid="box"), _DEEP, 0.12),
    "covariances as a whole, not by blocks": share(half(SHALLOW, {1: 1}, 3, "covglob"), _DEEP, 0.12),
    "deep Gram matrices as a whole": share(half(SHALLOW, {1: 1}, 3), spread("glob", DEEP, {0: 1}), 0.12),
    "stages 2, 3 at levels 0, 1, Gram / positions": spread("pos", {2: 1, 3: 1}, {0: 1, 1: 1}, "box"),
    "stage 2 at half size, Gram as a whole": spread("glob", {2: 1}, {1: 1}, "box"),
    "stages 1, 2 at half size, Gram as a whole": spread("glob", {1: 1, 2: 1}, {1: 1}, "box"),
}

EQUAL, HALF, FULL, SHARES, GRAMS = ((1, 1, 1),), ({1: 1},), ({0: 1},), (0.0, 0.04, 0.08, 0.12, 0.16, 0.25), tuple(range(6))
STAGES = ((1, 1, 1), (1, 2, 2), (1, 1, 2), (2, 1, 2), (1, 0, 1)), ((1, 1), (2, 1), (1, 0), (1, 2), (0, 1))
DEEP_LEVELS = ({0: 1}, {0: 1, 1: 1}, {1: 1}, {0: 1, 1: 1, 2: 1}, {0: 2, 1: 1}, {2: 1}, {1: 1, 2: 1})
#: Constants that a form leaves open: weights of the shallow stages and of the deep ones, levels of the deep ones, the share,
#: and the weight of stage 1's Gram matrix at half size.
FORMS: dict[str, tuple[Any, ...]] = {
    "nothing: shallow stages alone, equal": (EQUAL, ((1, 1),), FULL, (0.0,), (0,)),
    "share of the deep stages": (EQUAL, ((1, 1),), FULL, SHARES, (0,)),
    "and a Gram matrix at half size": (EQUAL, ((1, 1),), FULL, SHARES, GRAMS),
    "share and the stages' weights": (*STAGES, FULL, SHARES, (0,)),
    "and a Gram matrix: the form of msds-align": (*STAGES, FULL, SHARES, GRAMS),
    "and the deep stages' levels": (*STAGES, DEEP_LEVELS, SHARES, GRAMS),
}
OWN, WIDEST = list(FORMS)[-2:]


def candidates(form: tuple[Any, ...]) -> Iterator[Metric]:
    """Every choice of a form's constants, each once."""
    for shallow, deep, deep_levels, of_deep, gram in product(*form):
        first = half({stage: weight for stage, weight in enumerate(shallow) if weight}, {1: 1}, gram)
        second = spread("pos", {stage: weight for stage, weight in enumerate(deep, 3) if weight}, deep_levels)
        yield share(first, second, of_deep) if of_deep else first


# Scores.


class Tables:
    """The data sets and what is kept of their images."""

    def __init__(self, data: Path, cache: Path) -> None:
        self.cache = cache
        self.labels = {name: pd.read_csv(data / name / "labels.csv") for name in (*SETS, "retargetme")}
        self.kodak = [path.name.removesuffix(".safetensors") for path in sorted((cache / "kodak").glob("*.safetensors"))]
        self.dissimilarities = lru_cache(None)(self._dissimilarities)
        book = self.labels["view_synthesis"].ref_name.str.contains("book_arrival", case=False).to_numpy()
        #: Set, and which of its images are of one scene; the two of view_synthesis have four references each.
        self.scenes = [("view_synthesis", book), ("view_synthesis", ~book)]
        for name in ("live_gblur", "sr4k"):
            of = self.labels[name].ref_name
            self.scenes += [(name, (of == reference).to_numpy()) for reference in sorted(of.unique())]

    def _matrix(self, name: str, image: str, part: Part) -> Tensor:
        label = f"{part.pyramid}.{part.level}.{part.stage}"
        with safe_open(self.cache / name / f"{image}.safetensors", "pt") as file:
            gram, mean, positions = (file.get_tensor(f"{what}.{label}") for what in ("gram", "mean", "positions"))
        if part.kind == "raw":
            return gram * positions
        return gram - mean[:, None] * mean if part.kind.startswith("cov") else gram

    def _dissimilarities(self, name: str, part: Part) -> Numbers:
        compare = global_dissimilarity if part.kind.endswith("glob") else block_dissimilarity
        if name == "kodak":
            pairs = [(image, f"{image.split('.')[0]}.clean.none") for image in self.kodak]
        else:
            pairs = list(zip(self.labels[name].dist_name, self.labels[name].ref_name, strict=True))
        return np.array([compare(*(self._matrix(name, image, part)[None] for image in pair)).item() for pair in pairs])

    def opinions(self, name: str) -> Numbers:
        column = SETS[name]
        return self.labels[name][column].to_numpy(float) * (-1 if column == "dmos" else 1)


def correlation(scores: Numbers, opinions: Numbers) -> Numbers:
    """Spearman's correlation of every row of scores with the opinions."""
    ranks = [rankdata(values, axis=-1) for values in (scores, opinions)]
    first, second = ((values - values.mean(-1, keepdims=True)) / values.std(-1, keepdims=True) for values in ranks)
    return np.asarray((first * second).mean(-1))


class Candidates:
    """Scores of many metrics on all sets; rank and penalty (metrics, deformations)."""

    def __init__(self, tables: Tables, metrics: list[Metric]) -> None:
        self.tables, self.metrics = tables, metrics
        self.of = {data: self.scores(data) for data in SETS}
        parts = [image.split(".") for image in tables.kodak]
        place = {image: index for index, image in enumerate(tables.kodak)}
        damages = ["clean", *sorted({".".join(part[1:-1]) for part in parts} - {"clean"})]
        index = [
            [[place[f"{photograph}.{damage}.{kind}"] for damage in damages] for kind in ("none", *DEFORMATIONS)]
            for photograph in sorted({part[0] for part in parts})
        ]
        scores = self.scores("kodak")[:, index]  # metric, photograph, deformation, damage
        self.rank = correlation(scores[:, :, 1:, 1:], scores[:, :, :1, 1:]).mean(1)
        self.penalty = (scores[:, :, :1, 1:] > scores[:, :, 1:, :1]).mean((1, 3))

    def scores(self, data: str) -> Numbers:
        parts = sorted({part for metric in self.metrics for part in metric})
        weights = np.array([[metric.get(part, 0.0) for part in parts] for metric in self.metrics], float)
        weights /= weights.sum(1, keepdims=True)
        return np.asarray(1 - weights @ np.stack([self.tables.dissimilarities(data, part) for part in parts]))

    def srcc(self, data: str, chosen: Any = slice(None)) -> Numbers:
        """SRCC of every metric on some images of a set."""
        return correlation(self.of[data][:, chosen], self.tables.opinions(data)[chosen])

    def agreement(self) -> Numbers:
        """Mean SRCC of the three sets."""
        return np.asarray(np.mean([self.srcc(data) for data in SETS], 0))

    def best(self, without: tuple[str, Any] | None) -> int:
        """The choice that is best where the scene is not seen, among those of a smallest rank of 0.98."""
        total = -self.penalty.mean(1)
        for data in SETS:
            total = total + self.srcc(data, ~without[1] if without is not None and without[0] == data else slice(None))
        return int(np.where(self.rank.min(1) >= 0.98, total, -np.inf).argmax())

    def interval(self, index: int, data: str) -> Numbers:
        """95 % over references, resampled 1000 times; over images where there are three references only."""
        labels, scores, opinions = self.tables.labels[data], self.of[data][index], self.tables.opinions(data)
        groups = list(labels.groupby("ref_name").indices.values()) if data != "sr4k" else [np.array([i]) for i in labels.index]
        random, found = np.random.default_rng(0), []
        for _ in range(1000):
            chosen = np.concatenate([groups[i] for i in random.integers(len(groups), size=len(groups))])
            found.append(abs(spearmanr(scores[chosen], opinions[chosen])[0]))
        return np.asarray(np.percentile(found, [2.5, 97.5]))


# What is printed and drawn.


def summary(tables: Tables, metrics: dict[str, Metric], intervals: bool) -> pd.DataFrame:
    made, rows = Candidates(tables, list(metrics.values())), {}
    srcc = {data: made.srcc(data) for data in SETS}
    scenes = [made.srcc(*scene) for scene in tables.scenes[:2]]
    photographs, votes = tables.labels["retargetme"].groupby("ref_name").indices.values(), tables.labels["retargetme"].votes
    retargeted = [] if intervals else made.scores("retargetme")
    for index, name in enumerate(metrics):
        row = {data: f"{srcc[data][index]:.3f}" for data in SETS}
        if intervals:
            row = {data: value + " ({:.2f} – {:.2f})".format(*made.interval(index, data)) for data, value in row.items()}
        else:
            row["each scene"] = "{:.2f}, {:.2f}".format(*(values[index] for values in scenes))
        row["smallest rank"] = f"{made.rank[index].min():.2f}"
        row["penalties"] = " / ".join(f"{value:.2f}" for value in made.penalty[index])
        row["mean penalty"] = f"{made.penalty[index].mean():.3f}"
        if not intervals:
            taus = [kendalltau(retargeted[index][i], votes.iloc[i])[0] for i in photographs]
            row["RetargetMe tau"] = f"{np.mean(taus):.2f}"
        rows[name] = row
    return pd.DataFrame(rows).T


def stages(tables: Tables) -> pd.DataFrame:
    """SRCC of each stage alone, by comparison, pyramid and level."""
    of = [
        *product(
            ("raw", "pos", "cov", "glob", "covglob"), (("box", 0), ("box", 1), ("binomial", 1), ("box", 2), ("binomial", 2))
        )
    ]
    made = Candidates(tables, [{Part(kind, *level, stage): 1} for kind, level in of for stage in range(5)])
    values = np.hstack([made.srcc(data).reshape(-1, 5) for data in ("view_synthesis", "sr4k")])
    columns = [f"{data} {stage}" for data in ("views", "4K") for stage in range(5)]
    return pd.DataFrame(values, [f"{kind}, {level[0]}, level {level[1]}" for kind, level in of], columns).round(2)


def nested(tables: Tables, kept: dict[str, Candidates]) -> pd.DataFrame:
    """One row per form; means over held-out scenes of the SRCC within the scene."""
    rows = {}
    for name, made in kept.items():
        held: dict[str, list[float]] = {data: [] for data in SETS}
        for scene in tables.scenes:
            held[scene[0]].append(made.srcc(*scene)[made.best(scene)])
        every = made.best(None)
        chosen = made.metrics[every]
        parts = {part: 100 * weight / sum(chosen.values()) for part, weight in sorted(chosen.items()) if weight}
        rows[name] = {
            "choices": len(made.metrics),
            **{f"{data}, held out": f"{np.mean(values):.3f}" for data, values in held.items()},
            **{f"{data}, chosen on all": f"{made.srcc(data)[every]:.3f}" for data in SETS},
            "penalty": f"{made.penalty[every].mean():.3f}",
            "chosen on all": ", ".join(f"{p.kind}{p.stage}@{p.level} {percent:.0f}" for p, percent in parts.items()),
        }
    return pd.DataFrame(rows).T


def fixed(tables: Tables) -> pd.DataFrame:
    """The same figures of metrics that leave nothing open."""
    made = Candidates(tables, list(METRICS.values()))
    within = {data: np.mean([made.srcc(*scene) for scene in tables.scenes if scene[0] == data], 0) for data in SETS}
    return pd.DataFrame({**within, "penalty": made.penalty.mean(1)}, list(METRICS)).round(3)


def draw(path: Path, curves: dict[str, Any], points: dict[str, Any], agreement: str) -> None:
    """Penalty against agreement: curves, and points with their names; a name that starts with ``_`` is not written."""
    figure = Figure(figsize=(7.5, 4.5), dpi=110, layout="constrained")
    axes = figure.subplots()
    for label, values in curves.items():
        axes.plot(*values, ".-", label=label)
    for label, (x, y) in points.items():
        axes.plot(x, y, "." if label.startswith("_") else "o", color="grey" if label.startswith("_") else "tab:red")
        if not label.startswith("_"):
            axes.annotate(label.strip("*"), (x, y), textcoords="offset points", xytext=(6, -11), fontsize=8)
    axes.set(xlabel="mean penalty of deformations (lower is better)", ylabel=agreement)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(path)


def main(what: str, data: Path, cache: Path, figure: Path | None = None) -> None:
    torch.set_num_threads(1)
    if what == "features":
        features(data, cache)
        return
    tables = Tables(data, cache)
    if what == "tables":
        for table in (summary(tables, METRICS, True), summary(tables, VARIANTS, False), stages(tables)):
            print(table.to_markdown(), "\n", flush=True)
        shown = {**VARIANTS, **METRICS}
        made = Candidates(tables, list(shown.values()))
        places = dict(zip(shown, zip(made.penalty.mean(1), made.srcc("view_synthesis"), strict=True), strict=True))
        curve = list(VARIANTS)[:5]
        points = {name if name in curve or name in METRICS else f"_{name}": place for name, place in places.items()}
        curves = {"size at which the shallow stages look": np.array([places[name] for name in curve]).T}
        label = "SRCC with MOS, synthesised views"
    else:
        kept = {name: Candidates(tables, list(candidates(form))) for name, form in FORMS.items()}
        print(fixed(tables).to_markdown(), "\n\n", nested(tables, kept).to_markdown(disable_numparse=True), sep="")
        curves = {}
        for name in (WIDEST, OWN):
            reached = pd.DataFrame({"penalty": kept[name].penalty.mean(1), "agreement": kept[name].agreement()})
            reached = reached[kept[name].rank.min(1) >= 0.98].sort_values("penalty")
            front = reached[reached.agreement > reached.agreement.cummax().shift(fill_value=0)]
            curves[f"best of {len(kept[name].metrics)} choices"] = front.to_numpy().T
        made = Candidates(tables, list(METRICS.values()))
        points = dict(zip(METRICS, zip(made.penalty.mean(1), made.agreement(), strict=True), strict=True))
        label = "mean SRCC of views, blur and 4K"
    if figure is not None:
        draw(figure, curves, points, label)


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
