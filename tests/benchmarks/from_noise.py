"""Optimises an image from noise under each loss (docs/research/training.md): what is left of the loss after so many steps.

    python tests/benchmarks/from_noise.py [STEPS]

A corner of 128 x 128 pixels of a photograph of scikit-image is the target; Adam with a rate of 0.02, values clamped to [0, 1].
Some losses need AlexNet's weights in torch.hub's cache.
"""

from __future__ import annotations

import sys

import pandas as pd
import torch
from skimage import data
from torch import Tensor

from msds_plugin import registry

SHOWN = (0, 25, 50, 100, 150)
ALEXNET = {"backbone": "alexnet"}
LOSSES = {
    "1 - deepssim, AlexNet": ("deepssim", ALEXNET),
    "1 - msds, AlexNet": ("msds", ALEXNET),
    "deepssim-lite, AlexNet": ("deepssim-lite", ALEXNET),
    "msds-lite, AlexNet": ("msds-lite", ALEXNET),
    "1 - deepssim-fast": ("deepssim-fast", {}),
    "1 - msds-fast": ("msds-fast", {}),
    "1 - msds-align": ("msds-align", {}),
    "deepssim-lite-fast": ("deepssim-lite-fast", {}),
    "msds-lite-fast": ("msds-lite-fast", {}),
}


def descend(loss: torch.nn.Module, lower: bool, target: Tensor, steps: int) -> dict[int, float]:
    """The loss at the steps that are shown."""
    torch.manual_seed(0)
    image = torch.rand_like(target).requires_grad_()
    optimiser = torch.optim.Adam([image], lr=0.02)
    found = {}
    for step in range(steps + 1):
        score = loss(image, target).sum()
        value = score if lower else 1 - score
        if step in SHOWN:
            found[step] = value.item()
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        image.data.clamp_(0, 1)
    return found


def main(steps: int) -> None:
    """One row per loss."""
    target = torch.from_numpy(data.chelsea()[60:188, 120:248]).permute(2, 0, 1)[None] / 255
    rows = {}
    for shown, (name, options) in LOSSES.items():
        rows[shown] = descend(registry.create(name, **options), registry.get(name).lower_is_better, target, steps)
        print(shown, rows[shown], flush=True)
    print(pd.DataFrame(rows).T.round(3).to_markdown())


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else SHOWN[-1])
