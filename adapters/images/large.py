"""TIFF files larger than memory, read window by window."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from torch import Tensor

from ...errors import MissingDependencyError
from .read import ImageFileError

#: Pixels from which on a TIFF is read in windows: as a tensor it would take 12 bytes for each.
LARGE = 64_000_000

#: Bytes of decoded image that GDAL keeps, of all files together: a band of windows, so that none is decoded twice.
_CACHE = 192 << 20


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

    The numbers of ``read_image``: 8 or 16 bits, RGB or grey (which becomes RGB), without transparency. BigTIFF and every
    compression that GDAL knows will do; tiles and short strips are read fastest.

    Raises:
        ImageFileError: no such file, damaged, or colours of another kind; names the file and the cause.
        MissingDependencyError: rasterio is not installed.

    Example:
        >>> x, y = LargeImage("distorted.tif"), LargeImage("reference.tif")  # doctest: +SKIP
        >>> MSDS(backbone="efficientnet_lite0")(x, y)  # doctest: +SKIP
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        rasterio = _rasterio()
        if not self.path.is_file():
            raise ImageFileError(f"cannot read {path}: no such file")
        try:
            with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=_CACHE):
                warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
                self._file = rasterio.open(self.path, driver="GTiff")
        except rasterio.errors.RasterioError as error:
            raise ImageFileError(f"cannot read {path} as a TIFF: {error}") from error
        self._bands = self._colours()
        self.shape = (1, 3, *self._file.shape)

    def _colours(self) -> list[int]:
        kinds = [kind.name for kind in self._file.colorinterp]
        depth = self._file.dtypes[0]
        photometric = getattr(self._file.photometric, "name", None)
        if depth not in ("uint8", "uint16"):
            raise ImageFileError(f"cannot read {self.path}: values of type {depth}; 8 or 16 bits are known")
        if kinds[:3] == ["red", "green", "blue"] and photometric != "cmyk":
            return [1, 2, 3]
        if kinds in (["gray"], ["gray", "alpha"]):
            return [1]
        raise ImageFileError(
            f"cannot read {self.path}: neither RGB nor grey but {photometric or ', '.join(kinds)}; convert it to RGB"
        )

    def __reduce__(self) -> tuple[type[LargeImage], tuple[Path]]:
        return LargeImage, (self.path,)

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """The window (1, 3, height, width) whose first pixel is (top, left), float32 in [0, 1].

        Raises:
            ImageFileError: the file is damaged there.
        """
        rasterio = _rasterio()
        window = ((top, top + height), (left, left + width))
        try:
            with rasterio.Env(GDAL_CACHEMAX=_CACHE):
                pixels = self._file.read(self._bands, window=window)
        except rasterio.errors.RasterioError as error:
            raise ImageFileError(f"cannot read rows {top} to {top + height} of {self.path}: {error}") from error
        values = pixels.astype(np.float32) / np.iinfo(pixels.dtype).max
        return torch.from_numpy(values).unsqueeze(0).expand(1, 3, -1, -1)


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


def open_large(path: str | os.PathLike[str]) -> LargeImage | None:
    """The file as a :class:`LargeImage` if :func:`is_large`; otherwise None.

    Raises:
        ImageFileError: see :class:`LargeImage`.
        MissingDependencyError: the file is a large TIFF, and rasterio is not installed.
    """
    return LargeImage(path) if is_large(path) else None
