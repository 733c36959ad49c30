"""``msds score``."""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from ..common.scorer import Scorer
from ..images.pairs import Matching, Pair, match
from ..scoring.engine import BATCH_SIZE, Result, score_pairs
from ..scoring.scorers import create_scorers
from .reading import BACKGROUND, MAX_PIXELS, PEAK, reading_of
from .terminal import INCOMPLETE, INTERRUPTED, arrow, clean_stdout, progress, say, setup, show_table


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
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... [default: a GPU if there is one]")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Feature network in place of VGG16, for deepssim, msds and their -lite forms.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="File with the weights of that network (.pth or .safetensors), for the same metrics.")
    ] = None,
    fusion: Annotated[
        Path | None, typer.Option(help="File with the weights of the levels, as msds fit wrote it, for the metric it names.")
    ] = None,
    amp: Annotated[bool, typer.Option("--amp", help="Compute in half precision where torch thinks fit (autocast).")] = False,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Pairs per batch at most; large images go in smaller ones.")
    ] = BATCH_SIZE,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that decode images. [default: one per core, none for few images]")
    ] = None,
    peak: Annotated[float | None, PEAK] = None,
    background: Annotated[str, BACKGROUND] = "white",
    max_pixels: Annotated[int | None, MAX_PIXELS] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", help="Look into sub-folders too, and match trees by the paths inside them.")
    ] = False,
    allow_unmatched: Annotated[
        bool, typer.Option("--allow-unmatched", help="Exit with 0 also if distorted images have no reference.")
    ] = False,
) -> None:
    """Score distorted images beside their references.

    Two files; two folders, matched by file name, by what a common prefix or suffix leaves of it (cat.png with cat_x4.png) or,
    if no names agree, by sorted order; or one reference file with a folder of distorted images. A csv file grows row by row;
    json and parquet files are written at the end, also if you press Ctrl-C.

    Exit codes: 0 all scored, 1 some scores are missing (stderr says which and why), 2 could not start, 130 interrupted.
    """
    from ..results.tables import TableFile, check_output

    with setup(), clean_stdout():
        if output is not None:
            check_output(output)
        reading = reading_of(peak, background, max_pixels)
        matching = match(reference, distorted, recursive)
        _say_matching(matching)
        chosen = {"backbone": backbone, "weights": weights}
        scorers = create_scorers(metric, device, fusion, **{key: value for key, value in chosen.items() if value is not None})

    places = {pair: place for place, pair in enumerate(matching.pairs)}
    table = TableFile(output, ["reference", "distorted", *(scorer.name for scorer in scorers)])
    failures: list[Result] = []
    interrupted = False
    try:
        results = score_pairs(matching.pairs, scorers, batch_size, workers, reading, say)
        half = torch.autocast(scorers[0].device.type, enabled=amp)
        with clean_stdout(), table, half, progress("scoring", len(places)) as advance:
            for row in zip(*[results] * len(scorers), strict=True):  # those of one pair come one after the other
                pair = row[0].pair
                table.add(places[pair], [_text(pair.reference), _text(pair.distorted), *(result.score for result in row)])
                failures += [result for result in row if result.error is not None]
                advance()
    except KeyboardInterrupt:
        interrupted = True
    except Exception:
        _show(table.rows, scorers)  # whatever went wrong must not cost what is there
        raise

    _show(table.rows, scorers)
    _say_failures(failures, len(scorers))
    if interrupted:
        say(f"Interrupted: {len(table.rows)} of {len(places)} pairs were scored")
        raise typer.Exit(INTERRUPTED)
    if failures or (matching.unscored and not allow_unmatched):
        raise typer.Exit(INCOMPLETE)


def _text(path: Path) -> str:
    # A name need not be text: bytes that are none stay visible, and can be written to any file.
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")


def _say_matching(matching: Matching) -> None:
    pairs = matching.pairs
    if len(pairs) > 1 or matching.unmatched or " without " in matching.how:
        say(f"Pairs {matching.how}: {len(pairs)}")
    if matching.by_order:
        for pair in (pairs[0], pairs[-1])[: len(pairs)]:
            say(f"  {pair.reference.name} with {pair.distorted.name}")
    if matching.unmatched:
        say(f"Left out, without a counterpart: {len(matching.unmatched)}")
        for path in matching.unmatched:
            say(f"  {path}")
    for folder, images in matching.left_out:
        say(f"Left out: {folder} with {images} images (--recursive looks into sub-folders)")


def _show(rows: Sequence[Sequence[Any]], scorers: Sequence[Scorer]) -> None:
    drawn = sys.stdout.isatty()
    headings = [f"{scorer.name} {arrow(scorer.lower_is_better)}" for scorer in scorers]
    # On a terminal the names are enough; elsewhere whole paths serve other programs.
    cells = [
        [*(Path(path).name if drawn else path for path in paths), *(_number(value, drawn) for value in scores)]
        for paths, scores in ((row[:2], row[2:]) for row in rows)
    ]
    show_table(["reference", "distorted", *headings], cells, numbers=len(scorers))


def _number(value: float, drawn: bool) -> str:
    if math.isnan(value):
        return "-" if drawn else "nan"
    return f"{value:.4f}" if drawn else f"{value:.7g}"


def _say_failures(failures: Sequence[Result], metrics: int) -> None:
    if not failures:
        return
    by_reason: dict[tuple[Pair, str | None], list[str]] = defaultdict(list)
    for failure in failures:
        by_reason[failure.pair, failure.error].append(failure.metric)
    say(f"Missing scores: {len(failures)}")
    for (pair, reason), names in by_reason.items():
        which = "" if len(names) == metrics else f" ({', '.join(names)})"
        say(f"  {pair.distorted}{which}: {reason}")
