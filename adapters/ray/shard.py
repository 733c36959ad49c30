"""One shard: pairs to a Parquet file, by the engine that also scores locally."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from ..common.scorer import Scorer
from ..images.pairs import Pair
from ..images.samples import Reading
from ..scoring.engine import score_pairs
from .pairs import Names, is_uri, open_uri

_DEFAULT = Reading()


@dataclass(frozen=True)
class Done:
    """What came of one shard: its file, its rows, those without all scores, and those that were computed now."""

    file: str
    rows: int
    failed: int
    computed: int


def shard_name(pairs: Sequence[Names], metrics: Sequence[str], reading: Reading = _DEFAULT) -> str:
    """The name of a shard's file: by its content, so that the same pairs, metrics and reading find the same file again."""
    stated = [] if reading == _DEFAULT else [reading.peak, reading.background]
    text = json.dumps([list(map(list, pairs)), list(metrics), *stated])
    return f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.parquet"


def write_shard(
    pairs: Sequence[Names], scorers: Sequence[Scorer], metrics: Sequence[str], folder: str, reading: Reading = _DEFAULT
) -> Done:
    """Score what the shard's file lacks and write the file whole; rows that failed before are tried again."""
    target = Path(folder, shard_name(pairs, metrics, reading))
    before = parquet.read_table(target).to_pylist() if target.is_file() else [None] * len(pairs)
    missing = [place for place, row in enumerate(before) if row is None or row["error"] is not None]
    if not missing:
        return Done(str(target), len(pairs), 0, 0)
    new = dict(zip(missing, _score([pairs[place] for place in missing], scorers, reading), strict=True))
    rows = [new.get(place, row) for place, row in enumerate(before)]
    columns = [("reference", pa.string()), ("distorted", pa.string()), *((each.name, pa.float64()) for each in scorers)]
    part = target.with_name(f".{target.name}.{os.getpid()}")
    parquet.write_table(pa.Table.from_pylist(rows, pa.schema([*columns, ("error", pa.string())])), part)
    part.replace(target)
    return Done(str(target), len(pairs), sum(row["error"] is not None for row in rows), len(missing))


def _score(pairs: Sequence[Names], scorers: Sequence[Scorer], reading: Reading) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = [{"reference": r, "distorted": d} for r, d in pairs]
    for row in rows:
        row.update({scorer.name: math.nan for scorer in scorers}, error=None)
    with tempfile.TemporaryDirectory() as folder:
        fetched: dict[str, Path | str] = {}
        places: dict[Pair, list[int]] = {}
        for place, names in enumerate(pairs):
            found = [_fetch(name, folder, fetched) for name in names]
            reasons = [reason for reason in found if isinstance(reason, str)]
            if reasons:
                rows[place]["error"] = reasons[0]
                continue
            reference, distorted = (path for path in found if isinstance(path, Path))
            places.setdefault(Pair(reference, distorted), []).append(place)
        for result in score_pairs(list(places), scorers, workers=0, reading=reading):
            for place in places[result.pair]:
                rows[place][result.metric] = result.score
                if result.error is not None:
                    said = rows[place]["error"]
                    rows[place]["error"] = result.error if said in (None, result.error) else f"{said}; {result.error}"
    return rows


def _fetch(name: str, folder: str, fetched: dict[str, Path | str]) -> Path | str:
    """The file of a name on this machine, or why there is none."""
    if not is_uri(name):
        return Path(name)
    if name not in fetched:
        target = Path(folder, f"{len(fetched)}-{Path(name).name}")
        try:
            with open_uri(name) as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy)
            fetched[name] = target
        except Exception as error:  # every store has exceptions of its own
            fetched[name] = f"cannot fetch {name} ({type(error).__name__}: {error})"
    return fetched[name]
