"""What decoders pass over: truncated files where the program has told Pillow to accept them, and damage they only warn of."""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import ImageFile

_lock = threading.Lock()
_reading = 0
_tolerant = False


@contextmanager
def whole_files_only() -> Iterator[None]:
    """Have Pillow refuse truncated files, in any number of threads; after the last of them its setting is as before.

    pyiqa, once imported, has Pillow fill the missing part of a truncated file with grey, in every program.
    """
    global _reading, _tolerant
    with _lock:
        if _reading == 0:
            _tolerant = ImageFile.LOAD_TRUNCATED_IMAGES
        _reading += 1
        # Also while others read: the program may have set it again in the meantime.
        _tolerant, ImageFile.LOAD_TRUNCATED_IMAGES = _tolerant or ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        yield
    finally:
        with _lock:
            _reading -= 1
            if _reading == 0 and _tolerant:
                ImageFile.LOAD_TRUNCATED_IMAGES = True


def check_png(content: bytes) -> set[bytes]:
    """The names of a PNG's chunks.

    Raises:
        ValueError: a chunk is damaged (its CRC differs) or the end is missing. Pillow looks at some chunks only.
    """
    names, view, position = set(), memoryview(content), 8
    while b"IEND" not in names:
        if position + 12 > len(content):
            raise ValueError("the file is truncated")
        length, name = struct.unpack_from(">I4s", content, position)
        if position + 12 + length > len(content):
            raise ValueError("the file is truncated")
        (expected,) = struct.unpack_from(">I", content, position + 8 + length)
        if zlib.crc32(view[position + 4 : position + 8 + length]) != expected:
            raise ValueError(f"its {name.decode('latin-1')} chunk is damaged")
        names.add(name)
        position += 12 + length
    return names
