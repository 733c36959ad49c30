"""The named metrics whose weights have to be trained."""

from . import register
from .builtin import made_by
from .entry import Metric

register(
    Metric(
        "spips",
        "SPIPS",
        made_by("spips:SPIPS"),
        True,
        (0, float("inf")),
        "traditional and deep maps, fused by a learned network; to be trained (msds train -m spips)",
        "Z. Lao, H. Yu, Scene Perceived Image Perceptual Score (SPIPS), 2025, arXiv 2504.17234",
    )
)
