"""One shard: pairs to a Parquet file, by the engine that also scores locally."""

from __future__ import annotations

import hashlib
import io
import json
import math
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
from pyarrow import parquet

from ..common.scorer import Scorer
from ..images.pairs import Pair
from ..images.samples import Reading
from ..scoring.blocks import in_blocks
from ..scoring.engine import score_pairs
from ..scoring.identity import identity
from .pairs import Names
from .places import copy_here, join, local_path, read_bytes, write_bytes

_Row: TypeAlias = dict[str, Any]
_Coming: TypeAlias = tuple[list[Names], tempfile.TemporaryDirectory[str], dict[str, Path | Future[Path | str]]]
#: Images that are fetched at the same time, since a store far away answers late but to many.
_FETCHES = 16
_DEFAULT = Reading()


@dataclass(frozen=True)
class Run:
    """What the shards of a run have in common.

    Attributes:
        folder: where they go, path or URI.
        metrics: columns.
        identity: all that scores depend on besides the images: metrics, options, weights, versions, kind of device, reading.
        reading: what the image files do not say.
    """

    folder: str
    metrics: tuple[str, ...]
    identity: str
    reading: Reading

    @classmethod
    def of(cls, scorers: Sequence[Scorer], folder: str, reading: Reading = _DEFAULT) -> Run:
        """The run of these scorers."""
        text = json.dumps([identity(scorer, scorer.name, False, reading) for scorer in scorers], sort_keys=True)
        return cls(folder, tuple(scorer.name for scorer in scorers), hashlib.sha256(text.encode()).hexdigest(), reading)

    def file(self, pairs: Sequence[Names]) -> str:
        """The name of a shard's file: the same pairs and identity find the same file again."""
        text = json.dumps([self.identity, pairs])
        return f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.parquet"

    def _read(self, pairs: Sequence[Names]) -> list[_Row | None]:
        content = read_bytes(join(self.folder, self.file(pairs)))
        return [None] * len(pairs) if content is None else parquet.read_table(io.BytesIO(content)).to_pylist()

    def _write(self, pairs: Sequence[Names], rows: Sequence[_Row]) -> None:
        columns = [("reference", pa.string()), ("distorted", pa.string()), *((name, pa.float64()) for name in self.metrics)]
        buffer = io.BytesIO()
        parquet.write_table(pa.Table.from_pylist(rows, pa.schema([*columns, ("error", pa.string())])), buffer)
        write_bytes(buffer.getvalue(), join(self.folder, self.file(pairs)))

    def _rows(self, pairs: Sequence[Names], error: str | None) -> list[_Row]:
        scores = dict.fromkeys(self.metrics, math.nan)
        return [{"reference": reference, "distorted": distorted, **scores, "error": error} for reference, distorted in pairs]


@dataclass(frozen=True)
class Done:
    """What came of one shard: its file, its rows, those without all scores, and those that were computed now."""

    file: str
    rows: int
    failed: int
    computed: int


def write_shard(pairs: Sequence[Names], scorers: Sequence[Scorer], run: Run, workers: int = 0) -> Done:
    """Score what the shard's file lacks and write the file whole; rows that failed before are tried again."""
    rows = run._read(pairs)
    missing = [place for place, row in enumerate(rows) if row is None or row["error"] is not None]
    if missing:
        for place, row in zip(missing, _score([pairs[place] for place in missing], scorers, run, workers), strict=True):
            rows[place] = row
    whole = [row for row in rows if row is not None]
    if missing:
        run._write(pairs, whole)
    return Done(run.file(pairs), len(whole), sum(row["error"] is not None for row in whole), len(missing))


def write_lost(pairs: Sequence[Names], run: Run) -> Done:
    """The file of a shard that no worker survives: a later run tries its rows again."""
    run._write(pairs, run._rows(pairs, "the worker died each time it scored this shard: out of memory, maybe"))
    return Done(run.file(pairs), len(pairs), len(pairs), len(pairs))


def _score(pairs: Sequence[Names], scorers: Sequence[Scorer], run: Run, workers: int) -> list[_Row]:
    rows: list[_Row] = []
    blocks = [[pair for group in block for pair in group] for block in in_blocks(pairs, lambda pair: pair[0])]
    for block, files in _at_hand(blocks):
        rows += _score_block(block, files, scorers, run, workers)
    return rows


def _score_block(
    pairs: Sequence[Names], files: dict[str, Path | str], scorers: Sequence[Scorer], run: Run, workers: int
) -> list[_Row]:
    rows = run._rows(pairs, None)
    places: dict[Pair, list[int]] = {}
    for place, names in enumerate(pairs):
        reference, distorted = (files[name] for name in names)
        if isinstance(reference, Path) and isinstance(distorted, Path):
            places.setdefault(Pair(reference, distorted), []).append(place)
        else:
            rows[place]["error"] = next(each for each in (reference, distorted) if isinstance(each, str))
    for result in score_pairs(list(places), scorers, workers=workers, reading=run.reading):
        for place in places[result.pair]:
            rows[place][result.metric] = result.score
            if result.error is not None:
                said = rows[place]["error"]
                rows[place]["error"] = result.error if said in (None, result.error) else f"{said}; {result.error}"
    return rows


def _at_hand(blocks: Sequence[list[Names]]) -> Iterator[tuple[list[Names], dict[str, Path | str]]]:
    """Blocks with the file of each name on this machine, or why there is none; the next block is fetched meanwhile."""
    with ThreadPoolExecutor(_FETCHES) as pool:
        coming: deque[_Coming] = deque()
        for block in blocks:
            folder = tempfile.TemporaryDirectory()
            names = dict.fromkeys(name for pair in block for name in pair)
            files = {name: local_path(name) or pool.submit(_fetch, name, Path(folder.name)) for name in names}
            coming.append((block, folder, files))
            if len(coming) > 1:
                yield from _arrived(*coming.popleft())
        for each in coming:
            yield from _arrived(*each)


def _arrived(
    block: list[Names], folder: tempfile.TemporaryDirectory[str], files: dict[str, Path | Future[Path | str]]
) -> Iterator[tuple[list[Names], dict[str, Path | str]]]:
    with folder:
        yield block, {name: each if isinstance(each, Path) else each.result() for name, each in files.items()}


def _fetch(name: str, folder: Path) -> Path | str:
    try:
        return copy_here(name, folder)
    except Exception as error:  # every store has exceptions of its own
        return f"cannot fetch {name} ({type(error).__name__}: {error})"
