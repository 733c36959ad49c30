"""The images of a folder: whatever could be meant as one, so that none is left out without a word."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image

from msds_plugin.adapters.images.colours import ImageFileError

#: Which files are videos, by their names.
VIDEO_SUFFIXES = frozenset(
    {".264", ".265", ".266", ".3g2", ".3gp", ".asf", ".av1", ".avi", ".avs2", ".divx", ".dv", ".f4v", ".flv", ".h264", ".h265"}
    | {".h266", ".hevc", ".ivf", ".m1v", ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mk3d", ".mkv", ".mov", ".mp4"}
    | {".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".obu", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".tp", ".trp", ".ts", ".vc1"}
    | {".vob", ".vvc", ".webm", ".wmv", ".wtv", ".y4m"}
)
#: Pillow's plugins by the suffixes that they read.
PLUGINS = {"pillow_heif": (".heic", ".heif", ".hif"), "pillow_jxl": (".jxl",)}
#: Of Pillow's own: those that only know a format's name, are for films, or need a program or system beside it.
NOT_READ = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"})
#: Images that nothing here reads, or only with a plugin or by another suffix. Not by the types that the system knows: each
#: machine has a table of its own.
_MEANT = frozenset(
    {".3fr", ".arw", ".avci", ".avcs", ".avif", ".avifs", ".bpg", ".btf", ".btif", ".cgm", ".cin", ".cr2", ".cr3", ".crw"}
    | {".dcr", ".djv", ".djvu", ".dng", ".dpx", ".emf", ".eps", ".erf", ".exr", ".flif", ".fpx", ".fts", ".hdp", ".hdr"}
    | {".heic", ".heics", ".heif", ".heifs", ".hej2", ".hif", ".hsj2", ".ief", ".iiq", ".jif", ".jls", ".jng", ".jpg2"}
    | {".jph", ".jphc", ".jpm", ".jxl", ".jxr", ".jxs", ".kdc", ".ktx", ".ktx2", ".mdi", ".mef", ".mos", ".mpo", ".mrw"}
    | {".nef", ".nrw", ".orf", ".pam", ".pef", ".pjp", ".pjpeg", ".psb", ".raf", ".rgbe", ".rw2", ".rwl", ".sr2", ".srf"}
    | {".srw", ".svg", ".svgz", ".vtf", ".wbmp", ".wdp", ".wmf", ".x3f", ".xcf", ".xif", ".xwd", ".xyze"}
)


@cache
def register_plugins() -> None:
    """Load all formats of Pillow, and the plugins for HEIC and JPEG XL that are installed."""
    Image.init()
    for name in PLUGINS:
        try:
            plugin = importlib.import_module(name)
        except Exception:  # one that is installed but broken must not cost the other formats
            continue
        if name == "pillow_heif":
            plugin.register_heif_opener()


@cache
def readable_suffixes() -> frozenset[str]:
    """Suffixes of the formats that Pillow can open."""
    register_plugins()
    formats = Image.registered_extensions()
    return frozenset(suffix for suffix, name in formats.items() if name in Image.OPEN and name not in NOT_READ)


def is_meant_as_image(name: str) -> bool:
    """Whether a file's name says that it is an image, of a format that can be read or not."""
    suffix = Path(name).suffix.lower()
    return suffix in readable_suffixes() or suffix in _MEANT


@dataclass(frozen=True)
class Listing:
    """What is in a folder."""

    folder: Path
    #: Sorted; also broken links, folders and other entries with the name of an image, which reading will refuse.
    images: tuple[Path, ...]
    #: Sub-folders that hold images and were not looked into, with the number of these; None where one cannot be read.
    left_out: tuple[tuple[Path, int | None], ...] = ()


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
    left_out: list[tuple[Path, int | None]] = [(sub, None) for sub in closed]
    if recursive or not images:
        images += [path for below in inside.values() for path in below]
    else:
        left_out = [*((sub, len(below)) for sub, below in inside.items() if below), *left_out]
    if not images:
        raise ImageFileError(f"no image in {folder}")
    return Listing(folder, tuple(sorted(images)), tuple(left_out))


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """The image files of a folder, sorted by name; errors as of :func:`list_folder`."""
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
        named = is_meant_as_image(entry.name)
        if entry.is_dir() and not (named and _is_empty_of_images(entry)):
            folders.append(entry)
        elif named or (not entry.suffix and _is_image(entry)):
            images.append(entry)
    return images, folders


def _is_empty_of_images(folder: Path) -> bool:
    # "set.im" with images in it is a folder; "photo.png" with none is somebody's mistake, and is named as one.
    try:
        return not any(is_meant_as_image(path.name) for path in folder.iterdir())
    except OSError:
        return True


def _is_image(path: Path) -> bool:
    """Whether a file whose name does not say so is an image by its content."""
    register_plugins()
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            start = file.read(16)
    except OSError:
        return False
    accepting = [accept for name, (_, accept) in Image.OPEN.items() if accept is not None and name not in NOT_READ]
    return len(start) == 16 and any(accept(start) is True for accept in accepting)
