"""The published tables, measured again on the data sets that are at hand."""

from .published import PUBLISHED, SETS, Published
from .run import Reproduction, reproduce

__all__ = ["PUBLISHED", "SETS", "Published", "Reproduction", "reproduce"]
