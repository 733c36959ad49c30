import multiprocessing
import os
import signal
import sqlite3
import time

import pytest
from msds_plugin.adapters.results.keys import pair_key
from msds_plugin.adapters.results.store import Outcome, Results, ResultsFileError


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
