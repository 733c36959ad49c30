"""``msds calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from msds_plugin.adapters.cli.shared.options import run_options
from msds_plugin.adapters.cli.shared.terminal import clean_stdout, setup

if TYPE_CHECKING:
    from msds_plugin.adapters.scoring.options import Run


@run_options("mod_crop", "resize")
def calibrate(
    golden: Annotated[Path, typer.Argument(metavar="GOLDEN", help="Image that is right, or a folder of such.")],
    renders: Annotated[
        list[Path], typer.Argument(metavar="RENDERS...", help="The same rendered again: images, or folders of them.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON file for msds assert --calibrated.")],
    metric: Annotated[str, typer.Option("--metric", "-m", help="local, or a metric by name.")] = "local",
    *,
    run: Run,
) -> None:
    """Learn from repeated renders how much images differ that are right.

    The threshold is the largest difference from GOLDEN that was seen; with folders, of any image. It says how often a render
    like these will fail, and nothing about how small a fault is caught.

    Exit codes: 0 written, 2 could not start or could not write.
    """
    from msds_plugin.adapters import gate
    from msds_plugin.adapters.scoring.files import check_file

    with setup(), clean_stdout():
        check_file(output)
        found = gate.calibrate(golden, renders, metric, run)
        found.save(output)
    print(
        f"{found.max_difference:.4g} ({metric}), the largest of {found.renders} renders: one more like them fails with a "
        f"probability of {found.chance:.1%} at most; with 95 % confidence the rate is below {found.bound:.1%}"
    )
