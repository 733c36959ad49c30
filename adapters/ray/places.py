"""Files by path, or by URI through fsspec."""

from __future__ import annotations

import os
import posixpath
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from msds_plugin.adapters.scoring.files import replace_file
from msds_plugin.checks import MissingDependencyError


def is_uri(place: str) -> bool:
    """Whether it names something that fsspec opens."""
    return "://" in place


def local_path(place: str | os.PathLike[str]) -> Path | None:
    """The path of a file that this machine's file system has; None for one elsewhere.

    Example:
        >>> local_path("file:///data/with%20space/a.png").as_posix(), local_path("s3://bucket/a.png")
        ('/data/with space/a.png', None)
    """
    place = os.fspath(place)
    if place.startswith("file://"):
        return Path(unquote(place.removeprefix("file://").removeprefix("localhost")))
    return None if is_uri(place) else Path(place)


def absolute(place: str) -> str:
    """The same place for whoever has another working directory."""
    return place if is_uri(place) or not place else os.path.abspath(place)


def filesystem(place: str) -> tuple[Any, str]:
    """The file system of a URI, and the path there.

    Raises:
        MissingDependencyError: fsspec, or its part for this kind of URI, is not installed.
        ValueError: no such kind of URI.
    """
    try:
        from fsspec.core import url_to_fs

        found: tuple[Any, str] = url_to_fs(place)
        return found
    except ImportError as error:
        raise MissingDependencyError(f"{place} is read with fsspec ({error}): pip install 'msds-plugin[ray]'") from error


def copy_here(place: str, folder: Path) -> Path:
    """A copy of what a URI names, below ``folder``."""
    kind, _, rest = place.partition("://")
    target = folder / kind / posixpath.normpath(f"/{rest}").lstrip("/")
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        files, path = filesystem(place)
        files.get_file(path, str(target))
    return target


def names_in(folder: str, ending: str = "") -> list[str]:
    """The files below a folder, by their names from there, sorted; none if there is no such folder."""
    path = local_path(folder)
    if path is not None:
        return sorted(each.relative_to(path).as_posix() for each in path.rglob(f"*{ending}") if each.is_file())
    files, root = filesystem(folder)
    root = root.rstrip("/")
    found = files.find(root) if files.exists(root) else []
    return sorted(each[len(root) :].lstrip("/") for each in found if each.endswith(ending))


def join(folder: str, name: str) -> str:
    """A file in a folder."""
    return f"{folder.rstrip('/')}/{name}" if is_uri(folder) else str(Path(folder, name))


def read_bytes(place: str) -> bytes | None:
    """What a file holds; None if there is no such file."""
    path = local_path(place)
    if path is not None:
        return path.read_bytes() if path.is_file() else None
    files, there = filesystem(place)
    content: bytes | None = files.cat_file(there) if files.isfile(there) else None
    return content


def write_bytes(content: bytes, place: str) -> None:
    """Write a file whole, making its folder: whoever looks sees all of it or nothing."""
    path = local_path(place)
    if path is None:
        files, there = filesystem(place)
        files.makedirs(posixpath.dirname(there), exist_ok=True)
        files.pipe_file(there, content)  # object stores show an object when it is complete
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda part: part.write_bytes(content))
