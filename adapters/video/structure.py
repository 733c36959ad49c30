"""Whether a file ends before the end that its own structure states."""

from __future__ import annotations

import os
from pathlib import Path


def ends_early(path: Path, container: str) -> str | None:
    """Why a file is known to be cut off; None if it is whole, or its container does not say.

    Args:
        path: of the file.
        container: FFmpeg's name of its format.
    """
    size, at = os.path.getsize(path), 0
    with open(path, "rb") as file:
        if container == "mpegts":
            return _packets(file.read(4 * 204), size)
        length_of = next((each for name, each in _ELEMENTS.items() if container.startswith(name)), None)
        while length_of is not None and at + 8 <= size:
            file.seek(at)
            length = length_of(file.read(16))
            if length is None:
                return None
            if length < 8:
                return f"nothing that can be read begins at byte {at}"
            at += length
    padding = int(container == "avi")  # which some programs leave out at the end
    return f"its last element has {at - size} bytes more than the file" if at > size + padding else None


def _box(head: bytes) -> int | None:
    """Bytes of an element of ISO base media: its length, in 4 or 8 bytes, and its name; None for one up to the end."""
    length = int.from_bytes(head[:4], "big")
    return int.from_bytes(head[8:16], "big") if length == 1 else length or None


def _chunk(head: bytes) -> int | None:
    """Bytes of a RIFF chunk, of which an AVI has one or more; the length is made even."""
    length = int.from_bytes(head[4:8], "little")
    return 8 + length + length % 2 if head[:4] == b"RIFF" else None


def _element(head: bytes) -> int | None:
    """Bytes of Matroska's header or segment: an identifier of four bytes and a length, whose first bits state its bytes."""
    width = 9 - head[4].bit_length()
    length = int.from_bytes(head[4 : 4 + width], "big") & ((1 << 7 * width) - 1)
    unknown = width > 8 or length == (1 << 7 * width) - 1  # as of a live recording
    return None if unknown or head[:4] not in (b"\x1aE\xdf\xa3", b"\x18S\x80g") else 4 + width + length


_ELEMENTS = {"mov": _box, "avi": _chunk, "matroska": _element}


def _packets(head: bytes, size: int) -> str | None:
    """MPEG-TS: packets of 188 bytes, of 192 with times (.m2ts), of 204 with error correction."""
    for length, offset in ((188, 0), (192, 4), (204, 0)):
        if all(head[place] == 0x47 for place in range(offset, len(head), length)):
            return f"{size % length} bytes of its last packet are there" if size % length else None
    return None
