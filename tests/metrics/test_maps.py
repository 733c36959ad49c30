"""Where two images differ: shares that sum to the dissimilarity."""

import pytest
import torch
from torch import nn

from msds_plugin import MSDS, DeepSSIM, DeepSSIMLite, MSDSAlign, MSDSLite, MultiScale
from msds_plugin.functional import gram_matrix
from msds_plugin.maps import dissimilarity_map, map_parts
from msds_plugin.windows import as_windows


def made(kind, backbone, **options):
    torch.manual_seed(0)
    weights = {} if backbone == "efficientnet_lite0" else {"weights": None}
    if kind.startswith("msds"):
        return (MSDS if kind == "msds" else MSDSLite)(2, (0.7, 0.3), backbone=backbone, **weights, **options)
    return (DeepSSIM if kind == "deepssim" else DeepSSIMLite)(backbone, **weights, **options)


def dissimilarity(metric, x, y):
    return metric(x, y) if metric.lower_is_better else 1 - metric(x, y)


@pytest.mark.parametrize("backbone", ["alexnet", "squeezenet1_1", "efficientnet_lite0"])
@pytest.mark.parametrize("kind", ["deepssim", "deepssim-lite", "msds", "msds-lite"])
def test_shares_sum_to_the_dissimilarity(kind, backbone, pair):
    x, y = pair
    metric = made(kind, backbone)
    shares = metric.map(x, y)
    assert shares.shape == (2, 1, *x.shape[-2:])
    assert shares.dtype == torch.float32
    torch.testing.assert_close(shares.double().sum((1, 2, 3)), dissimilarity(metric, x, y).double(), rtol=1e-4, atol=1e-6)
    assert metric.map(y, y).abs().max() == 0
    assert torch.equal(metric.map(x.half(), y), metric.map(x.half().float(), y))


@pytest.mark.parametrize("kind", ["deepssim", "msds"])
def test_sizes_that_differ_have_a_part_each(kind, pair):
    x, y = pair
    metric = made(kind, "alexnet")
    of_x, of_y = map_parts(metric, x[..., :100, :128], y)
    assert (of_x.shape[-2:], of_y.shape[-2:]) == ((100, 128), y.shape[-2:])
    total = of_x.double().sum((1, 2, 3)) - of_y.double().sum((1, 2, 3))
    torch.testing.assert_close(total, dissimilarity(metric, x[..., :100, :128], y).double(), rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match="map_parts"):
        metric.map(x[..., :100, :128], y)


@pytest.mark.parametrize("saliency", [None, "gbvs"])
@pytest.mark.parametrize("kind", ["deepssim", "msds-lite"])
def test_tiles_and_saliency(kind, saliency, photographs):
    y = photographs[0]
    x = (y + 0.2 * torch.rand(y.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    options = {"saliency": saliency, "saliency_threshold": 0.25}
    metric = made(kind, "squeezenet1_1", **options)
    whole = metric.map(x, y)
    torch.testing.assert_close(whole.double().sum((1, 2, 3)), dissimilarity(metric, x, y).double(), rtol=1e-4, atol=1e-6)
    in_tiles = made(kind, "squeezenet1_1", tile=96, **options).map(x, y)
    for other in (in_tiles, metric.map(as_windows(x), as_windows(y))):
        torch.testing.assert_close(other, whole, rtol=0, atol=1e-3 * whole.abs().max().item())


def test_a_share_is_what_its_position_adds():
    """Against the definition: the Gram matrices position by position, without any of the map's algebra."""

    class Grid(nn.Module):
        def forward(self, image):
            return torch.nn.functional.pixel_unshuffle(image, 4)[:, :16]

    metric = DeepSSIM(Grid())
    x, y = torch.rand(2, 1, 3, 8, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    features = [Grid()(image)[0].flatten(1) for image in (x, y)]
    a, b = (gram_matrix(Grid()(image))[0] for image in (x, y))
    shares = torch.zeros(6, dtype=torch.float64)
    for i in range(0, 16, 4):
        for j in range(0, 16, 4):
            p, q = a[i : i + 4, j : j + 4], b[i : i + 4, j : j + 4]
            spread = p.var(correction=0) + q.var(correction=0) + 1e-6
            for place in range(6):
                mine = [f[i : i + 4, place].outer(f[j : j + 4, place]) for f in features]
                change = mine[0] - mine[1]
                covariance = ((change - change.mean()) * ((p - q) - (p - q).mean())).mean()
                shares[place] += covariance / spread / 16
    assert shares.sum().item() == pytest.approx(1 - metric(x, y).item(), abs=1e-9)
    cells = dissimilarity_map(metric, x, y)
    assert cells.sum().item() == pytest.approx(shares.sum().item(), abs=1e-6)
    # A cell's share is spread as far as the next cells: the corners hold half of theirs and more, so the order is kept.
    matrix = cells[0, 0].reshape(2, 4, 3, 4)[:, 1:3, :, 1:3].mean((1, 3)).flatten()
    assert torch.corrcoef(torch.stack([matrix.double(), shares]))[0, 1] > 0.8


def test_the_damage_is_found(photographs):
    metric = DeepSSIM("efficientnet_lite0", layers=["stage0", "stage1", "stage2"])
    reach = 67 // 2 + 8  # half a field of the last layer, and a position's step
    for y in photographs[:3]:
        noise = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        x = y.clone()
        x[..., 64:128, 96:160] = (x[..., 64:128, 96:160] + 0.3 * noise).clamp(0, 1)
        shares = metric.map(x, y)
        around = shares[..., 64 - reach : 128 + reach, 96 - reach : 160 + reach]
        assert shares.sum() > 0
        assert (around.sum() / shares.sum()).item() == pytest.approx(1, abs=1e-3)
        assert shares[..., 64:128, 96:160].sum() > 0.5 * shares.sum()  # a tenth of the image


def test_what_has_no_gram_matrices_has_no_map(pair):
    for metric in (MultiScale(lambda x, y: (x - y).mean((1, 2, 3)), 2), MSDSAlign(weights=None)):
        assert not metric.has_map
        with pytest.raises(TypeError, match="Gram"):
            dissimilarity_map(metric, *pair)
