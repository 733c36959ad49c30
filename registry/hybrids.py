"""The named metrics that are made of several."""

from . import register
from .builtin import DEEPSSIM, MSDS_PAPER, made_by
from .entry import Metric

HAARPSI = (
    "R. Reisenhofer, S. Bosse, G. Kutyniok, T. Wiegand, A Haar wavelet-based perceptual similarity index for image quality "
    "assessment, Signal Processing: Image Communication 61, 2018"
)
MDSI = (
    "H. Ziaei Nafchi, A. Shahkolaei, R. Hedjam, M. Cheriet, Mean Deviation Similarity Index, IEEE Access 4, 2016, "
    "arXiv 1608.07433"
)

register(
    Metric(
        "msds-hybrid",
        "MSDS-Hybrid",
        made_by("hybrid:msds_hybrid"),
        False,
        (-1, 1),
        "MSDS on EfficientNet-Lite0, HaarPSI and MDSI in one score, for aligned pairs",
        "; ".join((MSDS_PAPER, DEEPSSIM, HAARPSI, MDSI)),
        multiscale=True,
    )
)
