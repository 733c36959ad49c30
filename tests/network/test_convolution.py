"""Convolutions by oneDNN's kernel give what torch gives, and only where nothing else is asked of them."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from msds_plugin import BACKBONES, MSDS, DeepSSIM, build_backbone
from msds_plugin.network import convolution
from msds_plugin.network.sharing import Original, unchanging


def needs_kernel(dtype=torch.float32):
    if not convolution._kernels_work(dtype):
        pytest.skip(f"this processor or torch has no kernel for {dtype}")


@pytest.fixture(autouse=True)
def _for_small_maps_too(monkeypatch):
    monkeypatch.setattr(convolution, "FEW_POSITIONS", 0)


@pytest.fixture
def calls(monkeypatch):
    """What the kernels are called with."""
    seen = []
    for name in ("_convolve", "_multiply", "_multiply_add"):
        kernel = getattr(convolution, name)
        monkeypatch.setattr(convolution, name, lambda *a, kernel=kernel: seen.append(a) or kernel(*a))
    return seen


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", BACKBONES)
def test_every_layer_as_by_torch(name, batch, calls):
    needs_kernel()
    if name == "efficientnet_lite0":
        pytest.importorskip("timm")
    network = build_backbone(name, list(BACKBONES[name].layers), weights=None)
    image = torch.rand(batch, 3, 97, 130)
    with torch.no_grad():
        found, again = network(image), network(image)
    assert calls
    for one, twice, other in zip(found, again, network(image), strict=True):
        assert torch.equal(one, twice)
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4 * other.abs().max().item())


def test_bfloat16_as_by_torch(calls):
    needs_kernel(torch.bfloat16)
    metric = DeepSSIM("alexnet", weights=None)
    x, y = torch.rand(2, 2, 3, 80, 96)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            found = metric(x, y)
            assert torch.equal(metric(x, x), torch.ones(2))
        assert {a[0].dtype for a in calls} == {torch.bfloat16}
        torch.testing.assert_close(found, metric(x, y), rtol=0, atol=1e-3)


def test_what_is_asked_beside_the_numbers_goes_by_torch(calls):
    metric = DeepSSIM("alexnet", weights=None)
    x, y = torch.rand(2, 1, 3, 64, 64)
    changing = x.clone().requires_grad_()
    metric(changing, x).sum().backward()
    assert not changing.grad.any(), "equal images, of which one needs a gradient, have equal features"
    torch.func.vmap(lambda a: metric(a[None], y))(x)
    torch.func.jvp(lambda a: metric(a, y), (x,), (x,))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        metric(x, y)
    assert counter.get_total_flops() > 0
    with torch.no_grad():
        metric.double()(x.double(), y.double())
    assert not calls


@pytest.mark.parametrize("change", [lambda w: w.data.mul_(2), lambda w: nn.init.normal_(w), lambda w: w.numpy().fill(0.1)])
@pytest.mark.parametrize(("name", "path"), [("alexnet", "0"), ("efficientnet_lite0", "7.0.conv_pw")])
def test_changed_weights_count_at_once(name, path, change):
    if name == "efficientnet_lite0":
        pytest.importorskip("timm")
    metric, other = (DeepSSIM(name, weights=None) for _ in range(2))
    x, y = torch.rand(2, 1, 3, 64, 64)
    with torch.no_grad():
        before = metric(x, y), other(x, y)
        change(metric.backbone.net.get_submodule(path).weight.detach())
        after = metric(x, y)
        assert not torch.equal(after, before[0])
        assert torch.equal(other(x, y), before[1])
    torch.testing.assert_close(after, metric(x, y), rtol=0, atol=1e-5)


def test_weights_are_looked_at_once_per_pair_however_many_levels(monkeypatch):
    needs_kernel()
    pytest.importorskip("timm")
    seen = []
    look = Original.is_unchanged_in
    monkeypatch.setattr(Original, "is_unchanged_in", lambda original, tensor: seen.append(original) or look(original, tensor))
    metric = MSDS(backbone="efficientnet_lite0", weights=None)
    x, y = torch.rand(2, 1, 3, 400, 420)  # in pieces, on the first level
    with torch.no_grad():
        metric(x, y)
        assert seen
        assert len(seen) == len(set(map(id, seen)))
        first = len(seen)
        metric(x, y)
    assert len(seen) == 2 * first


def test_kept_weights_are_made_once_and_leave_the_originals_shared():
    needs_kernel()
    pytest.importorskip("timm")
    network = build_backbone("efficientnet_lite0", weights=None)
    image = torch.rand(2, 3, 70, 90)
    products = [m for m in network.modules() if isinstance(m, convolution.Convolution) and m.kind == "product"]
    assert products
    with torch.no_grad():
        network(image)
        kept = [m.originals["weight"].kept(torch.float32) for m in products]
        network(image[..., :50])
    assert all(m.kernel(torch.float32) is not None for m in products)
    assert all(m.originals["weight"].kept(torch.float32) is weight for m, weight in zip(products, kept, strict=True))


def test_copies_and_pickles_score_alike():
    metric = DeepSSIM("alexnet", weights=None)
    x, y = torch.rand(2, 1, 3, 64, 64)
    with torch.no_grad():
        expected = metric(x, y)
        for twin in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
            assert torch.equal(twin(x, y), expected)
            assert list(twin.state_dict()) == list(metric.state_dict())


def test_a_torch_without_the_kernel_is_served_by_torch(monkeypatch):
    def missing(*_):
        raise AttributeError("no such operator")

    metric = DeepSSIM("alexnet", weights=None)
    x, y = torch.rand(2, 1, 3, 64, 64)
    expected = metric(x, y)
    monkeypatch.setattr(convolution, "_convolve", missing)
    convolution._kernels_work.cache_clear()
    try:
        with torch.no_grad():
            torch.testing.assert_close(metric(x, y), expected, rtol=0, atol=1e-6)
        assert not convolution._kernels_work(torch.float32)
    finally:
        convolution._kernels_work.cache_clear()


def test_a_hook_that_comes_while_weights_are_not_looked_at_again_is_seen():
    pytest.importorskip("timm")
    network = build_backbone("efficientnet_lite0", weights=None)
    image = torch.rand(1, 3, 64, 64)
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    seen = []
    with torch.no_grad(), unchanging():
        network(image)
        hooks = [layer.register_forward_hook(lambda *_: seen.append(1)) for layer in layers]
        network(image)
        for hook in hooks:
            hook.remove()
    assert len(seen) == len(layers)


def test_hooks_see_every_convolution():
    pytest.importorskip("timm")
    network = build_backbone("efficientnet_lite0", weights=None)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = network(image)
        seen = []
        layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
        hooks = [layer.register_forward_hook(lambda *_: seen.append(1)) for layer in layers]
        found = network(image)
        assert len(seen) == len(layers)
        for hook in hooks:
            hook.remove()
        with_global = nn.modules.module.register_module_forward_hook(lambda m, *_: seen.append(m))
        found_again = network(image)
        with_global.remove()
    assert sum(isinstance(module, nn.Conv2d) for module in seen) == len(layers)
    for one, other, third in zip(expected, found, found_again, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one, third)
