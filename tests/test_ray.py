"""Pairs on a Ray cluster: shards, restarts, workers that die."""

import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from msds_plugin.adapters.images.pairs import Pair
from msds_plugin.adapters.ray.pairs import read_pairs, shards
from msds_plugin.adapters.ray.shard import shard_name, write_shard
from msds_plugin.adapters.scoring.engine import score_pairs
from msds_plugin.adapters.scoring.scorers import create_scorers
from PIL import Image
from pyarrow import parquet

METRIC = "deepssim-fast"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Twelve references with four distorted images each."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    found = []
    for scene in range(12):
        y = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(y).save(folder / f"{scene}.png")
        for strength in range(1, 5):
            x = y + 10.0 * strength * rng.standard_normal(y.shape)
            Image.fromarray(x.clip(0, 255).astype(np.uint8)).save(folder / f"{scene}_{strength}.png")
            found.append((str(folder / f"{scene}.png"), str(folder / f"{scene}_{strength}.png")))
    return found


def local(pairs):
    scorers = create_scorers([METRIC], "cpu")
    results = score_pairs([Pair(Path(r), Path(d)) for r, d in pairs], scorers, workers=0)
    return {(str(result.pair.reference), str(result.pair.distorted)): result.score for result in results}


def rows(folder):
    return [row for path in sorted(Path(folder).glob("*.parquet")) for row in parquet.read_table(path).to_pylist()]


def test_lists(tmp_path, files):
    table = pd.DataFrame(files, columns=["reference", "distorted"])
    table.to_csv(tmp_path / "pairs.csv", index=False)
    table.to_parquet(tmp_path / "pairs.parquet")
    for source in (tmp_path / "pairs.csv", tmp_path / "pairs.parquet", f"file://{tmp_path}/pairs.parquet", files):
        assert list(read_pairs(source)) == files
    assert [len(shard) for shard in shards(iter(files), 20)] == [20, 20, 8]
    table.rename(columns={"distorted": "other"}).to_csv(tmp_path / "wrong.csv", index=False)
    with pytest.raises(ValueError, match="it has reference, other"):
        list(read_pairs(tmp_path / "wrong.csv"))
    with pytest.raises(ValueError, match="csv or"):
        read_pairs("pairs.txt")


def test_a_shard(tmp_path, files):
    scorers = create_scorers([METRIC], "cpu")
    missing = str(tmp_path / "late.png")
    pairs = [
        *files[:4],
        (files[4][0], missing),
        ("file://" + files[0][0], "file://" + files[0][1]),
        ("memory://no.png", missing),
    ]
    done = write_shard(pairs, scorers, [METRIC], str(tmp_path))
    assert (done.rows, done.failed, done.computed) == (7, 2, 7)
    found = rows(tmp_path)
    expected = local(files[:4])
    assert [row[METRIC] for row in found[:4]] == [expected[pair] for pair in files[:4]]
    assert found[5][METRIC] == pytest.approx(expected[files[0]], abs=1e-6)
    assert "late.png" in found[4]["error"]
    assert "no.png" in found[6]["error"]
    assert all(row["error"] is None for row in found[:4])
    Image.open(files[4][1]).save(missing)  # a second run computes what failed, and nothing else
    done = write_shard(pairs, scorers, [METRIC], str(tmp_path))
    assert (done.failed, done.computed) == (1, 2)
    assert rows(tmp_path)[:4] == found[:4]
    assert shard_name(pairs, [METRIC]) != shard_name(pairs, ["psnr"])


@pytest.mark.slow
def test_two_workers_one_killed_in_the_middle(tmp_path, files):
    ray = pytest.importorskip("ray")
    psutil = pytest.importorskip("psutil")
    from msds_plugin.adapters.ray import score

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    killed = []

    def kill_one(progress):
        if progress.shards == 3 and not killed:
            ours = psutil.Process().children(recursive=True)
            victim = next(each for each in ours if any("_Actor" in part for part in each.cmdline()))
            victim.send_signal(signal.SIGKILL)
            killed.append(victim.pid)

    try:
        done = score(files, [METRIC], tmp_path / "out", shard_size=4, on_progress=kill_one)
        assert killed
        assert (done.pairs, done.failed) == (48, 0)
        found = rows(tmp_path / "out")
        assert Counter((row["reference"], row["distorted"]) for row in found) == Counter(files)
        scores = {(row["reference"], row["distorted"]): row[METRIC] for row in found}
        by_shard = {pair: value for shard in shards(iter(files), 4) for pair, value in local(shard).items()}
        assert scores == by_shard  # to the bit where the batches are the same
        assert scores == pytest.approx(local(files), abs=1e-6)
        assert score(files, [METRIC], tmp_path / "out", shard_size=4).computed == 0
        sorted((tmp_path / "out").glob("*.parquet"))[0].unlink()
        assert score(files, [METRIC], tmp_path / "out", shard_size=4).computed == 4
    finally:
        ray.shutdown()
