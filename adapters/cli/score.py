"""``msds score``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from msds_plugin.adapters.cli.ray import score_folders_on_ray
from msds_plugin.adapters.cli.shared.matching import pairing, say_matching
from msds_plugin.adapters.cli.shared.options import (
    ByOrder,
    Layout,
    Mask,
    Match,
    Metrics,
    Recursive,
    SideBySide,
    metric_names,
    refuse,
    run_options,
)
from msds_plugin.adapters.cli.shared.terminal import clean_stdout, setup

if TYPE_CHECKING:
    from msds_plugin.adapters.scoring.options import Run


@run_options()
def score(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="REFERENCE DISTORTED", help="In place of -r and -d: two files, or folders of images."),
    ] = None,
    reference: Annotated[Path | None, typer.Option("--reference", "-r", help="Reference image, or a folder of them.")] = None,
    distorted: Annotated[
        list[Path] | None,
        typer.Option(
            "--distorted", "-d", metavar="PATH", help="Distorted image, or a folder of them; may be given several times."
        ),
    ] = None,
    metric: Metrics = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write the scores to a .csv, .json or .parquet file.")
    ] = None,
    summary: Annotated[
        Path | None,
        typer.Option(help="Write mean, standard deviation and number per metric to a .csv, .json or .parquet file."),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Feature network in place of VGG16, for deepssim, msds and their -lite forms.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="File with the weights of that network (.pth or .safetensors), for the same metrics.")
    ] = None,
    fusion: Annotated[
        Path | None, typer.Option(help="File with the weights of the levels, as msds fit wrote it, for the metric it names.")
    ] = None,
    saliency: Annotated[
        str | None, typer.Option(help="Compare what people look at: gbvs, spectral or features; for the metrics that can.")
    ] = None,
    saliency_threshold: Annotated[
        float | None, typer.Option(help="A pixel counts where its saliency is above this. [default: 0.25 with --saliency]")
    ] = None,
    map: Annotated[
        Path | None, typer.Option("--map", help="Folder for pictures of where the images differ, by DeepSSIM and MSDS.")
    ] = None,
    mask: Mask = None,
    details: Annotated[bool, typer.Option("--details", help="Also show how msds-auto judged each pair: its regime.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Also say what scores the same: JPEG (in --output too), blur, noise, shift.")
    ] = False,
    engine: Annotated[str, typer.Option(help="local, or ray: see msds ray, whose output is a folder.")] = "local",
    address: Annotated[str | None, typer.Option(help="Of the Ray cluster, with --engine ray.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Of two videos, each Nth frame.")] = 1,
    match: Match = None,
    by_order: ByOrder = False,
    layout: Layout = None,
    side_by_side: SideBySide = "",
    recursive: Recursive = False,
    allow_unmatched: Annotated[
        bool, typer.Option("--allow-unmatched", help="Exit with 0 also if distorted images have no reference.")
    ] = False,
    *,
    run: Run,
) -> None:
    """Score distorted images beside their references.

    Two files; two folders, matched by file name or by what a common prefix or suffix leaves of it (cat.png with cat_x4.png);
    one reference file with a folder of distorted images; or two videos, as msds video does. Without -m the metric is msds-auto.
    The output file is replaced in one step at the end, also if you press Ctrl-C. Until every score is there they are kept in a
    hidden file beside it, so that the same command goes on where it stopped.

    Exit codes: 0 all scored, 1 some scores are missing (stderr says which and why), 2 could not start or could not write,
    130, 143 or 129 stopped by Ctrl-C, SIGTERM or SIGHUP.
    """
    from msds_plugin.adapters.images.listing import VIDEO_SUFFIXES
    from msds_plugin.adapters.images.pairs import match as match_files

    with setup(), clean_stdout():
        how = pairing(match, by_order, layout, side_by_side, recursive)
        reference, folders = _sides(files, reference, distorted, bool(layout or side_by_side), how.table is not None)
        metrics = metric_names(metric)
        if saliency is None and saliency_threshold is not None:
            raise ValueError("--saliency-threshold has no effect without --saliency: leave it out")
        threshold = 0.25 if saliency_threshold is None else saliency_threshold
        salient = f",saliency={saliency},saliency_threshold={threshold}" if saliency else ""
        networks = {name: value for name, value in (("backbone", backbone), ("weights", weights)) if value is not None}
        videos = [path for path in (reference, *folders) if path is not None and path.suffix.lower() in VIDEO_SUFFIXES]
        asked: dict[str, object] = {"--details": details, "--explain": explain, "--side-by-side": side_by_side}
        of_images: dict[str, object] = {"--map": map, "--summary": summary, "--mask": mask, **asked}
        if engine not in ("local", "ray"):
            raise ValueError(f"--engine is local or ray, not {engine}")
        if engine == "ray":
            refuse({**of_images, "--every": every != 1, "videos": videos}, "--engine ray does not know")
            if output is None or len(folders) > 1:
                raise ValueError("--engine ray needs --output, a folder that every node sees, and takes one -d")
        elif videos:
            others = {"--saliency": saliency, "--match": match, "--by-order": by_order, "--recursive": recursive}
            refuse({**of_images, **others}, "videos are scored without")
            if reference is None or len(videos) < 2 or len(folders) > 1:
                raise ValueError("a video is compared with one other video and with nothing else")
        else:
            refuse({"--address": address, "--every": every != 1}, "images are scored here without")
            refuse({"--map": map} if mask else {}, "with --mask there is no")
            sides: list[Path | None] = [*folders] or [None]
            matchings = {str(side or ""): match_files(reference, side, how) for side in sides}
    if engine == "ray":
        names, folder = [name + salient for name in metrics], folders[0] if folders else None
        options = {**networks, **({} if fusion is None else {"fusion": str(fusion)})}
        more = {"run": run, "workers": run.workers or 2, "address": address, **options}
        score_folders_on_ray(reference, folder, how, names, output, allow_unmatched, **more)
        return
    if videos and reference is not None:
        from msds_plugin.adapters.cli.video import score_videos

        score_videos(reference, folders[0], metrics, every, output, fusion=fusion, networks=networks, run=run)
        return
    from msds_plugin.adapters.cli.score_images import score_images

    for matching in matchings.values():
        say_matching(matching)
    outputs, made_of = (output, summary, map), (fusion, salient, networks)
    score_images(matchings, metrics, run, *outputs, mask, details, explain, *made_of, allow_unmatched, layout == "3dgs")


def _sides(
    files: Sequence[Path] | None, reference: Path | None, distorted: Sequence[Path] | None, one: bool, none: bool
) -> tuple[Path | None, list[Path]]:
    """The reference and what is beside it, by options or by their place.

    Args:
        files: by their place.
        reference, distorted: by options.
        one: there is one folder that holds both.
        none: the pairs need not be named.

    Raises:
        ValueError: one of them is missing, or both ways are used.
    """
    if files and (reference is not None or distorted):
        raise ValueError("give the two sides by -r and -d, or by their place (msds score REFERENCE DISTORTED), not both")
    if files:
        reference, *distorted = files
    rest = list(dict.fromkeys(distorted or []))
    if one:
        if (reference is None) == (not rest) or len(rest) > 1:
            raise ValueError("with --layout or --side-by-side give one folder, which holds both sides")
        return reference or rest[0], []
    if not none and (reference is None or not rest):
        raise ValueError("what is to be compared? msds score REFERENCE DISTORTED, or -r REFERENCE -d DISTORTED")
    return reference, rest
