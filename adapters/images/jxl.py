"""What the header of a JPEG XL file says of its values, which its decoders leave out.

Source: ISO/IEC 18181-1, image header; 18181-2, boxes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Header:
    """Bits per value, whether these are floating-point numbers, and whether the file holds several frames."""

    bits: int
    floating: bool
    animated: bool


def read_header(content: bytes) -> Header:
    """The header of a file.

    Raises:
        ValueError: it has none.
    """
    start = _codestream(content)
    if not start.startswith(b"\xff\x0a"):
        raise ValueError("it has no JPEG XL codestream")
    bits = _Bits(start[2:200])
    _skip_size(bits)
    if bits.take(1):  # all as usual
        return Header(8, False, False)
    animated = False
    if bits.take(1):
        bits.take(3)  # orientation
        if bits.take(1):
            _skip_size(bits)
        if bits.take(1):
            _skip_preview(bits)
        animated = bool(bits.take(1))
        if animated:
            bits.choose((100, 0), (1000, 0), (1, 10), (1, 30))
            bits.choose((1, 0), (1001, 0), (1, 8), (1, 10))
            bits.choose((0, 0), (0, 3), (0, 16), (0, 32))
            bits.take(1)
    if bits.take(1):
        return Header(bits.choose((32, 0), (16, 0), (24, 0), (1, 6)), True, animated)
    return Header(bits.choose((8, 0), (10, 0), (12, 0), (1, 6)), False, animated)


def _codestream(content: bytes) -> bytes:
    """Its beginning, out of the boxes if there are any."""
    if content.startswith(b"\xff\x0a"):
        return content
    position = 0
    while position + 8 <= len(content):
        length, name = struct.unpack_from(">I4s", content, position)
        header = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", content, position + 8)
            header = 16
        if name in (b"jxlc", b"jxlp"):
            return content[position + header + (4 if name == b"jxlp" else 0) :][:256]
        if length == 0:
            break
        position += max(length, header)
    return b""


class _Bits:
    """Bits of bytes, the lowest first."""

    def __init__(self, content: bytes) -> None:
        self._value, self._left = int.from_bytes(content, "little"), 8 * len(content)

    def take(self, count: int) -> int:
        if count > self._left:
            raise ValueError("the file is truncated")
        found = self._value & ((1 << count) - 1)
        self._value >>= count
        self._left -= count
        return found

    def choose(self, *ways: tuple[int, int]) -> int:
        """A number coded in one of four ways: so much, and so many bits more."""
        least, more = ways[self.take(2)]
        return least + self.take(more)


def _skip_size(bits: _Bits) -> None:
    small = bits.take(1)
    _skip_sides(bits, (lambda: bits.take(5)) if small else lambda: bits.choose((1, 9), (1, 13), (1, 18), (1, 30)))


def _skip_preview(bits: _Bits) -> None:
    eights = bits.take(1)
    ways = ((16, 0), (32, 0), (1, 5), (33, 9)) if eights else ((1, 6), (65, 8), (321, 10), (1345, 12))
    _skip_sides(bits, lambda: bits.choose(*ways))


def _skip_sides(bits: _Bits, side: Callable[[], int]) -> None:
    side()
    if bits.take(3) == 0:  # no known ratio
        side()
