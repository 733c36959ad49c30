"""How a command pairs files, and what it says of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from msds_plugin.adapters.cli.shared.terminal import say

if TYPE_CHECKING:
    from msds_plugin.adapters.images.pairs import Matching, Pairing


def pairing(
    match: str | None = None,
    by_order: bool = False,
    layout: str | None = None,
    side_by_side: str = "",
    recursive: bool = False,
) -> Pairing:
    """What ``--match``, ``--by-order``, ``--layout``, ``--side-by-side`` and ``--recursive`` say.

    Raises:
        ValueError: several ways at once, or one that is not known.
    """
    from msds_plugin.adapters.images.pairs import Pairing

    ways: dict[str, Any] = {"by_order": by_order, "layout": layout, "side_by_side": side_by_side, "recursive": recursive}
    if match is None:
        return Pairing(**ways)
    if match.lower().endswith(".csv"):
        return Pairing(table=Path(match), **ways)
    if "{name}" not in match:  # a suffix, or a prefix, which ends with what parts it from the name
        match = f"{match}{{name}}" if match[-1:] in "_-. " and match[:1] not in "_-. " else f"{{name}}{match}"
    return Pairing(pattern=match, **ways)


def say_matching(matching: Matching, count: int | None = None) -> None:
    """How the pairs were found, and what is left out, on stderr; ``count``: how many, where they are not in ``matching``."""
    pairs = matching.pairs
    count = len(pairs) if count is None else count
    if count > 1 or matching.unmatched or matching.by_order or " without " in matching.how:
        say(f"Pairs {matching.how}: {count}")
    for note in matching.notes:
        say(f"Note: {note}")
    if matching.by_order:
        for pair in pairs[:1] + pairs[1:][-1:]:
            say(f"  {pair.reference.name} with {pair.distorted.name}")
    if matching.unmatched:
        say(f"Left out, without a counterpart: {len(matching.unmatched)}")
        for path in matching.unmatched:
            say(f"  {path}")
    for folder, images in matching.left_out:
        if images is None:
            say(f"Left out: {folder}, which cannot be read")
        else:
            say(f"Left out: {folder} with {images} image{'s' * (images != 1)} (--recursive looks into sub-folders)")
