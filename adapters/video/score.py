"""Two videos and metrics to scores per frame, in memory that does not grow with their length."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from msds_plugin.adapters.images.read import alike, cut, reconcile, to_tensor
from msds_plugin.adapters.scorers import Scorer
from msds_plugin.adapters.scoring import Run
from msds_plugin.adapters.video.colours import agree
from msds_plugin.adapters.video.match import Following, find_offset, near_of
from msds_plugin.adapters.video.read import Frame, Source, open_videos

Align: TypeAlias = Literal["auto", "time", "index"]
#: Frames at the beginning of both that are compared to find an offset: a few, and more if these do not tell.
_FIRST, _MORE = 16, 128


@dataclass(frozen=True)
class FrameScores:
    """The scores of one pair of frames.

    Attributes:
        frame: number of the distorted video's frame, from 0.
        time: its time in seconds since the first frame.
        reference_time: that of the reference frame it was compared with, since the reference's first frame.
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
        problems: what is missing, and why.
        frames: about how many there will be; 0 if the file does not say.
    """

    def __init__(
        self, reference: Source, distorted: Source, scorers: Sequence[Scorer], every: int, align: Align, run: Run
    ) -> None:
        self._sides = reference, distorted
        self._scorers, self._every, self._align, self._run = scorers, every, align, run
        self.notes = [*reference.notes, *distorted.notes]
        self.problems: list[str] = []
        self.frames = 0
        self._scores: Iterator[FrameScores] = iter(())
        try:
            self._prepare()
        except ValueError as error:
            self.problems.append(str(error))
        else:
            self._scores = self._score_all()

    def __next__(self) -> FrameScores:
        return next(self._scores)

    def _prepare(self) -> None:
        reference, distorted = self._sides
        if reference.colours is not None and distorted.colours is not None:
            reference.colours, distorted.colours, notes = agree(reference.colours, distorted.colours)
            self.notes += notes
        self.notes += _square(reference, distorted)
        previews = [side.preview(_FIRST) for side in self._sides]
        intervals = [preview.interval for preview in previews]
        self._starts = starts = [float(preview.times[0]) for preview in previews]
        self._near, first = near_of(*previews), starts[0] - starts[1]
        self._offset = 0.0 if self._align == "time" else first
        begin = f"the files start at {starts[0]:.3f} s and {starts[1]:.3f} s"
        if self._align == "auto":
            self._offset, sure = find_offset(*previews)
            if not sure:
                previews = [side.preview(_MORE) for side in self._sides]
                self._near, (self._offset, _) = near_of(*previews), find_offset(*previews)
            if abs(lag := self._offset - first) > self._near:
                self.notes.append(
                    f"the first distorted frame shows what the reference shows {abs(lag):.3f} s "
                    f"{'after' if lag > 0 else 'before'} its first frame ({begin}): compared with this offset, which was found "
                    "from the content (--align time takes the times of the files, --align index the numbers of the frames)"
                )
        elif self._align == "time" and abs(first) > self._near:
            self.notes.append(f"{begin}: compared by these times")
        sizes = [side.square or side.size for side in self._sides]
        if sizes[0] != sizes[1]:
            first_size, second_size = (f"{width} x {height}" for width, height in sizes)
            how = "the distorted ones are resized" if self._run.reading.resize else "compared as they are, if a metric can"
            self.notes.append(f"the frames differ in size: reference {first_size}, distorted {second_size}; {how}")
        if intervals[0] and intervals[1] and abs(intervals[0] / intervals[1] - 1) > 0.02:
            how = "of its number" if self._align == "index" else "nearest in time"
            self.notes.append(
                f"the rates differ: reference {1 / intervals[0]:.3f}, distorted {1 / intervals[1]:.3f} frames per second; "
                f"each distorted frame is compared with the reference frame {how}"
            )
        if self._align != "index" and _drift(reference, distorted) > self._near:
            self.notes.append(
                f"the rates differ: reference {reference.rate:.3f}, distorted {distorted.rate:.3f} frames per second: frames "
                "of one number are not of one time to the end; compared by time (--align index compares by number)"
            )
        if distorted.seconds and intervals[1]:
            self.frames = math.ceil(distorted.seconds / intervals[1] / self._every)

    def _score_all(self) -> Iterator[FrameScores]:
        reference, distorted = self._sides
        by_number = self._align == "index"
        references = Following(reference.frames(), by_number)
        alone = count = 0
        for count, frame in enumerate(distorted.frames(), 1):
            if (count - 1) % self._every:
                continue
            place = count - 1 if by_number else frame.time + self._offset
            nearest = references.at(place, 0 if by_number else self._near)
            if nearest is None:
                alone += 1
            else:
                yield self._score(count - 1, frame, nearest)
        if alone:
            of = math.ceil(count / self._every)
            how = "of their number" if by_number else f"within {self._near * 1000:.1f} ms"
            self.problems.append(f"{alone} of {of} distorted frames ({alone / of:.1%}) have no reference frame {how}: left out")
        whole = references.finish()
        if self._every == 1 and whole > references.used:
            without = whole - references.used
            self.notes.append(f"{without} of {whole} reference frames ({without / whole:.1%}) have no distorted frame")
        for side in self._sides:
            self.notes += [note for note in side.notes if note not in self.notes]
            self.problems += [problem for problem in side.problems if problem not in self.problems]

    def _score(self, number: int, frame: Frame, nearest: Frame) -> FrameScores:
        reading = self._run.reading
        scores: list[float] = []
        errors: list[str] = []
        for scorer in self._scorers:
            value = math.nan
            try:
                x, y = reconcile(frame.picture, nearest.picture)
                y = cut(y, reading, "the frame")
                x = cut(x, reading, "the frame", y)
                if not scorer.ours:  # they compare pixel by pixel
                    x, y = alike(x, y)
                with torch.inference_mode(), torch.autocast(scorer.device.type, enabled=self._run.amp):
                    value = scorer.metric(to_tensor(x, scorer.device), to_tensor(y, scorer.device)).item()
                if math.isnan(value):
                    errors.append(f"{scorer.name}: the score is not a number")
            except Exception as error:  # whatever a metric cannot do with one frame must not cost the others
                errors.append(f"{scorer.name}: {' '.join(str(error).split()) or type(error).__name__}")
            scores.append(value)
        times = frame.time - self._starts[1], nearest.time - self._starts[0]
        return FrameScores(number, *times, tuple(scores), "; ".join(errors) or None)


def _square(reference: Source, distorted: Source) -> list[str]:
    """Have frames whose pixels are not square resized, if those of the two videos have different shapes."""
    if abs(reference.aspect / distorted.aspect - 1) < 1e-3:
        if abs(reference.aspect - 1) < 1e-3:
            return []
        return [f"the pixels of both videos are not square (aspect {reference.aspect:.3f}): compared as they are stored"]
    notes = []
    for side, other in ((reference, distorted), (distorted, reference)):
        if abs(side.aspect - 1) < 1e-3:
            continue
        width, height = side.size
        sizes = [(round(width * side.aspect), height), (width, round(height / side.aspect))]
        near = any(max(abs(one - two) for one, two in zip(each, other.size, strict=True)) <= 2 for each in sizes)
        side.square = other.size if near else sizes[0] if side.aspect > 1 else sizes[1]
        notes.append(
            f"the pixels of {side.path} are not square (aspect {side.aspect:.3f}): its frames of {width} x {height} are "
            f"resized to {side.square[0]} x {side.square[1]}, as players show them"
        )
    return notes


def _drift(reference: Source, distorted: Source) -> float:
    """Seconds that frames of one number are apart at the end, if both are nominally of about one rate."""
    if not (reference.rate and distorted.rate) or abs(reference.rate / distorted.rate - 1) > 0.02:
        return 0.0
    length = min(each for each in (reference.seconds, distorted.seconds, 3600) if each)
    return abs(reference.rate / distorted.rate - 1) * length


def score_video(
    reference: str | os.PathLike[str],
    distorted: str | os.PathLike[str],
    scorers: Sequence[Scorer],
    every: int = 1,
    align: Align = "auto",
    run: Run = Run(),  # noqa: B008 (frozen)
) -> VideoScores:
    """Score a distorted video beside its reference, each a file or a folder of frames, frame by frame as they are decoded.

    Each ``every``-th frame of the distorted video is compared with the reference frame nearest in time; one that has none
    within half a frame of the faster video is left out, which ``problems`` says. A file that ends early or is damaged ends the
    iteration, as do videos whose colours cannot be compared.

    Args:
        reference, distorted: paths.
        scorers: what to score with.
        every: take each ``every``-th frame of the distorted video.
        align: ``auto`` finds from the content which frames show the same, and lets first frames belong together where that does
            not tell; ``time`` takes the times that the files state; ``index`` the numbers of the frames.
        run: how; of ``reading`` the background, the crops, ``resize`` and ``channel`` apply.

    Raises:
        ValueError: ``every`` below one, another ``align``, or no metric.
        VideoFileError: a file cannot be opened, or holds no video.
        ImageFileError: an image of a folder cannot be read.
        MissingDependencyError: PyAV is not installed.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    if align not in ("auto", "time", "index"):
        raise ValueError(f"align must be auto, time or index, got {align!r}")
    if not scorers:
        raise ValueError("no metric to score with")
    y, x = open_videos(run.reading, reference, distorted)
    return VideoScores(y, x, scorers, every, align, run)
