"""One shard: pairs to a Parquet file, by the loop that also scores locally."""

from __future__ import annotations

import hashlib
import io
import json
import math
import posixpath
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import pyarrow as pa
from pyarrow import parquet

from msds_plugin.adapters.images.pairs import Pair
from msds_plugin.adapters.ray.pairs import Names
from msds_plugin.adapters.ray.places import filesystem, join, local_path
from msds_plugin.adapters.scorers import Scorer
from msds_plugin.adapters.scoring import Run
from msds_plugin.adapters.scoring.files import replace_file
from msds_plugin.adapters.scoring.loop import score_pairs
from msds_plugin.adapters.scoring.store import finite, identity, pair_keys

_Row: TypeAlias = dict[str, Any]
#: The file of each name on this machine, or why there is none.
_Files: TypeAlias = dict[str, Path | str]
#: Pairs whose images are fetched together, while those before are scored.
_BLOCK = 128
#: Images that are fetched at the same time, since a store far away answers late but to many.
_FETCHES = 16


@dataclass(frozen=True)
class Job:
    """What the shards of a run have in common."""

    folder: str  # where they go, path or URI
    metrics: tuple[str, ...]  # columns
    identity: str  # all that scores depend on besides the images: metrics, options, weights, versions, kind of device, reading
    run: Run

    @classmethod
    def of(cls, scorers: Sequence[Scorer], folder: str, run: Run) -> Job:
        """The job of these scorers."""
        return cls(folder, tuple(scorer.name for scorer in scorers), _hash([identity(each, run) for each in scorers]), run)

    def file(self, pairs: Sequence[Names]) -> str:
        """The name of a shard's file: the same pairs and identity find the same file again."""
        return f"{_hash([self.identity, pairs])[:24]}.parquet"

    def read(self, pairs: Sequence[Names]) -> list[_Row]:
        """The rows of a shard's file; rows without scores if there is none, or one that is damaged."""
        files, path = filesystem(join(self.folder, self.file(pairs)))
        try:
            content = io.BytesIO(files.cat_file(path))
        except FileNotFoundError:
            return self.rows(pairs, "not scored yet")
        try:
            rows: list[_Row] = parquet.read_table(content, page_checksum_verification=True).to_pylist()
            if [(row["reference"], row["distorted"], "error" in row) for row in rows] == [(*pair, True) for pair in pairs]:
                return rows
        except (OSError, ValueError, LookupError, pa.ArrowException):
            pass
        return self.rows(pairs, "what was scored is damaged")

    def write(self, pairs: Sequence[Names], rows: Sequence[_Row]) -> None:
        """Write the file of a shard whole: whoever looks sees all of it or nothing."""
        columns = ("reference", "distorted", *self.metrics, "error", "content")
        schema = pa.schema([(name, pa.float64() if name in self.metrics else pa.string()) for name in columns])
        buffer = io.BytesIO()
        parquet.write_table(pa.Table.from_pylist(rows, schema), buffer, write_page_checksum=True)
        files, path = filesystem(join(self.folder, self.file(pairs)))
        files.makedirs(posixpath.dirname(path), exist_ok=True)
        if local_path(self.folder) is None:
            files.pipe_file(path, buffer.getvalue())  # object stores show an object when it is complete
        else:
            replace_file(Path(path), lambda part: part.write_bytes(buffer.getvalue()))

    def rows(self, pairs: Sequence[Names], error: str | None) -> list[_Row]:
        """Rows without scores."""
        scores = {**dict.fromkeys(self.metrics, math.nan), "error": error, "content": None}
        return [{"reference": reference, "distorted": distorted, **scores} for reference, distorted in pairs]


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Done:
    """What came of one shard: its file, its rows, those without all scores, and those that were computed now."""

    file: str
    rows: int
    failed: int
    computed: int


def write_shard(pairs: Sequence[Names], scorers: Sequence[Scorer], job: Job) -> Done:
    """Score what the shard's file lacks, what failed before, and images that are others than they were; write it whole."""
    rows, computed = job.read(pairs), 0
    for block, files in _at_hand(rows):
        scored = [row for row in block if row["error"] is None]
        keys = pair_keys([Pair(Path(files[row["reference"]]), Path(files[row["distorted"]])) for row in scored])
        for row, key in zip(scored, keys, strict=True):
            if row["content"] != key:
                row["error"] = "an image is another one now"
        lacking = [row for row in block if row["error"] is not None]
        _score(lacking, files, scorers, job)
        computed += len(lacking)
    if computed:
        job.write(pairs, rows)
    return Done(job.file(pairs), len(rows), sum(row["error"] is not None for row in rows), computed)


def write_lost(pairs: Sequence[Names], job: Job) -> Done:
    """The file of a shard that no worker survives: a later run tries its rows again."""
    job.write(pairs, job.rows(pairs, "the worker died each time it scored this shard: out of memory, maybe"))
    return Done(job.file(pairs), len(pairs), len(pairs), len(pairs))


def _score(rows: Sequence[_Row], files: _Files, scorers: Sequence[Scorer], job: Job) -> None:
    """Fill rows; several may be of one pair of files."""
    by_pair: dict[Pair, list[_Row]] = {}
    for row in rows:
        row.update(dict.fromkeys(job.metrics, math.nan), error=None, content=None)
        reference, distorted = files[row["reference"]], files[row["distorted"]]
        if isinstance(reference, Path) and isinstance(distorted, Path):
            by_pair.setdefault(Pair(reference, distorted), []).append(row)
        else:
            row["error"] = reference if isinstance(reference, str) else distorted
    for result in map(finite, score_pairs(list(by_pair), scorers, job.run, keyed=True)):
        for row in by_pair[result.pair]:
            row[result.metric], row["content"] = result.score, result.key
            if result.error is not None:
                # A copy in a temporary folder is called by its name in the list.
                error = result.error.replace(str(result.pair.reference), row["reference"])
                error = error.replace(str(result.pair.distorted), row["distorted"])
                said = row["error"]
                row["error"] = error if said in (None, error) else f"{said}; {error}"


def _at_hand(rows: Sequence[_Row]) -> Iterator[tuple[Sequence[_Row], _Files]]:
    """Blocks, with the file of each name; the next block is fetched while one is in use."""
    with ThreadPoolExecutor(_FETCHES) as pool:

        def fetch(start: int) -> tuple[Sequence[_Row], tempfile.TemporaryDirectory[str], dict[str, Future[Path | str]]]:
            block, folder = rows[start : start + _BLOCK], tempfile.TemporaryDirectory()
            names = dict.fromkeys(row[side] for row in block for side in ("reference", "distorted"))
            copies = (Path(folder.name, f"{number}_{PurePosixPath(name).suffix[:9]}") for number, name in enumerate(names))
            return block, folder, {name: pool.submit(_fetch, name, copy) for name, copy in zip(names, copies, strict=True)}

        coming = map(fetch, range(0, len(rows), _BLOCK))
        following = next(coming, None)
        while following is not None:
            block, folder, files = following
            following = next(coming, None)
            with folder:
                yield block, {name: file.result() for name, file in files.items()}


def _fetch(name: str, copy: Path) -> Path | str:
    """The path of an image on this machine, copied to ``copy`` if it is elsewhere; or why there is none."""
    if not name:
        return "the list names no image"
    if (path := local_path(name)) is not None:
        return path
    try:
        files, there = filesystem(name)
        files.get_file(there, str(copy))
    except Exception as error:  # every store has exceptions of its own
        return f"cannot fetch {name} ({type(error).__name__}: {error})"
    return copy
