"""How much of a map lies inside a known damage: ours beside LPIPS' spatial map and the gradient of the score.

TORCH_HOME=../shared/torch_home python tests/benchmarks/maps.py ../shared/data/kodak [PICTURE.png]
"""

import sys
from pathlib import Path

import numpy as np
import pyiqa
import torch
from pictures import coded, tensor
from PIL import Image, ImageFilter
from torch import Tensor

from msds_plugin.adapters.images.read import read_image
from msds_plugin.adapters.scorers import create_scorer
from msds_plugin.adapters.scoring.maps import overlay

SIDE, PLACE, MARGIN = 384, slice(144, 240), 16


def picture(image: Tensor) -> Image.Image:
    return Image.fromarray((image[0].permute(1, 2, 0) * 255).round().byte().numpy())


DAMAGES = {
    "noise": lambda y: (y + 0.1 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1),
    "blur": lambda y: tensor(picture(y).filter(ImageFilter.GaussianBlur(3))),
    "jpeg": lambda y: tensor(coded(picture(y), "JPEG", quality=8)),
}


def inside(shares: Tensor) -> float:
    grown = slice(PLACE.start - MARGIN, PLACE.stop + MARGIN)
    return (shares[..., grown, grown].sum() / shares.sum()).item()


def main(folder: Path, target: Path | None) -> None:
    lpips = pyiqa.create_metric("lpips", net="alex", spatial=True, device="cpu").net
    scorers = [create_scorer(name, "cpu", "torch") for name in ("deepssim-fast", "msds-fast")]
    images = [read_image(path)[..., 64 : 64 + SIDE, 64 : 64 + SIDE] for path in sorted(folder.glob("*.png"))]
    print("damage", "metric", "dissimilarity", "inside", "inside of |map|", "inside of |gradient|", sep="\t")
    strip = []
    for name, damage in DAMAGES.items():
        found: dict[str, list[list[float]]] = {}
        for number, y in enumerate(images):
            x = y.clone()
            x[..., PLACE, PLACE] = damage(y)[..., PLACE, PLACE]
            with torch.no_grad():
                spatial = lpips(x, y)
            found.setdefault("lpips", []).append([spatial.mean().item(), inside(spatial), inside(spatial.abs()), float("nan")])
            for scorer in scorers:
                shares = scorer.metric.map(x, y)
                z = x.clone().requires_grad_()
                scorer.metric(z, y).sum().backward()
                gradient = z.grad.abs().sum(1, keepdim=True)
                row = [shares.sum().item(), inside(shares), inside(shares.abs()), inside(gradient)]
                found.setdefault(scorer.name, []).append(row)
                if number == 2 and scorer.name == "deepssim-fast":
                    strip += [picture(x), overlay(x, shares)]
        for metric, rows in found.items():
            print(name, metric, *(f"{value:.4f}" for value in np.mean(rows, 0)), sep="\t", flush=True)
    if target is not None:
        sheet = Image.new("RGB", (SIDE * 3 // 2, SIDE))
        for index, each in enumerate(strip):
            sheet.paste(each.resize((SIDE // 2, SIDE // 2)), (index // 2 * SIDE // 2, index % 2 * SIDE // 2))
        sheet.save(target, quality=80)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
