"""The registered metrics in pyiqa, ``pyiqa.create_metric("msds")``, and every full-reference metric on a pyramid."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from pyiqa.archs import build_network
from pyiqa.default_model_configs import DEFAULT_CONFIGS
from pyiqa.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from msds_plugin import registry
from msds_plugin.adapters.wrap import MULTISCALE_PREFIX, Held, ToolkitMetric, lend, on_a_pyramid, variant
from msds_plugin.metric import Metric
from msds_plugin.msds import Fusion, MultiScale

__all__ = ["PyiqaMetric", "PyiqaMultiScale", "attach", "lend"]

#: pyiqa's name for the class behind every form on a pyramid.
MULTISCALE = "msds_plugin:multiscale"


class PyiqaMetric(nn.Module):
    """A registered metric by pyiqa's conventions: (target, reference) to (N, 1), grey images taken as RGB.

    The metric is no sub-module (see :class:`~msds_plugin.adapters.wrap.Held`): it follows its input, and its weights are in no
    checkpoint and no optimiser.

    Args:
        name: of the registered metric.
        options: those of its factory.
    """

    fusion_logits: Tensor | None

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        super().__init__()
        self._held = Held(name, options)
        self.register_parameter("fusion_logits", self._held.trained)

    @property
    def metric(self) -> Metric:
        """The metric itself."""
        return self._held.metric

    def forward(self, x: Tensor, y: Tensor, **options: Any) -> Tensor:
        """Scores (N, 1) of distorted images ``x`` beside references ``y``, (N, 3 or 1, H, W) in [0, 1].

        As a loss, which is the only case in which pyiqa lets gradients be, ``x`` may leave that range by 3.
        """
        return self._held(x, y, self.fusion_logits, training=torch.is_grad_enabled(), **options).reshape(-1, 1)


class PyiqaMultiScale(nn.Module):
    """A metric of pyiqa on a pyramid by pyiqa's conventions: (target, reference) to (N, 1).

    Args:
        base_metric: name of the metric; it is built with the options that pyiqa gives it by default.
        levels, fusion: see :class:`~msds_plugin.MultiScale`.
        options: those of the metric itself.
    """

    def __init__(self, base_metric: str, levels: int = 3, fusion: Fusion = None, **options: Any) -> None:
        super().__init__()
        config = DEFAULT_CONFIGS[base_metric]
        network = build_network({**config["metric_opts"], **options})
        lower = bool(config.get("lower_better"))
        self.metric = MultiScale(ToolkitMetric(network, variant(base_metric, options), lower), levels, fusion)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Scores (N, 1) of distorted images ``x`` beside references ``y``, as the metric itself takes them."""
        return self.metric(x, y).reshape(-1, 1)


def attach() -> None:
    """Register every metric of :mod:`msds_plugin.registry` in pyiqa, now and as they come, and the ``ms-`` forms.

    Called again, it registers the ``ms-`` forms of metrics that have come straight into pyiqa's own table since.
    """
    registry.subscribe(_add)
    _add_multiscale_forms()


def their_metrics() -> dict[str, Mapping[str, Any]]:
    """pyiqa's entries of all metrics but the registered ones, sorted by name; the ``ms-`` forms are among them."""
    attach()
    return {name: config for name, config in sorted(DEFAULT_CONFIGS.items()) if name not in registry.names()}


def _add(metric: registry.Metric) -> None:
    arch = f"msds_plugin:{metric.name}"
    taken = DEFAULT_CONFIGS.get(metric.name)
    if taken is not None and taken["metric_opts"]["type"] != arch:
        warnings.warn(
            f"pyiqa has a metric named {metric.name!r} already: it is left alone, and msds_plugin's is not registered there",
            RuntimeWarning,
            stacklevel=2,
        )
        return

    def build(**options: Any) -> PyiqaMetric:
        return PyiqaMetric(metric.name, options)

    if taken is None:
        _register(arch, build)
    DEFAULT_CONFIGS[metric.name] = {
        "metric_opts": {"type": arch},
        "metric_mode": "FR",
        "lower_better": metric.lower_is_better,
        "score_range": ", ".join(f"{bound:g}" for bound in metric.score_range),
    }
    _add_multiscale_forms()


def _add_multiscale_forms() -> None:
    """Give every full-reference metric in pyiqa's table its ``ms-`` form; none of them is built.

    A form is registered for what is in the table at this moment, with its direction and range. Left out are our metrics
    that work on a pyramid already (``msds`` and its kin), names that begin with ``ms-`` themselves, and metrics whose
    ``ms-`` name somebody else has taken.
    """
    for name, config in list(DEFAULT_CONFIGS.items()):
        taken = DEFAULT_CONFIGS.get(MULTISCALE_PREFIX + name)
        if config.get("metric_mode") != "FR" or on_a_pyramid(name) or (taken and taken["metric_opts"]["type"] != MULTISCALE):
            continue
        DEFAULT_CONFIGS[MULTISCALE_PREFIX + name] = {**config, "metric_opts": {"type": MULTISCALE, "base_metric": name}}


def _register(name: str, build: Any) -> None:
    build.__name__ = name  # pyiqa's registry files it under this; before 0.1.16 it takes no other name
    ARCH_REGISTRY.register(build)


_register(MULTISCALE, lambda **options: PyiqaMultiScale(**options))
attach()
