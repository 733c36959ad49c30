"""Files: replaced in one step, so that a reader sees the old one or the new one; known by their content."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4


def check_file(path: Path) -> None:
    """Raise an error unless a file can be written at ``path``; nothing is left there.

    Raises:
        FileNotFoundError: the folder does not exist.
        PermissionError: nothing may be written there.
        ValueError: the file system refuses the name.
    """
    try:
        if not path.parent.is_dir():
            raise FileNotFoundError(f"no folder {path.parent} to write {path.name} to: make it first")
        target = Path(os.path.realpath(path))
        if target.is_dir():
            raise PermissionError(f"{path} cannot be written: it is a folder")
        # The folder too, as the new file is made beside the old one.
        if not all(os.access(each, os.W_OK) for each in (target.parent, target) if each.exists()):
            raise PermissionError(f"{path} cannot be written: it, and the folder it is in, must be writable")
        target.open("xb").close()  # the surest way to learn what the file system thinks of a name
    except FileExistsError:
        return
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is None:  # said above
            raise
        raise ValueError(f"{path} cannot be written: {_reason(error)}") from error
    target.unlink()


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Have ``write`` make a file beside ``path``, and move it into place.

    Raises:
        OSError: it cannot be written; names ``path``, which is left as it was.
    """
    target = Path(os.path.realpath(path))  # or a link would be replaced by a file
    try:
        part = target.with_name(f".msds-{uuid4().hex}{target.suffix}")  # short, as the target's name may be the longest
        try:
            part.open("xb").close()
            mode = (target if target.exists() else part).stat().st_mode
            write(part)
            if part.stat().st_mode != mode:  # safetensors writes what nobody else may read
                part.chmod(stat.S_IMODE(mode))
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            try:
                part.replace(target)
            except OSError:  # a file mounted by itself, as containers do, cannot be replaced
                shutil.copyfile(part, target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {_reason(error)}") from error


def content(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file; the path of what cannot be read or is no regular file."""
    try:
        if stat.S_ISREG(os.stat(path).st_mode):  # a pipe has no end until somebody writes to it
            digest = hashlib.sha256()
            with open(path, "rb", buffering=0) as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
            return digest.hexdigest()
    except (OSError, ValueError):
        pass
    return repr(os.path.realpath(path))


def state(path: str | os.PathLike[str]) -> tuple[int, ...]:
    """What changes when a file is written or replaced: inode, size, times of modification and of change."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
