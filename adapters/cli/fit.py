"""``msds fit``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from msds_plugin.adapters.cli.shared.datasets import datasets_of
from msds_plugin.adapters.cli.shared.options import DataRoot, DatasetName, LabelTable, LowerBetter, TableRoot, run_options
from msds_plugin.adapters.cli.shared.process import exit_code
from msds_plugin.adapters.cli.shared.terminal import (
    INCOMPLETE,
    clean_stdout,
    progress,
    say,
    say_failures,
    setup,
    show_table,
    show_unkept,
)

if TYPE_CHECKING:
    from msds_plugin.adapters.benchmark.fit import FusionFit
    from msds_plugin.adapters.scoring.options import Run


@run_options("amp", "crop_border", "mod_crop", "resize", "channel")
def fit(
    metric: Annotated[
        str,
        typer.Option(
            "--metric",
            "-m",
            metavar="TEXT",
            help="msds, msds-fast, msds-hybrid, ms-lpips, ..., with options after commas (msds,backbone=alexnet).",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the weights (JSON).")],
    dataset: DatasetName = None,
    data_root: DataRoot = None,
    csv: LabelTable = None,
    root: TableRoot = None,
    lower_better: LowerBetter = False,
    levels: Annotated[int, typer.Option(min=2, max=5, help="Pyramid levels, each with one weight.")] = 3,
    per_layer: Annotated[
        bool, typer.Option("--per-layer", help="A weight for each layer of the network on each level.")
    ] = False,
    folds: Annotated[int, typer.Option(min=2, help="Folds of the evaluation; no reference is in two.")] = 5,
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="One fold per reference, in place of --folds: slower, and less pessimistic.")
    ] = False,
    results: Annotated[Path, typer.Option(help="Where the scores of each part are kept, and taken from.")] = Path(
        "msds-fit.sqlite"
    ),
    seed: Annotated[int, typer.Option(help="Of the division into folds and of the bootstrap.")] = 0,
    *,
    run: Run,
) -> None:
    """Learn the weights of a metric's levels, layers or terms from opinion scores, and say what they are worth.

    Prints SRCC and PLCC of each part alone, of equal and of learned weights on references that the weights were not learned
    from, and whether learned weights beat equal ones. Weights are drawn towards equal ones, as strongly as the references they
    are learned from ask for. The file goes to create_metric("msds", fusion=FILE), MSDS.from_file and msds score --fusion FILE.
    The scores of each part are kept, so that another seed or number of folds takes seconds.

    Exit codes: 0 written, 1 written but some images had no score (stderr says which and why), 2 could not start or could not
    write, 130, 143 or 129 stopped by Ctrl-C, SIGTERM or SIGHUP.
    """
    from msds_plugin.adapters.benchmark.fit import fit_fusion
    from msds_plugin.adapters.benchmark.runner import NotKeptError
    from msds_plugin.adapters.scoring.files import check_file

    with setup(), clean_stdout():
        check_file(output)
        names, tables = ([dataset] if dataset else []), ([csv] if csv else [])
        found = datasets_of(names, data_root, tables, [root] if root else [], lower_better)
        if len(found) != 1:
            raise ValueError("weights are learned from one data set: give --dataset or --csv, not both")
        say(f"Scores are kept in {results}")
    number = None if leave_one_out else folds
    try:
        with setup(NotKeptError), clean_stdout():
            made = fit_fusion(metric, found[0], levels, number, results, run, seed=seed, progress=progress, per_layer=per_layer)
            made.file.save(output)
    except NotKeptError as error:
        raise show_unkept(error.computed, str(error)) from None
    except KeyboardInterrupt as error:
        say("Interrupted: start again to go on from here")
        raise typer.Exit(exit_code(error)) from None
    _show(made)
    say_failures(made.failures)
    say(made.verdict)
    say(f"Weights {', '.join(f'{weight:g}' for weight in made.file.weights)}, from all references, are in {output}")
    if made.strength == float("inf"):
        say("They are the equal ones: on references left out no others did better")
    if len(made.failures):
        raise typer.Exit(INCOMPLETE)


def _show(made: FusionFit) -> None:
    srcc = made.folds.pivot(index="fusion", columns="fold", values="srcc")
    plcc = made.folds.pivot(index="fusion", columns="fold", values="plcc")
    rows = [
        [
            row["fusion"],
            *(f"{row[k]:.3f} [{row[f'{k}_low']:.3f}, {row[f'{k}_high']:.3f}]" for k in ("srcc", "plcc")),
            *(("", "") if row["fusion"] == "equal" else (f"{round(row['difference'], 4) + 0.0:+.4f}", f"{row['p']:.2g}")),
        ]
        for row in made.held_out.to_dict("records")
    ]
    show_table(["fusion", "SRCC", "PLCC", "ΔSRCC", "p"], rows, 4, "held-out references, 95 % intervals, against equal weights")
    print()
    cells = [
        [name, *(f"{s:.3f} / {p:.3f}" for s, p in zip(srcc.loc[name], plcc.loc[name], strict=True))]
        for name in made.held_out["fusion"]
    ]
    show_table(["fusion", *(f"fold {fold}" for fold in srcc)], cells, len(srcc.columns), "SRCC / PLCC by fold")
