"""What tells a pair of files from any other: their content."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

_Path: TypeAlias = str | os.PathLike[str]
_CHUNK = 1 << 20


def pair_key(reference: _Path, distorted: _Path) -> str:
    """As :func:`pair_keys`, of one pair."""
    return pair_keys([(reference, distorted)])[0]


def pair_keys(pairs: Iterable[tuple[_Path, _Path]]) -> list[str]:
    """For each (reference, distorted) a text that follows from what is in the two files, wherever they are.

    Every file is read once, which also brings it into the system's cache for who decodes it. What cannot be read, or is no
    file, counts as its path.
    """
    pairs = list(pairs)
    files = list(dict.fromkeys(path for pair in pairs for path in pair))
    pool = ThreadPoolExecutor(min(8, max(1, len(files))))
    try:
        content = dict(zip(files, pool.map(_content, files), strict=True))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return [hashlib.sha256(f"{content[r]}\0{content[d]}".encode()).hexdigest()[:32] for r, d in pairs]


def _content(path: _Path) -> str:
    digest = hashlib.sha256()
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe has no end until somebody writes to it
            return repr(os.path.realpath(path))
        with open(path, "rb", buffering=0) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except (OSError, ValueError):
        return repr(os.path.realpath(path))
    return digest.hexdigest()
