import errno
import multiprocessing
import os
import re
import signal
import sqlite3
import sys
import time

import pytest
from msds_plugin.adapters.results import rescue as salvage
from msds_plugin.adapters.results.files import replace_file
from msds_plugin.adapters.results.keys import pair_key
from msds_plugin.adapters.results.store import Outcome, Results, ResultsFileError, ResultsInUseError, ResultsWriteError


def outcome(metric, number, score=0.5, error=None):
    return Outcome(metric, f"key{number}", f"r{number}.png", f"d{number}.png", score, 0.1, error)


def test_scores_are_kept_and_told_apart_by_identity(tmp_path):
    path = tmp_path / "results.sqlite"
    with Results(path) as results:
        one = results.metric("msds", {"weights": "abc", "options": {"levels": 3}})
        other = results.metric("msds", {"weights": "abd", "options": {"levels": 3}})
        results.add([outcome(one, 1, 0.25), outcome(one, 2, None, "cannot read r2.png")])
        results.add([outcome(other, 1, 0.75)])
    with Results(path) as results:
        assert results.metric("msds", {"options": {"levels": 3}, "weights": "abc"}) == one != other
        assert results.scored(one) == {"key1"}
        frame = results.frame(one)
        assert frame.loc["key1", "score"] == 0.25
        assert frame.loc["key2", "error"] == "cannot read r2.png"
        assert results.frame(other)["score"].tolist() == [0.75]


def test_a_failure_gives_way_and_a_score_stays():
    with Results() as results:
        metric = results.metric("m", {})
        results.add([outcome(metric, 1, None, "no such file")])
        results.add([outcome(metric, 1, 0.5)])
        results.add([outcome(metric, 1, 0.9)])
        results.add([outcome(metric, 1, None, "late failure")])
        frame = results.frame(metric)
        assert frame["score"].tolist() == [0.5]
        assert frame["error"].tolist() == [None]


def test_an_empty_metric_has_an_empty_frame():
    with Results() as results:
        frame = results.frame(results.metric("m", {}))
        assert len(frame) == 0
        assert list(frame) == ["score", "seconds", "error"]


def test_all_or_none_of_a_batch_is_kept():
    with Results() as results:
        metric = results.metric("m", {})
        with pytest.raises(sqlite3.IntegrityError):
            results.add([outcome(metric, 1), Outcome(metric, "key2", "r", "d", None)])
        assert results.scored(metric) == set()


def test_other_files_are_refused(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("not a database, but long enough to be looked at\n" * 30)
    with pytest.raises(ResultsFileError, match="not a results file"):
        Results(text)
    assert text.read_text().startswith("not a database")
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE something (x)")
    with pytest.raises(ResultsFileError, match="another program"):
        Results(foreign)
    newer = tmp_path / "newer.sqlite"
    Results(newer).close()
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(ResultsFileError, match="format 99"):
        Results(newer)
    with pytest.raises(FileNotFoundError, match="no folder"):
        Results(tmp_path / "absent" / "results.sqlite")


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


@pytest.mark.parametrize("place", [0.3, 0.5, 0.7, 0.95])
def test_a_damaged_file_says_what_can_be_saved(tmp_path, capsys, place):
    path, new = tmp_path / "results.sqlite", tmp_path / "new.sqlite"
    with Results(path) as results:
        metric = results.metric("m", {"a": 1})
        results.add([outcome(metric, number, number / 3000) for number in range(3000)])
    content = bytearray(path.read_bytes())
    start = int(len(content) * place) // 4096 * 4096
    content[start : start + 8192] = b"\xa5" * len(content[start : start + 8192])
    path.write_bytes(content)
    with pytest.raises(ResultsFileError, match=r"is damaged .* of its scores can still be read; to save them") as caught:
        Results(path)
    readable = int(re.search(r"(\d+) of its scores", str(caught.value)).group(1))
    assert 500 < readable < 3000
    assert path.read_bytes() == content
    assert f"python -m {salvage.__name__} {path} NEW" in str(caught.value)
    salvage.main(str(path), str(new))
    assert capsys.readouterr().out == f"{readable} scores are in {new}\n"
    with Results(new) as results:
        frame = results.frame(results.metric("m", {"a": 1}))
        assert len(frame) == readable
        assert all(score == int(key[3:]) / 3000 for key, score in frame["score"].items())


def test_a_name_that_is_no_text_is_kept():
    with Results() as results:
        metric = results.metric("m", {})
        results.add([Outcome(metric, "key", "caf\udce9.png", "d", None, 0.1, "cannot read caf\udce9.png")])
        assert results.frame(metric)["error"].tolist() == ["cannot read caf\\udce9.png"]


def test_a_file_that_cannot_be_written_is_as_it_was(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def fail(part):
        part.write_text("new")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=f"cannot write {path}: No space left"):
        replace_file(path, fail)
    assert path.read_text() == "old"
    path.chmod(0o640)
    replace_file(path, lambda part: part.write_text("new"))
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o640)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_opened_is_not_called_damaged(tmp_path):
    with pytest.raises(OSError, match="cannot open the results file"):
        Results(tmp_path)


def test_key_follows_the_files(tmp_path):
    reference, distorted = tmp_path / "r.png", tmp_path / "d.png"
    reference.write_bytes(b"1")
    before = pair_key(reference, distorted)
    assert before == pair_key(str(reference), tmp_path / ".." / tmp_path.name / "d.png")
    distorted.write_bytes(b"2")
    there = pair_key(reference, distorted)
    assert there != before
    os.utime(distorted, ns=(1, 1))
    assert pair_key(reference, distorted) == there  # content counts, not the time
    stat = distorted.stat()
    distorted.write_bytes(b"3")
    os.utime(distorted, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert pair_key(reference, distorted) not in (before, there)
    (tmp_path / "moved.png").write_bytes(b"3")
    assert pair_key(reference, tmp_path / "moved.png") == pair_key(reference, distorted)
    assert pair_key(reference, tmp_path / "absent.png") != pair_key(reference, tmp_path / "absent2.png")
    assert pair_key(distorted, reference) != pair_key(reference, distorted)


def write_forever(path, start):
    with Results(path) as results:
        metric = results.metric("m", {"same": True})
        for number in range(start, 100_000):
            results.add([outcome(metric, 2 * number), outcome(metric, 2 * number + 1)])
            time.sleep(0.005)  # as long as it takes to score something


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
