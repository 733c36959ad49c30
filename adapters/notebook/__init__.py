"""For notebooks: one function that scores whatever holds images."""

from .score import Scores, score

__all__ = ["Scores", "score"]
