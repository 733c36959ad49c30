"""Two videos and metrics to scores per frame, in memory that does not grow with their length."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch

from ..common.scorer import Scorer
from ..images.read import to_tensor
from .read import VideoFileError, VideoInfo, frames, probe

#: Frames closer than this share of the shorter frame interval belong together.
_NEAR = 0.5


@dataclass(frozen=True)
class FrameScores:
    """The scores of one pair of frames.

    Attributes:
        frame: number of the distorted video's frame, from 0.
        time: its time in seconds since the first frame.
        reference_time: that of the reference frame it was compared with.
        scores: one per metric, NaN where there is none.
        error: why one or more are missing, or None.
    """

    frame: int
    time: float
    reference_time: float
    scores: tuple[float, ...]
    error: str | None = None


class VideoScores(Iterator[FrameScores]):
    """Scores frame by frame as they come; afterwards also what was left out.

    Attributes:
        notes: what differs between the two videos and what was done about it; complete when the iteration has ended.
    """

    def __init__(
        self,
        reference: str | os.PathLike[str],
        distorted: str | os.PathLike[str],
        scorers: Sequence[Scorer],
        every: int,
    ) -> None:
        infos = probe(reference), probe(distorted)
        self.notes = _differences(*infos)
        self.near = _NEAR / max((info.rate or 25.0 for info in infos), default=25.0)
        self._scores = self._run(reference, distorted, scorers, every)

    def __next__(self) -> FrameScores:
        return next(self._scores)

    def _run(
        self, reference: str | os.PathLike[str], distorted: str | os.PathLike[str], scorers: Sequence[Scorer], every: int
    ) -> Iterator[FrameScores]:
        references = _Following(frames(reference))
        alone = count = 0
        try:
            for count, (time, pixels) in enumerate(frames(distorted), 1):
                if (count - 1) % every:
                    continue
                nearest = references.nearest(time)
                if nearest is None or abs(nearest[0] - time) > self.near + 1e-6:
                    alone += 1
                    continue
                yield _score(count - 1, time, nearest, pixels, scorers)
        except VideoFileError as error:
            self.notes.append(f"{error}; the scores up to there are kept")
        if alone:
            self.notes.append(f"{alone} distorted frames have no reference frame within {self.near * 1000:.1f} ms: left out")
        if references.error is not None:
            self.notes.append(f"{references.error}; the scores up to there are kept")


class _Following:
    """The frames of one video, asked for by times that only grow; two are in memory."""

    def __init__(self, source: Iterator[tuple[float, npt.NDArray[Any]]]) -> None:
        self._source = source
        self.error: VideoFileError | None = None
        self._before: tuple[float, npt.NDArray[Any]] | None = None
        self._after = self._next()

    def _next(self) -> tuple[float, npt.NDArray[Any]] | None:
        try:
            return next(self._source, None)
        except VideoFileError as error:
            self.error = error
            return None

    def nearest(self, time: float) -> tuple[float, npt.NDArray[Any]] | None:
        while self._after is not None and self._after[0] <= time:
            self._before, self._after = self._after, self._next()
        known = [frame for frame in (self._before, self._after) if frame is not None]
        return min(known, key=lambda frame: abs(frame[0] - time), default=None)


def _score(
    number: int, time: float, reference: tuple[float, npt.NDArray[Any]], pixels: npt.NDArray[Any], scorers: Sequence[Scorer]
) -> FrameScores:
    scores: list[float] = []
    errors: list[str] = []
    for scorer in scorers:
        try:
            with torch.inference_mode():
                value = scorer.score(to_tensor(pixels, scorer.device), to_tensor(reference[1], scorer.device)).item()
        except Exception as error:  # whatever a metric cannot do with one frame must not cost the others
            value = math.nan
            errors.append(f"{scorer.name}: {' '.join(str(error).split()) or type(error).__name__}")
        scores.append(value)
    return FrameScores(number, time, reference[0], tuple(scores), "; ".join(errors) or None)


def _differences(reference: VideoInfo, distorted: VideoInfo) -> list[str]:
    notes = []
    sizes = [(info.width, info.height) for info in (reference, distorted)]
    if sizes[0] != sizes[1]:
        notes.append(
            f"the frames differ in size: reference {sizes[0][0]} x {sizes[0][1]}, distorted {sizes[1][0]} x {sizes[1][1]}; "
            "compared as they are, by the metrics that can"
        )
    if reference.rate and distorted.rate and abs(reference.rate - distorted.rate) > 0.01:
        notes.append(
            f"the rates differ: reference {reference.rate:.3f}, distorted {distorted.rate:.3f} frames per second; "
            "each distorted frame is compared with the reference frame nearest in time"
        )
    if reference.seconds and distorted.seconds:
        frame = 1 / min(reference.rate or 25.0, distorted.rate or 25.0)
        if abs(reference.seconds - distorted.seconds) > frame * 1.01:
            notes.append(
                f"the lengths differ: reference {reference.seconds:.2f} s, distorted {distorted.seconds:.2f} s; "
                "only what both have is compared"
            )
    return notes


def score_video(
    reference: str | os.PathLike[str], distorted: str | os.PathLike[str], scorers: Sequence[Scorer], every: int = 1
) -> VideoScores:
    """Score a distorted video beside its reference, frame by frame as they are decoded.

    Each video is decoded once, whatever the number of metrics. Each ``every``-th frame of the distorted video is compared with
    the reference frame nearest in time, both counted from the first frame; one that has none within half a frame of the
    faster video is left out, which the notes say. A file that ends early, or is damaged, ends the iteration with a note.

    Args:
        reference: a file.
        distorted: a file.
        scorers: what to score with.
        every: take each ``every``-th frame of the distorted video.

    Raises:
        ValueError: ``every`` below one, or no metric.
        VideoFileError: a file cannot be opened, or holds no video.
        MissingDependencyError: PyAV is not installed.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    if not scorers:
        raise ValueError("no metric to score with")
    return VideoScores(reference, distorted, scorers, every)
