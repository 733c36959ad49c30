"""TIFF files larger than memory, read window by window."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tifffile

from .profiles import to_srgb
from .read import tiff_notes
from .samples import Array, ImageFileError, Reading, to_colours, turn, unit
from .tiff import is_tiff, tags_of
from .tiff_parts import Parts, Span

if TYPE_CHECKING:
    from torch import Tensor

#: Pixels from which on a TIFF is read in windows: as a tensor it would take 12 bytes for each.
LARGE = 64_000_000

_DEFAULT = Reading()


class LargeImage:
    """A TIFF as :class:`~msds_plugin.windows.Windows`, of which only windows are decoded.

    The numbers of ``read_image``: grey (which becomes RGB), RGB, palettes, CMYK, YCbCr, of any depth, white-is-zero, in planes,
    turned, or with transparency. BigTIFF and every compression of imagecodecs will do; tiles and short strips are read fastest.

    Args:
        path: the file.
        reading: what the file does not say; its limit of pixels is for a single strip or tile.

    Raises:
        ImageFileError: no such file, damaged, or colours of another kind; names the file and the cause.

    Example:
        >>> x, y = LargeImage("distorted.tif"), LargeImage("reference.tif")  # doctest: +SKIP
        >>> MSDS(backbone="efficientnet_lite0")(x, y)  # doctest: +SKIP
    """

    def __init__(self, path: str | os.PathLike[str], reading: Reading = _DEFAULT, srgb: bool = False) -> None:
        self.path, self._reading, self._srgb = Path(path), reading, srgb
        if not self.path.is_file():
            raise ImageFileError(f"cannot read {path}: no such file")
        try:
            file = tifffile.TiffFile(self.path)
            self._tags = tags_of(file)
            self._tags.samples.white(reading)
            self._parts = Parts(file, reading.max_pixels)
        except Exception as error:  # tifffile has many for a damaged file
            reason = "it cannot be understood as a TIFF" if isinstance(error, tifffile.TiffFileError) else error
            raise ImageFileError(f"cannot read {path}: {reason}") from error
        self.profile = None if srgb else self._tags.profile
        width, height = self._tags.size
        self.shape = (1, 3, width, height) if self._tags.orientation >= 5 else (1, 3, height, width)

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how it was read; a channel of opacity is looked through up to the first such pixel."""
        return tiff_notes(self._tags, self._tags.samples.alpha is not None and self._is_transparent())

    def _is_transparent(self) -> bool:
        place = self._tags.samples.alpha or 0
        white = self._tags.samples.white(self._reading)
        width, _ = self._tags.size
        try:
            # Where others than the colours come last, they do so in the file, too.
            place += self._tags.stored - self._tags.samples.colours
            return any(self._parts.read(rows, (0, width))[..., place].min() < white for rows in self._parts.bands())
        except Exception:  # damage: whoever reads the window says so
            return False

    def in_srgb(self) -> LargeImage:
        """The same in sRGB; what has no profile is sRGB already."""
        return self if self.profile is None else LargeImage(self.path, self._reading, srgb=True)

    def __reduce__(self) -> tuple[type[LargeImage], tuple[Path, Reading, bool]]:
        return LargeImage, (self.path, self._reading, self._srgb)

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """The window (1, 3, height, width) whose first pixel is (top, left), float32 in [0, 1].

        Raises:
            ImageFileError: the file is damaged there.
        """
        import torch

        try:
            colours = turn(self._colours(*self._stored(top, left, height, width)), self._tags.orientation)
        except Exception as error:  # a damaged file raises whatever its decoder runs into
            reason = str(error) or type(error).__name__
            raise ImageFileError(f"cannot read rows {top} to {top + height} of {self.path}: {reason}") from error
        values = np.ascontiguousarray(unit(colours).transpose(2, 0, 1))
        return torch.from_numpy(values).unsqueeze(0).expand(1, 3, -1, -1)

    def thin(self, most: int) -> Array:
        """Every n-th pixel of every n-th row, at most so many on each side: (H, W, 1 or 3), as :func:`to_colours` gives them.

        Raises:
            ImageFileError: the file is damaged.
        """
        width, height = self._tags.size
        step = -(-max(width, height) // most)
        try:
            rows = [self._colours((row, row + 1), (0, width))[:, ::step] for row in range(0, height, step)]
        except Exception as error:
            raise ImageFileError(f"cannot read {self.path}: {error}") from error
        return turn(np.concatenate(list(map(unit, rows))), self._tags.orientation)

    def _colours(self, rows: Span, columns: Span) -> Array:
        values = self._tags.unfold(self._parts.read(rows, columns))
        colours, _ = to_colours(values, self._tags.samples, self._reading)
        return to_srgb(colours, self._tags.profile) if self._srgb and self._tags.profile is not None else colours

    def _stored(self, top: int, left: int, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Where a window of the image as it is shown lies in the file: rows, columns."""
        rows, columns = (top, top + height), (left, left + width)
        if self._tags.orientation >= 5:
            rows, columns = columns, rows
        stored_width, stored_height = self._tags.size
        return self._mirrored(rows, stored_height, (3, 4, 6, 7)), self._mirrored(columns, stored_width, (2, 3, 7, 8))

    def _mirrored(self, span: tuple[int, int], length: int, orientations: tuple[int, ...]) -> tuple[int, int]:
        return (length - span[1], length - span[0]) if self._tags.orientation in orientations else span


def is_large(path: str | os.PathLike[str]) -> bool:
    """Whether it is a TIFF of at least :data:`LARGE` pixels."""
    try:
        if not (Path(path).is_file() and is_tiff(Path(path))):
            return False
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            return bool(page.imagewidth * page.imagelength >= LARGE)
    except Exception:  # tifffile has many for a damaged file; who reads it next says what is wrong
        return False


def open_large(path: str | os.PathLike[str], reading: Reading = _DEFAULT) -> LargeImage | None:
    """The file as a :class:`LargeImage` if :func:`is_large`; otherwise None.

    Raises:
        ImageFileError: see :class:`LargeImage`.
    """
    return LargeImage(path, reading) if is_large(path) else None
