"""Train a tiny deblurring network on misaligned pairs, under plain L1 and under three deep losses, and look at the outcome.

    python docs/examples/training_loss.py training.png

As in many real training sets, the sharp photograph is not where the blurred one is: it is a few pixels off. The network sees
two photographs of scikit-image and is judged on a third, where reference and result are aligned. Prints a table, saves a
picture. It took 80 seconds on two cores; LPIPS takes AlexNet's weights and its own (240 MB) from torch.hub's cache, or
downloads them once.
"""

from __future__ import annotations

import sys
import time
from itertools import pairwise
from pathlib import Path

import pandas as pd
import piq
import pyiqa
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from skimage import data
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

import msds_plugin  # noqa: F401 (it gives pyiqa and piq the metrics)

STEPS, BATCH, CROP, SHIFT = 120, 2, 128, 3
CPU = torch.device("cpu")


def losses() -> dict[str, nn.Module]:
    """The losses by name, lower is better, each made through the API named in its comment."""
    return {
        "L1": nn.L1Loss(),  # plain torch
        "msds-lite": pyiqa.create_metric("msds-lite", as_loss=True, backbone="efficientnet_lite0", device=CPU),  # pyiqa
        "deepssim-lite": piq.DeepSSIMLiteLoss(backbone="efficientnet_lite0"),  # piq
        "ms-lpips": pyiqa.create_metric("ms-lpips", as_loss=True, device=CPU),  # pyiqa
    }


def photograph(name: str) -> Tensor:
    """A photograph of scikit-image, (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(getattr(data, name)()).permute(2, 0, 1)[None] / 255


def blur(image: Tensor) -> Tensor:
    """What the network is to undo."""
    return gaussian_blur(image, 9, 1.6)


class Deblur(nn.Module):
    """Four small convolutions that say what is to be added to the image; nothing, before training."""

    def __init__(self, channels: int = 24) -> None:
        super().__init__()
        sizes = [3, channels, channels, channels, 3]
        convolutions = [nn.Conv2d(a, b, 3, padding=1, padding_mode="reflect") for a, b in pairwise(sizes)]
        nn.init.zeros_(convolutions[-1].weight)
        nn.init.zeros_(convolutions[-1].bias)
        self.layers = nn.Sequential(*(part for layer in convolutions[:-1] for part in (layer, nn.ReLU())), convolutions[-1])

    def forward(self, image: Tensor) -> Tensor:
        """Sharpened images, in [0, 1]."""
        return (image + self.layers(image)).clamp(0, 1)


def batch(photographs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Blurred crops and sharp ones, which lie up to SHIFT pixels beside them."""
    blurred, sharp = [], []
    for _ in range(BATCH):
        image = photographs[int(torch.randint(len(photographs), ()))]
        top, left = (int(torch.randint(SHIFT, side - CROP - SHIFT, ())) for side in image.shape[-2:])
        down, right = (int(torch.randint(-SHIFT, SHIFT + 1, ())) for _ in range(2))
        blurred.append(blur(image)[..., top : top + CROP, left : left + CROP])
        sharp.append(image[..., top + down : top + down + CROP, left + right : left + right + CROP])
    return torch.cat(blurred), torch.cat(sharp)


def train(loss: nn.Module, photographs: list[Tensor]) -> tuple[Deblur, list[float]]:
    """A network trained under ``loss``, and the loss at each step."""
    torch.manual_seed(0)
    network = Deblur()
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
    history = []
    for _ in range(STEPS):
        blurred, sharp = batch(photographs)
        value = loss(network(blurred), sharp)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        history.append(value.item())
    return network, history


def draw(images: dict[str, Tensor], path: Path) -> None:
    """One picture: a part of every image, side by side."""
    figure = Figure(figsize=(3 * len(images), 3.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, image) in zip(figure.subplots(1, len(images)), images.items(), strict=True):
        axes.imshow(image[0, :, 60:220, 120:280].permute(1, 2, 0).numpy())
        axes.set_title(name, fontsize=14)
        axes.axis("off")
    figure.savefig(path)


def main(picture: Path) -> pd.DataFrame:
    """Train under every loss, and score what comes out beside the sharp photograph.

    One row per loss: its mean over the first and the last tenth of the steps, seconds, and the scores of the result.
    """
    photographs = [photograph("astronaut"), photograph("coffee")]
    sharp = photograph("chelsea")
    judges = {name: pyiqa.create_metric(name, device=CPU) for name in ("psnr", "ssim", "lpips", "deepssim-fast", "msds-fast")}
    images, rows = {"sharp": sharp, "blurred": blur(sharp)}, {}
    for name, loss in losses().items():
        start = time.perf_counter()
        network, history = train(loss, photographs)
        with torch.no_grad():
            images[name] = network(blur(sharp))
        tenth = STEPS // 10
        first, last = (sum(part) / tenth for part in (history[:tenth], history[-tenth:]))
        rows[name] = {"first_tenth": first, "last_tenth": last, "seconds": time.perf_counter() - start}
    for name, image in list(images.items())[1:]:
        rows.setdefault(name, {}).update({judge: float(score(image, sharp)) for judge, score in judges.items()})
    draw(images, picture)
    return pd.DataFrame(rows).T.loc[list(images)[1:]]


if __name__ == "__main__":
    torch.manual_seed(0)
    print(main(Path(sys.argv[1] if len(sys.argv) > 1 else "training.png")).to_string(float_format="{:.3f}".format))
