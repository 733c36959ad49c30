"""Whether a file ends before the end that its own structure states."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO


def ends_early(path: Path, container: str) -> str | None:
    """Why a file is known to be cut off; None if it is whole, or its container does not say.

    Args:
        path: of the file.
        container: FFmpeg's name of its format.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        if container.startswith("mov"):
            return _boxes(file, size)
        if container == "avi":
            return _chunks(file, size)
        if container.startswith("matroska"):
            return _segment(file, size)
        if container == "mpegts":
            return _packets(file, size)
    return None


def _boxes(file: BinaryIO, size: int) -> str | None:
    """ISO base media: length and name of each box, one after the other."""
    at = 0
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16)
        length, name = int.from_bytes(head[:4], "big"), head[4:8].decode("latin-1")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length == 0:  # up to the end
            return None
        if length < 8:
            return f"there is no box at byte {at}"
        at += length
        if at > size:
            return f"its box {name!r} has {at - size} bytes more than the file"
    return None


def _chunks(file: BinaryIO, size: int) -> str | None:
    """AVI: one or more RIFF chunks."""
    at = 0
    while at + 8 <= size:
        file.seek(at)
        head = file.read(8)
        if head[:4] != b"RIFF":
            return None
        length = int.from_bytes(head[4:], "little")
        at += 8 + length + length % 2
        if at - length % 2 > size:
            return f"its index states {at - size} bytes more"
    return None


def _segment(file: BinaryIO, size: int) -> str | None:
    """Matroska: a header and a segment; each has an identifier of four bytes and a length."""
    at = 0
    for _ in range(2):
        file.seek(at + 4)
        first = file.read(1)
        if not first or not first[0]:
            return None
        width = 9 - first[0].bit_length()
        length = int.from_bytes(bytes([first[0] & (0xFF >> width)]) + file.read(width - 1), "big")
        if length == (1 << 7 * width) - 1:  # unknown, as of a live recording
            return None
        at += 4 + width + length
    return f"its segment has {at - size} bytes more than the file" if at > size else None


def _packets(file: BinaryIO, size: int) -> str | None:
    """MPEG-TS: packets of 188 bytes, of 192 with times (.m2ts), of 204 with error correction."""
    head = file.read(4 * 204)
    for length, offset in ((188, 0), (192, 4), (204, 0)):
        if all(head[place] == 0x47 for place in range(offset, len(head), length)):
            return f"{size % length} bytes of its last packet are there" if size % length else None
    return None
