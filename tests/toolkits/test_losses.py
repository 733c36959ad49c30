"""The metrics as losses through every way to call them: one number, any type, gradients, and nothing in the user's model."""

import copy
import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial

import piq
import pyiqa
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import msds_plugin.adapters.piq as in_piq
import msds_plugin.adapters.torchmetrics as in_torchmetrics
from msds_plugin import registry

LOSSES = [
    "msds-lite-fast",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("deepssim-fast", "deepssim-lite-fast", "msds-fast", "msds-hybrid")
    ),
]


def of_piq(name: str, **options: object) -> nn.Module:
    row = registry.get(name)
    loss = getattr(piq, f"{row.class_name}Loss")(**options)
    return loss if row.lower_is_better else Then(loss, partial(torch.sub, torch.ones(())))


class Then(nn.Module):
    """A metric or loss, and what is made of its value."""

    def __init__(self, metric: nn.Module, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.metric = metric
        self.function = function

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.function(self.metric(x, y))


class Model(nn.Module):
    """A user's model, whose loss is a part of it."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.net = nn.Conv2d(3, 3, 3, padding=1)
        self.loss = loss


ADAPTERS = {
    "plain": lambda name, **options: Then(registry.create(name, **options), torch.mean),
    "piq": of_piq,
    "pyiqa": lambda name, **options: pyiqa.create_metric(name, as_loss=True, device="cpu", **options),
    "torchmetrics": lambda name, **options: getattr(in_torchmetrics, registry.get(name).class_name)(**options),
}
OUTSIDE = ["piq", "pyiqa", "torchmetrics"]


def images(count: int = 2, side: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    y = 0.8 * torch.rand(count, 3, side, side, generator=generator)
    return y + 0.2 * torch.rand(y.shape, generator=generator), y


@pytest.mark.parametrize("name", LOSSES)
def test_one_number_and_one_gradient_through_every_adapter(name):
    found = {}
    for adapter, make in ADAPTERS.items():
        x, y = images()
        x.requires_grad_()
        value = make(name)(x, y)
        value.backward()
        found[adapter] = value.item(), x.grad
    for value, gradient in found.values():
        assert value == pytest.approx(found["plain"][0], abs=1e-6)
        assert gradient.abs().sum() > 0
        torch.testing.assert_close(gradient, found["plain"][1], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("name", LOSSES)
def test_mixed_precision(name, adapter):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Sigmoid())
    x, y = images(1)
    loss = ADAPTERS[adapter](name)
    wanted = loss(net(x), y).item()
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            prediction = net(x)
            assert prediction.dtype == dtype
            inside = loss(prediction, y)
        outside = loss(net(x).to(dtype), y)
        for value in (inside, outside):
            assert value.item() == pytest.approx(wanted, abs=0.03)
            (gradient,) = torch.autograd.grad(value, net[0].weight, retain_graph=True)
            assert gradient.isfinite().all()
            assert gradient.abs().sum() > 0


@pytest.mark.parametrize("adapter", OUTSIDE)
def test_the_features_are_no_part_of_the_users_model(adapter):
    model = Model(ADAPTERS[adapter]("msds-lite-fast")).train().requires_grad_(True)
    ours = [tensor for name, tensor in model.state_dict().items() if not name.startswith("net.")]
    assert sum(tensor.numel() for tensor in ours) == 0
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in model.net.parameters())
    x, y = images()
    before = model.loss(x, y).item()
    optimiser = torch.optim.SGD(model.parameters(), 0.5)
    for _ in range(2):
        optimiser.zero_grad()
        model.loss((x + 0.1 * model.net(x)).clamp(0, 1), y).backward()
        optimiser.step()
    assert model.loss(x, y).item() == before


@pytest.mark.parametrize("adapter", OUTSIDE)
def test_a_frozen_loss_has_nothing_that_distributed_training_waits_for(adapter):
    loss = ADAPTERS[adapter]("msds-lite-fast").requires_grad_(False)
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    x, y = images()
    (gradient,) = torch.autograd.grad(loss(x.requires_grad_(), y).sum(), x)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("adapter", OUTSIDE)
def test_learned_fusion_stays_the_parameter_that_its_optimiser_knows(adapter):
    loss = ADAPTERS[adapter]("msds-lite-fast", learn_fusion=True)
    (logits,) = [parameter for parameter in loss.parameters() if parameter.numel()]
    before = logits.detach().clone()
    optimiser = torch.optim.SGD([logits], 10.0)
    for dtype in (torch.float32, torch.float64, torch.float32):
        x, y = (image.to(dtype) for image in images(1))
        optimiser.zero_grad()
        loss(x, y).backward()
        optimiser.step()
        assert [p for p in loss.parameters() if p.numel()] == [logits]
        assert logits.dtype == torch.float32
    assert not torch.equal(logits, before)
    assert [value.numel() for value in loss.state_dict().values() if value.numel()] == [3]
    other = ADAPTERS[adapter]("msds-lite-fast", learn_fusion=True)
    other.load_state_dict(loss.state_dict(), assign=True)
    assert other(*images(1)).item() == loss(*images(1)).item()
    given = {name: value.detach() + torch.arange(value.numel()) for name, value in loss.named_parameters()}  # no parameters
    gradients = torch.func.grad(lambda values: torch.func.functional_call(loss, values, images(1)).sum())(given)
    assert all((gradient != 0).all() for gradient in gradients.values())
    expected = ADAPTERS[adapter]("msds-lite-fast", fusion=(logits.detach() + torch.arange(3)).softmax(0))(*images(1))
    assert torch.func.functional_call(loss, given, images(1)).item() == pytest.approx(expected.item(), abs=1e-6)
    assert copy.deepcopy(loss)(*images(1)).item() == loss(*images(1)).item()


@pytest.mark.parametrize("adapter", OUTSIDE)
def test_follows_its_input_and_survives_copies(adapter):
    x, y = images()
    loss = ADAPTERS[adapter]("msds-fast")
    single = loss(x, y).item()
    assert loss(x.double(), y.double()).item() == pytest.approx(single, abs=1e-5)
    assert loss(x, y).item() == single
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert twin(x, y).item() == single


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_call_in_inference_mode_leaves_later_gradients_alone(adapter):
    x, y = images(1)
    loss = ADAPTERS[adapter]("msds-fast")
    with torch.inference_mode():
        loss(x, y)
        if adapter != "plain":
            loss(x.double(), y.double())
    image = x.clone().requires_grad_()
    loss(image, y).backward()
    assert image.grad.abs().max() > 0


@pytest.mark.parametrize("adapter", OUTSIDE)
def test_values_out_of_range(adapter):
    x, y = images(1)
    loss = ADAPTERS[adapter]("deepssim-lite-fast")
    for wrong in (255 * y, 2 * y - 1):  # of 8 bits, and normalised to [-1, 1]
        with pytest.raises((ValueError, AssertionError), match="divide 8-bit values by 255"):
            loss(x, wrong)
    with pytest.raises((ValueError, AssertionError), match="divide 8-bit values by 255"):
        loss((255 * y).requires_grad_(), y)
    overshooting = (2.4 * x - 0.2).requires_grad_()  # as an untrained network gives it
    if adapter == "piq":
        with pytest.raises(AssertionError, match="clamp"):
            loss(overshooting, y)
    else:
        assert loss(overshooting, y).isfinite()


NOT_IMAGES = {
    "8 bits": lambda y: (255 * y).byte(),
    "8 bits of 0 and 1": lambda y: (y > 0.5).byte(),
    "truth values": lambda y: y > 0.5,
    "NaN": lambda y: y * float("nan"),
    "NaN with gradients": lambda y: (y * float("nan")).requires_grad_(),
    "infinite": lambda y: y / 0,
    "no image": lambda y: y[:0],
    "no batch": lambda y: y[0],
    "four channels": lambda y: torch.cat([y, y[:, :1]], 1),
    "an array": lambda y: y.numpy(),
}


@pytest.mark.parametrize("adapter", OUTSIDE)
@pytest.mark.parametrize("kind", NOT_IMAGES)
def test_what_is_no_image_is_refused(kind, adapter):
    if (kind, adapter) == ("an array", "pyiqa"):
        pytest.skip("pyiqa takes it for a file, and says so")
    x, y = images()
    loss = ADAPTERS[adapter]("deepssim-lite-fast")
    wrong = NOT_IMAGES[kind](x)
    for pair in ((wrong, wrong), (wrong, y)):
        with pytest.raises((TypeError, ValueError, AssertionError)):
            loss(*pair)


@pytest.mark.parametrize("adapter", OUTSIDE)
def test_grey_images_and_other_layouts(adapter):
    x, y = images()
    loss = ADAPTERS[adapter]("deepssim-fast")
    grey = loss(x[:, :1], y[:, :1]).item()
    assert loss(*(image[:, :1].expand(-1, 3, -1, -1) for image in (x, y))).item() == grey
    expected = loss(x, y).item()
    assert loss(x.to(memory_format=torch.channels_last), y).item() == pytest.approx(expected, abs=1e-6)
    with pytest.raises(TypeError, match="convert one of them") if adapter != "torchmetrics" else nullcontext():
        loss(x, y.double())


def compiled(loss: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return torch.compile(loss, backend="eager")(x, y)


def checkpointed(loss: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return checkpoint(loss, x, y, use_reentrant=False)


WAYS = {
    "compiled": compiled,
    "checkpointed": checkpointed,
    "shared memory": lambda loss, x, y: Model(loss).share_memory().loss(x, y),
    "model in float64": lambda loss, x, y: Model(loss).double().loss(x, y),
    "model in bfloat16": lambda loss, x, y: Model(loss).bfloat16().loss(x, y),
    "model unfrozen": lambda loss, x, y: Model(loss).requires_grad_(True).loss(x, y),
    "model made empty": lambda loss, x, y: Model(loss).to_empty(device="cpu").loss(x, y),
    "model in channels_last": lambda loss, x, y: Model(loss).to(memory_format=torch.channels_last).loss(x, y),
}


@pytest.mark.parametrize("adapter", OUTSIDE)
@pytest.mark.parametrize("way", [pytest.param(way, marks=[pytest.mark.slow] * (way == "compiled")) for way in WAYS])
def test_what_is_done_to_a_model_does_not_change_its_loss(way, adapter):
    if (way, adapter) == ("model made empty", "torchmetrics"):
        pytest.skip("it empties what torchmetrics accumulates in")
    x, y = images()
    loss = ADAPTERS[adapter]("msds-lite-fast")
    expected = loss(x, y).item()
    image = x.clone().requires_grad_()
    value = WAYS[way](copy.deepcopy(loss), image, y)
    value.backward()
    assert value.item() == pytest.approx(expected, abs=1e-6)
    assert image.grad.abs().sum() > 0


def test_a_metric_registered_later_reaches_all_three(own_metric):
    registry.register(own_metric)
    x, y = images()
    for found in (
        piq.test_difference(x, y),
        piq.TestDifferenceLoss()(x, y),
        pyiqa.create_metric("test-difference", device="cpu")(x, y).mean(),
        pyiqa.create_metric("ms-test-difference", device="cpu", levels=1)(x, y).mean(),
        in_torchmetrics.test_difference(x, y),
        in_torchmetrics.TestDifference()(x, y),
    ):
        torch.testing.assert_close(found, (x - y).abs().mean())
    assert not in_torchmetrics.TestDifference().higher_is_better
    assert pyiqa.create_metric("test-difference", device="cpu").lower_better


def test_names_can_be_imported_and_pickled():
    for row in map(registry.get, registry.names()):
        for place, stem in ((in_piq, f"{row.class_name}Loss"), (in_torchmetrics, row.class_name)):
            for each in (getattr(place, stem), getattr(place, row.function_name)):
                assert pickle.loads(pickle.dumps(each)) is each
        assert getattr(piq, f"{row.class_name}Loss") is getattr(in_piq, f"{row.class_name}Loss")


SPAWNED = {
    "plain": lambda: registry.create("msds-fast"),
    "aligned": lambda: registry.create("msds-align"),
    "piq": lambda: piq.MSDSFastLoss(),
    "pyiqa": lambda: pyiqa.create_metric("msds-fast", device="cpu"),
    "torchmetrics": lambda: in_torchmetrics.MSDSFast(),
    "a toolkit's": lambda: in_torchmetrics.FullReference("piq:gmsd"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SPAWNED)
def test_a_spawned_process(name):
    metric, pair = SPAWNED[name](), images(1, 96)
    wanted = metric(*pair).item()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(metric, *pair).result(timeout=120).item() == pytest.approx(wanted, abs=1e-6)
    assert metric(*pair).item() == wanted
