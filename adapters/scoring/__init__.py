"""Scores of pairs: of image files, of whatever holds images, kept in a store and written to tables and maps."""

from msds_plugin.adapters.images.pairs import Pair
from msds_plugin.adapters.scoring.loop import Result, Run, score_pairs

__all__ = ["Pair", "Result", "Run", "score_pairs"]
