import gc

import numpy as np
import pytest
import torch
from PIL import Image

from msds_plugin import registry

pyiqa = pytest.importorskip("pyiqa")
pytest.importorskip("timm")

from msds_plugin.adapters import pyiqa as adapters_pyiqa  # noqa: E402
from msds_plugin.adapters.pyiqa import metric as adapter  # noqa: E402

NAMES = ["deepssim", "deepssim-lite", "deepssim-fast", "msds", "msds-lite", "msds-fast"]


def images(n: int = 2, height: int = 128, width: int = 136) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    y = torch.rand(n, 3, height, width, generator=generator)
    return (y + 0.2 * torch.rand(y.shape, generator=generator)).clamp(0, 1), y


def options(name: str) -> dict[str, object]:
    return {} if name.endswith("-fast") else {"backbone": "alexnet", "weights": None, "layers": "relu2"}


@pytest.mark.parametrize("name", NAMES)
def test_created_by_name(name):
    x, y = images()
    extra = {"levels": 2} if name.startswith("msds") else {}
    metric = pyiqa.create_metric(name, **options(name), **extra)
    entry = registry.get(name)
    assert metric.lower_better is entry.lower_is_better
    assert [float(part) for part in metric.score_range.split(",")] == list(entry.score_range)
    assert metric(x, y).shape == (2, 1)
    assert metric(y, y).flatten().tolist() == [entry.best] * 2
    assert not metric.net.training


def test_same_score_as_the_core_to_the_last_bit():
    x, y = images()
    core = registry.create("msds-fast", levels=2, fusion=(0.3, 0.7))
    metric = pyiqa.create_metric("msds-fast", levels=2, fusion=(0.3, 0.7), device="cpu")
    with torch.no_grad():  # as pyiqa does: with gradients torch's own kernels run, which round in another order
        assert torch.equal(metric(x, y)[:, 0], core(x, y))
    torch.testing.assert_close(metric(x, y)[:, 0], core(x, y), rtol=0, atol=1e-6)


def test_file_paths(tmp_path):
    x, y = images(1)
    paths = []
    for name, image in (("x.png", x), ("y.png", y)):
        array = (image[0].permute(1, 2, 0) * 255).round().byte().numpy()
        Image.fromarray(array).save(tmp_path / name)
        paths.append(str(tmp_path / name))
    x, y = (torch.from_numpy(np.asarray(Image.open(path)) / np.float32(255)).permute(2, 0, 1)[None] for path in paths)
    metric = pyiqa.create_metric("deepssim-fast", device="cpu")
    assert torch.equal(metric(*paths), metric(x, y))


@pytest.mark.parametrize("name", NAMES)
def test_as_loss(name):
    x, y = images()
    x = (x * 1.3).requires_grad_()  # a network's output may leave [0, 1]
    loss = pyiqa.create_metric(name, as_loss=True, device="cpu", **options(name))
    value = loss(x, y)
    assert value.shape == ()
    value.backward()
    assert x.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in loss.parameters())


def test_loss_reduction_and_weight():
    x, y = images()
    scores = pyiqa.create_metric("deepssim-fast", device="cpu")(x, y)
    total = pyiqa.create_metric(
        "deepssim-fast", as_loss=True, loss_reduction="sum", loss_weight=torch.tensor([[2.0]]), device="cpu"
    )(x, y)
    assert torch.allclose(total, 2 * scores.sum())


def test_loss_accepts_what_a_network_in_validation_gives():
    x, y = images()
    with torch.no_grad():
        assert pyiqa.create_metric("deepssim-fast", as_loss=True, device="cpu")(x * 1.3, y).isfinite()


def test_grey_images():
    x, y = images()
    metric = pyiqa.create_metric("deepssim-fast", device="cpu")
    assert torch.equal(metric(x[:, :1], y[:, :1]), metric(x[:, :1].expand(-1, 3, -1, -1), y[:, :1].expand(-1, 3, -1, -1)))


def test_attaching_again_changes_nothing(recwarn):
    before = {name: dict(pyiqa.default_model_configs.DEFAULT_CONFIGS[name]) for name in NAMES}
    adapter.attach()
    adapter.attach()
    assert {name: pyiqa.default_model_configs.DEFAULT_CONFIGS[name] for name in NAMES} == before
    assert not [w for w in recwarn if "msds" in str(w.message)]


def test_a_users_metric_appears(own_metric):
    registry.register(own_metric)
    assert own_metric.name in pyiqa.list_models()
    x, y = images()
    metric = pyiqa.create_metric(own_metric.name, device="cpu")
    assert torch.allclose(metric(x, y)[:, 0], (x - y).abs().mean((1, 2, 3)))
    assert metric.lower_better


def test_a_name_of_pyiqa_is_left_alone(own_metric):
    adapter.DEFAULT_CONFIGS[own_metric.name] = theirs = {"metric_opts": {"type": "Theirs"}, "metric_mode": "FR"}
    with pytest.warns(RuntimeWarning, match="already"):
        registry.register(own_metric)
    assert adapter.DEFAULT_CONFIGS[own_metric.name] is theirs


@pytest.fixture
def random_vgg16(monkeypatch):
    """torchvision's VGG16 without its weights, which the toolkits' metrics ask for."""
    from torchvision import models

    make = models.vgg16
    torch.manual_seed(0)
    monkeypatch.setattr(models, "vgg16", lambda *_, **__: make(weights=None))


@pytest.mark.parametrize("donor", [("dists", {"pretrained": False}), ("lpips-vgg", {"pretrained": False, "pnet_rand": True})])
def test_borrows_the_vgg16_of_a_live_metric(random_vgg16, donor):
    name, settings = donor
    bystanders = [pyiqa.create_metric(other, device="cpu") for other in ("psnr", "ssim")]
    live = pyiqa.create_metric(name, device="cpu", **settings)
    theirs = {torch._C._data_address(p) for p in live.parameters()}
    metric = pyiqa.create_metric("msds", backbone=adapters_pyiqa.lend(live), levels=2, device="cpu")
    copied = pyiqa.create_metric("msds", backbone=live, levels=2, device="cpu")
    ours = list(metric.net.metric.metric.backbone.net.parameters())
    assert len(ours) == 2 * 11  # conv1_1 to conv5_1
    assert all(torch._C._data_address(p) in theirs for p in ours)
    x, y = images()
    assert metric(y, y).eq(1).all()
    score = metric(x, y)
    assert score.lt(1).all()
    assert torch.equal(copied(x, y), score)
    live.net.apply(lambda module: isinstance(module, torch.nn.Conv2d) and torch.nn.init.zeros_(module.weight))
    assert torch.equal(metric(x, y), score)
    assert len(bystanders) == 2


def test_moving_the_borrower_leaves_the_lender(random_vgg16):
    live = pyiqa.create_metric("dists", pretrained=False, device="cpu")
    metric = pyiqa.create_metric("deepssim", backbone=live, device="cpu")
    metric.net.double()
    assert {p.dtype for p in live.net.stage1.parameters()} == {torch.float32}
    assert {p.dtype for p in metric.net.parameters()} == {torch.float64}


def test_a_metric_without_vgg16_cannot_lend(random_vgg16):
    live = pyiqa.create_metric("ssim", device="cpu")
    with pytest.raises(ValueError, match="no VGG16"):
        pyiqa.create_metric("msds", backbone=live)


def test_missing_weights_name_the_way_out(monkeypatch, tmp_path):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(FileNotFoundError, match="msds-fast") as caught:
        pyiqa.create_metric("msds")
    assert "vgg16-397923af.pth" in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_nothing_keeps_a_metric_alive():
    metric = pyiqa.create_metric("deepssim-fast", device="cpu")
    import weakref

    ghost = weakref.ref(metric)
    del metric
    gc.collect()
    assert ghost() is None
