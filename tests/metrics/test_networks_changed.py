"""A network that somebody changes in an ordinary way of torch: every score is that of the network as it is now."""

import copy
import pickle
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from msds_plugin import Backbone, DeepSSIM, build_backbone
from msds_plugin.functional import block_dissimilarity, gram_matrix

LAYERS = {"efficientnet_lite0": ["stage0", "stage1", "stage2"], "alexnet": ["relu2", "relu3"]}


class Scaled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 1.2 * weight


class LowRank(nn.Module):
    """A convolution with something small and trainable beside it."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        groups = conv.groups
        self.down = nn.Conv2d(
            conv.in_channels, 2 * groups, conv.kernel_size, conv.stride, conv.padding, groups=groups, bias=False
        )
        self.up = nn.Conv2d(2 * groups, conv.out_channels, 1, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.conv(x) + 0.5 * self.up(self.down(x))
        return added


def convolutions(metric: nn.Module) -> list[nn.Conv2d]:
    return [module for module in metric.modules() if isinstance(module, nn.Conv2d)]


def activations(metric: nn.Module) -> list[nn.Module]:
    return [module for module in metric.modules() if isinstance(module, nn.ReLU | nn.ReLU6)]


def replace(metric: nn.Module, kind: tuple[type[nn.Module], ...], new: Callable[[nn.Module], nn.Module]) -> None:
    for parent in list(metric.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, kind) and not isinstance(parent, LowRank):
                setattr(parent, name, new(child))


def each(change: Callable[[nn.Conv2d], object]) -> Callable[[nn.Module], None]:
    def apply(metric: nn.Module) -> None:
        for conv in convolutions(metric):
            change(conv)

    return apply


def louder(module: nn.Module, given: object, out: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
    return out * 1.5 + 0.1 if isinstance(out, Tensor) else [1.5 * part.flip(1) + 0.1 for part in out]


def dilate(conv: nn.Conv2d) -> None:
    conv.dilation = tuple(2 if side > 1 else 1 for side in conv.kernel_size)
    conv.padding = tuple(2 * side for side in conv.padding)


def patch(conv: nn.Conv2d) -> None:
    original = conv.forward
    conv.forward = lambda x: 1.5 * original(x) + 0.1  # type: ignore[method-assign]


def by_numpy(conv: nn.Conv2d) -> None:
    view = conv.weight.detach().numpy()
    np.multiply(view, 1.1, out=view)
    view.reshape(-1)[0] += 1


def emptied(metric: nn.Module, state: dict[str, Tensor]) -> None:
    metric.to("meta").load_state_dict(state, assign=True)


def from_file(kind: str, folder: Path) -> Callable[[nn.Module], None]:
    def change(metric: nn.Module) -> None:
        state = {name: (1.2 * value).contiguous() for name, value in metric.state_dict().items()}
        if kind == "safetensors":
            save_file(state, folder / "state.safetensors")
            metric.load_state_dict(load_file(folder / "state.safetensors"), assign=True)
        else:
            torch.save(state, folder / "state.pth")
            metric.load_state_dict(torch.load(folder / "state.pth", weights_only=True, mmap=True), assign=True)

    return change


def old_weight_norm(conv: nn.Conv2d) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(conv)


@dataclass(frozen=True)
class State:
    """How a metric is changed (in place, or into the one returned), and whether scores must differ after it."""

    change: Callable[[nn.Module], object]
    counts: bool = True


STATES = {
    "as it was": State(lambda metric: None, False),
    "parametrised": State(each(lambda conv: parametrize.register_parametrization(conv, "weight", Scaled()))),
    "pruned": State(each(lambda conv: prune.l1_unstructured(conv, "weight", 0.5))),
    "old weight norm": State(each(old_weight_norm), False),
    "low rank beside it": State(lambda metric: replace(metric, (nn.Conv2d,), LowRank)),
    "hook on a block": State(lambda metric: metric.backbone.net[1].register_forward_hook(louder) and None),
    "hook on an activation": State(lambda metric: activations(metric)[0].register_forward_hook(louder) and None),
    "hook on the backbone": State(lambda metric: metric.backbone.register_forward_hook(louder) and None),
    "hook before a convolution": State(
        lambda metric: convolutions(metric)[1].register_forward_pre_hook(lambda _, given: (given[0] + 0.3,)) and None
    ),
    "forward patched": State(each(patch)),
    "activation replaced": State(lambda metric: replace(metric, (nn.ReLU, nn.ReLU6), lambda _: nn.Softplus())),
    "dilated": State(each(dilate)),
    "transposed": State(each(lambda conv: setattr(conv.weight, "data", conv.weight.data.transpose(2, 3)))),
    "in place, by .data": State(each(lambda conv: conv.bias.data.add_(0.2))),
    "in place, by NumPy": State(each(by_numpy)),
    "a bias of its own": State(each(lambda conv: setattr(conv, "bias", nn.Parameter(conv.bias.detach() + 0.2)))),
    "trainable": State(lambda metric: metric.requires_grad_(True) and None, False),
    "shared memory": State(lambda metric: metric.share_memory() and None, False),
    "another memory format": State(lambda metric: metric.to(memory_format=torch.channels_last), False),
    "half and back": State(lambda metric: metric.bfloat16().float()),
    "without values, then loaded": State(lambda metric: emptied(metric, metric.state_dict()), False),
    "deep copy": State(copy.deepcopy, False),
    "pickled": State(lambda metric: pickle.loads(pickle.dumps(metric)), False),
}


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = nn.functional.interpolate(torch.rand(1, 3, 9, 10, generator=generator), (72, 80), mode="bicubic").clamp(0, 1)
    return (y + 0.1 * torch.randn(y.shape, generator=generator)).clamp(0, 1), y


@pytest.fixture(params=LAYERS, scope="module")
def network(request: pytest.FixtureRequest) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(request.param, LAYERS[request.param], weights=None)


@pytest.fixture
def made(network: Backbone) -> DeepSSIM:
    return DeepSSIM(copy.deepcopy(network))


def plain(metric: DeepSSIM, x: Tensor, y: Tensor) -> float:
    """The formula on the features that the modules compute one by one."""

    def grams(image: Tensor) -> list[Tensor]:
        return [gram_matrix(feature).double() for feature in metric.backbone(image)]

    scores = [1 - block_dissimilarity(a, b) for a, b in zip(grams(x), grams(y), strict=True)]
    return torch.stack(scores).mean().item()


def scores(metric: DeepSSIM, x: Tensor, y: Tensor) -> Iterator[float]:
    """In all the ways that a score comes about."""
    with torch.no_grad():
        yield metric(x, y).item()
        yield metric.compare(metric.represent(x), metric.represent(y)).item()
    with torch.inference_mode():
        yield metric(x, y).item()
    image = x.clone().requires_grad_()
    score = metric(image, y)
    score.sum().backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()
    yield score.item()


def check(
    change: Callable[[nn.Module], object], counts: bool, used: bool, metric: DeepSSIM, pair: tuple[Tensor, Tensor]
) -> None:
    before = plain(copy.deepcopy(metric), *pair)
    if used:
        assert list(scores(metric, *pair)) == pytest.approx([before] * 4, abs=1e-5)
    metric = change(metric) or metric  # type: ignore[assignment]
    expected = plain(metric, *pair)
    assert list(scores(metric, *pair)) == pytest.approx([expected] * 4, abs=1e-5)
    assert (abs(expected - before) > 1e-5) == counts


@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
@pytest.mark.parametrize("state", STATES)
def test_every_score_is_that_of_the_network_as_it_is(state, used, made, images):
    check(STATES[state].change, STATES[state].counts, used, made, images)


@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
@pytest.mark.parametrize("kind", ["safetensors", "mapped"])
def test_weights_of_files_in_memory_that_is_not_torchs(kind, used, made, images, tmp_path):
    check(from_file(kind, tmp_path), True, used, made, images)


@pytest.mark.parametrize("kind", ["numpy", "safetensors", "mapped", "shared"])
def test_tensors_given_as_weights(kind, alexnet_state, random_alexnet_file, images, tmp_path):
    save_file(alexnet_state, tmp_path / "alexnet.safetensors")
    given = {
        "numpy": lambda: {name: torch.from_numpy(value.numpy().copy()) for name, value in alexnet_state.items()},
        "safetensors": lambda: load_file(tmp_path / "alexnet.safetensors"),
        "mapped": lambda: torch.load(random_alexnet_file, weights_only=True, mmap=True),
        "shared": lambda: {name: value.clone().share_memory_() for name, value in alexnet_state.items()},
    }[kind]()
    metric = DeepSSIM("alexnet", given)
    expected = DeepSSIM("alexnet", random_alexnet_file)(*images)
    assert torch.equal(metric(*images), expected)
    for value in given.values():  # copied: what becomes of them does not matter
        if kind != "mapped":
            value.zero_()
    assert torch.equal(metric(*images), expected)


def test_a_tile_sees_changes_of_weights_and_hooks_on_blocks(made, images):
    tiled = DeepSSIM(made.backbone, tile=32)
    for state in ("parametrised", "hook on a block", "activation replaced"):
        STATES[state].change(made)
        torch.testing.assert_close(tiled(*images), made(*images), rtol=0, atol=1e-5)


def test_openvino_has_no_network_to_change(made, images):
    metric = DeepSSIM(made.backbone, runtime="openvino")
    assert list(metric.parameters()) == []
    assert metric.state_dict() == {}
    with pytest.raises(ValueError, match="no network to look into or to change: make the metric with runtime='torch'"):
        _ = metric.backbone


@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
@pytest.mark.parametrize("state", ["parametrised", "in place, by NumPy", "hook on a block", "hook on the backbone", "dilated"])
def test_openvino_keeps_the_network_that_it_was_made_with(state, used, made, images):
    metric, expected = DeepSSIM(made.backbone, runtime="openvino"), plain(made, *images)
    if used:
        assert metric(*images).item() == pytest.approx(expected, abs=1e-5)
    STATES[state].change(made)
    assert metric(*images).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "state", ["parametrised", "pruned", "low rank beside it", "hook on an activation", "forward patched", "activation replaced"]
)
def test_openvino_takes_a_changed_network(state, made, images):
    STATES[state].change(made)
    assert DeepSSIM(made.backbone, runtime="openvino")(*images).item() == pytest.approx(plain(made, *images), abs=1e-5)


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_a_network_shared_by_two_metrics_is_one(runtime, images):
    network = build_backbone("alexnet", weights=None)
    one, other = DeepSSIM(network), DeepSSIM(network, runtime=runtime)
    before = other(*images)
    each(by_numpy)(one)
    assert not torch.equal(one(*images), before)
    assert torch.equal(other(*images), before) == (runtime == "openvino")
