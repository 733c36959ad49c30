"""TIFF: what its tags say, for both readers, and files that are read as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import simplejpeg
import tifffile

from .samples import Array, Samples

_KINDS: dict[int, Literal["unsigned", "signed", "floating-point"]] = {1: "unsigned", 2: "signed", 3: "floating-point"}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _YCBCR = 0, 1, 2, 6
_UNSPECIFIED, _ASSOCIATED, _UNASSOCIATED = 0, 1, 2


@dataclass(frozen=True)
class Tags:
    """What the tags of a TIFF's first page say.

    Attributes:
        samples: its values; None for colours that are not grey or RGB as they stand.
        colours: how its colours are called.
        orientation: as EXIF counts them.
        profile: ICC profile.
        size: width and height as stored.
        frames: pages, without reduced copies and masks.
    """

    samples: Samples | None
    colours: str
    orientation: int
    profile: bytes | None
    size: tuple[int, int]
    frames: int


def tags_of(file: tifffile.TiffFile) -> Tags:
    """The tags of the first page.

    Raises:
        ValueError: parts of the page are not in the file, or it is of a kind that nothing here reads.
    """
    page: Any = file.pages.first
    _check_whole(page, file.filehandle.size)
    frames = sum(not (other.subfiletype & 0b101) for other in _pages(file)) if len(file.pages) > 1 else 1
    profile = page.tags.valueof(34675)
    return Tags(
        _samples(page),
        getattr(page.photometric, "name", str(page.photometric)).lower(),
        int(page.tags.valueof(274) or 1),
        bytes(profile) if profile else None,
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


def _samples(page: Any) -> Samples | None:
    colours = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3}.get(int(page.photometric))
    if int(page.photometric) == _YCBCR and page.compression == tifffile.COMPRESSION.JPEG:
        colours = 3  # the decoder of JPEG gives RGB
    if colours is None:
        return None
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
    return Samples(int(bits), kind, colours, int(page.photometric) == _WHITE_IS_ZERO, alpha, premultiplied)


def read_values(file: tifffile.TiffFile) -> Array:
    """The values of the first page as they are stored, (H, W, channels)."""
    page: Any = file.pages.first
    if page.compression == tifffile.COMPRESSION.JPEG:
        check_jpeg_parts(file, page)
    separate, _, height, width, together = page.shaped
    values = page.asarray(maxworkers=1).reshape(separate, height, width, together)
    return values[0] if separate == 1 else values[..., 0].transpose(1, 2, 0)


def check_jpeg_parts(file: tifffile.TiffFile, page: Any) -> None:
    """Raise a ValueError where libjpeg reports damage; the codecs that TIFF readers use leave such warnings out."""
    if page.bitspersample != 8:
        return
    tables = page.jpegtables
    part: Any
    for part, _ in file.filehandle.read_segments(page.dataoffsets, page.databytecounts):
        whole = part if not tables else bytes(tables[:-2]) + part[2:]
        simplejpeg.decode_jpeg(whole, "GRAY", strict=True)


def upright(file: tifffile.TiffFile) -> bytes:
    """The file without its orientation, by which Pillow turns some kinds of TIFF and not others."""
    content = bytearray(Path(file.filehandle.path).read_bytes())
    tag: Any = file.pages.first.tags.get(274)
    if tag is not None:
        content[tag.valueoffset : tag.valueoffset + 2] = (1).to_bytes(2, "little" if file.byteorder == "<" else "big")
    return bytes(content)


def is_tiff(path: Path) -> bool:
    """Whether a file begins as a TIFF does."""
    with path.open("rb") as file:
        return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
