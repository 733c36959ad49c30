"""Two videos and metrics to scores per frame, in memory that does not grow with their length."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from msds_plugin.adapters.images.read import Picture, alike, mod_cropped, reconcile, to_tensor, without_border
from msds_plugin.adapters.scorers import Scorer
from msds_plugin.adapters.scoring.options import Run
from msds_plugin.adapters.video.colours import agree
from msds_plugin.adapters.video.match import Align, Following, find_offset, near_of
from msds_plugin.adapters.video.read import Folder, Frame, Video, open_video


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
        self,
        reference: Video | Folder,
        distorted: Video | Folder,
        scorers: Sequence[Scorer],
        every: int,
        align: Align,
        run: Run,
    ) -> None:
        self.notes: list[str] = []
        self.problems: list[str] = []
        self._sides = reference, distorted
        self._scorers, self._every, self._align, self._run = scorers, every, align, run
        self._scores = iter(())  # type: Iterator[FrameScores]
        self.frames = 0
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
        previews = reference.preview(16), distorted.preview(16)
        for one, other in ((0, 1), (1, 0)):
            side, interval = self._sides[one], previews[other].interval
            if isinstance(side, Folder) and not isinstance(self._sides[other], Folder):
                side.interval = interval or side.interval
                self.notes.append(f"the images of {side.path} are taken for frames at {1 / side.interval:.3f} per second")
        starts = self._starts = [float(preview.times[0]) for preview in previews]
        self._offset, self._near = starts[0] - starts[1], near_of(*previews)
        if self._align == "auto":
            self._offset, self._near = find_offset(reference, distorted)
            lag = self._offset - (starts[0] - starts[1])
            if abs(lag) > self._near:
                self.notes.append(
                    f"the first distorted frame shows what the reference shows {abs(lag):.3f} s "
                    f"{'after' if lag > 0 else 'before'} its first frame (the files start at {starts[0]:.3f} s and "
                    f"{starts[1]:.3f} s): compared with this offset, which was found from the content (--align time takes the "
                    "times of the files, --align index the numbers of the frames)"
                )
        elif self._align == "time":
            self._offset = 0.0
            if abs(starts[0] - starts[1]) > self._near:
                self.notes.append(f"the files start at {starts[0]:.3f} s and {starts[1]:.3f} s: compared by these times")
        intervals = [preview.interval for preview in previews]
        self.notes += _differences(reference, distorted, intervals)
        if distorted.seconds and intervals[1]:
            self.frames = math.ceil(distorted.seconds / intervals[1] / self._every)

    def _score_all(self) -> Iterator[FrameScores]:
        reference, distorted = self._sides
        references = Following(reference.frames())
        alone = count = 0
        said = len(reference.notes), len(distorted.notes)
        self.notes += [*reference.notes, *distorted.notes]
        for count, frame in enumerate(distorted.frames(), 1):
            if (count - 1) % self._every:
                continue
            if self._align == "index":
                nearest = references.at_index(count - 1)
            else:
                nearest = references.at_time(frame.time + self._offset, self._near)
            if nearest is None:
                alone += 1
                continue
            yield self._score(count - 1, frame, nearest)
        if alone:
            of = math.ceil(count / self._every)
            how = "of their number" if self._align == "index" else f"within {self._near * 1000:.1f} ms"
            self.problems.append(f"{alone} of {of} distorted frames ({alone / of:.1%}) have no reference frame {how}: left out")
        whole = references.finish()
        if self._every == 1 and whole > references.used:
            without = whole - references.used
            self.notes.append(f"{without} of {whole} reference frames ({without / whole:.1%}) have no distorted frame")
        self.notes += [*reference.notes[said[0] :], *distorted.notes[said[1] :]]
        self.problems += [*reference.problems, *distorted.problems]

    def _score(self, number: int, frame: Frame, nearest: Frame) -> FrameScores:
        scores: list[float] = []
        errors: list[str] = []
        for scorer in self._scorers:
            try:
                x, y = self._images(frame.picture, nearest.picture)
                if not scorer.ours:  # they compare pixel by pixel
                    x, y = alike(x, y)
                with torch.inference_mode(), torch.autocast(scorer.device.type, enabled=self._run.amp):
                    value = scorer.metric(to_tensor(x, scorer.device), to_tensor(y, scorer.device)).item()
                if math.isnan(value):
                    errors.append(f"{scorer.name}: the score is not a number")
            except Exception as error:  # whatever a metric cannot do with one frame must not cost the others
                value = math.nan
                errors.append(f"{scorer.name}: {' '.join(str(error).split()) or type(error).__name__}")
            scores.append(value)
        times = frame.time - self._starts[1], nearest.time - self._starts[0]
        return FrameScores(number, *times, tuple(scores), "; ".join(errors) or None)

    def _images(self, distorted: Picture, reference: Picture) -> tuple[Picture, Picture]:
        """Both as they are compared, by what the user states of images."""
        reading = self._run.reading
        x, y = (mod_cropped(each, reading.mod_crop) for each in reconcile(distorted, reference))
        if reading.resize and x.size != y.size:
            x = x.resized(y.size)
        x, y = (without_border(each, reading.crop_border, "the frame") for each in (x, y))
        return replace(x, channel=reading.channel), replace(y, channel=reading.channel)


def _square(reference: Video | Folder, distorted: Video | Folder) -> list[str]:
    """Have frames whose pixels are not square resized, if those of the two videos have different shapes."""
    aspect, other_aspect = reference.aspect, distorted.aspect
    if abs(aspect / other_aspect - 1) < 1e-3:
        same = abs(aspect - 1) < 1e-3
        return [] if same else [f"the pixels of both videos are not square (aspect {aspect:.3f}): compared as they are stored"]
    notes = []
    for side, other in ((reference, distorted), (distorted, reference)):
        if abs(side.aspect - 1) < 1e-3 or isinstance(side, Folder):
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


def _differences(reference: Video | Folder, distorted: Video | Folder, intervals: Sequence[float | None]) -> list[str]:
    notes = []
    (width, height), other = (side.square or side.size for side in (reference, distorted))
    if (width, height) != other:
        notes.append(
            f"the frames differ in size: reference {width} x {height}, distorted {other[0]} x {other[1]}; "
            "compared as they are, by the metrics that can"
        )
    interlaced = [name for name, side in (("reference", reference), ("distorted video", distorted)) if side.interlaced]
    if interlaced:
        which = " and the ".join(interlaced) + (" are" if interlaced[1:] else " is")
        notes.append(f"the {which} interlaced: compared as stored, with both fields")
    if intervals[0] and intervals[1] and abs(intervals[0] / intervals[1] - 1) > 0.02:
        notes.append(
            f"the rates differ: reference {1 / intervals[0]:.3f}, distorted {1 / intervals[1]:.3f} frames per second; "
            "each distorted frame is compared with the reference frame nearest in time"
        )
    longest = max((each for each in intervals if each), default=1 / 25)
    if reference.seconds and distorted.seconds and abs(reference.seconds - distorted.seconds) > longest * 1.01:
        notes.append(
            f"the lengths differ: reference {reference.seconds:.2f} s, distorted {distorted.seconds:.2f} s; "
            "only what both have is compared"
        )
    return notes


def score_video(
    reference: str | os.PathLike[str],
    distorted: str | os.PathLike[str],
    scorers: Sequence[Scorer],
    every: int = 1,
    align: Align = "auto",
    run: Run = Run(),  # noqa: B008 (frozen)
) -> VideoScores:
    """Score a distorted video beside its reference, frame by frame as they are decoded.

    Each ``every``-th frame of the distorted video is compared with the reference frame nearest in time; one that has none
    within half a frame of the faster video is left out, which ``problems`` says. A file that ends early or is damaged ends the
    iteration, as do videos whose colours cannot be compared.

    Args:
        reference: a file, or a folder of frames.
        distorted: a file, or a folder of frames.
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
    sides = open_video(reference, run.reading), open_video(distorted, run.reading)
    return VideoScores(*sides, scorers, every, align, run)
