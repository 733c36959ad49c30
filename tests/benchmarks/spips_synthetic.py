"""SPIPS trained on synthetic distortions of free photographs alone, and what it is then worth on real opinions.

    python tests/benchmarks/spips_synthetic.py ../shared/data/kodak WORK --judge ../shared/data/live_gblur/labels.csv

Crops of the photographs are blurred, made noisy, and coded as JPEG and JPEG 2000. Of two of a crop with the same kind of
distortion the milder one is preferred; of two with different kinds the one that HaarPSI and MDSI both prefer, and where they
disagree the choice counts half. Prints the accuracy on held-out crops, and the SRCC with the opinions of each table beside that
of msds-hybrid, with the 95 % interval of the difference by a bootstrap over references.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image, ImageFilter
from scipy.stats import spearmanr

from msds_plugin import registry
from msds_plugin.adapters.benchmark.datasets import load_csv
from msds_plugin.adapters.images.read import read_image
from msds_plugin.adapters.research.training import load_twoafc, train_spips
from msds_plugin.hybrid import MDSI, HaarPSI
from msds_plugin.spips import SPIPS

SIDE = 192


def coded(image: Image.Image, kind: str, **options: object) -> Image.Image:
    """Written and read again."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(file).convert("RGB")


def distorted(image: Image.Image, kind: int, strength: float, rng: np.random.Generator) -> Image.Image:
    """One of four kinds of distortion, strength from 0 to 1."""
    if kind == 0:
        return image.filter(ImageFilter.GaussianBlur(0.4 * 20**strength))
    if kind == 1:
        noise = 0.01 * 50**strength * rng.standard_normal((*image.size[::-1], 3))
        return Image.fromarray(((np.asarray(image) / 255 + noise).clip(0, 1) * 255).round().astype(np.uint8))
    if kind == 2:
        return coded(image, "JPEG", quality=int(90 / 25**strength))
    return coded(image, "JPEG2000", quality_mode="rates", quality_layers=[6 * 25**strength], irreversible=True)


def make(photographs: Path, root: Path, crops: int, each: int) -> None:
    """Judgements laid out as BAPPS does."""
    rng = np.random.default_rng(0)
    for folder in ("ref", "p0", "p1", "judge"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    images = [Image.open(path).convert("RGB") for path in sorted(photographs.glob("*.png"))]
    for number in range(crops * len(images)):
        image = images[number % len(images)]
        left, top = rng.integers(0, image.width - SIDE), rng.integers(0, image.height - SIDE)
        crop = image.crop((left, top, left + SIDE, top + SIDE))
        for index in range(each):
            kinds = rng.integers(0, 4, 2)
            if index % 2:
                kinds[1] = kinds[0]
            strengths = rng.uniform(0, 1, 2)
            pair = [distorted(crop, int(kind), float(strength), rng) for kind, strength in zip(kinds, strengths, strict=True)]
            if kinds[0] == kinds[1]:
                share = float(strengths[1] < strengths[0])
            else:
                x, y = (torch.stack([to_tensor(each) for each in batch]) for batch in (pair, [crop] * 2))
                haarpsi, mdsi = HaarPSI()(x, y), MDSI()(x, y)
                share = (float(haarpsi[1] > haarpsi[0]) + float(mdsi[1] < mdsi[0])) / 2
            name = f"{number:04d}_{index:02d}"
            for folder, picture in zip(("ref", "p0", "p1"), (crop, *pair), strict=True):
                picture.save(root / folder / f"{name}.png")
            np.save(root / "judge" / f"{name}.npy", np.array([share], dtype=np.float32))


def to_tensor(image: Image.Image) -> torch.Tensor:
    """(3, H, W) in [0, 1]."""
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1)


@torch.inference_mode()
def main(
    photographs: Path,
    work: Path,
    judge: Annotated[list[Path], typer.Option(help="table of reference, distorted, score; images in images/ beside it")],
    crops: int = 12,
    each: int = 8,
    seed: int = 0,
) -> None:
    """Train and print."""
    torch.set_num_threads(1)
    if not (work / "data").exists():
        make(photographs, work / "data", crops, each)
    with torch.inference_mode(False), torch.enable_grad():
        made = train_spips(load_twoafc(work / "data", "synthetic"), work / "spips.safetensors", seed=seed, cache=work / "cache")
    print(f"held-out crops: accuracy {made.held_out['accuracy']:.3f}, {made.facts['epochs']} epochs", flush=True)
    metrics = {"spips": SPIPS(made.path), "msds-hybrid": registry.create("msds-hybrid")}
    for csv in judge:
        table = load_csv(csv, csv.parent / "images").table
        scores: dict[str, list[float]] = {name: [] for name in metrics}
        for reference, path in zip(table["reference"], table["distorted"], strict=True):
            y, x = read_image(reference), read_image(path)
            height, width = (min(a, b) for a, b in zip(x.shape[-2:], y.shape[-2:], strict=True))
            for name, metric in metrics.items():
                scores[name].append(metric(x[..., :height, :width], y[..., :height, :width]).item())
        opinion = table["score"].to_numpy(float)
        of = list(table.reset_index().groupby("reference")["index"])
        rng = np.random.default_rng(0)
        rows = [np.concatenate([of[i][1].to_numpy() for i in rng.integers(0, len(of), len(of))]) for _ in range(1000)]

        def srcc(name: str, at: object, kept: dict[str, list[float]] = scores, truth: object = opinion) -> float:
            return abs(float(spearmanr(np.array(kept[name])[at], np.asarray(truth)[at]).statistic))

        low, high = np.quantile([srcc("spips", each) - srcc("msds-hybrid", each) for each in rows], [0.025, 0.975])
        figures = ", ".join(f"{name} {srcc(name, slice(None)):.3f}" for name in metrics)
        print(f"{csv}: {figures}, difference {low:+.3f} to {high:+.3f}", flush=True)


if __name__ == "__main__":
    typer.run(main)
