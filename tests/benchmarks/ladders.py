"""What scores mean: photographs made worse by known amounts, for docs/scores.md and the table of the package.

python tests/benchmarks/ladders.py record ROWS.csv [METRIC ...]    scores of every rung; metrics that ROWS.csv has are left out
python tests/benchmarks/ladders.py table ROWS.csv                  writes adapters/scoring/ladders.json
python tests/benchmarks/ladders.py draw                            writes docs/scores.svg from it
python tests/benchmarks/ladders.py check ROWS.csv                  how well it fits photographs that are left out of it
python tests/benchmarks/ladders.py sizes                           what JPEG and blur are explained as in images of other sizes
python tests/benchmarks/ladders.py monotone                        msds-auto along ladders of the six photographs of Kodak

The photographs are of scikit-image and of the material beside the checkout: of each a crop of 512 x 384 in the middle.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from pictures import KODAK, RUNTIME, SHARED, coded, pairs, tensor
from PIL import Image
from skimage import data

from msds_plugin import registry
from msds_plugin.adapters.research.distortions import DEFORMATIONS, DISTORTIONS, Photo, blur, inner, jpeg, noise
from msds_plugin.adapters.scorers import create_scorer
from msds_plugin.adapters.scoring.ladders import KINDS, TABLE, equivalents, level_of
from msds_plugin.encoder import Matrices
from msds_plugin.metric import Metric, Representation

PICTURE = Path(__file__).parents[2] / "docs/scores.svg"
#: Height and width of a crop, and the pixels beside it that a shift moves into view.
HEIGHT, WIDTH, MARGIN = 384, 512, 32
LABELS = {
    "jpeg": "JPEG, quality",
    "blur": "blur, σ in pixels",
    "noise": "noise, σ of values in [0, 1]",
    "shift": "shift, pixels",
}
DRAWN = {"msds-auto": "C0", "msds-hybrid": "C1", "msds-align": "C2", "msds-fast": "C3"}
#: From mild to strong.
RUNGS = {
    "jpeg": (95, 90, 80, 70, 60, 50, 40, 30, 20, 15, 10, 5),
    "blur": (0.5, 0.6, 0.7, 0.85, 1, 1.4, 2, 2.8, 4, 5.6, 8),
    "noise": (0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3),
    "shift": (1, 2, 3, 5, 11, 21, 31),
}
#: Those of VGG16, whose matrices follow from those of MSDS.
VGG16 = ("msds", "msds-lite", "deepssim", "deepssim-lite")
METRICS = [name for name in registry.names() if name != "spips"]  # which has no weights before it is trained


def photographs() -> Iterator[tuple[str, Photo]]:
    """Names and photographs, each of them with a margin left and right."""
    for name in ("astronaut", "chelsea", "coffee"):
        yield name, crop(getattr(data, name)())
    files = [
        *KODAK,
        *({y for y, _ in pairs("live_gblur")} - {SHARED / "data/live_gblur/images/ref_caps.png"}),  # of Kodak's six
        *{y for y, _ in pairs("sr4k_quarter")},
    ]
    for path in sorted(files):
        yield path.stem, crop(np.asarray(Image.open(path).convert("RGB")))


def crop(photo: Photo) -> Photo:
    """The middle of a photograph, with the margin left and right."""
    (top, height), (left, width) = (
        (max(0, (have - want) // 2), min(have, want))
        for have, want in zip(photo.shape[:2], (HEIGHT, WIDTH + 2 * MARGIN), strict=True)
    )
    return photo[top : top + height, left : left + width]


def rungs(photo: Photo) -> Iterator[tuple[str, float, Photo]]:
    """Distortion, level and image, of a photograph with its margin."""
    changes = {"jpeg": jpeg, "blur": blur, "noise": lambda image, level: noise(image, 255 * level)}
    for kind, levels in RUNGS.items():
        for level in levels:
            shown = MARGIN + int(level) if kind == "shift" else MARGIN
            found = photo[:, shown : shown + photo.shape[1] - 2 * MARGIN]
            yield kind, level, changes[kind](found, level) if kind in changes else found


@torch.no_grad()
def record(rows: Path, *names: str) -> None:
    done = set(pd.read_csv(rows)["metric"]) if rows.exists() else set()
    wanted = [name for name in names or METRICS if name not in done]
    groups = [[name for name in wanted if name in VGG16], *([name] for name in wanted if name not in VGG16)]
    for together in filter(None, groups):
        metrics = {name: registry.create(name, runtime=RUNTIME).eval() for name in together}
        table = []
        for photograph, photo in photographs():
            references = represent(metrics, photo[:, MARGIN:-MARGIN])
            for kind, level, image in rungs(photo):
                for name, found in represent(metrics, image).items():
                    score = metrics[name].compare(found, references[name]).item()
                    table.append((name, photograph, kind, level, abs(registry.get(name).best - score)))
        columns = ["metric", "photograph", "distortion", "level", "dissimilarity"]
        pd.DataFrame(table, columns=columns).to_csv(rows, mode="a", header=not rows.exists(), index=False)
        print(*together, len(table), flush=True)


def represent(metrics: Mapping[str, Metric], photo: Photo) -> dict[str, Representation]:
    """The photograph by each metric; by those of VGG16, which takes a second a time, with one pass of the network."""
    if "msds" not in metrics:
        return {name: metric.represent(tensor(photo)) for name, metric in metrics.items()}
    grams = metrics["msds"].represent(tensor(photo)).views
    found = {}
    for name, metric in metrics.items():
        views = []
        for level, view in zip(range(len(metric.network.views)), grams, strict=False):
            cells = (photo.shape[0] >> level + 4) * (photo.shape[1] >> level + 4)  # of relu5_1, at a stride of 16
            views.append(tuple(metric.matrix_kind.finish(gram, cells) for gram in view))
        found[name] = Matrices(metric.description, tuple(views))
    return found


def quartiles(rows: pd.DataFrame) -> dict[str, dict[str, list[list[float]]]]:
    """By metric and distortion: of each rung the quartiles of 1 - score, or of a distance."""
    found: dict[str, dict[str, list[list[float]]]] = {}
    for (name, kind), part in rows.groupby(["metric", "distortion"], sort=False):
        by_level = part.pivot(index="photograph", columns="level", values="dissimilarity")[list(RUNGS[kind])]
        values = np.quantile(by_level.to_numpy(), [0.25, 0.5, 0.75], axis=0)
        found.setdefault(name, {})[kind] = [[float(f"{value:.4g}") for value in line] for line in values]
    return found


def table(file: Path) -> None:
    rows = pd.read_csv(file)
    content = {"photographs": rows["photograph"].nunique(), "rungs": RUNGS, "metrics": quartiles(rows)}
    TABLE.write_text(json.dumps(content, separators=(",", ":")).replace('"msds', '\n"msds').replace('"deep', '\n"deep') + "\n")
    print(TABLE, TABLE.stat().st_size)


def check(file: Path) -> None:
    """How far the median of the other photographs is off for each: in JPEG quality, else in powers of two."""
    rows = pd.read_csv(file)
    found = []
    for photograph in rows["photograph"].unique():
        left = rows["photograph"] == photograph
        others = quartiles(rows[~left])
        for row in rows[left].itertuples():
            rungs = RUNGS[row.distortion]
            if row.level not in (rungs[0], rungs[-1]):
                level = level_of(row.distortion, rungs, others[row.metric][row.distortion][1], row.dissimilarity)
                inside = KINDS[row.distortion].logarithmic and np.isfinite(level)
                off = abs(np.log2(level / row.level)) if inside else abs(level - row.level)
                found.append((row.metric, row.distortion, off))
    table = pd.DataFrame(found, columns=["metric", "distortion", "off"])
    print(table.groupby(["metric", "distortion"], sort=False)["off"].median().unstack().round(2).to_string())


@torch.no_grad()
def sizes() -> None:
    """Six photographs of 768 x 512, whole, halved and quartered: what JPEG and blur are explained as, medians."""
    scorer = create_scorer("msds-auto")
    for side in (1, 2, 4):
        for kind, change, levels in (("jpeg", jpeg, (80, 50, 30, 10)), ("blur", blur, (0.7, 1, 2, 4))):
            found = defaultdict(list)
            for path in KODAK:
                photo = resized(np.asarray(Image.open(path).convert("RGB")), side)
                for level in levels:
                    score = scorer.metric(tensor(change(photo, level)), tensor(photo)).item()
                    found[level].append({each.distortion: each.level for each in equivalents(scorer, score)}[kind])
            print(f"1/{side} of the sides, {kind}, as: {medians(found.values(), levels)}", flush=True)


def draw() -> None:
    """Curves of every distortion: 1 - score of the median photograph, and between the quartiles of msds-auto."""
    content = json.loads(TABLE.read_text())
    figure = Figure(figsize=(9, 6), layout="constrained")
    for axes, (kind, rungs) in zip(figure.subplots(2, 2).flat, content["rungs"].items(), strict=True):
        for name, colour in DRAWN.items():
            if name not in content["metrics"]:
                continue
            low, middle, high = content["metrics"][name][kind]
            axes.plot(rungs, middle, "--" if name == "msds-hybrid" else "-", color=colour, label=name)
            if name == "msds-auto":
                axes.fill_between(rungs, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.set_yscale("log")
        if KINDS[kind].logarithmic:
            axes.set_xscale("log")
        else:
            axes.invert_xaxis()
        axes.set_xticks(rungs[::2], [f"{rung:g}" for rung in rungs[::2]])
        axes.set_xticks([], minor=True)
        axes.set_xlabel(LABELS[kind])
        axes.set_ylabel("1 − score")
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    figure.savefig(PICTURE, metadata={"Date": None})
    print(PICTURE, PICTURE.stat().st_size)


def medians(found: Iterable[Sequence[float]], levels: Sequence[float]) -> dict[float, float]:
    return {level: round(float(np.median(each)), 4) for level, each in zip(levels, found, strict=True)}


def encoded(photo: Photo, kind: str, **options: int) -> Photo:
    return np.array(coded(Image.fromarray(photo), kind, **options))


def resized(photo: Photo, factor: float) -> Photo:
    height, width = photo.shape[:2]
    return np.array(Image.fromarray(photo).resize((round(width / factor), round(height / factor)), Image.Resampling.BICUBIC))


#: Strengths from mild to strong, and what applies them: to the photograph without its margin, and to the one with it.
IN_PLACE = {
    "JPEG, quality": ((95, 90, 80, 70, 60, 50, 40, 30, 20, 15, 10, 5), DISTORTIONS["jpeg"]),
    "JPEG 2000, ratio": ((5, 10, 20, 40, 80, 160), DISTORTIONS["jpeg2000"]),
    "WebP, quality": ((95, 80, 60, 40, 20, 10, 0), lambda photo, level: encoded(photo, "WEBP", quality=level)),
    "AVIF, quality": ((95, 80, 60, 40, 20, 10, 0), lambda photo, level: encoded(photo, "AVIF", quality=level, speed=8)),
    "blur, pixels": ((0.4, 0.5, 0.7, 1, 1.4, 2, 2.8, 4, 5.6, 8), DISTORTIONS["blur"]),
    "noise, of 255": ((1, 2, 5, 10, 20, 40, 60), DISTORTIONS["noise"]),
    "resize, to one of": ((1.1, 1.25, 1.5, 2, 3, 4), resized),
}
MOVED = {
    "shift, pixels": ((1, 2, 3, 4, 8, 16), DEFORMATIONS["offset"]),
    "rotation, degrees": ((0.1, 0.25, 0.5, 1, 2, 3, 5), DEFORMATIONS["rotation"]),
    "zoom, %": ((0.25, 0.5, 1, 2, 5, 10), DEFORMATIONS["zoom"]),
    "elastic, % of the side": ((0.025, 0.05, 0.1, 0.2, 0.4, 0.8), DEFORMATIONS["elastic"]),
    "perspective, % of the side": ((0.1, 0.25, 0.5, 1, 2, 3, 5), DEFORMATIONS["perspective"]),
}


@torch.no_grad()
def monotone(side: str = "0") -> None:
    """Scores along each ladder, medians, and the steps that do not fall; of whole photographs, or of their corners."""
    metric = registry.create("msds-auto", runtime=RUNTIME).eval()
    for name, (levels, change) in {**IN_PLACE, **MOVED}.items():
        table, rises = [], []
        for path in KODAK:
            photo = np.asarray(Image.open(path).convert("RGB"))[-int(side) :, -int(side) :]
            given = inner(photo) if name in IN_PLACE else photo
            reference = tensor(inner(photo))
            scores = [1.0, *(metric(tensor(change(given, level)), reference).item() for level in levels)]
            steps = zip(levels, np.diff(scores), strict=True)
            rises += [f"{path.stem} {level}: {step:+.4f}" for level, step in steps if step >= 0]
            table.append(scores[1:])
        print(f"{name}: {medians(np.transpose(table), levels)}; rises: {rises or 'none'}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    _, mode, *given = sys.argv
    modes = {each.__name__: each for each in (record, table, check, sizes, draw, monotone)}
    modes[mode](*(Path(each) if each.endswith(".csv") else each for each in given))
