"""Representations: some of the images, several together, in files."""

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from msds_plugin import MSDS, DeepSSIM, MSDSRetarget, Representation, WeightsFileError
from msds_plugin.functional import halve
from msds_plugin.hybrid import MDSI, HaarPSI, Hybrid, Term
from msds_plugin.windows import as_windows


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


def matrices(representation: Representation) -> list[torch.Tensor]:
    return [matrix for view in representation.views for matrix in view]


def equal(a: Representation, b: Representation) -> bool:
    return a.source == b.source and all(map(torch.equal, matrices(a), matrices(b)))


def test_one_matrix_per_level_and_layer(kept, metric, images):
    assert [tuple(matrix.shape) for matrix in matrices(kept)] == 2 * [(3, 64, 64), (3, 192, 192)]
    assert len(kept) == 3
    alone = DeepSSIM(metric.backbone)
    for view, image in zip(kept.views, (images, halve(images)), strict=True):
        assert all(map(torch.equal, view, alone.represent(image).views[0]))


def test_some_of_the_images_and_several_together(kept, metric, images):
    assert equal(kept[-1], kept[2])
    assert equal(kept[-1], kept[2:])
    assert all(equal(kept[index], kept[1:2]) for index in (np.int64(1), torch.tensor(-2)))
    assert [len(one) for one in kept] == [1, 1, 1]
    assert equal(Representation.cat([kept[0], kept[1:]]), kept)
    torch.testing.assert_close(metric.compare(kept[1:], kept[0]), metric(images[1:], images[:1].expand(2, -1, -1, -1)))
    with pytest.raises(ValueError, match="0 images cannot be compared with 1"):
        metric.compare(kept[:0], kept[:1])
    for index in (3, -4):
        with pytest.raises(IndexError, match=f"image {index} of a representation of 3"):
            kept[index]
    for parts, message in (([], "none was given"), ([kept, DeepSSIM(metric.backbone).represent(images)], "made by")):
        with pytest.raises(ValueError, match=f"only representations of one source can be put together: .*{message}"):
            Representation.cat(parts)


def test_images_of_other_sizes_are_not_put_together_where_the_size_counts(metric):
    retarget = MSDSRetarget(weights=None)
    sizes = [torch.rand(1, 3, side, side) for side in (96, 95)]  # feature maps of one size
    with pytest.raises(ValueError, match="of images of different sizes"):
        Representation.cat([retarget.represent(image) for image in sizes])
    assert len(Representation.cat([metric.represent(image) for image in sizes])) == 2


def test_an_image_that_is_overwritten_changes_no_representation():
    metric = Hybrid([Term(HaarPSI()), Term(MDSI(), dissimilarity=None)])
    image, other = torch.rand(2, 1, 3, 40, 40)
    kept, score = metric.represent(image), metric(image, other)
    image.zero_()
    assert torch.equal(metric.compare(kept, metric.represent(other)), score)


def test_conversion_and_copies(kept, metric, images):
    grown = metric.represent(images.requires_grad_())
    assert matrices(grown)[0].requires_grad
    assert not matrices(grown.detach())[3].requires_grad
    assert {matrix.dtype for matrix in matrices(kept.to(torch.float64))} == {torch.float64}
    half = kept.to(torch.bfloat16)
    torch.testing.assert_close(metric.compare(half[1:], half[0]), metric.compare(kept[1:], kept[0]), rtol=0, atol=0.05)
    with pytest.raises(ValueError, match="too large for float16: take bfloat16"):
        kept.map_tensors(lambda matrix: matrix * 1e6).to(torch.float16)
    twin = copy.deepcopy(kept)
    assert equal(twin, kept)
    assert (kept == twin, kept == kept) == (False, True)
    assert metric.compare(twin, kept).tolist() == [1, 1, 1]


def test_saved_and_loaded(kept, metric, images, tmp_path):
    for part in (kept, kept.to(torch.float64), kept[1]):
        metric.save(part, tmp_path / "kept.safetensors")
        assert equal(metric.load(str(tmp_path / "kept.safetensors")), part)
    other = MSDS(2, (0.9, 0.1), backbone=metric.backbone)  # weights of levels do not matter to representations
    assert torch.equal(other.compare(other.load(tmp_path / "kept.safetensors"), kept[1]), torch.ones(1))


def test_other_weights_or_metrics_are_refused(kept, metric, images, tmp_path):
    metric.save(kept, tmp_path / "kept.safetensors")
    changed = copy.deepcopy(metric)
    changed.backbone.net[0].weight.data[0] += 0.1
    fewer = MSDS(2, backbone=metric.backbone.tapped(["relu1"]))
    for other in (changed, fewer, DeepSSIM(metric.backbone), MSDS(3, backbone=metric.backbone)):
        with pytest.raises(ValueError, match=r"kept.safetensors was made by .*, but this metric is"):
            other.load(tmp_path / "kept.safetensors")
    with pytest.raises(ValueError, match="the given representation was made by"):
        fewer.save(kept, tmp_path / "other.safetensors")


def test_damaged_and_other_files(kept, metric, tmp_path):
    path = tmp_path / "kept.safetensors"
    metric.save(kept, path)
    content = path.read_bytes()
    for damaged in (b"", content[:4], content[: len(content) // 2], content[:-1], b"PK" + content[2:]):
        path.write_bytes(damaged)
        with pytest.raises(WeightsFileError, match=r"kept.safetensors is damaged or holds no saved representation"):
            metric.load(path)
    for metadata in (None, {"format": "pt"}):
        save_file({"features.0.weight": torch.rand(3)}, path, metadata)
        with pytest.raises(WeightsFileError, match=r"is a safetensors file but not a saved representation"):
            metric.load(path)
    with pytest.raises(FileNotFoundError):
        metric.load(tmp_path / "nothing.safetensors")


def test_of_images_read_in_windows(tmp_path):
    metric, image = Hybrid([Term(HaarPSI()), Term(MDSI(), dissimilarity=None)]), torch.rand(1, 3, 40, 40)
    kept = metric.represent(as_windows(image))
    assert len(kept) == 1
    assert metric.compare(kept, metric.represent(image)).item() == 1
    other = metric.represent(as_windows(image.clone()))
    for call in (lambda: metric.save(kept, tmp_path / "kept.safetensors"), lambda: Representation.cat([kept, other])):
        with pytest.raises(TypeError, match="read in windows"):
            call()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_moved_to_another_device(kept, metric, tmp_path):
    metric.save(kept.to("cuda"), tmp_path / "kept.safetensors")
    loaded = metric.load(tmp_path / "kept.safetensors", device="cuda")
    assert equal(loaded.to("cpu"), kept)
    with pytest.raises(ValueError, match=r"move one with .to\(device\)"):
        metric.compare(loaded, kept)
