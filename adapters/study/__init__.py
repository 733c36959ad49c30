"""Which layers, levels, comparisons and backbones agree with people: a grid on an opinion-scored set."""

from .comparisons import COMPARISONS
from .grid import Study, run_study
from .summary import StudySummary, summarise

__all__ = ["COMPARISONS", "Study", "StudySummary", "run_study", "summarise"]
