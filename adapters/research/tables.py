"""Tables of figures as text, for the terminal and for reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from msds_plugin.adapters.benchmark.report.document import figure, interval

Shown = tuple[list[str], list[list[str]]]


def shown(table: pd.DataFrame, columns: Mapping[str, str], signed: str = "") -> Shown:
    """Headings and rows of some columns: numbers with three digits, with their interval in brackets where it is known.

    Args:
        table: the interval of ``<name>`` is in ``<name>_low`` and ``<name>_high``.
        columns: names to headings, in order.
        signed: the one whose positive numbers get a plus.
    """
    rows = [[_text(row, name, name == signed) for name in columns] for row in table.to_dict("records")]
    return list(columns.values()), rows


def _text(row: dict[Any, Any], name: str, signed: bool) -> str:
    value = row[name]
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        bounds = row.get(f"{name}_low", float("nan")), row.get(f"{name}_high", float("nan"))
        return f"{figure(value, 3, signed)} {interval(bounds)}".strip()
    return f"{value:,}" if isinstance(value, int) else str(value)
