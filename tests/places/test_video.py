"""Videos: matched by time, scored, pooled."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from msds_plugin.adapters.cli.app import app
from msds_plugin.adapters.results.tables import read_table
from msds_plugin.adapters.scoring.scorers import create_scorer
from msds_plugin.adapters.video import VideoFileError, pool, probe, score_video
from typer.testing import CliRunner

av = pytest.importorskip("av")


def write(path, count=12, rate=12, size=(96, 96), level=lambda index: 0.0, lossless=True):
    """A moving pattern; frame i, at i / rate seconds, has noise of ``level(i)``."""
    rng = np.random.default_rng(0)
    width, height = size
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1" if lossless else "mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "bgr0" if lossless else "yuv420p"
        stream.time_base = Fraction(1, rate)
        rows, columns = np.mgrid[:height, :width]
        for index in range(count):
            wave = 127 + 90 * np.sin(rows / 5 + 6 * index / rate) * np.cos(columns / 7)
            pixels = wave[..., None].repeat(3, 2) + level(index) * rng.standard_normal((height, width, 3))
            frame = av.VideoFrame.from_ndarray(pixels.clip(0, 255).astype(np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, rate)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


@pytest.fixture(scope="module")
def scorers():
    return [create_scorer("deepssim-fast", "cpu"), create_scorer("psnr", "cpu")]


def test_frame_by_frame(tmp_path, scorers):
    y = write(tmp_path / "y.mkv")
    x = write(tmp_path / "x.mkv", level=lambda index: 3.0 * index)
    info = probe(x)
    assert (info.width, info.height, info.rate, info.seconds) == (96, 96, 12, pytest.approx(1, abs=0.01))
    results = score_video(y, x, scorers)
    rows = list(results)
    assert not results.notes
    assert [row.frame for row in rows] == list(range(12))
    assert rows[0].scores[0] == 1
    assert [row.scores[0] for row in rows] == sorted((row.scores[0] for row in rows), reverse=True)
    assert all(row.time == row.reference_time for row in rows)
    third = list(score_video(y, x, scorers, every=3))
    assert [row.frame for row in third] == [0, 3, 6, 9]
    assert third[1].scores == rows[3].scores
    # The very numbers of the frames as images.
    frames = [[frame.to_ndarray(format="rgb24") for frame in av.open(str(path)).decode(video=0)] for path in (x, y)]
    tensors = [torch.from_numpy(each[5]).permute(2, 0, 1)[None] / 255 for each in frames]
    assert scorers[0].score(*tensors).item() == pytest.approx(rows[5].scores[0], abs=1e-6)


def test_each_file_is_decoded_once(tmp_path, scorers, monkeypatch):
    y, x = write(tmp_path / "y.mkv", 4), write(tmp_path / "x.mkv", 4)
    from msds_plugin.adapters.video import score as module

    opened = []
    original = module.frames
    monkeypatch.setattr(module, "frames", lambda path: opened.append(path) or original(path))
    assert len(list(score_video(y, x, scorers))) == 4
    assert sorted(opened) == [x, y]


def test_other_rates_lengths_and_sizes_are_said(tmp_path, scorers):
    y = write(tmp_path / "y.mkv", 24, rate=24)
    x = write(tmp_path / "x.mkv", 6, rate=12)
    results = score_video(y, x, scorers[:1])
    rows = list(results)
    assert all(row.scores[0] == 1 for row in rows)  # the pattern depends on time alone
    assert any("rates differ" in note for note in results.notes)
    assert any("lengths differ" in note for note in results.notes)
    longer = score_video(x, y, scorers[:1])
    assert max(row.time for row in longer) <= 0.46
    assert any("left out" in note for note in longer.notes)
    small = score_video(y, write(tmp_path / "small.mkv", 3, rate=24, size=(80, 64)), scorers)
    rows = list(small)
    assert any("differ in size" in note for note in small.notes)
    assert all(0 < row.scores[0] < 1 and math.isnan(row.scores[1]) and "psnr" in row.error for row in rows)


def test_a_truncated_file_keeps_the_scores_so_far(tmp_path, scorers):
    y = write(tmp_path / "y.mkv")
    whole = y.read_bytes()
    (tmp_path / "x.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    rows = list(score_video(y, tmp_path / "x.mkv", scorers[:1]))
    assert 3 <= len(rows) < 12
    assert all(row.scores[0] == 1 for row in rows)
    cut = score_video(tmp_path / "x.mkv", y, scorers[:1])  # the reference ends early
    assert len(list(cut)) in (len(rows), len(rows) + 1)
    assert any("left out" in note for note in cut.notes)
    (tmp_path / "z.mkv").write_bytes(b"no video")
    with pytest.raises(VideoFileError, match=r"z\.mkv"):
        score_video(y, tmp_path / "z.mkv", scorers)


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


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_command(tmp_path, suffix):
    y, x = write(tmp_path / "y.mkv"), write(tmp_path / "x.mkv", level=lambda index: 20.0)
    output = tmp_path / f"scores{suffix}"
    arguments = ["video", "-r", str(y), "-d", str(x), "-m", "deepssim-fast", "-m", "psnr", "--device", "cpu"]
    done = CliRunner().invoke(app, [*arguments, "-o", str(output), "--plot", str(tmp_path / "plot.png")])
    assert done.exit_code == 0, done.output
    assert "deepssim-fast\t12\t0." in done.stdout
    assert (tmp_path / "plot.png").stat().st_size > 1000
    table = read_table(output)
    assert list(table.columns) == ["frame", "time", "reference_time", "deepssim-fast", "psnr"]
    assert list(table["frame"]) == list(range(12))
    assert table["time"].tolist() == pytest.approx([index / 12 for index in range(12)], abs=1e-3)
    assert (table["deepssim-fast"] < 1).all()
    assert CliRunner().invoke(app, [*arguments[:-4], "--every", "1", "-o", "no.txt"]).exit_code == 2


def test_score_takes_videos_too(tmp_path, random_alexnet_file):
    y, x = write(tmp_path / "y.mkv", 5), write(tmp_path / "x.mkv", 5, level=lambda index: 20.0)
    network = ["--backbone", "alexnet", "--weights", str(random_alexnet_file)]
    arguments = ["score", "-r", str(y), "-d", str(x), "-m", "deepssim", "--device", "cpu", *network, "--every", "2"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "deepssim(alexnet)\t3\t" in done.stdout
    refused = CliRunner().invoke(app, [*arguments, "--amp"])
    assert refused.exit_code == 2
    assert "without --amp" in refused.stderr
