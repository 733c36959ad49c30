"""``msds train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress, TaskID

from ..datasets import load_csv
from .judgements import Judgements, from_opinions, load_twoafc
from .spips import train_spips

__all__ = ["train"]


def _data(twoafc: Path | None, csv: Path | None, root: Path | None, lower_better: bool) -> Judgements:
    if (twoafc is None) == (csv is None):
        raise ValueError("say what to learn from: either --twoafc or --csv")
    return load_twoafc(twoafc) if twoafc is not None else from_opinions(load_csv(csv, root, lower_better))  # type: ignore[arg-type]


def train(
    output: Annotated[Path, typer.Option("--output", "-o", help="File of weights to write (.safetensors).")],
    metric: Annotated[str, typer.Option("--metric", "-m", help="What to train: spips.")] = "spips",
    twoafc: Annotated[Path | None, typer.Option(help="Folder of ref, p0, p1 and judge, as in BAPPS.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Table of reference, distorted, score.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of the images of the table.")] = None,
    lower_better: Annotated[bool, typer.Option("--lower-better", help="Lower scores in the table are better.")] = False,
    backbone: Annotated[str, typer.Option(help="efficientnet_lite0, alexnet or vgg16.")] = "efficientnet_lite0",
    epochs: Annotated[int, typer.Option(min=1, help="At most.")] = 200,
    patience: Annotated[int, typer.Option(min=1, help="Epochs without progress before it stops.")] = 20,
    seed: Annotated[int, typer.Option(help="Of everything that is random.")] = 0,
    cache: Annotated[Path | None, typer.Option(help="Folder for features. [default: beside the output]")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
) -> None:
    """Train a metric on what people said. Start again after a stop, and it goes on where it was."""
    if metric != "spips":
        raise typer.BadParameter(f"spips can be trained, not {metric!r}")
    try:
        with Progress(transient=True) as bar:
            tasks: dict[str, TaskID] = {}

            def step(what: str, done: int, of: int) -> None:
                if what not in tasks:
                    tasks[what] = bar.add_task(what, total=of)
                bar.update(tasks[what], completed=done)

            data = _data(twoafc, csv, root, lower_better)
            made = train_spips(data, output, backbone, "imagenet", epochs, patience, seed, cache, device, step)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    figures = ", ".join(f"{name} {value:.3f}" for name, value in made.held_out.items())
    typer.echo(f"{made.path}: on held-out scenes {figures} ({made.facts['epochs']} epochs)")
