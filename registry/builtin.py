"""The metrics that this package brings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from msds_plugin.align import MSDSAlign
from msds_plugin.deepssim import DeepSSIM, DeepSSIMLite
from msds_plugin.multiscale import MSDS, Fusion, MultiScale
from msds_plugin.retarget import MSDSRetarget

from . import register
from .entry import Metric

DEEPSSIM = (
    "K. Zhang, W. Chen, T. Zhao, Z. Wang, Structural Similarity in Deep Features: Unified Image Quality Assessment Robust to "
    "Geometrically Disparate Reference, IEEE TPAMI 2025, arXiv 2412.19553"
)
MSDS_PAPER = (
    "D. Kang, X.-H. Chen, B. Liu, K. Zhang, W. Chen, T. Zhao, MSDS: Deep Structural Similarity with Multiscale Representation, "
    "2026, arXiv 2604.19159"
)


def msds_lite(levels: int = 3, fusion: Fusion = None, learn_fusion: bool = False, **options: Any) -> MultiScale:
    """DeepSSIM-Lite on a pyramid; ``options`` are those of :class:`DeepSSIMLite`."""
    return MultiScale(DeepSSIMLite(**options), levels, fusion, learn_fusion)


def _fast(factory: Callable[..., nn.Module], name: str) -> Callable[..., nn.Module]:
    def build(**options: Any) -> nn.Module:
        if "backbone" in options:
            raise ValueError(f"{name}-fast is {name} on efficientnet_lite0 by name: for another backbone use {name}")
        return factory(backbone="efficientnet_lite0", **options)

    return build


for metric in (
    Metric(
        "deepssim",
        "DeepSSIM",
        DeepSSIM,
        False,
        (-1, 1),
        "structural similarity of VGG16's Gram matrices",
        DEEPSSIM,
        takes_backbone=True,
    ),
    Metric(
        "deepssim-lite",
        "DeepSSIM-Lite",
        DeepSSIMLite,
        True,
        (0, 2),
        "DeepSSIM as a light training loss",
        DEEPSSIM,
        takes_backbone=True,
    ),
    Metric(
        "deepssim-fast",
        "DeepSSIM-Fast",
        _fast(DeepSSIM, "deepssim"),
        False,
        (-1, 1),
        "DeepSSIM on EfficientNet-Lite0",
        DEEPSSIM,
    ),
    Metric(
        "msds",
        "MSDS",
        MSDS,
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
        msds_lite,
        True,
        (0, 2),
        "DeepSSIM-Lite on three pyramid levels, for training",
        MSDS_PAPER,
        takes_backbone=True,
        multiscale=True,
    ),
    Metric(
        "msds-fast", "MSDS-Fast", _fast(MSDS, "msds"), False, (-1, 1), "MSDS on EfficientNet-Lite0", MSDS_PAPER, multiscale=True
    ),
    Metric(
        "msds-lite-fast",
        "MSDS-Lite-Fast",
        _fast(msds_lite, "msds-lite"),
        True,
        (0, 2),
        "MSDS-Lite on EfficientNet-Lite0, for training",
        MSDS_PAPER,
        multiscale=True,
    ),
    Metric(
        "msds-align",
        "MSDS-Align",
        MSDSAlign,
        False,
        (-1, 1),
        "for displaced content: novel views, interpolated frames, registration, super-resolution",
        DEEPSSIM,
    ),
    Metric(
        "msds-retarget",
        "MSDS-Retarget",
        MSDSRetarget,
        False,
        (-0.125, 1),
        "what retargeting, cropping or a change of aspect leaves of what people look at",
    ),
):
    register(metric)
