"""MSDS for aligned pairs: its formula, and the same score however an image is held."""

import pytest
import torch

from msds_plugin import MSDS, build_backbone
from msds_plugin.aligned import AlignedMSDS
from msds_plugin.functional import energy_dissimilarity
from msds_plugin.windows import as_windows


@pytest.fixture(scope="module")
def metrics():
    network = build_backbone("alexnet", ["relu2", "relu5"], None)
    return [kind(levels=2, backbone=network) for kind in (AlignedMSDS, MSDS)] + [AlignedMSDS(2, backbone=network, tile=64)]


def images(height: int = 150, width: int = 131) -> tuple[torch.Tensor, torch.Tensor]:
    y = torch.rand(2, 3, height, width)
    return (y + 0.1 * torch.randn_like(y)).clamp(0, 1), y


def test_formula(metrics):
    aligned, msds, _ = metrics
    x, y = images()
    features = [msds.backbone(image) for image in (x, y)]
    share = [(p - q).square().sum((1, 2, 3)) / (p.square() + q.square()).sum((1, 2, 3)) for p, q in zip(*features, strict=True)]
    torch.testing.assert_close(aligned(x, y), (msds(x, y) + 1 - sum(share) / 2) / 2, rtol=0, atol=1e-6)
    assert aligned(y, y).tolist() == [1.0, 1.0]


def test_tiles_windows_and_both_kinds_at_once(metrics):
    aligned, _, tiled = metrics
    x, y = images()
    expected = aligned(x, y)
    first = aligned(x[:1], as_windows(y[:1]))
    for found in (tiled(x, y), torch.cat([first, aligned(as_windows(x[1:]), as_windows(y[1:]))])):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_gradients_flow_through_tiles(metrics):
    aligned, _, tiled = metrics
    x, y = images()
    whole, in_tiles = (torch.autograd.grad(metric(x.requires_grad_(), y).sum(), x)[0] for metric in (aligned, tiled))
    torch.testing.assert_close(in_tiles, whole, rtol=1e-3, atol=1e-6)
    pair = [torch.rand(1, 2, 3, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(energy_dissimilarity, pair)


def test_two_sizes_and_saliency_are_refused(metrics):
    with pytest.raises(ValueError, match="needs images of one size, got 96 x 96 and 96 x 95"):
        metrics[0](torch.rand(1, 3, 96, 96), torch.rand(1, 3, 96, 95))
    with pytest.raises(ValueError, match="takes no saliency"):
        AlignedMSDS(1, backbone=metrics[0].backbone, saliency="gbvs")(*images())
