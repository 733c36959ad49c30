import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from msds_plugin import MSDS, DeepSSIM, Representation, WeightsFileError
from msds_plugin.functional import halve
from msds_plugin.network import sharing


@pytest.fixture(scope="module")
def metric() -> MSDS:
    torch.manual_seed(0)
    return MSDS(2, (0.3, 0.7), backbone="alexnet", weights=None, layers=("relu1", "relu2"))


@pytest.fixture
def images():
    return torch.rand(3, 3, 70, 65)


@pytest.fixture
def kept(metric, images) -> Representation:
    return metric.represent(images)


def equal(a: Representation, b: Representation) -> bool:
    pairs = [pair for p, q in zip(a.grams, b.grams, strict=True) for pair in zip(p, q, strict=True)]
    return a.source == b.source and all(torch.equal(*pair) for pair in pairs)


def shapes(representation: Representation) -> list[list[tuple[int, ...]]]:
    return [[tuple(gram.shape) for gram in grams] for grams in representation.grams]


def test_one_matrix_per_level_and_layer(kept):
    assert shapes(kept) == [[(3, 64, 64), (3, 192, 192)]] * 2
    assert len(kept) == 3


def test_some_of_the_images(kept, metric, images):
    assert shapes(kept[1]) == [[(1, 64, 64), (1, 192, 192)]] * 2
    assert equal(kept[-1], kept[2])
    assert equal(kept[-1], kept[2:])
    assert shapes(kept[:2])[0][0] == (2, 64, 64)
    torch.testing.assert_close(metric.compare(kept[1:], kept[0]), metric(images[1:], images[:1].expand(2, -1, -1, -1)))
    assert [len(one) for one in kept] == [1, 1, 1]


@pytest.mark.parametrize("index", [3, -4])
def test_an_image_that_is_not_there(kept, index):
    with pytest.raises(IndexError, match=f"image {index} of a representation of 3"):
        kept[index]


def test_a_level_is_what_the_metric_makes_of_that_level(kept, metric, images):
    halved = halve(images)
    assert equal(kept.level(0), metric.metric.represent(images))
    assert equal(kept.level(1), metric.metric.represent(halved))


def test_conversion_and_detachment(metric, images):
    kept = metric.represent(images.requires_grad_())
    assert kept.grams[0][0].requires_grad
    assert not kept.detach().grams[1][1].requires_grad
    assert {gram.dtype for grams in kept.to(torch.float64).grams for gram in grams} == {torch.float64}
    assert {gram.device.type for grams in kept.to("meta").grams for gram in grams} == {"meta"}


def test_kept_in_half_precision(kept, metric, images):
    half = kept.to(torch.bfloat16)
    scores = metric.compare(half[1:], half[0])
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, metric.compare(kept[1:], kept[0]), rtol=0, atol=0.05)


def test_saved_and_loaded(kept, metric, images, tmp_path):
    for part in (kept, kept[1], kept.level(1), kept.to(torch.float64)):
        part.save(tmp_path / "kept.safetensors")
        assert equal(Representation.load(tmp_path / "kept.safetensors"), part)
    kept.save(str(tmp_path / "kept.safetensors"))
    loaded = Representation.load(str(tmp_path / "kept.safetensors"))
    assert torch.equal(metric.compare(loaded, metric.represent(images.flip(0))), metric(images, images.flip(0)))


def test_many_levels_and_layers_are_loaded_in_order(tmp_path):
    grams = tuple(tuple(torch.full((1, 4, 4), float(100 * level + layer)) for layer in range(12)) for level in range(11))
    many = Representation(grams, "test")
    many.save(tmp_path / "many.safetensors")
    assert equal(Representation.load(tmp_path / "many.safetensors"), many)


def test_a_loaded_one_remembers_what_made_it(kept, tmp_path):
    kept.save(tmp_path / "kept.safetensors")
    torch.manual_seed(1)
    other = MSDS(2, backbone="alexnet", weights=None, layers=("relu1", "relu2"))
    with pytest.raises(ValueError, match="only representations by the same metric, backbone, layers and weights"):
        other.compare(Representation.load(tmp_path / "kept.safetensors"), kept)


def test_a_damaged_file(kept, tmp_path):
    path: Path = tmp_path / "kept.safetensors"
    kept.save(path)
    content = path.read_bytes()
    for damaged in (b"", content[:4], content[: len(content) // 2], content[:-1], b"PK" + content[2:]):
        path.write_bytes(damaged)
        with pytest.raises(WeightsFileError, match=r"kept.safetensors is damaged or not a saved representation"):
            Representation.load(path)


def test_another_file(tmp_path):
    for metadata in (None, {"format": "pt"}):
        save_file({"features.0.weight": torch.rand(3)}, tmp_path / "weights.safetensors", metadata)
        with pytest.raises(WeightsFileError, match=r"weights.safetensors is a safetensors file but not a saved representation"):
            Representation.load(tmp_path / "weights.safetensors")
    torch.save(torch.rand(3), tmp_path / "tensor.pt")
    with pytest.raises(WeightsFileError, match="is damaged or not a saved representation"):
        Representation.load(tmp_path / "tensor.pt")


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        Representation.load(tmp_path / "nothing.safetensors")


def test_copies(kept, metric):
    twin = copy.deepcopy(kept)
    assert equal(twin, kept)
    assert (kept == twin, kept == kept) == (False, True)
    assert metric.compare(twin, kept).tolist() == [1, 1, 1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_moved_to_another_device(kept, metric, tmp_path):
    kept.to("cuda").save(tmp_path / "kept.safetensors")
    loaded = Representation.load(tmp_path / "kept.safetensors", device="cuda")
    assert loaded.grams[0][0].is_cuda
    assert equal(loaded.to("cpu"), kept)
    with pytest.raises(ValueError, match=r"move one with .to\(device\)"):
        metric.compare(loaded, kept)


def test_the_size_of_the_image_does_not_matter():
    metric = DeepSSIM("alexnet", weights=None, layers="relu1")
    small, large = (metric.represent(torch.rand(1, 3, side, 90)) for side in (40, 80))
    assert shapes(small) == shapes(large)
    assert metric.compare(small, large).shape == (1,)


def test_weights_are_looked_at_once_for_all_levels_and_again_for_the_next_image(metric, images, monkeypatch):
    looked = []
    digest = sharing.Fingerprint._digest
    monkeypatch.setattr(sharing.Fingerprint, "_digest", lambda self, name, t: looked.append(name) or digest(self, name, t))
    everything = ["mean", "std", *dict(metric.metric.backbone.named_parameters())]
    kept = metric.represent(images)
    assert sorted(looked) == sorted(everything)
    metric.compare(kept, kept)
    assert sorted(looked) == sorted(2 * everything)
    changed = copy.deepcopy(metric)
    changed.metric.backbone.net[0].weight.data[0] += 0.1
    with pytest.raises(ValueError, match="only representations by the same metric"):
        changed.compare(kept, kept)


def test_tensors_are_told_as_by_torch():
    tied = nn.Linear(2, 2)
    net = nn.Sequential(tied, nn.BatchNorm1d(2), nn.Sequential(tied, nn.PReLU()), nn.Module())
    net.register_module("nothing", None)
    expected = [*net.named_parameters(), *net.named_buffers()]
    assert [(name, id(tensor)) for name, tensor in sharing._tensors(net).items()] == [(n, id(t)) for n, t in expected]
