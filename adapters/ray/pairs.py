"""Lists of pairs of any length: sorted, and cut into shards."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from msds_plugin.adapters.images.colours import ImageFileError
from msds_plugin.adapters.images.labels import places, read_labels
from msds_plugin.adapters.images.listing import Listing, is_meant_as_image
from msds_plugin.adapters.images.pairs import Matching, Pair, Pairing, match, match_listings
from msds_plugin.adapters.ray.places import filesystem, join, local_path, names_in

#: (reference, distorted), paths or URIs.
Names = tuple[str, str]
_COLUMNS = ["reference", "distorted"]
#: Bytes of a list up to which it is sorted here: for a short one Ray Data takes longer to start than to sort.
_SMALL = 2**24


def read_pairs(source: Any) -> Iterator[Names]:
    """The pairs of a source, sorted by reference and then by distorted image; relative paths become absolute ones.

    Long lists in Parquet, and Ray datasets, are read and sorted by Ray Data, on the cluster; they come here piece by piece.

    Args:
        source: a ``.csv``, ``.tsv`` or ``.parquet`` file with the columns ``reference`` and ``distorted``, or a folder of
            Parquet files, by path or URI; a Ray dataset with these columns; two folders or files, by path or URI, in a tuple
            or list, matched as ``msds score`` does; or pairs. Text may be as for :func:`read_labels`.

    Raises:
        ValueError: a list without these columns, or of another kind; folders that cannot be matched.
        FileNotFoundError: no such list or folder.
    """
    if isinstance(source, tuple | list) and len(source) == 2 and all(isinstance(each, str | os.PathLike) for each in source):
        return iter(matched(os.fspath(source[0]), os.fspath(source[1]))[0])
    if isinstance(source, str | os.PathLike):
        return _read_list(os.fspath(source))
    if hasattr(source, "iter_batches"):
        return _sorted_by_ray(source, "the dataset")
    return iter(sorted((_text(reference), _text(distorted)) for reference, distorted in source))


def shards(names: Iterable[Names], size: int) -> Iterator[list[Names]]:
    """Sorted pairs in shards of ``size`` or more, up to twice as many, that end where references do."""
    shard: list[Names] = []
    for _, of_one in groupby(names, lambda pair: pair[0]):
        while part := list(islice(of_one, size)):
            shard += part
            if len(shard) >= size:
                yield shard
                shard = []
    if shard:
        yield shard


def matched(reference: str, distorted: str, how: Pairing = Pairing()) -> tuple[list[Names], Matching]:  # noqa: B008 (frozen)
    """The sorted pairs of two folders or files, by path or URI, and what is to be said of how they were found.

    Either is empty where ``how`` needs none. Raises what :func:`~msds_plugin.adapters.images.pairs.match` does.
    """
    sides = local_path(reference), local_path(distorted)
    if None not in sides:
        found = match(sides[0] if reference else None, sides[1] if distorted else None, how)
        return sorted((_text(pair.reference), _text(pair.distorted)) for pair in found.pairs), found
    references, images = _places(reference), _places(distorted)
    if is_meant_as_image(reference) and not (how.pattern or how.by_order):
        words = "of two files" if is_meant_as_image(distorted) else "of one reference with every image"
        (one,) = references
        found = Matching(tuple(Pair(one, path) for path in images), words)
    else:
        found = match_listings(Listing(Path("/"), tuple(references)), Listing(Path("/"), tuple(images)), how)
    return sorted((references[pair.reference], images[pair.distorted]) for pair in found.pairs), found


def _places(place: str) -> dict[Path, str]:
    """The images below a folder, by their paths as if it were the root; or the file itself."""
    if is_meant_as_image(place):
        return {Path("/", place.rpartition("/")[2]): _text(place)}
    images = {Path("/", name): _text(join(place, name)) for name in names_in(place) if is_meant_as_image(name)}
    if not images:
        raise ImageFileError(f"no image in {place}")
    return images


def _read_list(place: str) -> Iterator[Names]:
    from pyarrow import ArrowInvalid, parquet

    files, path = filesystem(place)
    if not files.exists(path):
        raise FileNotFoundError(f"no list at {place}")
    folder = files.isdir(path)
    if not folder and path.lower().endswith((".csv", ".tsv")):
        cells = read_labels(place, files.cat_file(path))
        _check([cell.lower() for cell in cells.iloc[0] if cell], place)
        found = places(place, cells.iloc[0], {name: (name,) for name in _COLUMNS})
        return iter(sorted(zip(*(cells[found[name]].iloc[1:].map(_text) for name in _COLUMNS), strict=True)))
    if not folder and not path.endswith(".parquet"):
        raise ValueError(f"{place} is no list of pairs, which is a .csv, .tsv or .parquet file, or a folder of the latter")
    if folder or files.size(path) > _SMALL:
        from ray import data

        return _sorted_by_ray(data.read_parquet(path, filesystem=files), place)
    try:
        with files.open(path, "rb") as file:
            table = parquet.read_table(file)
    except ArrowInvalid as error:
        raise ValueError(f"cannot read {place}: {error}") from error
    _check(table.column_names, place)
    return iter(sorted(_names(table)))


def _sorted_by_ray(dataset: Any, what: str) -> Iterator[Names]:
    schema = dataset.schema()
    _check([] if schema is None else list(schema.names), what)
    # Done before actors take the cores that sorting needs.
    ordered = dataset.select_columns(_COLUMNS).sort(_COLUMNS).materialize()
    batches = ordered.iter_batches(batch_format="pyarrow", batch_size=4096)
    return (names for batch in batches for names in _names(batch))


def _check(columns: Sequence[str], place: str) -> None:
    if not set(_COLUMNS) <= set(columns):
        raise ValueError(f"{place} needs the columns reference and distorted, it has {', '.join(columns) or 'none'}")


def _names(table: Any) -> Iterator[Names]:
    return zip(*(map(_text, table.column(name).to_pylist()) for name in _COLUMNS), strict=True)


def _text(name: Any) -> str:
    """A place, the same for whoever has another working directory; empty for none."""
    place = "" if name is None else str(name)
    return os.path.abspath(place) if place and "://" not in place and place[:6].lower() != "file:/" else place
