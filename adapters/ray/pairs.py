"""Lists of pairs of any length: sorted, and cut into shards that hold whole blocks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..images.formats import is_meant_as_image
from ..images.listing import Listing
from ..images.pairs import match, match_listings
from ..images.samples import ImageFileError
from ..scoring.blocks import in_blocks
from .places import filesystem, is_uri, join, local_path, names_in

#: (reference, distorted), paths or URIs.
Names = tuple[str, str]
_COLUMNS = ["reference", "distorted"]


def read_pairs(source: Any) -> Iterator[Names]:
    """The pairs of a source, sorted by reference and then by distorted image.

    Lists and Ray datasets are read and sorted by Ray Data, on the cluster; they come here piece by piece.

    Args:
        source: a ``.csv`` or ``.parquet`` file with the columns ``reference`` and ``distorted``, or a folder of Parquet files,
            by path or URI; a Ray dataset with these columns; a tuple of two folders or files, by path or URI, matched as ``msds
            score`` does; or pairs.

    Raises:
        ValueError: a list without these columns, or of another kind; folders that cannot be matched.
        FileNotFoundError: no such list or folder.
    """
    if isinstance(source, tuple) and len(source) == 2 and all(isinstance(each, (str, os.PathLike)) for each in source):
        return iter(sorted(_matched(*map(os.fspath, source))))
    if isinstance(source, (str, os.PathLike)):
        return _sorted_by_ray(_read_list(os.fspath(source)), os.fspath(source))
    if hasattr(source, "iter_batches"):
        return _sorted_by_ray(source, "the dataset")
    return iter(sorted((str(reference), str(distorted)) for reference, distorted in source))


def shards(names: Iterable[Names], size: int) -> Iterator[list[Names]]:
    """Sorted pairs in shards of ``size`` or a few more: of whole blocks, so that their batches are those of the list."""
    shard: list[Names] = []
    for block in in_blocks(names, lambda pair: pair[0]):
        shard += (pair for group in block for pair in group)
        if len(shard) >= size:
            yield shard
            shard = []
    if shard:
        yield shard


def _matched(reference: str, distorted: str) -> Iterator[Names]:
    here = local_path(reference), local_path(distorted)
    if here[0] is not None and here[1] is not None:
        return ((str(pair.reference), str(pair.distorted)) for pair in match(here[0], here[1]).pairs)
    if is_meant_as_image(distorted):
        return iter([(reference, distorted)])
    images = _listing(distorted)
    if is_meant_as_image(reference):
        return ((reference, join(distorted, str(path.relative_to("/")))) for path in images.images)
    pairs = match_listings(_listing(reference), images).pairs
    names = ((str(pair.reference.relative_to("/")), str(pair.distorted.relative_to("/"))) for pair in pairs)
    return ((join(reference, r), join(distorted, d)) for r, d in names)


def _listing(folder: str) -> Listing:
    """The images below a folder, as if it were the root."""
    images = tuple(Path("/", name) for name in names_in(folder) if is_meant_as_image(name))
    if not images:
        raise ImageFileError(f"no image in {folder}")
    return Listing(Path("/"), images, recursive=True)


def _read_list(place: str) -> Any:
    from pyarrow import csv, fs, string
    from ray import data

    where: dict[str, Any] = {}
    path = place
    if is_uri(place):
        files, path = filesystem(place)
        where["filesystem"] = fs.PyFileSystem(fs.FSSpecHandler(files))
    elif not Path(place).exists():
        raise FileNotFoundError(f"no list at {place}")
    if place.endswith(".csv"):
        text = csv.ConvertOptions(column_types=dict.fromkeys(_COLUMNS, string()))  # "007" is a name
        return data.read_csv(path, convert_options=text, **where)
    if place.endswith(".parquet") or place.endswith("/") or Path(place).is_dir():
        return data.read_parquet(path, **where)
    raise ValueError(
        f"{place} is not a list of pairs: its name must end in .csv or .parquet, or it must be a folder of the latter"
    )


def _sorted_by_ray(dataset: Any, what: str) -> Iterator[Names]:
    schema = dataset.schema()
    columns = [] if schema is None else list(schema.names)
    if not set(_COLUMNS) <= set(columns):
        raise ValueError(f"{what} needs the columns reference and distorted, it has {', '.join(columns) or 'none'}")
    # Done before actors take the cores that sorting needs.
    ordered = dataset.select_columns(_COLUMNS).sort(_COLUMNS).materialize()
    return _rows(ordered)


def _rows(ordered: Any) -> Iterator[Names]:
    for batch in ordered.iter_batches(batch_format="pyarrow", batch_size=4096):
        reference, distorted = (batch.column(name).to_pylist() for name in _COLUMNS)
        yield from zip(map(_text, reference), map(_text, distorted), strict=True)


def _text(name: Any) -> str:
    return "" if name is None else str(name)
