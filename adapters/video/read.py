"""Videos, and folders of frames, to frames as a player shows them, with their times."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from msds_plugin.adapters.images.colours import Array, ImageFileError, Reading
from msds_plugin.adapters.images.large import TRANSPARENT
from msds_plugin.adapters.images.listing import VIDEO_SUFFIXES, list_images
from msds_plugin.adapters.images.read import Picture, decode
from msds_plugin.adapters.video.colours import Colours, alpha_of, planes_of, to_picture, turn
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

    def __init__(self, path: Path, reading: Reading) -> None:
        self.path, self.interval = path, 1 / 25
        self.notes: list[str] = []
        self.problems: list[str] = []
        self._reading = reading
        self._files = sorted(list_images(path), key=_natural)
        if not self._files:
            raise VideoFileError(f"{path} holds no images")
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
            self.seconds = _stated_seconds(container)
            aspect = float(stream.sample_aspect_ratio or 1)
        first = next(self._decode(), None)
        if first is None:
            raise VideoFileError(f"{path} holds no frame that can be decoded" + "".join(f": {p}" for p in self.problems))
        frame = first[1]
        height, width = turn(np.empty((frame.height, frame.width), bool), _matrix(frame)).shape
        self.size = width, height
        self.aspect = 1 / aspect if width != frame.width and height != frame.height else aspect
        self.interlaced = bool(frame.interlaced_frame)
        self.colours = Colours.of(frame)
        self.notes += _unturned(path, frame)
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
                picture = self._picture(frame)
            except ValueError as error:
                self.problems.append(f"{self.path}: {error}")
                return
            yield Frame(time, picture)

    def _picture(self, frame: Any) -> Picture:
        values = to_picture(planes_of(frame), frame.format, self.colours)
        alpha = alpha_of(frame)
        notes: tuple[str, ...] = ()
        if alpha is not None and alpha.min() < 1:
            behind = np.array(self._reading.background, np.float32) / np.float32(255)
            white = 1.0 if values.dtype == np.float32 else float(np.iinfo(values.dtype).max)
            values = (values / np.float32(white) * alpha + behind * (1 - alpha)).astype(np.float32)
            notes = (TRANSPARENT,)
        picture = Picture(np.ascontiguousarray(turn(values, _matrix(frame))), self.colours.profile, notes)
        if self.square is not None and picture.size != self.square[::-1]:
            picture = picture.resized(self.square[::-1])
        for note in notes:
            if (said := f"{self.path} {note}") not in self.notes:
                self.notes.append(said)
        return picture

    def _decode(self, whole: bool = False) -> Iterator[tuple[float, Any]]:
        """Times and frames as PyAV has them; ``whole``: look at how the file ends."""
        av = _av()
        count, shift, end, last = 0, 0.0, 0.0, None
        step = 1 / self.rate if self.rate and self.rate < 200 else 1 / 25
        longest = step
        try:
            with _open(self.path) as container:
                stream = self._choose(container)
                decoder = _decoder(stream)
                name = container.format.name
                begin = (container.start_time or 0) / av.time_base
                packets = container.demux()
                before, suspect = -math.inf, 0
                while True:
                    frames, reason = [], ""
                    with _listening() as heard:
                        packet = next(packets, None)
                        if packet is None:
                            break
                        if packet.pts is not None:
                            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base) - begin)
                        if packet.stream is stream:
                            at = math.inf if packet.dts is None else float(packet.dts * packet.time_base)
                            # Where pieces were joined, one of the last packets of the first one looks incomplete.
                            suspect = 0 if at < before else max(suspect - 1, 0) or int(suspect == 1)
                            if packet.is_corrupt:
                                suspect = _JOINED if name in _MAY_JUMP else 1
                            before = at
                            if suspect == 1:
                                reason = "a packet is incomplete"
                            frames = decoder.decode(packet if packet.size and not reason else None)
                    reason = reason or next(iter(heard), "")
                    for frame in frames:
                        if frame.is_corrupt or heard:
                            raise _damaged(self.path, count, reason or "a frame is incomplete")
                        time = last + step if last is not None else 0.0
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
                    if reason:
                        raise _damaged(self.path, count, reason)
        except VideoFileError as error:
            self.problems.append(f"{error}; the scores up to there are kept")
            return
        except (av.FFmpegError, OSError) as error:
            reason = f"{self.path} is damaged after {count} frames: {error.strerror or error}; the scores up to there are kept"
            self.problems.append(reason)
            return
        if not whole:
            return
        cut = ends_early(self.path, name)
        if cut is None and self.seconds and name in _STATES_LENGTH and end + shift < self.seconds - 1.5 * longest:
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


def _damaged(path: Path, count: int, reason: str) -> VideoFileError:
    return VideoFileError(f"{path} is damaged after {count} frames: {reason}")


def _is_cover(stream: Any) -> bool:
    return "attached_pic" in str(getattr(stream, "disposition", "")).lower()


def _stated_seconds(container: Any) -> float | None:
    if container.format.name in _STATES_LENGTH and container.duration is not None:
        return float(container.duration / _av().time_base)
    return None


def _matrix(frame: Any) -> tuple[int, int, int, int] | None:
    """a, b, c, d of the display matrix: a pixel (p, q) is shown at (a p + c q, b p + d q)."""
    found = frame.side_data.get("DISPLAYMATRIX")
    if found is None:
        return None
    a, b, _, c, d = np.frombuffer(found, np.int32, 5).tolist()
    return a, b, c, d


def _unturned(path: Path, frame: Any) -> list[str]:
    matrix = _matrix(frame)
    if matrix is None or not matrix[0] * matrix[1]:
        return []
    return [f"{path} is to be shown at an angle that is no multiple of 90 degrees: compared as it is stored"]


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part or 0), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", path.name)]


def _luma(picture: Picture) -> Array:
    from PIL import Image

    from msds_plugin.adapters.images.colours import to_bytes

    colours = to_bytes(picture.in_srgb().colours)
    image = Image.fromarray(np.ascontiguousarray(np.broadcast_to(colours, (*colours.shape[:2], 3))))
    return np.asarray(image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX))


def _preview(times: list[float], pictures: list[Array]) -> Preview:
    small = np.stack(pictures).reshape(len(pictures), -1).astype(np.float32)
    return Preview(np.array(times), (small - small.mean()) / (small.std() + 1))
