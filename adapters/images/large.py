"""TIFF files larger than memory, read window by window."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

from ...errors import MissingDependencyError
from .profiles import to_srgb
from .read import FRAMES, TRANSPARENT
from .samples import ImageFileError, Reading, to_colours, turn, unit
from .tiff import tags_of

if TYPE_CHECKING:
    from torch import Tensor

#: Pixels from which on a TIFF is read in windows: as a tensor it would take 12 bytes for each.
LARGE = 64_000_000

#: Bytes of decoded image that GDAL keeps, of all files together: a band of windows, so that none is decoded twice.
_CACHE = 192 << 20

_DEFAULT = Reading()


def _rasterio() -> Any:
    try:
        import rasterio
    except ImportError as error:
        raise MissingDependencyError(
            f"TIFFs of more than {LARGE // 10**6} megapixels are read with rasterio ({error}): pip install 'msds-plugin[large]'"
        ) from error
    return rasterio


class LargeImage:
    """A TIFF as :class:`~msds_plugin.windows.Windows`, of which only windows are decoded.

    The numbers of ``read_image``: RGB or grey (which becomes RGB), of any depth, white-is-zero, in planes, turned, or with
    transparency. BigTIFF and every compression that GDAL knows will do; tiles and short strips are read fastest.

    Args:
        path: the file.
        reading: what the file does not say.

    Raises:
        ImageFileError: no such file, damaged, or colours of another kind; names the file and the cause.
        MissingDependencyError: rasterio is not installed.

    Example:
        >>> x, y = LargeImage("distorted.tif"), LargeImage("reference.tif")  # doctest: +SKIP
        >>> MSDS(backbone="efficientnet_lite0")(x, y)  # doctest: +SKIP
    """

    def __init__(self, path: str | os.PathLike[str], reading: Reading = _DEFAULT, srgb: bool = False) -> None:
        self.path, self._reading, self._srgb = Path(path), reading, srgb
        rasterio = _rasterio()
        if not self.path.is_file():
            raise ImageFileError(f"cannot read {path}: no such file")
        try:
            with tifffile.TiffFile(self.path) as file:
                tags = tags_of(file)
            if tags.samples is None:
                raise ValueError(f"neither RGB nor grey but {tags.colours}; convert it to RGB")
            tags.samples.white(reading)
        except Exception as error:  # tifffile has many for a damaged file
            reason = "it cannot be understood as a TIFF" if isinstance(error, tifffile.TiffFileError) else error
            raise ImageFileError(f"cannot read {path}: {reason}") from error
        try:
            with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=_CACHE):
                warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
                self._file = rasterio.open(self.path, driver="GTiff")
        except rasterio.errors.RasterioError as error:
            raise ImageFileError(f"cannot read {path} as a TIFF: {error}") from error
        self._samples, self._orientation = tags.samples, tags.orientation
        self.profile = None if srgb else tags.profile
        self._icc = tags.profile
        self.notes = ((FRAMES,) if tags.frames > 1 else ()) + ((TRANSPARENT,) if tags.samples.alpha is not None else ())
        height, width = self._file.shape
        self.shape = (1, 3, width, height) if self._orientation >= 5 else (1, 3, height, width)

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

        rasterio = _rasterio()
        try:
            with rasterio.Env(GDAL_CACHEMAX=_CACHE):
                pixels = self._file.read(window=self._stored(top, left, height, width))
            colours, _ = to_colours(pixels.transpose(1, 2, 0), self._samples, self._reading)
            colours = turn(colours, self._orientation)
            if self._srgb and self._icc is not None:
                colours = to_srgb(colours, self._icc)
        except (rasterio.errors.RasterioError, ValueError) as error:
            raise ImageFileError(f"cannot read rows {top} to {top + height} of {self.path}: {error}") from error
        values = np.ascontiguousarray(unit(colours).transpose(2, 0, 1))
        return torch.from_numpy(values).unsqueeze(0).expand(1, 3, -1, -1)

    def _stored(self, top: int, left: int, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Where a window of the image as it is shown lies in the file: rows, columns."""
        rows, columns = (top, top + height), (left, left + width)
        if self._orientation >= 5:
            rows, columns = columns, rows
        stored_height, stored_width = self._file.shape
        return self._mirrored(rows, stored_height, (3, 4, 6, 7)), self._mirrored(columns, stored_width, (2, 3, 7, 8))

    def _mirrored(self, span: tuple[int, int], length: int, orientations: tuple[int, ...]) -> tuple[int, int]:
        return (length - span[1], length - span[0]) if self._orientation in orientations else span


def is_large(path: str | os.PathLike[str]) -> bool:
    """Whether it is a TIFF of at least :data:`LARGE` pixels."""
    if Path(path).suffix.lower() not in (".tif", ".tiff"):
        return False
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            return bool(page.imagewidth * page.imagelength >= LARGE)
    except Exception:  # tifffile has many for a damaged file; who reads it next says what is wrong
        return False


def open_large(path: str | os.PathLike[str], reading: Reading = _DEFAULT) -> LargeImage | None:
    """The file as a :class:`LargeImage` if :func:`is_large`; otherwise None.

    Raises:
        ImageFileError: see :class:`LargeImage`.
        MissingDependencyError: the file is a large TIFF, and rasterio is not installed.
    """
    return LargeImage(path, reading) if is_large(path) else None
