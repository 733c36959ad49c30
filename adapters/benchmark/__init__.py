"""Metrics beside people's opinions: data sets, scores, statistics, and fusion weights learned from them."""

from .choices import Choices, ChoiceSummary, load_choices, run_choices
from .datasets import Dataset, load_csv, load_pyiqa
from .fit import fit_fusion
from .runner import Benchmark, run
from .sizes import run_any_size
from .summary import Summary, summarise

__all__ = [
    "Benchmark",
    "ChoiceSummary",
    "Choices",
    "Dataset",
    "Summary",
    "fit_fusion",
    "load_choices",
    "load_csv",
    "load_pyiqa",
    "run",
    "run_any_size",
    "run_choices",
    "summarise",
]
