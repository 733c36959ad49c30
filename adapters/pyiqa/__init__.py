"""The registered metrics in pyiqa, ``pyiqa.create_metric("msds")``, and every full-reference metric on a pyramid."""

from ..common.borrow import lend
from .metric import PyiqaMetric, attach

__all__ = ["PyiqaMetric", "attach", "lend"]

attach()
