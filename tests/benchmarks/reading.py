"""Time of reading image files, beside plain Pillow (``np.asarray(Image.open(path).convert("RGB"))``).

    python tests/benchmarks/reading.py ../shared/data/kodak --rounds 20

Each photograph is written in every format; the two readers take turns. Prints milliseconds per image, medians over all
rounds, and their ratio. To be measured on a quiet machine.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
from PIL import Image

from msds_plugin.adapters.images.read import decode

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


def _plain(path: Path) -> object:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _seconds(read: Callable[[Path], object], path: Path) -> float:
    start = perf_counter()
    read(path)
    return perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    print("format\tmsds ms\tPillow ms\tratio")
    with tempfile.TemporaryDirectory() as folder:
        for name, (suffix, mode, how) in FORMATS.items():
            paths = []
            for source in sorted(options.photographs.glob("*.png")):
                paths.append(Path(folder, source.stem + suffix))
                with Image.open(source) as image:
                    image.convert(mode).save(paths[-1], **how)
            ours, plain = [], []
            for _ in range(options.rounds):
                for path in paths:
                    ours.append(_seconds(decode, path))
                    plain.append(_seconds(_plain, path))
            a, b = 1000 * median(ours), 1000 * median(plain)
            print(f"{name}\t{a:.2f}\t{b:.2f}\t{a / b:.2f}", flush=True)


if __name__ == "__main__":
    main()
