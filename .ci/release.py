"""Whether this checkout can be released under a tag: what says the version, the date and the repository's address agrees.

python .ci/release.py v0.3.0
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def problems(tag: str, project: str, changes: str) -> list[str]:
    """What speaks against the release.

    Args:
        tag: such as v0.3.0.
        project: text of pyproject.toml.
        changes: text of CHANGELOG.md.
    """
    found = []
    version = re.search(r'^version = "([^"]+)"', project, re.MULTILINE)
    if version is None or tag != f"v{version[1]}":
        found.append(f"the tag is {tag} and the version in pyproject.toml {version and version[1]}")
    if "github.com/OWNER/" in project:
        found.append("OWNER stands for the owner of the repository under [project.urls] in pyproject.toml")
    if not re.search(rf"^## {re.escape(tag.removeprefix('v'))} \(\d{{4}}-\d\d-\d\d\)$", changes, re.MULTILINE):
        found.append(f"CHANGELOG.md has no heading '## {tag.removeprefix('v')} (YYYY-MM-DD)'")
    return found


if __name__ == "__main__":
    sys.exit(
        "\n".join(problems(sys.argv[1], *((ROOT / name).read_text("utf-8") for name in ("pyproject.toml", "CHANGELOG.md"))))
    )
