"""Pairs on a Ray cluster: lists, shards, restarts, workers that die."""

import importlib
import os
import shutil
import signal
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pandas as pd
import psutil
import pytest
import ray
import torch
from PIL import Image
from pyarrow import parquet

from msds_plugin import registry
from msds_plugin.adapters.cli.ray import _place
from msds_plugin.adapters.images.colours import Reading
from msds_plugin.adapters.images.pairs import Pair, Pairing
from msds_plugin.adapters.images.read import read_image
from msds_plugin.adapters.ray import score, shard
from msds_plugin.adapters.ray.pairs import matched, read_pairs, shards
from msds_plugin.adapters.ray.score import _all_done, _connect, _room
from msds_plugin.adapters.ray.shard import Job, write_lost, write_shard
from msds_plugin.adapters.scorers import create_scorers
from msds_plugin.adapters.scoring import Run, score_pairs
from msds_plugin.adapters.wrap import ToolkitMetric

METRIC = "piq:psnr"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Twelve references with four distorted images each, of two sizes."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    found = []
    for scene in range(12):
        y = rng.integers(0, 256, (8, 8 - scene % 2, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(y).save(folder / f"{scene:02}.png")
        for strength in range(1, 5):
            x = y + 10.0 * strength * rng.standard_normal(y.shape)
            Image.fromarray(x.clip(0, 255).astype(np.uint8)).save(folder / f"{scene:02}_{strength}.png")
            found.append((str(folder / f"{scene:02}.png"), str(folder / f"{scene:02}_{strength}.png")))
    return found


@pytest.fixture
def scorers():
    return create_scorers([METRIC], "cpu")


@pytest.fixture
def job(tmp_path, scorers):
    return Job.of(scorers, str(tmp_path / "out"), Run())


@pytest.fixture
def store():
    """A file system of URIs; a function that fills it."""
    memory = fsspec.filesystem("memory")

    def fill(**contents):
        for name, content in contents.items():
            memory.pipe_file(f"/bucket/{name}", content)
        return memory

    yield fill
    memory.rm("/bucket", recursive=True)


def local(pairs, scorers, workers=2):
    results = score_pairs([Pair(Path(r), Path(d)) for r, d in pairs], scorers, Run(workers=workers))
    return {(str(result.pair.reference), str(result.pair.distorted)): result.score for result in results}


def rows(folder):
    return [row for path in sorted(Path(folder).glob("*.parquet")) for row in parquet.read_table(path).to_pylist()]


def scores(folder):
    return {(row["reference"], row["distorted"]): row[METRIC] for row in rows(folder)}


def test_pairs_come_sorted_and_shards_end_where_references_do(files, tmp_path, monkeypatch):
    names = list(read_pairs(files[::-1]))
    assert names == files
    assert [len(part) for part in shards(names, 20)] == [20, 20, 8]
    one = [("r", str(number)) for number in range(20)]
    assert [len(part) for part in shards(one, 8)] == [8, 8, 4]
    monkeypatch.chdir(tmp_path)
    assert list(read_pairs([("r.png", "s3://b/d.png")])) == [(str(tmp_path / "r.png"), "s3://b/d.png")]


def test_folders_by_uri_are_matched_as_folders_are(files, store):
    store(**dict.fromkeys(("r/a.png", "r/b.png", "d/a.jpg", "d/b.jpg", "d/deep/c.jpg", "d/notes.txt"), b""))
    r, d = "memory://bucket/r", "memory://bucket/d"
    expected = [(f"{r}/a.png", f"{d}/a.jpg"), (f"{r}/b.png", f"{d}/b.jpg")]
    assert list(read_pairs((r, f"{d}/"))) == list(read_pairs([r, f"{d}/"])) == expected
    assert list(read_pairs((f"{r}/a.png", d))) == [(f"{r}/a.png", f"{d}/{name}.jpg") for name in ("a", "b", "deep/c")]
    assert list(read_pairs(expected[0])) == expected[:1]
    assert matched(f"{r}/a.png", d, Pairing(pattern="{name}*", recursive=True))[0] == expected[:1]
    with pytest.raises(ValueError, match=r"no image in memory://bucket/none"):
        read_pairs(("memory://bucket/none", d))
    store(**{"d/late.jpg": b""})
    assert matched(r, d)[1].unscored == 2
    folder = Path(files[0][0]).parent
    assert len(list(read_pairs((folder / "00.png", folder)))) == 60


def test_a_shard(tmp_path, files, scorers, job):
    missing = str(tmp_path / "late.png")
    pairs = sorted(
        [*files[:4], (files[4][0], missing), ("file:" + files[0][0], "FILE://" + files[0][1]), ("memory://no.png", missing)]
    )
    done = write_shard(pairs, scorers, job)
    assert (done.rows, done.failed, done.computed) == (7, 2, 7)
    write_shard([("", files[0][1])], scorers, replace(job, folder=str(tmp_path / "none")))
    assert [row["error"] for row in rows(tmp_path / "none")] == ["the list names no image"]
    found = {(row["reference"], row["distorted"]): row for row in rows(job.folder)}
    expected = local(files[:4], scorers, workers=0)
    assert [found[pair][METRIC] for pair in files[:4]] == pytest.approx([expected[pair] for pair in files[:4]], abs=1e-6)
    assert found["file:" + files[0][0], "FILE://" + files[0][1]][METRIC] == found[files[0]][METRIC]
    assert "late.png" in found[files[4][0], missing]["error"]
    assert "no.png" in found["memory://no.png", missing]["error"]
    Image.open(files[4][1]).save(missing)  # a second run computes what failed, and nothing else
    done = write_shard(pairs, scorers, job)
    assert (done.failed, done.computed) == (1, 2)
    kept = [row for row in rows(job.folder) if row["error"] is None and row["distorted"] != missing]
    assert kept == [found[pair] for pair in pairs if missing not in pair]


def test_a_shard_that_no_worker_survives_is_rows_with_the_reason_and_is_tried_again(files, scorers, job):
    assert write_lost(files[:4], job).failed == 4
    assert {row["error"] for row in rows(job.folder)} == {
        "the worker died each time it scored this shard: out of memory, maybe"
    }
    assert write_shard(files[:4], scorers, job).computed == 4
    assert {row["error"] for row in rows(job.folder)} == {None}


def test_a_shard_for_which_no_node_has_the_memory_is_given_up(files, job):
    class Cluster:
        exceptions = ray.exceptions

        @staticmethod
        def wait(running, num_returns):
            return running[:1], running[1:]

        @staticmethod
        def get(_):
            raise ray.exceptions.OutOfMemoryError("a node is low on memory")

    actor = SimpleNamespace(score=SimpleNamespace(remote=lambda *_: object()))
    assert [done.failed for done in _all_done(Cluster, [actor], job, [files[:4]])] == [4]


def test_what_names_the_file_of_a_shard(files):
    def random(metric="deepssim"):
        return create_scorers([metric], "cpu", "torch", backbone="alexnet", weights=None)

    def name(scorers, pairs=files, **run):
        return Job.of(scorers, "out", Run(**run)).file(pairs)

    made = random()
    others = [
        name(random("deepssim-lite")),
        name(random()),
        name(made, files[1:]),
        name(made, amp=True),
    ]  # random: other weights
    others += [name(made, reading=Reading(**each)) for each in ({"background": (0, 0, 0)}, {"channel": "y"})]
    assert len({name(made), *others}) == 7
    assert name(made) == name(made, workers=3, batch_size=1, reading=Reading(max_pixels=9))


def test_images_and_output_by_uri(files, scorers, store):
    memory = store(
        **{Path(path).name: Path(path).read_bytes() for pair in files[:8] for path in pair}, **{"no.png": b"no image"}
    )
    pairs = [tuple(f"memory://bucket/{Path(path).name}" for path in pair) for pair in files[:8]]
    job = Job.of(scorers, "memory://bucket/out", Run())
    assert write_shard(pairs, scorers, job).failed == 0
    with memory.open(f"/bucket/out/{job.file(pairs)}") as file:
        found = [row[METRIC] for row in parquet.read_table(file).to_pylist()]
    expected = local(files[:8], scorers, workers=0)
    assert found == [expected[pair] for pair in files[:8]]
    assert write_shard(pairs, scorers, job).computed == 0
    wrong = [("memory://bucket/no.png", pairs[0][1])]
    write_shard(wrong, scorers, job)
    assert job.read(wrong)[0]["error"].startswith("cannot read memory://bucket/no.png: ")


def test_shards_score_what_the_whole_list_scores(files, scorers, job, monkeypatch):
    monkeypatch.setattr(shard, "_BLOCK", 10)
    assert [write_shard(part, scorers, job).rows for part in shards(read_pairs(files), 12)] == [12] * 4
    assert scores(job.folder) == pytest.approx(local(files[::-1], scorers), abs=1e-6)


def test_what_is_computed_again(tmp_path, files, scorers, job):
    reference, pairs = tmp_path / "r.png", [(str(tmp_path / "r.png"), str(tmp_path / f"{index}.png")) for index in range(3)]
    for path in (reference, *(Path(distorted) for _, distorted in pairs)):
        shutil.copy(files[0][1], path)
    assert write_shard(pairs, scorers, job).computed == 3
    shutil.copy(files[0][0], pairs[1][1])  # another image
    os.utime(pairs[2][1], (0, 0))  # the same, by another time
    assert write_shard(pairs, scorers, job).computed == 1
    assert [row[METRIC] == 80 for row in rows(job.folder)] == [True, False, True]
    shutil.copy(files[0][0], reference)
    assert write_shard(pairs, scorers, job).computed == 3
    assert [row[METRIC] == 80 for row in rows(job.folder)] == [False, True, False]


def test_a_damaged_file_is_computed_again(files, scorers, job):
    pairs = files[:3]
    write_shard(pairs, scorers, job)
    kept, wanted = Path(job.folder, job.file(pairs)), rows(job.folder)
    whole = kept.read_bytes()
    for at in range(0, len(whole), 61):
        kept.write_bytes(whole[:at] + b"\xff\x00\xa5" + whole[at + 3 :])
        write_shard(pairs, scorers, job)
        assert rows(job.folder) == wanted
    kept.write_bytes(whole[:-100])
    assert [write_shard(pairs, scorers, job).computed for _ in range(2)] == [3, 0]


def test_an_infinite_score_is_an_error(files, scorers, job):
    scorers = [replace(scorers[0], metric=ToolkitMetric(lambda x, y: torch.full((len(x),), torch.inf), "infinite"))]
    assert write_shard(files[:1], scorers, job).failed == 1
    assert rows(job.folder)[0]["error"] == "the score is inf"


def test_more_than_any_node_has_is_an_error():
    class Cluster:
        @staticmethod
        def nodes():
            return [{"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}}, {"Alive": False, "Resources": {"CPU": 64.0}}]

    assert _room(Cluster, 3, 0) == 2
    assert _room(Cluster, 1, 0.5) == 2
    assert _room(Cluster, 1, 0.2) == 5
    with pytest.raises(ValueError, match="no node has 9 cores"):
        _room(Cluster, 9, 0)


def test_where_nothing_can_be_done(files, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match="file is a file: the scores go into a folder"):
        score(files, [METRIC], tmp_path / "file")
    with pytest.raises(ValueError, match=r"no Ray cluster answers at 127\.0\.0\.1:1"):
        _connect(ray, "127.0.0.1:1")


SIGNALLED = """
import signal, sys
from msds_plugin.adapters.ray.score import _connect

class Cluster:
    @staticmethod
    def init(**_):
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))  # as Ray does
        signal.raise_signal(signal.SIGTERM)

signal.signal(signal.SIGTERM, lambda number, _: print("heard", number, flush=True))
_connect(Cluster, None)
"""


def test_a_signal_while_ray_starts_is_for_whom_it_was_before(python):
    assert python(SIGNALLED, code=15).stdout.split() == ["heard", "15"]


def test_uris_as_a_command_line_has_them():
    assert _place(Path("file:///data/r")) == "file:///data/r"
    assert _place(Path("s3://bucket/r")) == "s3://bucket/r"
    assert _place(Path("/data/r")) == "/data/r"
    assert _place(None) == ""


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.fixture
def lists(tmp_path, files):
    """A folder with the pairs in wrong order, as a csv file and as Parquet files; a function that reads them."""
    table = pd.DataFrame(files[::-1], columns=["reference", "distorted"]).assign(extra=1)
    table.to_csv(tmp_path / "pairs.csv", index=False)
    (tmp_path / "parts").mkdir()
    table[:20].to_parquet(tmp_path / "parts" / "0.parquet")
    table[20:].to_parquet(tmp_path / "parts" / "1.parquet")

    def check():
        for place, count in (("pairs.csv", 48), ("parts/1.parquet", 28)):
            assert list(read_pairs(tmp_path / place)) == list(read_pairs(f"file://{tmp_path}/{place}")) == files[:count]

    check.folder = tmp_path
    return check


def test_short_lists(lists, store, monkeypatch):
    lists()
    monkeypatch.chdir(lists.folder)
    text = "# numbers are names\nDistorted\tReference\tnote\n1\t007\t\n\n2\t\t\n"
    store(**{"pairs.tsv": text.encode("utf-16"), "pairs.CSV": text.replace("\t", ";").encode()})
    for name in ("pairs.tsv", "pairs.CSV"):
        assert list(read_pairs(f"memory://bucket/{name}")) == [
            ("", f"{lists.folder}/2"),
            (f"{lists.folder}/007", f"{lists.folder}/1"),
        ]
    Path("wrong.csv").write_text("reference,other\na,b\n")
    Path("twice.csv").write_text("reference,distorted,Reference\na,b,c\n")
    Path("pairs.txt").write_text("a b")
    for name in ("empty.csv", "empty.parquet"):
        Path(name).write_bytes(b"")
    wrong = (
        ("no.csv", "no list at"),
        ("wrong.csv", "it has reference, other"),
        ("pairs.txt", "tsv or"),
        ("twice.csv", "two columns"),
    )
    for place, reason in (*wrong, ("empty.csv", r"empty\.csv has no rows"), ("empty.parquet", r"read empty\.parquet")):
        with pytest.raises((ValueError, FileNotFoundError), match=reason):
            read_pairs(place)


@pytest.mark.slow
def test_long_lists_and_datasets(lists, files, cluster, monkeypatch):
    monkeypatch.setattr("msds_plugin.adapters.ray.pairs._SMALL", 0)
    lists()
    assert list(read_pairs(lists.folder / "parts")) == files
    assert list(read_pairs(cluster.data.read_csv(str(lists.folder / "pairs.csv")))) == files
    with pytest.raises(ValueError, match="dataset needs the columns reference and distorted, it has id"):
        read_pairs(cluster.data.range(3))


@pytest.mark.slow
def test_two_workers_one_killed_in_the_middle(tmp_path, files, cluster, scorers):
    pairs = list(product(dict.fromkeys(r for r, _ in files), (d for _, d in files)))  # 576, four blocks of three references
    table = tmp_path / "pairs.parquet"
    pd.DataFrame(pairs[::-1], columns=["reference", "distorted"]).to_parquet(table)
    killed = []

    def kill_one(progress):
        if not killed:
            ours = psutil.Process().children(recursive=True)
            victim = next(each for each in ours if any("_Actor" in part for part in each.cmdline()))
            victim.send_signal(signal.SIGKILL)
            killed.append(victim.pid)

    out = tmp_path / "out"
    done = score(cluster.data.read_parquet(str(table)), [METRIC], out, shard_size=100, on_progress=kill_one)
    assert killed
    assert (done.shards, done.pairs, done.failed, done.foreign) == (4, 576, 0, 0)
    assert Counter((row["reference"], row["distorted"]) for row in rows(out)) == Counter(pairs)
    assert scores(out) == pytest.approx(local(pairs, scorers), abs=1e-6)
    assert score(table, [METRIC], f"file://{out}", shard_size=100).computed == 0
    sorted(out.glob("*.parquet"))[0].unlink()
    assert score(table, [METRIC], out, shard_size=100).computed == 144
    assert score(pairs[:10], [METRIC], out).foreign == 4


@pytest.mark.slow
def test_a_metric_that_cannot_be_made_says_so(tmp_path, files, cluster):
    with pytest.raises(ValueError, match="msds-fst"):
        score(files, ["msds-fst"], tmp_path)
    with pytest.raises(ValueError, match="the list holds no pair"):
        score([], [METRIC], tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        score(files, [METRIC], tmp_path / "file" / "out")


@pytest.mark.slow
def test_a_metric_of_ones_own(tmp_path, files, cluster, own_metric, monkeypatch):
    registry.register(own_metric)
    names = [own_metric.name, f"ms-{own_metric.name}"]
    score(files[:3], names, tmp_path / "out")
    expected = {
        (scorer.name, pair): scorer.metric(*map(read_image, pair[::-1])).item()
        for scorer in create_scorers(names, "cpu")
        for pair in files[:3]
    }
    found = {(name, (row["reference"], row["distorted"])): row[name] for row in rows(tmp_path / "out") for name in names}
    assert found == pytest.approx(expected, abs=1e-6)
    (tmp_path / "not_on_workers.py").write_text("from torch import nn\nclass Mine(nn.Module): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry.register(replace(own_metric, factory=importlib.import_module("not_on_workers").Mine), override=True)
    with pytest.raises(ValueError, match="a worker cannot import a metric of yours: No module named 'not_on_workers'"):
        score(files[:3], names, tmp_path / "out")
