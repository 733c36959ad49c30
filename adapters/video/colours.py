"""Planes of a frame to RGB, by the standards' formulas in floating point, for every depth and subsampling."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from msds_plugin.adapters.images.colours import Array, cicp_profile

_BT601, _YCGCO = (0.299, 0.114), 8
#: Weights of red and blue in luma by the code points of ITU-T H.273, of which 2 is unspecified.
_WEIGHTS = {1: (0.2126, 0.0722), 2: _BT601, 4: (0.30, 0.11), 5: _BT601, 6: _BT601, 7: (0.212, 0.087), 9: (0.2627, 0.0593)}


#: Of what a file may say: the code of no statement, and the name and other codes of what is then assumed.
_ASSUMED = {
    "matrix": (2, "BT.601", (5, 6)),
    "range": (0, "limited", (1,)),
    "transfer": (2, "SDR", (1, 4, 6, 13, 14, 15)),
    "primaries": (2, "BT.709", (1,)),
}
_NAMES = {
    "matrix": {1: "BT.709", 4: "FCC", 7: "SMPTE 240M", 8: "YCgCo", 9: "BT.2020"},
    "range": {2: "full"},
    "transfer": {16: "PQ", 18: "HLG"},
    "primaries": {5: "BT.470 BG", 6: "SMPTE 170M", 7: "SMPTE 240M", 9: "BT.2020", 11: "DCI-P3", 12: "Display P3"},
}


@dataclass(frozen=True)
class Colours:
    """What a video says of its colours, in code points of ITU-T H.273; 2 where it does not.

    Attributes:
        kind: ``yuv``, ``rgb`` or ``gray``.
        bits: per value.
        matrix, primaries, transfer: code points.
        range: 1 for limited, 2 for full, 0 where it does not say.
    """

    kind: str
    bits: int
    matrix: int
    range: int
    primaries: int
    transfer: int

    @classmethod
    def of(cls, frame: Any) -> Colours:
        """Those of a frame of PyAV."""
        name = frame.format.name
        kind = "rgb" if _is_rgb(frame.format) else "gray" if name.startswith(("gray", "mono")) else "yuv"
        codes = (int(getattr(frame, field, 2)) for field in ("colorspace", "color_primaries", "color_trc"))
        matrix, primaries, transfer = (2 if code in (0, 3) else code for code in codes)
        stated = 2 if kind == "rgb" or name.startswith("yuvj") else int(frame.color_range)
        return cls(kind, _bits(type(frame.format)(_planar(frame.format))), matrix, stated, primaries, transfer)

    @property
    def profile(self) -> bytes | None:
        """The colour profile by the rule that images have: None for the colours of sRGB."""
        return cicp_profile(self.primaries, self.transfer)

    def named(self, field: str) -> str:
        """The name of what is stated, or assumed."""
        return _NAMES[field].get(getattr(self, field), _ASSUMED[field][1])


def agree(reference: Colours, distorted: Colours) -> tuple[Colours, Colours, list[str]]:
    """Both descriptions, what one leaves open taken from the other, and sentences on what differs or was taken.

    Raises:
        ValueError: high dynamic range beside another, or beside standard range.
    """
    found, notes = [], []
    for name, side, other in (("reference", reference, distorted), ("distorted", distorted, reference)):
        taken = {
            field: getattr(other, field)
            for field, (unknown, _, _) in _ASSUMED.items()
            if getattr(side, field) == unknown != getattr(other, field)
            and (field in ("transfer", "primaries") or side.kind == other.kind == "yuv")
            and (side.bits > 8 or other.named("transfer") == "SDR")  # 8 bits are of no high dynamic range
        }
        found.append(replace(side, **taken))
        words = [
            f"{field} ({_NAMES[field].get(value, f'code point {value}')})"
            for field, value in taken.items()
            if value not in _ASSUMED[field][2]
        ]
        if words:
            notes.append(f"the {name} video does not name its colour {' and '.join(words)}: taken from the other one")
    first, second = found
    lights = first.named("transfer"), second.named("transfer")
    if lights[0] != lights[1]:
        raise ValueError(
            f"the transfer functions differ: the reference is {lights[0]}, the distorted video {lights[1]}. Equal values "
            "are other light there: convert one of them, with its tone mapping, to the colours of the other"
        )
    return first, second, notes + _differences(first, second)


def _differences(first: Colours, second: Colours) -> list[str]:
    differ, notes = "the colours of reference and distorted differ: ", []
    names = {field: (first.named(field), second.named(field)) for field in _NAMES}
    words = [f"{field} {' and '.join(names[field])}" for field in ("matrix", "range") if len(set(names[field])) > 1]
    if words and first.kind == second.kind == "yuv":
        notes.append(f"{differ}{', '.join(words)}; each is converted by its own")
    if first.profile != second.profile:
        primaries = [f"{side.named('primaries')} (transfer {side.transfer})" for side in (first, second)]
        notes.append(f"{differ}primaries {' and '.join(primaries)}; both are converted to sRGB")
    yuv = [side for side in (first, second) if side.kind == "yuv"]
    if len(yuv) == 1 and yuv[0].matrix == 2:
        notes.append("one video is RGB, the other does not name its colour matrix: taken as BT.601, as FFmpeg writes it")
    return notes


def planes_of(frame: Any) -> tuple[list[Array], Array | None]:
    """The planes of a frame: Y, U and V, or one of grey, or red, green and blue, (h, w) each; and its opacity.

    What is packed is unpacked without loss. The opacity is (H, W, 1), float32 in 0 to 1; None for a frame that has none.
    """
    name = _planar(frame.format)
    if name != frame.format.name or any(plane.line_size < 0 for plane in frame.planes):
        frame = reformat(frame, format=name)
    bits, real = _bits(frame.format), "f32" in name
    kind = np.dtype(f"<{'f' if real else 'u'}{4 if bits > 16 else 2 if bits > 8 else 1}")
    by_plane = {component.plane: component for component in frame.format.components}
    found = []
    for number, plane in enumerate(frame.planes):
        if component := by_plane.get(number):
            rows = np.frombuffer(plane, kind).reshape(-1, plane.line_size // kind.itemsize)
            found.append(rows[: component.height, : component.width])
    alpha = None
    if name.startswith(("yuva", "gbrap")):
        alpha = (found.pop().astype(np.float32) / np.float32(1 if real else 2**bits - 1))[..., None]
    return ([found[2], found[0], found[1]] if name.startswith("gbr") else found), alpha


def reformat(frame: Any, **how: Any) -> Any:
    """A frame in another form, by one thread: several threads of FFmpeg 8 now and then leave rows of odd sizes unwritten."""
    import av

    threads = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}  # before, there was one only
    return frame.reformat(**how, **threads)


def _planar(form: Any) -> str:
    """The planar format of the same values, little endian."""
    name, bits = form.name, _bits(form)
    alpha = "a" if name == "pal8" or any(component.is_alpha for component in form.components) else ""
    depth = "" if bits <= 8 else f"{bits}le"
    if "f32" in name or "f16" in name:
        return "grayf32le" if name.startswith("gray") else f"gbr{alpha}pf32le"
    if name.startswith(("gbr", "yuvj")):
        return name.replace("msb", "").replace("be", "le") if depth else str(name)
    if _is_rgb(form):
        deep = min(each for each in (8, 10, 12, 16) if each >= bits)
        return f"gbr{alpha}p" if deep == 8 else f"gbr{alpha}p{deep}le"
    if name.startswith(("gray", "mono")):
        return f"gray{depth}"
    shared = 16 // form.chroma_width(16), 16 // form.chroma_height(16)  # not of the frame's own size, which may be odd
    sampling = {(2, 2): "420", (2, 1): "422", (1, 1): "444", (1, 2): "440", (4, 1): "411", (4, 4): "410"}[shared]
    return f"yuv{alpha}{sampling}p{depth}"


def _is_rgb(form: Any) -> bool:
    return bool(form.is_rgb) or form.name == "pal8" or form.name.startswith(("gbr", "bayer", "ya8", "ya16"))


def _bits(form: Any) -> int:
    return max((component.bits for component in form.components), default=8)


def to_picture(planes: list[Array], colours: Colours) -> Array:
    """Planes as RGB or grey, (H, W, 3 or 1): uint8 or uint16 as they are, or float32 in 0 to 1.

    Each chroma sample serves the pixels that it covers, as in the frames that FFmpeg and OpenCV write. A video that names no
    matrix has that of BT.601, one that names no range is limited, grey and RGB are full. Values beyond black and white are
    clipped.

    Raises:
        ValueError: a matrix that is not linear in the values (constant luminance, ICtCp, XYZ).
    """
    bits = colours.bits
    largest = np.float32(1 if planes[0].dtype.kind == "f" else 2**bits - 1)
    if colours.kind == "rgb":
        whole = np.stack(planes, 2)
        return whole if bits in (8, 16) and whole.dtype.kind == "u" else (whole / largest).astype(np.float32).clip(0, 1)
    step = np.float32(1 << max(0, bits - 8))
    limited = colours.range == 1 or (colours.range == 0 and colours.kind == "yuv")
    y = planes[0].astype(np.float32)
    y = (y - 16 * step) / (219 * step) if limited else y / largest
    if len(planes) < 3:
        return y.clip(0, 1)[..., None]
    middle, width = np.float32(2 ** (bits - 1)), 224 * step if limited else largest
    u, v = ((_upsampled(plane, y.shape).astype(np.float32) - middle) / width for plane in planes[1:])
    if colours.matrix == _YCGCO:
        return np.stack([y - u + v, y + u, y - u - v], 2).clip(0, 1)
    if colours.matrix not in _WEIGHTS:
        raise ValueError(f"its colour matrix (code point {colours.matrix}) cannot be converted: convert the file")
    red, blue = map(np.float32, _WEIGHTS[colours.matrix])
    r, b = y + (2 - 2 * red) * v, y + (2 - 2 * blue) * u
    rgb = np.stack([r, (y - red * r - blue * b) / (1 - red - blue), b], 2)
    return rgb.clip(0, 1, out=rgb)


def _upsampled(plane: Array, size: tuple[int, ...]) -> Array:
    for axis in (0, 1):
        shared = 2 ** math.ceil(math.log2(size[axis] / plane.shape[axis]))  # powers of two; the last sample may have fewer
        plane = plane.repeat(shared, axis) if shared > 1 else plane
    return plane[: size[0], : size[1]]
