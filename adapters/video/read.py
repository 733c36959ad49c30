"""Videos, and folders of frames, to frames as a player shows them, with their times."""

from __future__ import annotations

import math
import os
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice, pairwise, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from msds_plugin.adapters.images.colours import TRANSPARENT, Array, Reading, over, to_pillow, turn, unit
from msds_plugin.adapters.images.listing import list_folder
from msds_plugin.adapters.images.pairs import natural
from msds_plugin.adapters.images.read import Picture, decode, resized
from msds_plugin.adapters.video.colours import Colours, planes_of, reformat, to_picture
from msds_plugin.errors import MissingDependencyError

#: What decoders say, and no more than that, where data is damaged.
_DAMAGE = re.compile(
    r"crc|conceal|corrupt|damaged|error while decoding|error decoding|failed to parse|prematurely|partial file|pixel_limit|"
    r"invalid (data|frame|level|nal|plane|repeated|track)|must be in \[|error parsing|"
    r"truncat|exceeds|overread|bytestream|bitstream|missing (reference|picture)|could not find ref|decode_slice|"
    r"invalid as first byte|decode failed|reference \d+ >=|EOI missing",
    re.IGNORECASE,
)
#: Containers whose header states the length.
_STATES_LENGTH = {"matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "avi", "flv", "asf", "nut", "mxf"}
#: Those of them that count it from zero, not from the first frame.
_FROM_ZERO = {"matroska,webm", "asf", "nut", "flv"}
#: Containers whose times may jump, and by how many seconds more than that is no pause.
_MAY_JUMP, _PAUSE = {"mpegts", "mpeg", "ogg"}, 10.0
_JOINED = 4  # packets
_PICTURES = {"mjpeg", "png", "bmp", "gif", "webp", "tiff"}
#: Orientations as EXIF counts them by the signs of a, b, c and d of a display matrix.
_ORIENTATIONS = {
    **{(1, 0, 0, 1): 1, (-1, 0, 0, 1): 2, (-1, 0, 0, -1): 3, (1, 0, 0, -1): 4},
    **{(0, 1, 1, 0): 5, (0, 1, -1, 0): 6, (0, -1, -1, 0): 7, (0, -1, 1, 0): 8},
}
_SIDE = 32


class VideoFileError(ValueError):
    """A video file that cannot be read, or no further."""


class Frame(NamedTuple):
    """A decoded frame as it is shown, in the file's own colours; seconds as the file states them, which only grow."""

    time: float
    picture: Picture


class Preview(NamedTuple):
    """The first frames of a video: (N,) times; 32 x 32 pixels of luma, (N, 1024), without the mean and the deviation of all."""

    times: Array
    small: Array

    @property
    def interval(self) -> float | None:
        """Seconds between frames; None if there is one frame."""
        steps = np.diff(self.times)
        return float(max(np.median(steps), steps.mean())) if len(steps) else None


class Source(ABC):
    """A video file, or a folder of frames.

    Attributes:
        path: of it.
        seconds: its length; None for a file that does not state it.
        size: width and height of the first frame as it is shown, before it is resized.
        aspect: width of a pixel divided by its height.
        square: the size that frames are resized to; None for as they are.
        rate: frames per second that a file states, as far as it does.
        colours: of the first frame, to be completed by what the other video says; None for images.
        notes, problems: what a user should know; what is missing. Complete when all frames have been taken.
    """

    size: tuple[int, int]
    seconds: float | None = None
    rate: float | None = None
    aspect = 1.0
    square: tuple[int, int] | None = None
    colours: Colours | None = None

    def __init__(self, path: Path, reading: Reading) -> None:
        self.path, self._reading = path, reading
        self.notes: list[str] = []
        self.problems: list[str] = []

    @abstractmethod
    def _frames(self) -> Iterator[Frame]:
        """All frames."""

    @abstractmethod
    def _small(self) -> Iterator[tuple[float, Array]]:
        """Their times, and 32 x 32 pixels of their luma."""

    def frames(self) -> Iterator[Frame]:
        """All frames in order of time, one at a time in memory.

        What cannot be read, and an end before the one that the file states, end them, which ``problems`` says.
        """
        first = None
        try:
            for frame in self._frames():
                size = frame.picture.size
                if size != (first := first or size):
                    sizes = (f"{width} x {height}" for height, width in (first, size))
                    self._note_once(f"the frames of {self.path} change in size: {' and '.join(sizes)}")
                yield frame
        except ValueError as error:
            self.problems.append(f"{self.path}: {error}; the scores up to there are kept")

    def preview(self, count: int) -> Preview:
        """The first frames, as far as they can be decoded."""
        found: list[tuple[float, Array]] = []
        try:
            found.extend(islice(self._small(), count))
        except ValueError:  # which is met again, and said, when these frames are scored
            if not found:
                raise
        times, small = zip(*found, strict=True)
        self.problems.clear()
        values = np.stack(small).reshape(len(small), -1).astype(np.float32)
        return Preview(np.array(times), (values - values.mean()) / (values.std() + 1))

    def _note_once(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


def open_videos(reading: Reading, *paths: str | os.PathLike[str]) -> list[Source]:
    """Video files, and folders of frames at the rate of a file beside them.

    Raises:
        VideoFileError: a file cannot be opened, or holds no frame.
        ImageFileError: an image of a folder cannot be read.
        MissingDependencyError: PyAV is not installed.
    """
    films = [None if os.path.isdir(path) else Video(Path(path), reading) for path in paths]
    interval = next((film.preview(16).interval for film in films if film), None)
    return [film or Folder(Path(path), reading, interval) for film, path in zip(films, paths, strict=True)]


class Folder(Source):
    """Images, in the order of their names, as the frames of a video.

    Args:
        path: the folder.
        reading: how images are read.
        interval: seconds between frames, which a folder does not say; None for 1/25.
    """

    def __init__(self, path: Path, reading: Reading, interval: float | None) -> None:
        super().__init__(path, reading)
        found = list_folder(path)
        self._files = sorted(found.images, key=lambda file: natural(file.name))
        if any(file.parent != path for file in self._files):
            raise VideoFileError(f"{path} holds folders of images, of which each may be a video: name one of them")
        self.notes += [f"{folder} is left out: frames are taken from {path} itself" for folder, _ in found.left_out]
        self._interval = interval or 1 / 25
        self._places = _places([file.name for file in self._files])
        self.seconds = (self._places[-1] + 1) * self._interval
        height, width = decode(self._files[0], reading).size
        self.size = width, height
        if interval:
            self.notes.append(f"the images of {path} are taken for frames at {1 / interval:.3f} per second")
        if lacking := self._places[-1] + 1 - len(self._files):
            self.notes.append(
                f"of the frames of {path} {lacking} are not there, by the numbers in the names: the others keep their times "
                "(--align index counts the images)"
            )

    def _frames(self) -> Iterator[Frame]:
        for place, file in zip(self._places, self._files, strict=True):
            try:
                picture = decode(file, self._reading).in_srgb()
            except ValueError as error:
                raise VideoFileError(f"{file.name}: {error}") from error
            yield Frame(place * self._interval, picture)

    def _small(self) -> Iterator[tuple[float, Array]]:
        for time, picture in self._frames():
            image = to_pillow(picture.colours).convert("L")
            yield time, np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX))


def _places(names: Sequence[str]) -> Sequence[int]:
    """Where frames belong by their names: one after the other, with gaps where the number in them mostly grows by one step, and
    sometimes by several."""
    columns = list(zip(*(re.split(r"(\d+)", name) for name in names), strict=False))
    varying = [column for column in columns if len(set(column)) > 1]
    if len(varying) == 1 and all(part.isdecimal() for part in varying[0]):
        numbers = [int(part) for part in varying[0]]
        steps = [after - before for before, after in pairwise(numbers)]
        step = min(steps)
        if step > 0 and not any(each % step for each in steps) and steps.count(step) > len(steps) / 2:
            return [(number - numbers[0]) // step for number in numbers]
    return range(len(names))


class Video(Source):
    """A video file. Frames are turned by the display matrix, and transparent pixels are laid over the background."""

    colours: Colours

    def __init__(self, path: Path, reading: Reading) -> None:
        super().__init__(path, reading)
        with _open(path) as container:
            stream = self._choose(container)
            self._rate = float(stream.average_rate or stream.guessed_rate or 0)
            self.rate = float(stream.base_rate or 0) or None  # unlike the average, the same if frames are lacking
            if container.format.name in _STATES_LENGTH and container.duration is not None:
                begin = max(0, container.start_time or 0) if container.format.name in _FROM_ZERO else 0
                self.seconds = float((container.duration - begin) / _av().time_base)
            aspect = float(stream.sample_aspect_ratio or 1)
        _, frame = next(self._decode(), (0, None))
        if frame is None:
            raise VideoFileError(f"{path} holds no frame that can be decoded" + "".join(f": {p}" for p in self.problems))
        lying = _orientation(frame) >= 5
        self.size = (frame.height, frame.width) if lying else (frame.width, frame.height)
        self.aspect = 1 / aspect if lying else aspect
        self.colours = self._stated = Colours.of(frame)
        self._format = frame.format.name
        if not _orientation(frame):
            self.notes.append(f"{path} is to be shown at an angle that is no multiple of 90 degrees: compared as it is stored")
        self.problems.clear()

    def _choose(self, container: Any) -> Any:
        videos = [each for each in container.streams.video if each.codec_context]
        streams = [each for each in videos if "attached_pic" not in str(getattr(each, "disposition", "")).lower()]
        if not streams:
            raise VideoFileError(f"{self.path} holds no video stream that FFmpeg can decode")
        films = [stream for stream in streams if stream.codec_context.name not in _PICTURES] or streams
        films = [stream for stream in films if stream.frames != 1] or films  # 0 where it is not stated
        if len(streams) > 1:
            self._note_once(f"{self.path} holds {len(streams)} video streams: number {films[0].index} is taken")
        return films[0]

    def _small(self) -> Iterator[tuple[float, Array]]:
        for time, frame in self._decode():
            # The matrix makes no difference to luma, but FFmpeg refuses some.
            how = {"format": "gray", "interpolation": "AREA", "src_colorspace": "ITU601"}
            small = reformat(frame, width=_SIDE, height=_SIDE, **how).to_ndarray()
            yield time, turn(small, _orientation(frame))

    def _frames(self) -> Iterator[Frame]:
        for time, frame in self._decode(whole=True):
            if frame.format.name != self._format:
                raise ValueError(f"its pixels change from {self._format} to {frame.format.name} at {time:.3f} s")
            if Colours.of(frame) != self._stated:
                raise ValueError(f"what it says of its colours changes at {time:.3f} s: cut it there")
            yield Frame(time, self._picture(frame))

    def _picture(self, frame: Any) -> Picture:
        planes, alpha = planes_of(frame)
        values = to_picture(planes, self.colours)
        if alpha is not None and alpha.min() < 1:
            values = over(unit(values), alpha, self._reading.background)
            self._note_once(f"{self.path} {TRANSPARENT}")
        picture = Picture(turn(values, _orientation(frame)), self.colours.profile, channel=self._reading.channel)
        return resized(picture, self.square[::-1]) if self.square else picture

    def _decode(self, whole: bool = False) -> Iterator[tuple[float, Any]]:
        """Times and frames as PyAV has them; ``whole``: look at how the file ends."""
        av = _av()
        longest = step = 1 / self._rate if 0 < self._rate < 200 else 1 / 25
        count, shift, end, last = 0, 0.0, 0.0, -step
        try:
            with _open(self.path) as container:
                stream, name = self._choose(container), container.format.name
                for end, frames, damage in _decoded(container, stream):  # noqa: B007 (the last is used below)
                    for frame in frames:
                        if frame.interlaced_frame:
                            self._note_once(f"{self.path} is interlaced: compared as stored, with both fields")
                        stamp = frame.dts if name == "avi" else frame.pts  # AVI states the order of packets, not of frames
                        time = last + step if stamp is None else float(stamp * stream.time_base) + shift
                        gap = time - last
                        if count and (gap <= 0 or (gap > _PAUSE and name in _MAY_JUMP)):
                            where = "back" if gap <= 0 else "ahead"
                            self._note_once(f"the times of {self.path} jump {where} after {count} frames: they go on")
                            shift += step - gap
                            time = last + step
                        elif count:
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
        cut = _cut_off(self.path, name)
        if cut is None and self.seconds and end + shift < self.seconds - 1.5 * longest:
            cut = f"it states {self.seconds:.2f} s and holds {end + shift:.2f} s"
        if cut is not None:
            self.problems.append(f"{self.path} ends early, after {count} frames: {cut}; the scores up to there are kept")


def _av() -> Any:
    try:
        import av
        import av.logging
    except ImportError as error:
        raise MissingDependencyError(f"videos are read with PyAV ({error}): pip install 'msds-plugin[video]'") from error
    return av


def _open(path: Path) -> Any:
    av = _av()
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise VideoFileError(f"cannot read {path} as a video: it is not a regular file")
    try:
        name = os.path.abspath(path)  # FFmpeg takes what is before a colon for a protocol
        try:
            return av.open(name)
        except (av.InvalidDataError, av.EOFError):
            return av.open(name, options={"seekable": "0"})  # a fragment that was cut off is met while reading
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoFileError(f"cannot read {path} as a video: {getattr(error, 'strerror', None) or error}") from error


def _orientation(frame: Any) -> int:
    """As EXIF counts them; 0 for one that is no multiple of 90 degrees."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return 1
    a, b, _, c, d = np.sign(np.frombuffer(matrix, np.int32, 5)).tolist()
    return _ORIENTATIONS.get((a, b, c, d), 0)


_log_lock = threading.Lock()


@contextmanager
def _listening(container: Any) -> Iterator[list[str]]:
    """What FFmpeg says of damage meanwhile: decoders conceal it and go on. Its log is one for all threads."""
    log = _av().logging
    heard: list[str] = []
    with _log_lock:
        level, skip = log.get_level(), log.get_skip_repeated()
        # That a stream of JPEGs stops within a picture is a warning.
        log.set_level(log.WARNING if container.format.name == "mjpeg" else log.ERROR)
        log.set_skip_repeated(False)  # what was heard for the preview is said again
        try:
            with log.Capture(local=False) as said:
                yield heard
            heard += [text.strip() for _, _, text in said if _DAMAGE.search(text)]
        finally:
            log.set_level(level)
            log.set_skip_repeated(skip)


def _decoded(container: Any, stream: Any) -> Iterator[tuple[float, list[Any], str]]:
    """Of each packet: the end in seconds of what was read so far, the frames that it completes, and what is damaged."""
    decoder, packets = _decoder(stream), container.demux()
    begin, end, before = (container.start_time or 0) / _av().time_base, 0.0, -math.inf
    # Where files were joined, one of the last packets of the first one looks incomplete, and soon the times jump back.
    patience = _JOINED if container.format.name in _MAY_JUMP else 0
    countdown: int | None = None  # packets until an incomplete one counts as damage
    begun = stream.codec_context.name != "hevc"  # others pass over what is before the first key frame
    read = 0
    while True:
        with _listening(container) as heard:
            packet, frames, damage = next(packets, None), [], ""
            if packet is not None and packet.stream is stream:
                at = math.inf if packet.dts is None else float(packet.dts * packet.time_base)
                if packet.is_corrupt:
                    countdown = patience
                elif countdown is not None:
                    countdown = None if at < before else countdown - 1
                before = at
                if countdown == 0:
                    damage = "a packet is incomplete"
                begun = begun or packet.is_keyframe
                if begun:
                    frames = decoder.decode(packet if packet.size and not damage else None)
        if packet is None:
            if container.format.name == "yuv4mpegpipe" and read < container.size:
                yield end, [], f"{container.size - read} bytes after its last frame are no frame"
            return
        if packet.pos is not None:
            read = packet.pos + packet.size
        if packet.pts is not None:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base) - begin)
        if heard:
            frames, damage = [], damage or heard[0]
        intact = list(takewhile(lambda frame: not frame.is_corrupt, frames))
        if len(intact) < len(frames):
            damage = damage or "a frame is incomplete"
        yield end, intact, damage


def _decoder(stream: Any) -> Any:
    """The decoder of a stream; slices side by side, so that what it says belongs to the packet that it was given."""
    context = stream.codec_context
    able = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(context.name, "")  # to read transparency
    if stream.metadata.get("alpha_mode") == "1" and able in _av().codecs_available:
        transparent = _av().CodecContext.create(able, "r")
        transparent.extradata = context.extradata
        return transparent
    context.options = {"err_detect": "crccheck+bitstream+buffer+explode"}
    context.thread_type = "SLICE"
    return context


def _cut_off(path: Path, container: str) -> str | None:
    """Why a file ends before the end that its own structure states; None if it is whole, or its container does not say."""
    size, at = os.path.getsize(path), 0
    with open(path, "rb") as file:
        if container == "mpegts":  # packets of 188 bytes, of 192 with times (.m2ts), of 204 with error correction
            head = file.read(4 * 204)
            for length, offset in ((188, 0), (192, 4), (204, 0)):
                if all(head[place] == 0x47 for place in range(offset, len(head), length)):
                    return f"{size % length} bytes of its last packet are there" if size % length else None
            return None
        if container == "gif":
            file.seek(max(0, size - 4096))
            return None if file.read().rstrip(b"\0").endswith(b"\0;") else "its end mark is not there"
        while at < size:
            file.seek(at)
            if not (length := _length(file.read(32), container)):
                break
            if length < 8:
                return f"nothing that can be read begins at byte {at}"
            at += length
    padding = int(container == "avi")  # which some programs leave out at the end
    return f"its last element has {at - size} bytes more than the file" if at > size + padding else None


def _length(head: bytes, container: str) -> int:
    """Bytes of the element that begins so; 0 where that is not known."""
    if container.startswith("mov"):  # a length of 4 or 8 bytes, and a name
        length = int.from_bytes(head[:4], "big")
        return int.from_bytes(head[8:16], "big") if length == 1 else length
    if container == "avi" and head[:4] == b"RIFF":  # one or more; the length is made even
        length = int.from_bytes(head[4:8], "little")
        return 8 + length + length % 2
    if container == "asf":  # an identifier, and a length
        return int.from_bytes(head[16:24], "little")
    if container == "mxf" and head[:4] == b"\x06\x0e+4":  # a key, the length in a byte or in as many as it says, a value
        width = head[16] & 0x7F if head[16:17] >= b"\x80" else 0
        return 17 + width + int.from_bytes(head[17 : 17 + width] if width else head[16:17], "big")
    if container == "ivf":
        return int.from_bytes(head[6:8], "little") if head[:4] == b"DKIF" else 12 + int.from_bytes(head[:4], "little")
    if container.startswith("matroska") and head[:4] in (b"\x1aE\xdf\xa3", b"\x18S\x80g"):  # the header, and a segment
        width = 9 - head[4].bit_length()  # the first bits of a length state its bytes; all others are set in live recordings
        length, unknown = int.from_bytes(head[4 : 4 + width], "big"), (1 << 7 * width) - 1
        return 0 if width > 8 or length & unknown == unknown else 4 + width + (length & unknown)
    return 0
