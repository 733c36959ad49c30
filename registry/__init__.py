"""What a named metric is, independent of any toolkit: one row of the table below.

    >>> from msds_plugin.registry import Metric, names, register
    >>> "msds" in names()
    True

A metric registered here appears in every toolkit that is attached, now and later.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Metric", "create", "get", "names", "register", "subscribe"]


@dataclass(frozen=True)
class Metric:
    """A full-reference metric by name.

    Attributes:
        name: lower case, as in ``create_metric(name)``: letters, digits, ``-``, ``_``, ``+`` and ``.``.
        title: as written in tables; also the stem of class names (``MSDS-Fast`` gives ``MSDSFastLoss``).
        factory: keyword options to a module called with (distorted, reference), each (N, 3, H, W) in [0, 1]; returns (N,).
        lower_is_better: direction of the score.
        score_range: smallest and largest value it can take; infinite where there is no bound.
        summary: one line.
        citation: where it was published.
        takes_backbone: the factory has the options ``backbone`` and ``weights``, because the name promises no other network.
        multiscale: it works on a pyramid already, with the options ``levels`` and ``fusion``.
        torch_only: a metric of this package without the option ``runtime``.

    Raises:
        TypeError: a factory that cannot be called, or a module in its place.
        ValueError: a name that could not be typed, or a range that is not one.
    """

    name: str
    title: str
    factory: Callable[..., nn.Module]
    lower_is_better: bool
    score_range: tuple[float, float]
    summary: str
    citation: str = ""
    takes_backbone: bool = False
    multiscale: bool = False
    torch_only: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_.+-]*", self.name):
            raise ValueError(f"a metric's name is lower-case letters, digits, '-', '_', '+' and '.', got {self.name!r}")
        if not re.match(r"[A-Za-z]", self.title):
            raise ValueError(f"a metric's title starts with a letter, got {self.title!r}")
        if not callable(self.factory) or any(kind.__name__ == "Module" for kind in type(self.factory).__mro__):
            raise TypeError(
                f"the factory of {self.name!r} must be a class or function that makes the metric, got "
                f"{type(self.factory).__name__}: give the class, or lambda **options: ..."
            )
        low, high = self.score_range
        if not low < high:
            raise ValueError(f"score_range of {self.name!r} must be (smallest, largest), got {self.score_range}")

    @property
    def best(self) -> float:
        """The score of a perfect image, infinite where there is no bound."""
        return self.score_range[0] if self.lower_is_better else self.score_range[1]

    @property
    def class_name(self) -> str:
        """The stem of class names: ``MSDSLiteFast`` of the title ``MSDS-Lite-Fast``."""
        return "".join(filter(str.isalnum, self.title))

    @property
    def function_name(self) -> str:
        """The name of functions: ``msds_lite_fast`` of ``msds-lite-fast``."""
        return re.sub(r"\W", "_", self.name)

    @property
    def built_in(self) -> bool:
        """Whether it is a metric of this package."""
        return self.factory.__module__.startswith("msds_plugin.")


_metrics: dict[str, Metric] = {}
_listeners: list[Callable[[Metric], None]] = []


def register(metric: Metric, override: bool = False) -> Metric:
    """Add a named metric, and tell every attached toolkit.

    Args:
        metric: what the name stands for.
        override: replace a metric of this name instead of raising.

    Raises:
        ValueError: the name is taken.
    """
    if metric.name in _metrics and not override:
        raise ValueError(f"a metric named {metric.name!r} is registered already: choose another name or pass override=True")
    _metrics[metric.name] = metric
    for listener in _listeners:
        listener(metric)
    return metric


def subscribe(listener: Callable[[Metric], None]) -> None:
    """Call ``listener`` with every metric there is and every one that comes; a second time does nothing."""
    if listener in _listeners:
        return
    _listeners.append(listener)
    for metric in list(_metrics.values()):
        listener(metric)


def names() -> list[str]:
    """The registered names, in order of registration."""
    return list(_metrics)


def get(name: str) -> Metric:
    """The metric of this name.

    Raises:
        KeyError: there is none; names the nearest ones.
    """
    if name not in _metrics:
        near = difflib.get_close_matches(name.lower(), _metrics) or list(_metrics)
        raise KeyError(f"no metric named {name!r}; did you mean {', '.join(near)}?")
    return _metrics[name]


def create(name: str, **options: Any) -> nn.Module:
    """Build the metric of this name with the options of its factory: a module of (distorted, reference) to scores (N,).

    Raises:
        KeyError: no metric of this name.
    """
    return get(name).factory(**options)


# The metrics of this package.


@dataclass(frozen=True)
class Factory:
    """The class or function at ``place``, ``module:name`` in ``msds_plugin``, imported at its first call.

    ``fixed`` are options that the metric's name implies: to pass one is a ValueError.
    """

    place: str
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, **options: Any) -> nn.Module:
        """The metric with these options."""
        for name in self.fixed.keys() & options:
            raise ValueError(f"the {name} of this metric is {self.fixed[name]} by name: for another one use msds or deepssim")
        module, _, attribute = self.place.partition(":")
        made: nn.Module = getattr(import_module(f"msds_plugin.{module}"), attribute)(**self.fixed, **options)
        return made


DEEPSSIM = (
    "K. Zhang, W. Chen, T. Zhao, Z. Wang, Structural Similarity in Deep Features: Unified Image Quality Assessment Robust to "
    "Geometrically Disparate Reference, IEEE TPAMI 2025, arXiv 2412.19553"
)
MSDS = (
    "D. Kang, X.-H. Chen, B. Liu, K. Zhang, W. Chen, T. Zhao, MSDS: Deep Structural Similarity with Multiscale Representation, "
    "2026, arXiv 2604.19159"
)
HAARPSI = (
    "R. Reisenhofer, S. Bosse, G. Kutyniok, T. Wiegand, A Haar wavelet-based perceptual similarity index for image quality "
    "assessment, Signal Processing: Image Communication 61, 2018"
)
MDSI = (
    "H. Ziaei Nafchi, A. Shahkolaei, R. Hedjam, M. Cheriet, Mean Deviation Similarity Index, IEEE Access 4, 2016, "
    "arXiv 1608.07433"
)
SPIPS = "Z. Lao, H. Yu, Scene Perceived Image Perceptual Score (SPIPS), 2025, arXiv 2504.17234"
ALL_PARTS = "; ".join((MSDS, DEEPSSIM, HAARPSI, MDSI))

SIMILARITY, LOSS = (False, (-1.0, 1.0)), (True, (0.0, 2.0))
FAST = {"backbone": "efficientnet_lite0"}

# fmt: off
# name, title, factory, direction and range; summary, source
for _row in (
    Metric("msds-auto", "MSDS-Auto", Factory("auto:MSDSAuto"), False, (-2.0, 1.0),
           "for any two images: distorted, displaced or retargeted", ALL_PARTS),
    Metric("msds-hybrid", "MSDS-Hybrid", Factory("hybrid:msds_hybrid"), *SIMILARITY,
           "MSDS on EfficientNet-Lite0, HaarPSI and MDSI in one score, for aligned pairs", ALL_PARTS, multiscale=True),
    Metric("msds-align", "MSDS-Align", Factory("align:MSDSAlign"), *SIMILARITY,
           "for displaced content: novel views", DEEPSSIM),
    Metric("msds-retarget", "MSDS-Retarget", Factory("retarget:MSDSRetarget"), False, (-0.125, 1.0),
           "what retargeting, cropping or a change of aspect leaves of what people look at"),
    Metric("msds-fast", "MSDS-Fast", Factory("msds:MSDS", FAST), *SIMILARITY,
           "MSDS on EfficientNet-Lite0", MSDS, multiscale=True),
    Metric("msds-lite-fast", "MSDS-Lite-Fast", Factory("msds:MSDSLite", FAST), *LOSS,
           "MSDS-Lite on EfficientNet-Lite0, for training", MSDS, multiscale=True),
    Metric("deepssim-fast", "DeepSSIM-Fast", Factory("deepssim:DeepSSIM", FAST), *SIMILARITY,
           "DeepSSIM on EfficientNet-Lite0", DEEPSSIM),
    Metric("deepssim-lite-fast", "DeepSSIM-Lite-Fast", Factory("deepssim:DeepSSIMLite", FAST), *LOSS,
           "DeepSSIM-Lite on EfficientNet-Lite0, for training", DEEPSSIM),
    Metric("deepssim", "DeepSSIM", Factory("deepssim:DeepSSIM"), *SIMILARITY,
           "structural similarity of VGG16's Gram matrices", DEEPSSIM, takes_backbone=True),
    Metric("deepssim-lite", "DeepSSIM-Lite", Factory("deepssim:DeepSSIMLite"), *LOSS,
           "DeepSSIM as a light training loss", DEEPSSIM, takes_backbone=True),
    Metric("msds", "MSDS", Factory("msds:MSDS"), *SIMILARITY,
           "DeepSSIM on three pyramid levels", MSDS, takes_backbone=True, multiscale=True),
    Metric("msds-lite", "MSDS-Lite", Factory("msds:MSDSLite"), *LOSS,
           "DeepSSIM-Lite on three pyramid levels, for training", MSDS, takes_backbone=True, multiscale=True),
    Metric("spips", "SPIPS", Factory("spips:SPIPS"), True, (0.0, float("inf")),
           "traditional and deep maps, fused by a learned network; to be trained (msds train -m spips)",
           SPIPS, torch_only=True),
):
    register(_row)
