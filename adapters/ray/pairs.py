"""Lists of pairs of any length, read piece by piece."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ...errors import MissingDependencyError
from ..images.pairs import match

#: (reference, distorted), paths or URIs.
Names = tuple[str, str]


def is_uri(place: str) -> bool:
    """Whether it names something that fsspec opens."""
    return "://" in place


def open_uri(place: str, mode: str = "rb") -> Any:
    """A file by path, or by URI through fsspec.

    Raises:
        MissingDependencyError: a URI, and fsspec is not installed.
    """
    if not is_uri(place):
        return open(place, mode)
    try:
        import fsspec
    except ImportError as error:
        raise MissingDependencyError(f"{place} is read with fsspec ({error}): pip install 'msds-plugin[ray]'") from error
    return fsspec.open(place, mode).open()


def read_pairs(source: Any) -> Iterator[Names]:
    """The pairs of a list, one after the other.

    Args:
        source: a ``.csv`` or ``.parquet`` file with the columns ``reference`` and ``distorted``, by path or URI; a tuple of two
            folders or files, matched as ``msds score`` does; a Ray dataset with these columns; or pairs.

    Raises:
        ValueError: a list without these columns, or of another kind.
    """
    if isinstance(source, tuple) and len(source) == 2 and all(isinstance(each, (str, os.PathLike)) for each in source):
        return ((str(pair.reference), str(pair.distorted)) for pair in match(Path(source[0]), Path(source[1])).pairs)
    if isinstance(source, (str, os.PathLike)):
        return _read_list(os.fspath(source))
    if hasattr(source, "iter_rows"):
        return ((row["reference"], row["distorted"]) for row in source.iter_rows())
    return ((str(reference), str(distorted)) for reference, distorted in source)


def _read_list(place: str) -> Iterator[Names]:
    if place.endswith(".csv"):
        return _read_csv(place)
    if place.endswith(".parquet"):
        return _read_parquet(place)
    raise ValueError(f"{place} is not a list of pairs: its name must end in .csv or .parquet")


def _check(columns: Iterable[str], place: str) -> None:
    if not {"reference", "distorted"} <= set(columns):
        raise ValueError(f"{place} needs the columns reference and distorted, it has {', '.join(columns) or 'none'}")


def _read_csv(place: str) -> Iterator[Names]:
    with open_uri(place, "rt") as file:
        reader = csv.DictReader(file)
        _check(reader.fieldnames or [], place)
        for row in reader:
            yield row["reference"], row["distorted"]


def _read_parquet(place: str) -> Iterator[Names]:
    from pyarrow import parquet

    with open_uri(place) as file:
        table = parquet.ParquetFile(file)
        _check(table.schema_arrow.names, place)
        for batch in table.iter_batches(columns=["reference", "distorted"]):
            columns = batch.to_pydict()
            yield from zip(columns["reference"], columns["distorted"], strict=True)


def shards(pairs: Iterator[Names], size: int) -> Iterator[list[Names]]:
    """Consecutive pairs, ``size`` at a time."""
    while shard := list(islice(pairs, size)):
        yield shard
