"""``msds fit``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from msds_plugin.adapters.cli.shared import options
from msds_plugin.adapters.cli.shared.terminal import finish, progress, resumable, say, show_table

if TYPE_CHECKING:
    from msds_plugin.adapters.benchmark.fit import FusionFit
    from msds_plugin.adapters.scoring import Run


@options.run_options("amp", "crop_border", "mod_crop", "resize", "channel")
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
    dataset: options.DatasetName = None,
    data_root: options.DataRoot = None,
    csv: options.LabelTable = None,
    root: options.TableRoot = None,
    lower_better: options.LowerBetter = False,
    levels: Annotated[int, typer.Option(min=2, max=5, help="Pyramid levels, each with one weight.")] = 3,
    per_layer: Annotated[
        bool, typer.Option("--per-layer", help="A weight for each layer of the network on each level.")
    ] = False,
    folds: Annotated[
        int | None, typer.Option(min=2, help="Folds of the evaluation; no reference is in two. [default: 5]")
    ] = None,
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="One fold per reference, in place of --folds: slower, and less pessimistic.")
    ] = False,
    results: options.KeptScores = Path("msds-fit.sqlite"),
    seed: Annotated[int, typer.Option(min=0, help="Of the division into folds and of the bootstrap.")] = 0,
    *,
    run: Run,
) -> None:
    """Learn the weights of a metric's levels, layers or terms from opinion scores, and say what they are worth.

    Prints SRCC and PLCC of each part alone, of equal and of learned weights on references that the weights were not learned
    from, and whether learned weights beat equal ones. Weights are drawn towards equal ones, as strongly as the references they
    are learned from ask for. The file goes to create_metric("msds", fusion=FILE), MSDS.from_file and msds score --fusion FILE.
    The scores of each part are kept, so that another seed or number of folds takes seconds.
    """
    from msds_plugin.adapters.benchmark.fit import fit_fusion
    from msds_plugin.adapters.scoring.files import check_file

    with resumable():
        options.refuse({"--folds": folds} if leave_one_out else {}, "with --leave-one-out there is no")
        check_file(output)
        data = options.one_dataset(dataset, data_root, csv, root, lower_better, "weights are learned from")
        say(f"Scores are kept in {results}")
        number = None if leave_one_out else folds or 5
        made = fit_fusion(metric, data, levels, number, results, run, seed=seed, progress=progress, per_layer=per_layer)
        made.file.save(output)
    _show(made)
    say(made.verdict)
    say(f"Weights {', '.join(f'{weight:g}' for weight in made.file.weights)}, from all references, are in {output}")
    if made.strength == float("inf"):
        say("They are the equal ones: on references left out no others did better")
    finish(made.failures)


def _show(made: FusionFit) -> None:
    from msds_plugin.adapters.benchmark.report.document import shown

    table = made.held_out.assign(
        difference=[f"{round(value, 4) + 0.0:+.4f}" for value in made.held_out["difference"]],
        p=[f"{value:.2g}" for value in made.held_out["p"]],
    )
    table.loc[table["fusion"] == "equal", ["difference", "p"]] = ""
    columns = {"fusion": "fusion", "srcc": "SRCC", "plcc": "PLCC", "difference": "ΔSRCC", "p": "p"}
    show_table(*shown(table, columns, 4).plain, "held-out references, 95 % intervals, against equal weights")
    print()
    both = made.folds.assign(both=[f"{s:.3f} / {p:.3f}" for s, p in zip(made.folds["srcc"], made.folds["plcc"], strict=True)])
    cells = both.pivot(index="fusion", columns="fold", values="both").loc[made.held_out["fusion"]]
    headings = ["fusion", *(f"fold {fold}" for fold in cells)]
    show_table(headings, cells.reset_index().to_numpy().tolist(), len(headings) - 1, "SRCC / PLCC by fold")
