"""Optimises an image from noise under each loss (docs/research/training.md): what is left of the loss after so many steps.

    TORCH_HOME=../shared/torch_home python tests/benchmarks/from_noise.py

A corner of 128 x 128 pixels of a photograph of scikit-image is the target; Adam with a rate of 0.02, values clamped to [0, 1].
"""

import pandas as pd
import torch
from skimage import data

from msds_plugin import registry

SHOWN = (0, 25, 50, 100, 150)
ON_ALEXNET = ("deepssim", "msds", "deepssim-lite", "msds-lite")
OTHERS = ("deepssim-fast", "msds-fast", "msds-align", "deepssim-lite-fast", "msds-lite-fast")


def descend(name: str) -> dict[int, float]:
    """The loss at the steps that are shown."""
    metric = registry.create(name, **({"backbone": "alexnet"} if name in ON_ALEXNET else {}))
    target = torch.from_numpy(data.chelsea()[60:188, 120:248]).permute(2, 0, 1)[None] / 255
    torch.manual_seed(0)
    image = torch.rand_like(target).requires_grad_()
    optimiser = torch.optim.Adam([image], lr=0.02)
    found = {}
    for step in range(SHOWN[-1] + 1):
        score = metric(image, target).sum()
        loss = score if metric.lower_is_better else 1 - score
        if step in SHOWN:
            found[step] = loss.item()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        image.data.clamp_(0, 1)
    return found


if __name__ == "__main__":
    print(pd.DataFrame({name: descend(name) for name in ON_ALEXNET + OTHERS}).T.round(3).to_markdown())
