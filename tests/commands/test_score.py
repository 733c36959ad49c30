"""``msds score``: sides, metrics, outputs, what is missing, runs that go on."""

import csv
import errno
import json
import os
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import imagecodecs
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from msds_plugin.adapters.images.read import read_image
from msds_plugin.adapters.scorers import create_scorer
from msds_plugin.adapters.scoring import store
from msds_plugin.adapters.scoring.tables import read_table

FAST = ["-m", "deepssim-fast", "--runtime", "torch"]
PSNR = ["-m", "piq:psnr"]
SIDES = ["-r", "ref", "-d", "dist"]

pytestmark = pytest.mark.usefixtures("folders")


def expected(reference, distorted, metric="piq:psnr"):
    with torch.inference_mode():
        return create_scorer(metric, "cpu", "torch").metric(read_image(distorted), read_image(reference)).item()


def lines(text):
    return [line.split("\t") for line in text.splitlines()]


def names(result):
    return [Path(row[1]).name for row in lines(result.stdout)[1:]]


def last(result):
    return float(result.stdout.split()[-1])


# sides and metrics


def test_two_files_by_options_and_by_their_place(msds):
    pair = ("ref/photo0.png", "dist/photo0.png")
    result = msds("score", *FAST, "-m", "msds-fast", "--reference", pair[0], "--distorted", pair[1], stderr="")
    heading, row = lines(result.stdout)
    assert heading == ["reference", "distorted", "deepssim-fast ↑", "msds-fast ↑"]
    assert row[:2] == list(pair)
    assert float(row[2]) == pytest.approx(expected(*pair, "deepssim-fast"), abs=1e-6)
    assert float(row[3]) == pytest.approx(expected(*pair, "msds-fast"), abs=1e-6)
    assert msds("score", *pair, "-m", "deepssim-fast,msds-fast", "--runtime", "torch").stdout == result.stdout
    assert last(msds("score", "ref/photo0.png", "ref/photo0.png")) == 1  # without a metric


def test_options_of_a_metric_follow_it(msds):
    pair = ("ref/photo0.png", "dist/photo0.png")
    metrics = "msds-fast,levels=2,fusion=(0.9,0.1),msds-fast,msds-fast,levels=2,fusion=(.9,.1)"
    result = msds("score", *pair, "--runtime", "torch", "-m", metrics)
    heading, row = lines(result.stdout)
    assert heading[2:] == ["msds-fast(levels=2, fusion=(0.9, 0.1)) ↑", "msds-fast ↑"]
    assert float(row[2]) == pytest.approx(expected(*pair, "msds-fast,levels=2,fusion=(0.9,0.1)"), abs=1e-6)
    assert row[2] != row[3]


def test_two_folders_by_name(msds):
    Path("ref/photo2.png").unlink()
    result = msds("score", *PSNR, *SIDES, code=1)
    msds("score", *PSNR, *SIDES, "--allow-unmatched")
    assert names(result) == ["photo0.png", "photo1.png"]
    assert "Pairs matched by name: 2" in result.stderr
    assert "without a counterpart: 1\n  dist/photo2.png" in result.stderr


def test_ways_to_pair(msds):
    for index in range(3):
        Path(f"dist/photo{index}.png").rename(f"dist/out{index + 7}.png")
    msds("score", *PSNR, *SIDES, code=2)  # never by order without being asked
    by_order = msds("score", *PSNR, *SIDES, "--by-order")
    assert names(by_order) == ["out7.png", "out8.png", "out9.png"]
    assert "photo2.png with out9.png" in by_order.stderr
    for suffix, sign in (("csv", ","), ("tsv", "\t")):
        rows = ("reference,distorted\n" + "ref/photo1.png,dist/out8.png\n" * 2).replace(",", sign)
        Path(f"pairs.{suffix}").write_text(rows)
        by_table = msds("score", *PSNR, "--match", f"pairs.{suffix}", stderr="listed again, and scored once: 1")
        assert names(by_table) == ["out8.png"]
    for index in range(3):
        Path(f"dist/out{index + 7}.png").rename(f"dist/photo{index}_ours.png")
    for pattern in ("_ours", "{name}_ours.png"):
        assert len(names(msds("score", *PSNR, *SIDES, "--match", pattern))) == 3
    msds("score", *PSNR, "-r", "ref", "-d", "ref", stderr="compared with itself")


def test_renders_of_several_scenes_are_averaged_by_scene_and_over_all(msds, monkeypatch):
    for scene in ("garden", "bonsai"):
        Path(f"{scene}/test/ours_30000").mkdir(parents=True)
        for side, source in (("gt", "ref"), ("renders", "dist")):
            (Path(scene) / "test/ours_30000" / side).symlink_to(Path(source).resolve())
    result = msds("score", *PSNR, "--layout", "3dgs", ".", "--summary", "results.json", "-o", "all.csv")
    summary = json.loads(Path("results.json").read_text())
    assert set(summary) == {"garden", "bonsai", "all"}
    table = read_table(Path("all.csv"))
    assert summary["garden"]["ours_30000"]["piq:psnr"] == pytest.approx(table["piq:psnr"].mean())
    assert "all piq:psnr ↑: mean" in result.stderr
    monkeypatch.setattr("msds_plugin.adapters.cli.score.sys", SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True)))
    lines = msds("score", *PSNR, "--layout", "3dgs", ".").stdout.splitlines()
    assert [line.split("\t")[:3] for line in lines[1:5:3]] == [
        ["photo0.png", "photo0.png", f"{scene}/ours_30000"] for scene in ("bonsai", "garden")
    ]


def test_several_folders_are_all_scored(msds):
    Path("other").mkdir()
    for path in Path("dist").iterdir():
        Image.open(path).save(Path("other") / path.name)
    Image.open("ref/photo0.png").save("other/photo0.png")
    result = msds("score", *PSNR, "-r", "ref", "-d", "dist", "-d", "other", "-o", "s.csv")
    table = read_table(Path("s.csv"))
    assert table["folder"].tolist() == ["dist"] * 3 + ["other"] * 3
    assert table["piq:psnr"][3] == pytest.approx(80)
    assert table["piq:psnr"].tolist()[1:3] == table["piq:psnr"].tolist()[4:]
    assert "dist piq:psnr ↑: mean" in result.stderr
    assert "all piq:psnr ↑: mean" in result.stderr


def test_one_reference_with_a_folder_and_copies(msds):
    Path("dist/copy.png").write_bytes(Path("dist/photo0.png").read_bytes())
    result = msds("score", *PSNR, "-r", "ref/photo0.png", "-d", "dist", "-o", "s.csv")
    rows = {Path(row[1]).name: float(row[2]) for row in lines(result.stdout)[1:]}
    assert rows == {name: pytest.approx(expected("ref/photo0.png", f"dist/{name}"), abs=1e-5) for name in rows}
    assert len(rows) == 4
    assert rows["copy.png"] == rows["photo0.png"]


def test_toolkits_metrics_and_a_clean_stdout(msds):
    import pyiqa

    result = msds("score", "-m", "ssim,gmsd", *PSNR, *SIDES)
    heading, *rows = lines(result.stdout)
    assert heading[2:] == ["ssim ↑", "gmsd ↓", "piq:psnr ↑"]
    theirs = pyiqa.create_metric("ssim", device="cpu")("dist/photo0.png", "ref/photo0.png").item()
    assert float(rows[0][2]) == pytest.approx(theirs, abs=1e-6)


@pytest.mark.usefixtures("offline")
def test_a_metric_that_cannot_be_made_costs_its_own_column(msds):
    result = msds("score", "-m", "msds", *FAST, *SIDES, code=1)
    assert lines(result.stdout)[0][2:] == ["deepssim-fast ↑"]
    assert "Without msds: " in result.stderr
    assert len(lines(result.stdout)) == 4


def test_backbone_and_weights_apply_to_the_metrics_that_take_them(msds, random_alexnet_file):
    options = ("--backbone", "alexnet", "--weights", random_alexnet_file, "ref/photo0.png", "dist/photo0.png")
    result = msds("score", "-m", "deepssim", *FAST, *options)
    assert lines(result.stdout)[0][2:] == ["deepssim(alexnet) ↑", "deepssim-fast ↑"]
    msds("score", *FAST, *options, code=2, stdout="", stderr="backbone and weights can be chosen for deepssim")


def test_saliency_is_for_the_metrics_that_take_it(msds):
    pair = ("ref/photo0.png", "dist/photo0.png")
    result = msds("score", *FAST, "-m", "piq:psnr", "--saliency", "gbvs", *pair)
    assert lines(result.stdout)[0][2:] == ["deepssim-fast(saliency=gbvs, saliency_threshold=0.25) ↑", "piq:psnr ↑"]
    assert "Without saliency, which it does not take: piq:psnr" in result.stderr
    stated = expected(*pair, "deepssim-fast,saliency=gbvs,saliency_threshold=0.25")
    assert float(lines(result.stdout)[1][2]) == pytest.approx(stated, abs=1e-6)
    msds("score", "-m", "piq:psnr", "--saliency", "gbvs", *pair, code=2)


def test_half_precision_changes_scores_a_little(msds):
    exact, half = (last(msds("score", *FAST, "ref/photo0.png", "dist/photo0.png", *more)) for more in ((), ("--amp",)))
    assert half != exact
    assert half == pytest.approx(exact, abs=0.02)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*SIDES, "-m", "mdsd"], "did you mean msds"),
        ([*SIDES, "-m", "MSDS-Fast"], "did you mean msds-fast"),
        ([*SIDES, "-m", "msds"], "msds-fast"),
        ([*SIDES, "-m", "msds", "--weights", "absent.pth"], "no weights file at absent.pth"),
        ([*SIDES, "-m", "msds", "--backbone", "vgg61"], "vgg61"),
        ([*SIDES, "-m", "msds-fast,colour=1"], "colour"),
        ([*SIDES, *FAST, "--device", "abacus"], "no device 'abacus'"),
        ([*SIDES, *FAST, "-o", "scores.xlsx"], "must end in .csv, .json, .parquet"),
        ([*SIDES, *FAST, "-o", "absent/scores.csv"], "no folder absent"),
        ([*SIDES, *FAST, "-o", "folder.csv"], "it is a folder"),
        ([*SIDES, *FAST, "--summary", "scores.xlsx"], "must end in"),
        ([*SIDES, *FAST, "--saliency-threshold", "0.5"], "without --saliency"),
        ([*SIDES, *FAST, "--every", "2"], "--every"),
        ([*SIDES, *FAST, "--address", "auto"], "--address"),
        ([*SIDES, *FAST, "--engine", "spark"], "local or ray"),
        ([*SIDES, *FAST, "--engine", "ray", "--map", "m", "-o", "out"], "does not know --map"),
        ([*SIDES, *PSNR, "--engine", "ray", "--saliency", "gbvs", "-o", "out"], "--saliency has no effect on piq:psnr"),
        ([*SIDES, *FAST, "--background", "nothing"], "nothing"),
        ([*SIDES, *FAST, "--channel", "u"], "channel"),
        (["-r", "absent.png", "-d", "dist", *FAST], "no file or folder at absent.png"),
        (["-r", "ref", "-d", "dist/photo0.png", *FAST], "is a folder but"),
        (["ref", "-d", "dist", *FAST], "not both"),
        (["ref", *FAST], "what is to be compared"),
        (["ref", "dist", *FAST, "--layout", "3dgs"], "one folder"),
        (["a.mp4", "dist", *FAST], "one other video"),
        ([*SIDES, "-m", ","], "names no metric"),
        ([*SIDES, *PSNR, "--runtime", "abacus"], "unknown runtime 'abacus'"),
        ([*SIDES, *FAST, "--saliency", "gbvs", "--saliency-threshold", "nan"], "finite number"),
        ([*SIDES, "-m", "spips"], "msds train -m spips"),
        ([*SIDES, *FAST, "-o", "scores.csv", "--summary", "./scores.csv"], "both output and summary"),
        (["--match", "pairs.csv", *FAST, "-o", "pairs.csv"], "both output and match"),
    ],
)
def test_what_cannot_start_says_so_in_one_line(msds, arguments, message, tmp_path):
    Path("folder.csv").mkdir()
    result = msds("score", *arguments, code=2, stdout="", stderr=message)
    assert [line for line in result.stderr.splitlines() if not line.startswith(("Pairs", "Error: "))] == []
    assert not list(tmp_path.glob("*scores*"))


def test_videos_go_to_their_command(msds, monkeypatch):
    called = []
    monkeypatch.setattr(
        "msds_plugin.adapters.cli.video.score_videos", lambda *given, **more: called.append((given, more["run"]))
    )
    msds("score", *PSNR, "r.mp4", "d.mkv", "--every", "3", "--device", "cpu")
    ((given, run),) = called
    assert given == (Path("r.mp4"), Path("d.mkv"), ["piq:psnr"], 3, None)
    assert run.device == "cpu"


# files that are not as one would like them


def test_a_stated_peak_background_and_limit(msds, picture):
    import tifffile

    for name, noise in (("r", 0), ("d", 30)):
        tifffile.imwrite(f"{name}.tif", (picture(0, noise) / 255 * 7).astype(np.float32), photometric="rgb")
        Image.fromarray(picture(0, noise)).save(f"{name}.png")
    msds("score", *FAST, "r.tif", "d.tif", code=1, stderr="--peak")
    assert last(msds("score", *FAST, "r.tif", "d.tif", "--peak", 7)) == pytest.approx(
        last(msds("score", *FAST, "r.png", "d.png")), abs=1e-3
    )
    Image.fromarray(np.dstack([picture(0), np.full((64, 80, 1), 0, np.uint8)])).save("clear.png")
    Image.new("RGB", (80, 64), "red").save("red.png")
    assert last(msds("score", *FAST, "red.png", "clear.png", "--background", "red")) == 1
    msds("score", *FAST, "r.png", "r.png", "--max-pixels", 64 * 80 - 1, code=1, stderr=f"--max-pixels {64 * 80}")


def test_borders_multiples_and_the_luma_of_papers_on_super_resolution(msds):
    pair = ("ref/photo0.png", "dist/photo0.png")
    found = last(msds("score", "-m", "piq:psnr", *pair, "--crop-border", 4, "--mod-crop", 3, "--channel", "y"))
    x, y = (np.asarray(Image.open(path), float)[:63, :78] @ [65.481, 128.553, 24.966] / 255 + 16 for path in pair[::-1])
    mse = np.mean((x - y)[4:-4, 4:-4] ** 2)
    assert found == pytest.approx(10 * np.log10(255**2 / mse), abs=0.01)


def test_notes_are_said_once(msds, picture):
    profile = imagecodecs.cms_profile("adobergb")
    Path("many").mkdir()
    for index in range(3):
        Image.fromarray(picture(0)).save(f"many/{index}.png", icc_profile=profile)
    result = msds("score", *PSNR, "-r", "ref/photo0.png", "-d", "many")
    assert result.stderr.count("converted to sRGB") == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no such files here")
def test_what_is_no_file_is_named_and_holds_nothing_up(msds, tmp_path):
    os.mkfifo("dist/b.png")
    with socket.socket(socket.AF_UNIX) as bound:
        os.chdir("dist")  # the name of a socket must be short
        bound.bind("d.png")
        os.chdir(tmp_path)
    os.symlink("/dev/zero", "dist/f.png")
    os.symlink("/nowhere/g.png", "dist/g.png")
    os.symlink("..", "dist/up")
    Path("dist/h.heic").write_bytes(b"no image")
    result = msds("score", *PSNR, "-r", "ref/photo0.png", "-d", "dist", "-o", "s.csv", code=1)
    assert all(f"dist/{name}." in result.stderr for name in "bdfgh")
    assert "Left out: dist/up" in result.stderr
    assert result.stdout.count("nan") == 5


def test_sub_folders(msds):
    for side in ("ref", "dist"):
        Path(side, "deep").mkdir()
        Path(side, "photo2.png").rename(Path(side, "deep", "b.png"))
    msds("score", *PSNR, *SIDES, code=1, stderr="Left out: dist/deep with 1 image (--recursive")
    msds("score", *PSNR, *SIDES, "--recursive", stdout="dist/deep/b.png", stderr="dist/deep piq:psnr ↑: mean")


# tables


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_output_in_every_format_what_is_missing_and_going_on(msds, tmp_path, suffix):
    broken, output = Path("dist/photo1.png"), Path(f"scores{suffix}")
    whole = broken.read_bytes()
    broken.write_bytes(whole[:1000])
    for side in ("ref", "dist"):
        Image.new("RGB", (8, 8)).save(f"{side}/small.png")
    command = ("score", *PSNR, "-m", "piq:ssim", *SIDES, "-o", output)
    result = msds(*command, code=1, stderr="Missing scores: 3")
    assert result.stderr.count(f"{broken}: cannot read {broken}") == 1
    assert "small.png (piq:ssim): " in result.stderr
    table = read_table(output)
    assert list(table.columns) == ["reference", "distorted", "piq:psnr", "piq:ssim"]
    assert table["piq:ssim"].isna().tolist() == [False, True, False, True]
    assert lines(result.stdout)[2][2:] == ["nan", "nan"]
    assert {path.name for path in tmp_path.glob("*scores*")} == {output.name, f".{output.name}.msds"}
    broken.write_bytes(whole)
    for small in tmp_path.glob("*/small.png"):
        small.unlink()
    msds(*command, stderr="used again: 4")
    assert read_table(output)["piq:psnr"].tolist()[::2] == table["piq:psnr"].tolist()[::2]
    assert [path.name for path in tmp_path.glob("*scores*")] == [output.name]  # nothing is left once every score is there


def test_means(msds):
    result = msds("score", *PSNR, *SIDES, "-o", "s.json", "--summary", "m.csv")
    content = json.loads(Path("s.json").read_text())
    scores = [row["piq:psnr"] for row in content["scores"]]
    (means,) = content["summary"]
    assert means == {
        "metric": "piq:psnr",
        "mean": pytest.approx(np.mean(scores)),
        "std": pytest.approx(np.std(scores, ddof=1)),
        "n": 3,
    }
    assert pd.read_csv("m.csv").to_dict("records") == [pytest.approx(means)]
    assert f"piq:psnr ↑: mean {np.mean(scores):.4f}, standard deviation" in result.stderr


def interrupted(after, error):
    original = store.score_pairs

    def score(*arguments):
        for place, result in enumerate(original(*arguments)):
            if place == after:
                raise error
            yield result

    return score


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_an_interrupted_run_keeps_what_it_has_and_goes_on(msds, tmp_path, monkeypatch, suffix):
    output = Path(f"scores{suffix}")
    command = ("score", *PSNR, *SIDES, "-o", output)
    with monkeypatch.context() as patch:
        patch.setattr(store, "score_pairs", interrupted(2, KeyboardInterrupt()))
        msds(*command, code=130, stderr="Interrupted: 2 of 3 pairs were scored")
    part = read_table(output)
    assert len(part) == 2
    msds(*command, stderr="used again: 2")
    whole = read_table(output)
    assert len(whole) == 3
    pd.testing.assert_frame_equal(whole[whole["distorted"].isin(part["distorted"])].reset_index(drop=True), part)
    msds(*command, "--summary", "means.csv")
    before, means = output.read_bytes(), Path("means.csv").read_bytes()
    monkeypatch.setattr(store, "score_pairs", interrupted(1, KeyboardInterrupt()))
    result = msds(*command, "--summary", "means.csv", code=130, stderr="means.csv is of an earlier run and stays as it is")
    assert Path("means.csv").read_bytes() == means
    assert "holds 3 rows of an earlier run and stays as it is" in result.stderr
    assert output.read_bytes() == before


def test_a_crash_costs_none_of_the_scores_that_are_there(msds, monkeypatch, capsys):
    monkeypatch.setattr(store, "score_pairs", interrupted(2, RuntimeError("a driver failed")))
    shown = []
    monkeypatch.setattr("msds_plugin.adapters.cli.score._show", lambda scored, _: shown.append(len(scored.frame())))
    with pytest.raises(RuntimeError, match="a driver failed"):
        msds("score", *PSNR, *SIDES)
    assert shown == [2]


@pytest.mark.skipif(sys.platform != "linux", reason="such names cannot be there")
def test_odd_names_do_not_break_lines_or_tables(msds):
    Path("dist/photo0.png").rename("dist/a\tb\nc\u2028.png")
    Path("dist/photo1.png").write_text("no image")
    Path("dist/photo1.png").rename(os.fsdecode(b"dist/x\ny\xe9.png"))
    Path("dist/photo2.png").rename(os.fsdecode(b"dist/caf\xe9.png"))
    os.chdir("dist")
    Image.open("caf\udce9.png").save("=1+1.png")
    result = msds("score", *PSNR, "-r", "../ref/photo0.png", "-d", ".", "-o", "../scores.csv", code=1)
    assert [len(row) for row in lines(result.stdout)] == [3] * 5
    assert any(row[1].endswith(r"a\tb\nc\u2028.png") for row in lines(result.stdout))
    assert r"x\ny\udce9.png: cannot read" in result.stderr
    with Path("../scores.csv").open(newline="") as file:
        cells = [row[1] for row in list(csv.reader(file))[1:]]
    assert sorted(cells) == ["./=1+1.png", "a\tb\nc\u2028.png", "caf\\udce9.png", "x\ny\\udce9.png"]


@pytest.mark.parametrize("name", ["o" * 246 + ".csv", "\u56fe" * 83 + ".json", "o" * 252 + ".csv", "x" * 300 + "/o.csv"])
def test_names_that_the_file_system_refuses_are_found_at_the_start(msds, name):
    fits = len(os.fsencode(name)) <= 255  # as long as a name may be
    result = msds("score", *PSNR, "ref/photo0.png", "dist/photo0.png", "-o", name, code=0 if fits else 2)
    assert len(read_table(Path(name))) == 1 if fits else (result.stdout, len(result.stderr.splitlines())) == ("", 1)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no such limit there")
def test_a_full_disk_costs_nothing_that_was_computed(msds):
    import resource

    for index in range(150):
        Image.open("dist/photo0.png").rotate(index).save(f"dist/{'long-name-' * 8}{index}.png")
    command = ("score", *PSNR, "-r", "ref/photo0.png", "-d", "dist", "-o", "scores.csv")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (48 * 1024, hard))  # as on a full disk, writing fails from some moment on
    try:
        result = msds(*command, code=2, stderr="cannot write scores.csv")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    shown = {row[1]: float(row[2]) for row in lines(result.stdout)[1:]}
    assert shown
    msds(*command)
    table = read_table(Path("scores.csv")).set_index("distorted")["piq:psnr"]
    assert len(table) == 153
    assert all(table[path] == pytest.approx(score, abs=1e-5) for path, score in shown.items())


# maps


def test_maps_sum_to_one_less_the_score(msds):
    result = msds("score", *FAST, "-m", "piq:psnr", *SIDES, "--map", "maps")
    assert "Without maps, which it does not have: piq:psnr" in result.stderr
    for row in lines(result.stdout)[1:]:
        name = f"maps/{Path(row[1]).stem}.deepssim-fast"
        assert np.load(f"{name}.npy").sum() == pytest.approx(1 - float(row[2]), abs=1e-4)
        assert Image.open(f"{name}.png").size == (80, 64)
    msds("score", "-m", "piq:psnr", *SIDES, "--map", "none", code=2)
    msds("score", *FAST, *SIDES, "--map", "ref/photo0.png", code=2, stdout="")


def test_a_pair_without_a_map_costs_no_other(msds):
    Image.open("dist/photo1.png").crop((0, 0, 60, 50)).save("dist/photo1.png")
    result = msds("score", *FAST, *SIDES, "--map", "maps", code=1)
    assert len(lines(result.stdout)) == 4
    assert "Without a map: 1\n  dist/photo1.png (deepssim-fast): images of different sizes" in result.stderr
    assert {path.name for path in Path("maps").glob("*.png")} == {f"photo{i}.deepssim-fast.png" for i in (0, 2)}


def test_a_map_that_the_disk_refuses_leaves_nothing_behind_and_says_why(msds, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    result = msds("score", *FAST, "ref/photo0.png", "dist/photo0.png", "--map", "maps", code=1)
    assert "cannot write maps/photo0.deepssim-fast.npy: No space left on device" in result.stderr
    assert not list(Path("maps").iterdir())


def test_names_of_maps_never_collide(msds, random_alexnet_file):
    Image.open("dist/photo0.png").save("dist/photo0.bmp")
    Image.open("dist/photo0.png").save("dist/photo0-2.png")
    metric = f"deepssim,backbone=alexnet,weights={random_alexnet_file}"
    msds("score", "-m", metric, "-r", "ref/photo0.png", "-d", "dist", "--map", "maps", stderr="Maps are in maps: 5")
    found = {path.name.removesuffix(".deepssim(alexnet, weights=alexnet.pth).png") for path in Path("maps").glob("*.png")}
    assert found == {"photo0.png", "photo0.bmp", "photo0-2", "photo1", "photo2"}
