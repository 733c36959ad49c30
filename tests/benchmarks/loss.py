"""Time and memory of a training step's loss: forward and backward to the image, beside the toolkits' losses.

    python tests/benchmarks/loss.py                                   # batches of 8 of 256 x 256
    python tests/benchmarks/loss.py --batch 4 --size 128 --rounds 9

Each loss runs in a process of its own, all of them take turns, and a ratio is that of two times of one round. Memory is what
the process grew by at its peak over what it held before the first step. VGG16's weights are random, which costs the same.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from statistics import median

import torch
import typer
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]

#: What ratios are to.
BASE = "pyiqa dists"


def _dists() -> Loss:
    import pyiqa
    from torchvision import models

    make = models.vgg16
    models.vgg16 = lambda *_, **__: make(weights=None)
    return pyiqa.create_metric("dists", pretrained=False, as_loss=True, device="cpu")  # type: ignore[no-any-return]


def _lpips() -> Loss:
    import pyiqa

    options = {"pretrained": False, "pnet_rand": True, "as_loss": True, "device": "cpu"}
    return pyiqa.create_metric("lpips", **options)  # type: ignore[no-any-return]


def _ssim() -> Loss:
    import piq

    return piq.SSIMLoss()  # type: ignore[no-any-return]


def _of(kind: str, backbone: str, levels: int, **options: object) -> Callable[[], Loss]:
    def make() -> Loss:
        from msds_plugin import DeepSSIM, DeepSSIMLite, MultiScale

        metric = (DeepSSIMLite if kind == "lite" else DeepSSIM)(backbone, weights=None, **options)  # type: ignore[arg-type]
        return metric if levels == 1 else MultiScale(metric, levels)

    return make


LOSSES: dict[str, Callable[[], Loss]] = {
    BASE: _dists,
    "pyiqa lpips (AlexNet)": _lpips,
    "piq SSIM": _ssim,
    "deepssim-lite": _of("lite", "vgg16", 1),
    "deepssim-lite, tile=256": _of("lite", "vgg16", 1, tile=256),
    "msds-lite": _of("lite", "vgg16", 3),
    "msds-lite, tile=256": _of("lite", "vgg16", 3, tile=256),
    "deepssim-lite-fast": _of("lite", "efficientnet_lite0", 1),
    "msds-lite-fast": _of("lite", "efficientnet_lite0", 3),
    "msds-lite-fast, tile=256": _of("lite", "efficientnet_lite0", 3, tile=256),
    "msds-fast": _of("deepssim", "efficientnet_lite0", 3),
    "msds-fast, tile=256": _of("deepssim", "efficientnet_lite0", 3, tile=256),
}


def _serve(name: str, batch: int, size: int, pipe: Connection) -> None:
    """One step for each message; answers seconds, and at the end the peak of memory in MiB."""
    torch.manual_seed(0)
    loss = LOSSES[name]()
    y = torch.rand(batch, 3, size, size)
    x = (y + 0.1 * torch.randn_like(y)).clamp(0, 1).requires_grad_()
    with torch.no_grad():
        loss(x[:1, :, :128, :128], y[:1, :, :128, :128])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while pipe.recv():
        start = time.perf_counter()
        loss(x, y).sum().backward()
        pipe.send(time.perf_counter() - start)
    pipe.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def main(batch: int = 8, size: int = 256, rounds: int = 5, only: list[str] | None = None) -> None:
    """Print a table: seconds and its ratio to BASE, median with the smallest and largest, and memory."""
    context = multiprocessing.get_context("spawn")
    names = [name for name in LOSSES if not only or name in only or name == BASE]
    pipes: dict[str, Connection] = {}
    for name in names:
        ours, theirs = context.Pipe()
        context.Process(target=_serve, args=(name, batch, size, theirs), daemon=True).start()
        pipes[name] = ours
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name in names:
            pipes[name].send(True)
            seconds = pipes[name].recv()
            if turn:  # the first round warms up
                times[name].append(seconds)
    print(f"| batch {batch}, {size} x {size} | seconds | x {BASE} | least | largest | MiB |\n|---|---|---|---|---|---|")
    for name in names:
        pipes[name].send(False)
        memory = pipes[name].recv()
        ratios = [one / other for one, other in zip(times[name], times[BASE], strict=True)]
        row = " | ".join(f"{value:.3f}" for value in (median(times[name]), median(ratios), min(ratios), max(ratios)))
        print(f"| {name} | {row} | {memory:.0f} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
