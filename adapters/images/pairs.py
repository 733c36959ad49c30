"""Which distorted image belongs to which reference."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from os.path import commonprefix
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, TypeAlias

from msds_plugin.adapters.images.colours import ImageFileError
from msds_plugin.adapters.images.listing import Listing, list_folder

#: Images by their paths below the folder that was given.
_Names: TypeAlias = dict[str, Path]
#: What is before and behind a name.
_Affix: TypeAlias = tuple[str, str]
_NOTHING: _Affix = ("", "")
#: The folders of references and of results by layout.
LAYOUTS = {"3dgs": ("gt", "renders"), "nerfstudio": ("gt-rgb", "rgb")}


@dataclass(frozen=True)
class Pair:
    """Two image files to compare."""

    reference: Path
    distorted: Path
    group: str = ""  # what scores are averaged over besides all pairs, such as a scene and an iteration
    half: Literal["", "left", "right"] = ""  # the half of the file that is the reference, where one file holds both images


@dataclass(frozen=True)
class Pairing:
    """How images are paired; by their names where nothing is stated.

    Raises:
        ValueError: more than one way, a pattern without ``{name}``, an unknown layout or half.
    """

    #: Look into sub-folders; those that hold nothing but folders are looked into without it.
    recursive: bool = False
    #: Pair equal names only, and guess nothing from those that differ.
    exact: bool = False
    #: Pair the sorted names (numbers in names count as numbers) of folders with equally many images.
    by_order: bool = False
    #: The distorted images' names, where ``{name}`` is that of the reference and ``*`` anything: ``{name}_q*``. A pattern
    #: without suffix fits any.
    pattern: str | None = None
    #: A CSV file with the columns ``reference``, ``distorted`` and, if there are groups, ``group``. Its paths are relative to
    #: the folders that are given, else to its own.
    table: Path | None = None
    #: ``3dgs`` for folders of Gaussian splatting below one root (``scene/test/ours_30000/{gt,renders}``), ``nerfstudio`` for
    #: what ``ns-render dataset`` (``test/{gt-rgb,rgb}``) or ``ns-eval`` (``eval_img_0000.png``) write.
    layout: str | None = None
    #: Every file of one folder holds two images: the half, ``left`` or ``right``, that is the reference.
    side_by_side: Literal["", "left", "right"] = ""

    def __post_init__(self) -> None:
        ways = {name for name in ("by_order", "pattern", "table", "layout", "side_by_side") if getattr(self, name)}
        if len(ways) > 1:
            raise ValueError(f"images are paired in one way, not by {' and '.join(sorted(ways))}")
        if self.pattern is not None and self.pattern.count("{name}") != 1:
            raise ValueError(f"the pattern {self.pattern!r} must hold {{name}} once, as in {{name}}_x4.png")
        if self.layout not in (None, *LAYOUTS):
            raise ValueError(f"unknown layout {self.layout!r}: choose {' or '.join(LAYOUTS)}")
        if self.side_by_side not in ("", "left", "right"):
            raise ValueError(f"the reference is the left or the right half, not {self.side_by_side!r}")


@dataclass(frozen=True)
class Matching:
    """Pairs, in the order of the distorted images' names, and how they were found."""

    pairs: tuple[Pair, ...]
    how: str  # in words that follow "pairs"
    unmatched: tuple[Path, ...] = ()  # images without a counterpart
    by_order: bool = False  # names told nothing, so that the user should look at the pairs
    left_out: tuple[tuple[Path, int | None], ...] = ()  # folders that were not looked into, see Listing
    unscored: int = 0  # distorted images that get no score: without a counterpart, or in such folders
    notes: tuple[str, ...] = ()  # what the user should know besides


def match(reference: Path | None, distorted: Path | None = None, how: Pairing = Pairing()) -> Matching:
    """Pair two image files, one reference file with a folder of distorted images, or two folders.

    Two folders are matched by file name or, where that finds nothing, by name without suffix (several distorted images may
    belong to one reference), then without regard to case and to the way Unicode writes accents. If no names agree, by names
    that continue a reference's (``cat_x4.png``, ``cat_q10.png`` with ``cat.png``), or by what all names of a folder have in
    common (``cat_HR.png`` with ``cat_SR.png``); at last the only image in each folder. Names in sub-folders are their paths
    from the folder given. Any other way is stated by ``how``.

    Args:
        reference: file or folder; the root of a layout; the folder of files that hold both images side by side.
        distorted: file or folder; None with a layout, files side by side or a table.
        how: the way, and whether to look into sub-folders.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: folders that cannot be matched or in which a name fits several references, or a folder of references with a
            single distorted image.
        ImageFileError: a folder without images.
    """
    for path in (reference, distorted, how.table):
        if path is not None and not path.exists():
            raise FileNotFoundError(f"no file or folder at {path}")
    if how.table is not None:
        return _from_table(how.table, reference, distorted)
    if reference is None or (distorted is None) is not bool(how.layout or how.side_by_side):
        raise ValueError("give a reference and a distorted file or folder, or one folder with a layout or files side by side")
    if how.layout is not None:
        return _in_layout(reference, how.layout)
    if distorted is None:
        found = _listed(reference, how)
        pairs = tuple(Pair(path, path, half=how.side_by_side) for path in found.images)
        words = f"cut from files of which the {how.side_by_side} half is the reference"
        return Matching(pairs, words, left_out=found.left_out, unscored=_hidden(found))
    if reference.is_dir() and not distorted.is_dir():
        raise ValueError(f"{reference} is a folder but {distorted} is a file: give the file of its reference")
    itself = (f"{distorted} is compared with itself",) if reference.samefile(distorted) else ()
    found = _listed(distorted, how)
    if reference.is_dir() or how.pattern or how.by_order:
        return replace(match_listings(_listed(reference, how), found, how), notes=itself)
    pairs = tuple(Pair(reference, path) for path in found.images)
    words = "of one reference with every image" if distorted.is_dir() else "of two files"
    return Matching(pairs, words, left_out=found.left_out, unscored=_hidden(found), notes=itself)


def _listed(path: Path, how: Pairing) -> Listing:
    return list_folder(path, how.recursive) if path.is_dir() else Listing(path.parent, (path,))


def match_listings(references: Listing, distorted: Listing, how: Pairing = Pairing()) -> Matching:
    """Pair the images of two folders, as :func:`match` does, without a look at the files.

    Raises:
        ValueError: they cannot be matched.
    """
    sides = _names(references), _names(distorted)
    if how.pattern is not None:
        found, words = _by_pattern(*sides, how.pattern), f"matched by {how.pattern}"
    elif how.by_order:
        found, words = _by_order(*sides), "matched by sorted order"
    else:
        found, words = _by_name(*sides), "matched by name"
        if not (found or how.exact):
            found, words = _by_affix(*sides)
    used = set(found.values())
    without = [path for path in distorted.images if path not in found]
    return Matching(
        tuple(Pair(found[path], path) for path in distorted.images if path in found),
        words,
        tuple([path for path in references.images if path not in used] + without),
        how.by_order or words.startswith("of the only"),
        references.left_out + distorted.left_out,
        len(without) + _hidden(distorted),
    )


def _hidden(listing: Listing) -> int:
    """Images in folders that were not looked into; at least one in those that cannot be."""
    return sum(1 if count is None else count for _, count in listing.left_out)


def _names(listing: Listing) -> _Names:
    return {path.relative_to(listing.folder).as_posix(): path for path in listing.images}


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()


def _composed(text: str) -> str:
    """Equal for names that differ in the way Unicode writes accents only."""
    return unicodedata.normalize("NFC", text)


def _alike(text: str) -> str:
    """Equal for names that differ in case, or in the way Unicode writes accents, only."""
    return _composed(_composed(text).casefold())


def natural(name: str) -> list[tuple[int, str]]:
    """A key to sort names by, in which numbers count as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", _alike(name))]


def _index(names: _Names, key: Callable[[str], str]) -> Mapping[str, Sequence[Path]]:
    index: dict[str, list[Path]] = defaultdict(list)
    for name, path in names.items():
        index[key(name)].append(path)
    return index


def _several(path: Path, fitting: Iterable[Path]) -> ValueError:
    names = ", ".join(sorted(each.name for each in fitting))
    return ValueError(
        f"{path} may belong to any of {names}: rename it, move the others away, or state the pairs by a pattern (--match "
        "'{name}_x4.png') or a table"
    )


def _first_of(references: _Names, distorted: _Names) -> str:
    return f"the first are {next(iter(references))} and {next(iter(distorted))}"


def _by_name(references: _Names, distorted: _Names) -> dict[Path, Path]:
    """The reference of every distorted image that has one by name, by the strictest agreement first."""
    found: dict[Path, Path] = {}
    rivals = Counter(map(_alike, distorted))
    keys: tuple[Callable[[str], str], ...] = (str, _stem, _alike, lambda name: _alike(_stem(name)))
    for level, key in enumerate(keys):
        index = _index(references, key)
        for name, path in distorted.items():
            fitting = index.get(key(name), ()) if path not in found else ()
            if level == 1 and len(fitting) > 1:
                raise _several(path, fitting)
            if len(fitting) == 1 and (level < 2 or rivals[_alike(name)] == 1):
                found[path] = fitting[0]
    return found


def _by_pattern(references: _Names, distorted: _Names, pattern: str) -> dict[Path, Path]:
    by_stem = _index(references, lambda name: _composed(_stem(name)))
    parts = _composed(pattern).split("{name}")
    before, behind = (re.compile(".*".join(map(re.escape, part.split("*"))), re.DOTALL) for part in parts)
    whole, in_folder = "." in parts[1], "/" not in pattern
    found = {}
    for name, path in distorted.items():
        text = _composed(name if whole else _stem(name))
        folder, slash, last = text.rpartition("/") if in_folder else ("", "", text)
        ends = [at for at in range(len(last) + 1) if behind.fullmatch(last, at)]
        inner = {last[begin:end] for begin in range(len(last)) if before.fullmatch(last, 0, begin) for end in ends}
        fits = {each: by_stem[folder + slash + each] for each in inner if folder + slash + each in by_stem}
        longest = max(fits, key=len, default="")
        fitting = [reference for each, those in fits.items() if each == longest or each not in longest for reference in those]
        if len(fitting) > 1:
            raise _several(path, fitting)
        if fitting:
            found[path] = fitting[0]
    if not found:
        raise ValueError(
            f"no name of a distorted image is a reference's in the pattern {pattern!r}: {_first_of(references, distorted)}"
        )
    return found


def _by_order(references: _Names, distorted: _Names) -> dict[Path, Path]:
    if len(references) != len(distorted):
        raise ValueError(
            f"{len(references)} reference images cannot be matched by order with {len(distorted)} distorted ones: give folders "
            "of equally many images"
        )
    ordered = ([side[name] for name in sorted(side, key=natural)] for side in (distorted, references))
    return dict(zip(*ordered, strict=True))


# Names that agree but for something before or behind. All names are lower-case paths without suffix.


class _Fit(NamedTuple):
    """A reference, and what another name has before or behind its name."""

    reference: Path
    affix: _Affix

    @property
    def length(self) -> int:
        return len("".join(self.affix))


def _by_affix(references: _Names, distorted: _Names) -> tuple[dict[Path, Path], str]:
    """Pairs of names that differ by a prefix or suffix.

    References are tried by their whole names, then without what all of them begin or end with; that must serve all. Where not
    all images fit, most have to.
    """
    stems = {path: _alike(_stem(name)) for name, path in references.items()}
    names = {path: _alike(_stem(name)) for name, path in distorted.items()}
    common = set(_common(names.values()))
    part: tuple[dict[Path, Path], str] = {}, ""
    for cut in _common(stems.values()):
        cores = {_without(stem, cut): path for path, stem in stems.items()}
        fits = {path: list(_fitting(name, cores, common)) for path, name in names.items()}
        if len(cores) < len(stems) or (cut != _NOTHING and not all(fits.values())):
            continue
        chosen = _chosen(fits, cores)
        sides = ("distorted", {fit.affix for fit in chosen.values()}), ("reference", {cut} - {_NOTHING})
        words = " and ".join(f"the {side} images' {_described(affixes)}" for side, affixes in sides if affixes - {_NOTHING})
        found = {path: fit.reference for path, fit in chosen.items()}, f"matched by name without {words}"
        if len(chosen) == len(names):
            return found
        part = part if part[0] else found
    if 2 * len(part[0]) > len(names):  # what few names share is chance
        return part
    if len(stems) == len(names) == 1:
        return dict(zip(names, stems, strict=True)), "of the only image in each folder"
    raise ValueError(
        f"no two names agree; {_first_of(references, distorted)}: give both sides the same names, or state how they belong "
        "together by a pattern (--match '{name}_x4.png') or a table of pairs, or, where their sorted orders agree, --by-order"
    )


def _chosen(fits: Mapping[Path, Sequence[_Fit]], cores: Mapping[str, Path]) -> dict[Path, _Fit]:
    """The reference of each image that any fits, and what the name has more; an error where several fit as well."""
    counts = Counter(fit.affix for found in fits.values() for fit in found)
    by_words = {tuple(_words(core)): path for core, path in cores.items()}
    chosen = {}
    for path, found in fits.items():
        if not found:
            continue
        # What most images have more than a reference is the most likely; then the longest name of a reference.
        best = max(found, key=lambda fit: (not fit.length, counts[fit.affix], -fit.length))
        behind = bool(best.affix[1])
        rivals = {
            fit.reference
            for fit in found
            if (fit.length < best.length if bool(fit.affix[1]) == behind else counts[fit.affix] == counts[best.affix])
        }
        if best.affix[0] and counts[best.affix] == 1:  # by chance, if another reference's name is in a prefix of no other image
            more = _words(best.affix[0])
            runs = {tuple(more[begin:end]) for begin, end in combinations(range(len(more) + 1), 2)}
            rivals |= {by_words[each] for each in runs & by_words.keys()} - {best.reference}
        if rivals and best.length:  # nothing rivals the very name
            raise _several(path, {best.reference, *rivals})
        chosen[path] = best
    return chosen


def _words(text: str) -> list[str]:
    return re.findall(r"\d+|[^\W\d_]+", text)


def _fitting(name: str, cores: Mapping[str, Path], common: Collection[_Affix]) -> Iterator[_Fit]:
    """The references whose name a name begins or ends with: not within a word or a number, but for what all names share."""
    folder, slash, last = name.rpartition("/")
    for at in range(len(last) + 1):
        before, after = last[at - 1 : at], last[at : at + 1]
        parted = not (before.isalnum() and after.isalnum())
        head, tail = folder + slash + last[:at], folder + slash + last[at:]
        ends, begins = ("", last[at:]), (last[:at], "")
        if head in cores and (parted or (before.isdecimal() and after.isalpha()) or ends in common):
            yield _Fit(cores[head], ends)
        if tail in cores and at and (parted or before.isdecimal() != after.isdecimal() or begins in common):
            yield _Fit(cores[tail], begins)


def _common(names: Iterable[str]) -> Iterator[_Affix]:
    """What all names might be shortened by: nothing, or what they all begin or end with; never a part of a number.

    Of a single name these are only its last words, such as ``_HR`` or ``_SR_x4``.
    """
    last = [name.rpartition("/")[2] for name in names]
    yield _NOTHING
    if len(last) == 1:
        for found in re.finditer(r"(?<=[^\W_])(?=([\W_]+[^\W\d_]+\d*)+$)", last[0]):
            yield "", last[0][found.start() :]
        return
    begin, end = commonprefix(last), commonprefix([name[::-1] for name in last])[::-1]  # noqa: RUF071 (of characters)
    for suffix in (end[-length:] for length in range(1, len(end) + 1)):
        if not any(suffix[0].isdecimal() and name.removesuffix(suffix)[-1:].isdecimal() for name in last):
            yield "", suffix
    for prefix in (begin[:length] for length in range(1, len(begin) + 1)):
        if not any(prefix[-1].isdecimal() and name.removeprefix(prefix)[:1].isdecimal() for name in last):
            yield prefix, ""


def _without(name: str, cut: _Affix) -> str:
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.removeprefix(cut[0]).removesuffix(cut[1])


def _described(affixes: set[_Affix]) -> str:
    if len(affixes) > 1:
        return f"ends, of which there are {len(affixes)}"
    ((prefix, suffix),) = affixes
    return f"prefix {prefix!r}" if prefix else f"suffix {suffix!r}"


# Pairs that are not found by two folders.


def _from_table(table: Path, reference: Path | None, distorted: Path | None) -> Matching:
    from msds_plugin.adapters.images.labels import check_lines, find_images, places, read_labels  # and pandas, for tables only

    cells = read_labels(table)
    found = places(table, cells.iloc[0], {name: (name,) for name in ("reference", "distorted", "group")})
    if not found.keys() >= {"reference", "distorted"}:
        raise ValueError(f"{table} needs the columns reference and distorted, it has {', '.join(filter(None, cells.iloc[0]))}")
    rows, sides, notes = cells.iloc[1:], [], []
    for name, folder in (("reference", reference), ("distorted", distorted)):
        names = rows[found[name]]
        check_lines(table, f"no {name} image", names.eq(""))
        paths, otherwise = find_images(names, folder or table.parent)
        sides.append(map(Path, paths))
        if otherwise:
            notes.append(
                f"{table}: {otherwise} {name} names differ from the files' in case, slashes or accents; the files are taken"
            )
    pairs = tuple(map(Pair, *sides, rows[found["group"]] if "group" in found else [""] * len(rows)))
    if not pairs:
        raise ValueError(f"{table} holds no pair")
    if same := sum(pair.reference == pair.distorted for pair in pairs):
        notes.append(f"{same} images are compared with themselves")
    return Matching(pairs, f"of {table}", notes=tuple(notes))


def _in_layout(root: Path, layout: str) -> Matching:
    names = LAYOUTS[layout]
    folders = sorted((path.parent for path in root.rglob(names[0])), key=lambda path: natural(path.as_posix()))
    found = [(folder, _folder_pair(folder, names)) for folder in folders if (folder / names[1]).is_dir()]
    if not found and layout == "nerfstudio":
        images = sorted(path for path in root.rglob("*") if re.fullmatch(r"(eval_)?img_\d+\.(png|jpe?g)", path.name))
        pairs = tuple(Pair(path, path, _group(path.parent, root), "left") for path in images)
        found = [(root, Matching(pairs, ""))] if pairs else []
    if not found:
        raise ImageFileError(f"no folders {names[0]} and {names[1]} beside each other below {root}")
    return Matching(
        tuple(replace(pair, group=pair.group or _group(folder, root)) for folder, each in found for pair in each.pairs),
        f"of the layout {layout}, in {len(found)} folder{'s' * (len(found) != 1)}",
        tuple(path for _, each in found for path in each.unmatched),
        unscored=sum(each.unscored for _, each in found),
        notes=tuple(note for _, each in found for note in each.notes),
    )


def _folder_pair(folder: Path, names: tuple[str, str]) -> Matching:
    try:
        return match_listings(list_folder(folder / names[0], True), list_folder(folder / names[1], True))
    except ValueError as error:  # of one folder, which must not cost the others
        return Matching((), "", unscored=1, notes=(f"{folder} is left out: {error}",))


def _group(folder: Path, root: Path) -> str:
    parts = [part for part in folder.relative_to(root).parts if part != "test"]
    return "/".join(parts) or folder.resolve().name
