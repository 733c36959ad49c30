"""Which frames of two videos belong together."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from itertools import islice

import numpy as np

from msds_plugin.adapters.images.colours import Array
from msds_plugin.adapters.video.read import Frame, Preview

#: Another offset than none must fit so much better, in so many of the frames, and well enough: 2 - 2 r is 1 where r is a half.
_BETTER, _MOSTLY, _FITS = 0.9, 0.75, 1.0


def near_of(reference: Preview, distorted: Preview) -> float:
    """Seconds within which frames belong together: half the shorter of the two intervals between frames."""
    return min((each for each in (reference.interval, distorted.interval) if each), default=1 / 25) / 2


def find_offset(reference: Preview, distorted: Preview) -> tuple[float, bool]:
    """Seconds that reference frames are later than the distorted ones that show the same, as their files state the times; and
    whether it is sure that these are the first frames.

    Every offset is tried at which half of the frames overlap. Unless another one fits clearly better, first frames belong
    together.
    """
    near, times, other = near_of(reference, distorted), reference.times, distorted.times
    y, x = reference.small, distorted.small
    apart = np.maximum(((y**2).sum(1)[None] + (x**2).sum(1)[:, None] - 2 * x @ y.T) / y.shape[1], 0)
    offsets = [times[0] - other[0], *(times[1:] - other[0]), *(times[0] - other[1:])]
    found = []
    for offset in offsets:
        matched, near_in = _nearest(times, other + offset, near)
        found.append(np.where(near_in, apart[np.arange(len(other)), matched], np.nan))
    costs = np.array([np.nanmean(each) if _overlaps(~np.isnan(each), times, other) else np.inf for each in found])
    best = int(costs.argmin())
    if best == 0:
        known = costs[np.isfinite(costs)]
        return float(offsets[0]), len(known) > 2 and bool(costs[0] < 0.5 * np.median(known))
    both = ~np.isnan(found[best]) & ~np.isnan(found[0])
    gains = found[0][both] - found[best][both]
    telling = np.abs(gains) > 0.1 * np.abs(gains).max(initial=0)  # frames of a still scene fit at any offset
    mostly = not telling.any() or float((gains[telling] > 0).mean()) >= _MOSTLY
    if not (costs[best] < min(_BETTER * costs[0] - 1e-4, _FITS) and mostly):
        return float(offsets[0]), False
    matched, near_in = _nearest(times, other + offsets[best], near)
    return float(offsets[best] + np.median((times[matched] - other - offsets[best])[near_in])), False


def _overlaps(has_one: Array, reference: Array, distorted: Array) -> bool:
    half, span = min(len(reference), len(distorted)) / 2, min(np.ptp(reference), np.ptp(distorted))
    times = distorted[has_one]
    return len(times) > 0 and (len(times) >= half or np.ptp(times) >= span / 2)


def _nearest(reference: Array, distorted: Array, near: float) -> tuple[Array, Array]:
    """Of each distorted frame the reference frame nearest in time, and whether it is near enough."""
    gaps = np.abs(reference[None] - distorted[:, None])
    return gaps.argmin(1), gaps.min(1) <= near + 1e-6


class Following:
    """The frames of the reference, asked for by times or numbers that only grow; two are in memory. ``used`` counts those that
    were near enough to one of the distorted video.
    """

    def __init__(self, frames: Iterator[Frame], by_number: bool) -> None:
        self._frames = ((number if by_number else frame.time, frame) for number, frame in enumerate(frames))
        self._known = deque(islice(self._frames, 1), maxlen=2)
        self._last: Frame | None = None
        self._count, self.used = len(self._known), 0

    def at(self, place: float, near: float) -> Frame | None:
        """The frame nearest to a time or number, unless it is farther than ``near``."""
        while self._known and self._known[-1][0] <= place and (after := next(self._frames, None)):
            self._known.append(after)
            self._count += 1
        found, nearest = min(self._known, key=lambda each: abs(each[0] - place), default=(math.inf, None))
        if abs(found - place) > near + 1e-6:
            return None
        self.used += nearest is not self._last
        self._last = nearest
        return nearest

    def finish(self) -> int:
        """Decode what is left; the number of all frames."""
        self._count += sum(1 for _ in self._frames)
        return self._count
