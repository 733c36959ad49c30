"""The loop that scores pairs: references shared, errors that cost no other score, threads."""

import math
import multiprocessing
import struct
import threading
import time
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from msds_plugin.adapters.images.read import decode, read_image
from msds_plugin.adapters.scorers import Scorer, create_scorer
from msds_plugin.adapters.scoring import Pair, Run, loop, score_pairs
from msds_plugin.adapters.scoring.store import pair_keys
from msds_plugin.adapters.wrap import ToolkitMetric
from msds_plugin.metric import Metric


@pytest.fixture(scope="module")
def fast() -> list[Scorer]:
    return [create_scorer(name, "cpu", "torch") for name in ("deepssim-fast", "msds-fast")]


def toolkit(metric, name="l1"):
    return Scorer(name, ToolkitMetric(metric, True, name), torch.device("cpu"), {}, True, False)


def l1(x, y):
    if x.mean() > 0.99:
        raise ValueError("far\ntoo bright")
    return (x - y).abs().mean((1, 2, 3))


def save(path, picture, *given):
    Image.fromarray(picture(*given)).save(path)
    return path


@pytest.fixture
def pairs(tmp_path, picture):
    """Two references, seven distorted images of two sizes, in an order that is not that of the references."""
    references = [save(tmp_path / f"r{i}.png", picture, i, 0, (64, 72)) for i in range(2)]
    sizes = [(64, 72), (80, 64)]
    return [Pair(references[i % 2], save(tmp_path / f"d{i}.png", picture, i, 10 * i, sizes[i % 3 == 2])) for i in range(7)]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_scores_are_those_of_the_metric_whatever_the_order_and_the_workers(pairs, fast, workers):
    results = list(score_pairs(pairs[::-1], fast, Run(workers=workers)))
    assert [result.metric for result in results] == [scorer.name for scorer in fast] * len(pairs)
    assert [a.pair for a in results[::2]] == [b.pair for b in results[1::2]]
    assert Counter(result.pair for result in results) == dict.fromkeys(pairs, 2)
    for result in results:
        metric = fast[result.metric == fast[1].name].metric
        with torch.inference_mode():
            alone = metric(read_image(result.pair.distorted), read_image(result.pair.reference)).item()
        assert result.score == pytest.approx(alone, abs=1e-6)
        assert result.error is None
        assert result.seconds > 0


def test_a_reference_is_decoded_and_represented_once(pairs, fast, monkeypatch):
    represented, opened = [], Counter()
    original, open_side = Metric.represent, loop.open_side
    monkeypatch.setattr(type(fast[0].metric), "represent", lambda self, image: represented.append(1) or original(self, image))

    def counting(pair, reading, reference):
        opened[pair.reference if reference is None else pair.distorted] += 1
        return open_side(pair, reading, reference)

    list(score_pairs(pairs, fast[:1], Run(workers=0), opener=counting))
    assert len(represented) == len(opened) == len(pairs) + 2
    assert set(opened.values()) == {1}


@pytest.mark.parametrize("workers", [0, 2])
def test_one_bad_pair_costs_no_other(tmp_path, pairs, picture, workers):
    reference = pairs[0].reference
    Image.new("RGB", (72, 64), "white").save(tmp_path / "white.png")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "broken.tif").write_bytes(b"II*\0" + struct.pack("<I", 10**6))
    names = ("white.png", "text.png", "absent.png", "broken.tif")
    bad = [Pair(reference, tmp_path / name) for name in names] + [Pair(tmp_path / "text.png", pairs[0].distorted)]
    good = [pair for pair in pairs if decode(pair.distorted).size == (64, 72)]
    results = {result.pair: result for result in score_pairs([*bad, *good], [toolkit(l1)], Run(workers=workers))}
    assert {pair for pair, result in results.items() if result.error} == set(bad)
    assert all(math.isnan(results[pair].score) for pair in bad)
    errors = [results[pair].error for pair in bad]
    assert errors[0] == "far too bright"
    assert all(name in error for name, error in zip((*names[1:], "text.png"), errors[1:], strict=True))
    assert "No such file" in errors[2]


def test_a_metric_that_fails_for_a_reference_costs_only_its_own_scores(pairs, fast):
    def picky(x, y):
        if x.shape != y.shape:
            raise ValueError("sizes differ")
        return x.mean((1, 2, 3))

    results = list(score_pairs(pairs, [toolkit(picky), fast[0]], Run(workers=2)))
    assert {result.error is None for result in results if result.metric == fast[0].name} == {True}
    failed = [result for result in results if result.error]
    assert {result.pair for result in failed} == {pair for pair in pairs if decode(pair.distorted).size != (64, 72)}
    assert all("--resize" in result.error for result in failed)  # differ by more than some pixels


def test_sizes_that_differ_by_a_few_pixels_are_cut_for_metrics_of_pixels(tmp_path, pairs, picture):
    said = []
    cut = Pair(pairs[0].reference, save(tmp_path / "cut.png", picture, 0, 0, (64, 72)))
    Image.open(cut.distorted).crop((0, 0, 70, 61)).save(cut.distorted)
    (result,) = score_pairs([cut], [toolkit(l1)], Run(note=said.append))
    x, y = read_image(cut.distorted), read_image(cut.reference)[..., :61, :70]
    assert result.score == pytest.approx((x - y).abs().mean().item())
    assert len(said) == 1
    assert "top left" in said[0]


def test_a_score_that_is_not_a_number_is_an_error(pairs):
    (result,) = score_pairs(pairs[:1], [toolkit(lambda x, y: x.mean((1, 2, 3)) * math.nan)])
    assert result.error == "the score is not a number"


def test_metrics_of_toolkits_run_one_at_a_time_on_all_cores_and_ours_side_by_side(pairs, fast):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    inside, seen, together = [], set(), threading.Barrier(2)

    class Meeting(type(fast[0].metric)):
        def represent(self, image):
            if threading.get_ident() not in seen:
                seen.add(threading.get_ident())
                together.wait(60)
            assert torch.get_num_threads() == 1
            assert torch.is_autocast_enabled("cpu")
            return super().represent(image)

    def alone(x, y):
        inside.append(1)
        assert len(inside) == 1
        assert torch.get_num_threads() == 2
        assert torch.is_inference_mode_enabled()
        inside.pop()
        return x.mean((1, 2, 3))

    meeting = fast[0].metric
    meeting.__class__, before = Meeting, meeting.__class__
    try:
        results = list(score_pairs(pairs, [fast[0], toolkit(alone)], Run(workers=2, amp=True)))
    finally:
        meeting.__class__ = before
        now = torch.get_num_threads()
        torch.set_num_threads(threads)
    assert now == 2
    assert len(seen) == 2
    assert threading.get_ident() not in seen
    assert {result.error for result in results if result.metric == fast[0].name} == {None}
    assert not any("assert" in (result.error or "").lower() for result in results)


def test_what_was_decoded_says_which_content_a_score_is_of(pairs, tmp_path):
    def swapping(pair, reading, reference):
        opened = loop.open_side(pair, reading, reference)
        if pair.distorted.name == "d1.png" and reference is not None:
            Image.new("RGB", (72, 64)).save(pair.distorted)
        return opened

    keys = dict(zip(pairs[:4], pair_keys(pairs[:4]), strict=True))
    results = {result.pair: result for result in score_pairs(keys, [toolkit(l1)], keyed=True, opener=swapping)}
    assert "changed while it was scored" in results[pairs[1]].error
    assert all(results[pair].key == keys[pair] for pair in (pairs[0], pairs[3]))


def test_it_leaves_random_numbers_and_gradients_alone_and_needs_a_metric(pairs):
    before = torch.get_rng_state()
    for _ in score_pairs(pairs, [toolkit(l1)], Run(workers=0)):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
    assert torch.equal(before, torch.get_rng_state())
    assert list(score_pairs([], [toolkit(l1)])) == []
    with pytest.raises(ValueError, match="no metric"):
        score_pairs(pairs, [])
    for wrong in ({"batch_size": 0}, {"workers": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Run(**wrong)


def test_pairs_of_halves_and_of_other_things(tmp_path, picture, fast):
    both = tmp_path / "both.png"
    Image.fromarray(np.hstack([picture(0), picture(0, 20)])).save(both)
    left, right = (next(score_pairs([Pair(both, both, half=half)], fast[:1], keyed=True)) for half in ("left", "right"))
    assert left.score == pytest.approx(right.score, abs=1e-6)
    assert left.key != right.key


def test_no_process_is_started_and_threads_end(pairs):
    before = threading.active_count()
    results = score_pairs(pairs * 5, [toolkit(l1)], Run(workers=3))
    next(results)
    assert not multiprocessing.active_children()
    results.close()
    deadline = time.monotonic() + 60
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
