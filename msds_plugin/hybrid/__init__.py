"""One score of several metrics, and the local terms that go well with a global one.

>>> from msds_plugin.hybrid import MDSI, HaarPSI, Hybrid, Term
>>> metric = Hybrid([Term(HaarPSI()), Term(MDSI(), dissimilarity=None, scale=0.35)])
"""

from .haarpsi import HaarPSI
from .hybrid import Hybrid
from .mdsi import MDSI
from .named import msds_hybrid
from .term import Term, from_similarity

__all__ = ["MDSI", "HaarPSI", "Hybrid", "Term", "from_similarity", "msds_hybrid"]
