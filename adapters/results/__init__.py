"""Where scores go: a store that survives a kill, and tables in csv, json and parquet files."""

from .store import Outcome, Results, ResultsFileError, pair_key

__all__ = ["Outcome", "Results", "ResultsFileError", "pair_key"]
