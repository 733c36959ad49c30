"""Options that several commands have, each with its one help text, and those that become a :class:`Run`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from msds_plugin.adapters.cli.shared.terminal import say, setup

#: A comma that is not inside brackets.
_COMMA = re.compile(r",(?![^\[(]*[\])])")

Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        "-m",
        metavar="TEXT",
        help="Metrics by name, ours, pyiqa's or piq's (piq:fsim); several with commas between them or by several -m. Options "
        "of a metric follow it: msds,levels=4.",
    ),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... [default: a GPU if there is one]")]
Runtime = Annotated[
    str | None, typer.Option(help="torch or openvino. [default: openvino on a CPU where it is installed, else torch]")
]
HalfPrecision = Annotated[bool, typer.Option("--amp", help="Compute in half precision where that is sensible.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images of one pass on a GPU, at most.")]
Workers = Annotated[int | None, typer.Option(min=0, help="Threads that read images and score them. [default: one per core]")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Also write the table to a .csv, .json or .parquet file.")]
Match = Annotated[
    str | None,
    typer.Option(
        "--match",
        metavar="TEXT",
        help="How names belong together: {name}_x4.png, where {name} is a reference's, a prefix or suffix (_x4), or a .csv "
        "with the columns reference and distorted.",
    ),
]
ByOrder = Annotated[bool, typer.Option("--by-order", help="Pair folders of equally many images by their sorted names.")]
Layout = Annotated[
    str | None, typer.Option(help="3dgs or nerfstudio: references and renders below one folder, by scene and iteration.")
]
SideBySide = Annotated[
    str, typer.Option(metavar="left|right", help="Every file holds two images; the half that is the reference.")
]
Recursive = Annotated[
    bool, typer.Option("--recursive", help="Look into sub-folders too, and match trees by the paths inside them.")
]
Mask = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE|FOLDER",
        help="Image that is white where the reference counts, or a folder of them with the names of the references.",
    ),
]
KeptScores = Annotated[Path, typer.Option(help="Where scores are kept, and taken from if they are there.")]
Report = Annotated[Path | None, typer.Option(help="Folder for a report: HTML, Markdown, figures and tables.")]
AlsoTable = Output
Resamples = Annotated[int, typer.Option(min=0, help="Resamples of every bootstrap; 0 for no intervals.")]
BootstrapSeed = Annotated[int, typer.Option(help="Of every bootstrap.")]
DatasetName = Annotated[str | None, typer.Option("--dataset", help="Full-reference data set by pyiqa's name.")]
DataRoot = Annotated[Path | None, typer.Option(help="Folder of pyiqa's data sets.")]
LabelTable = Annotated[str | None, typer.Option("--csv", help="Table of reference, distorted, score, as FILE or NAME=FILE.")]
TableRoot = Annotated[Path | None, typer.Option("--root", help="Folder of the table's images. [default: where the table is]")]
LowerBetter = Annotated[bool, typer.Option("--lower-better", help="Lower scores in the table are better (DMOS).")]

_RUN: dict[str, tuple[Any, Any]] = {
    "device": (Device, None),
    "runtime": (Runtime, None),
    "amp": (HalfPrecision, False),
    "batch_size": (BatchSize, 8),
    "workers": (Workers, None),
    "peak": (
        Annotated[
            float | None,
            typer.Option(
                help="The value that is white in files of signed, 32-bit or floating-point values, which are refused without."
            ),
        ],
        None,
    ),
    "background": (
        Annotated[str, typer.Option(help="What transparent pixels are laid over: a colour's name, or #rrggbb.")],
        "white",
    ),
    "max_pixels": (
        Annotated[int | None, typer.Option(min=1, help="Larger images are refused, TIFFs aside. [default: 178956970]")],
        None,
    ),
    "crop_border": (Annotated[int, typer.Option(min=0, help="Pixels that are cut from each side of both images.")], 0),
    "mod_crop": (
        Annotated[int, typer.Option(min=1, help="Cut both images so that their sides are multiples of this.")],
        1,
    ),
    "resize": (
        Annotated[bool, typer.Option("--resize", help="Resize distorted images to the size of their references.")],
        False,
    ),
    "channel": (
        Annotated[str, typer.Option(help="rgb, or y for the luma of ITU-R BT.601, as in papers on super-resolution.")],
        "rgb",
    ),
}


def run_options(*without: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of a run; it gets what they say as the keyword ``run``.

    Args:
        without: names of those that the command does not have: ``device``, ``runtime``, ``amp``, ``batch_size``, ``workers``,
            ``peak``, ``background``, ``max_pixels``, ``crop_border``, ``mod_crop``, ``resize``, ``channel``.

    Example:
        >>> @run_options("amp", "batch_size")
        ... def show(file: Path, *, run: object) -> None:
        ...     print(run)
    """
    options = {name: option for name, option in _RUN.items() if name not in without}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        # Not typing.get_type_hints: with a default of None Python 3.10 hides an Annotated in an Optional.
        stated = inspect.signature(command, eval_str=True, locals={"Run": object}).parameters
        own = [parameter for name, parameter in stated.items() if name != "run"]
        more = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for name, (annotation, default) in options.items()
        ]

        @wraps(command)
        def with_run(**given: Any) -> None:
            chosen = {name: given.pop(name, default) for name, (_, default) in options.items()}
            with setup():
                run = _run(chosen)
            command(**given, run=run)

        with_run.__signature__ = inspect.Signature([*own, *more])  # type: ignore[attr-defined]
        with_run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *more)}
        return with_run

    return decorate


def _run(chosen: dict[str, Any]) -> Any:
    from msds_plugin.adapters.images.colours import MAX_PIXELS, Reading, colour
    from msds_plugin.adapters.scoring.options import Run

    names = ("peak", "crop_border", "mod_crop", "resize", "channel")
    stated = {name: chosen.pop(name) for name in names if name in chosen}
    if "background" in chosen:
        stated["background"] = colour(chosen.pop("background"))
    stated["max_pixels"] = chosen.pop("max_pixels", None) or MAX_PIXELS
    return Run(**chosen, reading=Reading(**stated), note=say)


def metric_names(given: Sequence[str] | None) -> list[str]:
    """The metrics of ``-m psnr,ssim -m msds,levels=4``, each once; what holds ``=`` is an option of the metric before it.

    Example:
        >>> metric_names(["psnr,ssim", "msds,levels=4,fusion=(0.5,0.5),psnr"])
        ['psnr', 'ssim', 'msds,levels=4,fusion=(0.5,0.5)']
    """
    from msds_plugin.adapters.scoring.options import default_metric

    names: list[str] = []
    for text in given or [default_metric()]:
        parts: list[str] = []
        for part in map(str.strip, _COMMA.split(text)):
            if "=" in part and parts:
                parts[-1] += f",{part}"
            elif part:
                parts.append(part)
        names += parts
    return list(dict.fromkeys(names))


def refuse(given: Mapping[str, object], words: str) -> None:
    """Raise an error for options that were given where they have no effect.

    Raises:
        ValueError: names them.
    """
    names = [name for name, value in given.items() if value]
    if names:
        raise ValueError(f"{words} {', '.join(names)}: leave it out")
