"""Draws docs/saliency.png: the three kinds of saliency maps of the Kodak photographs, with the border of map > 0.25.

python tests/benchmarks/saliency_picture.py ../shared/data/kodak docs/saliency.png
"""

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image

from msds_plugin import build_backbone
from msds_plugin.adapters.images.read import read_image
from msds_plugin.saliency import METHODS, Attention


def main(folder: Path, output: Path) -> None:
    images = [image for image in map(read_image, sorted(folder.glob("*.png"))) if image.shape[3] > image.shape[2]]
    net = build_backbone("efficientnet_lite0")
    figure = Figure(figsize=(2 * len(images), 5.5))
    axes = figure.subplots(1 + len(METHODS), len(images), subplot_kw={"xticks": [], "yticks": []})
    for column, image in enumerate(torch.nn.functional.avg_pool2d(image, 2) for image in images):
        axes[0, column].imshow(image[0].permute(1, 2, 0))
        for row, method in enumerate(METHODS, 1):
            saliency = Attention(method).maps(image, net)[0, 0]  # type: ignore[index]
            axes[row, column].imshow(image[0].mean(0) * 0.35, cmap="gray", vmin=0, vmax=1)
            axes[row, column].imshow(saliency, cmap="inferno", alpha=0.75, vmin=0, vmax=1)
            axes[row, column].contour(saliency, [0.25], colors="w", linewidths=0.8)
    for row, name in enumerate(("image", *METHODS)):
        axes[row, 0].set_ylabel(name)
    figure.tight_layout(pad=0.3)
    figure.savefig(output, dpi=60)
    Image.open(output).convert("RGB").quantize(256).save(output, optimize=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
