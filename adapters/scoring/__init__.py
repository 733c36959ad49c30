"""Metrics by name, and the engine that scores pairs of files with them."""

from lazy_loader import attach

# Not imported here: the list of metrics needs no torch.
__getattr__, __dir__, __all__ = attach(
    __name__,
    submod_attrs={"engine": ["Pair", "Result", "score_pairs"], "scorers": ["create_scorer", "create_scorers"]},
)
