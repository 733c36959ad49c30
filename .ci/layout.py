"""The package as it is installed, without installing it: tools that read sources do not see through the folder mapping.

python .ci/layout.py FOLDER     puts msds_plugin, with registry and adapters inside, into FOLDER
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def lay_out(folder: Path) -> None:
    """Copy the sources into ``folder`` under the names that they are installed as."""
    package = folder / "msds_plugin"
    if package.resolve() != ROOT / "msds_plugin":
        shutil.rmtree(package, ignore_errors=True)  # or modules that are gone would stay
    for source, target in (("msds_plugin", package), ("registry", package / "registry"), ("adapters", package / "adapters")):
        shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)


if __name__ == "__main__":
    lay_out(Path(sys.argv[1]))
