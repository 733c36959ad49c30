"""MSDS-Retarget: coverage in cases that are known, invariants, people's votes."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import kendalltau
from torch import Tensor

from msds_plugin import MSDSRetarget
from msds_plugin.retarget import coverage


@pytest.fixture(scope="module")
def metric() -> MSDSRetarget:
    return MSDSRetarget()


@pytest.fixture(scope="module")
def features() -> Tensor:
    """A map on which every position looks different from every other."""
    return torch.randn(64, 6, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class TestCoverage:
    def test_of_the_reference_itself_is_one(self, features):
        found = coverage(features, features, (96, 160), (96, 160))
        torch.testing.assert_close(found, torch.ones_like(found), atol=0.05, rtol=0)

    def test_of_a_crop_is_one_inside_and_zero_outside(self, features):
        found = coverage(features[:, :, 3:], features, (96, 112), (96, 160))
        assert found.sum().item() == pytest.approx(6 * 7)  # its area
        torch.testing.assert_close(found[:, 3:], torch.ones_like(found[:, 3:]), atol=0.05, rtol=0)
        assert found[:, :3].max() < 0.05

    def test_of_half_the_width_is_a_half(self, features):
        found = coverage(features, features.repeat_interleave(2, 2), (96, 160), (96, 320))
        torch.testing.assert_close(found, torch.full_like(found, 0.5), atol=0.05, rtol=0)

    def test_content_does_not_go_where_it_cannot(self, features, monkeypatch):
        swapped = torch.cat([features[:, 3:], features[:, :3]], 1)  # upper and lower half, in an image of the same size
        here = (coverage(swapped, features, (96, 160), (96, 160)) - 1).abs().max()
        monkeypatch.setattr("msds_plugin.retarget.DISTANCE_COST", 0)
        anywhere = (coverage(swapped, features, (96, 160), (96, 160)) - 1).abs().max()
        assert anywhere < 0.05
        assert here > 0.2


def test_identical_is_exactly_one_and_losing_what_is_salient_costs_more(metric, photographs):
    y = photographs[0]
    everywhere = torch.zeros(1, 1, *y.shape[-2:])
    everywhere[..., :64] = 1
    with torch.no_grad():
        assert metric(y, y).item() == 1
        assert metric(y[..., 64:], y, everywhere) < metric(y[..., 64:], y) < 1


def test_gradcheck():
    metric = MSDSRetarget(weights=None).double()
    x, y = torch.rand(1, 3, 64, 66, dtype=torch.float64), torch.rand(1, 3, 64, 80, dtype=torch.float64)
    reference, direction = metric.represent(y), torch.randn_like(x)
    direction /= direction.norm()
    along = torch.zeros((), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda step: metric.compare(metric.represent(x + step * direction), reference), along, eps=1e-6, atol=1e-6
    )


def test_bad_input(metric):
    with pytest.raises(ValueError, match="too small"):
        metric(torch.rand(1, 3, 63, 100), torch.rand(1, 3, 100, 100))
    with pytest.raises(ValueError, match="too long"):
        metric.represent(torch.rand(1, 3, 64, 2000))
    with pytest.raises(ValueError, match="made of saliency"):
        MSDSRetarget(saliency=None)
    y = torch.rand(1, 3, 100, 100)
    with pytest.raises(ValueError, match="one reference per distorted image"):
        metric(torch.cat([y, y]), y, y[:, 0])


@pytest.mark.slow
def test_agrees_with_peoples_votes(metric, shared, read):
    folder = shared / "data/retargetme"
    labels = pd.read_csv(folder / "labels.csv")
    taus = []
    for reference, group in labels.groupby("ref_name"):
        made = metric.represent(read(folder / "images" / str(reference)))
        scores = [metric.compare(metric.represent(read(folder / "images" / n)), made).item() for n in group.dist_name]
        taus.append(kendalltau(scores, group.votes)[0])
    assert np.mean(taus) > 0.40
