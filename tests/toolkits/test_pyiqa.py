import gc
import weakref

import numpy as np
import pyiqa
import pytest
import torch
from PIL import Image
from pyiqa.default_model_configs import DEFAULT_CONFIGS

from msds_plugin import registry
from msds_plugin.adapters import pyiqa as adapter

NAMES = ["deepssim", "deepssim-lite", "deepssim-fast", "msds", "msds-lite", "msds-fast"]


def images(n: int = 2, height: int = 96, width: int = 104) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    y = torch.rand(n, 3, height, width, generator=generator)
    return (y + 0.2 * torch.rand(y.shape, generator=generator)).clamp(0, 1), y


@pytest.mark.parametrize("name", NAMES)
def test_created_by_name(name):
    x, y = images()
    options = {} if name.endswith("-fast") else {"backbone": "alexnet", "weights": None, "layers": "relu2"}
    extra = {"levels": 2} if name.startswith("msds") else {}
    metric = pyiqa.create_metric(name, device="cpu", **options, **extra)
    entry = registry.get(name)
    assert metric.lower_better is entry.lower_is_better
    assert [float(part) for part in metric.score_range.split(",")] == list(entry.score_range)
    assert metric(x, y).shape == (2, 1)
    assert metric(y, y).flatten().tolist() == [entry.best] * 2
    assert not metric.net.metric.training


def test_files(tmp_path):
    x, y = images(1)
    paths = []
    for name, image in (("x.png", x), ("y.png", y)):
        array = (image[0].permute(1, 2, 0) * 255).round().byte().numpy()
        Image.fromarray(array).save(tmp_path / name)
        paths.append(str(tmp_path / name))
    x, y = (torch.from_numpy(np.asarray(Image.open(path)) / np.float32(255)).permute(2, 0, 1)[None] for path in paths)
    metric = pyiqa.create_metric("deepssim-fast", device="cpu")
    assert torch.equal(metric(*paths), metric(x, y))


@pytest.mark.parametrize(("reduction", "of"), [("none", lambda each: each), ("mean", torch.mean), ("sum", torch.sum)])
def test_loss_reduction_and_weight(reduction, of):
    x, y = images()
    scores = pyiqa.create_metric("deepssim-fast", device="cpu")(x, y)
    options = {"as_loss": True, "loss_reduction": reduction, "loss_weight": torch.tensor([[2.0]])}
    loss = pyiqa.create_metric("deepssim-fast", device="cpu", **options)
    torch.testing.assert_close(loss(x, y), 2 * of(scores))


def test_a_loss_in_validation_scores_what_it_scores_in_training():
    x, y = images()
    loss = pyiqa.create_metric("msds-lite-fast", as_loss=True, device="cpu")
    with torch.no_grad():
        value = loss(x * 1.3, y)
    assert not value.requires_grad
    torch.testing.assert_close(value, loss((x * 1.3).requires_grad_(), y).detach())


def test_attaching_again_changes_nothing(recwarn):
    before = {name: dict(DEFAULT_CONFIGS[name]) for name in NAMES}
    adapter.attach()
    adapter.attach()
    assert {name: DEFAULT_CONFIGS[name] for name in NAMES} == before
    assert not [w for w in recwarn if "msds" in str(w.message)]


def test_a_name_of_pyiqa_is_left_alone(own_metric):
    DEFAULT_CONFIGS[own_metric.name] = theirs = {"metric_opts": {"type": "Theirs"}, "metric_mode": "FR"}
    with pytest.warns(RuntimeWarning, match="already"):
        registry.register(own_metric)
    assert DEFAULT_CONFIGS[own_metric.name] is theirs


@pytest.fixture
def random_vgg16(monkeypatch):
    """torchvision's VGG16 without its weights, which the toolkits' metrics ask for."""
    from torchvision import models

    make = models.vgg16
    torch.manual_seed(0)
    monkeypatch.setattr(models, "vgg16", lambda *_, **__: make(weights=None))


@pytest.mark.slow
@pytest.mark.parametrize("donor", [("dists", {"pretrained": False}), ("lpips-vgg", {"pretrained": False, "pnet_rand": True})])
def test_uses_the_vgg16_of_a_live_metric(random_vgg16, donor):
    name, settings = donor
    live = pyiqa.create_metric(name, device="cpu", **settings)
    theirs = {id(p) for p in live.parameters()}
    shared = pyiqa.create_metric("msds", backbone=adapter.lend(live), levels=2, device="cpu")
    copied = pyiqa.create_metric("msds", backbone=live, levels=2, device="cpu")
    assert sum(id(p) in theirs for p in shared.net.metric.parameters()) == 2 * 11  # conv1_1 to conv5_1
    assert not any(id(p) in theirs for p in copied.net.metric.parameters())
    x, y = images()
    assert shared(y, y).eq(1).all()
    score = shared(x, y)
    assert score.lt(1).all()
    assert torch.equal(copied(x, y), score)
    shared(x.double(), y.double())
    assert {p.dtype for p in live.parameters()} == {torch.float32}


def test_a_metric_without_vgg16_cannot_lend():
    live = pyiqa.create_metric("ssim", device="cpu")
    for backbone in (lambda: live, lambda: adapter.lend(live)):
        with pytest.raises(ValueError, match="no VGG16"):
            pyiqa.create_metric("msds", backbone=backbone())


def test_missing_weights_name_the_way_out(offline):
    with pytest.raises(FileNotFoundError, match="msds-fast") as caught:
        pyiqa.create_metric("msds")
    assert "vgg16-397923af.pth" in str(caught.value)
    assert str(offline) in str(caught.value)


def test_nothing_keeps_a_metric_alive():
    ghost = weakref.ref(pyiqa.create_metric("deepssim", backbone="alexnet", weights=None, device="cpu"))
    gc.collect()
    assert ghost() is None
