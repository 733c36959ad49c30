"""Options that several commands have, each with its one help text, and what they become: a run, pairs of files, data sets."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from msds_plugin.adapters.cli.shared.terminal import say, setup

if TYPE_CHECKING:
    from msds_plugin.adapters.benchmark.datasets import Dataset
    from msds_plugin.adapters.images.pairs import Matching, Pairing
    from msds_plugin.adapters.scoring.loop import Run

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
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Also write the table to a .csv, .json or .parquet file.")]
Match = Annotated[
    str | None,
    typer.Option(
        "--match",
        metavar="TEXT",
        help="How names belong together: {name}_x4.png, where {name} is a reference's, a prefix or suffix (_x4), or a .csv "
        "or .tsv with the columns reference and distorted.",
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
Resamples = Annotated[int, typer.Option(min=0, help="Resamples of every bootstrap; 0 for no intervals.")]
BootstrapSeed = Annotated[int, typer.Option(min=0, help="Of every bootstrap.")]
DatasetName = Annotated[str | None, typer.Option("--dataset", help="Full-reference data set by pyiqa's name.")]
DataRoot = Annotated[Path | None, typer.Option(help="Folder of pyiqa's data sets.")]
LabelTable = Annotated[str | None, typer.Option("--csv", help="Table of reference, distorted, score, as FILE or NAME=FILE.")]
TableRoot = Annotated[Path | None, typer.Option("--root", help="Folder of the table's images. [default: where the table is]")]
LowerBetter = Annotated[bool, typer.Option("--lower-better", help="Lower scores in the table are better (DMOS).")]

# how files are read and metrics computed


def _run(
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... [default: a GPU if there is one]")] = None,
    runtime: Annotated[
        str | None, typer.Option(help="torch or openvino. [default: openvino on a CPU where it is installed, else torch]")
    ] = None,
    amp: Annotated[bool, typer.Option("--amp", help="Compute in half precision where that is sensible.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of one pass on a GPU, at most.")] = 8,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Threads that read images and score them. [default: one per core]")
    ] = None,
    peak: Annotated[
        float | None,
        typer.Option(
            help="The value that is white in files of signed, 32-bit or floating-point values, which are refused without."
        ),
    ] = None,
    background: Annotated[
        str, typer.Option(help="What transparent pixels are laid over: a colour's name, or #rrggbb.")
    ] = "white",
    max_pixels: Annotated[
        int | None, typer.Option(min=1, help="Larger images are refused, TIFFs aside. [default: 178956970]")
    ] = None,
    crop_border: Annotated[int, typer.Option(min=0, help="Pixels that are cut from each side of both images.")] = 0,
    mod_crop: Annotated[int, typer.Option(min=1, help="Cut both images so that their sides are multiples of this.")] = 1,
    resize: Annotated[bool, typer.Option("--resize", help="Resize distorted images to the size of their references.")] = False,
    channel: Annotated[
        str, typer.Option(help="rgb, or y for the luma of ITU-R BT.601, as in papers on super-resolution.")
    ] = "rgb",
) -> Run:
    from msds_plugin.adapters.images.colours import MAX_PIXELS, Reading, colour
    from msds_plugin.adapters.scoring.loop import Run

    reading = Reading(
        peak=peak,
        background=colour(background),
        max_pixels=max_pixels or MAX_PIXELS,
        crop_border=crop_border,
        mod_crop=mod_crop,
        resize=resize,
        channel=cast(Any, channel),
    )
    return Run(device, runtime, amp, batch_size, workers, reading, note=say)


_EXIT_CODES = """
    Exit codes: 0 all is there, 1 something is missing (stderr says what and why), 2 could not start or could not write,
    130, 143 or 129 stopped by Ctrl-C, SIGTERM or SIGHUP.
    """


def run_options(*without: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of a run, and the usual exit codes in its help; it gets the run as the keyword ``run``.

    Args:
        without: names of those that the command does not have: ``device``, ``runtime``, ``amp``, ``batch_size``, ``workers``,
            ``peak``, ``background``, ``max_pixels``, ``crop_border``, ``mod_crop``, ``resize``, ``channel``.

    Example:
        >>> @run_options("amp", "batch_size")
        ... def show(file: Path, *, run: object) -> None:
        ...     print(run)
    """

    def parameters(function: Callable[..., object], without: Sequence[str]) -> list[inspect.Parameter]:
        # Not typing.get_type_hints: with a default of None Python 3.10 hides an Annotated in an Optional.
        stated = inspect.signature(function, eval_str=True, locals={"Run": object}).parameters
        return [parameter for name, parameter in stated.items() if name not in without]

    options = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters(_run, without)]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        every = [*parameters(command, ["run"]), *options]

        @wraps(command)
        def with_run(**given: Any) -> None:
            with setup():
                _check_apart(given)
                run = _run(**{each.name: given.pop(each.name) for each in options if each.name in given})
            command(**given, run=run)

        if command.__doc__ and "Exit codes" not in command.__doc__:  # python -OO keeps none
            with_run.__doc__ = f"{command.__doc__}{_EXIT_CODES}"
        with_run.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
        with_run.__annotations__ = {parameter.name: parameter.annotation for parameter in every}
        return with_run

    return decorate


#: Options that name what a command writes, and those that name tables as text.
_WRITTEN = ("output", "summary", "json", "plot", "junit", "picture", "images")
_TABLES = ("csv", "choices", "match", "pairs")


def _check_apart(given: Mapping[str, Any]) -> None:
    """Raise a ValueError if what a command would write is also what it reads, or is written twice."""
    places: dict[str, str] = {}
    for name, value in given.items():
        for each in value if isinstance(value, list | tuple) else [value]:
            if isinstance(each, Path) or (each and name in (*_WRITTEN, *_TABLES)):
                path = os.path.realpath(named_path(str(each))[1] if name in _TABLES else each)
                other = places.setdefault(path, name)
                if other != name and (name in _WRITTEN or other in _WRITTEN):
                    raise ValueError(f"{each} is both {other} and {name}: one would replace the other")


def metric_names(given: Sequence[str] | None) -> list[str]:
    """The metrics of ``-m psnr,ssim -m msds,levels=4``, each once; what holds ``=`` is an option of the metric before it.

    Example:
        >>> metric_names(["psnr,ssim", "msds,levels=4,fusion=(0.5,0.5),psnr"])
        ['psnr', 'ssim', 'msds,levels=4,fusion=(0.5,0.5)']
    """
    from msds_plugin.adapters.scorers import DEFAULT, at_commas, each_once

    names: list[str] = []
    for text in given or [DEFAULT]:
        parts: list[str] = []
        for part in at_commas(text):
            if "=" in part and parts:
                parts[-1] += f",{part}"
            elif part:
                parts.append(part)
        names += parts
    if not names:
        raise ValueError("-m names no metric: leave it out, or see msds list")
    return each_once(names)


def refuse(given: Mapping[str, object], words: str) -> None:
    """Raise a ValueError that names options which were given where they have no effect."""
    names = [name for name, value in given.items() if value]
    if names:
        raise ValueError(f"{words} {', '.join(names)}: leave it out")


# which files belong together


def sides(
    files: Sequence[Path] | None,
    reference: Path | None,
    distorted: Sequence[Path] | None,
    one_folder: bool = False,
    listed: bool = False,
) -> tuple[Path | None, list[Path]]:
    """The reference and what is beside it, by options or by their place (``files``).

    With ``one_folder`` it holds both; pairs that are ``listed`` in a table need neither.
    """
    if files and (reference is not None or distorted):
        raise ValueError("give the two sides by -r and -d, or by their place (REFERENCE DISTORTED), not both")
    if files:
        reference, *distorted = files
    rest = list(dict.fromkeys(distorted or []))
    if one_folder:
        if (reference is None) == (not rest) or len(rest) > 1:
            raise ValueError("with --layout or --side-by-side give one folder, which holds both sides")
        return reference or rest[0], []
    if not listed and (reference is None or not rest):
        raise ValueError("what is to be compared? Give REFERENCE DISTORTED, or -r REFERENCE -d DISTORTED")
    return reference, rest


def pairing(
    match: str | None = None,
    by_order: bool = False,
    layout: str | None = None,
    side_by_side: str = "",
    recursive: bool = False,
) -> Pairing:
    """What ``--match``, ``--by-order``, ``--layout``, ``--side-by-side`` and ``--recursive`` say."""
    from msds_plugin.adapters.images.pairs import Pairing

    ways: dict[str, Any] = {"by_order": by_order, "layout": layout, "side_by_side": side_by_side, "recursive": recursive}
    if match is None:
        return Pairing(**ways)
    if match.lower().endswith((".csv", ".tsv")):
        return Pairing(table=Path(match), **ways)
    if "{name}" not in match:  # a suffix, or a prefix, which ends with what parts it from the name
        match = f"{match}{{name}}" if match[-1:] in "_-. " and match[:1] not in "_-. " else f"{{name}}{match}"
    return Pairing(pattern=match, **ways)


def say_matching(matching: Matching, count: int | None = None) -> None:
    """How the pairs were found, and what is left out, on stderr; ``count``: how many, where they are not in ``matching``."""
    pairs = matching.pairs
    count = len(pairs) if count is None else count
    if count > 1 or matching.unmatched or matching.by_order or " without " in matching.how:
        say(f"Pairs {matching.how}: {count}")
    for note in matching.notes:
        say(f"Note: {note}")
    if matching.by_order:
        for pair in pairs[:1] + pairs[1:][-1:]:
            say(f"  {pair.reference.name} with {pair.distorted.name}")
    if matching.unmatched:
        say(f"Left out, without a counterpart: {len(matching.unmatched)}")
        for path in matching.unmatched:
            say(f"  {path}")
    for folder, images in matching.left_out:
        if images is None:
            say(f"Left out: {folder}, which cannot be read")
        else:
            say(f"Left out: {folder} with {images} image{'s' * (images != 1)} (--recursive looks into sub-folders)")


# data sets


def datasets_of(
    names: Sequence[str], data_root: Path | None, tables: Sequence[str], roots: Sequence[Path], lower_better: bool
) -> list[Dataset]:
    """The data sets that ``--dataset``, ``--data-root``, ``--csv``, ``--root`` and ``--lower-better`` speak of."""
    from msds_plugin.adapters.benchmark.datasets import load_csv, load_pyiqa

    if not names and not tables:
        raise ValueError("no data set: give --dataset NAME with --data-root DIR, or --csv FILE with --root DIR")
    if names and data_root is None:
        raise ValueError("--dataset needs --data-root, the folder that holds pyiqa's data sets")
    refuse({"--root": roots, "--lower-better": lower_better} if not tables else {}, "without --csv there is no")
    refuse({"--data-root": data_root} if not names else {}, "without --dataset there is no")
    if len(roots) not in (0, 1, len(tables)):
        raise ValueError(f"--root is given {len(roots)} times for {len(tables)} tables: give it once for all, or once for each")
    found = [load_pyiqa(name, str(data_root)) for name in names]
    folders = roots if len(roots) == len(tables) else [next(iter(roots), None)] * len(tables)
    for table, folder in zip(tables, folders, strict=True):
        name, path = named_path(table)
        found.append(load_csv(path, folder, lower_better, name))
    return found


def one_dataset(
    dataset: str | None, data_root: Path | None, csv: str | None, root: Path | None, lower_better: bool, what: str
) -> Dataset:
    """The data set that ``--dataset`` or ``--csv`` and the options beside them speak of; ``what`` is of one set only."""
    found = datasets_of([dataset] if dataset else [], data_root, [csv] if csv else [], [root] if root else [], lower_better)
    if len(found) != 1:
        raise ValueError(f"{what} one data set: give --dataset or --csv, not both")
    return found[0]


def check_targets(output: Path | None, report: Path | None) -> None:
    """Raise an error unless the table and the report can be written; the report's folder is made."""
    from msds_plugin.adapters.scoring.files import check_file
    from msds_plugin.adapters.scoring.tables import check_output

    if output is not None:
        check_output(output)
    if report is not None:
        if report.exists() and not report.is_dir():
            raise NotADirectoryError(f"the report goes to a folder, and {report} is a file")
        report.mkdir(parents=True, exist_ok=True)
        check_file(report / "report.html")


def named_path(text: str) -> tuple[str | None, str]:
    """Name and path of ``NAME=PATH``; no name for a path, which may hold a ``=`` itself."""
    name, equals, path = text.partition("=")
    return (name or None, path) if equals and not Path(text).exists() else (None, text)
