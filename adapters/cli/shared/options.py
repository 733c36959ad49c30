"""Options that several commands have, each with its one help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... [default: a GPU if there is one]")]
BatchSize = Annotated[int, typer.Option(min=1, help="Pairs per batch at most; large images go in smaller ones.")]
Workers = Annotated[int | None, typer.Option(min=0, help="Threads that read images and score them. [default: one per core]")]
HalfPrecision = Annotated[bool, typer.Option("--amp", help="Compute in half precision where torch thinks fit (autocast).")]
KeptScores = Annotated[Path, typer.Option(help="Where scores are kept, and taken from if they are there.")]
Report = Annotated[Path | None, typer.Option(help="Folder for a report: HTML, Markdown, figures and tables.")]
AlsoTable = Annotated[
    Path | None, typer.Option("--output", "-o", help="Also write the table to a .csv, .json or .parquet file.")
]
Resamples = Annotated[int, typer.Option(min=0, help="Resamples of every bootstrap; 0 for no intervals.")]
BootstrapSeed = Annotated[int, typer.Option(help="Of every bootstrap.")]
DatasetName = Annotated[str | None, typer.Option("--dataset", help="Full-reference data set by pyiqa's name.")]
DataRoot = Annotated[Path | None, typer.Option(help="Folder of pyiqa's data sets.")]
LabelTable = Annotated[str | None, typer.Option("--csv", help="Table of reference, distorted, score, as FILE or NAME=FILE.")]
TableRoot = Annotated[Path | None, typer.Option("--root", help="Folder of the table's images. [default: where the table is]")]
LowerBetter = Annotated[bool, typer.Option("--lower-better", help="Lower scores in the table are better (DMOS).")]
