"""Videos: decoded as they are shown, matched by time and content, scored, pooled."""

import json
import math
import struct
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from msds_plugin.adapters.cli.app import app
from msds_plugin.adapters.images.colours import Reading
from msds_plugin.adapters.scorers import create_scorer
from msds_plugin.adapters.scoring.tables import read_table
from msds_plugin.adapters.video import VideoFileError, pool, score_video
from msds_plugin.adapters.video.colours import Colours, agree, planes_of, to_picture
from msds_plugin.adapters.video.read import Video

av = pytest.importorskip("av")
reformatter = pytest.importorskip("av.video.reformatter")


def picture(index=0, width=96, height=64):
    """A moving pattern, RGB."""
    rows, columns = np.mgrid[:height, :width]
    base = 110 + 60 * np.sin(rows / 9 + index * 0.3) * np.cos(columns / 13)
    base += np.random.default_rng(0).integers(0, 60, (height // 8, width // 8)).repeat(8, 0).repeat(8, 1)
    return np.stack([base, base * 0.8 + 20 * np.sin(columns / 5 + index * 0.2), 255 - base], 2).clip(0, 255).astype(np.uint8)


def write(
    path, frames, codec="ffv1", pix="bgr0", rate=25, times=None, base=None, options=None, setup=None, mux=None, source="rgb24"
):
    """Frames (arrays, or of PyAV) to a file; ``times`` in units of ``base``."""
    with av.open(str(path), "w", options=mux or {}) as container:
        options = options or ({"crf": "0"} if codec == "libx264" else {})
        stream = container.add_stream(codec, rate=rate, options=options)
        if not isinstance(frames[0], av.VideoFrame):
            frames = [av.VideoFrame.from_ndarray(each, format=source) for each in frames]
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, pix
        if base:
            stream.codec_context.time_base = base
        if setup:
            setup(stream.codec_context)
        for index, frame in enumerate(frames):
            frame.pts, frame.time_base = index if times is None else times[index], base or Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def scorers():
    return [create_scorer("piq:psnr", "cpu")]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder with ref.mkv: 30 lossless frames at 25 per second, and more that tests add."""
    folder = tmp_path_factory.mktemp("videos")
    write(folder / "ref.mkv", [picture(index) for index in range(30)])
    return folder


def psnr(reference, distorted, scorers, **options):
    results = score_video(reference, distorted, scorers, **options)
    rows = list(results)
    return np.array([row.scores[0] for row in rows]), results


SAME = 79.9  # piq's psnr of equal images


def test_frame_by_frame(corpus, scorers):
    x = write(corpus / "x.mkv", [picture(index) // 2 + 3 * index for index in range(30)])
    every, results = psnr(corpus / "ref.mkv", x, scorers)
    assert len(every) == 30
    assert not results.notes
    assert not results.problems
    third = list(score_video(corpus / "ref.mkv", x, scorers, every=3))
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
    form = av.VideoFormat(pix, 96, 64)
    rng = np.random.default_rng(bits)
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
    ],
)
def test_kinds_of_pixels(pix, close):
    try:
        frame = av.VideoFrame.from_ndarray(picture(), format="rgb24").reformat(format=pix)
    except ValueError:
        pytest.skip("not known to this FFmpeg")
    colours = Colours.of(frame)
    found = to_picture(planes_of(frame)[0], colours)
    found = found if found.dtype == np.float32 else found / float(np.iinfo(found.dtype).max)
    error = np.mean((found - picture() / 255.0) ** 2)
    assert -10 * np.log10(error + 1e-10) >= close


def test_grey(tmp_path, corpus, scorers):
    grey = [picture(index)[..., 0] for index in range(4)]
    y = write(tmp_path / "y.mkv", [each[..., None].repeat(3, 2) for each in grey])
    for pix in ("gray", "gray16le"):
        x = write(tmp_path / f"{pix}.mkv", grey, pix=pix, source="gray")
        assert psnr(y, x, scorers)[0].min() > 55


def test_eight_and_ten_bits_are_the_same_picture(tmp_path, scorers):
    shallow = [av.VideoFrame.from_ndarray(picture(index), format="rgb24").reformat(format="yuv420p") for index in range(4)]
    deep = []
    for frame in shallow:
        new = av.VideoFrame(frame.width, frame.height, "yuv420p10le")
        for old, plane in zip(frame.planes, new.planes, strict=True):
            values = np.frombuffer(old, np.uint8).reshape(old.height, old.line_size)[:, : old.width]
            rows = np.zeros((plane.height, plane.line_size // 2), "<u2")
            rows[:, : old.width] = values.astype("<u2") * 4
            plane.update(rows.tobytes())
        deep.append(new)
    y = write(tmp_path / "8.mkv", shallow, pix="yuv420p")
    assert psnr(y, write(tmp_path / "10.mkv", deep, pix="yuv420p10le"), scorers)[0].min() >= SAME


MATRICES = {
    "90": ((0, 1, 0, -1, 0, 0), lambda frame: np.rot90(frame, -1)),
    "180": ((-1, 0, 0, 0, -1, 0), lambda frame: np.rot90(frame, 2)),
    "270": ((0, -1, 0, 1, 0, 0), lambda frame: np.rot90(frame, 1)),
    "mirror": ((-1, 0, 0, 0, 1, 0), lambda frame: frame[:, ::-1]),
    "flip": ((1, 0, 0, 0, -1, 0), lambda frame: frame[::-1]),
    "transpose": ((0, 1, 0, 1, 0, 0), lambda frame: frame.swapaxes(0, 1)),
    "transverse": ((0, -1, 0, -1, 0, 0), lambda frame: frame[::-1, ::-1].swapaxes(0, 1)),
}


@pytest.mark.parametrize("name", MATRICES)
def test_rotation_and_mirrors(tmp_path, scorers, name):
    matrix, how = MATRICES[name]
    frames = [picture(index) for index in range(3)]
    stored = write(tmp_path / "stored.mp4", frames, "libx264rgb", "rgb24", options={"crf": "0"})
    content = bytearray(stored.read_bytes())
    place = content.find(b"tkhd") + 44
    content[place : place + 36] = struct.pack(">9i", *(value * 65536 for value in (*matrix, 0, 0)), 1 << 30)
    stored.write_bytes(content)
    upright = write(tmp_path / "upright.mkv", [np.ascontiguousarray(how(frame)) for frame in frames])
    assert psnr(stored, upright, scorers)[0].min() >= SAME


@pytest.mark.parametrize(
    ("aspect", "stored"), [(Fraction(2), (slice(None), slice(None, None, 2))), (Fraction(1, 2), (slice(None, None, 2),))]
)
def test_pixels_that_are_not_square(tmp_path, corpus, scorers, aspect, stored):
    def setup(context):
        context.sample_aspect_ratio = aspect

    frames = [np.ascontiguousarray(picture(index)[stored]) for index in range(4)]
    x = write(tmp_path / "x.mkv", frames, "libx264rgb", "rgb24", options={"crf": "0"}, setup=setup)
    scores, results = psnr(corpus / "ref.mkv", x, scorers)
    assert scores.min() > 20
    assert any("not square" in note for note in results.notes)


@pytest.mark.parametrize(("codec", "pix"), [("qtrle", "argb"), ("prores_ks", "yuva444p10le")])
def test_transparency(tmp_path, scorers, codec, pix):
    opaque = [np.dstack([picture(index), np.full((64, 96), 255, np.uint8)]) for index in range(3)]
    half = [frame.copy() for frame in opaque]
    for frame in half:
        frame[:, 48:, 3] = 0
    options = {"profile": "4444"} if codec == "prores_ks" else {}
    y = write(tmp_path / "y.mov", opaque, codec, pix, options=options, source="rgba")
    x = write(tmp_path / "x.mov", half, codec, pix, options=options, source="rgba")
    scores, results = psnr(y, x, scorers)
    assert scores.max() < 12
    assert any("transparent" in note for note in results.notes)
    black, _ = psnr(y, x, scorers, run=_run(background=(0, 0, 0)))
    assert abs(black - scores).max() > 0.1


def _run(**reading):
    from msds_plugin.adapters.scoring.options import Run

    return Run(device="cpu", reading=Reading(**reading))


def tagged(matrix=2, span=0, primaries=2, transfer=2, bits=8, kind="yuv"):
    return Colours(kind, bits, matrix, span, primaries, transfer)


def test_colour_descriptions_agree():
    first, second, notes = agree(tagged(1, 1), tagged())
    assert second.matrix == 1
    assert "matrix (BT.709)" in notes[0]
    assert agree(tagged(), tagged())[2] == []
    assert agree(tagged(6, 1, 1, 1), tagged(5, 0))[2] == []  # other names of the same
    assert "full" in agree(tagged(span=2), tagged())[2][0]
    _, _, notes = agree(tagged(1, 1), tagged(6, 2))
    assert "BT.709 and BT.601" in notes[0]
    assert "limited and full" in notes[0]
    first, second, notes = agree(tagged(9, 1, 9, 1), tagged(1, 1, 1, 1))
    assert first.profile != second.profile
    assert "sRGB" in notes[1]
    assert agree(tagged(9, 1, 9, 16, 10), tagged(bits=10))[1].transfer == 16
    for one, other in ((16, 1), (18, 1), (16, 18), (16, 2)):
        with pytest.raises(ValueError, match="transfer"):
            agree(tagged(9, 1, 9, one, 10), tagged(9, 1, 9, other))


def test_times(tmp_path, corpus, scorers):
    frames = [picture(index) for index in range(30)]
    jitter = [0, *(40 * index + int(np.random.default_rng(index).integers(-5, 6)) for index in range(1, 30))]
    cases = {
        "jitter.mkv": {"frames": frames, "times": jitter, "rate": 1000, "base": Fraction(1, 1000)},
        "late.mkv": {"frames": frames[1:], "times": range(1, 30)},
        "lost.mkv": {"frames": frames[7:]},
        "sparse.mkv": {"frames": frames[::2], "times": range(0, 30, 2)},
        "b.mp4": {"frames": frames, "codec": "libx264rgb", "pix": "rgb24", "options": {"crf": "0", "bf": "3"}},
        "b.ts": {"frames": frames, "codec": "mpeg2video", "pix": "yuv420p", "options": {"qscale": "1", "bf": "2"}},
    }
    for name, case in cases.items():
        x = write(tmp_path / name, case.pop("frames"), **case)
        scores, results = psnr(corpus / "ref.mkv", x, scorers)
        with av.open(str(x)) as container:
            count = sum(1 for _ in container.decode(video=0))
        assert len(scores) == count, (name, results.notes, results.problems)
        assert scores.min() >= (SAME if name != "b.ts" else 24), (name, results.notes)
        assert not results.problems, name
    late, lost = tmp_path / "late.mkv", tmp_path / "lost.mkv"
    assert any("0.280 s after" in note for note in psnr(corpus / "ref.mkv", lost, scorers)[1].notes)
    assert psnr(corpus / "ref.mkv", lost, scorers, align="index")[0].max() < 40
    assert psnr(corpus / "ref.mkv", late, scorers, align="time")[0].min() >= SAME
    scores, results = psnr(lost, corpus / "ref.mkv", scorers)  # the reference lacks its beginning
    assert len(scores) == 23
    assert scores.min() >= SAME
    assert "7 of 30 distorted frames (23.3%)" in results.problems[0]


def test_joined_pieces_go_on(tmp_path, scorers):
    frames = [picture(index) for index in range(40)]
    parts = {"all.ts": frames, "1.ts": frames[:20], "2.ts": frames[20:]}
    pieces = [write(tmp_path / name, part, "libx264", "yuv420p") for name, part in parts.items()]
    (tmp_path / "joined.ts").write_bytes(pieces[1].read_bytes() + pieces[2].read_bytes())
    scores, results = psnr(pieces[0], tmp_path / "joined.ts", scorers)
    assert len(scores) == 40
    assert scores.min() >= SAME
    assert any("jump back after 20 frames" in note for note in results.notes)
    other = write(tmp_path / "3.ts", frames[20:], "libx264", "yuv444p")
    (tmp_path / "joined.ts").write_bytes(pieces[1].read_bytes() + other.read_bytes())
    scores, results = psnr(pieces[0], tmp_path / "joined.ts", scorers)
    assert len(scores) == 20
    assert "pixels change from yuv420p to yuv444p" in results.problems[0]


CONTAINERS = {
    "x.mkv": {"codec": "libx264", "pix": "yuv420p"},
    "x.webm": {"codec": "libvpx-vp9", "pix": "yuv420p"},
    "x.ts": {"codec": "libx264", "pix": "yuv420p"},
    "x.avi": {"codec": "mjpeg", "pix": "yuvj420p"},
    "faststart.mp4": {"codec": "libx264", "pix": "yuv420p", "mux": {"movflags": "+faststart"}},
    "fragmented.mp4": {"codec": "libx264", "pix": "yuv420p", "mux": {"movflags": "+frag_keyframe+empty_moov"}},
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in ("x.webm", "x.avi"))) for name in CONTAINERS]
)
def test_a_file_that_ends_early(tmp_path, scorers, name):
    whole = write(tmp_path / name, [picture(index) for index in range(30)], **{"options": {"g": "8"}, **CONTAINERS[name]})
    content = whole.read_bytes()
    assert not psnr(whole, whole, scorers)[1].problems
    for share in (0.6, 0.97):
        cut = tmp_path / f"cut_{name}"
        cut.write_bytes(content[: int(len(content) * share)])
        scores, results = psnr(whole, cut, scorers)
        assert 3 <= len(scores) <= 30
        assert any("early" in problem or "damaged" in problem for problem in results.problems), share
        scores, results = psnr(cut, whole, scorers)
        assert len(scores) < 30 or share > 0.9
        assert results.problems


def test_a_fragment_that_was_cut_in_its_header(tmp_path, scorers):
    whole = write(
        tmp_path / "x.mp4", [picture(index) for index in range(30)], **CONTAINERS["fragmented.mp4"], options={"g": "8"}
    )
    content = whole.read_bytes()
    third = [place for place in range(len(content)) if content[place : place + 4] == b"moof"][2]
    for more in (10, 150, 170):
        (tmp_path / "cut.mp4").write_bytes(content[: third + more])
        scores, results = psnr(whole, tmp_path / "cut.mp4", scorers)
        assert len(scores) == 16, more
        assert results.problems


def test_damage(tmp_path, scorers):
    whole = write(tmp_path / "x.mkv", [picture(index) for index in range(20)], options={"level": "3", "slicecrc": "1"})
    content = bytearray(whole.read_bytes())
    for place in range(len(content) // 2, len(content) // 2 + 40):
        content[place] ^= 0x5A
    (tmp_path / "bad.mkv").write_bytes(content)
    scores, results = psnr(whole, tmp_path / "bad.mkv", scorers)
    assert 5 <= len(scores) < 20
    assert scores.min() >= SAME
    assert "damaged" in results.problems[-1]
    (tmp_path / "z.mkv").write_bytes(b"no video")
    with pytest.raises(VideoFileError, match=r"z\.mkv"):
        score_video(whole, tmp_path / "z.mkv", scorers)


def test_streams_and_interlacing(tmp_path, corpus, scorers):
    def fields(context):
        context.flags |= 0x40000 | 0x20000000

    frames = [picture(index) for index in range(6)]
    y = write(tmp_path / "y.mkv", frames, "libx264", "yuv420p", options={"crf": "1", "x264-params": "tff=1"}, setup=fields)
    assert Video(y, Reading()).interlaced
    assert any("interlaced" in note for note in psnr(y, corpus / "ref.mkv", scorers)[1].notes)
    film = write(tmp_path / "film.mp4", frames, "libx264", "yuv420p")
    with av.open(str(film)) as film, av.open(str(tmp_path / "cover.mkv"), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width = cover.height = 96
        cover.pix_fmt = "yuvj420p"
        copy = container.add_stream_from_template(film.streams.video[0])
        image = av.VideoFrame.from_ndarray(picture(5, 96, 96), format="rgb24")
        image.pts = 0
        container.mux([*cover.encode(image), *cover.encode()])
        for packet in film.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                container.mux(packet)
    scores, results = psnr(tmp_path / "film.mp4", tmp_path / "cover.mkv", scorers)
    assert len(scores) == 6
    assert scores.min() >= SAME
    assert any("2 video streams" in note for note in results.notes)


def test_a_folder_of_frames(tmp_path, corpus, scorers):
    for index in range(12):
        Image.fromarray(picture(index)).save(tmp_path / f"frame{index}.png")  # 10 comes after 9
    scores, results = psnr(corpus / "ref.mkv", tmp_path, scorers)
    assert len(scores) == 12
    assert scores.min() >= SAME
    assert psnr(tmp_path, corpus / "ref.mkv", scorers)[0].min() >= SAME
    assert any("25.000 per second" in note for note in results.notes)


def test_other_sizes(tmp_path, corpus):
    x = write(tmp_path / "x.mkv", [np.ascontiguousarray(picture(index)[::2, ::2]) for index in range(3)])
    both = [create_scorer("piq:gmsd", "cpu"), create_scorer("piq:psnr", "cpu")]
    results = score_video(corpus / "ref.mkv", x, both[1:])
    rows = list(results)
    assert any("differ in size" in note for note in results.notes)
    assert all(math.isnan(row.scores[0]) and "psnr" in row.error for row in rows)
    resized = list(score_video(corpus / "ref.mkv", x, both, run=_run(resize=True)))
    assert all(row.scores[1] > 15 and row.error is None for row in resized)


def test_pooling():
    times = [index / 10 for index in range(30)]
    scores = [1.0] * 10 + [0.5] * 10 + [0.8] * 10
    pooled = pool(times, scores)
    assert pooled["mean"] == pytest.approx(np.mean(scores))
    assert pooled["harmonic_mean"] == pytest.approx(30 / sum(1 / score for score in scores))
    assert pooled["percentile_5"] == pytest.approx(0.5)
    assert pooled["worst_second"] == pytest.approx(0.5)
    assert pool(times, scores, lower_is_better=True)["worst_second"] == pytest.approx(1)
    assert pool(times, [math.nan, *scores[1:]])["mean"] == pytest.approx(np.mean(scores[1:]))
    assert math.isnan(pool([0, 1], [0.5, -0.5])["harmonic_mean"])
    assert pool([0, 0.1], [0.2, 0.4])["worst_second"] == pytest.approx(0.3)
    with pytest.raises(ValueError, match="no frame"):
        pool([0], [math.nan])


@pytest.mark.parametrize(
    "suffix", [".csv", pytest.param(".json", marks=pytest.mark.slow), pytest.param(".parquet", marks=pytest.mark.slow)]
)
def test_command(tmp_path, corpus, suffix):
    x = write(tmp_path / "x.mkv", [picture(index) // 2 for index in range(12)])
    output, log = tmp_path / f"scores{suffix}", tmp_path / "log.json"
    arguments = ["video", "-r", str(corpus / "ref.mkv"), "-d", str(x), "-m", "piq:psnr", "--device", "cpu"]
    done = CliRunner().invoke(app, [*arguments, "-o", str(output), "--json", str(log), "--plot", str(tmp_path / "plot.png")])
    assert done.exit_code == 0, done.output
    assert "piq:psnr\t12\t" in done.stdout
    assert "↑" in done.stdout
    assert (tmp_path / "plot.png").stat().st_size > 1000
    table = read_table(output)
    assert list(table.columns) == ["frame", "time", "reference_time", "piq:psnr"]
    assert table["time"].tolist() == pytest.approx([index / 25 for index in range(12)], abs=1e-3)
    known = json.loads(log.read_text())
    assert [frame["frameNum"] for frame in known["frames"]] == list(range(12))
    assert known["frames"][3]["metrics"]["piq:psnr"] == pytest.approx(table["piq:psnr"][3])
    assert known["pooled_metrics"]["piq:psnr"]["mean"] == pytest.approx(table["piq:psnr"].mean())
    for more in (["-o", "no.txt"], ["--plot", "no_folder/p.png"], ["--plot", "p.xyz"], ["--align", "best"], ["--every", "0"]):
        assert CliRunner().invoke(app, [*arguments, *more]).exit_code == 2, more


def test_score_takes_videos_too(corpus):
    video = str(corpus / "ref.mkv")
    done = CliRunner().invoke(app, ["score", video, video, "-m", "piq:psnr", "--device", "cpu", "--every", "10"])
    assert done.exit_code == 0, done.output
    assert "piq:psnr\t3\t80" in done.stdout
    refused = CliRunner().invoke(app, ["score", video, video, "-m", "piq:psnr", "--recursive"])
    assert refused.exit_code == 2
    assert "--recursive" in refused.stderr
