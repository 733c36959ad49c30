"""How many harmful changes a gate catches that lets harmless ones pass: the tables of docs/research/gate.md.

python tests/benchmarks/gate.py ../shared/data/kodak [picture.png]
"""

import io
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageFilter
from scipy import ndimage

import msds_plugin

METRICS = ("msds-auto", "msds-hybrid", "msds-align", "ssim", "psnr")
SIZE, CROP = (576, 384), (384, 256)
#: How few false alarms among harmless changes are wanted.
RATE = 0.01


def crops(image):
    """Two parts of an image, which overlap in its middle, inside a margin of two pixels."""
    (width, height), (w, h) = SIZE, CROP
    return [image.crop((x, y, x + w, y + h)) for x, y in ((2, 2), (width - w - 2, height - h - 2))]


def jpeg(image, subsampling):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, subsampling=subsampling)
    return Image.open(file).convert("RGB")


def moved(image, x, y):
    return Image.fromarray(ndimage.shift(np.asarray(image), (y, x, 0), order=3 if x % 1 or y % 1 else 0, mode="nearest"))


def noisy(image, rng, sigma=None):
    pixels = np.asarray(image).astype(float)
    noise = rng.integers(-1, 2, pixels.shape) if sigma is None else rng.normal(0, sigma, pixels.shape)
    return Image.fromarray((pixels + noise).round().clip(0, 255).astype(np.uint8))


def harmless(photograph, rng):
    """For each change its form of the two parts."""
    whole = photograph.resize(SIZE, Image.Resampling.LANCZOS)
    changes = {
        "JPEG 95, 4:4:4": lambda part: jpeg(part, 0),
        "JPEG 95, 4:2:0": lambda part: jpeg(part, 2),
        "rounding, -1 to 1 of 255": lambda part: noisy(part, rng),
        "noise, sigma 1 of 255": lambda part: noisy(part, rng, 1),
    }
    found = {name: [change(part) for part in crops(whole)] for name, change in changes.items()}
    for name in ("BICUBIC", "HAMMING"):
        found[f"resampled by {name.lower()}"] = crops(photograph.resize(SIZE, Image.Resampling[name]))
    for x, y in ((1, 0), (0, 1), (1, 1), (0.5, 0.5)):
        found[f"moved by {x}, {y} pixels"] = crops(moved(whole, x, y))
    return found


def busiest(part, side):
    """Corner of the square that has most contrast: an object rather than sky."""
    grey = np.asarray(part.convert("L")).astype(float)
    spread = ndimage.uniform_filter(grey**2, side) - ndimage.uniform_filter(grey, side) ** 2
    half = side // 2
    inner = spread[half + 4 : -half - 4, half + 4 : -half - 4]
    y, x = np.unravel_index(inner.argmax(), inner.shape)
    return int(y) + 4, int(x) + 4


def without_object(part, side):
    """A square filled from its border, as if what was there had not been drawn."""
    y, x = busiest(part, side)
    pixels = np.asarray(part).astype(float)
    t = np.linspace(0, 1, side)[:, None]
    rows, columns = pixels[y : y + side, [x - 1, x + side]], pixels[[y - 1, y + side], x : x + side]
    across = rows[:, None, 0] * (1 - t) + rows[:, None, 1] * t
    down = columns[None, 0] * (1 - t[:, None]) + columns[None, 1] * t[:, None]
    pixels[y : y + side, x : x + side] = (across + down) / 2
    return Image.fromarray(pixels.round().astype(np.uint8))


def recoloured(part, side):
    y, x = busiest(part, side)
    pixels = np.asarray(part).copy()
    pixels[y : y + side, x : x + side] = pixels[y : y + side, x : x + side, ::-1]
    return Image.fromarray(pixels)


def tinted(part):
    return Image.fromarray((np.asarray(part) * np.array([1.1, 1, 0.9])).clip(0, 255).astype(np.uint8))


def banded(part, levels):
    return Image.fromarray((np.round(np.asarray(part) / 255 * (levels - 1)) / (levels - 1) * 255).astype(np.uint8))


HARMFUL = {
    "object missing, 32 x 32": lambda part: without_object(part, 32),
    "object missing, 64 x 64": lambda part: without_object(part, 64),
    "red and blue swapped, 32 x 32": lambda part: recoloured(part, 32),
    "red and blue swapped, 64 x 64": lambda part: recoloured(part, 64),
    "red +10 %, blue -10 %": tinted,
    "blur, sigma 1": lambda part: part.filter(ImageFilter.GaussianBlur(1)),
    "blur, sigma 2": lambda part: part.filter(ImageFilter.GaussianBlur(2)),
    "32 levels": lambda part: banded(part, 32),
    "16 levels": lambda part: banded(part, 16),
}


def measure(folder):
    """A row for each changed part: photograph, change, harmful, and the difference by each metric."""
    rng = np.random.default_rng(0)
    rows = []
    for path in sorted(Path(folder).glob("*.png")):
        photograph = Image.open(path).convert("RGB")
        photograph = photograph if photograph.width > photograph.height else photograph.rotate(90, expand=True)
        goldens = crops(photograph.resize(SIZE, Image.Resampling.LANCZOS))
        changed = {name: (False, parts) for name, parts in harmless(photograph, rng).items()}
        changed |= {name: (True, [change(part) for part in goldens]) for name, change in HARMFUL.items()}
        for place, golden in enumerate(goldens):
            images = [golden, *(parts[place] for _, parts in changed.values())]
            scores = msds_plugin.score(images, golden, METRICS)
            for index, (name, (harm, _)) in enumerate(changed.items(), 1):
                rows.append({"photograph": path.stem, "change": name, "harmful": harm})
                rows[-1] |= {metric: abs(scores[metric][0] - scores[metric][index]) for metric in METRICS}
        print(path.stem, file=sys.stderr, flush=True)
    return pd.DataFrame(rows)


def threshold(differences):
    """The smallest one that at most a hundredth of these harmless differences exceed."""
    ordered = np.sort(differences)
    return ordered[len(ordered) - 1 - int(RATE * len(ordered))]


def tables(table):
    """The thresholds, and the share of each change that fails; "left out": thresholds from the other five photographs."""
    calm = table[~table.harmful]
    at = {metric: threshold(calm[metric]) for metric in METRICS}
    failed = table.assign(**{metric: table[metric] > at[metric] for metric in METRICS})
    parts = []
    for photograph, rows in table.groupby("photograph"):
        others = calm[calm.photograph != photograph]
        parts.append(rows.assign(**{metric: rows[metric] > threshold(others[metric]) for metric in METRICS}))
    summary = {"all": failed, "left out": pd.concat(parts)}
    shown = [each.groupby("harmful")[list(METRICS)].mean() for each in summary.values()]
    return (
        pd.DataFrame(at, index=["threshold"]),
        failed[failed.harmful].groupby("change", sort=False)[list(METRICS)].mean(),
        pd.concat(dict(zip(summary, shown, strict=True))),
    )


def draw(table, path):
    """Caught against false alarms."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.add_subplot(xlabel="false alarms", ylabel="caught", xscale="symlog", ylim=(0, 1.02))
    axes.set_xscale("symlog", linthresh=0.01)
    for metric in METRICS:
        places = np.sort(table[metric])[::-1]
        calm, harm = (np.sort(table.loc[table.harmful == kind, metric]) for kind in (False, True))
        alarms, caught = (1 - np.searchsorted(side, places, "right") / len(side) for side in (calm, harm))
        axes.plot(alarms, caught, label=metric)
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    torch.set_num_threads(1)
    measured = measure(sys.argv[1])
    if len(sys.argv) > 2:
        draw(measured, sys.argv[2])
    print(f"{len(measured)} changes, {int(measured.harmful.sum())} of them harmful")
    for title, kept in (("all", measured), ("nothing is moved", measured[~measured.change.str.startswith("moved")])):
        print(f"\n{title}")
        for shown in tables(kept):
            print(shown.to_markdown(floatfmt=".3f"))
