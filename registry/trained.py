"""The named metrics whose weights have to be trained."""

from msds_plugin.spips import SPIPS

from . import register
from .entry import Metric

register(
    Metric(
        "spips",
        "SPIPS",
        SPIPS,
        True,
        (0, float("inf")),
        "traditional and deep maps, fused by a learned network; to be trained (msds train -m spips)",
        "Z. Lao, H. Yu, Scene Perceived Image Perceptual Score (SPIPS), 2025, arXiv 2504.17234",
    )
)
