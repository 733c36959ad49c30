"""What keeps scores: the store, its keys and identities, tables and files."""

import csv
import errno
import importlib
import math
import multiprocessing
import os
import signal
import sqlite3
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from torch import nn

from msds_plugin import DeepSSIM, registry
from msds_plugin.adapters.images.colours import Reading
from msds_plugin.adapters.images.pairs import Pair
from msds_plugin.adapters.scorers import create_scorer
from msds_plugin.adapters.scoring import Result, Run
from msds_plugin.adapters.scoring.files import replace_file
from msds_plugin.adapters.scoring.store import (
    Results,
    ResultsFileError,
    ResultsInUseError,
    ResultsWriteError,
    identity,
    pair_keys,
    score_and_keep,
)
from msds_plugin.adapters.scoring.tables import read_table, write_table, write_unfinished


def outcome(metric, number, score=0.5, error=None):
    return metric, Result(Pair(Path("r.png"), Path(f"{number}.png")), "m", score, 0.1, error, f"key{number}")


def test_scores_are_kept_and_told_apart_by_identity(tmp_path):
    path = tmp_path / "results.sqlite"
    with Results(path) as results:
        one = results.metric("msds", {"weights": "abc", "options": {"levels": 3}})
        other = results.metric("msds", {"weights": "abd", "options": {"levels": 3}})
        results.add([outcome(one, 1, 0.25), outcome(one, 2, math.nan, "cannot read r2.png")])
        results.add([outcome(other, 1, 0.75)])
    with Results(path) as results:
        assert results.metric("msds", {"options": {"levels": 3}, "weights": "abc"}) == one != other
        assert results.scored(one) == {"key1"}
        frame = results.frame(one)
        assert frame.loc["key1", "score"] == 0.25
        assert frame.loc["key2", "error"] == "cannot read r2.png"
        assert results.frame(other)["score"].tolist() == [0.75]


def test_a_failure_gives_way_a_score_stays_and_a_batch_is_kept_whole_or_not_at_all():
    with Results() as results:
        metric = results.metric("m", {})
        for number, score, error in ((1, math.nan, "no such file"), (1, 0.5, None), (1, 0.9, None), (1, math.nan, "late")):
            results.add([outcome(metric, number, score, error)])
        frame = results.frame(metric)
        assert (frame["score"].tolist(), frame["error"].tolist()) == ([0.5], [None])
        with pytest.raises(sqlite3.IntegrityError):
            results.add([outcome(metric, 2), outcome(metric, 3, math.nan)])
        assert results.scored(metric) == {"key1"}


def test_other_files_are_refused(tmp_path):
    text, foreign, newer = (tmp_path / name for name in ("notes.txt", "foreign.sqlite", "newer.sqlite"))
    text.write_text("not a database, but long enough to be looked at\n" * 30)
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE something (x)")
    with Results(newer):
        pass
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA user_version = 99")
    for path, error, says in (
        (text, ResultsFileError, "not a results file"),
        (foreign, ResultsFileError, "another program"),
        (newer, ResultsFileError, "format 99"),
        (tmp_path / "absent" / "results.sqlite", FileNotFoundError, "no folder"),
        (tmp_path, OSError, "cannot open the results file"),
    ):
        with pytest.raises(error, match=says):
            Results(path)
    assert text.read_text().startswith("not a database")


def test_one_run_alone(tmp_path):
    path = tmp_path / "results.sqlite"
    with Results(path, alone=True, what="scores.csv") as first:
        metric = first.metric("m", {})
        first.add([outcome(metric, 1)])
        for _ in range(2):
            with pytest.raises(ResultsInUseError, match=r"another run is writing scores.csv: wait"):
                Results(path, alone=True, what="scores.csv")
        first.add([outcome(metric, 2)])
    with Results(path, alone=True) as second:
        assert second.scored(metric) == {"key1", "key2"}
        second.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit there")
def test_a_full_disk_costs_nothing_that_was_kept(tmp_path):
    import resource

    path = tmp_path / "results.sqlite"
    with Results(path) as results:
        metric = results.metric("m", {})
        results.add([outcome(metric, number) for number in range(50)])
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, hard))  # writing fails as on a full disk
        try:
            with pytest.raises(ResultsWriteError, match=f"cannot write {path}: "):
                results.add([outcome(metric, number) for number in range(50, 2000)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        results.add([outcome(metric, 50)])
    with Results(path) as results:
        assert results.scored(metric) == {f"key{number}" for number in range(51)}


def test_a_damaged_file_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / "results.sqlite"
    with Results(path) as results:
        metric = results.metric("m", {"a": 1})
        results.add([outcome(metric, number, number / 3000) for number in range(3000)])
    content = bytearray(path.read_bytes())
    content[8192:16384] = b"\xa5" * 8192
    path.write_bytes(content)
    with pytest.raises(ResultsFileError, match="or damaged"):
        Results(path)
    assert path.read_bytes() == content


def test_a_file_that_cannot_be_written_is_as_it_was(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def fail(part):
        part.write_text("new")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=f"cannot write {path}: No space left"):
        replace_file(path, fail)
    assert path.read_text() == "old"
    with pytest.raises(OSError, match=r"cannot write .*table.csv: No such file"):
        replace_file(tmp_path / "gone" / "table.csv", fail)

    def private(part):  # as safetensors does
        part.write_text("new")
        part.chmod(0o600)

    other, plain = tmp_path / "other.csv", tmp_path / "plain.csv"
    plain.touch()
    path.chmod(0o640)
    for target in (path, other):
        replace_file(target, private)
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o640)
    assert other.stat().st_mode == plain.stat().st_mode
    assert set(tmp_path.iterdir()) == {path, other, plain}


def test_key_follows_the_files(tmp_path):
    def key(reference, distorted):
        return pair_keys([Pair(tmp_path / reference, tmp_path / distorted)])[0]

    (tmp_path / "r.png").write_bytes(b"1")
    before = key("r.png", "d.png")
    assert before == key("r.png", f"../{tmp_path.name}/d.png")
    distorted = tmp_path / "d.png"
    distorted.write_bytes(b"2")
    there = key("r.png", "d.png")
    assert there != before
    os.utime(distorted, ns=(1, 1))
    assert key("r.png", "d.png") == there  # content counts, not the time
    stat = distorted.stat()
    distorted.write_bytes(b"3")
    os.utime(distorted, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert key("r.png", "d.png") not in (before, there)
    (tmp_path / "moved.png").write_bytes(b"3")
    assert key("r.png", "moved.png") == key("r.png", "d.png")
    assert key("r.png", "absent.png") != key("r.png", "absent2.png")
    assert key("d.png", "r.png") != key("r.png", "d.png")


def write_forever(path, start):
    with Results(path) as results:
        metric = results.metric("m", {"same": True})
        for number in range(start, 100_000):
            results.add([outcome(metric, 2 * number), outcome(metric, 2 * number + 1)])
            time.sleep(0.005)  # as long as it takes to score something


@pytest.mark.slow
def test_two_writers_killed_at_any_moment_leave_whole_batches(tmp_path):
    path = tmp_path / "results.sqlite"
    context = multiprocessing.get_context("fork")
    runs = [context.Process(target=write_forever, args=(path, start)) for start in (0, 50_000)]
    for run in runs:
        run.start()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(0.05)
        if path.exists() and path.stat().st_size > 60_000:
            break
    for run in runs:
        os.kill(run.pid, signal.SIGKILL)
        run.join()
    with Results(path) as results:
        kept = results.scored(results.metric("m", {"same": True}))
        for start in (0, 100_000):
            own = {int(key[3:]) for key in kept if start <= int(key[3:]) < start + 100_000}
            assert own == set(range(start, start + len(own)))
            assert len(own) % 2 == 0
            assert own
        assert results._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_only_what_is_lacking_is_computed_and_each_score_is_of_what_was_decoded(tmp_path, picture):
    for index in range(4):
        Image.fromarray(picture(index)).save(tmp_path / f"{index}.png")
    pairs = [Pair(tmp_path / "0.png", tmp_path / f"{index}.png") for index in range(1, 4)]
    scorers = [create_scorer(name, "cpu") for name in ("piq:psnr", "piq:ssim")]
    keys = dict(zip(pair_keys(pairs), pairs, strict=True))
    with Results(tmp_path / "kept.sqlite") as kept:
        numbers = {kept.metric(scorer.name, identity(scorer, Run())): scorer for scorer in scorers}
        first, second = numbers
        done = list(score_and_keep(kept, {first: scorers[0]}, dict(list(keys.items())[:2]), Run()))
        assert [result.error for _, result in done] == [None] * 2
        Image.fromarray(picture(9)).save(pairs[2].distorted)  # since its key was taken
        done = list(score_and_keep(kept, numbers, keys, Run()))
        assert sorted((number, list(keys).index(result.key)) for number, result in done) == [
            (first, 2),
            *((second, n) for n in range(3)),
        ]
        assert {result.error is None: list(keys).index(result.key) for _, result in done}[False] == 2
        assert kept.scored(first) == kept.scored(second) == set(list(keys)[:2])
        assert list(score_and_keep(kept, numbers, dict(list(keys.items())[:2]), Run())) == []


def test_identity_tells_apart_all_that_scores_depend_on(random_alexnet_file):
    made = [("deepssim,backbone=alexnet,weights=None", {}), (f"deepssim,backbone=alexnet,weights={random_alexnet_file}", {})]
    made += [("piq:psnr", {}), ("piq:ssim", {}), ("piq:ssim,kernel_size=7", {})]
    runs = [Run(), Run(amp=True), Run(reading=Reading(peak=7)), Run(reading=Reading(crop_border=4))]
    scorers = [create_scorer(name, "cpu", "torch", **options) for name, options in made]
    found = [identity(scorer, run) for scorer in scorers for run in runs]
    assert len({str(each) for each in found}) == len(found)
    assert identity(scorers[0], runs[0]) == found[0]
    assert identity(scorers[0], Run(workers=3, batch_size=2, reading=Reading(max_pixels=9))) == found[0]


@pytest.mark.parametrize(
    ("factory", "changed"),
    [
        ("Mine", "code_of_a_user.py"),
        ("lambda: MultiScale(difference, 2)", "helper_of_a_user.py"),
        ("partial(Hybrid, [Term(helper_of_a_user.difference, None)])", "helper_of_a_user.py"),
    ],
)
def test_identity_follows_the_code_of_a_metric_that_is_in_no_package(tmp_path, monkeypatch, own_metric, factory, changed):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "helper_of_a_user.py").write_text("def difference(x, y): return (x - y).abs().mean((1, 2, 3))\n")
    (tmp_path / "code_of_a_user.py").write_text(
        "import helper_of_a_user\nfrom functools import partial\nfrom helper_of_a_user import difference\n"
        "from torch import nn\nfrom msds_plugin import MultiScale\nfrom msds_plugin.hybrid import Hybrid, Term\n"
        f"class Mine(nn.Module):\n    def forward(self, x, y): return difference(x, y)\nmake = {factory}\n"
    )
    for name in ("helper_of_a_user", "code_of_a_user"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    make = importlib.import_module("code_of_a_user").make
    registry.register(replace(own_metric, factory=make, lower_is_better="Hybrid" not in factory))
    scorers = [create_scorer(name, "cpu") for name in (own_metric.name, f"ms-{own_metric.name}")]
    before = [identity(scorer, Run()) for scorer in scorers]
    assert [identity(scorer, Run()) for scorer in scorers] == before
    file = tmp_path / changed
    file.write_text(file.read_text() + "# a change\n")
    assert not any(identity(scorer, Run()) in before for scorer in scorers)


def test_identity_follows_the_weights_of_a_metric_on_a_pyramid(own_metric):
    found = []
    for value in (0.5, 2.0):
        layer = nn.Conv2d(3, 4, 3)
        nn.init.constant_(layer.weight, value)
        registry.register(replace(own_metric, factory=partial(DeepSSIM, layer), lower_is_better=False), override=True)
        found.append(identity(create_scorer(f"ms-{own_metric.name}", "cpu"), Run())["source"])
    assert found[0] != found[1]


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_tables_come_back_as_they_were_and_are_not_replaced_by_smaller_ones(tmp_path, suffix):
    table = pd.DataFrame({"distorted": ['a, "b".png', "ü.png"], "x": [0.1 + 0.2, math.nan], "y": [math.nan, math.nan]})
    path = tmp_path / f"t{suffix}"
    write_table(table, path, pd.DataFrame({"mean": [1.0]}))
    back = read_table(path)
    pd.testing.assert_frame_equal(back, table, check_exact=True, check_dtype=False)
    assert back["y"].dtype == float
    assert "holds 2 rows of an earlier run" in write_unfinished(table[:1], path)
    assert len(read_table(path)) == 2
    assert write_unfinished(pd.concat([table, table]), path) is None


def test_text_in_tables_cannot_become_a_formula(tmp_path):
    bad = ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1"]
    write_table(pd.DataFrame({"=head": [1.0] * 6, "error": bad, "number": [-1.5] * 6}), tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="") as file:
        heading, *rows = csv.reader(file)
    assert heading == ["'=head", "error", "number"]
    assert [row[1] for row in rows] == [f"'{text}".replace("\r", "\\r") for text in bad]
    assert rows[0][2] == "-1.5"
    write_table(pd.DataFrame({"error": bad}), tmp_path / "t.json")
    assert read_table(tmp_path / "t.json")["error"].tolist() == bad


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_table_goes_through_a_link_and_to_a_file_that_cannot_be_replaced(tmp_path, monkeypatch):
    link, target = tmp_path / "link.csv", tmp_path / "target.csv"
    link.symlink_to(target)
    write_table(pd.DataFrame({"a": [1]}), link)
    assert link.is_symlink()
    assert read_table(target)["a"].tolist() == [1]

    def busy(*_):
        raise PermissionError(13, "Access is denied")  # of Windows, where another program has it open

    monkeypatch.setattr(Path, "replace", busy)
    write_table(pd.DataFrame({"a": [2]}), target)
    assert read_table(target)["a"].tolist() == [2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.csv", "target.csv"]
