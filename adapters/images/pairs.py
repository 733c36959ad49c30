"""Which distorted image belongs to which reference."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .listing import Listing, list_folder


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
        left_out: sub-folders with images that were not looked into, and how many these are; None where it is not known, as
            the folder cannot be read.
        unscored: how many distorted images get no score: those without a counterpart and those in such sub-folders.
    """

    pairs: tuple[Pair, ...]
    how: str
    unmatched: tuple[Path, ...] = ()
    by_order: bool = False
    left_out: tuple[tuple[Path, int | None], ...] = ()
    unscored: int = 0


def match(reference: Path, distorted: Path, recursive: bool = False) -> Matching:
    """Pair two image files, one reference file with a folder of distorted images, or two folders.

    Two folders are matched by file name or, where that finds nothing, by name without suffix (several distorted images may
    belong to one reference), then without regard to case and to the way Unicode writes accents. If no names agree, by what
    one prefix or suffix common to all leaves of them (``cat_x4.png`` with ``cat.png``), where that is one to one; at last by
    sorted order (numbers in names count as numbers), for which the folders must hold equally many images. Names in
    sub-folders are their paths from the folder given.

    Args:
        reference: file or folder.
        distorted: file or folder.
        recursive: look into sub-folders; those that hold nothing but folders are looked into without it.

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
    found = list_folder(distorted, recursive)
    if not reference.is_dir():
        pairs = tuple(Pair(reference, path) for path in found.images)
        return Matching(pairs, "of one reference with every image", left_out=found.left_out, unscored=_hidden(found))
    return match_listings(list_folder(reference, recursive), found)


def match_listings(references: Listing, distorted: Listing) -> Matching:
    """Pair the images of two folders, as :func:`match` does, without a look at the files.

    Raises:
        ValueError: they cannot be matched.
    """
    found, how = _by_name(references, distorted), "matched by name"
    if not found:
        found, how = _by_affix(references, distorted)
    by_order = not found
    if by_order:
        found, how = _by_order(references, distorted), "matched by sorted order, as no two names agree"
    used = set(found.values())
    without = [path for path in distorted.images if path not in found]
    left_out = references.left_out + distorted.left_out
    return Matching(
        tuple(Pair(reference, path) for path, reference in found.items()),
        how,
        tuple([path for path in references.images if path not in used] + without),
        by_order,
        left_out,
        len(without) + _hidden(distorted),
    )


def _hidden(listing: Listing) -> int:
    """Images in folders that were not looked into; at least one in those that cannot be."""
    return sum(1 if count is None else count for _, count in listing.left_out)


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _stem(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _alike(text: str) -> str:
    """Equal for names that differ in case, or in the way Unicode writes accents, only."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def _index(paths: Iterable[Path], key: Callable[[Path], str]) -> Mapping[str, Sequence[Path]]:
    index: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        index[key(path)].append(path)
    return index


def _by_name(references: Listing, distorted: Listing) -> dict[Path, Path]:
    """The reference of every distorted image that has one by name.

    Raises:
        ValueError: several references have the name of a distorted image but for the suffix.
    """
    keys: list[Callable[[Path, Path], str]] = [
        _name,
        _stem,
        lambda path, folder: _alike(_name(path, folder)),
        lambda path, folder: _alike(_stem(path, folder)),
    ]
    indices = [_index(references.images, lambda path, key=key: key(path, references.folder)) for key in keys]  # type: ignore[misc]
    rivals = _index(distorted.images, lambda path: _alike(_name(path, distorted.folder)))
    found = {}
    for path in distorted.images:
        for level, (key, index) in enumerate(zip(keys, indices, strict=True)):
            alike = index.get(key(path, distorted.folder), ())
            if level == 1 and len(alike) > 1:
                names = ", ".join(reference.name for reference in alike)
                raise ValueError(f"{path} may belong to any of {names}: rename it to one of them, or move the others away")
            if len(alike) == 1 and (level < 2 or len(rivals[_alike(_name(path, distorted.folder))]) == 1):
                found[path] = alike[0]
                break
    return found


def _by_affix(references: Listing, distorted: Listing) -> tuple[dict[Path, Path], str]:
    """Pairs by the one prefix or suffix that all names on one side have more than those on the other; none if there is not."""
    sides = {side: [(path, _alike(_stem(path, side.folder))) for path in side.images] for side in (references, distorted)}
    ways = []
    for longer, shorter, whose in ((distorted, references, "distorted"), (references, distorted, "reference")):
        by_stem = _index((path for path, _ in sides[shorter]), dict(sides[shorter]).__getitem__)
        for prefix, suffix in _affixes(sides[longer][0][1], by_stem):
            found = _without(sides[longer], by_stem, prefix, suffix)
            if found and (longer is distorted or len(found) == len(distorted.images)):
                pairs = found if longer is distorted else {shorter: longer for longer, shorter in found.items()}
                ways.append((pairs, f"matched by name without the {whose} images' {_described(prefix, suffix)}"))
    if len(ways) != 1:
        return {}, ""
    pairs, how = ways[0]
    return {path: pairs[path] for path in distorted.images}, how


def _affixes(stem: str, shorter: Iterable[str]) -> set[tuple[str, str]]:
    """The prefixes and suffixes by which one name is longer than some other."""
    folder, _, name = stem.rpartition("/")
    found = set()
    for other in shorter:
        other_folder, _, other_name = other.rpartition("/")
        if other_folder != folder or not other_name or other_name == name:
            continue
        if name.startswith(other_name):
            found.add(("", name[len(other_name) :]))
        if name.endswith(other_name):
            found.add((name[: -len(other_name)], ""))
    return found


def _without(
    longer: Sequence[tuple[Path, str]], shorter: Mapping[str, Sequence[Path]], prefix: str, suffix: str
) -> dict[Path, Path]:
    found: dict[Path, Path] = {}
    for path, stem in longer:
        folder, slash, name = stem.rpartition("/")
        if not (name.startswith(prefix) and name.endswith(suffix) and len(name) > len(prefix + suffix)):
            return {}
        core = folder + slash + name[len(prefix) : len(name) - len(suffix)]
        if len(shorter.get(core, ())) != 1:
            return {}
        found[path] = shorter[core][0]
    return found if len(set(found.values())) == len(found) else {}


def _described(prefix: str, suffix: str) -> str:
    return f"prefix {prefix!r}" if prefix else f"suffix {suffix!r}"


def _by_order(references: Listing, distorted: Listing) -> dict[Path, Path]:
    if len(references.images) != len(distorted.images):
        raise ValueError(
            f"no two names agree, and {len(references.images)} reference images cannot be matched by order with "
            f"{len(distorted.images)} distorted ones: name both alike, or give folders of equally many images"
        )
    ordered = (sorted(side.images, key=lambda path: _natural(_name(path, side.folder))) for side in (distorted, references))
    return dict(zip(*ordered, strict=True))


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", _alike(name))]
