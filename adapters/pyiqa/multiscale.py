"""Every full-reference metric of pyiqa on a pyramid: ``pyiqa.create_metric("ms-lpips", levels=3)``."""

from __future__ import annotations

from typing import Any

from pyiqa.archs import build_network
from pyiqa.default_model_configs import DEFAULT_CONFIGS
from pyiqa.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from ...multiscale import Fusion, MultiScale
from ..common.names import MULTISCALE_PREFIX, on_a_pyramid
from ..common.per_image import score_each, variant

ARCH = "msds_plugin:multiscale"


def refresh() -> None:
    """Give every full-reference metric in pyiqa's table its ``ms-`` form; none of them is built.

    A form is registered for what is in the table at this moment, with its direction and range. Left out are our metrics
    that work on a pyramid already (``msds`` and its kin), names that begin with ``ms-`` themselves, and metrics whose
    ``ms-`` name somebody else has taken.
    """
    for name, config in list(DEFAULT_CONFIGS.items()):
        taken = DEFAULT_CONFIGS.get(MULTISCALE_PREFIX + name)
        if config.get("metric_mode") != "FR" or on_a_pyramid(name) or (taken and taken["metric_opts"]["type"] != ARCH):
            continue
        DEFAULT_CONFIGS[MULTISCALE_PREFIX + name] = {**config, "metric_opts": {"type": ARCH, "base_metric": name}}


class _PerImage(nn.Module):
    def __init__(self, network: nn.Module, kind: str) -> None:
        super().__init__()
        self.network = network
        self.kind: str = getattr(getattr(network, "metric", None), "kind", kind)
        self.smallest: int = getattr(network, "smallest", 1)

    @property
    def backbone(self) -> object:
        """The feature network of a metric of ours."""
        return getattr(getattr(self.network, "metric", None), "backbone", None)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return score_each(self.network, x, y)


class PyiqaMultiScale(nn.Module):
    """A metric of pyiqa on a pyramid by pyiqa's conventions: (target, reference) to (N, 1).

    Args:
        base_metric: name of the metric; it is built with the options that pyiqa gives it by default.
        levels, fusion: see :class:`~msds_plugin.MultiScale`.
        options: those of the metric itself.
    """

    def __init__(self, base_metric: str, levels: int = 3, fusion: Fusion = None, **options: Any) -> None:
        super().__init__()
        network = build_network({**DEFAULT_CONFIGS[base_metric]["metric_opts"], **options})
        self.metric = MultiScale(_PerImage(network, variant(base_metric, options)), levels, fusion)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Scores (N, 1) of distorted images ``x`` beside references ``y``, as the metric itself takes them."""
        return self.metric(x, y).reshape(-1, 1)


def _build(**options: Any) -> PyiqaMultiScale:
    return PyiqaMultiScale(**options)


_build.__name__ = ARCH  # pyiqa's registry files it under this; before 0.1.16 it takes no other name
ARCH_REGISTRY.register(_build)
