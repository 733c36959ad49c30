"""What a named metric is, independent of any toolkit.

    >>> from msds_plugin.registry import Metric, names, register
    >>> "msds" in names()
    True

A metric registered here appears in every toolkit that is attached, now and later.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from msds_plugin.registry.table import TABLE, Metric

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Metric", "create", "get", "names", "register", "subscribe"]

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


for _row in TABLE:
    register(_row)
