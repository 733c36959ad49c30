"""Metrics beside people's opinions: data sets, scores, statistics, and fusion weights learned from them."""

from msds_plugin.adapters.benchmark.choices import Choices, ChoiceSummary, load_choices, run_choices
from msds_plugin.adapters.benchmark.compare import Comparison, compare
from msds_plugin.adapters.benchmark.datasets import Dataset, load_csv, load_pyiqa
from msds_plugin.adapters.benchmark.fit import fit_fusion
from msds_plugin.adapters.benchmark.runner import Benchmark, run
from msds_plugin.adapters.benchmark.summary import Summary, summarise

__all__ = [
    "Benchmark",
    "ChoiceSummary",
    "Choices",
    "Comparison",
    "Dataset",
    "Summary",
    "compare",
    "fit_fusion",
    "load_choices",
    "load_csv",
    "load_pyiqa",
    "run",
    "run_choices",
    "summarise",
]
