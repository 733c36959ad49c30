"""The commands. Each imports what it needs when it runs."""

from __future__ import annotations

import typer

from .benchmark import benchmark
from .demo import demo
from .fit import fit
from .list import list_metrics
from .ray import score_on_ray
from .reproduce import reproduce
from .robustness import robustness
from .score import score
from .study import study
from .train import train
from .video import video
from .weights import weights

app = typer.Typer(
    help="Deep structural similarity metrics (DeepSSIM, MSDS) for image quality assessment.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("score")(score)
app.command("list")(list_metrics)
app.command("benchmark")(benchmark)
app.command("fit")(fit)
app.command("demo")(demo)
app.command("robustness")(robustness)
app.command("study")(study)
app.command("reproduce")(reproduce)
app.command("train")(train)
app.command("video")(video)
app.command("ray")(score_on_ray)
app.command("weights")(weights)
