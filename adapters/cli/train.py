"""``msds train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress, TaskID

from .shared.datasets import datasets_of
from .shared.options import DatasetName, LabelTable, LowerBetter, TableRoot
from .shared.reading import reads_images
from .shared.stop import exit_code, stoppable
from .shared.terminal import clean_stdout, say, setup

if TYPE_CHECKING:
    from ..images.samples import Reading
    from ..training.judgements import Judgements


@reads_images
def train(
    output: Annotated[Path, typer.Option("--output", "-o", help="File of weights to write (.safetensors).")],
    metric: Annotated[str, typer.Option("--metric", "-m", help="What to train: spips.")] = "spips",
    twoafc: Annotated[Path | None, typer.Option(help="Folder of ref, p0, p1 and judge, as in BAPPS.")] = None,
    dataset: DatasetName = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of pyiqa's data sets; what is missing there pyiqa downloads.")
    ] = None,
    csv: LabelTable = None,
    root: TableRoot = None,
    lower_better: LowerBetter = False,
    backbone: Annotated[str, typer.Option(help="efficientnet_lite0, alexnet or vgg16.")] = "efficientnet_lite0",
    epochs: Annotated[int, typer.Option(min=1, help="At most.")] = 200,
    patience: Annotated[int, typer.Option(min=1, help="Epochs without progress before it stops.")] = 20,
    seed: Annotated[int, typer.Option(help="Of everything that is random.")] = 0,
    cache: Annotated[Path | None, typer.Option(help="Folder for features. [default: beside the output]")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    *,
    reading: Reading,
) -> None:
    """Train a metric on what people said. Start again after a stop, and it goes on where it was."""
    from ..training.spips import train_spips

    try:
        with setup(), clean_stdout():
            if metric != "spips":
                raise ValueError(f"spips can be trained, not {metric!r}")
            data = _data(twoafc, (dataset, data_root), (csv, root), lower_better)
            with stoppable(), Progress(transient=True, console=Console(stderr=True)) as bar:
                tasks: dict[str, TaskID] = {}

                def step(what: str, done: int, of: int) -> None:
                    if what not in tasks:
                        tasks[what] = bar.add_task(what, total=of)
                    bar.update(tasks[what], completed=done)

                made = train_spips(data, output, backbone, "imagenet", epochs, patience, seed, cache, device, step, reading)
    except KeyboardInterrupt as error:
        say("Interrupted: start again to go on from here")
        raise typer.Exit(exit_code(error)) from None
    figures = ", ".join(f"{name} {value:.3f}" for name, value in made.held_out.items())
    print(f"{made.path}: on held-out scenes {figures} ({made.facts['epochs']} epochs)")


def _data(
    twoafc: Path | None, named: tuple[str | None, Path | None], table: tuple[str | None, Path | None], lower_better: bool
) -> Judgements:
    from ..training.judgements import from_opinions, load_twoafc

    (dataset, data_root), (csv, root) = named, table
    if sum(given is not None for given in (twoafc, dataset, csv)) != 1:
        raise ValueError("say what to learn from: one of --twoafc, --dataset and --csv")
    if twoafc is not None:
        return load_twoafc(twoafc)
    names, tables = ([dataset] if dataset else []), ([csv] if csv else [])
    return from_opinions(datasets_of(names, data_root, tables, [root] if root else [], lower_better)[0])
