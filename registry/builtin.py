"""The metrics that this package brings."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import register
from .entry import Metric

if TYPE_CHECKING:
    from torch import nn

DEEPSSIM = (
    "K. Zhang, W. Chen, T. Zhao, Z. Wang, Structural Similarity in Deep Features: Unified Image Quality Assessment Robust to "
    "Geometrically Disparate Reference, IEEE TPAMI 2025, arXiv 2412.19553"
)
MSDS_PAPER = (
    "D. Kang, X.-H. Chen, B. Liu, K. Zhang, W. Chen, T. Zhao, MSDS: Deep Structural Similarity with Multiscale Representation, "
    "2026, arXiv 2604.19159"
)


def made_by(place: str, **fixed: Any) -> Callable[..., nn.Module]:
    """The factory ``module:name`` of ``msds_plugin``, imported at its first call; ``fixed``: options that the name implies."""
    module, _, attribute = place.partition(":")

    def build(**options: Any) -> nn.Module:
        for name in fixed.keys() & options:
            raise ValueError(f"the {name} of this metric is {fixed[name]} by name: for another one use msds or deepssim")
        made: nn.Module = getattr(import_module(f"msds_plugin.{module}"), attribute)(**fixed, **options)
        return made

    return build


for metric in (
    Metric(
        "deepssim",
        "DeepSSIM",
        made_by("deepssim:DeepSSIM"),
        False,
        (-1, 1),
        "structural similarity of VGG16's Gram matrices",
        DEEPSSIM,
        takes_backbone=True,
    ),
    Metric(
        "deepssim-lite",
        "DeepSSIM-Lite",
        made_by("deepssim:DeepSSIMLite"),
        True,
        (0, 2),
        "DeepSSIM as a light training loss",
        DEEPSSIM,
        takes_backbone=True,
    ),
    Metric(
        "deepssim-fast",
        "DeepSSIM-Fast",
        made_by("deepssim:DeepSSIM", backbone="efficientnet_lite0"),
        False,
        (-1, 1),
        "DeepSSIM on EfficientNet-Lite0",
        DEEPSSIM,
    ),
    Metric(
        "deepssim-lite-fast",
        "DeepSSIM-Lite-Fast",
        made_by("deepssim:DeepSSIMLite", backbone="efficientnet_lite0"),
        True,
        (0, 2),
        "DeepSSIM-Lite on EfficientNet-Lite0, for training",
        DEEPSSIM,
    ),
    Metric(
        "msds",
        "MSDS",
        made_by("multiscale:MSDS"),
        False,
        (-1, 1),
        "DeepSSIM on three pyramid levels",
        MSDS_PAPER,
        takes_backbone=True,
        multiscale=True,
    ),
    Metric(
        "msds-lite",
        "MSDS-Lite",
        made_by("multiscale:msds_lite"),
        True,
        (0, 2),
        "DeepSSIM-Lite on three pyramid levels, for training",
        MSDS_PAPER,
        takes_backbone=True,
        multiscale=True,
    ),
    Metric(
        "msds-fast",
        "MSDS-Fast",
        made_by("multiscale:MSDS", backbone="efficientnet_lite0"),
        False,
        (-1, 1),
        "MSDS on EfficientNet-Lite0",
        MSDS_PAPER,
        multiscale=True,
    ),
    Metric(
        "msds-lite-fast",
        "MSDS-Lite-Fast",
        made_by("multiscale:msds_lite", backbone="efficientnet_lite0"),
        True,
        (0, 2),
        "MSDS-Lite on EfficientNet-Lite0, for training",
        MSDS_PAPER,
        multiscale=True,
    ),
    Metric(
        "msds-align",
        "MSDS-Align",
        made_by("align:MSDSAlign"),
        False,
        (-1, 1),
        "for displaced content: novel views, interpolated frames, registration, super-resolution",
        DEEPSSIM,
    ),
    Metric(
        "msds-retarget",
        "MSDS-Retarget",
        made_by("retarget:MSDSRetarget"),
        False,
        (-0.125, 1),
        "what retargeting, cropping or a change of aspect leaves of what people look at",
    ),
):
    register(metric)
