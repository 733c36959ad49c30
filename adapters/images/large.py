"""TIFF files, window by window, so that they may be larger than memory."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
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
#: Colour channels of what is neither grey nor RGB.
_OTHERS = {_PALETTE: 1, _CMYK: 4, _YCBCR: 3, _LAB: 3}

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
            self._tags = _tags_of(self._file)
            self._tags.samples.white(reading)  # before the work
            self._parts = _Parts(self._file, reading.max_pixels)
        self.profile = None if srgb else self._tags.profile
        width, height = self._tags.size
        whole = (0, 0, width, height) if self._tags.orientation >= 5 else (0, 0, height, width)
        self._top, self._left, *size = window or whole
        self.shape = (1, 3, *size)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.shape[2], self.shape[3]

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how it was read; a channel of opacity is looked through up to the first such pixel."""
        return self._tags.notes(self._tags.samples.alpha is not None and self._is_transparent())

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
        values = np.ascontiguousarray(turn(shown, self._tags.orientation).transpose(2, 0, 1))
        return torch.from_numpy(values).unsqueeze(0).expand(1, 3, -1, -1)

    def decode(self) -> tuple[Array, tuple[str, ...]]:
        """The whole file's colours (H, W, 1 or 3), see :func:`~msds_plugin.adapters.images.colours.to_colours`, and notes.

        Raises:
            ImageFileError: the file is damaged, or has more pixels than the limit.
        """
        width, height = self._tags.size
        with naming(self.path), self._file:
            self._reading.check_size(width, height)
            colours, transparent = self._colours((0, height), (0, width))
        return turn(colours, self._tags.orientation), self._tags.notes(transparent)

    def thin(self, most: int) -> Array:
        """Every n-th pixel of every n-th row, at most so many on each side: (H, W, 1 or 3), float32 in 0 to 1.

        Raises:
            ImageFileError: the file is damaged.
        """
        width, height = self._tags.size
        step = -(-max(width, height) // most)
        with naming(self.path):
            rows = [unit(self._colours((row, row + 1), (0, width))[0][:, ::step]) for row in range(0, height, step)]
        return turn(np.concatenate(rows), self._tags.orientation)

    def _colours(self, rows: Span, columns: Span) -> tuple[Array, bool]:
        """Colours between rows and columns of the file, and whether any was transparent."""
        values = self._tags.unfold(self._parts.read(rows, columns))
        colours, transparent = to_colours(values, self._tags.samples, self._reading)
        if self._srgb and self._tags.profile is not None:
            colours = to_srgb(colours, self._tags.profile)
        return colours, transparent

    def _stored(self, top: int, left: int, height: int, width: int) -> tuple[Span, Span]:
        """Where a window of the image as it is shown lies in the file: rows, columns."""
        rows, columns = (top, top + height), (left, left + width)
        if self._tags.orientation >= 5:
            rows, columns = columns, rows
        stored_width, stored_height = self._tags.size
        if self._tags.orientation in (3, 4, 6, 7):
            rows = stored_height - rows[1], stored_height - rows[0]
        if self._tags.orientation in (2, 3, 7, 8):
            columns = stored_width - columns[1], stored_width - columns[0]
        return rows, columns

    def _is_transparent(self) -> bool:
        samples, (width, _) = self._tags.samples, self._tags.size
        # Where others than the colours come last, they do so in the file, too.
        place = (samples.alpha or 0) + self._tags.stored - samples.colours
        try:
            white = samples.white(self._reading)
            return any(self._parts.read(rows, (0, width))[..., place].min() < white for rows in self._parts.bands())
        except Exception:  # damage: whoever reads the window says so
            return False


def is_tiff(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as a TIFF does."""
    with open(path, "rb") as file:
        return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def is_large(path: str | os.PathLike[str]) -> bool:
    """Whether it is a TIFF of at least :data:`LARGE` pixels."""
    try:
        if not (Path(path).is_file() and is_tiff(path)):
            return False
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            return bool(page.imagewidth * page.imagelength >= LARGE)
    except Exception:  # tifffile has many for a damaged file; who reads it next says what is wrong
        return False


def tiff_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Height and width of a TIFF as it is shown."""
    with tifffile.TiffFile(path) as file:
        page: Any = file.pages.first
        size = page.imagelength, page.imagewidth
        return size[::-1] if int(page.tags.valueof(274) or 1) >= 5 else size


@dataclass(frozen=True)
class _Tags:
    """What the tags of a TIFF's first page say.

    Attributes:
        samples: its values, once they are unfolded.
        stored: colour channels before that.
        to_rgb: what makes grey or RGB of these; None where they are.
        orientation: as EXIF counts them.
        profile: ICC profile of the unfolded values.
        inks: it is CMYK with a profile, by which it is unfolded to sRGB.
        size: width and height as stored.
        frames: pages, without reduced copies and masks.
    """

    samples: Samples
    stored: int
    to_rgb: Callable[[Array], Array] | None
    orientation: int
    profile: bytes | None
    inks: bool
    size: tuple[int, int]
    frames: int

    def unfold(self, values: Array) -> Array:
        """Values as they are stored, (H, W, channels), with grey or RGB in place of palette indices, inks and the like."""
        if self.to_rgb is None:
            return values
        colours, others = self.to_rgb(values[..., : self.stored]), values[..., self.stored :]
        return np.concatenate([colours, others], 2) if self.samples.alpha is not None else colours

    def notes(self, transparent: bool) -> tuple[str, ...]:
        """What is to be said of how it was read."""
        said = ((FRAMES, self.frames > 1), (INKS, self.inks), (TRANSPARENT, transparent))
        return tuple(note for note, holds in said if holds)


def _tags_of(file: tifffile.TiffFile) -> _Tags:
    """The tags of the first page.

    Raises:
        ValueError: parts of the page are not in the file, or it is of a kind that nothing here reads.
    """
    if not len(file.pages):
        raise ValueError("it holds no image")
    page: Any = file.pages.first
    lost = sum(count == 0 for count in page.databytecounts)
    if lost or not page.databytecounts:
        raise ValueError(f"{lost or 'all'} of its strips or tiles are missing")
    size = file.filehandle.size
    if any(start + count > size for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)):
        raise ValueError("the file is truncated")
    pages: Any = file.pages
    profile = page.tags.valueof(34675)
    profile = bytes(profile) if profile else None
    kind = int(page.photometric)
    kind = _RGB if kind == _YCBCR and page.compression == _JPEG else kind  # the decoder of JPEG gives RGB
    inks = kind == _CMYK and profile is not None
    stored = _OTHERS.get(kind, 3 if kind == _RGB else 1)
    samples, to_rgb = _samples(page, kind, stored), None
    if kind in _OTHERS:
        to_rgb, bits = _to_rgb(page, kind, profile)
        samples = replace(samples, bits=bits, colours=3, alpha=None if samples.alpha is None else 3)
    return _Tags(
        samples,
        stored,
        to_rgb,
        int(page.tags.valueof(274) or 1),
        None if inks or kind == _LAB else profile,
        inks,
        (page.imagewidth, page.imagelength),
        sum(not other.subfiletype & 0b101 for other in pages) if len(pages) > 1 else 1,
    )


def _samples(page: Any, photometric: int, colours: int) -> Samples:
    if photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, *_OTHERS):
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
    alpha = next((colours + i for i, kind in enumerate(extra) if kind in (_ASSOCIATED, _UNASSOCIATED)), None)
    premultiplied = alpha is not None and extra[alpha - colours] == _ASSOCIATED
    return Samples(int(bits), kind, colours, photometric == _WHITE_IS_ZERO, alpha, premultiplied)


def _name(page: Any) -> str:
    return getattr(page.photometric, "name", str(page.photometric)).lower()


def _to_rgb(page: Any, kind: int, profile: bytes | None) -> tuple[Callable[[Array], Array], int]:
    """What makes RGB of other colours, and its bits.

    Raises:
        ValueError: none does.
    """
    bits, others = page.bitspersample, page.samplesperpixel - _OTHERS[kind]
    if kind == _PALETTE and others == 0 and bits <= 8:
        palette = _palette(page.colormap)
        return partial(_from_palette, palette), 8 * palette.itemsize
    told = others == 0 or (others == 1 and int(page.extrasamples[0]) != _UNSPECIFIED)
    separated = kind == _CMYK and (page.tags.valueof(332) or 1) != 1
    if bits != 8 or not told or separated:
        raise ValueError(f"its colours are {_name(page)} of {page.samplesperpixel} channels of {bits} bits: convert it to RGB")
    if kind == _YCBCR and tuple(page.subsampling or (1, 1)) != (1, 1):
        raise ValueError("its colours are subsampled YCbCr: convert it to RGB")
    return partial(_by_pillow, {_CMYK: "CMYK", _YCBCR: "YCbCr", _LAB: "LAB"}[kind], profile), 8


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
        self._page = page
        self._height = page.tilelength if page.is_tiled else min(page.rowsperstrip, page.imagelength)
        self._width = page.tilewidth if page.is_tiled else page.imagewidth
        self._planes, _, _, _, self._together = page.shaped
        self._mapped = _mapped(page)
        if self._mapped is None and self._height * self._width > most:
            raise ValueError(
                f"one of its strips holds {self._height * self._width} pixels, more than the limit of {most}: save it in tiles "
                "or shorter strips, or raise the limit (--max-pixels, max_pixels=)"
            )
        self._down, self._across = -(-page.imagelength // self._height), -(-page.imagewidth // self._width)
        self._lock = threading.Lock()
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
        shape = rows[1] - rows[0], columns[1] - columns[0], self._planes * self._together
        values = np.empty(shape, self._page.dtype)
        with self._lock:
            for plane, row, column in self._needed(rows, columns):
                part = self._decoded((plane * self._down + row) * self._across + column)
                to_rows, from_rows = _overlap(rows, row * self._height, part.shape[0])
                to_columns, from_columns = _overlap(columns, column * self._width, part.shape[1])
                channels = slice(plane * self._together, (plane + 1) * self._together)
                values[to_rows, to_columns, channels] = part[from_rows, from_columns]
        return values

    def bands(self) -> Iterator[Span]:
        """Rows that are decoded together, one band after the other."""
        step = self._height if self._mapped is None else 512
        for top in range(0, self._page.imagelength, step):
            yield top, min(self._page.imagelength, top + step)

    def _needed(self, rows: Span, columns: Span) -> Iterator[tuple[int, int, int]]:
        for plane in range(self._planes):
            for row in range(rows[0] // self._height, min(self._down, -(-rows[1] // self._height))):
                for column in range(columns[0] // self._width, min(self._across, -(-columns[1] // self._width))):
                    yield plane, row, column


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


def _mapped(page: Any) -> Array | None:
    """The values as they lie in the file, if they are not coded in any way: (planes, H, W, together)."""
    if not (page.is_memmappable and page.compression == 1 and page.bitspersample in (8, 16, 32, 64)):
        return None
    planes, _, height, width, together = page.shaped
    mapped: Array = page.asarray(out="memmap").reshape(planes, height, width, together)
    return mapped


def _overlap(span: Span, start: int, length: int) -> tuple[slice, slice]:
    """Where a strip or tile of so many rows or columns lies in a span, and the part of it that does."""
    begin, end = max(start, span[0]), min(start + length, span[1])
    return slice(begin - span[0], end - span[0]), slice(begin - start, end - start)
