"""Metrics beside people's opinions: data sets, scores, statistics, and fusion weights learned from them."""

from .datasets import Dataset, load_csv, load_pyiqa
from .fit import fit_fusion
from .runner import Benchmark, run
from .summary import Summary, summarise

__all__ = ["Benchmark", "Dataset", "Summary", "fit_fusion", "load_csv", "load_pyiqa", "run", "summarise"]
