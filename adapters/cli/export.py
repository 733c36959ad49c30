"""``msds export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from msds_plugin.adapters.cli.shared.terminal import say, setup


def export(
    output: Annotated[Path, typer.Argument(help="File to write (.onnx).", show_default=False)],
    metric: Annotated[
        str, typer.Option("--metric", "-m", metavar="TEXT", help="msds-fast, deepssim, ..., with options after commas.")
    ] = "msds-fast",
) -> None:
    """Write a metric to an ONNX file, for programs without torch and for browsers.

    The file takes two RGB images in [0, 1], distorted and reference, float32 (1, 3, H, W) of any sizes, and returns the score.
    It is written once onnxruntime gives torch's scores to 1e-5 on several sizes. Needs pip install "msds-plugin[onnx]".
    """
    with setup():
        from msds_plugin.adapters.export import export as write

        say(f"{metric} is in {write(metric, output)}")
