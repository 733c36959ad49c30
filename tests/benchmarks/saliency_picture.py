"""Draws docs/saliency.png: the three kinds of saliency maps of the Kodak photographs, with the border of map > 0.25.

python tests/benchmarks/saliency_picture.py ../shared/data/kodak docs/saliency.png
"""

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from PIL import Image

from msds_plugin import build_backbone
from msds_plugin.saliency import METHODS, Attention

mpl.use("Agg")
from matplotlib import pyplot as plt


def main() -> None:
    folder, output = map(Path, sys.argv[1:3])
    files = sorted(path for path in folder.glob("*.png") if Image.open(path).width > Image.open(path).height)
    net = build_backbone("efficientnet_lite0")
    figure, axes = plt.subplots(1 + len(METHODS), len(files), figsize=(2 * len(files), 5.5))
    for column, path in enumerate(files):
        pixels = np.asarray(Image.open(path).convert("RGB").resize((384, 256)), np.float32) / 255
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        axes[0, column].imshow(pixels)
        for row, method in enumerate(METHODS, 1):
            saliency = Attention(method).maps(image, net)[0, 0]  # type: ignore[index]
            axes[row, column].imshow(pixels.mean(-1) * 0.35, cmap="gray", vmin=0, vmax=1)
            axes[row, column].imshow(saliency, cmap="inferno", alpha=0.75, vmin=0, vmax=1)
            axes[row, column].contour(saliency, [0.25], colors="w", linewidths=0.8)
    for row, name in enumerate(("image", *METHODS)):
        axes[row, 0].set_ylabel(name)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    figure.tight_layout(pad=0.3)
    figure.savefig(output, dpi=60)
    Image.open(output).convert("RGB").quantize(256).save(output, optimize=True)


if __name__ == "__main__":
    main()
