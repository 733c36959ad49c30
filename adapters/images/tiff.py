"""TIFF: what its tags say, for files that are read as a whole and for those that are read in windows."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tifffile
from PIL import Image

from . import profiles
from .samples import Array, Samples

# What it has to say goes to a program's log if there is one, and not to stderr.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_KINDS: dict[int, Literal["unsigned", "signed", "floating-point"]] = {1: "unsigned", 2: "signed", 3: "floating-point"}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
_UNSPECIFIED, _ASSOCIATED, _UNASSOCIATED = 0, 1, 2
_JPEG = 7
#: Colour channels of what is neither grey nor RGB.
_OTHERS = {_PALETTE: 1, _CMYK: 4, _YCBCR: 3, _LAB: 3}


@dataclass(frozen=True)
class Tags:
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


def tags_of(file: tifffile.TiffFile) -> Tags:
    """The tags of the first page.

    Raises:
        ValueError: parts of the page are not in the file, or it is of a kind that nothing here reads.
    """
    if not len(file.pages):
        raise ValueError("it holds no image")
    page: Any = file.pages.first
    _check_whole(page, file.filehandle.size)
    frames = sum(not (other.subfiletype & 0b101) for other in _pages(file)) if len(file.pages) > 1 else 1
    profile = page.tags.valueof(34675)
    profile = bytes(profile) if profile else None
    kind = int(page.photometric)
    kind = _RGB if kind == _YCBCR and page.compression == _JPEG else kind  # the decoder of JPEG gives RGB
    inks = kind == _CMYK and profile is not None
    stored = _OTHERS.get(kind, 3 if kind == _RGB else 1)
    samples = _samples(page, kind, stored)
    to_rgb, deep = _to_rgb(page, kind, profile) if kind in _OTHERS else (None, False)
    if to_rgb is not None:
        alpha = None if samples.alpha is None else 3
        samples = replace(samples, bits=16 if deep else 8, colours=3, alpha=alpha)
    return Tags(
        samples,
        stored,
        to_rgb,
        int(page.tags.valueof(274) or 1),
        None if inks or kind == _LAB else profile,
        inks,
        (page.imagewidth, page.imagelength),
        frames,
    )


def _pages(file: tifffile.TiffFile) -> list[Any]:
    return [page.aspage() if hasattr(page, "aspage") else page for page in file.pages]


def _check_whole(page: Any, size: int) -> None:
    lost = sum(count == 0 for count in page.databytecounts)
    if lost or not page.databytecounts:
        raise ValueError(f"{lost or 'all'} of its strips or tiles are missing")
    if any(start + count > size for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)):
        raise ValueError("the file is truncated")


def _samples(page: Any, photometric: int, colours: int) -> Samples:
    if photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, *_OTHERS):
        raise ValueError(f"neither RGB nor grey but {_name(page)}; convert it to RGB")
    bits, formats = page.bitspersample, page.tags.valueof(339) or 1
    if isinstance(bits, tuple) or len(set(np.atleast_1d(formats).tolist())) > 1:
        raise ValueError(f"its channels are of different depths or kinds ({bits} bits): save it with one")
    kind = _KINDS.get(int(np.atleast_1d(formats)[0]))
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


def _to_rgb(page: Any, kind: int, profile: bytes | None) -> tuple[Callable[[Array], Array], bool]:
    """What makes RGB of other colours, and whether that has 16 bits.

    Raises:
        ValueError: none does.
    """
    bits, others = page.bitspersample, page.samplesperpixel - _OTHERS[kind]
    if kind == _PALETTE and others == 0 and bits <= 8:
        palette = _palette(page.colormap)
        return partial(_from_palette, palette), palette.dtype == np.uint16
    told = others == 0 or (others == 1 and int(page.extrasamples[0]) != _UNSPECIFIED)
    separated = kind == _CMYK and (page.tags.valueof(332) or 1) != 1
    if bits != 8 or not told or separated:
        raise ValueError(f"its colours are {_name(page)} of {page.samplesperpixel} channels of {bits} bits: convert it to RGB")
    if kind == _YCBCR and tuple(page.subsampling or (1, 1)) != (1, 1):
        raise ValueError("its colours are subsampled YCbCr: convert it to RGB")
    return partial(_by_pillow, {_CMYK: "CMYK", _YCBCR: "YCbCr", _LAB: "LAB"}[kind], profile), False


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
    height, width = values.shape[:2]
    image = Image.frombuffer(mode, (width, height), values.tobytes(), "raw", mode, 0, 1)
    if mode == "CMYK" and profile is not None:
        return np.array(profiles.cmyk_to_srgb(image, profile))
    return np.array(image.convert("RGB"))


def is_tiff(path: Path) -> bool:
    """Whether a file begins as a TIFF does."""
    with path.open("rb") as file:
        return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
