"""``msds score``: what leads to other rooms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msds_plugin.adapters.cli.app import app
from PIL import Image, ImageFilter
from typer.testing import CliRunner


@pytest.fixture
def files(tmp_path) -> list[str]:
    y, x = np.mgrid[:96, :128]
    image = Image.fromarray(np.stack([x * 2, y * 2, (x * y) % 256], -1).astype(np.uint8))
    image.save(tmp_path / "r.png")
    image.filter(ImageFilter.GaussianBlur(2)).save(tmp_path / "d.png")
    return ["-r", str(tmp_path / "r.png"), "-d", str(tmp_path / "d.png")]


def run(*arguments: str):
    return CliRunner().invoke(app, ["score", *arguments])


def score(*arguments: str) -> tuple[str, float]:
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    heading, row = done.stdout.splitlines()
    return heading.split("\t")[2], float(row.split("\t")[2])


def test_saliency_is_the_option_of_the_metric(files):
    name, value = score("-m", "deepssim-fast", "--saliency", "gbvs", *files)
    assert name == "deepssim-fast(saliency=gbvs, saliency_threshold=0.25) ↑"
    assert value == score("-m", "deepssim-fast,saliency=gbvs,saliency_threshold=0.25", *files)[1]
    assert value != score("-m", "deepssim-fast", *files)[1]
    assert run("-m", "deepssim-fast", "--saliency", "nonsense", *files).exit_code == 2


def test_maps_sum_to_one_less_the_score(files, tmp_path):
    _, value = score("-m", "deepssim-fast", "--map", str(tmp_path / "maps"), *files)
    (shares,) = (tmp_path / "maps").glob("*.npy")
    assert np.load(shares).sum() == pytest.approx(1 - value, abs=1e-4)
    assert Image.open(shares.with_suffix(".png")).size == (128, 96)
    assert run("-m", "piq:psnr", "--map", str(tmp_path / "none"), *files).exit_code == 2


def test_engines(files):
    done = run("-m", "deepssim-fast", "--engine", "spark", *files)
    assert done.exit_code == 2
    assert "local or ray" in done.stderr
    done = run("-m", "deepssim-fast", "--engine", "ray", "--amp", "--output", "s3://bucket/scores", *files)
    assert done.exit_code == 2
    assert "does not know --amp" in done.stderr


def test_a_uri_that_became_a_path_is_one_again():
    from msds_plugin.adapters.cli.score import _place

    assert _place(Path("s3://bucket/scores")) == "s3://bucket/scores"
    assert _place(Path("/a/b:/c")) == "/a/b:/c"
    assert _place(Path("C:/x")) == "C:/x"


def test_videos_go_to_their_command(tmp_path):
    av = pytest.importorskip("av")
    for name in ("r.mp4", "d.mp4"):
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width = stream.height = 96
            for shade in (40, 90, 140):
                frame = av.VideoFrame.from_ndarray(np.full((96, 96, 3), shade, np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    done = run("-m", "deepssim-fast", "-r", str(tmp_path / "r.mp4"), "-d", str(tmp_path / "d.mp4"))
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("metric\tframes\tmean")
