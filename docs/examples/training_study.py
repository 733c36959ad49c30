"""Train a small network on three tasks under each of several losses, and judge what comes out.

    python docs/examples/training_study.py STUDY

- ``sr``: super-resolution x 2. The sharp photograph of each pair lies up to two pixels beside the small one.
- ``light``: a dark, noisy photograph is to become as bright as it was. The pairs line up.
- ``deblur``: a blur is to be undone. The sharp photograph lies up to three pixels beside the blurred one.

The network sees three photographs of scikit-image and is judged on two others, where result and target line up. One row per
task, loss and seed is kept in STUDY/rows.csv, with a restored photograph beside it: start again after a stop, and only what
is missing is trained. Prints a table and draws STUDY/training.jpg.

A loss is ``l1``, or a metric of pyiqa by name with options after commas; where higher is better, it is one minus the score.
LPIPS takes AlexNet's weights and its own (240 MB) from torch.hub's cache, or downloads them once.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import lru_cache
from itertools import pairwise, product
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyiqa
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from skimage import data
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur
from torchvision.utils import save_image

import msds_plugin  # noqa: F401 (it gives pyiqa the metrics)

#: No smaller crops: of 128 pixels the third level is the smallest image that AlexNet takes.
BATCH, CROP, STEPS, RATE = 2, 128, 100, 4e-3
SLOPE = 0.2
LOSSES = (
    "l1",
    "ssim",
    "lpips",
    "deepssim-lite,backbone=alexnet",
    "msds-lite,backbone=alexnet",
    "deepssim-lite-fast",
    "msds-lite-fast",
    "msds-align",
    "msds-auto",
)
JUDGES = {"psnr": "PSNR ↑", "ssim": "SSIM ↑", "lpips": "LPIPS ↓", "msds-fast": "MSDS-Fast ↑"}
#: The network's input, in the place of a loss.
INPUT = "input"


class Task(NamedTuple):
    """What makes the network's image from a sharp one, and by how many pixels the two of a pair may lie apart."""

    spoil: Callable[[Tensor], Tensor]
    shift: int


class Run(NamedTuple):
    """One training."""

    task: str
    loss: str
    seed: int
    steps: int

    @property
    def file(self) -> str:
        """Name of its restored photograph."""
        return ".".join(map(str, self)) + ".png"


def halved(image: Tensor) -> Tensor:
    """Half the size, as a soft lens gives it, and back to the full one."""
    small = F.avg_pool2d(gaussian_blur(image, 5, 0.8), 2)
    return F.interpolate(small, image.shape[-2:], mode="bicubic").clamp(0, 1)


def darkened(image: Tensor) -> Tensor:
    """A short exposure, with its noise."""
    dark = 0.4 * image**1.5
    return (dark + 0.01 * torch.randn_like(dark)).clamp(0, 1)


def blurred(image: Tensor) -> Tensor:
    """Out of focus."""
    return gaussian_blur(image, 9, 1.6)


TASKS = {"sr": Task(halved, 2), "light": Task(darkened, 0), "deblur": Task(blurred, 3)}


@lru_cache
def photographs() -> tuple[list[Tensor], list[Tensor]]:
    """Those to learn from and those to judge by, (1, 3, H, W) in [0, 1]; parts of even sides of the latter."""
    seen = [data.astronaut(), data.coffee(), data.rocket()]
    unseen = [data.chelsea()[:288, 60:348], data.stereo_motorcycle()[0][100:388, 200:488]]
    return tuple([torch.from_numpy(image).permute(2, 0, 1)[None] / 255 for image in some] for some in (seen, unseen))


class Network(nn.Module):
    """Four small convolutions that say what is to be added to the image; nothing, before training."""

    def __init__(self, channels: int = 24) -> None:
        super().__init__()
        sizes = [3, channels, channels, channels, 3]
        convolutions = [nn.Conv2d(a, b, 3, padding=1, padding_mode="reflect") for a, b in pairwise(sizes)]
        for layer in convolutions[:-1]:
            nn.init.kaiming_normal_(layer.weight, SLOPE)
        nn.init.zeros_(convolutions[-1].weight)
        nn.init.zeros_(convolutions[-1].bias)
        # Not ReLU: under the noisy gradients of pairs that do not line up, all its units may end at zero for good.
        hidden = [part for layer in convolutions[:-1] for part in (layer, nn.LeakyReLU(SLOPE))]
        self.layers = nn.Sequential(*hidden, convolutions[-1])

    def forward(self, image: Tensor) -> Tensor:
        """Restored images, which may leave [0, 1] a little."""
        return image + self.layers(image)


@lru_cache
def metric(spec: str, as_loss: bool) -> nn.Module:
    """A metric of pyiqa, by its name and options after commas."""
    name, *options = spec.split(",")
    return pyiqa.create_metric(name, as_loss=as_loss, device="cpu", **dict(option.split("=") for option in options))


def loss_of(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """A loss by its name, lower is better."""
    if name == "l1":
        return F.l1_loss
    score = metric(name, as_loss=True)
    return score if score.lower_better else lambda x, y: 1 - score(x, y)


def batch(task: Task) -> tuple[Tensor, Tensor]:
    """Crops for the network and the sharp ones, which lie up to ``shift`` pixels beside them."""
    seen, given, sharp = photographs()[0], [], []
    for _ in range(BATCH):
        image = seen[int(torch.randint(len(seen), ()))]
        top, left = (int(torch.randint(task.shift, side - CROP - task.shift, ())) for side in image.shape[-2:])
        down, right = (int(torch.randint(-task.shift, task.shift + 1, ())) for _ in range(2))
        given.append(task.spoil(image[..., top : top + CROP, left : left + CROP]))
        sharp.append(image[..., top + down : top + down + CROP, left + right : left + right + CROP])
    return torch.cat(given), torch.cat(sharp)


def train(run: Run) -> Network:
    """The network after training."""
    torch.manual_seed(run.seed)
    network, loss = Network(), loss_of(run.loss)
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, run.steps)
    for _ in range(run.steps):
        given, sharp = batch(TASKS[run.task])
        optimiser.zero_grad()
        loss(network(given), sharp).mean().backward()
        optimiser.step()
        schedule.step()
    return network


def carry_out(run: Run, folder: Path) -> dict[str, object]:
    """Train, restore the photographs that were not seen, keep the first, and judge them: a row."""
    start = time.perf_counter()
    restore = nn.Identity() if run.loss == INPUT else train(run)
    seconds = time.perf_counter() - start
    scores = []
    torch.manual_seed(run.seed)
    with torch.no_grad():
        for index, sharp in enumerate(photographs()[1]):
            restored = restore(TASKS[run.task].spoil(sharp)).clamp(0, 1)
            scores.append([float(metric(judge, as_loss=False)(restored, sharp)) for judge in JUDGES])
            if index == 0:
                save_image(restored, folder / run.file)
    return {**run._asdict(), **pd.DataFrame(scores, columns=list(JUDGES)).mean().to_dict(), "seconds": seconds}


def missing(wanted: list[Run], rows: Path) -> list[Run]:
    """The runs that are not in the file."""
    if not rows.exists():
        return wanted
    done = {Run(*row) for row in pd.read_csv(rows)[list(Run._fields)].itertuples(index=False)}
    return [run for run in wanted if run not in done]


def study(folder: Path, wanted: list[Run], workers: int) -> pd.DataFrame:
    """Carry out what is missing, each run in one thread, and return the rows of what is wanted."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = folder / "rows.csv"
    left = missing(wanted, rows)
    with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        for index, done in enumerate(as_completed([pool.submit(carry_out, run, folder) for run in left])):
            row = pd.DataFrame([done.result()])
            row.to_csv(rows, mode="a", header=not rows.exists(), index=False)
            print(f"{index + 1} of {len(left)}: {' '.join(map(str, row.iloc[0, :3]))}", flush=True)
    table = pd.read_csv(rows).drop_duplicates(list(Run._fields))
    place = {run: index for index, run in enumerate(wanted)}
    order = pd.Series([place.get(Run(*row)) for row in table[list(Run._fields)].itertuples(index=False)], table.index)
    return table.loc[order.dropna().sort_values().index]


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds of every judge, ± half of what the seeds differ by."""
    groups = rows.groupby(["task", "loss"], sort=False)
    digits = {judge: 2 if judge == "psnr" else 3 for judge in JUDGES}

    def shown(values: pd.Series) -> str:
        number = digits[str(values.name)]
        half = (values.max() - values.min()) / 2
        return f"{values.mean():.{number}f}" + (f" ± {half:.{number}f}" if len(values) > 1 else "")

    table = groups[list(JUDGES)].agg(shown).rename(columns=JUDGES)
    table["seconds"] = groups["seconds"].mean().round(1)
    return table


def draw(rows: pd.DataFrame, folder: Path) -> Path:
    """One row of pictures per task: a part of the sharp photograph, of the input, and of what each loss led to."""
    first = rows[rows["seed"] == rows["seed"].min()]
    tasks, losses = first["task"].unique(), first["loss"].unique()
    figure = Figure(figsize=(1.75 * (len(losses) + 1), 2 * len(tasks)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    sharp = photographs()[1][0][0].permute(1, 2, 0).numpy()
    for task, line in zip(tasks, figure.subplots(len(tasks), len(losses) + 1, squeeze=False), strict=True):
        of_task = first[first["task"] == task]
        runs = [Run(*row) for row in of_task[list(Run._fields)].itertuples(index=False)]
        shown = {"sharp": sharp, **{run.loss.split(",")[0]: imread(folder / run.file) for run in runs}}
        for axes, (name, image) in zip(line, shown.items(), strict=False):
            axes.imshow(image[50:170, 60:180])
            axes.set_title(name, fontsize=9)
        for axes in line:
            axes.axis("off")
    path = folder / "training.jpg"
    figure.savefig(path, pil_kwargs={"quality": 92})
    return path


def every(tasks: list[str], losses: list[str], seeds: int, steps: int) -> Iterator[Run]:
    """All runs, and the inputs; each seed after the other, so that what is there first is complete."""
    for seed, task, loss in product(range(seeds), tasks, (INPUT, *losses)):
        yield Run(task, loss, seed, steps)


def main() -> None:
    """Read the command line, carry out the study, print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--losses", nargs="+", default=list(LOSSES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    given = parser.parse_args()
    start = time.perf_counter()
    rows = study(given.folder, list(every(given.tasks, given.losses, given.seeds, given.steps)), given.workers)
    print(summary(rows).reset_index().to_markdown(index=False, disable_numparse=True))
    print(f"{draw(rows, given.folder)} is drawn; {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
