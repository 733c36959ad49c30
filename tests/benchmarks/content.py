"""Does a score mean the same on every content? Variants of the deep term of MSDS-Hybrid, across and within references.

    python tests/benchmarks/content.py     # about 15 minutes on one core; needs ../shared

Rank correlations with opinions on blur and on super-resolution at a quarter of the sides; on JPEG and noise ladders with the
mean rank by FSIM, SR-SIM, VIF, MS-SSIM and GMSD. For each variant of the deep term: alone, and in the hybrid; across images /
mean within references. Then DeepSSIM on single stages and levels, and the change of the hybrid, with 95 % intervals over
references. The tables of docs/research/content.md.
"""

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np
import piq
import torch
from pictures import SHARED, read
from PIL import Image
from scipy.stats import rankdata, spearmanr
from torch import Tensor
from torch.nn import functional as F

from msds_plugin import build_backbone
from msds_plugin.functional import block_dissimilarity, energy_dissimilarity, gram_matrix, pyramid
from msds_plugin.hybrid import HaarPSI
from msds_plugin.mdsi import MDSI

DATA = SHARED / "data"
LEVELS = 3
#: Of the five stages of EfficientNet-Lite0, those of MSDS-Hybrid.
USED = slice(1, 4)
BEFORE, NOW = "Gram matrices (MSDS)", "Gram matrices and place by place"
JUDGES = {"fsim": 1, "srsim": 1, "vif_p": 1, "multi_scale_ssim": 1, "gmsd": -1}
#: (reference's name, quality, reference, distorted)
Row = tuple[str, float, Tensor, Tensor]
Compare = Callable[[Tensor, Tensor], Tensor]


def opinions(name: str, column: str, sign: float, shrink: int = 1) -> Iterator[Row]:
    with (DATA / name / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if row["dist_name"].split("_")[1].startswith(("NEDI", "ICBI")):  # shifted and cropped
            continue
        pair = [read(DATA / name / "images" / row[key]) for key in ("ref_name", "dist_name")]
        y, x = [(F.avg_pool2d(each, shrink) * 255).round() / 255 for each in pair] if shrink > 1 else pair
        yield row["ref_name"], sign * float(row[column]), y, x


def photographs() -> Iterator[tuple[str, Tensor]]:
    blur = {row["ref_name"] for row in csv.DictReader((DATA / "live_gblur" / "labels.csv").open())}
    paths = [*(DATA / "kodak").glob("*.png"), *(DATA / "live_gblur" / "images" / name for name in sorted(blur))]
    paths += (DATA / "sr4k_quarter" / "images").glob("*_GT.png")
    yield from ((path.name, read(path)[..., :480, :640]) for path in sorted(paths))


def ladders(kind: str) -> Iterator[Row]:
    rows = []
    for name, y in photographs():
        pixels = (y[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        rng = np.random.default_rng(0)
        for strength in (5, 10, 17, 27, 40, 60, 80) if kind == "JPEG" else (0.01, 0.02, 0.04, 0.08, 0.14, 0.25):
            if kind == "JPEG":
                Image.fromarray(pixels).save(file := io.BytesIO(), "JPEG", quality=strength)
                x = read(file)
            else:
                noisy = (y + torch.from_numpy(rng.normal(0, strength, y.shape)).float()).clamp(0, 1)
                x = (noisy * 255).round() / 255
            found = [sign * float(getattr(piq, judge)(x, y, data_range=1.0)) for judge, sign in JUDGES.items()]
            rows.append((name, found, y, x))
    quality = np.mean([rankdata(column) for column in zip(*(row[1] for row in rows), strict=True)], 0)
    for (name, _, y, x), value in zip(rows, quality, strict=True):
        yield name, float(value), y, x


SETS: dict[str, Callable[[], Iterator[Row]]] = {
    "blur": lambda: opinions("live_gblur", "dmos", -1),
    "4 scenes": lambda: opinions("sr4k_quarter", "mos", 1),
    "3 scenes": lambda: opinions("sr4k", "mos", 1, shrink=4),
    "JPEG": lambda: ladders("JPEG"),
    "noise": lambda: ladders("noise"),
}


def grams(change: Callable[[Tensor], Tensor] = lambda features: features, c: float = 0.0) -> Compare:
    """DeepSSIM of changed features; ``c``: its constant, in units of the blocks' mean variance in the reference."""

    def compare(x: Tensor, y: Tensor) -> Tensor:
        a, b = gram_matrix(change(x)), gram_matrix(change(y))
        constant = 1e-6
        if c:
            blocks = b[0].unfold(0, 4, 4).unfold(1, 4, 4).flatten(2)
            constant = c * float(blocks.var(2, correction=0).mean())
        return block_dissimilarity(a, b, c=constant)

    return compare


def _windows(features: Tensor, side: int) -> Tensor:
    """The windows (windows, C, side * side, 1) of features (1, C, h, w)."""
    columns = F.unfold(features, side, stride=side)
    return columns.unflatten(1, (features.shape[1], -1)).permute(0, 3, 1, 2)[0].unsqueeze(3)


def local_grams(x: Tensor, y: Tensor, side: int = 8) -> Tensor:
    """Structure of the Gram matrices of windows of 8 x 8 positions, pooled over blocks, by the square root of energy."""
    a, b = (gram_matrix(_windows(each, side)) for each in (x, y))
    variance = [m.unflatten(1, (-1, 4)).unflatten(3, (-1, 4)).var((2, 4), correction=0).sum((1, 2)) for m in (a - b, a, b)]
    energy = variance[1] + variance[2]
    return ((variance[0] / (energy + 1e-6)) * energy.sqrt()).sum()[None] / energy.sqrt().sum()


def weighted_grams(x: Tensor, y: Tensor) -> Tensor:
    """DeepSSIM of features weighted at each position by the larger of their two lengths."""
    energy = torch.maximum(x.norm(dim=1, keepdim=True), y.norm(dim=1, keepdim=True))
    weights = energy / energy.mean()
    return block_dissimilarity(gram_matrix(x * weights), gram_matrix(y * weights))


def centred(features: Tensor) -> Tensor:
    return features - features.mean((2, 3), keepdim=True)


def standardised(features: Tensor) -> Tensor:
    return centred(features) / features.std((2, 3), keepdim=True).clamp_min(1e-4)


VARIANTS: dict[str, tuple[Compare, ...]] = {
    BEFORE: (grams(),),
    "covariances": (grams(centred),),
    "correlations": (grams(standardised),),
    "unit length at each position": (grams(lambda f: F.normalize(f, dim=1)),),
    "square roots of features": (grams(lambda f: f.sign() * f.abs().sqrt()),),
    "constant 0.03 of the mean variance": (grams(c=0.03),),
    "constant 0.3 of the mean variance": (grams(c=0.3),),
    "positions weighted by energy": (weighted_grams,),
    "Gram matrices of windows": (local_grams,),
    "place by place": (energy_dissimilarity,),
    NOW: (grams(), energy_dissimilarity),
}


def log(dissimilarity: np.ndarray) -> np.ndarray:
    return np.log1p(np.maximum(dissimilarity, 0) / 1e-3)


def agreement(found: np.ndarray, quality: np.ndarray, names: list[str]) -> str:
    groups = defaultdict(list)
    for place, name in enumerate(names):
        groups[name].append(place)
    within = [-spearmanr(found[places], quality[places])[0] for places in groups.values() if len(places) > 3]
    return f"{-spearmanr(found, quality)[0]:.3f} / {np.mean(within):.3f}"


def change(before: np.ndarray, now: np.ndarray, quality: np.ndarray, names: list[str]) -> str:
    """SRCC of both and their difference, each with its interval over references."""
    places = {name: np.flatnonzero(np.array(names) == name) for name in dict.fromkeys(names)}
    rng = np.random.default_rng(0)

    def figures(chosen: np.ndarray) -> tuple[float, float, float]:
        old, new = (-spearmanr(found[chosen], quality[chosen])[0] for found in (before, now))
        return old, new, new - old

    drawn = [figures(np.concatenate([places[name] for name in rng.choice(list(places), len(places))])) for _ in range(2000)]
    bounds = np.quantile(drawn, [0.025, 0.975], axis=0).T
    whole = figures(np.arange(len(quality)))
    return " | ".join(f"{figure:.3f} [{low:.3f}, {high:.3f}]" for figure, (low, high) in zip(whole, bounds, strict=True))


def main() -> None:
    network = build_backbone("efficientnet_lite0")
    haarpsi, mdsi, gram = HaarPSI(), MDSI(), grams()
    for title, rows in SETS.items():
        names, qualities, local, single = [], [], [], []
        found: dict[str, list[float]] = defaultdict(list)
        with torch.inference_mode():
            for name, value, y, x in rows():
                names.append(name)
                qualities.append(value)
                local.append((1 - float(haarpsi(x, y)), float(mdsi(x, y)) ** 4))
                maps = [(network(a), network(b)) for a, b in zip(pyramid(x, LEVELS), pyramid(y, LEVELS), strict=True)]
                single.append([[float(gram(p, q)) for p, q in zip(*level, strict=True)] for level in maps])
                for variant, parts in VARIANTS.items():
                    # What is compared place by place counts at full size alone.
                    each = [
                        np.mean([float(part(p, q)) for a, b in levels for p, q in zip(a[USED], b[USED], strict=True)])
                        for part in parts
                        for levels in [maps[:1] if part is energy_dissimilarity else maps]
                    ]
                    found[variant].append(float(np.mean(each)))
        quality = np.array(qualities)
        h, m = np.array(local).T
        hybrids = {variant: (2 * log(np.array(values)) + log(h) + log(m)) / 4 for variant, values in found.items()}
        print(f"\n{title}: {len(names)} images; alone, in the hybrid\n")
        for alone, values in (("HaarPSI", h), ("MDSI", m)):
            print(f"| {alone} | {agreement(values, quality, names)} | |")
        for variant, deep in found.items():
            print(
                f"| {variant} | {agreement(np.array(deep), quality, names)} | {agreement(hybrids[variant], quality, names)} |"
            )
        by_stage = np.array(single).transpose(2, 1, 0)
        for stage, levels in enumerate(by_stage):
            print(f"| stage {stage} | {' | '.join(agreement(level, quality, names) for level in levels)} |")
        print(f"| {title} | {change(hybrids[BEFORE], hybrids[NOW], quality, names)} |", flush=True)


if __name__ == "__main__":
    main()
