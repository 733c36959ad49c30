"""The registered metrics as ``torchmetrics.Metric``, and any full-reference metric of pyiqa and piq by its name."""

from .functional import deepssim, deepssim_fast, deepssim_lite, full_reference, msds, msds_fast, msds_lite
from .metric import MSDS, DeepSSIM, DeepSSIMFast, DeepSSIMLite, FullReference, MSDSFast, MSDSLite

__all__ = [
    "MSDS",
    "DeepSSIM",
    "DeepSSIMFast",
    "DeepSSIMLite",
    "FullReference",
    "MSDSFast",
    "MSDSLite",
    "deepssim",
    "deepssim_fast",
    "deepssim_lite",
    "full_reference",
    "msds",
    "msds_fast",
    "msds_lite",
]
