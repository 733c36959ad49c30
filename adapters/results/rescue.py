"""Save what can still be read of a damaged results file: ``python -m msds_plugin.adapters.results.rescue OLD NEW``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from .salvage import salvage
from .store import Outcome, Results


def main(old: str, new: str) -> None:
    """Write what can be read of ``old`` to ``new``."""
    if Path(new).exists():
        sys.exit(f"{new} is there already: choose another name")
    found = salvage(Path(old))
    with Results(new) as results:
        for name, identity, *row in found:
            number = results.metric(name, json.loads(identity))
            results.add([Outcome(number, *row)])
    print(f"{len(found)} scores are in {new}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
