"""What ``msds score`` does with images."""

from __future__ import annotations

import json
import math
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import typer

from msds_plugin.adapters.cli.shared.metrics import make_scorers
from msds_plugin.adapters.cli.shared.process import exit_code, stoppable
from msds_plugin.adapters.cli.shared.terminal import INCOMPLETE, USAGE, arrow, clean_stdout, progress, say, setup, show_table
from msds_plugin.adapters.images.pairs import Matching, Pair
from msds_plugin.adapters.scorers import Scorer
from msds_plugin.adapters.scoring.files import replace_file
from msds_plugin.adapters.scoring.maps import write_maps
from msds_plugin.adapters.scoring.options import Run
from msds_plugin.adapters.scoring.scored import Scored, summarise
from msds_plugin.adapters.scoring.store import Results, ResultsWriteError, store_beside
from msds_plugin.adapters.scoring.tables import check_output, write_table, write_unfinished


def score_images(
    matchings: Mapping[str, Matching],
    metrics: Sequence[str],
    run: Run,
    output: Path | None,
    summary: Path | None,
    maps: Path | None,
    fusion: Path | None,
    saliency: Mapping[str, Any] | None,
    networks: Mapping[str, str],
    allow_unmatched: bool,
    by_group: bool = False,
) -> None:
    """Score the pairs of one or several folders, show and write them, and leave with the command's exit code.

    Args:
        matchings: pairs by the folder they are of.
        metrics: names.
        run: how.
        output, summary, maps: what is to be written, None for nothing.
        fusion, saliency, networks: options of the metrics.
        allow_unmatched: images without a counterpart do not count as missing scores.
        by_group: a summary in JSON is nested by the parts of the groups' names, as ``results.json`` of Gaussian splatting.
    """
    with setup(), clean_stdout():
        for path in (output, summary):
            if path is not None:
                check_output(path)
        scorers, unavailable = make_scorers(metrics, run, fusion, saliency, **networks)
        if maps is not None:
            _check_maps(scorers)
    for name, reason in unavailable.items():
        say(f"Without {name}: {reason}")
    incomplete = bool(unavailable) or (not allow_unmatched and any(each.unscored for each in matchings.values()))
    pairs = {pair: _group(name, pair, len(matchings) > 1) for name, matching in matchings.items() for pair in matching.pairs}
    groups = list(pairs.values()) if any(pairs.values()) else None
    with setup(), clean_stdout():
        kept = Results(None if output is None else store_beside(output), alone=True, what=output)
    with kept:
        with setup(), clean_stdout():
            scored = Scored(list(pairs), scorers, kept, run, groups)
        if scored.ready:
            say(f"Scores of an earlier run that are used again: {scored.ready}")
        unkept: OSError | None = None
        stopped: KeyboardInterrupt | None = None
        try:
            with clean_stdout(), progress("scoring", len(pairs)) as advance, closing(scored.run()) as steps:
                for _ in steps:
                    advance()
        except KeyboardInterrupt as error:
            stopped = error
        except ResultsWriteError as error:
            unkept = error
        except BaseException:
            _show(scored, output is None)  # whatever went wrong must not cost what is there
            raise
        table = scored.frame()
        means = _means(scored, table)
        try:
            with stoppable(), clean_stdout():
                if output is not None and unkept is None:
                    _write(scored, table, means, output)
                if summary is not None:
                    _write_summary(means, summary, by_group)
        except KeyboardInterrupt as error:
            stopped = error
        except OSError as error:
            unkept = error
        drawn = True
        if maps is not None and stopped is None and unkept is None:
            drawn = _draw_maps(scored, maps, run)
        _finish(scored, output, means, stopped, unkept)
    if incomplete or not drawn:
        raise typer.Exit(INCOMPLETE)


def _group(folder: str, pair: Pair, several: bool) -> str:
    return "/".join(part for part in (folder if several else "", pair.group) if part)


def _check_maps(scorers: Sequence[Scorer]) -> None:
    """Say which metrics have no maps.

    Raises:
        ValueError: none has.
    """
    without = ", ".join(scorer.name for scorer in scorers if not scorer.metric.has_map)
    if all(not scorer.metric.has_map for scorer in scorers):
        raise ValueError(f"maps are for DeepSSIM, MSDS and their forms, not for {without}")
    if without:
        say(f"Without maps, which it does not have: {without}")


def _draw_maps(scored: Scored, folder: Path, run: Run) -> bool:
    """Write the maps; whether all that were asked for are there."""
    failed = {(pair, metric) for pair, metric, _ in scored.failures}
    written, lacking = 0, []
    with setup(), clean_stdout():
        for pair, metric, made in write_maps(scored.pairs, scored.scorers, folder, run):
            if isinstance(made, Path):
                written += 1
            elif (pair, metric) not in failed:
                lacking.append(f"  {pair.distorted} ({metric}): {made}")
    say(f"Maps are in {folder}: {written}")
    if lacking:
        say(f"Without a map: {len(lacking)}")
        for line in lacking:
            say(line)
    return not lacking


def _write(scored: Scored, table: pd.DataFrame, means: pd.DataFrame, output: Path) -> None:
    """Put the table in its place, and remove what was kept of the run when nothing is missing."""
    if scored.is_whole or len(table) == len(scored.pairs):
        write_table(table, output, means)
        note = None
    else:
        note = write_unfinished(table, output, means)
    say(note or f"Scores are in {output}")
    if scored.is_whole or not scored.ready:
        scored.kept.remove()


def _write_summary(means: pd.DataFrame, path: Path, by_group: bool) -> None:
    if not (by_group and path.suffix.lower() == ".json" and "folder" in means):
        write_table(means, path)
        return
    nested: dict[str, Any] = {}
    for row in means.to_dict("records"):
        place = nested
        for part in row["folder"].split("/"):
            place = place.setdefault(part, {})
        place[row["metric"]] = None if math.isnan(row["mean"]) else row["mean"]
    replace_file(path, lambda part: part.write_text(json.dumps(nested, indent=2) + "\n", encoding="utf-8"))


def _finish(
    scored: Scored, output: Path | None, means: pd.DataFrame, stopped: KeyboardInterrupt | None, unkept: OSError | None
) -> None:
    """Show what there is, say what is missing and why, and leave with the code for it."""
    if unkept is not None:
        # First, since stdout may be on the disk that is full.
        say(f"Error: {unkept}. stdout has all that was computed; the same command goes on from what was kept")
    _show(scored, output is None or unkept is not None)
    _show_means(scored, means)
    _say_failures(scored)
    if unkept is not None:
        raise typer.Exit(USAGE)
    if stopped is not None:
        onwards = "" if output is None else "; the same command goes on from here"
        say(f"Interrupted: {len(scored.frame())} of {len(scored.pairs)} pairs were scored{onwards}")
        raise typer.Exit(exit_code(stopped))
    if scored.failures:
        if output is not None and scored.ready:
            say("The same command tries only these again")
        raise typer.Exit(INCOMPLETE)


def _show(scored: Scored, needed: bool) -> None:
    table, drawn = scored.frame(), sys.stdout.isatty()
    headings = [f"{scorer.name} {arrow(scorer.lower_is_better)}" for scorer in scored.scorers]
    texts = len(table.columns) - len(headings)
    # On a terminal the names are enough; elsewhere whole paths serve other programs.
    cells = [
        [*(Path(text).name if drawn else text for text in row[:texts]), *(_number(value, drawn) for value in row[texts:])]
        for row in table.to_numpy().tolist()
    ]
    show_table([*table.columns[:texts], *headings], cells, numbers=len(headings), needed=needed)


def _number(value: float, drawn: bool) -> str:
    if math.isnan(value):
        return "-" if drawn else "nan"
    return f"{value:.4f}" if drawn else f"{value:.7g}"


def _means(scored: Scored, table: pd.DataFrame) -> pd.DataFrame:
    """Means per metric, and per folder where there are several."""
    folders = [Path(path).parent.as_posix() for path in table["distorted"]]
    if scored.groups is None and len(set(folders)) > 1:
        table = table.assign(folder=folders)
    return summarise(table, [scorer.name for scorer in scored.scorers], "folder" if "folder" in table else None)


def _show_means(scored: Scored, means: pd.DataFrame) -> None:
    """Mean, standard deviation and number, below the table on a terminal, else on stderr."""
    if len(scored.pairs) < 2:
        return
    directions = {scorer.name: arrow(scorer.lower_is_better) for scorer in scored.scorers}
    rows = [
        [*row[:-4], f"{row[-4]} {directions[row[-4]]}", f"{row[-3]:.4f}", f"{row[-2]:.4f}", str(row[-1])]
        for row in means.to_numpy().tolist()
    ]
    if sys.stdout.isatty():
        show_table(list(means.columns), rows, numbers=3)
        return
    for *folder, metric, mean, deviation, count in rows:
        say(f"{' '.join([*folder, metric])}: mean {mean}, standard deviation {deviation}, n {count}")


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
