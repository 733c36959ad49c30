"""Metrics by name, and the engine that scores pairs of files with them."""

from .engine import Result, score_pairs
from .scorers import create_scorer, create_scorers, describe_metrics

__all__ = ["Result", "create_scorer", "create_scorers", "describe_metrics", "score_pairs"]
