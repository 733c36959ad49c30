"""Where the metrics meet the toolkits and the terminal: the only part of the package that knows any of them."""

from __future__ import annotations

import warnings
from importlib import import_module
from importlib.util import find_spec

from .moved import keep_old_names

TOOLKITS = ("pyiqa", "piq")

keep_old_names()


def attach() -> None:
    """Make every registered metric available in the toolkits that are installed; a second time does nothing.

    Warns:
        RuntimeWarning: a toolkit is installed but cannot be imported; names it and the cause. The rest works.
    """
    for toolkit in TOOLKITS:
        if find_spec(toolkit) is None:
            continue
        try:
            import_module(f"{__name__}.{toolkit}").attach()
        except Exception as error:  # whatever is wrong with a toolkit must not keep the others from working
            warnings.warn(
                f"{toolkit} is installed but cannot be imported ({type(error).__name__}: {error}); "
                "the metrics of msds_plugin are not registered there",
                RuntimeWarning,
                stacklevel=3,
            )
