"""The values of a TIFF as they are stored, any part of the image, of which only the strips or tiles it needs are decoded."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import simplejpeg
import tifffile

from .samples import Array

#: Bytes of decoded strips and tiles that each file keeps: a band of windows, so that none is decoded twice.
_CACHE = 96 << 20
_JPEG = 7

Span = tuple[int, int]


class Parts:
    """The first page of a TIFF, part by part; threads may share it.

    Args:
        file: open for as long as this lives.
        most: pixels that one strip or tile may hold.

    Raises:
        ValueError: a strip or tile that is larger.
    """

    def __init__(self, file: tifffile.TiffFile, most: int) -> None:
        page: Any = file.pages.first
        self._file, self._page = file, page
        if page.is_tiled:
            self._height, self._width = page.tilelength, page.tilewidth
        else:
            self._height, self._width = min(page.rowsperstrip, page.imagelength), page.imagewidth
        separate, _, height, width, together = page.shaped
        self._planes, self._together = separate, together
        self.channels = separate * together
        self._mapped = _mapped(page)
        if self._mapped is None and self._height * self._width > most:
            raise ValueError(
                f"one of its strips holds {self._height * self._width} pixels, more than the limit of {most}: save it in tiles "
                "or shorter strips, or raise the limit (--max-pixels, max_pixels=)"
            )
        self._down, self._across = -(-height // self._height), -(-width // self._width)
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Array] = OrderedDict()
        self._bytes = 0

    def read(self, rows: Span, columns: Span) -> Array:
        """The values (H, W, channels) between two rows and two columns.

        Raises:
            ValueError: damage, also where a decoder only warns of it.
        """
        if self._mapped is not None:
            part = self._mapped[:, rows[0] : rows[1], columns[0] : columns[1]]
            return part[0].astype(self._page.dtype) if self._planes == 1 else part[..., 0].transpose(1, 2, 0).copy()
        values = np.empty((rows[1] - rows[0], columns[1] - columns[0], self.channels), self._page.dtype)
        with self._lock:
            for plane in range(self._planes):
                own = values[..., plane * self._together : (plane + 1) * self._together]
                for row, column in self._places(rows, columns):
                    part = self._decoded((plane * self._down + row) * self._across + column)
                    _copy(part, (row * self._height, column * self._width), own, (rows[0], columns[0]))
        return values

    def bands(self) -> Iterator[Span]:
        """Rows that are decoded together, one band after the other."""
        height = self._page.imagelength
        for top in range(0, height, self._height if self._mapped is None else 512):
            yield top, min(height, top + (self._height if self._mapped is None else 512))

    def _places(self, rows: Span, columns: Span) -> Iterator[tuple[int, int]]:
        for row in range(rows[0] // self._height, min(self._down, -(-rows[1] // self._height))):
            for column in range(columns[0] // self._width, min(self._across, -(-columns[1] // self._width))):
                yield row, column

    def _decoded(self, index: int) -> Array:
        part = self._kept.get(index)
        if part is not None:
            self._kept.move_to_end(index)
            return part
        part = self._kept[index] = self._decode(index)
        self._bytes += part.nbytes
        while self._bytes > _CACHE and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return part

    def _decode(self, index: int) -> Array:
        page = self._page
        content: Any
        ((content, _),) = self._file.filehandle.read_segments(
            page.dataoffsets[index : index + 1], page.databytecounts[index : index + 1]
        )
        options: dict[str, Any] = {}
        if page.compression == _JPEG:
            _check_jpeg(content, page)
            options = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
        part, _, _ = page.decode(content, index, **options)
        if part is None:
            raise ValueError("one of its strips or tiles is missing")
        return np.asarray(part[0])


def _mapped(page: Any) -> Array | None:
    """The values as they lie in the file, if they are not coded in any way: (planes, H, W, together)."""
    if not (page.is_memmappable and page.compression == 1 and page.bitspersample in (8, 16, 32, 64)):
        return None
    planes, _, height, width, together = page.shaped
    mapped: Array = page.asarray(out="memmap").reshape(planes, height, width, together)
    return mapped


def _copy(part: Array, place: Span, values: Array, origin: Span) -> None:
    """Put a strip or tile that begins at ``place`` of the image into values that begin at ``origin``."""
    spans = []
    for length, start, first, size in zip(part.shape, place, origin, values.shape, strict=False):
        begin, end = max(start, first), min(start + length, first + size)
        spans.append((slice(begin - start, end - start), slice(begin - first, end - first)))
    (from_rows, to_rows), (from_columns, to_columns) = spans[0], spans[1]
    values[to_rows, to_columns] = part[from_rows, from_columns]


def _check_jpeg(content: bytes, page: Any) -> None:
    """Raise a ValueError where libjpeg reports damage; the codec leaves such warnings out."""
    if page.bitspersample != 8:
        return
    tables = page.jpegtables
    simplejpeg.decode_jpeg(content if not tables else bytes(tables[:-2]) + content[2:], "GRAY", strict=True)
