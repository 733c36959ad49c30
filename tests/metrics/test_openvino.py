"""runtime="openvino": the scores of torch, without gradients."""

import copy
import pickle
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from msds_plugin import (
    MSDS,
    DeepSSIM,
    DeepSSIMLite,
    MissingDependencyError,
    MSDSAlign,
    MSDSRetarget,
    build_backbone,
    registry,
    runtimes,
)
from msds_plugin.windows import as_windows

NAMES = [name for name in registry.names() if name != "spips"]


def both(name: str, **options):
    if registry.get(name).takes_backbone:
        options = {"backbone": "squeezenet1_1", "weights": None, **options}
    made = []
    for runtime in ("torch", "openvino"):
        torch.manual_seed(0)
        made.append(registry.create(name, runtime=runtime, **options))
    return made


def agree(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


QUICK = ("msds-fast", "msds-align", "deepssim")


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES])
def test_scores_of_any_size_and_batch(name, photographs):
    plain, compiled = both(name)
    with torch.no_grad():
        for y in (torch.cat(photographs[:2])[..., :131, :], photographs[2][..., :97, :140]):
            x = (y + 0.2 * torch.randn_like(y)).clamp(0, 1)
            agree(compiled(x, y), plain(x, y))
            assert torch.equal(compiled(y, y), plain(y, y))  # exactly 1 or 0
        if name != "msds-hybrid":
            agree(compiled(x[..., 15:, :], y), plain(x[..., 15:, :], y))


@pytest.mark.parametrize("saliency", ["gbvs", pytest.param("features", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "kind", [DeepSSIMLite, MSDS, *(pytest.param(kind, marks=pytest.mark.slow) for kind in (MSDSAlign, MSDSRetarget))]
)
def test_saliency(kind, saliency, pair):
    x, y = pair
    options = {"saliency": saliency}
    options |= {"saliency_threshold": 0.25}
    if kind in (DeepSSIMLite, MSDS):
        options |= {"backbone": build_backbone("efficientnet_lite0", "stage1")}
    plain, compiled = (kind(runtime=runtime, **options) for runtime in ("torch", "openvino"))
    maps = torch.rand(2, *y.shape[-2:]).round()
    given = [maps] if kind is MSDSRetarget else [maps, maps.flip(-1)]
    with torch.no_grad():
        agree(compiled(x, y, *given), plain(x, y, *given))
        agree(compiled(x, y), plain(x, y))
    for bad, message in (
        (maps * 0, "nowhere above the threshold"),
        (maps * torch.nan, "NaN or infinite"),
        (maps[1:], "same size"),
    ):
        with pytest.raises(ValueError, match=message):
            compiled(x, y, *[bad for _ in given])
        compiled(x, y, *given)


@pytest.mark.parametrize(
    "name", ["alexnet", *(pytest.param(name, marks=pytest.mark.slow) for name in ("squeezenet1_1", "efficientnet_lite0"))]
)
def test_tiles_and_windows(name, photographs):
    torch.manual_seed(0)
    plain = DeepSSIM(name, weights=None)
    x, y = photographs[0], photographs[1][..., :150, :]
    maps = (torch.rand(1, 1, 176, 176) > 0.5).float()
    tiled, auto = (DeepSSIM(plain.backbone, tile=tile, runtime="openvino") for tile in (64, None))
    with torch.no_grad():
        agree(tiled(x, y), plain(x, y))
        agree(auto(as_windows(x), as_windows(y)), plain(x, y))
        agree(tiled(x, x.flip(-1), maps, maps), plain(x, x.flip(-1), maps, maps))
    with pytest.raises(ValueError, match="nowhere above"):
        tiled(x, x, maps * 0, maps)
    with pytest.raises(ValueError, match="computes no gradients"):
        tiled(x.clone().requires_grad_(), y)


@pytest.mark.slow
def test_representations_are_those_of_torch(pair, tmp_path):
    plain, compiled = both("msds-fast")
    kept = compiled.represent(pair[1])
    agree(plain.compare(plain.represent(pair[0]), kept), plain(*pair))
    plain.save(plain.represent(pair[1]), tmp_path / "kept.safetensors")
    agree(compiled.compare(compiled.represent(pair[0]), compiled.load(tmp_path / "kept.safetensors")), plain(*pair))
    for name in ("msds-align", "msds-retarget", "msds-hybrid"):
        plain, compiled = both(name)
        plain.save(plain.represent(pair[1]), tmp_path / "kept.safetensors")
        assert len(compiled.load(tmp_path / "kept.safetensors")) == 2


def test_pools_that_round_up():
    """OpenVINO refuses maps that are smaller than a window."""

    def net(pool: nn.MaxPool2d) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3, 2), pool, nn.Conv2d(8, 8, 1))

    x, y = torch.rand(1, 3, 30, 34), torch.rand(1, 3, 31, 27)
    for kernel, stride in ((3, 2), ((3, 2), (2, 1)), (1, 2)):
        for hooked in (False, True):
            module = net(nn.MaxPool2d(kernel, stride, ceil_mode=True))
            if hooked:
                module[1].register_forward_hook(lambda _, given, out: out.flip(1) + 1)
            plain = DeepSSIM(module)
            agree(DeepSSIM(module, runtime="openvino")(x, y), plain(x, y))


def test_sizes_that_recur_have_models_of_their_own(monkeypatch):
    monkeypatch.setattr(runtimes, "RECURRING", 3)
    monkeypatch.setattr(runtimes, "KEPT", 2)
    plain, compiled = both("deepssim")
    images = [torch.rand(1, 3, side, 40) for side in (40, 50, 60)]
    with torch.no_grad():
        expected = [plain(image.flip(3), image) for image in images]
        reference = compiled.represent(images[0])
        for turn in range(6):  # from the model of all sizes to the others
            for image, wanted in zip(images, expected, strict=True):
                agree(compiled(image.flip(3), image), wanted)
            assert compiled.compare(compiled.represent(images[0]), reference) == 1, turn
    (graph,) = compiled.compiled._graphs.values()
    assert len(graph.by_size) == 2


def test_more_levels_than_a_small_example_has():
    plain, compiled = both("msds", levels=6)
    x, y = torch.rand(2, 1, 3, 560, 600)
    with torch.no_grad():
        agree(compiled(x, y), plain(x, y))


def test_many_threads_and_copies(photographs):
    plain, compiled = both("deepssim")
    images = [torch.cat(photographs)[..., : 100 + 5 * i, :] for i in range(6)]
    with torch.no_grad():
        expected = [plain(image, image.flip(0)) for image in images]
        with ThreadPoolExecutor(4) as pool:
            for found, wanted in zip(
                pool.map(lambda image: compiled(image, image.flip(0)), 3 * images), 3 * expected, strict=True
            ):
                agree(found, wanted)
        for twin in (copy.deepcopy(compiled), pickle.loads(pickle.dumps(compiled))):
            agree(twin(images[0], images[0].flip(0)), expected[0])
        threads = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            agree(compiled(images[0], images[0].flip(0)), expected[0])
        finally:
            torch.set_num_threads(threads)


def test_compiled_side_by_side_they_leave_the_filters_of_warnings_alone():
    before = list(warnings.filters)
    metrics = [DeepSSIM("alexnet", weights=None, runtime="openvino") for _ in range(4)]
    image, together = torch.rand(1, 3, 64, 64), threading.Barrier(4)

    def first_score(metric):
        together.wait(60)
        return metric(image, image).item()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(first_score, metrics)) == [1] * 4
    assert warnings.filters == before


@pytest.mark.slow
def test_autocast_and_other_types(pair):
    plain, compiled = both("deepssim-fast")
    with torch.no_grad():
        expected = plain(*pair)
        agree(compiled(*(image.double() for image in pair)).float(), expected)
        torch.testing.assert_close(compiled(*(image.half() for image in pair)), expected, rtol=0, atol=1e-2)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(compiled(*pair), expected, rtol=0, atol=1e-2)
            assert compiled(pair[1], pair[1]).tolist() == [1, 1]


@pytest.mark.parametrize("width", [128, 124, 112, 120])  # of one size, cut or resized, partly and wholly retargeted
def test_auto_takes_double_precision(width, pair):
    metric = registry.create("msds-auto", runtime="openvino")
    x, y = (F.interpolate(image[:1], (128, side)).clamp(0, 1) for image, side in zip(pair, (width, 128), strict=True))
    agree(metric(x.double(), y.double()).float(), metric(x, y))


def test_a_network_in_double_precision(pair):
    network = build_backbone("alexnet", weights=None)
    expected = DeepSSIM(network)(*pair)
    agree(DeepSSIM(network.double(), runtime="openvino")(*pair), expected)


def test_learned_weights_of_levels_still_learn(pair):
    metric = MSDS(2, learn_fusion=True, backbone="alexnet", weights=None, runtime="openvino")
    metric(*pair).sum().backward()
    assert metric.fusion_logits.grad.abs().max() > 0


def test_what_is_refused(pair, monkeypatch):
    with pytest.raises(ValueError, match="unknown runtime 'onnx': choose torch or openvino"):
        DeepSSIM("alexnet", weights=None, runtime="onnx")
    metric = DeepSSIM("alexnet", weights=None, runtime="openvino")
    for call in (metric, lambda x, y: metric.represent(x), lambda x, y: MSDSRetarget(runtime="openvino")(x, y)):
        with pytest.raises(ValueError, match="computes no gradients: make the metric with runtime='torch', or detach"):
            call(pair[0].clone().requires_grad_(), pair[1])
    with torch.no_grad():
        assert metric(pair[0].clone().requires_grad_(), pair[1]).isfinite().all()
    with pytest.raises(ValueError, match=r"values in \[0, 1\]"):
        metric(pair[0] * 2, pair[1])
    with pytest.raises(ValueError, match="too small"):
        metric(pair[0][..., :20], pair[1])
    monkeypatch.setattr(runtimes, "_compiled_in", {0})
    with pytest.raises(RuntimeError, match="forked from one that used it"):
        metric(*pair)
    monkeypatch.setattr(runtimes, "has_openvino", lambda: False)
    with pytest.raises(MissingDependencyError, match=r"pip install 'msds-plugin\[fast\]'"):
        DeepSSIM("alexnet", weights=None, runtime="openvino")


def test_openvino_sends_no_usage_data(python):
    python("""
import sys, torch
from msds_plugin.runtimes import Compiled

Compiled(torch.nn.Conv2d(3, 1, 1), 8)(torch.rand(1, 3, 8, 8))
assert "openvino" in sys.modules and not [name for name in sys.modules if name.startswith("openvino_telemetry")]
""")
