"""``msds score``."""

from __future__ import annotations

import json
import math
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from msds_plugin.adapters.cli.ray import score_folders_on_ray
from msds_plugin.adapters.cli.shared import options
from msds_plugin.adapters.cli.shared.terminal import (
    INCOMPLETE,
    USAGE,
    arrow,
    clean_stdout,
    exit_code,
    progress,
    say,
    setup,
    show_table,
    stoppable,
)

if TYPE_CHECKING:
    import pandas as pd

    from msds_plugin.adapters.images.pairs import Pair
    from msds_plugin.adapters.scorers import Scorer
    from msds_plugin.adapters.scoring import Run
    from msds_plugin.adapters.scoring.store import Scored


@options.run_options()
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
    metric: options.Metrics = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write the scores to a .csv, .json or .parquet file.")
    ] = None,
    summary: Annotated[
        Path | None,
        typer.Option(
            help="Write mean, standard deviation and number per metric to a .csv, .json or .parquet file; JSON of --layout "
            "3dgs has the means, by scene and iteration."
        ),
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
    map: Annotated[Path | None, typer.Option("--map", help="Folder for pictures of where the images differ.")] = None,
    mask: options.Mask = None,
    details: Annotated[bool, typer.Option("--details", help="Also show how msds-auto judged each pair: its regime.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Also say what scores the same: JPEG (in --output too), blur, noise, shift.")
    ] = False,
    engine: Annotated[str, typer.Option(help="local, or ray: see msds ray, whose output is a folder.")] = "local",
    address: Annotated[str | None, typer.Option(help="Of the Ray cluster, with --engine ray.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Of two videos, each Nth frame.")] = 1,
    match: options.Match = None,
    by_order: options.ByOrder = False,
    layout: options.Layout = None,
    side_by_side: options.SideBySide = "",
    recursive: options.Recursive = False,
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
    """
    from msds_plugin.adapters.images.listing import VIDEO_SUFFIXES
    from msds_plugin.adapters.images.pairs import match as match_files
    from msds_plugin.adapters.scorers import create_scorers

    with setup():
        how = options.pairing(match, by_order, layout, side_by_side, recursive)
        one_folder = bool(layout or side_by_side)
        reference, folders = options.sides(files, reference, distorted, one_folder, how.table is not None)
        metrics = options.metric_names(metric)
        if saliency is None and saliency_threshold is not None:
            raise ValueError("--saliency-threshold has no effect without --saliency: leave it out")
        threshold = 0.25 if saliency_threshold is None else saliency_threshold
        salient = f",saliency={saliency},saliency_threshold={threshold}" if saliency is not None else ""
        stated = {"backbone": backbone, "weights": weights, "fusion": None if fusion is None else str(fusion)}
        networks: dict[str, Any] = {name: value for name, value in stated.items() if value is not None}
        videos = [path for path in (reference, *folders) if path is not None and path.suffix.lower() in VIDEO_SUFFIXES]
        asked: dict[str, object] = {"--details": details, "--explain": explain, "--side-by-side": side_by_side}
        of_images: dict[str, object] = {"--map": map, "--summary": summary, "--mask": mask, **asked}
        if engine not in ("local", "ray"):
            raise ValueError(f"--engine is local or ray, not {engine}")
        if engine == "ray":
            options.refuse({**of_images, "--every": every != 1, "videos": videos}, "--engine ray does not know")
            if output is None or len(folders) > 1:
                raise ValueError("--engine ray needs --output, a folder that every node sees, and takes one -d")
        elif videos:
            naming = {"--match": match, "--by-order": by_order, "--recursive": recursive, "--allow-unmatched": allow_unmatched}
            others = {"--saliency": saliency, "--address": address, "--peak": run.reading.peak}
            options.refuse({**of_images, **naming, **others}, "videos are scored without")
            if reference is None or len(videos) < 2 or len(folders) > 1:
                raise ValueError("a video is compared with one other video; with a GIF or a folder of frames by msds video")
        else:
            options.refuse({"--address": address, "--every": every != 1}, "images are scored here without")
            options.refuse({"--map": map} if mask else {}, "with --mask there is no")
            sides: list[Path | None] = [*folders] or [None]
            matchings = {str(side or ""): match_files(reference, side, how) for side in sides}
    if engine == "ray":
        with setup():
            if salient:  # these scorers only tell which of them take it
                able = create_scorers(metrics, "cpu", run.runtime, **networks)
                metrics = _with_saliency(metrics, able, salient)
        folder = folders[0] if folders else None
        more = {"run": run, "workers": run.workers or 2, "address": address, **networks}
        score_folders_on_ray(reference, folder, how, metrics, output, allow_unmatched, **more)
        return
    if videos and reference is not None:
        from msds_plugin.adapters.cli.video import score_videos

        score_videos(reference, folders[0], metrics, every, output, run=run, **networks)
        return

    from msds_plugin.adapters.scoring.masks import find_masks
    from msds_plugin.adapters.scoring.tables import check_output

    for matching in matchings.values():
        options.say_matching(matching)
    pairs = {
        pair: "/".join(filter(None, (folder * (len(matchings) > 1), pair.group)))
        for folder, matching in matchings.items()
        for pair in matching.pairs
    }
    if repeated := sum(len(matching.pairs) for matching in matchings.values()) - len(pairs):
        say(f"Pairs that are listed again, and scored once: {repeated}")
    with setup():
        for path in filter(None, (output, summary)):
            check_output(path)
        lacking: dict[str, str] = {}
        scorers = create_scorers(metrics, run.device, run.runtime, lacking=lacking, **networks)
        if salient:
            made = [name for name in metrics if name not in lacking]
            scorers = create_scorers(_with_saliency(made, scorers, salient), run.device, run.runtime, **networks)
        for name, reason in lacking.items():
            say(f"Without {name}: {reason}")
        if map is not None:
            _check_maps(scorers, map)
        if mask is not None:
            unused = [path for matching in matchings.values() for path in matching.unmatched]
            run = replace(run, masks=find_masks(mask, [pair.reference for pair in pairs], unused))
        if details:
            from msds_plugin.adapters.scoring.details import with_regimes

            scorers = with_regimes(scorers)
    complete = _score(pairs, scorers, run, output, summary, map, explain, nested=layout == "3dgs")
    unscored = not allow_unmatched and any(each.unscored for each in matchings.values())
    if lacking or unscored or not complete:
        raise typer.Exit(INCOMPLETE)


def _with_saliency(names: Sequence[str], scorers: Sequence[Scorer], saliency: str) -> list[str]:
    """The names of these scorers, with options for those that take them; an error if none does."""
    able = [scorer.metric.takes_saliency for scorer in scorers]
    without = ", ".join(scorer.name for scorer, takes in zip(scorers, able, strict=True) if not takes)
    if not any(able):
        raise ValueError(f"--saliency has no effect on {without}: leave it out")
    if without:
        say(f"Without saliency, which it does not take: {without}")
    return [name + saliency * takes for name, takes in zip(names, able, strict=True)]


def _check_maps(scorers: Sequence[Scorer], folder: Path) -> None:
    """Make the folder, and say which metrics have no maps; an error if none has."""
    folder.mkdir(parents=True, exist_ok=True)
    without = ", ".join(scorer.name for scorer in scorers if not scorer.metric.has_map)
    if all(not scorer.metric.has_map for scorer in scorers):
        raise ValueError(f"maps are for msds-auto, DeepSSIM, MSDS and their forms, not for {without}")
    if without:
        say(f"Without maps, which it does not have: {without}")


def _score(
    pairs: Mapping[Pair, str],
    scorers: Sequence[Scorer],
    run: Run,
    output: Path | None,
    summary: Path | None,
    maps: Path | None,
    explain: bool,
    nested: bool,
) -> bool:
    """Score pairs, each of a group, show and write the scores; whether all are there.

    With ``nested`` a summary in JSON is nested by the parts of the groups' names, as ``results.json`` of Gaussian splatting.
    """
    from msds_plugin.adapters.scoring.store import Results, ResultsWriteError, Scored, store_beside

    groups = list(pairs.values()) if any(pairs.values()) else None
    with setup():
        kept = Results(None if output is None else store_beside(output), alone=True, what=output)
    with kept:
        with setup():
            scored = Scored(list(pairs), scorers, kept, run, groups)
        if scored.ready:
            say(f"Scores of an earlier run that are used again: {scored.ready}")
        end: KeyboardInterrupt | OSError | None = None
        try:
            with progress("scoring", len(pairs)) as advance, closing(scored.run()) as steps:
                for _ in steps:
                    advance()
        except (KeyboardInterrupt, ResultsWriteError) as error:
            end = error
        except BaseException:
            _show(scored, output is None)  # whatever went wrong must not cost what is there
            raise
        means = scored.means()
        try:
            with stoppable(), clean_stdout():
                if output is not None and not isinstance(end, OSError):
                    _write(scored, means, output, explain)
                if summary is not None and len(scored.frame()) < len(pairs) and summary.exists():
                    say(f"{summary} is of an earlier run and stays as it is")
                elif summary is not None:
                    _write_summary(means, summary, nested)
        except (KeyboardInterrupt, OSError) as error:
            end = end if isinstance(end, OSError) else error
        if isinstance(end, OSError):  # first, since stdout may be on the disk that is full
            say(f"Error: {end}. stdout has all that was computed; the same command goes on from what was kept")
        _show(scored, output is None or isinstance(end, OSError))
        if len(pairs) > 1:
            _show_means(scored, means)
        if explain:
            _explain(scored)
        _say_failures(scored)
        if isinstance(end, OSError):
            raise typer.Exit(USAGE)
        if end is not None:
            onwards = "" if output is None else "; the same command goes on from here"
            say(f"Interrupted: {len(scored.frame())} of {len(pairs)} pairs were scored{onwards}")
            raise typer.Exit(exit_code())
    drawn = maps is None or _draw_maps(scored, maps, run)
    if scored.failures and output is not None and scored.ready:
        say("The same command tries only these again")
    return drawn and not scored.failures


def _write(scored: Scored, means: pd.DataFrame, output: Path, explain: bool) -> None:
    """Put the table in its place, and remove what was kept of the run when nothing is missing."""
    from msds_plugin.adapters.scoring.ladders import is_measured, jpeg_equivalent
    from msds_plugin.adapters.scoring.tables import write_table, write_unfinished

    table, note = scored.frame(), None
    for scorer in filter(is_measured, scored.scorers if explain else ()):
        table[f"{scorer.name} jpeg_equivalent"] = [jpeg_equivalent(scorer, each) for each in table[scorer.name]]
    if len(table) == len(scored.pairs):
        write_table(table, output, means)
    else:
        note = write_unfinished(table, output, means)
    say(note or f"Scores are in {output}")
    if scored.ready in (0, len(scored.pairs) * len(scored.scorers)):
        scored.kept.remove()


def _write_summary(means: pd.DataFrame, path: Path, nested: bool) -> None:
    from msds_plugin.adapters.scoring.files import replace_file
    from msds_plugin.adapters.scoring.tables import write_table

    if not (nested and path.suffix.lower() == ".json" and "folder" in means):
        write_table(means, path)
        return
    content: dict[str, Any] = {}
    for row in means.to_dict("records"):
        place = content
        for part in row["folder"].split("/"):
            place = place.setdefault(part, {})
        place[row["metric"]] = None if math.isnan(row["mean"]) else row["mean"]
    replace_file(path, lambda part: part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8"))


def _draw_maps(scored: Scored, folder: Path, run: Run) -> bool:
    """Write the maps; whether all that were asked for are there."""
    from msds_plugin.adapters.scoring.maps import write_maps

    failed = {(pair, metric) for pair, metric, _ in scored.failures}
    with setup():
        made = list(write_maps(scored.pairs, scored.scorers, folder, run))
    lacking = [(pair, metric, why) for pair, metric, why in made if isinstance(why, str) and (pair, metric) not in failed]
    say(f"Maps are in {folder}: {sum(isinstance(path, Path) for _, _, path in made)}")
    if lacking:
        say(f"Without a map: {len(lacking)}")
        for pair, metric, why in lacking:
            say(f"  {pair.distorted} ({metric}): {why}")
    return not lacking


def _show(scored: Scored, needed: bool) -> None:
    table, drawn = scored.frame(), sys.stdout.isatty()
    headings = [each.name if each.words else f"{each.name} {arrow(each.lower_is_better)}" for each in scored.scorers]
    texts = len(table.columns) - len(headings)

    def cell(value: float | str) -> str:
        if isinstance(value, str):
            return value
        return f"{value:.4f}".replace("nan", "-") if drawn else f"{value:.7g}"

    # On a terminal the images' names are enough; elsewhere whole paths serve other programs.
    cells = [
        [*(Path(text).name if drawn else text for text in row[:2]), *row[2:texts], *map(cell, row[texts:])]
        for row in table.to_numpy(object).tolist()
    ]
    show_table([*table.columns[:texts], *headings], cells, numbers=len(headings), needed=needed)


def _show_means(scored: Scored, means: pd.DataFrame) -> None:
    """Mean, standard deviation and number, below the table on a terminal, else on stderr."""
    directions = {scorer.name: arrow(scorer.lower_is_better) for scorer in scored.scorers}
    rows = [
        [*folder, f"{metric} {directions[metric]}", f"{mean:.4f}", f"{deviation:.4f}".replace("nan", "-"), str(count)]
        for *folder, metric, mean, deviation, count in means.to_numpy().tolist()
    ]
    if sys.stdout.isatty():
        show_table(list(means.columns), rows, numbers=3)
        return
    for *names, mean, deviation, count in rows:
        say(f"{' '.join(names)}: mean {mean}, standard deviation {deviation}, n {count}")


def _explain(scored: Scored) -> None:
    """What each metric's score means, of several pairs the mean."""
    from msds_plugin.adapters.scoring.ladders import explain, is_measured

    table = scored.frame()
    for scorer in scored.scorers:
        if not scorer.words:
            prefix = "mean of " if len(table) > 1 and is_measured(scorer) else ""
            text = prefix + explain(scorer, table[scorer.name].mean())
            for line in text.splitlines():
                say(line)


def _say_failures(scored: Scored) -> None:
    if not scored.failures:
        return
    by_reason: dict[tuple[Path, str], list[str]] = defaultdict(list)
    for pair, metric, reason in scored.failures:
        by_reason[pair.distorted, reason].append(metric)
    say(f"Missing scores: {len(scored.failures)}")
    for (path, reason), names in by_reason.items():
        which = "" if len(names) == len(scored.scorers) else f" ({', '.join(names)})"
        say(f"  {path}{which}: {reason}")
