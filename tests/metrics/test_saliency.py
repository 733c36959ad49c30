"""Saliency maps: the graphs against their chains solved densely, invariants, and the option of every metric."""

from functools import partial

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from msds_plugin import MSDS, DeepSSIM, DeepSSIMLite, MSDSAlign, MSDSRetarget, build_backbone
from msds_plugin.saliency import METHODS, Attention, feature_energy, gbvs, spectral_residual
from msds_plugin.saliency.gbvs import activation, concentration
from msds_plugin.saliency.resample import Enlarged, thumbnail
from msds_plugin.windows import as_windows


@pytest.fixture(scope="module")
def lite0():
    torch.manual_seed(0)
    return build_backbone("efficientnet_lite0", ["stage1", "stage2"], weights=None)


def equilibrium(weights: np.ndarray) -> np.ndarray:
    """The stationary distribution of the walk from row to column, by the null space of the transposed chain."""
    chain = weights / weights.sum(1, keepdims=True)
    space = scipy.linalg.null_space(chain.T - np.eye(len(chain)), rcond=1e-10)
    assert space.shape[1] == 1
    return space[:, 0] / space[:, 0].sum()


def distances(height: int, width: int) -> np.ndarray:
    cells = np.stack(np.mgrid[:height, :width], -1).reshape(-1, 2)
    return ((cells[:, None] - cells) ** 2).sum(-1)


@pytest.mark.parametrize(("height", "width"), [(6, 6), (5, 9)])
def test_activation_is_the_equilibrium_of_its_chain(height, width):
    values = np.random.default_rng(0).uniform(0.1, 1, (2, height, width))
    near = np.exp(-distances(height, width) / (2 * (0.15 * (height + width) / 2) ** 2))
    found = activation(torch.from_numpy(values)).numpy()
    for got, given in zip(found, values.reshape(2, -1), strict=True):
        wanted = equilibrium(np.abs(np.log(given[:, None] / given)) * near)
        np.testing.assert_allclose(got.ravel(), wanted, atol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(6, 6), (5, 9)])
def test_concentration_is_the_equilibrium_of_its_chain(height, width):
    values = np.random.default_rng(1).uniform(0.1, 1, (2, height, width))
    near = np.exp(-distances(height, width) / (2 * (0.3 * (height + width) / 2) ** 2))
    found = concentration(torch.from_numpy(values), 0.3).numpy()
    for got, given in zip(found, values.reshape(2, -1), strict=True):
        np.testing.assert_allclose(got.ravel(), equilibrium(near * given), atol=1e-12)


@pytest.mark.parametrize("method", [gbvs, spectral_residual])
class TestMaps:
    def test_in_range_detached_and_the_same_again(self, method, photographs):
        image = photographs[0].clone().requires_grad_()
        found = method(image)
        assert found.dtype == torch.float32
        assert not found.requires_grad
        assert (found.min().item(), found.max().item()) == (0, 1)
        assert torch.equal(found, method(image))

    def test_of_a_batch_are_those_of_each_image(self, method, photographs):
        batch = torch.cat(photographs[:3])
        torch.testing.assert_close(method(batch), torch.cat([method(image) for image in photographs[:3]]), atol=1e-4, rtol=0)

    def test_a_transposed_image_has_the_transposed_map(self, method, photographs):
        image = photographs[1][..., :160, :]
        torch.testing.assert_close(method(image.mT), method(image).mT, atol=1e-3, rtol=0)

    def test_one_colour_leaves_nothing_out(self, method):
        assert torch.equal(method(torch.full((1, 3, 60, 80), 0.3)).unique(), torch.ones(1))

    def test_sees_an_odd_one_out(self, method):
        image = 0.4 + 0.02 * torch.rand(1, 3, 96, 128)
        image[:, 0, 60:72, 20:32] = 1
        found = method(image)[0, 0]
        row, column = divmod(found.argmax().item(), found.shape[1])
        assert abs(row / found.shape[0] - 66 / 96) < 0.1
        assert abs(column / found.shape[1] - 26 / 128) < 0.1
        assert (found > 0.25).float().mean() < 0.25

    @pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 200), (33, 31)])
    def test_of_odd_sizes(self, method, size):
        assert method(torch.rand(2, 3, *size)).isfinite().all()


def test_gbvs_hardly_depends_on_the_size(kodak):
    small = torch.nn.functional.avg_pool2d(kodak[2], 2)
    assert torch.corrcoef(torch.stack([gbvs(kodak[2]).flatten(), gbvs(small).flatten()]))[0, 1] > 0.98


def test_feature_energy_finds_what_there_is(lite0):
    image = torch.full((1, 3, 128, 128), 0.5)
    image[..., 64:, 64:] = torch.rand(64, 64)
    found = feature_energy(image, lite0)
    assert (found.min().item(), found.max().item()) == (0, 1)
    assert not found.requires_grad


@pytest.mark.parametrize("size", [(7, 9), (20, 3), (1, 1)])
def test_thumbnail_in_windows_is_that_of_the_whole(size, monkeypatch):
    monkeypatch.setattr("msds_plugin.saliency.resample._STRIP", 200)
    image = torch.rand(2, 3, 61, 47, dtype=torch.float64)
    torch.testing.assert_close(thumbnail(as_windows(image), size), thumbnail(image, size))


def test_enlarged_in_windows_is_that_of_the_whole():
    small = torch.rand(1, 1, 6, 8, dtype=torch.float64)
    enlarged = Enlarged(small, (50, 70))
    whole = enlarged.read(0, 0, 50, 70)
    torch.testing.assert_close(whole[..., 10:31, 5:50], enlarged.read(10, 5, 21, 45))
    wanted = torch.nn.functional.interpolate(small, (50, 70), mode="bilinear")
    torch.testing.assert_close(whole, wanted)


def ours(lite0, **options):
    return [DeepSSIM(lite0, **options), DeepSSIMLite(lite0, **options), MSDS(2, backbone=lite0, **options)]


@pytest.mark.parametrize("method", list(METHODS))
def test_the_option_is_the_map_given_by_hand(method, lite0, pair):
    x, y = pair[0], pair[1][..., 3:, :-9]
    maps = [Attention(method).maps(image, lite0) for image in (x, y)]
    plain = ours(lite0, saliency_threshold=0.25)
    for metric, by_hand in zip(ours(lite0, saliency_threshold=0.25, saliency=method), plain, strict=True):
        assert torch.equal(metric(x, y), by_hand(x, y, *maps))
        assert torch.equal(metric.compare(metric.represent(x), metric.represent(y)), by_hand(x, y, *maps))
        assert not torch.equal(metric(x, y), by_hand(x, y))
        assert torch.equal(metric(y, y), by_hand(y, y))


def test_a_function_and_a_map_given_at_the_call(lite0, pair):
    def left(image: Tensor) -> Tensor:
        return torch.linspace(1, 0, image.shape[-1]).expand(image.shape[0], *image.shape[-2:])

    metric, plain = DeepSSIM(lite0, saliency=left, saliency_threshold=0.5), DeepSSIM(lite0, saliency_threshold=0.5)
    assert torch.equal(metric(*pair), plain(*pair, *map(left, pair)))
    right = left(pair[0]).flip(-1)
    assert torch.equal(metric(*pair, right, right), plain(*pair, right, right))
    assert "left" in metric.description


@pytest.mark.parametrize("method", ["gbvs", pytest.param("spectral", marks=pytest.mark.slow)])
def test_tiles_and_windows_are_the_whole(method, photographs, recorded):
    x, y = photographs[0][..., :180, :200].double(), photographs[1][..., :200, :190].double()
    options = {"saliency": method, "saliency_threshold": 0.25}
    backbone = build_backbone("efficientnet_lite0", layers="stage1", weights=None).double()
    whole = MSDS(2, backbone=backbone, **options)
    tiled = MSDS(2, backbone=backbone, tile=64, **options)
    torch.testing.assert_close(tiled(x, y), whole(x, y), atol=1e-10, rtol=0)
    sources = recorded(x), recorded(y)
    torch.testing.assert_close(tiled(*sources), whole(x, y), atol=1e-10, rtol=0)
    assert sources[0].largest < x[0, 0].numel()


def test_calibrated_and_plain_are_never_compared(lite0, pair, tmp_path):
    made = [
        metric.represent(pair[0])
        for metric in (
            DeepSSIM(lite0),
            DeepSSIM(lite0, saliency="gbvs"),
            DeepSSIM(lite0, saliency="gbvs", saliency_threshold=0.25),
            DeepSSIM(lite0, saliency="spectral"),
        )
    ]
    assert len({each.source for each in made}) == 4
    with pytest.raises(ValueError, match="was made by"):
        DeepSSIM(lite0, saliency="gbvs").compare(made[0], made[1])
    DeepSSIM(lite0, saliency="gbvs").save(made[1], tmp_path / "it.safetensors")
    with pytest.raises(ValueError, match="was made by"):
        DeepSSIM(lite0).load(tmp_path / "it.safetensors")


def test_gradients_flow_through_the_masked_image(lite0, pair):
    x = pair[0].clone().requires_grad_()
    loss = DeepSSIMLite(lite0, saliency="gbvs", saliency_threshold=0.25)
    loss(x, pair[1]).sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda image: 3, r"must return a torch.Tensor, got int"),
        (lambda image: image, r"must return maps \(N, 1, H, W\) or \(N, H, W\)"),
        (lambda image: image[:, :1, :-1], r"must return maps"),
        (lambda image: image[:, 0] * float("nan"), "NaN or infinite"),
        (lambda image: image[:, 0] * 0, "nowhere above the threshold of 0"),
    ],
)
def test_a_function_that_returns_nonsense(returned, message, lite0, pair):
    others = [made(weights=None, saliency=returned) for made in (MSDSAlign, MSDSRetarget)]
    for metric in [*ours(lite0, saliency=returned), *others]:
        with pytest.raises(ValueError, match=message):
            metric(*pair)


def test_bad_maps_where_pairs_do_not_line_up(pair):
    align, retarget = MSDSAlign(weights=None), MSDSRetarget(weights=None)
    good = torch.ones(2, *pair[0].shape[-2:])
    empty = good * torch.tensor([1.0, 0.0]).view(2, 1, 1)
    for bad, message in ((good * float("nan"), "NaN or infinite"), (empty, "nowhere above"), (good[..., :-1], "same size")):
        with pytest.raises(ValueError, match=message):
            align(*pair, good, bad)
        with pytest.raises(ValueError, match=message):
            retarget(*pair, bad)
    with pytest.raises(ValueError, match="negative"):
        retarget(*pair, -good)


@pytest.mark.parametrize("threshold", [float("nan"), float("inf"), "high", None])
def test_thresholds_are_finite_numbers(threshold, lite0):
    for metric in (DeepSSIM, MSDSRetarget):
        with pytest.raises(ValueError, match="saliency_threshold must be a finite number"):
            metric(backbone=lite0, saliency_threshold=threshold)


def test_unknown_names_and_maps_at_construction():
    for made in (partial(DeepSSIM, "alexnet"), MSDSAlign, MSDSRetarget):
        with pytest.raises(ValueError, match=r"unknown saliency 'gbsv': choose from gbvs, spectral, features"):
            made(weights=None, saliency="gbsv")
    with pytest.raises(TypeError, match="a map is given with the images"):
        DeepSSIM("alexnet", weights=None, saliency=torch.ones(1, 1, 8, 8))
