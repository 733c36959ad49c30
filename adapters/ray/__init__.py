"""Many pairs on a Ray cluster: each shard of pairs becomes one Parquet file, and a restart computes what is missing."""

from msds_plugin.adapters.ray.pairs import read_pairs
from msds_plugin.adapters.ray.score import Progress, score

__all__ = ["Progress", "read_pairs", "score"]
