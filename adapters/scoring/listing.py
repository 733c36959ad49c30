"""Which metrics there are, without building any."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from ... import registry


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
    theirs = [
        import_module(f"..{toolkit}.scorers", __package__).describe() for toolkit in ("pyiqa", "piq") if find_spec(toolkit)
    ]
    if not theirs:
        from ...errors import MissingDependencyError

        raise MissingDependencyError("neither pyiqa nor piq is installed: pip install 'msds-plugin[pyiqa,piq]'")
    return sum(theirs, rows)
