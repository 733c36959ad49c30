"""``msds train``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from msds_plugin.adapters.cli.shared import options
from msds_plugin.adapters.cli.shared.terminal import progress, resumable, stoppable

if TYPE_CHECKING:
    from msds_plugin.adapters.scoring import Run


@options.run_options("runtime", "amp", "batch_size", "workers", "crop_border", "mod_crop", "resize", "channel")
def train(
    output: Annotated[Path, typer.Option("--output", "-o", help="File of weights to write (.safetensors).")],
    metric: Annotated[str, typer.Option("--metric", "-m", help="What to train: spips.")] = "spips",
    twoafc: Annotated[Path | None, typer.Option(help="Folder of ref, p0, p1 and judge, as in BAPPS.")] = None,
    dataset: options.DatasetName = None,
    data_root: options.DataRoot = None,
    csv: options.LabelTable = None,
    root: options.TableRoot = None,
    lower_better: options.LowerBetter = False,
    backbone: Annotated[str, typer.Option(help="efficientnet_lite0, alexnet or vgg16.")] = "efficientnet_lite0",
    epochs: Annotated[int, typer.Option(min=1, help="At most.")] = 200,
    patience: Annotated[int, typer.Option(min=1, help="Epochs without progress before it stops.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is random.")] = 0,
    cache: Annotated[Path | None, typer.Option(help="Folder for features. [default: beside the output]")] = None,
    *,
    run: Run,
) -> None:
    """Train a metric on what people said. Start again after a stop, and it goes on where it was.

    What was learned belongs to the labels and to the content of the images: with others it says so and does not go on.
    """
    from msds_plugin.adapters.research.training import from_opinions, load_twoafc, train_spips
    from msds_plugin.adapters.scoring.files import check_file

    with resumable():
        if metric != "spips":
            raise ValueError(f"spips can be trained, not {metric!r}")
        if sum(given is not None for given in (twoafc, dataset, csv)) != 1:
            raise ValueError("say what to learn from: one of --twoafc, --dataset and --csv")
        check_file(output)
        if twoafc is not None:
            beside = {"--data-root": data_root, "--root": root, "--lower-better": lower_better}
            options.refuse(beside, "with --twoafc there is no")
            data = load_twoafc(twoafc)
        else:
            data = from_opinions(options.one_dataset(dataset, data_root, csv, root, lower_better, "a metric is trained on"))
        with stoppable(), ExitStack() as shown:
            bars: dict[str, Callable[[], None]] = {}

            def step(what: str, done: int, of: int) -> None:
                if what not in bars:
                    shown.close()  # one at a time
                    bars[what] = shown.enter_context(progress(what, of - done + 1))
                bars[what]()

            made = train_spips(data, output, backbone, "imagenet", epochs, patience, seed, cache, run, step)
    figures = ", ".join(f"{name} {value:.3f}" for name, value in made.held_out.items())
    print(f"{made.path}: on held-out scenes {figures} ({made.facts['epochs']} epochs)")
