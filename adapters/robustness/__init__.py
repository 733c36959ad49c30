"""What a metric makes of a reference that does not line up: deformations times distortions of clean photographs."""

from .deformations import DEFORMATIONS, Deformation, deform
from .distortions import DISTORTIONS, Distortion, distort
from .run import Robustness, run_robustness
from .summary import summarise

__all__ = [
    "DEFORMATIONS",
    "DISTORTIONS",
    "Deformation",
    "Distortion",
    "Robustness",
    "deform",
    "distort",
    "run_robustness",
    "summarise",
]
