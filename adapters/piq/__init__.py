"""The registered metrics in piq, ``piq.msds(x, y)`` and ``piq.MSDSLoss()``, and ``piq.MultiScale`` for piq's own.

All are also to be imported from here.
"""

from typing import Any

from . import metric as _metric
from .metric import DeepSSIMLoss, MetricLoss, MSDSLoss, MultiScale, attach, deepssim, msds

__all__ = ["DeepSSIMLoss", "MSDSLoss", "MetricLoss", "MultiScale", "attach", "deepssim", "msds"]


def __getattr__(name: str) -> Any:
    """The functions and losses of metrics that were registered, for imports and for pickle."""
    return getattr(_metric, name)


attach()
