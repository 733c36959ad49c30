"""Where the metrics meet the toolkits, files and the terminal: the only part of the package that knows any of them."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from types import ModuleType

from wrapt import register_post_import_hook

#: Toolkits that get the metrics when they are imported, each by the module of its name here.
TOOLKITS = ("pyiqa", "piq")

_awaited: set[str] = set()


def attach() -> None:
    """Make every registered metric available in the toolkits: at once in those that are imported, in the others on import.

    No toolkit is imported for it. Called again, it registers the ``ms-`` forms of metrics that have been put straight into
    pyiqa's own table since.

    Warns:
        RuntimeWarning: the metrics cannot be registered in a toolkit; names it and the cause. The toolkit itself works.
    """
    for toolkit in TOOLKITS:
        module = sys.modules.get(toolkit)
        if module is not None:
            _attach_to(module)
        elif toolkit not in _awaited:
            _awaited.add(toolkit)
            register_post_import_hook(_attach_to, toolkit)


def _attach_to(toolkit: ModuleType) -> None:
    name = f"{__name__}.{toolkit.__name__}"
    if name in sys.modules and not hasattr(sys.modules[name], "attach"):
        return  # it is what imports the toolkit, and attaches itself when that is done
    try:
        import_module(name).attach()
    except Exception as error:  # whatever keeps our metrics out must not keep the toolkit from being imported
        warnings.warn(
            f"the metrics of msds_plugin cannot be registered in {toolkit.__name__} ({type(error).__name__}: {error})",
            RuntimeWarning,
            stacklevel=2,
        )
