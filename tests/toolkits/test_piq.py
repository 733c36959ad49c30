from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import piq
import pytest
import torch
from torch import nn

from msds_plugin import BACKBONES, registry
from msds_plugin.adapters import piq as adapter
from msds_plugin.fusion_file import FusionFile, FusionTarget

ALEXNET = {"backbone": "alexnet", "weights": None, "layers": "relu2"}


def images(n: int = 2, height: int = 96, width: int = 104) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    y = torch.rand(n, 3, height, width, generator=generator)
    return (y + 0.2 * torch.rand(y.shape, generator=generator)).clamp(0, 1), y


def test_reductions():
    x, y = images()
    loss = piq.MSDSFastLoss(reduction="none", levels=2, fusion=(0.3, 0.7))
    assert isinstance(loss, nn.modules.loss._Loss)
    assert loss(y, y).eq(0).all()
    options = {"levels": 2, "fusion": [0.3, 0.7]}
    none, mean, total = (piq.msds_fast(x, y, reduction=reduction, **options) for reduction in ("none", "mean", "sum"))
    torch.testing.assert_close(1 - loss(x, y), none)
    assert torch.equal(mean, none.mean())
    assert torch.equal(total, none.sum())
    for call in (lambda: piq.deepssim_fast(x, y, reduction="max"), lambda: piq.DeepSSIMLoss(reduction="max", **ALEXNET)):
        with pytest.raises(ValueError, match="reduction"):
            call()


def test_data_range():
    x, y = ((255 * image).round() for image in images())
    expected = piq.deepssim_fast(x / 255, y / 255)
    for pair in ((x, y), (x.byte(), y.byte()), (x.byte(), y)):
        torch.testing.assert_close(piq.deepssim_fast(*pair, data_range=255), expected, rtol=0, atol=1e-6)
    with pytest.raises(AssertionError, match=r"lower or equal to 1.0.*pass data_range=255"):
        piq.deepssim_fast(x, y)
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="data_range"):
            piq.DeepSSIMLoss(data_range=wrong, **ALEXNET)


def test_input_checks_are_piqs():
    x, y = images()
    assert piq.deepssim_fast(x[..., :96], y).isfinite()  # sizes may differ
    for pair in ((x[0], y[0]), (x[:1], y), (torch.cat([x, x[:, :1]], 1), torch.cat([y, y[:, :1]], 1))):
        with pytest.raises(AssertionError):
            piq.deepssim_fast(*pair)
    for devices in (("meta", "meta"), ("cpu", "meta")):
        with pytest.raises(ValueError, match="is on the device meta"):
            piq.deepssim_fast(*(image.to(device) for image, device in zip((x, y), devices, strict=True)))


def test_functions_keep_their_network():
    x, y = images(1)
    adapter._kept.cache_clear()
    scores = [piq.msds_fast(x, y, levels=2, fusion=form((0.25, 0.75))) for form in (tuple, tuple, list, torch.tensor)]
    assert torch.stack(scores).unique().numel() == 1
    assert adapter._kept.cache_info()[:2] == (1, 1)
    assert piq.msds_fast(x.double(), y.double(), levels=2, fusion=(0.25, 0.75)).dtype == torch.float64
    assert piq.msds_fast(x, y, levels=2, fusion=(0.25, 0.75)) == scores[0]


def test_random_weights_are_never_kept():
    x, y = images()
    assert piq.deepssim(x, y, **ALEXNET) != piq.deepssim(x, y, **ALEXNET)


def test_a_file_that_changes_is_read_again(tmp_path):
    x, y = images(1)
    target = FusionTarget("deepssim", "efficientnet_lite0", tuple(BACKBONES["efficientnet_lite0"].default))
    for weights in ((1.0, 0.0), (0.0, 1.0)):
        FusionFile("msds-fast", target, weights, None, "made up", 9, 3, 3, {}, "", "").save(tmp_path / "f.json")
        for path in (tmp_path / "f.json", str(tmp_path / "f.json")):
            found = piq.msds_fast(x, y, levels=2, fusion=path)
            torch.testing.assert_close(found, piq.msds_fast(x, y, levels=2, fusion=weights))


@pytest.fixture
def lpips(monkeypatch):
    """piq's LPIPS with random weights; its own cannot be had without a network."""
    from piq import perceptual

    make = perceptual.vgg16
    channels = (64, 128, 256, 512, 512)
    monkeypatch.setattr(perceptual, "vgg16", lambda *_, **__: make(weights=None))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: [torch.rand(1, c, 1, 1) for c in channels])
    torch.manual_seed(0)
    return piq.LPIPS()


@pytest.mark.slow
def test_uses_the_vgg16_of_a_live_metric(lpips):
    x, y = images()
    loss = piq.MSDSLoss(levels=2, backbone=lpips)
    theirs = {id(p) for p in lpips.model.parameters()}
    assert sum(id(p) in theirs for p in loss.metric.parameters()) == 2 * 11  # conv1_1 to conv5_1
    before = loss(x, y)
    assert 0 < before < 2
    assert torch.isclose(loss(x.double(), y.double()).float(), before, atol=1e-5)
    assert {p.dtype for p in lpips.parameters()} == {torch.float32}
    with pytest.raises(ValueError, match="its own weights"):
        piq.MSDSLoss(backbone=lpips, weights="vgg16.pth")
    with pytest.raises(ValueError, match="no VGG16"):
        piq.MSDSLoss(backbone=piq.SSIMLoss())


def test_an_object_that_can_be_called_on_a_pyramid():
    class Difference:
        def __call__(self, x, y):
            return (x - y).abs().mean((1, 2, 3))

    x, y = images()
    torch.testing.assert_close(piq.MultiScale(Difference(), levels=1)(x, y), (x - y).abs().mean())


def test_names_of_others_are_left_alone(own_metric, monkeypatch):
    mine = piq.MSDSLoss
    monkeypatch.setattr(piq, "test_difference", "theirs", raising=False)
    with pytest.warns(RuntimeWarning) as caught:
        registry.register(replace(own_metric, title="MSDS"))
    said = [str(warning.message) for warning in caught]  # torchmetrics' form, where loaded, says the same of MSDS
    assert {text.split()[2] for text in said if text.startswith("piq has")} == {"'test_difference'", "'MSDSLoss'"}
    assert piq.test_difference == "theirs"
    assert piq.MSDSLoss is mine


def test_one_loss_in_two_threads_with_two_types():
    loss = piq.MSDSLiteLoss(**ALEXNET, levels=1, learn_fusion=True)
    (fusion,) = loss.parameters()
    x, y = images()
    expected = loss(x, y).item()

    def work(dtype: torch.dtype) -> None:
        for _ in range(3):
            distorted = x.to(dtype, copy=True).requires_grad_()
            value = loss(distorted, y.to(dtype))
            value.backward()
            assert distorted.grad.dtype == value.dtype == dtype
            assert abs(value.item() - expected) < 1e-5

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, (torch.float32, torch.float64)))
    assert next(loss.parameters()) is fusion
