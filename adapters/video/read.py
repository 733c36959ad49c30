"""Video files to frames with their times."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ...errors import MissingDependencyError
from ..common.videos import VIDEO_SUFFIXES


class VideoFileError(ValueError):
    """A video file that cannot be read, or no further."""


@dataclass(frozen=True)
class VideoInfo:
    """What a file says of its first video stream.

    Attributes:
        width, height: pixels of a frame.
        rate: frames per second; None where the file does not say.
        seconds: its length; None where the file does not say.
    """

    width: int
    height: int
    rate: float | None
    seconds: float | None


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise MissingDependencyError(f"videos are read with PyAV ({error}): pip install 'msds-plugin[video]'") from error
    return av


def is_video(path: str | os.PathLike[str]) -> bool:
    """Whether the name is that of a video file."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def _open(path: str | os.PathLike[str]) -> tuple[Any, Any]:
    av = _av()
    try:
        container = av.open(os.fspath(path))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoFileError(f"cannot read {path} as a video: {error}") from error
    if not container.streams.video:
        container.close()
        raise VideoFileError(f"{path} holds no video stream")
    return container, container.streams.video[0]


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Size, rate and length without decoding.

    Raises:
        VideoFileError: no such file, or no video; MissingDependencyError: PyAV is not installed.
    """
    container, stream = _open(path)
    with container:
        rate = stream.average_rate or stream.guessed_rate
        length = stream.duration * stream.time_base if stream.duration is not None else None
        if length is None and container.duration is not None:
            length = container.duration / _av().time_base
        return VideoInfo(stream.width, stream.height, float(rate) if rate else None, None if length is None else float(length))


def frames(path: str | os.PathLike[str]) -> Iterator[tuple[float, npt.NDArray[Any]]]:
    """The frames of the first video stream as (seconds since the first frame, RGB (H, W, 3) uint8), in order of time.

    One frame at a time is in memory. Colours are converted by the file's own matrix and range.

    Raises:
        VideoFileError: the file is damaged; the frames before that have been given.
    """
    av = _av()
    container, stream = _open(path)
    first: float | None = None
    count = 0
    with container:
        stream.thread_type = "AUTO"
        try:
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise VideoFileError(f"{path} is damaged after {count} frames")
                time = frame.time if frame.time is not None else count / float(stream.average_rate or 25)
                first = time if first is None else first
                yield time - first, frame.to_ndarray(format="rgb24")
                count += 1
        except (av.FFmpegError, OSError) as error:
            raise VideoFileError(f"{path} is damaged after {count} frames: {error}") from error
    if count == 0:
        raise VideoFileError(f"{path} holds no frame that can be decoded")
