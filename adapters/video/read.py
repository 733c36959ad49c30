"""Videos, and folders of frames, to frames as a player shows them, with their times."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from msds_plugin.adapters.images.colours import Array, ImageFileError, Reading, to_bytes, unit
from msds_plugin.adapters.images.large import TRANSPARENT
from msds_plugin.adapters.images.listing import VIDEO_SUFFIXES, list_images
from msds_plugin.adapters.images.pairs import natural
from msds_plugin.adapters.images.read import Picture, decode
from msds_plugin.adapters.video.colours import Colours, planes_of, to_picture, turn
from msds_plugin.adapters.video.structure import ends_early
from msds_plugin.checks import MissingDependencyError

#: What decoders say, and no more than that, where data is damaged.
_DAMAGE = re.compile(
    r"crc|conceal|corrupt|damaged|error while decoding|error decoding|invalid (data|nal|level)|prematurely|partial file|"
    r"truncat|exceeds|overread|bytestream|bitstream|missing (reference|picture)|could not find ref|decode_slice|"
    r"invalid as first byte",
    re.IGNORECASE,
)
#: Containers whose header states the length.
_STATES_LENGTH = {"matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "avi", "flv", "asf", "nut"}
#: Containers whose times may jump, and by how many seconds more than that is no pause.
_MAY_JUMP, _PAUSE = {"mpegts", "mpeg", "ogg"}, 10.0
_JOINED = 5
_PICTURES = {"mjpeg", "png", "bmp", "gif", "webp", "tiff"}
_SIDE = 32


class VideoFileError(ValueError):
    """A video file that cannot be read, or no further."""


@dataclass(frozen=True, eq=False)
class Frame:
    """A decoded frame.

    Attributes:
        time: seconds, as the file states them; what jumps back goes on from where it was.
        picture: as it is shown, in the file's own colours.
    """

    time: float
    picture: Picture


@dataclass(frozen=True)
class Preview:
    """The first frames of a video.

    Attributes:
        times: of each.
        small: 32 x 32 pixels of luma of each, (N, 1024), without the mean and the deviation of all.
    """

    times: Array
    small: Array

    @property
    def interval(self) -> float | None:
        """Seconds between frames; None if there is one frame."""
        steps = np.diff(self.times)
        return float(max(np.median(steps), steps.mean())) if len(steps) else None


def is_video(path: str | os.PathLike[str]) -> bool:
    """Whether the name is that of a video file."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def open_video(path: str | os.PathLike[str], reading: Reading) -> Video | Folder:
    """A video file, or a folder of frames.

    Raises:
        VideoFileError: it cannot be opened, or holds no frame.
        MissingDependencyError: PyAV is not installed.
    """
    return Folder(Path(path), reading) if Path(path).is_dir() else Video(Path(path), reading)


class Folder:
    """Images, in the order of their names, as the frames of a video.

    Attributes:
        path: the folder.
        size: width and height of the first image.
        interval: seconds between frames, which a folder does not say: to be set to that of the other video.
        notes, problems: what a user should know; what is missing.
    """

    colours: Colours | None = None
    interlaced = False
    aspect = 1.0
    square = None

    def __init__(self, path: Path, reading: Reading) -> None:
        self.path, self.interval = path, 1 / 25
        self.notes: list[str] = []
        self.problems: list[str] = []
        self._reading = reading
        self._files = sorted(list_images(path), key=lambda file: natural(file.name))
        height, width = decode(self._files[0], reading).size
        self.size = width, height

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self._files) * self.interval

    def preview(self, count: int) -> Preview:
        """The first frames.

        Raises:
            ImageFileError: one cannot be read.
        """
        pictures = [_luma(decode(file, self._reading)) for file in self._files[:count]]
        return _preview([number * self.interval for number in range(len(pictures))], pictures)

    def frames(self) -> Iterator[Frame]:
        """All frames; one that cannot be read ends them, which ``problems`` says."""
        for number, file in enumerate(self._files):
            try:
                picture = decode(file, self._reading).in_srgb()
            except (ImageFileError, ValueError) as error:
                self.problems.append(f"{error}; the scores up to there are kept")
                return
            yield Frame(number * self.interval, picture)


class Video:
    """A video file. Frames are turned by the display matrix, and transparent pixels are laid over the background.

    Attributes:
        path: the file.
        size: width and height of the first frame as it is stored and turned.
        aspect: width of a pixel divided by its height, after turning.
        rate, seconds: as the file states them; None where it does not.
        interlaced: whether the first frame says that it is.
        colours: of the first frame; may be completed by what the other video says.
        square: the size that frames are resized to; None for as they are.
        notes, problems: what a user should know; what is missing. Complete when all frames have been taken.
    """

    def __init__(self, path: Path, reading: Reading) -> None:
        self.path = path
        self.square: tuple[int, int] | None = None
        self.notes: list[str] = []
        self.problems: list[str] = []
        self._reading = reading
        with _open(path) as container:
            stream = self._choose(container)
            rate = stream.average_rate or stream.guessed_rate
            self.rate = float(rate) if rate else None
            stated = container.format.name in _STATES_LENGTH and container.duration is not None
            self.seconds = float(container.duration / _av().time_base) if stated else None
            aspect = float(stream.sample_aspect_ratio or 1)
        first = next(self._decode(), None)
        if first is None:
            raise VideoFileError(f"{path} holds no frame that can be decoded" + "".join(f": {p}" for p in self.problems))
        frame = first[1]
        height, width = turn(np.empty((frame.height, frame.width), bool), _matrix(frame)).shape
        self.size = width, height
        self.aspect = 1 / aspect if width != frame.width and height != frame.height else aspect
        self.interlaced = bool(frame.interlaced_frame)
        self.colours, self._format = Colours.of(frame), frame.format.name
        if (matrix := _matrix(frame)) and matrix[0] * matrix[1]:
            self.notes.append(f"{path} is to be shown at an angle that is no multiple of 90 degrees: compared as it is stored")
        self.problems.clear()

    def _choose(self, container: Any) -> Any:
        streams = [stream for stream in container.streams.video if not _is_cover(stream)]
        if not streams:
            raise VideoFileError(f"{self.path} holds no video stream")
        films = [stream for stream in streams if stream.codec_context.name not in _PICTURES] or streams
        if len(streams) > 1 and not self.notes:
            self.notes.append(f"{self.path} holds {len(streams)} video streams: number {films[0].index} is taken")
        return films[0]

    def preview(self, count: int) -> Preview:
        """The first frames, as far as they can be decoded."""
        times, pictures = [], []
        for time, frame in self._decode():
            times.append(time)
            small = frame.reformat(width=_SIDE, height=_SIDE, format="gray", interpolation="AREA").to_ndarray()
            pictures.append(turn(small, _matrix(frame)))
            if len(times) == count:
                break
        self.problems.clear()
        return _preview(times, pictures)

    def frames(self) -> Iterator[Frame]:
        """All frames in order of time, one at a time in memory.

        Damage, and an end before the one that the file states, end them, which ``problems`` says.
        """
        for time, frame in self._decode(whole=True):
            try:
                if frame.format.name != self._format:
                    raise ValueError(f"its pixels change from {self._format} to {frame.format.name} at {time:.3f} s")
                picture = self._picture(frame)
            except ValueError as error:
                self.problems.append(f"{self.path}: {error}")
                return
            yield Frame(time, picture)

    def _picture(self, frame: Any) -> Picture:
        planes, alpha = planes_of(frame)
        values = to_picture(planes, self.colours)
        if alpha is not None and alpha.min() < 1:
            behind = np.array(self._reading.background, np.float32) / np.float32(255)
            values = (unit(values) * alpha + behind * (1 - alpha)).astype(np.float32)
            self._note_once(f"{self.path} {TRANSPARENT}")
        picture = Picture(np.ascontiguousarray(turn(values, _matrix(frame))), self.colours.profile)
        return picture if self.square in (None, picture.size[::-1]) else picture.resized(self.square[::-1])

    def _decode(self, whole: bool = False) -> Iterator[tuple[float, Any]]:
        """Times and frames as PyAV has them; ``whole``: look at how the file ends."""
        av = _av()
        count, shift, end, last = 0, 0.0, 0.0, None
        longest = step = 1 / self.rate if self.rate and self.rate < 200 else 1 / 25
        try:
            with _open(self.path) as container:
                stream = self._choose(container)
                name = container.format.name
                for end, frames, damage in _decoded(container, stream):  # noqa: B007 (the last is used below)
                    for frame in frames:
                        time = 0.0 if last is None else last + step
                        if frame.pts is not None:
                            time = float(frame.pts * stream.time_base) + shift
                        if last is not None:
                            gap = time - last
                            if gap <= 0 or (gap > _PAUSE and name in _MAY_JUMP):
                                where = "back" if gap <= 0 else "ahead"
                                self._note_once(f"the times of {self.path} jump {where} after {count} frames: they go on")
                                shift += step - gap
                                time = last + step
                            else:
                                step, longest = gap, max(longest, gap)
                        yield time, frame
                        last = time
                        count += 1
                    if damage:
                        raise ValueError(damage)
        except (av.FFmpegError, OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            self.problems.append(f"{self.path} is damaged after {count} frames: {why}; the scores up to there are kept")
            return
        if not whole:
            return
        cut = ends_early(self.path, name)
        if cut is None and self.seconds and end + shift < self.seconds - 1.5 * longest:
            cut = f"it states {self.seconds:.2f} s and holds {end + shift:.2f} s"
        if cut is not None:
            self.problems.append(f"{self.path} ends early, after {count} frames: {cut}; the scores up to there are kept")

    def _note_once(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


def _av() -> Any:
    try:
        import av
        import av.logging
    except ImportError as error:
        raise MissingDependencyError(f"videos are read with PyAV ({error}): pip install 'msds-plugin[video]'") from error
    return av


def _open(path: Path) -> Any:
    av = _av()
    try:
        try:
            return av.open(os.fspath(path))
        except (av.InvalidDataError, av.EOFError):
            return av.open(os.fspath(path), options={"seekable": "0"})  # a fragment that was cut off is met while reading
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoFileError(f"cannot read {path} as a video: {error}") from error


@contextmanager
def _listening() -> Iterator[list[str]]:
    """What FFmpeg says of damage meanwhile: decoders conceal it and go on."""
    log = _av().logging
    level, heard = log.get_level(), []  # type: ignore[var-annotated]
    log.set_level(log.ERROR)
    try:
        with log.Capture(local=False) as said:
            yield heard
        heard += [text.strip() for _, _, text in said if _DAMAGE.search(text)]
    finally:
        log.set_level(level)


def _decoded(container: Any, stream: Any) -> Iterator[tuple[float, list[Any], str]]:
    """Of each packet: the end in seconds of what was read so far, the frames that it completes, and what is damaged."""
    decoder, packets = _decoder(stream), container.demux()
    begin, end, before = (container.start_time or 0) / _av().time_base, 0.0, -math.inf
    # Where files were joined, which the times tell, one of the last packets of the first one looks incomplete.
    patience = _JOINED if container.format.name in _MAY_JUMP else 1
    suspect = 0
    while True:
        with _listening() as heard:
            packet = next(packets, None)
            if packet is None:
                return
            if packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base) - begin)
            frames, damage = [], ""
            if packet.stream is stream:
                at = math.inf if packet.dts is None else float(packet.dts * packet.time_base)
                suspect = 0 if at < before else max(suspect - 1, min(suspect, 1))
                suspect, before = patience if packet.is_corrupt else suspect, at
                if suspect == 1:
                    damage = "a packet is incomplete"
                frames = decoder.decode(packet if packet.size and not damage else None)
        if heard:
            frames, damage = [], damage or heard[0]
        intact = list(takewhile(lambda frame: not frame.is_corrupt, frames))
        if len(intact) < len(frames):
            damage = damage or "a frame is incomplete"
        yield end, intact, damage


def _decoder(stream: Any) -> Any:
    """The decoder of a stream; slices side by side, so that what it says belongs to the packet that it was given."""
    context = stream.codec_context
    if stream.metadata.get("alpha_mode") == "1" and context.name in ("vp8", "vp9"):  # only libvpx reads the transparency
        try:
            context = _av().CodecContext.create({"vp8": "libvpx", "vp9": "libvpx-vp9"}[context.name], "r")
        except ValueError:
            return context
        context.extradata = stream.codec_context.extradata
        return context
    context.options = {"err_detect": "crccheck+bitstream+buffer+explode"}
    context.thread_type = "SLICE"
    return context


def _is_cover(stream: Any) -> bool:
    return "attached_pic" in str(getattr(stream, "disposition", "")).lower()


def _matrix(frame: Any) -> tuple[int, int, int, int] | None:
    """a, b, c, d of the display matrix: a pixel (p, q) is shown at (a p + c q, b p + d q)."""
    found = frame.side_data.get("DISPLAYMATRIX")
    if found is None:
        return None
    a, b, _, c, d = np.frombuffer(found, np.int32, 5).tolist()
    return a, b, c, d


def _luma(picture: Picture) -> Array:
    colours = to_bytes(picture.in_srgb().colours)
    image = Image.fromarray(np.ascontiguousarray(np.broadcast_to(colours, (*colours.shape[:2], 3))))
    return np.asarray(image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX))


def _preview(times: list[float], pictures: list[Array]) -> Preview:
    small = np.stack(pictures).reshape(len(pictures), -1).astype(np.float32)
    return Preview(np.array(times), (small - small.mean()) / (small.std() + 1))
