"""Which distorted image belongs to which reference."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .read import list_images


@dataclass(frozen=True)
class Pair:
    """Two image files to compare."""

    reference: Path
    distorted: Path


@dataclass(frozen=True)
class Matching:
    """Pairs, and how they were found.

    Attributes:
        pairs: in the order of the distorted images' names.
        how: how it was done, in words that follow "pairs".
        unmatched: images without a counterpart.
        by_order: names told nothing, so that the user should look at the pairs.
    """

    pairs: tuple[Pair, ...]
    how: str
    unmatched: tuple[Path, ...] = ()
    by_order: bool = False


def match(reference: Path, distorted: Path) -> Matching:
    """Pair two image files, one reference file with a folder of distorted images, or two folders.

    Two folders are matched by file name or, where that finds nothing, by name without suffix (several distorted images may
    belong to one reference). If no names agree, by sorted order (numbers in names count as numbers), for which the folders
    must hold equally many images.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: folders that cannot be matched, or a folder of references with a single distorted image.
        ImageFileError: a folder without images.
    """
    for path in (reference, distorted):
        if not path.exists():
            raise FileNotFoundError(f"no file or folder at {path}")
    if reference.is_dir() and not distorted.is_dir():
        raise ValueError(f"{reference} is a folder but {distorted} is a file: give the file of its reference")
    if not distorted.is_dir():
        return Matching((Pair(reference, distorted),), "of two files")
    if not reference.is_dir():
        return Matching(tuple(Pair(reference, path) for path in list_images(distorted)), "of one reference with every image")
    return _match_folders(list_images(reference), list_images(distorted))


def _match_folders(references: Sequence[Path], distorted: Sequence[Path]) -> Matching:
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path in references:
        by_stem[path.stem].append(path)
    found = {path: reference for path in distorted if (reference := _namesake(path, by_stem)) is not None}
    if found:
        used = set(found.values())
        left = [path for path in references if path not in used] + [path for path in distorted if path not in found]
        return Matching(tuple(Pair(reference, path) for path, reference in found.items()), "matched by name", tuple(left))
    if len(references) != len(distorted):
        raise ValueError(
            f"no two names agree, and {len(references)} reference images cannot be matched by order with {len(distorted)} "
            "distorted ones: name both alike, or give folders of equally many images"
        )
    pairs = zip(sorted(references, key=_natural), sorted(distorted, key=_natural), strict=True)
    return Matching(tuple(Pair(*pair) for pair in pairs), "matched by sorted order, as no two names agree", by_order=True)


def _namesake(path: Path, references: Mapping[str, Sequence[Path]]) -> Path | None:
    alike = references.get(path.stem, ())
    for reference in alike:
        if reference.name == path.name:
            return reference
    if len(alike) > 1:
        names = ", ".join(reference.name for reference in alike)
        raise ValueError(f"{path} may belong to any of {names}: rename it to one of them, or move the others away")
    return alike[0] if alike else None


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]
