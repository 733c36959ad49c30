"""The tables of docs/auto.md: msds-auto beside its specialists, on the material beside the checkout.

python tests/benchmarks/auto_tables.py opinions     rank correlations with 95 % intervals over references (minutes)
python tests/benchmarks/auto_tables.py ratio        how far rho tells aligned from displaced content, by image size
python tests/benchmarks/auto_tables.py damage       retargeted images that are also damaged
python tests/benchmarks/auto_tables.py mislead      images made to drive rho up: auto beside hybrid and align
"""

import math
import sys
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from pictures import KODAK, RUNTIME, SHARED, coded, pairs, read, tensor
from PIL import Image, ImageDraw, ImageFilter, ImageOps
from scipy.stats import kendalltau, spearmanr

from msds_plugin import registry
from msds_plugin.adapters.benchmark import load_csv, run
from msds_plugin.adapters.scoring import Run

NAMES = ("msds-auto", "msds-hybrid", "msds-align", "msds-fast", "msds-retarget")
SETS = ("live_gblur", "view_synthesis", "sr4k_quarter")
Change = Callable[[Image.Image], Image.Image]
rng = np.random.default_rng(0)


def noisy(image: Image.Image, sigma: float) -> Image.Image:
    values = np.asarray(image, np.float32)
    return Image.fromarray(np.clip(values + rng.normal(0, sigma, values.shape), 0, 255).astype(np.uint8))


def moved(image: Image.Image, angle: float = 0.0, scale: float = 1.0, shift: float = 0.0) -> Image.Image:
    cos, sin = (f(math.radians(angle)) / scale for f in (math.cos, math.sin))
    x, y = image.width / 2, image.height / 2
    matrix = (cos, sin, x - cos * x - sin * y + shift, -sin, cos, y + sin * x - cos * y + 0.6 * shift)
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)


ALIGNED: dict[str, Change] = {
    **{f"JPEG {q}": lambda image, q=q: coded(image, "JPEG", quality=q) for q in (8, 20, 40, 75)},
    **{f"WebP {q}": lambda image, q=q: coded(image, "WEBP", quality=q) for q in (10, 50)},
    **{f"JPEG 2000 {r}": lambda image, r=r: coded(image, "JPEG2000", quality_layers=[r]) for r in (20, 80)},
    **{f"blur {s}": lambda image, s=s: image.filter(ImageFilter.GaussianBlur(s)) for s in (0.6, 1.2, 2.5)},
    **{f"noise {s}": lambda image, s=s: noisy(image, s) for s in (4, 12, 30)},
}
DISPLACED: dict[str, Change] = {
    **{f"shift {p}": lambda image, p=p: moved(image, shift=p) for p in (1, 2, 4, 8)},
    **{f"rotation {a}": lambda image, a=a: moved(image, angle=a) for a in (0.5, 1, 3)},
    **{f"zoom {z}": lambda image, z=z: moved(image, scale=z) for z in (1.01, 1.03)},
}


def written(image: Image.Image) -> Image.Image:
    found = image.copy()
    ImageDraw.Draw(found).text((20, 20), "the quick brown fox " * 4, fill="white")
    return found


def dotted(image: Image.Image) -> Image.Image:
    found = image.copy()
    found.putpixel((image.width // 2, image.height // 2), (255, 255, 255))
    return found


MISLEADING: dict[str, Change] = {
    "pixel": dotted,
    "frame": lambda image: ImageOps.expand(ImageOps.crop(image, 4), 4, "black"),
    "text": written,
    "mirrored": ImageOps.mirror,
}


def interval(values: np.ndarray, groups: list[str], figure: Callable[[np.ndarray], float]) -> tuple[float, float]:
    names = sorted(set(groups))
    rows = {name: [index for index, group in enumerate(groups) if group == name] for name in names}
    drawn = [figure(values[[row for name in rng.choice(names, len(names)) for row in rows[name]]]) for _ in range(1000)]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def opinions() -> None:
    for name in (*SETS, "retargetme"):
        folder, names = SHARED / "data" / name, ("msds-auto", "msds-retarget") if name == "retargetme" else NAMES
        data = load_csv(folder / "labels.csv", folder / "images", name == "live_gblur", name)
        made = run(names, [data], None, Run("cpu", RUNTIME)).scores
        references = list(data.table["reference"])
        for label in names:
            both = made.of(name, label)[["opinion", "score"]].to_numpy() * (-1 if name == "live_gblur" else 1, 1)
            if name == "retargetme":
                rows = pd.DataFrame(both).groupby(references)
                taus = rows.apply(lambda each: kendalltau(each[0], each[1])[0]).to_numpy()
                low, high = np.quantile([rng.choice(taus, len(taus)).mean() for _ in range(1000)], [0.025, 0.975])
                print(f"{name} {label} tau {taus.mean():.3f} [{low:.3f}, {high:.3f}]")
            else:
                low, high = interval(both, references, lambda rows: spearmanr(rows[:, 0], rows[:, 1])[0])
                print(f"{name} {label} {spearmanr(both[:, 0], both[:, 1])[0]:.3f} [{low:.3f}, {high:.3f}]")


@torch.no_grad()
def ratio() -> None:
    metric = registry.create("msds-auto", runtime=RUNTIME)
    for side in (64, 96, 128, 192, 256, 384):
        found: dict[str, list[float]] = {"aligned": [], "displaced": []}
        for path in KODAK:
            whole = Image.open(path).convert("RGB")
            for _ in range(2):
                left, top = (int(rng.integers(0, length - side - 40)) for length in whole.size)
                larger = whole.crop((left, top, left + side + 40, top + side + 40))
                box = (20, 20, 20 + side, 20 + side)
                y = larger.crop(box)
                for change in ALIGNED.values():
                    found["aligned"].append(metric.details(tensor(change(y)), tensor(y)).displaced.item())
                for change in DISPLACED.values():
                    found["displaced"].append(metric.details(tensor(change(larger).crop(box)), tensor(y)).displaced.item())
        shares = {
            name: f"{np.mean(values):.3f} (wrong way for {np.mean(np.array(values) != (name == 'displaced')):.3f})"
            for name, values in found.items()
        }
        print(f"{side} x {side}: mean weight of msds-align {shares}")


@torch.no_grad()
def damage() -> None:
    metric = registry.create("msds-auto", runtime=RUNTIME)
    changes = {name: ALIGNED[name] for name in ("JPEG 8", "JPEG 40", "blur 1.2", "blur 2.5", "noise 12", "noise 30")}
    table = defaultdict(list)
    for reference, distorted in list(pairs("retargetme"))[::8]:
        y, image = read(reference), Image.open(distorted).convert("RGB")
        clean = metric.details(tensor(image), y)
        for name, change in changes.items():
            found = metric.details(tensor(change(image)), y)
            table[name].append((found.score.item() - clean.score.item(), found.retarget.item() - clean.retarget.item()))
    for name, rows in table.items():
        print(name, "change of msds-auto, of msds-retarget (medians):", np.median(rows, 0).round(3))


@torch.no_grad()
def mislead() -> None:
    metric = registry.create("msds-auto", runtime=RUNTIME)
    photographs = [Image.open(path).convert("RGB") for path in KODAK]
    for index, image in enumerate(photographs):
        others = [other for other in photographs if other is not image and other.size == image.size]
        changed = {name: change(image) for name, change in MISLEADING.items()} | ({"another": others[0]} if others else {})
        for name, x in changed.items():
            found = metric.details(tensor(x), tensor(image))
            print(
                f"{index} {name}: auto {found.score.item():.4f} hybrid {found.hybrid.item():.4f} align {found.align.item():.4f}"
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"opinions": opinions, "ratio": ratio, "damage": damage, "mislead": mislead}[sys.argv[1]]()
