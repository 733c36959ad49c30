"""What a hybrid will be worth on four distortion types, predicted from what single metrics are worth there.

    python tests/benchmarks/hybrid_predicted.py ../shared/data/live_gblur/labels.csv --root ../shared/data/live_gblur/images

The opinions on LIVE's noise, JPEG and fast fading are not at hand, but the SRCC of eight metrics with all 247 of them is known
(MEASURED). The references of the table are blurred, made noisy, coded as JPEG, and coded as JPEG 2000 with bit errors, at
four strengths each. After each score has been turned into normal ranks, the correlations of the metrics with each other, R, and
with the opinions, r, give the best linear estimate of the opinions, R^-1 r (with a small ridge), and with it the correlation of
any other score. Checked on hybrids whose SRCC is known too. Prints both, and the SRCC with the estimate within each type.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import piq
import torch
import typer
from PIL import Image
from rich.progress import track
from scipy import ndimage, stats

from msds_plugin import BACKBONES, MSDS
from msds_plugin.adapters.benchmark.datasets import load_csv
from msds_plugin.hybrid import MDSI, HaarPSI

EPS, RIDGE, STRENGTHS = 1e-3, 0.02, 4
#: SRCC on LIVE Release 2, all 247 images, sign removed.
MEASURED = {
    "HaarPSI": 0.967,
    "FSIM": 0.966,
    "MDSI": 0.964,
    "msds-fast": 0.962,
    "GMSD": 0.956,
    "deepssim-fast": 0.956,
    "SSIM": 0.920,
    "PSNR": 0.854,
}
#: Hybrids of terms in standard scores, and their SRCC there, where it is known.
HYBRIDS = {
    ("deepssim-fast", "HaarPSI", "MDSI"): 0.975,
    ("deepssim-fast", "HaarPSI"): 0.974,
    ("msds-fast", "HaarPSI"): 0.973,
    ("msds-fast", "GMSD"): 0.973,
    ("msds-fast", "FSIM"): 0.971,
    ("FSIM", "HaarPSI"): 0.970,
    ("msds-fast", "HaarPSI", "MDSI"): None,
    ("stages 1 to 3", "HaarPSI", "MDSI"): None,
}
#: Weights of stages 1 to 3, HaarPSI and MDSI^4, without standard scores; the second is msds-hybrid.
WEIGHTS = ((1, 1, 1), (2, 1, 1), (3, 1, 1), (1, 2, 2))


def coded(image: Image.Image, kind: str, errors: int = 0, seed: int = 0, **options: object) -> Image.Image:
    """Written and read again, with bit errors in between."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    data = bytearray(file.getvalue())
    rng = np.random.RandomState(seed)
    for place in rng.randint(400, len(data), errors):
        data[place] ^= 1 << rng.randint(8)
    return Image.open(io.BytesIO(bytes(data))).convert("RGB")


def distorted(image: Image.Image, u: float, seed: int) -> Iterator[tuple[str, Image.Image]]:
    """Four kinds of a strength from 0 to 1."""
    pixels = np.asarray(image, float)
    sigma = 0.5 * 28**u
    noise = np.random.RandomState(seed).randn(*pixels.shape) * 0.015 * (1.6 / 0.015) ** u
    for kind, changed in (
        ("blur", ndimage.gaussian_filter(pixels, (sigma, sigma, 0))),
        ("noise", pixels + 255 * noise),
    ):
        yield kind, Image.fromarray((changed + 0.5).clip(0, 255).astype(np.uint8))
    yield "JPEG", coded(image, "JPEG", quality=round(85 * (4 / 85) ** u))
    rate = {"quality_mode": "rates", "quality_layers": [9.6], "irreversible": True}
    try:
        yield "fading", coded(image, "JPEG2000", max(1, int(60**u)), seed, **rate)
    except OSError:  # an error in a place that no decoder can do without
        return


def to_tensor(image: Image.Image) -> torch.Tensor:
    """(1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1)[None]


@torch.inference_mode()
def found(table: pd.DataFrame) -> pd.DataFrame:
    """Logarithms of what each metric finds, and the type."""
    deep = MSDS(backbone="efficientnet_lite0", layers=list(BACKBONES["efficientnet_lite0"].layers))
    rng, rows = np.random.RandomState(1), []
    for number, path in enumerate(track(sorted(table["reference"].unique()))):
        image = Image.open(path).convert("RGB")
        y = to_tensor(image)
        for step in range(STRENGTHS):
            for kind, changed in distorted(image, (step + rng.rand()) / STRENGTHS, 10 * number + step):
                x = to_tensor(changed)
                cells = 1 - deep.layer_scores(x, y)[0]
                mdsi = MDSI()(x, y).item()
                row = {
                    "deepssim-fast": cells[0].mean().item(),
                    "msds-fast": cells.mean().item(),
                    "stages 1 to 3": cells[:, 1:4].mean().item(),
                    "HaarPSI": 1 - HaarPSI()(x, y).item(),
                    "MDSI": mdsi,
                    "MDSI⁴": mdsi**4,
                    "GMSD": piq.gmsd(x, y).item(),
                    "FSIM": 1 - piq.fsim(x, y).item(),
                    "SSIM": 1 - piq.ssim(x, y).item(),
                }
                logs = {name: np.log(max(value, 0) + EPS) for name, value in row.items()}
                rows.append({"type": kind, **logs, "PSNR": -piq.psnr(x, y).item()})
    return pd.DataFrame(rows)


def normal(values: np.ndarray) -> np.ndarray:
    """Normal ranks."""
    return np.asarray(stats.norm.ppf((stats.rankdata(values) - 0.5) / len(values)))


def main(
    csv: Path,
    root: Path | None = None,
    keep: Annotated[Path | None, typer.Option(help="CSV of what the metrics found")] = None,
) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    data = pd.read_csv(keep) if keep is not None and keep.exists() else found(load_csv(csv, root).table)
    if keep is not None:
        data.to_csv(keep, index=False)
    known = np.stack([normal(data[name].to_numpy()) for name in MEASURED], 1)
    # Pearson's correlation of normal variables whose Spearman's is known.
    r = 2 * np.sin(np.pi / 6 * np.array(list(MEASURED.values())))
    coefficients = np.linalg.solve(np.corrcoef(known.T) + RIDGE * np.eye(len(r)), r)
    estimate = known @ coefficients
    scores = {name: (data[name].to_numpy(), srcc) for name, srcc in MEASURED.items()}
    for names, srcc in HYBRIDS.items():
        scores[" + ".join(names)] = (sum(stats.zscore(data[name].to_numpy()) for name in names), srcc)
    for weights in WEIGHTS:
        parts = zip(weights, ("stages 1 to 3", "HaarPSI", "MDSI⁴"), strict=True)
        name = "{} stages 1 to 3 + {} HaarPSI + {} MDSI⁴".format(*weights)
        scores[name] = (sum(weight * data[part].to_numpy() for weight, part in parts), None)
    rows = []
    for name, (values, srcc) in scores.items():
        ranks = normal(values)
        shared = np.array([np.corrcoef(ranks, column)[0, 1] for column in known.T]) @ coefficients
        row: dict[str, object] = {"score": name, "measured": srcc, "predicted": 6 / np.pi * np.arcsin(min(1, shared) / 2)}
        for kind, at in data.groupby("type").indices.items():
            row[str(kind)] = stats.spearmanr(values[at], estimate[at]).statistic
        rows.append(row)
    print(f"{len(data)} images")
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".3f"))


if __name__ == "__main__":
    typer.run(main)
