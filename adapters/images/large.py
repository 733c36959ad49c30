"""TIFF files, window by window, so that they may be larger than memory."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import simplejpeg
import tifffile
import torch
from PIL import Image
from torch import Tensor

from msds_plugin.adapters.images.colours import (
    Array,
    Reading,
    Samples,
    cmyk_to_srgb,
    luma,
    naming,
    to_colours,
    to_srgb,
    turn,
    unit,
)

__all__ = ["LARGE", "LargeImage", "is_large", "is_tiff", "tiff_size"]

# What it has to say goes to a program's log if there is one, and not to stderr.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

#: Pixels from which on a TIFF is read in windows: as a tensor it would take 12 bytes for each.
LARGE = 64_000_000
#: Bytes of decoded strips and tiles that each file keeps: a band of windows, so that none is decoded twice.
_CACHE = 96 << 20

# What a run says once, by what happened to a file.
TRANSPARENT = "has transparent pixels: they are laid over the background (white unless --background names another)"
FRAMES = "holds several frames or pages: the first is taken"
INKS = "is CMYK with a colour profile: converted to sRGB by it"

_DEFAULT = Reading()
_KINDS: dict[int, Literal["unsigned", "signed", "floating-point"]] = {1: "unsigned", 2: "signed", 3: "floating-point"}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
_UNSPECIFIED, _ASSOCIATED, _UNASSOCIATED = 0, 1, 2
_JPEG = 7
#: Colour channels of what is not grey, and Pillow's modes.
_CHANNELS = {_RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3, _LAB: 3}
_MODES = {_CMYK: "CMYK", _YCBCR: "YCbCr", _LAB: "LAB"}

Span = tuple[int, int]


class LargeImage:
    """A TIFF as :class:`~msds_plugin.windows.Windows`, of which only windows are decoded.

    The numbers of ``read_image``: grey (which becomes RGB), RGB, palettes, CMYK, YCbCr, of any depth, white-is-zero, in planes,
    turned, or with transparency. BigTIFF and every compression of imagecodecs will do; tiles and short strips are read fastest.

    Args:
        path: the file.
        reading: what the file does not say; its limit of pixels is for a single strip or tile. Nothing is cut off or resized.
        srgb: convert to sRGB by the file's colour profile.
        window: (top, left, height, width) of the part that the image shall be; None for all.

    Raises:
        ImageFileError: no such file, damaged, or colours of another kind; names the file and the cause.

    Example:
        >>> x, y = LargeImage("distorted.tif"), LargeImage("reference.tif")  # doctest: +SKIP
        >>> MSDS(backbone="efficientnet_lite0")(x, y)  # doctest: +SKIP
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        reading: Reading = _DEFAULT,
        srgb: bool = False,
        window: tuple[int, int, int, int] | None = None,
    ) -> None:
        self.path, self._reading, self._srgb, self._window = Path(path), reading, srgb, window
        with naming(path):
            if not self.path.is_file():
                raise FileNotFoundError("no such file")
            try:
                self._file = tifffile.TiffFile(self.path)
            except tifffile.TiffFileError as error:
                raise ValueError("it cannot be understood as a TIFF") from error
            self._page = _Page.of(self._file)
            self._page.samples.white(reading)  # before the work
            self._parts = _Parts(self._file, reading.max_pixels)
        self.profile = None if srgb else self._page.profile
        height, width = self._page.size[::-1] if self._page.orientation >= 5 else self._page.size
        self._top, self._left, height, width = window or (0, 0, height, width)
        self.shape = (1, 3, height, width)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.shape[2], self.shape[3]

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how it was read; a channel of opacity is looked through up to the first such pixel."""
        return self._page.notes + (TRANSPARENT,) * self._is_transparent()

    def in_srgb(self) -> LargeImage:
        """The same in sRGB; what has no profile is sRGB already."""
        return self if self.profile is None else LargeImage(self.path, self._reading, True, self._window)

    def crop(self, top: int, left: int, height: int, width: int) -> LargeImage:
        """A part of it."""
        return LargeImage(self.path, self._reading, self._srgb, (self._top + top, self._left + left, height, width))

    def __reduce__(self) -> tuple[type[LargeImage], tuple[object, ...]]:
        return LargeImage, (self.path, self._reading, self._srgb, self._window)

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """The window (1, 3, height, width) whose first pixel is (top, left), float32 in [0, 1].

        Raises:
            ImageFileError: the file is damaged there.
        """
        with naming(f"rows {top} to {top + height} of {self.path}"):
            colours, _ = self._colours(*self._stored(self._top + top, self._left + left, height, width))
        shown = luma(colours) if self._reading.channel == "y" else unit(colours)
        values = np.ascontiguousarray(turn(shown, self._page.orientation).transpose(2, 0, 1))
        return torch.from_numpy(values).unsqueeze(0).expand(1, 3, -1, -1)

    def decode(self) -> tuple[Array, tuple[str, ...]]:
        """The whole file's colours (H, W, 1 or 3), see :func:`~msds_plugin.adapters.images.colours.to_colours`, and notes.

        Raises:
            ImageFileError: the file is damaged, or has more pixels than the limit.
        """
        height, width = self._page.size
        with naming(self.path), self._file:
            self._reading.check_size(width, height)
            colours, transparent = self._colours((0, height), (0, width))
        return turn(colours, self._page.orientation), self._page.notes + (TRANSPARENT,) * transparent

    def thin(self, most: int) -> Array:
        """Every n-th pixel of every n-th row, at most so many on each side: (H, W, 1 or 3), float32 in 0 to 1.

        Raises:
            ImageFileError: the file is damaged.
        """
        height, width = self._page.size
        step = -(-max(width, height) // most)
        with naming(self.path):
            rows = [unit(self._colours((row, row + 1), (0, width))[0][:, ::step]) for row in range(0, height, step)]
        return turn(np.concatenate(rows), self._page.orientation)

    def _colours(self, rows: Span, columns: Span) -> tuple[Array, bool]:
        """Colours between rows and columns of the file, and whether any was transparent."""
        values = self._page.unfold(self._parts.read(rows, columns))
        colours, transparent = to_colours(values, self._page.samples, self._reading)
        if self._srgb and self._page.profile is not None:
            colours = to_srgb(colours, self._page.profile)
        return colours, transparent

    def _stored(self, top: int, left: int, height: int, width: int) -> tuple[Span, Span]:
        """Where a window of the image as it is shown lies in the file: rows, columns."""
        rows, columns = (top, top + height), (left, left + width)
        if self._page.orientation >= 5:
            rows, columns = columns, rows
        stored_height, stored_width = self._page.size
        if self._page.orientation in (3, 4, 6, 7):
            rows = stored_height - rows[1], stored_height - rows[0]
        if self._page.orientation in (2, 3, 7, 8):
            columns = stored_width - columns[1], stored_width - columns[0]
        return rows, columns

    def _is_transparent(self) -> bool:
        samples, (height, width) = self._page.samples, self._page.size
        if samples.alpha is None:
            return False
        # Where others than the colours come last, they do so in the file, too.
        place = samples.alpha + self._page.stored - samples.colours
        spans = ((top, min(height, top + 512)) for top in range(0, height, 512))
        try:
            white = samples.white(self._reading)
            return any(self._parts.read(rows, (0, width))[..., place].min() < white for rows in spans)
        except Exception:  # damage: whoever reads the window says so
            return False


def is_tiff(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as a TIFF does."""
    with open(path, "rb") as file:
        return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def is_large(path: str | os.PathLike[str]) -> bool:
    """Whether it is a TIFF of at least :data:`LARGE` pixels."""
    try:
        return Path(path).is_file() and is_tiff(path) and math.prod(tiff_size(path)) >= LARGE
    except Exception:  # tifffile has many for a damaged file; who reads it next says what is wrong
        return False


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
    """What the tags of a TIFF's first page say.

    Attributes:
        samples: its values, once they are unfolded.
        stored: colour channels before that.
        to_rgb: what makes grey or RGB of these; None where they are.
        orientation: as EXIF counts them.
        profile: ICC profile of the unfolded values.
        size: height and width as stored.
        notes: what is to be said of how it is read.
    """

    samples: Samples
    stored: int
    to_rgb: Callable[[Array], Array] | None
    orientation: int
    profile: bytes | None
    size: tuple[int, int]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, file: tifffile.TiffFile) -> _Page:
        """The first page of a file.

        Raises:
            ValueError: parts of it are not in the file, or it is of a kind that nothing here reads.
        """
        if not len(file.pages):
            raise ValueError("it holds no image")
        page: Any = file.pages.first
        lost = sum(count == 0 for count in page.databytecounts)
        if lost or not page.databytecounts:
            raise ValueError(f"{lost or 'all'} of its strips or tiles are missing")
        if np.add(page.dataoffsets, page.databytecounts).max() > file.filehandle.size:
            raise ValueError("the file is truncated")
        kind = int(page.photometric)
        kind = _RGB if kind == _YCBCR and page.compression == _JPEG else kind  # the decoder of JPEG gives RGB
        profile = bytes(page.tags.valueof(34675) or b"") or None
        inks = kind == _CMYK and profile is not None
        stored = _CHANNELS.get(kind, 1)
        samples, to_rgb = _samples(page, kind, stored), None
        if kind in (_PALETTE, *_MODES):
            to_rgb, bits = _to_rgb(page, kind, profile)
            samples = replace(samples, bits=bits, colours=3, alpha=None if samples.alpha is None else 3)
        pages: Any = file.pages  # without reduced copies and masks
        several = len(pages) > 1 and sum(not other.subfiletype & 0b101 for other in pages) > 1
        notes = (FRAMES,) * several + (INKS,) * inks
        profile = None if inks or kind == _LAB else profile
        return cls(samples, stored, to_rgb, _orientation(page), profile, (page.imagelength, page.imagewidth), notes)

    def unfold(self, values: Array) -> Array:
        """Values as they are stored, (H, W, channels), with grey or RGB in place of palette indices, inks and the like."""
        if self.to_rgb is None:
            return values
        colours, others = self.to_rgb(values[..., : self.stored]), values[..., self.stored :]
        return np.concatenate([colours, others], 2) if self.samples.alpha is not None else colours


def _samples(page: Any, photometric: int, colours: int) -> Samples:
    if photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, *_CHANNELS):
        raise ValueError(f"neither RGB nor grey but {_name(page)}; convert it to RGB")
    bits, formats = page.bitspersample, set(np.atleast_1d(page.tags.valueof(339) or 1).tolist())
    if isinstance(bits, tuple) or len(formats) > 1:
        raise ValueError(f"its channels are of different depths or kinds ({bits} bits): save it with one")
    kind = _KINDS.get(formats.pop())
    if kind is None or page.imagedepth != 1:
        raise ValueError("it holds complex or untyped values, or a volume; not an image")
    extra = [int(kind) for kind in page.extrasamples]
    if page.samplesperpixel < colours or (colours == 1 and page.samplesperpixel > 1 and not extra):
        raise ValueError(f"it has {page.samplesperpixel} channels, of which it does not say what they are")
    if colours == 1 and len(extra) > 1:
        raise ValueError(f"it has {page.samplesperpixel} channels, of which only one is a colour")
    alpha = next((place for place, kind in enumerate(extra, colours) if kind in (_ASSOCIATED, _UNASSOCIATED)), None)
    premultiplied = alpha is not None and extra[alpha - colours] == _ASSOCIATED
    return Samples(int(bits), kind, colours, photometric == _WHITE_IS_ZERO, alpha, premultiplied)


def _name(page: Any) -> str:
    return getattr(page.photometric, "name", str(page.photometric)).lower()


def _to_rgb(page: Any, kind: int, profile: bytes | None) -> tuple[Callable[[Array], Array], int]:
    """What makes RGB of other colours, and its bits.

    Raises:
        ValueError: none does.
    """
    bits, others = page.bitspersample, page.samplesperpixel - _CHANNELS[kind]
    if kind == _PALETTE and others == 0 and bits <= 8:
        palette = _palette(page.colormap)
        return partial(_from_palette, palette), 8 * palette.itemsize
    told = others == 0 or (others == 1 and int(page.extrasamples[0]) != _UNSPECIFIED)
    separated = kind == _CMYK and (page.tags.valueof(332) or 1) != 1
    if bits != 8 or not told or separated or kind == _PALETTE:
        raise ValueError(f"its colours are {_name(page)} of {page.samplesperpixel} channels of {bits} bits: convert it to RGB")
    if kind == _YCBCR and tuple(page.subsampling or (1, 1)) != (1, 1):
        raise ValueError("its colours are subsampled YCbCr: convert it to RGB")
    return partial(_by_pillow, _MODES[kind], profile), 8


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


def _by_pillow(mode: str, profile: bytes | None, values: Array) -> Array:
    values = np.ascontiguousarray(values, np.uint8)
    image = Image.frombuffer(mode, values.shape[1::-1], values.tobytes(), "raw", mode, 0, 1)
    return np.array(cmyk_to_srgb(image, profile) if mode == "CMYK" and profile else image.convert("RGB"))


class _Parts:
    """The values of a TIFF's first page as they are stored; only the strips or tiles that are needed are decoded.

    Threads may share it.

    Args:
        file: open for as long as this lives.
        most: pixels that one strip or tile may hold.

    Raises:
        ValueError: a strip or tile that is larger.
    """

    def __init__(self, file: tifffile.TiffFile, most: int) -> None:
        page: Any = file.pages.first
        self._page, self._lock = page, threading.Lock()
        self._height = page.tilelength if page.is_tiled else min(page.rowsperstrip, page.imagelength)
        self._width = page.tilewidth if page.is_tiled else page.imagewidth
        self._planes, _, height, width, self._together = page.shaped
        self._down, self._across = -(-height // self._height), -(-width // self._width)
        self._mapped: Array | None = None  # values that are not coded in any way are read where they lie
        if page.is_memmappable and page.compression == 1 and page.bitspersample in (8, 16, 32, 64):
            self._mapped = page.asarray(out="memmap").reshape(self._planes, height, width, self._together)
        elif self._height * self._width > most:
            raise ValueError(
                f"one of its strips holds {self._height * self._width} pixels, more than the limit of {most}: save it in tiles "
                "or shorter strips, or raise the limit (--max-pixels, max_pixels=)"
            )
        size = self._height * self._width * self._together * page.dtype.itemsize
        self._decoded = lru_cache(max(1, _CACHE // size))(partial(_decode, file, page))

    def read(self, rows: Span, columns: Span) -> Array:
        """The values (H, W, channels) between two rows and two columns.

        Raises:
            ValueError: damage, also where a decoder only warns of it.
        """
        if self._mapped is not None:
            part = self._mapped[:, rows[0] : rows[1], columns[0] : columns[1]]
            return part[0].astype(self._page.dtype) if self._planes == 1 else part[..., 0].transpose(1, 2, 0).copy()
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
