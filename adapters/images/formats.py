"""What counts as an image in a folder: the formats of Pillow and its plugins, and images that none of them reads."""

from __future__ import annotations

import importlib
import mimetypes
import os
from functools import cache
from pathlib import Path

from PIL import Image, UnidentifiedImageError

#: Of Pillow's plugins: those that only know a format's name, are for films, or start another program.
_NOT_READ = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"})
#: Images that nothing here reads, or only with a plugin, besides those that the system's table of types names.
_MEANT = frozenset(
    {".arw", ".avif", ".bpg", ".cin", ".cr2", ".cr3", ".dng", ".dpx", ".eps", ".exr", ".flif", ".hdp", ".hdr", ".heic", ".heif"}
    | {".hif", ".jls", ".jxl", ".jxr", ".nef", ".orf", ".pam", ".pef", ".psb", ".raf", ".rw2", ".srw", ".svg", ".wdp"}
)
#: Pillow's plugins by the suffixes that they read.
_PLUGINS = {"pillow_heif": (".heic", ".heif", ".hif"), "pillow_jxl": (".jxl",)}


@cache
def register_plugins() -> None:
    """Load all formats of Pillow, and the plugins for HEIC and JPEG XL that are installed."""
    Image.init()
    for name in _PLUGINS:
        try:
            plugin = importlib.import_module(name)
        except ImportError:
            continue
        if name == "pillow_heif":
            plugin.register_heif_opener()


@cache
def readable_suffixes() -> frozenset[str]:
    """Suffixes of the formats that Pillow can open."""
    register_plugins()
    formats = Image.registered_extensions()
    return frozenset(suffix for suffix, name in formats.items() if name in Image.OPEN and name not in _NOT_READ) | {".tif"}


def is_meant_as_image(name: str) -> bool:
    """Whether a file's name says that it is an image, of a format that can be read or not."""
    suffix = Path(name).suffix.lower()
    if suffix in readable_suffixes() or suffix in _MEANT:
        return True
    kind, _ = mimetypes.guess_type(f"x{suffix}")
    return kind is not None and kind.startswith("image/")


def hint(path: str | os.PathLike[str], error: Exception) -> str:
    """What to install for a file that cannot be opened; empty where that would not help."""
    suffix = Path(path).suffix.lower()
    if isinstance(error, UnidentifiedImageError) and suffix not in readable_suffixes():
        if any(suffix in suffixes for suffixes in _PLUGINS.values()):
            return f"; {suffix} files are read with a plugin: pip install 'msds-plugin[formats]'"
        return f"; convert it to PNG or TIFF ({suffix} is none of the formats that Pillow reads)" if suffix else ""
    return ""
