"""The metrics that installed toolkits bring, whatever state the toolkits are in."""

from __future__ import annotations

import warnings
from importlib import import_module
from importlib.util import find_spec

Row = tuple[str, str, str, str, str]

#: Packages, and the names of the folders here that know them.
TOOLKITS = ("pyiqa", "piq")


def describe_toolkits() -> list[Row]:
    """Every toolkit's metrics as (name, title, better direction, range, summary).

    A toolkit that is installed but cannot be imported is left out, with a RuntimeWarning that says why.

    Raises:
        MissingDependencyError: no toolkit is installed.
    """
    installed = [toolkit for toolkit in TOOLKITS if find_spec(toolkit)]
    if not installed:
        from ...errors import MissingDependencyError

        raise MissingDependencyError("neither pyiqa nor piq is installed: pip install 'msds-plugin[pyiqa,piq]'")
    rows: list[Row] = []
    for toolkit in installed:
        try:
            rows += import_module(f"...{toolkit}.scorers", __name__).describe()
        except Exception as error:  # a broken installation raises whatever its parts run into
            warnings.warn(
                f"{toolkit} is installed but cannot be used, its metrics are left out ({type(error).__name__}: {error})",
                RuntimeWarning,
                stacklevel=2,
            )
    return rows
