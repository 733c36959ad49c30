"""The gate for other people's tests: ``msds assert``, ``msds calibrate`` and the pytest fixture."""

import io
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy import ndimage

from msds_command.pytest_plugin import Perceptual
from msds_plugin.adapters.gate import calibrate, judge, make, pairs_of
from msds_plugin.adapters.images.pairs import Matching
from msds_plugin.adapters.local_difference import LocalDifference, local_difference
from msds_plugin.adapters.scoring import Run

SIMPLE = "deepssim-lite-fast"  # quick, lower is better
TORCH = Run(runtime="torch")  # which compiles nothing


@pytest.fixture
def msds(msds):
    """The command by the runtime that compiles nothing."""
    return lambda *arguments, **wanted: msds(*arguments, "--runtime", "torch", **wanted)


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


def test_what_looks_alike_passes_and_what_does_not_fails(images, msds):
    done = msds("assert", "golden", "same", "--junit", "found.xml", stderr="")
    assert done.stdout.startswith("passed 2 images: they differ by 0 at most")
    assert ET.parse("found.xml").getroot().attrib | {"tests": "2", "failures": "0"} == ET.parse("found.xml").getroot().attrib
    done = msds("assert", "golden", "blurred", "--junit", "found.xml", "--picture", "pictures", code=1)
    assert done.stdout.startswith(f"FAILED 1 of 2 images: {Path('blurred/1.png')}: it differs by ")
    assert done.stdout.endswith("more than 1 (local)\n")
    assert done.stdout.count("\n") == 1
    assert list(Path("pictures").rglob("*")) == [Path("pictures/1.png")]
    msds("assert", "golden/1.png", "blurred/1.png", "--picture", "one.jpg", code=1)
    for picture in ("golden/1", "blurred/1"):  # which get the suffix .png
        msds("assert", "golden/1.png", "blurred/1.png", "--picture", picture, code=2, stderr="is another of the files")
    for picture in ("pictures/1.png", "one.jpg.png"):
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
    "slightly other colour": lambda pixels: squared(pixels, lambda square: square + np.array([5, 0, -5])),
    "tinted": lambda pixels: pixels * (1.1, 1, 0.9),
    "blurred": lambda pixels: ndimage.gaussian_filter(pixels, (1, 1, 0)),
    "32 levels": lambda pixels: (pixels / 255 * 31).round() / 31 * 255,
    "moved further": lambda pixels: shifted(pixels, (0, 5)),
}


@pytest.mark.parametrize("change", [*HARMLESS, *HARMFUL])
def test_local_difference(photographs, change):
    golden = photographs[1][0].permute(1, 2, 0).numpy()
    new = (HARMLESS | HARMFUL)[change](255 * golden.astype(float)).round().clip(0, 255) / 255
    found = local_difference(new.astype(np.float32), golden)
    assert found.shape == golden.shape[:2]
    assert (found.max() > 1) == (change in HARMFUL), found.max()


def test_texture_hides_no_banding(photographs):
    """Of a photograph under strong grain a quarter of the levels are missed, even by less than the grain; the grain is not."""
    golden = photographs[1][0].permute(1, 2, 0).numpy()
    golden = (golden + np.random.default_rng(0).normal(0, 0.15, golden.shape)).clip(0, 1).astype(np.float32)
    assert local_difference((golden * 63).round() / 63, golden).max() > 1
    assert local_difference(as_jpeg(255 * golden).astype(np.float32) / 255, golden).max() < 1
    smooth = np.full((64, 64, 3), 0.5, np.float32)
    grainy = (smooth + np.random.default_rng(0).normal(0, 2 / 255, smooth.shape)).astype(np.float32)
    assert local_difference(smooth, grainy).max() < 1


def test_local_difference_says_where_and_takes_any_size():
    golden = np.full((64, 80, 3), 0.5, np.float32)
    new = golden.copy()
    new[40:48, 60:68] = 0.7
    assert np.unravel_index(local_difference(new, golden).argmax(), golden.shape[:2]) == pytest.approx((43.5, 63.5), abs=6)
    assert local_difference(golden, golden).max() == 0
    assert LocalDifference().lower_is_better
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
    near = [judge(Matching((blurred[0].pair,), ""), scorer, share * blurred[0].difference)[0] for share in (0.9, 1.1)]
    assert [bool(verdict.reason) for verdict in near] == [True, False]


def test_missing_other_size_and_damaged_images_fail(images, msds):
    Path("same/0.png").unlink()
    Image.open("golden/1.png").resize((100, 176)).save("same/1.png")
    Path("golden/2.png").write_bytes(Path("golden/1.png").read_bytes())
    Path("same/2.png").write_bytes(Path("golden/1.png").read_bytes()[:2000])
    Path("same/3.png").write_text("version https://git-lfs.github.com/spec/v1")
    Path("golden/3.png").write_bytes(Path("golden/1.png").read_bytes())
    for name, folder, second in (("4.gif", "golden", 0), ("4.gif", "same", 50), ("5.gif", "golden", 0), ("5.gif", "same", 0)):
        frames = [Image.new("L", (64, 64), grey) for grey in (99, second)]
        frames[0].save(Path(folder, name), save_all=True, append_images=frames[1:])
    done = msds("assert", "golden", "same", "-m", SIMPLE, "--max-difference", 1, "--picture", "pictures", code=1)
    said = (done.stdout + done.stderr).replace("\\", "/")
    assert "golden/0.png: it has no counterpart" in said
    assert "it has 100 x 176 pixels, the golden 176 x 176" in said
    assert "cannot read same/2.png" in said
    assert "cannot read same/3.png: it is only the pointer of Git LFS" in said
    assert "same/4.gif: it, or the golden, holds several frames" in said
    assert "5.gif: " not in said
    assert "No picture of same/2.png" in said
    assert Image.open("pictures/1.png").size == (176 + 8 + 100, 176)
    unread = Matching((), "", left_out=((Path("golden/closed"), None),))
    assert [verdict.reason for verdict in judge(unread, make()[0], 1)] == ["this folder cannot be read"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-m", "ssim"], "which difference of ssim passes"),
        (["-m", "msds-atuo"], "did you mean msds-auto"),
        (["--max-difference", "inf"], "which difference"),
        (["--calibrated", "golden"], "golden was not written by msds calibrate"),
        (["--calibrated", "golden/0.png"], "not written by msds calibrate"),
        (["--calibrated", "other.json"], "not written by msds calibrate"),
        (["--calibrated", "nothing.json"], "nothing.json"),
        (["--junit", "nowhere/found.xml"], "no folder nowhere"),
        (["--picture", "same/pictures"], "is inside a folder that is tested"),
    ],
)
def test_expected_errors(images, options, words, msds):
    Path("other.json").write_text('{"metric": 5, "source": "", "max_difference": 1, "renders": 2}')
    msds("assert", "golden", "same", *options, code=2, stdout="", stderr=words)


@pytest.mark.parametrize("name", ["10.png", "other.png"])
def test_names_are_not_guessed(images, name, msds):
    """``1`` is no golden of ``10``, though one name continues the other, and a single image none of any other."""
    Path("same/0.png").unlink()
    Path("same/1.png").rename("same/" + name)
    for _ in range(2):
        done = msds("assert", "golden", "same", code=2)
        assert done.stderr.split(": ")[2:] == ["give both the same names\n"]
        Path("golden/0.png").unlink(missing_ok=True)
    msds("assert", "golden", "golden", stderr="golden is compared with itself")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_the_verdict_does_not_hang_on_a_file(images, msds, monkeypatch):
    full = Mock(side_effect=OSError(28, "No space left on device"))
    monkeypatch.setattr("msds_plugin.adapters.scoring.files.replace_file", full)
    for new, said in (("same", "passed"), ("blurred", "FAILED")):
        msds("assert", "golden", new, "--junit", "found.xml", code=2, stdout=said, stderr="No space left")


def test_junit_of_any_name(images, msds):
    Path("blurred/1.png").rename("blurred/a\x1b\nb.png")
    msds("assert", "golden/0.png", "blurred", "--junit", "found.xml", code=1)
    names = [case.get("name") for case in ET.parse("found.xml").iter("testcase")]
    assert names == ["blurred/0.png", r"blurred/a\x1b\nb.png"]


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


def test_calibrate(renders, msds):
    done = msds("calibrate", "golden/0.png", renders, "-o", "learned.json", "-m", SIMPLE, stdout="the largest of 20 renders")
    assert "4.8%" in done.stdout
    assert "13.9%" in done.stdout
    learned = json.loads(Path("learned.json").read_text())
    assert learned["false_alarms"] == pytest.approx({"chance": 1 / 21, "at_most": 1 - 0.05 ** (1 / 20), "confidence": 0.95})
    found = [
        judge(pairs_of(Path("golden/0.png"), path), make(SIMPLE, 1, run=TORCH)[0], 1)[0].difference
        for path in renders.iterdir()
    ]
    assert learned["max_difference"] == pytest.approx(max(found), abs=1e-6)
    msds("assert", "golden/0.png", "renders/19.png", "--calibrated", "learned.json")
    Image.open("golden/0.png").filter(ImageFilter.GaussianBlur(2)).save("blurred.png")
    msds("assert", "golden/0.png", "blurred.png", "--calibrated", "learned.json", code=1, stdout=f"({SIMPLE})")
    msds("assert", "golden", "same", "--calibrated", "learned.json", "-m", "msds-auto", code=2, stderr=SIMPLE)
    other = msds("assert", "golden/0.png", "renders/19.png", "--calibrated", "learned.json", "--channel", "y", code=2)
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
    for golden, renders in (
        ("golden/0.png", ["blurred/0.png"]),
        ("golden/0.png", ["golden", Path("golden/1.png").resolve()]),  # the golden is no render, and each counts once
        ("blurred", ["blurred", "golden", Path("golden").resolve()]),
    ):
        with pytest.raises(ValueError, match=r"two renders or more .* got 1"):
            calibrate(Path(golden), [Path(render) for render in renders], SIMPLE, TORCH)


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


def test_what_is_checked_and_written(tmp_path, monkeypatch):
    new = np.zeros((64, 64, 3), np.uint8)
    write, check = (Perceptual(tmp_path / "goldens", tmp_path / "new", update) for update in (True, False))
    with pytest.raises(ValueError, match="divide 8-bit values by 255"):
        write.check(new + 200.0, "black")
    for name in ("../black", "a/../../black", str(tmp_path / "black"), "", ".", r"..\black", r"\black", "C:black", "in/a:b"):
        with pytest.raises(ValueError, match="is no name of a golden"):
            write.check(new, name)
    Image.fromarray(new).save(tmp_path / "two.gif", save_all=True, append_images=[Image.fromarray(255 - new)])
    with pytest.raises(ValueError, match=r"two\.gif holds several frames"):
        write.check(tmp_path / "two.gif", "two")
    assert not list(tmp_path.rglob("*.png"))
    with pytest.raises(AssertionError, match="no golden"):
        check.check(new, "in/black 1.0")
    for name in ("in/black 1.0", r"in\black 1.0", "in//black 1.0/"):  # the second and third are beside the first
        write.check(new, name)
        check.check(new, name)
    with pytest.raises(AssertionError, match=r"written by an earlier check of this run.* it differs by .* Picture: "):
        write.check(255 - new, "in/black 1.0")
    with pytest.raises(AssertionError, match=r"it differs by .* Picture: "):
        check.check(255 - new, "in/black 1.0")
    assert (tmp_path / "new/in/black 1.0.failed.png").is_file()
    golden = tmp_path / "goldens/in/black 1.0.png"
    right = golden.read_bytes()
    monkeypatch.setattr(Image.Image, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write.check(255 - new, "in/black 1.0")
    monkeypatch.undo()
    assert [path.read_bytes() for path in golden.parent.iterdir()] == [right]
    golden.write_bytes(right[:60])
    with pytest.raises(AssertionError, match="cannot read"):
        check.check(new, "in/black 1.0")


def interrupted(image, file, kind):
    Path(file).write_bytes(b"half of a file")
    raise KeyboardInterrupt


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
    done = run_pytest(tmp_path, "--perceptual-update", "-p", "xdist.plugin", "-n2", darker="[1, 4]")
    assert "1 failed, 2 passed" in done.stdout  # two tests in two processes have one golden
    assert "noise was written by an earlier check of this run" in done.stdout


def test_the_plugin_loads_nothing(tmp_path):
    done = run_pytest(tmp_path, "-k", "test_nothing")
    assert done.returncode == 0, done.stdout
