"""Planes of a frame to RGB, by the standards' formulas in floating point, for every depth and subsampling."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from msds_plugin.adapters.images.colours import Array, cicp_profile

#: Weights of red and blue in luma by the code points of ITU-T H.273.
_WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
_BT601, _YCGCO = 6, 8
#: Of each statement: what stands for unspecified, and names of code points.
_STATEMENTS: dict[str, tuple[int, dict[int, str]]] = {
    "matrix": (
        2,
        {0: "RGB", 1: "BT.709", 4: "FCC", 5: "BT.601", 6: "BT.601", 7: "SMPTE 240M", 8: "YCgCo", 9: "BT.2020"},
    ),
    "range": (0, {1: "limited", 2: "full"}),
    "transfer": (2, {16: "PQ", 18: "HLG"}),
    "primaries": (
        2,
        {1: "BT.709", 5: "BT.470 BG", 6: "SMPTE 170M", 7: "SMPTE 240M", 9: "BT.2020", 11: "DCI-P3", 12: "Display P3"},
    ),
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
        matrix, primaries, transfer = (
            2 if (value := int(getattr(frame, field, 2))) in (0, 2, 3) else value
            for field in ("colorspace", "color_primaries", "color_trc")
        )
        stated = 2 if kind == "rgb" or name.startswith("yuvj") else int(frame.color_range)
        planar = type(frame.format)(_planar(frame.format))
        return cls(kind, _bits(planar), matrix, stated, primaries, transfer)

    @property
    def profile(self) -> bytes | None:
        """The colour profile by the rule that images have: None for the colours of sRGB."""
        return cicp_profile(self.primaries, self.transfer)

    @property
    def light(self) -> str:
        """``PQ``, ``HLG`` or ``SDR``."""
        return self.named("transfer", "SDR")

    def named(self, field: str, default: str) -> str:
        """The name of what is stated; the default for what has none."""
        return _STATEMENTS[field][1].get(getattr(self, field), default)


def agree(reference: Colours, distorted: Colours) -> tuple[Colours, Colours, list[str]]:
    """Both descriptions, what one leaves open taken from the other, and sentences on what differs or was taken.

    Raises:
        ValueError: high dynamic range beside another, or beside standard range.
    """
    found, notes = [], []
    for name, side, other in (("reference", reference, distorted), ("distorted", distorted, reference)):
        taken = {
            field: getattr(other, field)
            for field, (unknown, _) in _STATEMENTS.items()
            if getattr(side, field) == unknown != getattr(other, field)
            and (field in ("transfer", "primaries") or side.kind == other.kind == "yuv")
            and (side.bits > 8 or other.light == "SDR")  # 8 bits are of no high dynamic range
        }
        found.append(replace(side, **taken))
        words = [
            f"{key} ({other.named(key, f'code point {value}')})" for key, value in taken.items() if not _is_usual(key, value)
        ]
        if words:
            notes.append(f"the {name} video does not name its colour {' and '.join(words)}: taken from the other one")
    first, second = found
    if first.light != second.light:
        raise ValueError(
            f"the transfer functions differ: the reference is {first.light}, the distorted video {second.light}. Equal values "
            "are other light there: convert one of them, with its tone mapping, to the colours of the other"
        )
    return first, second, notes + _differences(first, second)


def _is_usual(field: str, value: int) -> bool:
    """Whether a statement says what would be assumed without it."""
    if field in ("matrix", "range"):
        return value in {"matrix": (5, _BT601), "range": (1,)}[field]
    return cicp_profile(*((value, 2) if field == "primaries" else (2, value))) is None


def _differences(first: Colours, second: Colours) -> list[str]:
    found = []
    if first.kind == second.kind == "yuv":
        if _weights(first) != _weights(second):
            found.append(f"matrix {first.named('matrix', 'BT.601')} and {second.named('matrix', 'BT.601')}")
        if (first.range == 2) != (second.range == 2):
            found.append(f"range {first.named('range', 'limited')} and {second.named('range', 'limited')}")
    differ = "the colours of reference and distorted differ: "
    notes = [f"{differ}{', '.join(found)}; each is converted by its own"] if found else []
    if first.profile != second.profile:
        names = [f"{side.named('primaries', 'BT.709')} (transfer {side.transfer})" for side in (first, second)]
        notes.append(f"{differ}primaries {' and '.join(names)}; both are converted to sRGB")
    yuv = [side for side in (first, second) if side.kind == "yuv"]
    if len(yuv) == 1 and yuv[0].matrix == 2:
        notes.append("one video is RGB, the other does not name its colour matrix: taken as BT.601, as FFmpeg writes it")
    return notes


def _weights(colours: Colours) -> object:
    return _YCGCO if colours.matrix == _YCGCO else _WEIGHTS.get(colours.matrix, _WEIGHTS[_BT601])


def planes_of(frame: Any) -> tuple[list[Array], Array | None]:
    """The planes of a frame: Y, U and V, or one of grey, or red, green and blue, (h, w) each; and its opacity.

    What is packed is unpacked without loss. The opacity is (H, W, 1), float32 in 0 to 1; None for a frame that has none.
    """
    name = _planar(frame.format)
    if name != frame.format.name or any(plane.line_size < 0 for plane in frame.planes):
        frame = frame.reformat(format=name)
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


def _planar(form: Any) -> str:
    """The planar format of the same values, little endian."""
    name, bits = form.name, _bits(form)
    alpha = "a" if name == "pal8" or any(component.is_alpha for component in form.components) else ""
    if "f32" in name or "f16" in name:
        return "grayf32le" if name.startswith("gray") else f"gbr{alpha}pf32le"
    if name.startswith(("gbr", "yuvj")):
        return name.replace("be", "le") if bits > 8 else str(name)
    if _is_rgb(form):
        deep = min(each for each in (8, 10, 12, 16) if each >= bits)
        return f"gbr{alpha}p" if deep == 8 else f"gbr{alpha}p{deep}le"
    depth = "" if bits <= 8 else f"{bits}le"
    if name.startswith(("gray", "mono")):
        return f"gray{depth}"
    luma, chroma = form.components[0], form.components[1]
    across, down = round(luma.width / max(1, chroma.width)), round(luma.height / max(1, chroma.height))
    sampling = {(2, 2): "420", (2, 1): "422", (1, 1): "444", (1, 2): "440", (4, 1): "411", (4, 4): "410"}[across, down]
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
    u, v = (_upsampled(plane, y.shape).astype(np.float32) - np.float32(2 ** (bits - 1)) for plane in planes[1:])
    width = 224 * step if limited else largest
    u, v = u / width, v / width
    rgb = np.empty((*y.shape, 3), np.float32)
    if colours.matrix == _YCGCO:
        rgb[..., 0], rgb[..., 1], rgb[..., 2] = y - u + v, y + u, y - u - v
        return rgb.clip(0, 1, out=rgb)
    if colours.matrix not in _WEIGHTS and colours.matrix != 2:
        raise ValueError(f"its colour matrix (code point {colours.matrix}) cannot be converted: convert the file")
    red, blue = _WEIGHTS[_BT601 if colours.matrix == 2 else colours.matrix]
    rgb[..., 0] = y + np.float32(2 - 2 * red) * v
    rgb[..., 2] = y + np.float32(2 - 2 * blue) * u
    rgb[..., 1] = (y - np.float32(red) * rgb[..., 0] - np.float32(blue) * rgb[..., 2]) / np.float32(1 - red - blue)
    return rgb.clip(0, 1, out=rgb)


def _upsampled(plane: Array, size: tuple[int, ...]) -> Array:
    down, across = -(-size[0] // plane.shape[0]), -(-size[1] // plane.shape[1])
    return plane.repeat(down, 0).repeat(across, 1)[: size[0], : size[1]] if down * across > 1 else plane


def turn(values: Array, matrix: tuple[int, int, int, int] | None) -> Array:
    """(H, W, ...) as a display matrix (a, b, c, d) shows it; turned by multiples of 90 degrees and mirrored, or as it is."""
    if matrix is None:
        return values
    a, b, c, d = matrix
    if a == d == 0 and b and c:
        return values.swapaxes(0, 1)[:: 1 if b > 0 else -1, :: 1 if c > 0 else -1]
    if b == c == 0 and a and d:
        return values[:: 1 if d > 0 else -1, :: 1 if a > 0 else -1]
    return values
