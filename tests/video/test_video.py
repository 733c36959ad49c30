"""Videos: decoded as they are shown, matched by time and content, scored, pooled."""

import json
import math
import os
import struct
from fractions import Fraction
from unittest.mock import Mock

import av
import numpy as np
import pytest
from PIL import Image, features

from msds_plugin.adapters.images.colours import Reading
from msds_plugin.adapters.scorers import create_scorers
from msds_plugin.adapters.scoring import Run
from msds_plugin.adapters.scoring.tables import read_table
from msds_plugin.adapters.video import VideoFileError, pool, score_video
from msds_plugin.adapters.video.colours import Colours, agree, planes_of, reformat, to_picture

SAME = 79.9  # piq's psnr of equal images
#: How codecs are told to lose nothing.
LOSSLESS = {"libx264": {"crf": "0"}, "libx264rgb": {"crf": "0"}, "prores_ks": {"profile": "4444"}}


def picture(index=0, width=96, height=64):
    """A moving pattern, RGB."""
    rows, columns = np.mgrid[:height, :width]
    base = 110 + 60 * np.sin(rows / 9 + index * 0.3) * np.cos(columns / 13)
    base += np.random.default_rng(0).integers(0, 60, (height // 8, width // 8)).repeat(8, 0).repeat(8, 1)
    return np.stack([base, base * 0.8 + 20 * np.sin(columns / 5 + index * 0.2), 255 - base], 2).clip(0, 255).astype(np.uint8)


def pictures(count):
    return [picture(index) for index in range(count)]


def write(path, frames, codec="ffv1", pix="bgr0", rate=25, times=None, base=None, options=(), mux=(), source="rgb24", **more):
    """Frames (arrays, or of PyAV) to a file; ``times`` in units of ``base``; ``more``: attributes of the encoder."""
    base = base or Fraction(1, rate)
    with av.open(str(path), "w", options=dict(mux)) as container:
        stream = container.add_stream(codec, rate=rate, options={**LOSSLESS.get(codec, {}), **dict(options)})
        if not isinstance(frames[0], av.VideoFrame):
            frames = [av.VideoFrame.from_ndarray(np.ascontiguousarray(each), format=source) for each in frames]
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, pix
        for name, value in {"time_base": base, **more}.items():
            setattr(stream.codec_context, name, value)
        for index, frame in enumerate(frames):
            frame.pts, frame.time_base = index if times is None else times[index], base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def scorers():
    return create_scorers(["piq:psnr"], "cpu")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """30 lossless frames at 25 per second."""
    return write(tmp_path_factory.mktemp("videos") / "ref.mkv", pictures(30))


@pytest.fixture(scope="module")
def psnr(scorers):
    """The scores of two videos, of which are to be said: so many, at least so good, notes and a problem."""

    def psnr(y, x, count=None, least=0.0, note="", problem=None, reading=None, **options):
        results = score_video(y, x, scorers, run=Run(device="cpu", reading=Reading(**(reading or {}))), **options)
        scores = np.array([row.scores[0] for row in results])
        assert count in (None, len(scores)), (results.notes, results.problems)
        assert scores.min(initial=99) >= least, (results.notes, results.problems)
        assert note in " ".join(results.notes)
        if problem is not None:
            assert problem in " ".join(results.problems)
            assert bool(problem) is bool(results.problems)
        return scores

    return psnr


def test_frame_by_frame(tmp_path, reference, scorers, psnr):
    x = write(tmp_path / "x.mkv", [picture(index) // 2 + 3 * index for index in range(30)])
    every = psnr(reference, x, 30, problem="")
    third = list(score_video(reference, x, scorers, every=3))
    assert [row.frame for row in third] == list(range(0, 30, 3))
    assert third[1].scores[0] == every[3]
    assert third[1].time == third[1].reference_time == pytest.approx(0.12)
    mse = np.mean((picture(3) / 255.0 - (picture(3) // 2 + 9) / 255.0) ** 2)
    assert every[3] == pytest.approx(-10 * np.log10(mse), abs=1e-3)


def exact(planes, bits, red, blue, limited):
    """RGB of Y, U and V by the formulas of the standards, in double precision."""
    y, u, v = (plane.astype(float) for plane in planes)
    u, v = (plane.repeat(y.shape[0] // plane.shape[0], 0).repeat(y.shape[1] // plane.shape[1], 1) for plane in (u, v))
    scale, top = 2.0 ** (bits - 8), 2.0**bits - 1
    y = (y - 16 * scale) / (219 * scale) if limited else y / top
    u, v = ((plane - 128 * scale) / (224 * scale if limited else top) for plane in (u, v))
    r, b = y + 2 * (1 - red) * v, y + 2 * (1 - blue) * u
    return np.stack([r, (y - red * r - blue * b) / (1 - red - blue), b], 2).clip(0, 1)


@pytest.mark.parametrize("limited", [True, False])
@pytest.mark.parametrize(("matrix", "red", "blue"), [(1, 0.2126, 0.0722), (6, 0.299, 0.114), (9, 0.2627, 0.0593)])
@pytest.mark.parametrize(
    ("bits", "pix"), [(8, "yuv420p"), (8, "yuv444p"), (10, "yuv422p10le"), (12, "yuv444p12le"), (8, "yuv411p")]
)
def test_conversion_is_that_of_the_standards(bits, pix, matrix, red, blue, limited):
    form, rng = av.VideoFormat(pix, 96, 64), np.random.default_rng(bits)
    kind = np.uint8 if bits == 8 else np.uint16
    planes = [rng.integers(0, 2**bits, (part.height, part.width)).astype(kind) for part in form.components]
    found = to_picture(planes, Colours("yuv", bits, matrix, 1 if limited else 2, 2, 2))
    assert np.abs(found - exact(planes, bits, red, blue, limited)).max() < 1e-6


@pytest.mark.parametrize(
    ("pix", "close"),
    [
        *(("yuv420p", 33), ("yuv410p", 28), ("yuv440p", 33), ("yuv422p10be", 33), ("yuv444p12le", 50), ("yuv444p16le", 50)),
        *(("yuvj420p", 33), ("nv12", 33), ("nv16", 33), ("yuyv422", 33), ("p010le", 33), ("y210le", 33), ("ayuv64le", 50)),
        *(("rgb24", 99), ("bgra", 99), ("gbrp", 99), ("gbrp10le", 50), ("rgb48be", 50), ("gbrpf32le", 50), ("rgb565le", 30)),
        *(("gray", 99), ("gray16le", 99), ("gbrp10msble", 50)),
    ],
)
def test_kinds_of_pixels(pix, close):
    shown = picture()[..., :1].repeat(3, 2) if "gray" in pix else picture()
    grey = {"gray": shown[..., 0], "gray16le": shown[..., 0] * np.uint16(257)}
    try:
        if pix in grey:  # as it is: some versions of FFmpeg convert to it with an error
            frame = av.VideoFrame.from_ndarray(grey[pix], format=pix)
        else:
            frame = reformat(av.VideoFrame.from_ndarray(shown, format="rgb24"), format=pix)
    except ValueError:
        pytest.skip("not known to this FFmpeg")
    found = to_picture(planes_of(frame)[0], Colours.of(frame))
    found = found if found.dtype == np.float32 else found / float(np.iinfo(found.dtype).max)
    error = np.mean((found - shown / 255.0) ** 2)
    assert -10 * np.log10(error + 1e-10) >= close


@pytest.mark.skipif(av.library_versions["libswscale"] < (9,), reason="FFmpeg 7 itself converts odd sizes otherwise")
@pytest.mark.parametrize("pix", ["yuv411p", "yuv410p", "yuv420p9le", "yuva420p", "p016le", "uyvy422"])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 5), (3, 3), (6, 5), (9, 6), (17, 13)])
def test_odd_sizes(pix, width, height):
    ramp = (np.arange(width) // 4 * 30 + 60).astype(np.uint8)  # of one colour where four pixels share a sample
    shown = np.broadcast_to(ramp[:, None], (height, width, 3)) + np.array([0, 20, 40], np.uint8)
    frame = reformat(av.VideoFrame.from_ndarray(np.ascontiguousarray(shown), format="rgb24"), format=pix)
    assert to_picture(planes_of(frame)[0], Colours.of(frame)) == pytest.approx(shown / 255, abs=0.03)


def test_ycgco(tmp_path, psnr):
    frames = []
    for shown in pictures(2):
        r, g, b = shown.astype(float).transpose(2, 0, 1) / 255
        planes = [16 + 219 * (g / 2 + (r + b) / 4), 128 + 224 * (g / 2 - (r + b) / 4), 128 + 224 * (r - b) / 2]
        frames.append(av.VideoFrame.from_ndarray(np.round(planes).astype(np.uint8), format="yuv444p"))
    x = write(tmp_path / "x.mkv", frames, pix="yuv444p", colorspace=8, color_range=1)
    psnr(write(tmp_path / "y.mkv", pictures(2)), x, 2, 50)


def test_eight_and_ten_bits_are_the_same_picture(tmp_path, psnr):
    shallow = [reformat(av.VideoFrame.from_ndarray(each, format="rgb24"), format="yuv420p") for each in pictures(4)]
    deep = []
    for frame in shallow:
        new = av.VideoFrame(frame.width, frame.height, "yuv420p10le")
        for old, plane in zip(frame.planes, new.planes, strict=True):
            values = np.frombuffer(old, np.uint8).reshape(old.height, old.line_size)[:, : old.width]
            rows = np.zeros((plane.height, plane.line_size // 2), "<u2")
            rows[:, : old.width] = values.astype("<u2") * 4
            plane.update(rows.tobytes())
        deep.append(new)
    y, x = write(tmp_path / "8.mkv", shallow, pix="yuv420p"), write(tmp_path / "10.mkv", deep, pix="yuv420p10le")
    psnr(y, x, 4, SAME)


@pytest.mark.parametrize(
    ("matrix", "how"),
    [
        ((0, 1, 0, -1, 0, 0), lambda frame: np.rot90(frame, -1)),
        ((-1, 0, 0, 0, -1, 0), lambda frame: np.rot90(frame, 2)),
        ((0, -1, 0, 1, 0, 0), lambda frame: np.rot90(frame, 1)),
        ((-1, 0, 0, 0, 1, 0), lambda frame: frame[:, ::-1]),
        ((1, 0, 0, 0, -1, 0), lambda frame: frame[::-1]),
        ((0, 1, 0, 1, 0, 0), lambda frame: frame.swapaxes(0, 1)),
        ((0, -1, 0, -1, 0, 0), lambda frame: frame[::-1, ::-1].swapaxes(0, 1)),
    ],
)
def test_rotation_and_mirrors(tmp_path, psnr, matrix, how):
    stored = write(tmp_path / "stored.mp4", pictures(3), "libx264rgb", "rgb24")
    content = bytearray(stored.read_bytes())
    place = content.find(b"tkhd") + 44
    content[place : place + 36] = struct.pack(">9i", *(value * 65536 for value in (*matrix, 0, 0)), 1 << 30)
    stored.write_bytes(content)
    psnr(stored, write(tmp_path / "upright.mkv", [how(frame) for frame in pictures(3)]), 3, SAME)


@pytest.mark.parametrize(
    ("aspect", "stored"), [(Fraction(2), (slice(None), slice(None, None, 2))), (Fraction(1, 2), (slice(None, None, 2),))]
)
def test_pixels_that_are_not_square(tmp_path, reference, psnr, aspect, stored):
    frames = [frame[stored] for frame in pictures(4)]
    x = write(tmp_path / "x.mkv", frames, "libx264rgb", "rgb24", sample_aspect_ratio=aspect)
    psnr(reference, x, 4, 20, note="not square")


@pytest.mark.parametrize(("codec", "pix"), [("qtrle", "argb"), ("prores_ks", "yuva444p10le")])
def test_transparency(tmp_path, psnr, codec, pix):
    opaque = [np.dstack([frame, np.full((64, 96), 255, np.uint8)]) for frame in pictures(3)]
    half = [frame.copy() for frame in opaque]
    for frame in half:
        frame[:, 48:, 3] = 0
    y = write(tmp_path / "y.mov", opaque, codec, pix, source="rgba")
    x = write(tmp_path / "x.mov", half, codec, pix, source="rgba")
    white = psnr(y, x, 3, note="transparent")
    assert white.max() < 12
    assert abs(psnr(y, x, reading={"background": (0, 0, 0)}) - white).max() > 0.1


def tagged(matrix=2, span=0, primaries=2, transfer=2, bits=8, kind="yuv"):
    return Colours(kind, bits, matrix, span, primaries, transfer)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (tagged(1, 1), tagged(), ["matrix (BT.709)"]),
        (tagged(), tagged(), []),
        (tagged(6, 1, 1, 1), tagged(5, 0), []),  # other names of the same
        (tagged(span=2), tagged(), ["full"]),
        (tagged(1, 1), tagged(6, 2), ["BT.709 and BT.601", "limited and full"]),
        (tagged(9, 1, 9, 1), tagged(1, 1, 1, 1), ["BT.2020 and BT.709", "converted to sRGB"]),
        (tagged(9, 1, 9, 16, 10), tagged(bits=10), ["transfer (PQ)"]),
        *((tagged(9, 1, 9, one, 10), tagged(9, 1, 9, other), None) for one, other in ((16, 1), (18, 1), (16, 18), (16, 2))),
    ],
)
def test_colour_descriptions(first, second, said):
    if said is None:
        with pytest.raises(ValueError, match="transfer functions differ"):
            agree(first, second)
        return
    one, other, notes = agree(first, second)
    assert all(words in " ".join(notes) for words in said)
    assert bool(notes) is bool(said)
    assert one.transfer == other.transfer
    assert (one.profile == other.profile) is ("converted to sRGB" not in said)


JITTER = [0, *(40 * index + int(np.random.default_rng(index).integers(-5, 6)) for index in range(1, 30))]


@pytest.mark.parametrize(
    ("name", "frames", "options"),
    [
        ("jitter.mkv", slice(30), {"times": JITTER, "rate": 1000, "base": Fraction(1, 1000)}),
        ("late.mkv", slice(1, 30), {"times": range(1, 30)}),
        ("lost.mkv", slice(7, 30), {}),
        ("minutes.mkv", slice(30), {"times": range(9000, 9030)}),
        ("sparse.mkv", slice(0, 30, 2), {"times": range(0, 30, 2)}),
        ("b.mp4", slice(30), {"codec": "libx264rgb", "pix": "rgb24", "options": {"bf": "3"}}),
        ("b.avi", slice(30), {"codec": "libx264rgb", "pix": "rgb24", "options": {"bf": "3"}}),
        ("b.ts", slice(30), {"codec": "mpeg2video", "pix": "yuv420p", "options": {"qscale": "1", "bf": "2"}}),
    ],
)
def test_times(tmp_path, reference, psnr, name, frames, options):
    count = len(pictures(30)[frames])
    x = write(tmp_path / name, pictures(30)[frames], **options)
    psnr(reference, x, count, 24 if name == "b.ts" else SAME, "0.280 s after" if name == "lost.mkv" else "", problem="")
    if name == "lost.mkv":
        assert psnr(reference, x, align="index").max() < 40
        psnr(x, reference, 23, SAME, problem="7 of 30 distorted frames (23.3%)")  # the reference lacks its beginning
    if name == "late.mkv":
        psnr(reference, x, 29, SAME, align="time")
    if name == "sparse.mkv":
        psnr(reference, x, 15, align="index", note="the reference frame of its number")


@pytest.mark.parametrize("still", [0, 20])
def test_an_offset_in_a_scene_that_begins_still(tmp_path, psnr, still):
    frames = [picture()] * still + pictures(20)
    y, x = write(tmp_path / "y.mkv", frames), write(tmp_path / "x.mkv", frames[5:])
    psnr(y, x, len(frames) - 5, SAME, "0.200 s after")


def test_frames_that_fit_nowhere_are_compared_from_the_first_on(tmp_path, reference, psnr):
    other = np.random.default_rng(8).integers(0, 256, (8, 12, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    frames = [np.roll(other, (index, 3 * index), (0, 1)) for index in range(30)]
    psnr(reference, write(tmp_path / "x.mkv", frames), 30, problem="")


def test_rates_that_are_nearly_one(tmp_path, psnr):
    frames = [picture(index % 20, 16, 16) for index in range(600)]
    y, x = (write(tmp_path / f"{int(rate)}.mkv", frames, rate=rate) for rate in (Fraction(24000, 1001), 24))
    psnr(y, x, 600, note="reference 23.976, distorted 24.000")
    psnr(y, x, 600, SAME, align="index")


def test_joined_pieces_go_on(tmp_path, psnr):
    frames = pictures(40)
    parts = {"all": frames, "1": frames[:20], "2": frames[20:]}
    whole, *pieces = (write(tmp_path / f"{name}.ts", part, "libx264", "yuv420p") for name, part in parts.items())
    pieces.append(write(tmp_path / "3.ts", frames[20:], "libx264", "yuv444p"))
    first, second, other = (piece.read_bytes() for piece in pieces)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first + second)
    psnr(whole, joined, 40, SAME, "jump back after 20 frames")
    joined.write_bytes(first + other)
    psnr(whole, joined, 20, problem="pixels change from yuv420p to yuv444p")
    tagged = write(tmp_path / "4.ts", frames[20:], "libx264", "yuv420p", colorspace=1)
    joined.write_bytes(first + tagged.read_bytes())
    psnr(whole, joined, 20, problem="of its colours changes")
    larger = write(tmp_path / "5.ts", [picture(index, 192, 128) for index in range(20, 40)], "libx264", "yuv420p")
    joined.write_bytes(first + larger.read_bytes())
    psnr(whole, joined, 40, note="change in size: 96 x 64 and 192 x 128", reading={"resize": True})
    options = {"crf": "1", "x264-params": "tff=1"}
    fields = write(tmp_path / "6.ts", frames[20:], "libx264", "yuv420p", options=options, flags=0x20440000)
    joined.write_bytes(first + fields.read_bytes())
    psnr(whole, joined, 40, note="joined.ts is interlaced")


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video", "libx265"])
def test_a_recording_that_begins_between_key_frames(tmp_path, psnr, codec):
    if codec not in av.codecs_available:
        pytest.skip("not known to this FFmpeg")
    options = {"g": "8", "bf": "2", "x265-params": "log-level=none:keyint=8"}
    whole = write(tmp_path / "x.ts", pictures(24), codec, "yuv420p", options=options)
    content = whole.read_bytes()
    (tmp_path / "cut.ts").write_bytes(content[: 3 * 188] + content[20 * 188 :])
    assert 6 < len(psnr(whole, tmp_path / "cut.ts", None, SAME, "have no distorted frame", problem="")) < 24


CONTAINERS = {
    "x.mkv": {"codec": "libx264", "pix": "yuv420p"},
    "x.webm": {"codec": "libvpx-vp9", "pix": "yuv420p"},
    "x.ts": {"codec": "libx264", "pix": "yuv420p"},
    "x.flv": {"codec": "libx264", "pix": "yuv420p"},
    "x.avi": {"codec": "mjpeg", "pix": "yuvj420p"},
    "faststart.mp4": {"codec": "libx264", "pix": "yuv420p", "mux": {"movflags": "+faststart"}},
    "fragmented.mp4": {"codec": "libx264", "pix": "yuv420p", "mux": {"movflags": "+frag_keyframe+empty_moov"}},
    "x.wmv": {"codec": "wmv2", "pix": "yuv420p"},
    "x.mxf": {"codec": "mpeg2video", "pix": "yuv422p"},
    "x.gif": {"codec": "gif", "pix": "rgb8"},
    "x.y4m": {"codec": "wrapped_avframe", "pix": "yuv420p"},
    "x.ivf": {"codec": "libvpx", "pix": "yuv420p"},
    "x.mjpeg": {"codec": "mjpeg", "pix": "yuvj420p"},
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in ("x.webm", "x.avi"))) for name in CONTAINERS]
)
def test_a_file_that_ends_early(tmp_path, psnr, name):
    whole, cut = write(tmp_path / name, pictures(30), options={"g": "8"}, **CONTAINERS[name]), tmp_path / f"cut_{name}"
    content = whole.read_bytes()
    psnr(whole, whole, 30, problem="")
    places = {int(len(content) * share): None for share in (0.6, 0.97)}
    if name == "fragmented.mp4":  # also in the header of a fragment
        third = [place for place in range(len(content)) if content[place : place + 4] == b"moof"][2]
        places |= dict.fromkeys((third + 3, third + 10, third + 150, third + 170), 16)
    if name == "x.mjpeg":  # in the last bytes of the last picture
        places[len(content) - 6] = 29
    for place, count in places.items():
        cut.write_bytes(content[:place])
        assert 3 <= len(psnr(whole, cut, count, SAME, problem=" frames: ")) <= 30
        assert len(psnr(cut, whole, problem=" frames: ")) < 30 or place > 0.9 * len(content)


def test_damage(tmp_path, psnr, scorers):
    whole = write(tmp_path / "x.mkv", pictures(20), options={"level": "3", "slicecrc": "1"})
    content = bytearray(whole.read_bytes())
    for place in range(len(content) // 2, len(content) // 2 + 40):
        content[place] ^= 0x5A
    (tmp_path / "bad.mkv").write_bytes(content)
    assert 5 <= len(psnr(whole, tmp_path / "bad.mkv", None, SAME, problem="damaged")) < 20
    (tmp_path / "z.mkv").write_bytes(b"no video")
    with pytest.raises(VideoFileError, match=r"z\.mkv"):
        score_video(whole, tmp_path / "z.mkv", scorers)
    stored = write(tmp_path / "x.mp4", pictures(2), "libx264", "yuv420p")
    (tmp_path / "long.mp4").write_bytes(stored.read_bytes() + b"\0\0\0\1free" + b"\xff" * 8)
    psnr(stored, tmp_path / "long.mp4", 2, SAME, problem="bytes more than the file")
    stored.write_bytes(stored.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(VideoFileError, match="no video stream that FFmpeg can decode"):
        score_video(whole, stored, scorers)


def test_a_cover_before_the_film(tmp_path, psnr):
    film = write(tmp_path / "film.mp4", pictures(6), "libx264", "yuv420p")
    with av.open(str(film)) as source, av.open(str(tmp_path / "cover.mkv"), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width = cover.height = 96
        cover.pix_fmt = "yuvj420p"
        copy = container.add_stream_from_template(source.streams.video[0])
        image = av.VideoFrame.from_ndarray(picture(5, 96, 96), format="rgb24")
        image.pts = 0
        container.mux([*cover.encode(image), *cover.encode()])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                container.mux(packet)
    psnr(film, tmp_path / "cover.mkv", 6, SAME, "2 video streams")


def test_an_animation_before_its_still_picture(tmp_path, psnr):
    if not features.check("avif") or not {"libdav1d", "av1", "libaom-av1"} & av.codecs_available:
        pytest.skip("AVIF is not written or not read here")
    images = [Image.fromarray(each) for each in pictures(6)]
    images[0].save(tmp_path / "x.avif", save_all=True, append_images=images[1:], duration=40)
    psnr(tmp_path / "x.avif", tmp_path / "x.avif", 6, SAME, "2 video streams: number 1")


@pytest.mark.skipif(os.name == "nt", reason="names have no colon there")
@pytest.mark.parametrize("name", ["12:30.mkv", "concat:ref.mkv|ref.mkv", "-\n%03d \xe4 [1].mkv"])
def test_names_that_ffmpeg_would_take_for_something_else(tmp_path, reference, psnr, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for copy in ("ref.mkv", name):
        (tmp_path / copy).write_bytes(reference.read_bytes())
    psnr("ref.mkv", name, 30, SAME, problem="")


@pytest.mark.parametrize(("lacking", "note"), [(None, "25.000 per second"), (5, "1 are not there")])
def test_a_folder_of_frames(tmp_path, reference, psnr, lacking, note):
    for index, frame in enumerate(pictures(12)):
        if index != lacking:
            Image.fromarray(frame).save(tmp_path / f"frame{index}.png")  # 10 comes after 9
    count = 12 - (lacking is not None)
    psnr(reference, tmp_path, count, SAME, note)
    psnr(tmp_path, reference, count, SAME)


def test_folders_in_a_folder_of_frames(tmp_path, reference, psnr, scorers):
    for place in ("a", "b", "."):
        (tmp_path / "x" / place).mkdir(parents=True, exist_ok=True)
        for index, frame in enumerate(pictures(3)):
            Image.fromarray(frame).save(tmp_path / "x" / place / f"{index}.png")
        if place == "b":
            with pytest.raises(VideoFileError, match="name one of them"):
                score_video(reference, tmp_path / "x", scorers)
    psnr(reference, tmp_path / "x", 3, SAME, "b is left out")


def test_a_frame_that_cannot_be_read_costs_none_before_it(tmp_path, reference, psnr, msds):
    for index, frame in enumerate(pictures(5)):
        Image.fromarray(frame).save(tmp_path / f"frame{index}.png")
    (tmp_path / "frame3.png").write_bytes(b"broken")
    psnr(reference, tmp_path, 3, SAME, problem="frame3.png")
    Image.fromarray(picture(3)[:40]).save(tmp_path / "frame3.png")  # which no metric compares
    msds("video", "-r", reference, "-d", tmp_path, "-m", "piq:psnr", "--device", "cpu", code=1, stdout="piq:psnr\t4\t")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path, reference, scorers):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(VideoFileError, match="not a regular file"):
        score_video(reference, tmp_path / "pipe.mp4", scorers)


def test_other_sizes(tmp_path, reference, psnr):
    x = write(tmp_path / "x.mkv", [frame[::2, ::2] for frame in pictures(3)])
    results = score_video(reference, x, create_scorers(["piq:psnr"], "cpu"))
    assert all(math.isnan(row.scores[0]) and "psnr" in row.error for row in results)
    assert "differ in size" in results.notes[0]
    psnr(reference, x, 3, 15, "are resized", reading={"resize": True})


def test_pooling():
    times = [index / 10 for index in range(30)]
    scores = [1.0] * 10 + [0.5] * 10 + [0.8] * 10
    pooled = pool(times, scores)
    harmonic = 30 / sum(1 / score for score in scores)
    expected = {"mean": np.mean(scores), "harmonic_mean": harmonic, "percentile_5": 0.5, "worst_second": 0.5}
    assert pooled == pytest.approx(expected)
    assert pool(times, scores, lower_is_better=True)["worst_second"] == pytest.approx(1)
    assert pool(times, [math.nan, *scores[1:]])["mean"] == pytest.approx(np.mean(scores[1:]))
    assert math.isnan(pool([0, 1], [0.5, -0.5])["harmonic_mean"])
    assert pool([0, 0.1], [0.2, 0.4])["worst_second"] == pytest.approx(0.3)
    with pytest.raises(ValueError, match="no frame"):
        pool([0], [math.nan])


@pytest.mark.parametrize("suffix", [".csv", *(pytest.param(each, marks=pytest.mark.slow) for each in (".json", ".parquet"))])
def test_command(tmp_path, reference, suffix, msds):
    x = write(tmp_path / "x.mkv", [frame // 2 for frame in pictures(12)])
    output, log, plot = tmp_path / f"scores{suffix}", tmp_path / "log.json", tmp_path / "plot.png"
    command = ["video", "-r", reference, "-d", x, "-m", "piq:psnr", "--device", "cpu"]
    msds(*command, "-o", output, "--json", log, "--plot", plot, stdout=("piq:psnr\t12\t", "↑"))
    assert plot.stat().st_size > 1000
    table = read_table(output)
    assert list(table.columns) == ["frame", "time", "reference_time", "piq:psnr"]
    assert table["time"].tolist() == pytest.approx([index / 25 for index in range(12)], abs=1e-3)
    known = json.loads(log.read_text())
    assert [frame["frameNum"] for frame in known["frames"]] == list(range(12))
    assert known["frames"][3]["metrics"]["piq:psnr"] == pytest.approx(table["piq:psnr"][3])
    assert known["pooled_metrics"]["piq:psnr"]["mean"] == pytest.approx(table["piq:psnr"].mean())
    for more in ("-o no.txt", "--plot no_folder/p.png", "--plot p.xyz", "--align best", "--every 0", "third.mkv"):
        msds(*command, *more.split(), code=2)


def test_a_longer_log_stays(tmp_path, reference, msds):
    output, log, cut = tmp_path / "scores.csv", tmp_path / "log.json", tmp_path / "cut.mkv"
    cut.write_bytes(reference.read_bytes()[: reference.stat().st_size // 2])
    log.write_text('{"frames": 3}')  # something else
    for x, code in ((reference, 0), (cut, 1)):
        msds("video", reference, x, "-m", "piq:psnr", "-o", output, "--json", log, code=code)
        assert len(json.loads(log.read_text())["frames"]) == len(read_table(output)) == 30


def test_scores_that_cannot_be_written_are_shown(tmp_path, reference, monkeypatch, msds):
    full = Mock(side_effect=OSError(28, "No space left on device"))
    monkeypatch.setattr("msds_plugin.adapters.scoring.tables.replace_file", full)
    shown = ("\n28\t1.12\t1.12\t80.0\n", "piq:psnr\t30\t80.0")
    msds("video", reference, reference, "-m", "piq:psnr", "-o", tmp_path / "s.csv", code=2, stdout=shown, stderr="No space")


def test_score_takes_videos_too(reference, msds):
    msds("score", reference, reference, "-m", "piq:psnr", "--device", "cpu", "--every", "10", stdout="piq:psnr\t3\t80")
    for option in (["--recursive"], ["--allow-unmatched"], ["--address", "auto"], ["--peak", "255"]):
        msds("score", reference, reference, "-m", "piq:psnr", *option, code=2, stderr=option[0])
    for other in (reference.parent, reference.with_suffix(".gif")):
        msds("score", reference, other, "-m", "piq:psnr", code=2, stderr="by msds video")
