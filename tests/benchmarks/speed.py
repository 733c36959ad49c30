"""Time per call beside the toolkits' metrics, all in one run, in turn, with the machine's own limit.

    python tests/benchmarks/speed.py                       # 256 x 256 to 1920 x 1080, one pair and batches of 8
    python tests/benchmarks/speed.py --size 384x512 --batch 1 --repeats 9
    python tests/benchmarks/speed.py --size 384x512 --batch 1 --in-a-row 9    # as when many pairs are scored

Weights are random, which costs the same time; no metric computes gradients. Each round calls every metric once, or some times
in a row, of which the median counts: a single call finds none of its weights in the cache. Ratios are taken within the round,
and their medians over the rounds are printed, with the smallest and largest. On a GPU the clock is that of CUDA events. The
last column is the share of the machine's matrix-product rate that a metric reaches (counted FLOP over time, over the rate of a
large float32 product in the same run). A metric that does not fit into the memory of the machine is named and left out.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import Annotated

import pandas as pd
import torch
import typer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from msds_plugin import DeepSSIM, MultiScale, Representation
from msds_plugin.functional import block_dissimilarity, gram_matrix
from msds_plugin.hybrid import MDSI, HaarPSI, msds_hybrid

Call = Callable[[Tensor, Tensor], object]

#: Of the matrices whose product tells what the machine can do.
SIDE = 2048

#: What ratios are to: the first of these that fits into memory.
BASES = ("pyiqa dists", "DeepSSIM, plain")

#: Pixels of a batch from which a CPU is warmed up with the first pair only: a call takes minutes.
LONG = 2**22

#: Further ratios, each time with the metric that the second is to be seen beside.
WITHIN = (
    ("msds", "deepssim"),
    ("deepssim, further image", "deepssim"),
    ("msds-fast", "deepssim-fast"),
    ("msds-hybrid", "msds-fast"),
    ("HaarPSI", "msds-fast"),
    ("MDSI", "msds-fast"),
    ("pyiqa lpips", "msds-fast"),
    ("msds-hybrid", "pyiqa dists"),
    ("deepssim, compiled", "deepssim"),
    ("deepssim-fast, compiled", "deepssim-fast"),
    ("msds-fast, compiled", "msds-fast"),
)


def without_downloads() -> None:
    """Let the toolkits build their metrics on a VGG16 and an AlexNet with random weights."""
    import piq.perceptual

    make, make_alexnet = models.vgg16, models.alexnet
    models.vgg16 = lambda *_, **__: make(weights=None)
    models.alexnet = lambda *_, **__: make_alexnet(weights=None)
    piq.perceptual.vgg16 = models.vgg16
    heads = {"alpha": torch.rand(1, 1475, 1, 1), "beta": torch.rand(1, 1475, 1, 1)}
    torch.hub.load_state_dict_from_url = lambda *_, **__: heads


def plain_deepssim(device: torch.device) -> Call:
    """DeepSSIM as one would write it: the whole of VGG16's features, one image after the other."""
    features = models.vgg16(weights=None).features.eval().to(device)
    mean = torch.tensor([0.485, 0.456, 0.406], device=device).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], device=device).view(1, 3, 1, 1)

    def gram(image: Tensor) -> Tensor:
        x = (image - mean) / std
        for index, layer in enumerate(features):
            x = layer(x)
            if index == 25:
                relu5_1 = x.clone()
        return gram_matrix(relu5_1)

    return lambda x, y: 1 - block_dissimilarity(gram(x), gram(y))


def under_autocast(call: Call, device: torch.device) -> Call:
    """The same under bfloat16 autocast."""

    def autocast(x: Tensor, y: Tensor) -> object:
        with torch.autocast(device.type, torch.bfloat16):
            return call(x, y)

    return autocast


def metrics(device: torch.device, with_half: bool, with_compiled: bool) -> dict[str, Call]:
    """What is compared, by name."""
    import piq
    import pyiqa

    deepssim = DeepSSIM(weights=None).to(device)
    fast = DeepSSIM("efficientnet_lite0", weights=None).to(device)
    msds, msds_fast = MultiScale(deepssim), MultiScale(fast)
    hybrid = msds_hybrid(weights=None).to(device)
    kept: dict[tuple[int, ...], Representation] = {}

    def further(x: Tensor, y: Tensor) -> object:
        if tuple(y.shape) not in kept:
            kept[tuple(y.shape)] = deepssim.represent(y)
        return deepssim.compare(deepssim.represent(x), kept[tuple(y.shape)])

    piq_dists: nn.Module = piq.DISTS()
    calls = {
        "pyiqa dists": pyiqa.create_metric("dists", pretrained=False, device=device).net,
        "pyiqa lpips": pyiqa.create_metric("lpips", pretrained=False, pnet_rand=True, device=device).net,
        "pyiqa lpips-vgg": pyiqa.create_metric("lpips-vgg", pretrained=False, pnet_rand=True, device=device).net,
        "piq DISTS": piq_dists,
        "DeepSSIM, plain": plain_deepssim(device),
        "deepssim": deepssim,
        "deepssim, further image": further,
        "msds": msds,
        "deepssim-fast": fast,
        "msds-fast": msds_fast,
        "msds-hybrid": hybrid,
        "HaarPSI": HaarPSI(),
        "MDSI": MDSI(),
        "piq haarpsi": piq.HaarPSILoss(),
        "piq mdsi": piq.MDSILoss(),
    }
    if with_half:
        calls |= {
            f"{name}, bfloat16": under_autocast(calls[name], device)
            for name in ("deepssim", "msds", "deepssim-fast", "msds-fast")
        }
    if with_compiled:
        calls |= {f"{name}, compiled": torch.compile(calls[name]) for name in ("deepssim", "deepssim-fast", "msds-fast")}
    return calls


def seconds(call: Call, x: Tensor, y: Tensor) -> float:
    """Time of one call."""
    if x.device.type == "cpu":
        start = time.perf_counter()
        call(x, y)
        return time.perf_counter() - start
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    call(x, y)
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000


def product_seconds(matrices: Tensor, repeats: int = 3) -> float:
    """Time of a large float32 matrix product."""
    return median(seconds(torch.matmul, *matrices) for _ in range(repeats))


@contextmanager
def if_it_fits(name: str) -> Iterator[None]:
    """Where the metric needs more memory than there is, say so and go on."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and "memory" not in str(error) and "allocate" not in str(error):
            raise
        print(f"{name}: {(str(error) or 'out of memory').splitlines()[0]}", flush=True)


def warm_up(calls: dict[str, Call], x: Tensor, y: Tensor) -> dict[str, int]:
    """Call each metric once; the FLOP of those that fit into memory."""
    n = 1 if x.device.type == "cpu" and x[:, 0].numel() > LONG else len(x)
    flop = {}
    for name, call in calls.items():
        with if_it_fits(name):
            if name == "deepssim, further image":
                call(x, y)  # keeps the references, which are not to be counted
                call(x[:n], y[:n])
            with FlopCounterMode(display=False) as counter:
                call(x[:n], y[:n])
            flop[name] = counter.get_total_flops() * len(x) // n
    return flop


def one_round(calls: dict[str, Call], x: Tensor, y: Tensor, in_a_row: int) -> dict[str, float]:
    """Seconds of one call of each metric that fits into memory, the median of so many in a row."""
    times = {}
    for name, call in calls.items():
        with if_it_fits(name):
            times[name] = median(seconds(call, x, y) for _ in range(in_a_row))
    return times


def ratios(rounds: list[dict[str, float]], name: str, other: str) -> dict[str, float]:
    """Median, smallest and largest of the ratios within a round."""
    found = [times[name] / times[other] for times in rounds]
    return {f"x {other}": median(found), "smallest": min(found), "largest": max(found)}


def measure(calls: dict[str, Call], x: Tensor, y: Tensor, repeats: int, in_a_row: int) -> list[pd.DataFrame]:
    """A table with one row per metric: seconds, ratio to the first of BASES that fits, FLOP; and one for each of WITHIN."""
    flop = warm_up(calls, x, y)
    matrices = torch.rand(2, SIDE, SIDE, device=x.device)
    rounds, products = [], []
    for _ in range(repeats):
        products.append(product_seconds(matrices))
        rounds.append(one_round({name: calls[name] for name in flop}, x, y, in_a_row))
        flop = {name: flop[name] for name in rounds[-1]}
    first = next(name for name in (*BASES, *flop) if name in flop)
    rate = 2 * SIDE**3 / median(products)
    print(f"matrix product: {rate / 1e9:.0f} GFLOP/s")
    rows = []
    for name, count in flop.items():
        middle = median(times[name] for times in rounds)
        limit = {"GFLOP": count / 1e9, "of matrix rate": count / middle / rate}
        rows.append({"metric": name, "seconds": middle, **ratios(rounds, name, first), **limit})
    within = [{"metric": name, **ratios(rounds, name, other)} for name, other in WITHIN if {name, other} <= flop.keys()]
    return [pd.DataFrame(each).set_index("metric") for each in (rows, *([row] for row in within))]


def statistics_share(metric: DeepSSIM, x: Tensor, y: Tensor, repeats: int) -> float:
    """The share of a metric's time that Gram matrices and their comparison take."""
    features = metric.backbone(torch.cat([x, y]))

    def statistics(_: Tensor, __: Tensor) -> object:
        both = [gram_matrix(feature) for feature in features]
        return torch.stack([block_dissimilarity(grams[: len(x)], grams[len(x) :]) for grams in both])

    calls: dict[str, Call] = {"statistics": statistics, "whole": metric}
    warm_up(calls, x, y)
    rounds = [{name: seconds(call, x, y) for name, call in calls.items()} for _ in range(repeats)]
    return ratios(rounds, "statistics", "whole")["x whole"]


@torch.inference_mode()
def main(
    size: Annotated[list[str] | None, typer.Option(help="height x width")] = None,
    batch: Annotated[list[int] | None, typer.Option()] = None,
    repeats: int = 5,
    in_a_row: Annotated[int, typer.Option(min=1, help="calls of a metric one after the other, of which the median counts")] = 1,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    only: Annotated[list[str] | None, typer.Option(help="metrics to time besides dists")] = None,
    half: Annotated[bool, typer.Option(help="bfloat16 too, for hardware that has it")] = torch.cuda.is_available(),
    compiled: Annotated[bool, typer.Option("--compiled", help="torch.compile too")] = False,
) -> None:
    """Print one table per size and batch."""
    torch.manual_seed(0)
    without_downloads()
    place = torch.device(device)
    memory = Path("/proc/meminfo")
    if place.type == "cpu" and memory.exists():
        # A request beyond this fails as an exception; without it the system kills the process.
        available = int(memory.read_text().split("MemAvailable:")[1].split()[0]) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (available, available))
    calls = metrics(place, half, compiled)
    if only:
        calls = {name: call for name, call in calls.items() if name in ("pyiqa dists", *only)}
    print(f"torch {torch.__version__}, {place.type}, {torch.get_num_threads()} threads, {repeats} rounds")
    for n in batch or (1, 8):
        for text in size or ("256x256", "384x512", "768x1024", "1080x1920"):
            height, width = map(int, text.split("x"))
            x, y = torch.rand(2, n, 3, height, width, device=place)
            print(f"\n{n} pair{'s' * (n > 1)} of {height} x {width}")
            with torch.inference_mode(), torch.cuda.device(place) if place.type == "cuda" else nullcontext():
                tables = measure(calls, x, y, repeats, in_a_row)
                for table in tables:
                    print(table.to_markdown(floatfmt=".3f"), "\n", flush=True)
                shares = [
                    f"{name} {statistics_share(calls[name], x, y, repeats):.2%}"
                    for name in ("deepssim", "deepssim-fast")
                    if name in tables[0].index
                ]
            print("Gram matrices and their comparison:", ", ".join(shares), flush=True)


if __name__ == "__main__":
    typer.run(main)
