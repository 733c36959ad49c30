"""MSDS-Align: its parts against plain formulas, invariants, tiles, gradients, toolkits, people's opinions."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.ndimage
import torch
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor

from msds_plugin import MSDSAlign, Representation, build_backbone, registry
from msds_plugin.align import _SmoothHalved, covariance_matrix, smooth_halve
from msds_plugin.functional import block_dissimilarity, gram_matrix
from msds_plugin.windows import as_windows

#: What this metric gave when its constants were chosen; ``test_the_formula`` says why.
GOLDEN = {"hats_jpeg8": 0.87760, "shutters_rot3": 0.95694, "parrots_scale75": 0.94272}


def read_image(path: Path) -> Tensor:
    return torch.from_numpy(np.asarray(Image.open(path).convert("RGB"), np.float32) / 255).permute(2, 0, 1)[None]


@pytest.fixture(scope="module")
def metric() -> MSDSAlign:
    return MSDSAlign()


class Windowed:
    """An image that is no tensor."""

    def __init__(self, image: Tensor) -> None:
        self.image, self.shape = image, tuple(image.shape)

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        return self.image[..., top : top + height, left : left + width]


def test_covariances_are_numpys():
    features = torch.rand(2, 5, 6, 7, dtype=torch.float64)
    for got, given in zip(covariance_matrix(features), features.flatten(2), strict=True):
        np.testing.assert_allclose(got, np.cov(given, bias=True), atol=1e-14)


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (33, 5)])
def test_half_size_is_scipys(size):
    image = torch.rand(1, 2, *size, dtype=torch.float64)
    kernel = np.array([1, 4, 6, 4, 1]) / 16
    smooth = scipy.ndimage.convolve1d(scipy.ndimage.convolve1d(image, kernel, 2, mode="mirror"), kernel, 3, mode="mirror")
    np.testing.assert_allclose(smooth_halve(image), smooth[..., ::2, ::2], atol=1e-14)


@pytest.mark.parametrize("size", [(40, 36), (41, 37)])
def test_half_size_in_windows_is_that_of_the_whole(size):
    image = torch.rand(1, 3, *size, dtype=torch.float64)
    whole, halved = smooth_halve(image), _SmoothHalved(as_windows(image))
    assert halved.shape == whole.shape
    height, width = whole.shape[-2:]
    for top, left, rows, columns in ((0, 0, height, width), (0, 0, 1, 1), (height - 1, width - 1, 1, 1), (5, 3, 9, width - 3)):
        got = halved.read(top, left, rows, columns)
        torch.testing.assert_close(got, whole[..., top : top + rows, left : left + columns])


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


@pytest.mark.parametrize("name", list(GOLDEN))
def test_golden_value(name, metric, golden):
    found = metric(golden(f"{name}.png"), golden(f"{name.partition('_')[0]}.png"))
    assert found.item() == pytest.approx(GOLDEN[name], abs=2e-5)


def test_identical_is_exactly_one(metric, photographs):
    batch = torch.cat(photographs[:2])
    assert metric(batch, batch).tolist() == [1, 1]


def test_batches_and_representations(metric, photographs, tmp_path):
    x, y = torch.cat(photographs[:2]), torch.cat(photographs[1:3])
    alone = torch.cat([metric(x[i : i + 1], y[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(metric(x, y), alone, atol=1e-5, rtol=0)
    metric.represent(y).save(tmp_path / "y.safetensors")
    torch.testing.assert_close(
        metric.compare(metric.represent(x), Representation.load(tmp_path / "y.safetensors")), metric(x, y)
    )
    with pytest.raises(ValueError, match="was made by"):
        metric.compare(metric.represent(x), MSDSAlign(weights=None).represent(y))


def test_tiles_are_the_whole(photographs):
    saliency = "gbvs"
    torch.manual_seed(0)
    whole = MSDSAlign(weights=None, saliency=saliency, saliency_threshold=0.25).double()
    torch.manual_seed(0)
    tiled = MSDSAlign(weights=None, tile=64, saliency=saliency, saliency_threshold=0.25).double()
    x, y = photographs[0][..., :131, :150].double(), photographs[1][..., :140, :133].double()
    torch.testing.assert_close(tiled(x, y), whole(x, y), atol=1e-10, rtol=0)
    torch.testing.assert_close(tiled(Windowed(x), Windowed(y)), whole(x, y), atol=1e-10, rtol=0)


def test_gradcheck():
    metric = MSDSAlign(weights=None).double()
    x, y = (torch.rand(1, 3, 32, 34, dtype=torch.float64) for _ in range(2))
    direction = torch.randn_like(x)
    direction /= direction.norm()
    along = torch.zeros((), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda step: metric(x + step * direction, y), along, eps=1e-6, atol=1e-7)


def test_gradient_in_tiles_is_that_of_the_whole(photographs):
    torch.manual_seed(0)
    whole = MSDSAlign(weights=None).double()
    torch.manual_seed(0)
    tiled = MSDSAlign(weights=None, tile=64).double()
    grads = []
    for metric in (whole, tiled):
        x = photographs[0][..., :70, :132].double().requires_grad_()
        metric(x, photographs[1][..., :70, :132].double()).sum().backward()
        grads.append(x.grad)
    assert grads[0].abs().sum() > 0
    torch.testing.assert_close(*grads, atol=1e-9, rtol=1e-6)


def test_forgives_displacement_more_than_damage(metric, photographs):
    y = photographs[1]
    shifted = metric(y[..., 7:, 9:], y)
    noisy = metric((y + 0.1 * torch.randn_like(y)).clamp(0, 1), y)
    blurred = metric(torch.nn.functional.avg_pool2d(y, 5, 1, 2, count_include_pad=False), y)
    assert shifted > noisy
    assert shifted > blurred


def test_too_small_and_bad_input(metric):
    with pytest.raises(ValueError, match="too small"):
        metric(torch.rand(1, 3, 31, 64), torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"values in \[0, 1\]"):
        metric(2 + torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match="tile must be"):
        MSDSAlign(weights=None, tile=0)


def test_through_the_toolkits(metric, photographs):
    pyiqa, piq = pytest.importorskip("pyiqa"), pytest.importorskip("piq")
    from msds_plugin.adapters.scorers import create_scorer

    x, y = photographs[0], photographs[0][..., 6:, 2:]
    made = pyiqa.create_metric("msds-align", device="cpu")
    assert made.lower_better is False
    assert torch.equal(made(x, y)[0], metric(x, y))
    assert torch.equal(piq.msds_align(x, y, reduction="none"), metric(x, y))
    assert torch.equal(piq.MSDSAlignLoss(reduction="none")(x, y), 1 - metric(x, y))
    assert piq.MSDSAlignLoss()(y, y) == 0
    assert torch.equal(create_scorer("msds-align", "cpu").score(x, y), metric(x, y))


def test_loss_falls_where_pairs_do_not_line_up(photographs):
    piq = pytest.importorskip("piq")
    loss, y = piq.MSDSAlignLoss(), photographs[2][..., :64, :64]
    image = (0.5 + 0.1 * torch.randn(1, 3, 64, 64)).requires_grad_()
    optimiser = torch.optim.Adam([image], lr=0.03)
    values = []
    for _ in range(15):
        value = loss(image.clamp(0, 1), y)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        values.append(value.item())
    assert values[-1] < 0.8 * values[0]


@pytest.mark.parametrize("name", ["deepssim-lite", "msds-lite"])
def test_lite_fast_is_lite_on_the_small_network(name, photographs):
    x, y = photographs[0], photographs[0][..., 5:, :]
    metric = registry.create(f"{name}-fast")
    assert torch.equal(metric(x, y), registry.create(name, backbone="efficientnet_lite0")(x, y))
    assert metric(y, y) == 0
    with pytest.raises(ValueError, match="for another one use msds or deepssim"):
        registry.create(f"{name}-fast", backbone="alexnet")


@pytest.mark.slow
@pytest.mark.shared
def test_agrees_with_people_on_synthesised_views(metric, shared):
    folder = shared / "data/view_synthesis"
    labels = pd.read_csv(folder / "labels.csv")
    made = {name: metric.represent(read_image(folder / "images" / name)) for name in {*labels.ref_name, *labels.dist_name}}
    scores = [metric.compare(made[a], made[b]).item() for a, b in zip(labels.dist_name, labels.ref_name, strict=True)]
    assert spearmanr(scores, labels.mos)[0] > 0.85


def test_matrices_are_not_rounded_under_autocast(photographs):
    metric, x = MSDSAlign(), photographs[0][..., :96, :128]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        _, half = metric.represent(x).grams
        features = metric.shallow(smooth_halve(x))[1].float()
    with torch.no_grad():
        wanted = gram_matrix(features) / features[0, 0].numel()
    assert half[-1].dtype is torch.float32
    torch.testing.assert_close(half[-1], wanted, rtol=1e-4, atol=1e-5 * wanted.abs().max().item())
