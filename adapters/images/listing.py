"""The images of a folder: whatever could be meant as one, so that none is left out without a word."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from .formats import is_meant_as_image, register_plugins
from .samples import ImageFileError


@dataclass(frozen=True)
class Listing:
    """What is in a folder.

    Attributes:
        folder: which.
        images: sorted; also broken links, folders and other entries with the name of an image, which reading will refuse.
        left_out: sub-folders that hold images and were not looked into, with the number of these; None where the folder
            cannot be read.
        recursive: sub-folders were looked into.
    """

    folder: Path
    images: tuple[Path, ...]
    left_out: tuple[tuple[Path, int | None], ...] = ()
    recursive: bool = False


def list_folder(folder: str | os.PathLike[str], recursive: bool = False) -> Listing:
    """The images of a folder, and of its sub-folders if asked for or if it holds nothing but folders.

    Files and folders whose name begins with a dot are passed over, and so are ``__MACOSX`` and ``lost+found``.

    Raises:
        ImageFileError: there is none.
        OSError: the folder cannot be read.
    """
    folder = Path(folder)
    images, folders = _entries(folder)
    closed: list[Path] = []
    inside = {sub: _below(sub, {os.path.realpath(folder)}, closed) for sub in folders}
    deep = recursive or (not images and any(inside.values()))
    if deep:
        images += [path for below in inside.values() for path in below]
    if not images:
        raise ImageFileError(f"no image in {folder}")
    left_out = [] if deep else [(sub, len(below)) for sub, below in inside.items() if below]
    return Listing(folder, tuple(sorted(images)), (*left_out, *((sub, None) for sub in closed)), deep)


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """The image files of a folder, sorted by name.

    Raises:
        ImageFileError: there is none.
    """
    return list(list_folder(folder).images)


def _below(folder: Path, seen: set[str], closed: list[Path]) -> list[Path]:
    """The images of a folder at any depth; folders that cannot be read go to ``closed``."""
    real = os.path.realpath(folder)
    if real in seen:  # a link to a folder above it
        return []
    try:
        images, folders = _entries(folder)
    except OSError:
        closed.append(folder)
        return []
    return images + [path for sub in folders for path in _below(sub, seen | {real}, closed)]


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """What could be meant as images, and sub-folders."""
    images, folders = [], []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.name in ("__MACOSX", "lost+found"):
            continue
        if entry.is_dir() and not _names_an_image(entry):
            folders.append(entry)
        elif is_meant_as_image(entry.name) or (not entry.suffix and _is_image(entry)):
            images.append(entry)
    return images, folders


def _names_an_image(folder: Path) -> bool:
    # "set.im" with images in it is a folder; "photo.png" with none is somebody's mistake, and is named as one.
    try:
        return is_meant_as_image(folder.name) and not any(is_meant_as_image(path.name) for path in folder.iterdir())
    except OSError:
        return True


def _is_image(path: Path) -> bool:
    """Whether a file whose name does not say so is an image by its content."""
    register_plugins()
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError:
        return False
    return len(start) == 16 and any(accept is not None and accept(start) is True for _, accept in Image.OPEN.values())
