"""One shard: pairs to a Parquet file, by the loop that also scores locally."""

from __future__ import annotations

import hashlib
import io
import json
import math
import posixpath
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
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
from msds_plugin.adapters.scoring.store import identity, pair_key

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
            return parquet.read_table(io.BytesIO(files.cat_file(path))).to_pylist()
        except (FileNotFoundError, pa.ArrowInvalid):
            return self.rows(pairs, "not scored yet")

    def write(self, pairs: Sequence[Names], rows: Sequence[_Row]) -> None:
        """Write the file of a shard whole: whoever looks sees all of it or nothing."""
        columns = ("reference", "distorted", *self.metrics, "error", "content")
        schema = pa.schema([(name, pa.float64() if name in self.metrics else pa.string()) for name in columns])
        buffer = io.BytesIO()
        parquet.write_table(pa.Table.from_pylist(rows, schema), buffer)
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
        lacking = [row for row in block if not _is_current(row, files)]
        _score(lacking, files, scorers, job)
        computed += len(lacking)
    if computed:
        job.write(pairs, rows)
    return Done(job.file(pairs), len(rows), sum(row["error"] is not None for row in rows), computed)


def write_lost(pairs: Sequence[Names], job: Job) -> Done:
    """The file of a shard that no worker survives: a later run tries its rows again."""
    job.write(pairs, job.rows(pairs, "the worker died each time it scored this shard: out of memory, maybe"))
    return Done(job.file(pairs), len(pairs), len(pairs), len(pairs))


def _is_current(row: _Row, files: _Files) -> bool:
    """Whether a row has all scores, of what is in the two files now."""
    reference, distorted = files[row["reference"]], files[row["distorted"]]
    here = isinstance(reference, Path) and isinstance(distorted, Path)
    return here and row["error"] is None and row["content"] == pair_key(reference, distorted)


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
    for result in score_pairs(list(by_pair), scorers, job.run, keyed=True):
        for row in by_pair[result.pair]:
            row[result.metric], row["content"] = result.score, result.key
            if result.error is not None:
                said = row["error"]
                row["error"] = result.error if said in (None, result.error) else f"{said}; {result.error}"


def _at_hand(rows: Sequence[_Row]) -> Iterator[tuple[Sequence[_Row], _Files]]:
    """Blocks, with the file of each name; the next block is fetched while one is in use."""
    coming: deque[tuple[Sequence[_Row], tempfile.TemporaryDirectory[str], dict[str, Future[Path | str]]]] = deque()
    with ThreadPoolExecutor(_FETCHES) as pool:
        for start in range(0, len(rows) + _BLOCK, _BLOCK):
            if following := rows[start : start + _BLOCK]:
                folder = tempfile.TemporaryDirectory()
                names = dict.fromkeys(row[side] for row in following for side in ("reference", "distorted"))
                coming.append((following, folder, {name: pool.submit(_fetch, name, Path(folder.name)) for name in names}))
            if len(coming) > bool(following):
                block, folder, files = coming.popleft()
                with folder:
                    yield block, {name: file.result() for name, file in files.items()}


def _fetch(name: str, folder: Path) -> Path | str:
    """The path of an image on this machine, copied below ``folder`` if it is elsewhere; or why there is none."""
    if not name:
        return "the list names no image"
    if (path := local_path(name)) is not None:
        return path
    kind, _, rest = name.partition("://")
    target = folder / kind / posixpath.normpath(f"/{rest}").lstrip("/")
    try:
        files, there = filesystem(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        files.get_file(there, str(target))
    except Exception as error:  # every store has exceptions of its own
        return f"cannot fetch {name} ({type(error).__name__}: {error})"
    return target
