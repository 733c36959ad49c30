"""What ``msds score`` does with images."""

from __future__ import annotations

import json
import math
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import typer

from msds_plugin import registry
from msds_plugin.adapters.cli.shared.process import exit_code, stoppable
from msds_plugin.adapters.cli.shared.terminal import INCOMPLETE, USAGE, arrow, clean_stdout, progress, say, setup, show_table
from msds_plugin.adapters.images.pairs import Matching
from msds_plugin.adapters.names import parse_metric
from msds_plugin.adapters.scorers import MetricUnavailableError, Scorer, create_scorers
from msds_plugin.adapters.scoring.files import replace_file
from msds_plugin.adapters.scoring.masks import find_masks
from msds_plugin.adapters.scoring.options import Run
from msds_plugin.adapters.scoring.store import Results, ResultsWriteError, Scored, store_beside
from msds_plugin.adapters.scoring.tables import check_output, write_table, write_unfinished
from msds_plugin.checks import MissingDependencyError, WeightsFileError, WeightsNotFoundError

_UNAVAILABLE = (MetricUnavailableError, MissingDependencyError, WeightsFileError, WeightsNotFoundError)


def score_images(
    matchings: Mapping[str, Matching],
    metrics: Sequence[str],
    run: Run,
    output: Path | None,
    summary: Path | None,
    maps: Path | None,
    mask: Path | None,
    details: bool,
    explain: bool,
    fusion: Path | None,
    saliency: str,
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
        mask: file or folder, see :func:`find_masks`.
        details: how MSDS-Auto judged each pair, too.
        explain: what the scores mean, too.
        fusion, networks: options of the metrics.
        saliency: options of those that take it, as they follow a name.
        allow_unmatched: images without a counterpart do not count as missing scores.
        by_group: a summary in JSON is nested by the parts of the groups' names, as ``results.json`` of Gaussian splatting.
    """
    several = len(matchings) > 1
    pairs = {
        pair: "/".join(filter(None, (folder * several, pair.group)))
        for folder, matching in matchings.items()
        for pair in matching.pairs
    }
    groups = list(pairs.values()) if any(pairs.values()) else None
    with setup(), clean_stdout():
        for path in filter(None, (output, summary)):
            check_output(path)
        scorers, lacking = _make_scorers(metrics, run, fusion, networks, saliency)
        for name, reason in lacking.items():
            say(f"Without {name}: {reason}")
        if maps is not None:
            _check_maps(scorers)
        if mask is not None:
            unused = [path for matching in matchings.values() for path in matching.unmatched]
            run = replace(run, masks=find_masks(mask, [pair.reference for pair in pairs], unused))
        words: dict[str, Sequence[str]] = {}
        if details:
            from msds_plugin.adapters.scoring.details import REGIMES, with_regimes

            judged = with_regimes(scorers)
            words = {scorer.name: REGIMES for scorer in judged if scorer not in scorers}
            scorers = judged
        kept = Results(None if output is None else store_beside(output), alone=True, what=output)
    with kept:
        with setup(), clean_stdout():
            scored = Scored(list(pairs), scorers, kept, run, groups, words)
        if scored.ready:
            say(f"Scores of an earlier run that are used again: {scored.ready}")
        end: KeyboardInterrupt | OSError | None = None
        try:
            with clean_stdout(), progress("scoring", len(pairs)) as advance, closing(scored.run()) as steps:
                for _ in steps:
                    advance()
        except (KeyboardInterrupt, ResultsWriteError) as error:
            end = error
        except BaseException:
            _show(scored, output is None)  # whatever went wrong must not cost what is there
            raise
        means = _means(scored)
        try:
            with stoppable(), clean_stdout():
                if output is not None and not isinstance(end, OSError):
                    _write(scored, means, output, explain)
                if summary is not None:
                    _write_summary(means, summary, by_group)
        except (KeyboardInterrupt, OSError) as error:
            end = end if isinstance(end, OSError) else error
        drawn = maps is None or end is not None or _draw_maps(scored, maps, run)
        if isinstance(end, OSError):  # first, since stdout may be on the disk that is full
            say(f"Error: {end}. stdout has all that was computed; the same command goes on from what was kept")
        _show(scored, output is None or isinstance(end, OSError))
        _show_means(scored, means)
        if explain:
            _explain(scored)
        _say_failures(scored)
        if isinstance(end, OSError):
            raise typer.Exit(USAGE)
        if end is not None:
            onwards = "" if output is None else "; the same command goes on from here"
            say(f"Interrupted: {len(scored.frame())} of {len(scored.pairs)} pairs were scored{onwards}")
            raise typer.Exit(exit_code(end))
    if scored.failures and output is not None and scored.ready:
        say("The same command tries only these again")
    unscored = not allow_unmatched and any(each.unscored for each in matchings.values())
    if scored.failures or lacking or unscored or not drawn:
        raise typer.Exit(INCOMPLETE)


def _make_scorers(
    names: Sequence[str], run: Run, fusion: Path | None, networks: Mapping[str, str], saliency: str
) -> tuple[list[Scorer], dict[str, str]]:
    """The metrics, and by their names why others cannot be made, for want of weights or of a toolkit.

    Raises:
        ValueError: unknown names or options, or saliency for none that takes it.
        MetricUnavailableError, MissingDependencyError, WeightsNotFoundError, WeightsFileError: none can be made.
    """

    def create(*names: str) -> list[Scorer]:
        plain = [parse_metric(name)[0] for name in names]
        takes = any(name in registry.names() and registry.get(name).takes_backbone for name in plain)
        alone = len(names) == 1 < len(every)
        file = None if alone and plain != [fused] else fusion
        return create_scorers(names, run.device, run.runtime, file, **({} if alone and not takes else networks))

    every, fused, made, lacking = names, _metric_of(fusion), {}, {}
    try:
        made = dict(zip(names, create(*names), strict=True))
    except _UNAVAILABLE as cause:
        for name in names:
            try:
                (made[name],) = create(name)
            except _UNAVAILABLE as error:
                lacking[name] = str(error)
        if not made:
            raise cause from None
    if saliency:
        without = ", ".join(scorer.name for scorer in made.values() if not scorer.metric.takes_saliency)
        if not any(scorer.metric.takes_saliency for scorer in made.values()):
            raise ValueError(f"--saliency has no effect on {without}: leave it out")
        if without:
            say(f"Without saliency, which it does not take: {without}")
        for name, scorer in made.items():
            if scorer.metric.takes_saliency:
                (made[name],) = create(name + saliency)
    return list(made.values()), lacking


def _metric_of(fusion: Path | None) -> str | None:
    if fusion is None:
        return None
    from msds_plugin.fusion_file import FusionFile

    return FusionFile.load(fusion).metric


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
    from msds_plugin.adapters.scoring.maps import write_maps

    failed = {(pair, metric) for pair, metric, _ in scored.failures}
    with setup(), clean_stdout():
        made = list(write_maps(scored.pairs, scored.scorers, folder, run))
    lacking = [(pair, metric, why) for pair, metric, why in made if isinstance(why, str) and (pair, metric) not in failed]
    say(f"Maps are in {folder}: {sum(isinstance(path, Path) for _, _, path in made)}")
    if lacking:
        say(f"Without a map: {len(lacking)}")
        for pair, metric, why in lacking:
            say(f"  {pair.distorted} ({metric}): {why}")
    return not lacking


def _write(scored: Scored, means: pd.DataFrame, output: Path, explain: bool) -> None:
    """Put the table in its place, and remove what was kept of the run when nothing is missing."""
    table, note = scored.frame(), None
    if explain:
        from msds_plugin.adapters.scoring.ladders import is_measured, jpeg_equivalent

        for scorer in filter(is_measured, scored.scorers):
            table[f"{scorer.name} jpeg_equivalent"] = [jpeg_equivalent(scorer, each) for each in table[scorer.name]]
    if len(table) == len(scored.pairs):
        write_table(table, output, means)
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


def _show(scored: Scored, needed: bool) -> None:
    table, drawn = scored.frame(), sys.stdout.isatty()
    headings = [
        scorer.name if scorer.name in scored.words else f"{scorer.name} {arrow(scorer.lower_is_better)}"
        for scorer in scored.scorers
    ]
    texts = len(table.columns) - len(headings)
    # On a terminal the names are enough; elsewhere whole paths serve other programs.
    cells = [
        [*(Path(text).name if drawn else text for text in row[:texts]), *(_cell(value, drawn) for value in row[texts:])]
        for row in table.to_numpy(object).tolist()
    ]
    show_table([*table.columns[:texts], *headings], cells, numbers=len(headings), needed=needed)


def _cell(value: float | str, drawn: bool) -> str:
    if isinstance(value, str):
        return value
    if math.isnan(value):
        return "-" if drawn else "nan"
    return f"{value:.4f}" if drawn else f"{value:.7g}"


def _means(scored: Scored) -> pd.DataFrame:
    """Mean, standard deviation (of a sample) and number of scores per metric, and per folder where there are several."""
    table = scored.frame()
    folders = [Path(path).parent.as_posix() for path in table["distorted"]]
    if scored.groups is None and len(set(folders)) > 1:
        table = table.assign(folder=folders)
    parts = [(str(name), part) for name, part in table.groupby("folder", sort=False)] if "folder" in table else []
    if len(parts) != 1:
        parts.append(("all", table))
    rows = [
        [name, scorer.name, part[scorer.name].mean(), part[scorer.name].std(), int(part[scorer.name].count())]
        for name, part in parts
        for scorer in scored.scorers
        if scorer.name not in scored.words
    ]
    means = pd.DataFrame(rows, columns=["folder", "metric", "mean", "std", "n"])
    return means if "folder" in table else means.drop(columns="folder")


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


def _explain(scored: Scored) -> None:
    """What each metric's score means, of several pairs the mean."""
    from msds_plugin.adapters.scoring.ladders import explain

    table = scored.frame()
    for scorer in scored.scorers:
        if scorer.name not in scored.words:
            text = ("mean of " if len(table) > 1 else "") + explain(scorer, table[scorer.name].mean())
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
