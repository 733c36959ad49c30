"""Files by path, or by URI through fsspec."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from msds_plugin.errors import MissingDependencyError


def local_path(place: str) -> Path | None:
    """The path of a file that this machine's file system has; None for one elsewhere.

    Example:
        >>> local_path("file:///data/with%20space/a.png").as_posix(), local_path("s3://bucket/a.png")
        ('/data/with space/a.png', None)
    """
    if found := re.match("file:(//(localhost)?)?(?=/)", place, re.IGNORECASE):  # Java and Spark write one slash
        return Path(unquote(place[found.end() :]))
    return None if "://" in place else Path(place)


def filesystem(place: str) -> tuple[Any, str]:
    """The file system of a path or URI, and the path there; a ValueError if there is no such kind of URI."""
    try:
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem

        path = local_path(place)
        found: tuple[Any, str] = url_to_fs(place) if path is None else (LocalFileSystem(), os.path.abspath(path))
        return found
    except ImportError as error:
        raise MissingDependencyError(f"{place} is read with fsspec ({error}): pip install 'msds-plugin[ray]'") from error


def names_in(folder: str, ending: str = "") -> list[str]:
    """The files below a folder, by their names from there, sorted; none if there is no such folder."""
    files, root = filesystem(folder)
    root = root.rstrip("/")
    found = files.find(root) if files.isdir(root) else []
    return sorted(each[len(root) :].lstrip("/") for each in found if each.endswith(ending))


def join(folder: str, name: str) -> str:
    """A file in a folder."""
    return f"{folder.rstrip('/')}/{name}" if "://" in folder else str(Path(folder, name))
