"""Times of what is neither a metric nor a loss; to be measured on a quiet machine.

python tests/benchmarks/times.py import                          what msds_plugin costs on top of what is imported anyway
python tests/benchmarks/times.py reading ../shared/data/kodak    reading files, beside plain Pillow
python tests/benchmarks/times.py saliency                        saliency maps of one image of 384 x 512
python tests/benchmarks/times.py recurring                       msds-fast by OpenVINO compiled for all sizes and for one
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import process_time
from timeit import repeat

#: What is imported first, and which toolkits must look as if they were not installed.
IMPORTS = {
    "torch, torchvision; no toolkit installed": ("torch, torchvision", ("pyiqa", "piq")),
    "torch, torchvision, piq; pyiqa not installed": ("torch, torchvision, piq", ("pyiqa",)),
    "torch, torchvision, pyiqa, piq": ("torch, torchvision, pyiqa, piq", ()),
}
CODE = """
import sys, time
sys.modules.update(dict.fromkeys({absent!r}))
start = time.perf_counter()
import {first}
middle = time.perf_counter()
import msds_plugin
print(middle - start, time.perf_counter() - middle)
"""
FORMATS: dict[str, tuple[str, str, dict[str, object]]] = {
    "PNG": (".png", "RGB", {}),
    "PNG, alpha": (".png", "RGBA", {}),
    "JPEG": (".jpg", "RGB", {"quality": 90}),
    "JPEG, grey": (".jpg", "L", {"quality": 90}),
    "WebP": (".webp", "RGB", {"quality": 90}),
    "BMP": (".bmp", "RGB", {}),
    "TIFF": (".tif", "RGB", {}),
    "TIFF, deflate": (".tif", "RGB", {"compression": "tiff_adobe_deflate"}),
    "TIFF, LZW": (".tif", "RGB", {"compression": "tiff_lzw"}),
    "TIFF, JPEG": (".tif", "RGB", {"compression": "jpeg"}),
}


def imports(repeats: int = 7) -> None:
    """Medians in seconds; every measurement is a process of its own, and the cases take turns."""
    found: dict[str, list[list[float]]] = {name: [] for name in IMPORTS}
    for _ in range(repeats):
        for name, (first, absent) in IMPORTS.items():
            code = CODE.format(first=first, absent=absent)
            done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
            found[name].append([float(seconds) for seconds in done.stdout.split()[-2:]])
    for name, times in found.items():
        before, ours = (f"{median(each):.2f} ({min(each):.2f} - {max(each):.2f})" for each in zip(*times, strict=True))
        print(f"| {name} | {before} | {ours} |")


def reading(photographs: Path, rounds: int = 8) -> None:
    """Milliseconds for one photograph, medians over all, ours and Pillow's, which take turns."""
    import numpy as np
    from PIL import Image

    from msds_plugin.adapters.images.read import decode

    def plain(path: Path) -> object:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))

    with tempfile.TemporaryDirectory() as folder:
        for name, (suffix, mode, how) in FORMATS.items():
            times: dict[object, list[float]] = {decode: [], plain: []}
            for source in sorted(photographs.glob("*.png")):
                path = Path(folder, source.stem + suffix)
                Image.open(source).convert(mode).save(path, **how)
                for _ in range(rounds):
                    for read, own in times.items():
                        own += repeat(lambda read=read, path=path: read(path), number=1, repeat=1)
            ours, theirs = (1000 * median(own) for own in times.values())
            print(f"{name}\t{ours:.2f}\t{theirs:.2f}\t{ours / theirs:.2f}", flush=True)


def saliency() -> None:
    """Medians of 30 calls in milliseconds, on one thread and on two; ``option`` is what ``saliency="gbvs"`` costs a metric."""
    import torch

    from msds_plugin import build_backbone
    from msds_plugin.saliency import Attention, feature_energy, gbvs, spectral_residual

    torch.manual_seed(0)
    image, backbone, option = torch.rand(1, 3, 384, 512), build_backbone("efficientnet_lite0"), Attention("gbvs")
    calls = {
        "gbvs": lambda: gbvs(image),
        "option": lambda: option.maps(image, backbone),
        "spectral": lambda: spectral_residual(image),
        "features": lambda: feature_energy(image, backbone),
    }
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for name, call in calls.items():
            print(f"{threads}\t{name}\t{1000 * median(repeat(call, number=1, repeat=32)[2:]):.1f}", flush=True)


def recurring(rounds: int = 25, in_a_row: int = 3) -> None:
    """Processor time of one thread for the representation of an image, in milliseconds, by the two models in turn; medians."""
    import torch

    from msds_plugin import registry, runtimes

    torch.set_num_threads(1)
    for height, width in ((64, 64), (384, 512), (1080, 1920)):
        image = torch.rand(1, 3, height, width)
        times: dict[int, list[float]] = {}
        metrics = {after: registry.create("msds-fast", runtime="openvino") for after in (sys.maxsize, 1)}
        for turn in range(rounds + 1):
            for after, metric in metrics.items():
                runtimes.RECURRING = after
                start = process_time()
                for _ in range(in_a_row):
                    metric.represent(image)
                if turn:  # the first compiles
                    times.setdefault(after, []).append(1000 * (process_time() - start) / in_a_row)
        general, own = times.values()
        ratios = [one / other for one, other in zip(own, general, strict=True)]
        print(f"| {height} x {width} | {median(general):.1f} | {median(own):.1f} | {median(ratios):.2f} |", flush=True)


if __name__ == "__main__":
    {"import": imports, "reading": reading, "saliency": saliency, "recurring": recurring}[sys.argv[1]](*map(Path, sys.argv[2:]))
