"""MSDS-Align: its parts against plain formulas, invariants, tiles, gradients, people's opinions."""

import numpy as np
import pandas as pd
import pytest
import scipy.ndimage
import torch
from scipy.stats import spearmanr
from torch import Tensor

from msds_plugin import MSDSAlign, build_backbone
from msds_plugin.functional import block_dissimilarity, covariance_matrix, gram_matrix, smooth_halve
from msds_plugin.windows import SmoothHalved, as_windows


@pytest.fixture(scope="module")
def metric() -> MSDSAlign:
    return MSDSAlign()


def test_covariances_are_numpys():
    features = torch.rand(2, 5, 6, 7, dtype=torch.float64)
    for got, given in zip(covariance_matrix(features), features.flatten(2), strict=True):
        np.testing.assert_allclose(got, np.cov(given, bias=True), atol=1e-14)


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (33, 5)])
def test_half_size_is_scipys_also_in_windows(size):
    image = torch.rand(1, 2, *size, dtype=torch.float64)
    kernel = np.array([1, 4, 6, 4, 1]) / 16
    smooth = scipy.ndimage.convolve1d(scipy.ndimage.convolve1d(image, kernel, 2, mode="mirror"), kernel, 3, mode="mirror")
    whole, halved = smooth_halve(image), SmoothHalved(as_windows(image))
    np.testing.assert_allclose(whole, smooth[..., ::2, ::2], atol=1e-14)
    assert halved.shape == whole.shape
    height, width = whole.shape[-2:]
    for top, left, rows, columns in ((0, 0, height, width), (0, 0, 1, 1), (height - 1, width - 1, 1, 1), (1, 1, 2, width - 1)):
        torch.testing.assert_close(halved.read(top, left, rows, columns), whole[..., top : top + rows, left : left + columns])


def test_the_formula(metric, photographs):
    x, y = photographs[0], photographs[0][..., 4:, 3:].flip(-1)
    net = build_backbone("efficientnet_lite0")

    def parts(image: Tensor) -> list[Tensor]:
        deep, shallow = net(image)[3:], net(smooth_halve(image))[:3]
        grams = [gram_matrix(f) / f[0, 0].numel() for f in (*deep, shallow[1])]
        return [covariance_matrix(f) for f in shallow] + grams

    s = [1 - block_dissimilarity(a, b) for a, b in zip(parts(x), parts(y), strict=True)]
    wanted = 0.88 * (s[0] + 2 * s[1] + 2 * s[2] + 3 * s[5]) / 8 + 0.12 * (2 * s[3] + s[4]) / 3
    torch.testing.assert_close(metric(x, y), wanted, atol=1e-5, rtol=0)
    assert metric(torch.cat(photographs), torch.cat(photographs)).tolist() == [1, 1, 1]


@pytest.mark.slow
def test_tiles_are_the_whole(photographs):
    made = []
    for tile in (None, 64):
        torch.manual_seed(0)
        made.append(MSDSAlign(weights=None, tile=tile, saliency="gbvs", saliency_threshold=0.25).double())
    x, y = photographs[0][..., :131, :150].double(), photographs[1][..., :140, :133].double()
    wanted = made[0](x, y)
    torch.testing.assert_close(made[1](x, y), wanted, atol=1e-10, rtol=0)
    torch.testing.assert_close(made[1](as_windows(x), as_windows(y)), wanted, atol=1e-10, rtol=0)


def test_gradcheck():
    metric = MSDSAlign(weights=None).double()
    x, y = (torch.rand(1, 3, 32, 34, dtype=torch.float64) for _ in range(2))
    direction = torch.randn_like(x)
    direction /= direction.norm()
    along = torch.zeros((), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda step: metric(x + step * direction, y), along, eps=1e-6, atol=1e-7)


def test_forgives_displacement_more_than_damage(metric, photographs):
    y = photographs[1]
    noisy, blurred = (y + 0.1 * torch.randn_like(y)).clamp(0, 1), torch.nn.functional.avg_pool2d(y, 5, 1, 2)
    with torch.no_grad():
        assert metric(y[..., 7:, 9:], y) > max(metric(noisy, y), metric(blurred, y))


def test_bad_input(metric):
    with pytest.raises(ValueError, match="too small"):
        metric(torch.rand(1, 3, 31, 64), torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"values in \[0, 1\]"):
        metric(2 + torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64))


def test_matrices_are_not_rounded_under_autocast(metric, photographs):
    x = photographs[0][..., :96, :128]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = metric.represent(x).half
        features = metric.network.views[1].backbone(smooth_halve(x))[1].float()
    wanted = gram_matrix(features) / features[0, 0].numel()
    assert half[-1].dtype is torch.float32
    torch.testing.assert_close(half[-1], wanted, rtol=1e-4, atol=1e-5 * wanted.abs().max().item())


@pytest.mark.slow
def test_agrees_with_people_on_synthesised_views(metric, shared, read):
    folder = shared / "data/view_synthesis"
    labels = pd.read_csv(folder / "labels.csv")
    made = {name: metric.represent(read(folder / "images" / name)) for name in {*labels.ref_name, *labels.dist_name}}
    scores = [metric.compare(made[a], made[b]).item() for a, b in zip(labels.dist_name, labels.ref_name, strict=True)]
    assert spearmanr(scores, labels.mos)[0] > 0.85
