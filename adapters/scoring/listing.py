"""Which metrics there are, without building any."""

from __future__ import annotations

from ... import registry
from ..common.toolkits import describe_toolkits


def describe_metrics(with_toolkits: bool = False) -> list[tuple[str, str, str, str, str]]:
    """Every metric that :func:`create_scorer` knows, as (name, title, better direction, range, summary).

    Args:
        with_toolkits: pyiqa's and piq's too, of those that are installed.

    Raises:
        MissingDependencyError: theirs are asked for, but neither is installed.
    """
    rows = []
    for name in registry.names():
        metric = registry.get(name)
        low, high = metric.score_range
        direction = "lower" if metric.lower_is_better else "higher"
        rows.append((name, metric.title, direction, f"{low:g}, {high:g}", metric.summary))
    if not with_toolkits:
        return rows
    return rows + describe_toolkits()
