"""Which frames of two videos belong together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

import numpy as np

from msds_plugin.adapters.images.colours import Array
from msds_plugin.adapters.video.read import Folder, Frame, Preview, Video

Align: TypeAlias = Literal["auto", "time", "index"]

#: Frames at the beginning of both that are compared to find an offset: a few, and more if these do not tell.
_FIRST, _MORE = 16, 128
#: An offset other than none must fit so much better, in so many of the frames.
_BETTER, _MOSTLY = 0.9, 0.75


def find_offset(reference: Video | Folder, distorted: Video | Folder) -> tuple[float, float]:
    """Seconds that reference frames are later than the distorted ones that show the same, as their files state the times, and
    seconds within which frames belong together: half the shorter interval between frames.

    The first frames of both are compared for every offset at which half of them overlap. Unless another one fits clearly
    better, first frames belong together.
    """
    for count in (_FIRST, _MORE):
        first, second = reference.preview(count), distorted.preview(count)
        near = near_of(first, second)
        offset, sure = _best(first, second, near)
        if sure:
            break
    return offset, near


def near_of(reference: Preview, distorted: Preview) -> float:
    """Half the shorter of the two intervals between frames."""
    return min((each for each in (reference.interval, distorted.interval) if each), default=1 / 25) / 2


def _best(reference: Preview, distorted: Preview, near: float) -> tuple[float, bool]:
    """The offset, and whether it stands out."""
    y, x = reference.small, distorted.small
    apart = np.maximum(((y**2).sum(1)[None] + (x**2).sum(1)[:, None] - 2 * x @ y.T) / y.shape[1], 0)
    none = float(reference.times[0] - distorted.times[0])
    offsets = [none, *(reference.times[1:] - distorted.times[0]), *(reference.times[0] - distorted.times[1:])]
    found = [_apart(apart, reference.times, distorted.times + offset, near) for offset in offsets]
    costs = np.array([np.nanmean(each) if _overlaps(each, reference, distorted) else np.inf for each in found])
    best = int(costs.argmin())
    if best and np.isfinite(costs[best]):
        both = ~np.isnan(found[best]) & ~np.isnan(found[0])
        usual = not both.any() or float((found[best][both] < found[0][both]).mean()) >= _MOSTLY
        if not (costs[best] < _BETTER * costs[0] - 1e-4 and usual):
            best = 0
    known = costs[np.isfinite(costs)]
    sure = best == 0 and len(known) > 2 and bool(costs[0] <= 0.5 * np.median(known)) and costs.argmin() == 0
    if best == 0:
        return none, sure
    offset = float(offsets[best])
    matched, near_in = _nearest(reference.times, distorted.times + offset, near)
    return offset + float(np.median((reference.times[matched] - distorted.times - offset)[near_in])), sure


def _overlaps(apart: Array, reference: Preview, distorted: Preview) -> bool:
    half = min(len(reference.times), len(distorted.times) * 1.0) / 2
    span = min(np.ptp(reference.times), np.ptp(distorted.times))
    times = distorted.times[~np.isnan(apart)]
    return len(times) > 0 and (len(times) >= half or np.ptp(times) >= span / 2)


def _apart(apart: Array, reference: Array, distorted: Array, near: float) -> Array:
    matched, near_in = _nearest(reference, distorted, near)
    return np.where(near_in, apart[np.arange(len(distorted)), matched], np.nan)


def _nearest(reference: Array, distorted: Array, near: float) -> tuple[Array, Array]:
    """Of each distorted frame the reference frame nearest in time, and whether it is near enough."""
    after = np.searchsorted(reference, distorted).clip(1, max(1, len(reference) - 1))
    before = after - 1
    after = after.clip(max=len(reference) - 1)
    matched = np.where(np.abs(reference[after] - distorted) < np.abs(reference[before] - distorted), after, before)
    return matched, np.abs(reference[matched] - distorted) <= near + 1e-6


class Following:
    """The frames of the reference, asked for by times or numbers that only grow; two are in memory.

    Attributes:
        used: frames that were near enough to one of the distorted video.
        count: frames that have been decoded.
    """

    def __init__(self, frames: Iterator[Frame]) -> None:
        self._frames = frames
        self.count = self.used = 0
        self._last: Frame | None = None
        self._before: Frame | None = None
        self._after = self._next()

    def _next(self) -> Frame | None:
        frame = next(self._frames, None)
        self.count += frame is not None
        return frame

    def at_time(self, time: float, near: float) -> Frame | None:
        """The frame nearest to a time, unless it is farther than ``near``."""
        while self._after is not None and self._after.time <= time:
            self._before, self._after = self._after, self._next()
        known = [frame for frame in (self._before, self._after) if frame is not None]
        nearest = min(known, key=lambda frame: abs(frame.time - time), default=None)
        return None if nearest is None or abs(nearest.time - time) > near + 1e-6 else self._use(nearest)

    def at_index(self, index: int) -> Frame | None:
        """The frame of this number, from 0."""
        while self._after is not None and self.count <= index:
            self._after = self._next()
        return None if self._after is None else self._use(self._after)

    def _use(self, frame: Frame) -> Frame:
        self.used += frame is not self._last
        self._last = frame
        return frame

    def finish(self) -> int:
        """Decode what is left; the number of all frames."""
        while self._after is not None:
            self._after = self._next()
        return self.count
