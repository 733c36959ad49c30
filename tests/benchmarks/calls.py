"""How many of this package's Python functions one forward pass, one metric and one pair by ``msds score`` call.

    python tests/benchmarks/calls.py
    PYTHONPATH=OLDER python tests/benchmarks/calls.py     # of another version of the package

Everything is warm: what is counted has run before. Calls of other packages are not counted, those of comprehensions are.
"""

import contextlib
import importlib.util
import io
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from PIL import Image

import msds_plugin
from msds_plugin import registry
from msds_plugin.adapters.cli.app import app


def folders_of(package: str) -> tuple[str, ...]:
    """Where the sources of a package are; ours may be mapped from three folders."""
    names = [package, *(f"{package}.{part}" for part in ("registry", "adapters") if package == "msds_plugin")]
    return tuple(str(Path(str(importlib.util.find_spec(name).origin)).parent) for name in names)  # type: ignore[union-attr]


def count(call: Callable[[], object], package: str) -> str:
    """Calls of the package's functions, how many functions and files these are, and moves from one of the files to another."""
    folders = folders_of(package)
    functions: Counter[tuple[str, str]] = Counter()
    files: list[str] = []

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(folders):
            functions[frame.f_code.co_filename, frame.f_code.co_name] += 1
            files.append(frame.f_code.co_filename)

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    moves = sum(a != b for a, b in pairwise(files))
    return f"{sum(functions.values())} | {len(functions)} | {len(set(files))} | {moves}"


def row(name: str, call: Callable[[], object], package: str = "msds_plugin") -> None:
    call()
    call()
    print(f"| {name} | {count(call, package)} |", flush=True)


def score(files: list[str]) -> None:
    """``msds score`` in this process, its threads included, without what it prints."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit):
        app(["score", "-r", files[0], "-d", files[1], "-m", "msds-fast"])


def main() -> None:
    print(f"{msds_plugin.__file__}\n\n| one trip | calls | functions | files | moves |\n|---|---|---|---|---|")
    x, y = torch.rand(2, 1, 3, 256, 256)
    with torch.no_grad():
        for options in ({}, {"runtime": "openvino"}):
            with contextlib.suppress(TypeError):  # older versions have no runtimes
                metric = registry.create("msds-fast", weights=None, **options)
                row(f"msds-fast(x, y) {options.get('runtime', '')}", partial(metric, x, y))
    row('registry.create("msds-fast")', lambda: registry.create("msds-fast", weights=None))
    with contextlib.suppress(ImportError):
        import pyiqa

        row('pyiqa.create_metric("msds-fast")', lambda: pyiqa.create_metric("msds-fast"))
        theirs = pyiqa.create_metric("lpips", pretrained=False, pnet_rand=True)
        row("pyiqa's lpips(x, y)", lambda: theirs(x, y), "pyiqa")
        row('pyiqa.create_metric("lpips")', lambda: pyiqa.create_metric("lpips", pretrained=False, pnet_rand=True), "pyiqa")
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for name in ("a", "b"):
            paths.append(f"{folder}/{name}.png")
            Image.fromarray(np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)).save(paths[-1])
        row("one pair by msds score", lambda: score(paths))


if __name__ == "__main__":
    main()
