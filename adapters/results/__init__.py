"""Where scores go: a store that survives a kill, and tables in csv, json and parquet files."""

from .keys import pair_key
from .store import Outcome, Results, ResultsFileError

__all__ = ["Outcome", "Results", "ResultsFileError", "pair_key"]
