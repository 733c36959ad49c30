"""TIFF files, window by window, so that they may be larger than memory."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from itertools import islice, product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import simplejpeg
import tifffile
import torch
from PIL import Image
from torch import Tensor

from msds_plugin.adapters.images.colours import (
    FRAMES,
    INKS,
    TRANSPARENT,
    Array,
    Picture,
    Reading,
    Samples,
    apply_profile,
    icc_profile,
    luma,
    naming,
    to_colours,
    to_srgb,
    turn,
    unit,
)

# What it has to say goes to a program's log if there is one, and not to stderr.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

#: Decoded strips and tiles that each file keeps: those near a window, so that none is decoded twice, up to so many bytes.
_NEAR, _CACHE = 2048, 96 << 20

_KINDS: dict[int, Literal["unsigned", "signed", "floating-point"]] = {1: "unsigned", 2: "signed", 3: "floating-point"}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
_UNSPECIFIED, _ASSOCIATED, _UNASSOCIATED = 0, 1, 2
_JPEG = 7
#: Colour channels, and Pillow's modes.
_CHANNELS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3, _LAB: 3}
_MODES = {_CMYK: "CMYK", _YCBCR: "YCbCr", _LAB: "LAB"}

Span = tuple[int, int]


class LargeImage:
    """A TIFF as :class:`~msds_plugin.windows.Windows`, of which only windows are decoded.

    The numbers of ``read_image``: grey (which becomes RGB), RGB, palettes, CMYK, YCbCr, of any depth, white-is-zero, in planes,
    turned, or with transparency. BigTIFF and every compression of imagecodecs will do; tiles and short strips are read fastest.

    Args:
        path: the file.
        reading: what it does not say; the limit of pixels is for a single strip or tile. Nothing is cut off or resized.

    Raises:
        ImageFileError: no such file, damaged, or colours of another kind; names the file and the cause.

    Example:
        >>> x, y = LargeImage("distorted.tif"), LargeImage("reference.tif")  # doctest: +SKIP
        >>> MSDS(backbone="efficientnet_lite0")(x, y)  # doctest: +SKIP
    """

    def __init__(self, path: str | os.PathLike[str], reading: Reading = Reading()) -> None:  # noqa: B008 (frozen)
        self.path, self._reading = Path(path), reading
        with naming(path):
            self._file = tifffile.TiffFile(self.path)
            self._page = _Page.of(self._file)
            self._page.samples.white(reading)  # before the work
            self._parts = _Parts(self._file, reading.max_pixels)
        self.profile = self._page.profile
        self._top, self._left = 0, 0
        self.shape = (1, 3, *(self._page.size[::-1] if self._page.orientation >= 5 else self._page.size))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.shape[2], self.shape[3]

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how it was read; an image with opacity is read up to the first transparent pixel."""
        height, width = self._page.size
        tops = range(0, height, 512) if self._page.samples.alpha is not None else ()
        try:
            transparent = any(self._colours((top, min(height, top + 512)), (0, width))[1] for top in tops)
        except Exception:  # damage: whoever reads the window says so
            transparent = False
        return self._page.notes + (TRANSPARENT,) * transparent

    def in_srgb(self) -> LargeImage:
        """The same in sRGB; what has no profile is sRGB already."""
        return self._with(profile=None)

    def crop(self, top: int, left: int, height: int, width: int) -> LargeImage:
        """A part of it."""
        return self._with(_top=self._top + top, _left=self._left + left, shape=(1, 3, height, width))

    def _with(self, **changes: Any) -> LargeImage:
        other = object.__new__(LargeImage)
        vars(other).update(vars(self), **changes)
        return other

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_file", "_page", "_parts")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(vars(LargeImage(state["path"], state["_reading"])), **state)

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """The window (1, 3, height, width) whose first pixel is (top, left), float32 in [0, 1]; errors as of the class."""
        with naming(f"rows {top} to {top + height} of {self.path}"):
            colours, _ = self._colours(*self._stored(self._top + top, self._left + left, height, width))
        shown = luma(colours) if self._reading.channel == "y" else unit(colours)
        values = np.ascontiguousarray(turn(shown, self._page.orientation).transpose(2, 0, 1))
        return torch.from_numpy(values).unsqueeze(0).expand(1, 3, -1, -1)

    def decode(self) -> Picture:
        """The whole file."""
        height, width = self._page.size
        with naming(self.path), self._file:
            self._reading.check_size(width, height)
            colours, transparent = self._colours((0, height), (0, width))
        notes, turned = self._page.notes + (TRANSPARENT,) * transparent, self._page.orientation
        return Picture(turn(colours, turned), self.profile, notes, self._reading.channel, turned)

    def thin(self, most: int) -> Array:
        """Every n-th pixel of every n-th row, at most so many on each side: (H, W, 1 or 3), float32 in 0 to 1."""
        height, width = self._page.size
        step = -(-max(width, height) // most)
        with naming(self.path):
            rows = [unit(self._colours((row, row + 1), (0, width))[0][:, ::step]) for row in range(0, height, step)]
        return turn(np.concatenate(rows), self._page.orientation)

    def _colours(self, rows: Span, columns: Span) -> tuple[Array, bool]:
        """Colours between rows and columns of the file, and whether any was transparent."""
        values = self._parts.read(rows, columns)
        if self._page.unfold is not None:
            values = self._page.unfold(values)
        colours, transparent = to_colours(values, self._page.samples, self._reading)
        if self._page.profile is not None and self.profile is None:
            colours = to_srgb(colours, self._page.profile)
        return colours, transparent

    def _stored(self, top: int, left: int, height: int, width: int) -> tuple[Span, Span]:
        """Where a window of the image as it is shown lies in the file: rows, columns."""
        rows, columns = (top, top + height), (left, left + width)
        if self._page.orientation >= 5:
            rows, columns = columns, rows
        if self._page.orientation in (3, 4, 6, 7):
            rows = self._page.size[0] - rows[1], self._page.size[0] - rows[0]
        if self._page.orientation in (2, 3, 7, 8):
            columns = self._page.size[1] - columns[1], self._page.size[1] - columns[0]
        return rows, columns


def tiff_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Height and width of a TIFF as it is shown."""
    with tifffile.TiffFile(path) as file:
        page: Any = file.pages.first
        size = page.imagelength, page.imagewidth
        return size[::-1] if _orientation(page) >= 5 else size


def _orientation(page: Any) -> int:
    found = int(page.tags.valueof(274) or 1)
    return found if 1 <= found <= 8 else 1


@dataclass(frozen=True)
class _Page:
    """What the tags of a TIFF's first page say."""

    samples: Samples  # its values, once they are unfolded
    unfold: Callable[[Array], Array] | None  # what puts RGB in place of palette indices, inks and the like
    orientation: int  # as EXIF counts them
    profile: bytes | None  # of the unfolded values
    size: tuple[int, int]  # height and width as stored
    notes: tuple[str, ...]

    @classmethod
    def of(cls, file: tifffile.TiffFile) -> _Page:
        """The first page of a file."""
        if not len(file.pages):
            raise ValueError("it holds no image")
        page: Any = file.pages.first
        if page.subfiletype & 1 and (page.subifds or len(file.pages) > 1):  # as raw photographs begin
            raise ValueError("its first page is a small copy of the image: save the image itself, as PNG or TIFF")
        lost = sum(count == 0 for count in page.databytecounts)
        if lost or not page.databytecounts:
            raise ValueError(f"{lost or 'all'} of its strips or tiles are missing")
        if np.add(page.dataoffsets, page.databytecounts).max() > file.filehandle.size:
            raise ValueError("the file is truncated")
        kind = int(page.photometric)
        kind = _RGB if kind == _YCBCR and page.compression == _JPEG else kind  # the decoder of JPEG gives RGB
        samples, unfold = _samples(page, kind), None
        profile = bytes(page.tags.valueof(34675) or b"")
        inks = kind == _CMYK and bool(profile)
        if kind == _PALETTE:
            palette = _palette(page.colormap)
            samples, unfold = replace(samples, bits=8 * palette.itemsize, colours=3), partial(_from_palette, palette)
        elif kind in _MODES:
            alpha = None if samples.alpha is None else 3
            samples, unfold = replace(samples, colours=3, alpha=alpha), partial(_by_pillow, _MODES[kind], profile)
        pages: Any = file.pages  # without reduced copies and masks
        several = any(not other.subfiletype & 0b101 for other in islice(pages, 1, None))
        notes = (FRAMES,) * several + (INKS,) * inks
        stated = None if inks or kind == _LAB else icc_profile(profile)
        return cls(samples, unfold, _orientation(page), stated, (page.imagelength, page.imagewidth), notes)


def _samples(page: Any, kind: int) -> Samples:
    """What the tags say of the values as they are stored; an error where nothing here reads such."""
    name = getattr(page.photometric, "name", str(page.photometric)).lower()
    colours, bits, extra = _CHANNELS.get(kind), page.bitspersample, [int(each) for each in page.extrasamples]
    formats = set(np.atleast_1d(page.tags.valueof(339) or 1).tolist())
    if colours is None:
        raise ValueError(f"neither RGB nor grey but {name}: convert it to RGB")
    if isinstance(bits, tuple) or len(formats) > 1 or not formats <= set(_KINDS) or page.imagedepth != 1:
        raise ValueError(
            "its values are of different depths or kinds, or complex, or a volume: save it with one kind of values"
        )
    others = page.samplesperpixel - colours
    strange = others < 0 or (colours == 1 and others > len(extra[:1]))
    if kind == _PALETTE:
        strange = others > 0 or bits > 8
    elif kind in _MODES:
        inks, sampling = page.tags.valueof(332) or 1, tuple(page.subsampling or (1, 1))
        strange = (kind == _CMYK and inks != 1) or (kind == _YCBCR and sampling != (1, 1))
        strange = strange or bits != 8 or others not in (0, 1) or extra[:others] == [_UNSPECIFIED]
    if strange:
        raise ValueError(f"its colours are {name} of {page.samplesperpixel} channels of {bits} bits: convert it to RGB")
    alpha = next((place for place, each in enumerate(extra, colours) if each in (_ASSOCIATED, _UNASSOCIATED)), None)
    premultiplied = alpha is not None and extra[alpha - colours] == _ASSOCIATED
    return Samples(int(bits), _KINDS[formats.pop()], colours, kind == _WHITE_IS_ZERO, alpha, premultiplied)


def _palette(colours: Array) -> Array:
    """The colours of a palette, (entries, 3): bytes where they were bytes before they were stretched to 16 bits."""
    entries = np.ascontiguousarray(np.asarray(colours, np.uint16).T)
    high, low = entries >> 8, entries & 255
    if not high.any():  # as some programs write them, against the specification
        return low.astype(np.uint8)
    return high.astype(np.uint8) if ((low == high) | (low == 0)).all() else entries


def _from_palette(palette: Array, indices: Array) -> Array:
    if indices.max() >= len(palette):
        raise ValueError(f"it holds colour {indices.max()} of a palette of {len(palette)}")
    return palette[indices[..., 0]]


def _by_pillow(mode: str, profile: bytes, values: Array) -> Array:
    channels = Image.getmodebands(mode)
    image = Image.frombuffer(mode, values.shape[1::-1], values[..., :channels].tobytes(), "raw", mode, 0, 1)
    rgb = apply_profile(image, profile) if mode == "CMYK" and profile else image.convert("RGB")
    return np.concatenate([np.array(rgb), values[..., channels:]], 2)


class _Parts:
    """The values of a TIFF's first page as they are stored; only the strips or tiles that are needed are decoded.

    Threads may share it. One strip or tile may hold so many pixels at ``most``.
    """

    def __init__(self, file: tifffile.TiffFile, most: int) -> None:
        page: Any = file.pages.first
        self._page, self._lock = page, threading.Lock()
        self._height = page.tilelength if page.is_tiled else min(page.rowsperstrip, page.imagelength)
        self._width = page.tilewidth if page.is_tiled else page.imagewidth
        self._planes, _, height, width, self._together = page.shaped
        self._down, self._across = -(-height // self._height), -(-width // self._width)
        self._file: Any = file.filehandle
        self._kind = np.dtype(page.dtype).newbyteorder(file.byteorder)  # in the file
        self._plain = page.is_final  # values that are not coded in any way are read where they lie
        if not self._plain and self._height * self._width > most:
            raise ValueError(
                f"one of its strips holds {self._height * self._width} pixels, more than the limit of {most}: save it in tiles "
                "or shorter strips, or raise the limit (--max-pixels, max_pixels=)"
            )
        size = self._height * self._width * self._together * page.dtype.itemsize
        near = self._planes * (_NEAR // self._height + 1) * (_NEAR // self._width + 1)
        self._decoded = lru_cache(max(1, min(near, _CACHE // size)))(partial(_decode, file, page))

    def read(self, rows: Span, columns: Span) -> Array:
        """The values (H, W, channels) between two rows and two columns."""
        if self._plain:
            part = self._read_plain(rows, columns).astype(self._page.dtype, copy=False)
            return part[0] if self._planes == 1 else part[..., 0].transpose(1, 2, 0)
        values = np.empty((rows[1] - rows[0], columns[1] - columns[0], self._planes * self._together), self._page.dtype)
        down = range(rows[0] // self._height, -(-rows[1] // self._height))
        across = range(columns[0] // self._width, -(-columns[1] // self._width))
        with self._lock:
            for plane, row, column in product(range(self._planes), down, across):
                part = self._decoded((plane * self._down + row) * self._across + column)
                top, left, channel = row * self._height, column * self._width, plane * self._together
                bottom, right = min(rows[1], top + part.shape[0]), min(columns[1], left + part.shape[1])
                y, x = max(rows[0], top), max(columns[0], left)
                target = values[y - rows[0] : bottom - rows[0], x - columns[0] : right - columns[0]]
                target[..., channel : channel + self._together] = part[y - top : bottom - top, x - left : right - left]
        return values

    def _read_plain(self, rows: Span, columns: Span) -> Array:
        """(planes, H, W, channels). No map of the file: it ends the process if somebody shortens the file meanwhile."""
        height, width = self._page.imagelength, self._page.imagewidth
        values = np.empty((self._planes, rows[1] - rows[0], columns[1] - columns[0], self._together), self._kind)
        at_once = rows[1] - rows[0] if columns == (0, width) else 1
        with self._lock:
            for plane, row in product(range(self._planes), range(*rows, at_once)):
                place = ((plane * height + row) * width + columns[0]) * self._together * self._kind.itemsize
                self._file.seek(self._page.dataoffsets[0] + place)
                part = values[plane, row - rows[0] : row - rows[0] + at_once]
                if self._file.readinto(part) < part.nbytes:
                    raise ValueError("the file is truncated")
        return values


def _decode(file: tifffile.TiffFile, page: Any, index: int) -> Array:
    """A strip or tile, (H, W, channels)."""
    segment = slice(index, index + 1)
    found: Any = file.filehandle.read_segments(page.dataoffsets[segment], page.databytecounts[segment])
    ((content, _),) = found
    options: dict[str, Any] = {}
    if page.compression == _JPEG:
        options = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
        if page.bitspersample == 8:  # libjpeg only warns of damage, and the codec leaves its warnings out
            whole = bytes(page.jpegtables[:-2]) + content[2:] if page.jpegtables else content
            simplejpeg.decode_jpeg(whole, "GRAY", strict=True)
    part, _, _ = page.decode(content, index, **options)
    if part is None:
        raise ValueError("one of its strips or tiles is missing")
    return np.asarray(part[0])
