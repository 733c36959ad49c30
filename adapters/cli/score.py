"""``msds score``."""

from __future__ import annotations

import math
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..common.videos import VIDEO_SUFFIXES
from .shared.options import BatchSize, Device, HalfPrecision, Workers
from .shared.reading import reads_images
from .shared.stop import exit_code, stoppable
from .shared.terminal import INCOMPLETE, USAGE, arrow, clean_stdout, progress, say, setup, show_table
from .video import score_videos

if TYPE_CHECKING:
    from ..common.scorer import Scorer
    from ..images.pairs import Matching
    from ..images.samples import Reading
    from ..results.store import Results
    from ..scoring.scored import Scored

#: Pairs per batch at most.
BATCH_SIZE = 32


@reads_images
def score(
    reference: Annotated[Path, typer.Option("--reference", "-r", help="Reference image, or a folder of them.")],
    distorted: Annotated[Path, typer.Option("--distorted", "-d", help="Distorted image, or a folder of them.")],
    metric: Annotated[
        list[str],
        typer.Option(
            "--metric",
            "-m",
            help="Metric by name, ours, pyiqa's or piq's (piq:fsim), with options after commas (msds,levels=4); may be given "
            "several times.",
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write the scores to a .csv, .json or .parquet file.")
    ] = None,
    device: Device = None,
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
        str | None,
        typer.Option(help="Compare what people look at: gbvs, spectral or features; for the metrics of msds_plugin."),
    ] = None,
    saliency_threshold: Annotated[
        float | None, typer.Option(help="A pixel counts where its saliency is above this. [default: 0.25 with --saliency]")
    ] = None,
    map: Annotated[
        Path | None, typer.Option("--map", help="Folder for pictures of where the images differ, by DeepSSIM and MSDS.")
    ] = None,
    engine: Annotated[str, typer.Option(help="local, or ray: see msds ray, whose output is a folder.")] = "local",
    address: Annotated[str | None, typer.Option(help="Of the Ray cluster, with --engine ray.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Of two videos, each Nth frame.")] = 1,
    amp: HalfPrecision = False,
    batch_size: BatchSize = BATCH_SIZE,
    workers: Workers = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", help="Look into sub-folders too, and match trees by the paths inside them.")
    ] = False,
    allow_unmatched: Annotated[
        bool, typer.Option("--allow-unmatched", help="Exit with 0 also if distorted images have no reference.")
    ] = False,
    *,
    reading: Reading,
) -> None:
    """Score distorted images beside their references.

    Two files; two folders, matched by file name, by what a common prefix or suffix leaves of it (cat.png with cat_x4.png) or,
    if no names agree, by sorted order; or one reference file with a folder of distorted images; two videos, as
    msds video does. The output file is replaced in one step at the end, also if you press Ctrl-C. Until every
    score is there they are kept in a hidden file beside it, so that the same command goes on where it stopped.

    Exit codes: 0 all scored, 1 some scores are missing (stderr says which and why), 2 could not start or could not write,
    130, 143 or 129 stopped by Ctrl-C, SIGTERM or SIGHUP.
    """
    metric = _with_saliency(metric, saliency, saliency_threshold)
    if engine != "local":
        chosen = {"backbone": backbone, "weights": weights, "fusion": None if fusion is None else str(fusion), "device": device}
        with setup():
            _refuse({"--amp": amp, "--map": map, "--recursive": recursive}, "--engine ray does not know")
        _on_ray(engine, (reference, distorted), metric, output, workers, address, reading=reading, **chosen)
        return
    if reference.suffix.lower() in VIDEO_SUFFIXES and distorted.suffix.lower() in VIDEO_SUFFIXES:
        with setup():
            _refuse({"--amp": amp, "--map": map, "--recursive": recursive, "--peak": reading.peak}, "videos are scored without")
        made = {"backbone": backbone, "weights": weights}
        score_videos(reference, distorted, metric, every, output, device=device, fusion=fusion, networks=made)
        return

    import torch

    from ..images.pairs import match
    from ..maps import write_maps
    from ..results.store import Results, ResultsWriteError
    from ..results.tables import check_output
    from ..scoring.scored import Scored, store_beside
    from ..scoring.scorers import create_scorers

    with setup(), clean_stdout():
        if output is not None:
            check_output(output)
        matching = match(reference, distorted, recursive)
        _say_matching(matching)
        chosen = {"backbone": backbone, "weights": weights}
        scorers = create_scorers(metric, device, fusion, **{key: value for key, value in chosen.items() if value is not None})
        if map is not None:
            write_maps([], scorers, map, reading)  # says at once if no metric has maps
        kept = Results(None if output is None else store_beside(output), alone=True, what=output)
    with kept:
        with setup(), clean_stdout():
            scored = Scored(matching.pairs, scorers, kept, amp, reading)
        if scored.ready:
            say(f"Scores of an earlier run that are used again: {scored.ready}")
        unkept: OSError | None = None
        stopped: KeyboardInterrupt | None = None
        try:
            half = torch.autocast(scorers[0].device.type, enabled=amp)
            with (
                clean_stdout(),
                half,
                progress("scoring", len(scored.pairs)) as advance,
                closing(scored.run(batch_size, workers, say)) as pairs,
            ):
                for _ in pairs:
                    advance()
        except KeyboardInterrupt as error:
            stopped = error
        except ResultsWriteError as error:
            unkept = error
        except BaseException:
            _show(scored, output is None)  # whatever went wrong must not cost what is there
            raise
        try:
            with stoppable(), clean_stdout():
                unkept = unkept or (None if output is None else _write(scored, output, kept))
        except KeyboardInterrupt as error:
            stopped = error
        if map is not None and stopped is None and unkept is None:
            failed = {path for path, *_ in scored.failures}
            with setup(), clean_stdout():
                drawn = list(write_maps([pair for pair in scored.pairs if pair.distorted not in failed], scorers, map, reading))
            say(f"Maps are in {map}: {len(drawn)}")
        _finish(scored, output, stopped, unkept)
    if matching.unscored and not allow_unmatched:
        raise typer.Exit(INCOMPLETE)


def _with_saliency(metrics: list[str], saliency: str | None, threshold: float | None) -> list[str]:
    """The metrics with the option that ``--saliency`` stands for."""
    if saliency is None:
        return metrics
    return [f"{metric},saliency={saliency},saliency_threshold={0.25 if threshold is None else threshold}" for metric in metrics]


def _refuse(given: dict[str, object], words: str) -> None:
    """Raise a ValueError for options that were given where they would have no effect."""
    names = [name for name, value in given.items() if value]
    if names:
        raise ValueError(f"{words} {', '.join(names)}: leave it out")


def _on_ray(
    engine: str,
    pairs: tuple[Path, Path],
    metric: list[str],
    output: Path | None,
    workers: int | None,
    address: str | None,
    **options: Any,
) -> None:
    from ..ray import score as score_on_ray
    from .ray import say_foreign

    with setup(), clean_stdout():
        if engine != "ray":
            raise ValueError(f"--engine is local or ray, not {engine}")
        if output is None:
            raise ValueError("--engine ray needs --output, a folder that every node sees")
        folder, places = _place(output), (_place(pairs[0]), _place(pairs[1]))
        given = {name: value for name, value in options.items() if value is not None}
        done = score_on_ray(places, metric, folder, workers=workers or 2, address=address, **given)
    say_foreign(done.foreign, folder)
    say(f"{done.pairs} pairs are in {folder}, {done.failed} without all scores")
    if done.failed:
        raise typer.Exit(INCOMPLETE)


def _place(path: Path) -> str:
    """A path, or the URI that it was before it became one and lost a slash."""
    return re.sub(r"^(\w{2,}):/+", r"\1://", str(path))


def _write(scored: Scored, output: Path, kept: Results) -> OSError | None:
    """Put the table in its place; why that failed."""
    try:
        note = scored.write(output)
    except OSError as error:
        return error
    say(note or f"Scores are in {output}")
    if scored.is_whole or not scored.ready:
        kept.remove()
    return None


def _finish(scored: Scored, output: Path | None, stopped: KeyboardInterrupt | None, unkept: OSError | None) -> None:
    """Show what there is, say what is missing and why, and leave with the code for it."""
    if unkept is not None:
        # First, since stdout may be on the disk that is full.
        say(f"Error: {unkept}. stdout has all that was computed; the same command goes on from what was kept")
    _show(scored, output is None or unkept is not None)
    _say_failures(scored)
    if unkept is not None:
        raise typer.Exit(USAGE)
    if stopped is not None:
        onwards = "" if output is None else "; the same command goes on from here"
        say(f"Interrupted: {len(scored.rows())} of {len(scored.pairs)} pairs were scored{onwards}")
        raise typer.Exit(exit_code(stopped))
    if scored.failures:
        if output is not None and scored.ready:
            say("The same command tries only these again")
        raise typer.Exit(INCOMPLETE)


def _say_matching(matching: Matching) -> None:
    pairs = matching.pairs
    if len(pairs) > 1 or matching.unmatched or matching.by_order or " without " in matching.how:
        say(f"Pairs {matching.how}: {len(pairs)}")
    if matching.by_order:
        for pair in (pairs[0], pairs[-1])[: len(pairs)]:
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


def _show(scored: Scored, needed: bool) -> None:
    drawn = sys.stdout.isatty()
    headings = [_heading(scorer) for scorer in scored.scorers]
    # On a terminal the names are enough; elsewhere whole paths serve other programs.
    cells = [
        [*(Path(path).name if drawn else path for path in paths), *(_number(value, drawn) for value in scores)]
        for paths, scores in ((row[:2], row[2:]) for row in scored.rows())
    ]
    show_table(["reference", "distorted", *headings], cells, numbers=len(headings), needed=needed)


def _heading(scorer: Scorer) -> str:
    return f"{scorer.name} {arrow(scorer.lower_is_better)}"


def _number(value: float, drawn: bool) -> str:
    if math.isnan(value):
        return "-" if drawn else "nan"
    return f"{value:.4f}" if drawn else f"{value:.7g}"


def _say_failures(scored: Scored) -> None:
    failures: Sequence[tuple[Path, str, str]] = scored.failures
    if not failures:
        return
    by_reason: dict[tuple[Path, str], list[str]] = defaultdict(list)
    for path, metric, reason in failures:
        by_reason[path, reason].append(metric)
    say(f"Missing scores: {len(failures)}")
    for (path, reason), names in by_reason.items():
        which = "" if len(names) == len(scored.scorers) else f" ({', '.join(names)})"
        say(f"  {path}{which}: {reason}")
