"""What every metric of Gram matrices promises: invariants, gradients, precision, copies, compilation."""

import copy
import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from msds_plugin import MSDS, DeepSSIM, DeepSSIMLite, MultiScale, build_backbone, registry
from msds_plugin import metric as metric_module

FUSION = (0.1, 0.2, 0.7)
ALEXNET = pytest.param("alexnet", marks=pytest.mark.shared)


class TestInvariants:
    def test_identical_images_get_the_best_score_to_the_last_bit(self, metric, best, device, several_photographs):
        y = torch.cat(several_photographs[:3]).to(device)
        assert metric.to(device)(y, y.clone()).tolist() == [best] * 3
        same = y[:1].clone().requires_grad_()
        metric(same, y[:1]).sum().backward()
        assert same.grad.abs().max() == 0

    def test_forms_of_the_same_pair(self, metric, device, pair):
        x, y = (image.to(device) for image in pair)
        expected = metric.to(device)(x, y)
        assert torch.equal(metric(y, x), expected)
        assert torch.equal(metric.compare(metric.represent(x), metric.represent(y)), expected)
        one = metric.compare(metric.represent(x), metric.represent(y[:1]))
        torch.testing.assert_close(one, expected, rtol=0, atol=1e-5)

    def test_no_score_is_better_than_the_best(self, metric, best, photographs):
        y = photographs[0][..., :96, :96]
        x = torch.cat([(y + 10.0**-k * torch.randn_like(y)).clamp(0, 1) for k in range(1, 8)])
        scores = metric(x, y.expand_as(x))
        assert ((scores - best) * (1 if metric.lower_is_better else -1) >= 0).all()
        assert scores.unique().numel() > 3

    def test_images_of_different_size(self, metric, photographs):
        y, other = photographs[:2]
        cropped, unrelated = metric(y[..., 9:, :-16], y), metric(other[..., 9:, :-16], y)
        assert 0 < cropped < 1
        assert (cropped < unrelated) if metric.lower_is_better else (cropped > unrelated)


def jpeg(image: Tensor, quality: int) -> Tensor:
    file = io.BytesIO()
    Image.fromarray((image[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.asarray(Image.open(file), dtype=np.float32) / 255).permute(2, 0, 1).unsqueeze(0)


def noise(image: Tensor, strength: float) -> Tensor:
    return (image + strength * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)


DISTORTIONS = {
    "blur": (lambda image, sigma: gaussian_blur(image, [31, 31], [sigma, sigma]), (0.5, 1, 2, 4)),
    "noise": (noise, (0.02, 0.05, 0.1, 0.2)),
    "jpeg": (jpeg, (60, 30, 15, 5)),
}


@pytest.mark.parametrize("distortion", DISTORTIONS)
@pytest.mark.parametrize("backbone", [ALEXNET, "efficientnet_lite0"])
def test_monotone_in_the_strength_of_a_distortion(backbone, distortion, several_photographs, cached_weights):
    network = build_backbone(backbone)
    distort, strengths = DISTORTIONS[distortion]
    y = torch.cat(several_photographs)
    images = [y] + [torch.cat([distort(photograph, strength) for photograph in several_photographs]) for strength in strengths]
    deep = MSDS(3, FUSION, backbone=network)
    with torch.no_grad():
        reference, *distorted = (deep.represent(image) for image in images)
        scores = torch.stack([deep.compare(each, reference) for each in (reference, *distorted)])
        assert (scores.diff(dim=0) < 0).all(), scores
        losses = torch.stack([DeepSSIMLite(network)(image, y) for image in images])
        assert (losses.diff(dim=0) > 0).all(), losses


class TestGradients:
    @pytest.mark.slow
    def test_gradcheck_in_float64(self, metric):
        x = torch.rand(1, 3, 67, 64, dtype=torch.float64, requires_grad=True)
        y = torch.rand(1, 3, 65, 70, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(metric.double(), (x, y), atol=1e-9, rtol=1e-4, fast_mode=True)

    def test_gradcheck_with_saliency_and_learned_fusion(self, lite0):
        metric = MSDS(2, learn_fusion=True, backbone=copy.deepcopy(lite0.tapped(["stage1"]))).double()
        x, y = (torch.rand(1, 3, 34, 33, dtype=torch.float64, requires_grad=True) for _ in range(2))
        saliency = torch.zeros(1, 1, 34, 33)
        saliency[..., 8:25, 5:20] = 1

        def score(x: Tensor, y: Tensor, logits: Tensor) -> Tensor:
            return torch.func.functional_call(metric, {"fusion_logits": logits}, (x, y, saliency, saliency.flip(3)))

        assert torch.autograd.gradcheck(score, (x, y, metric.fusion_logits), atol=1e-9, rtol=1e-4, fast_mode=True)

    def test_both_images_get_gradients_and_the_weights_none(self, metric, device, pair):
        x, y = (image.to(device).clone().requires_grad_() for image in pair)
        metric.to(device)(x, y).sum().backward()
        for image in (x, y):
            assert image.grad.isfinite().all()
            assert (image.grad != 0).float().mean() > 0.9
        assert all(p.grad is None and not p.requires_grad for p in metric.parameters())
        assert not metric(*pair).requires_grad

    def test_an_image_being_optimised_may_leave_the_range_for_a_while(self, metric, pair):
        assert metric((pair[0] * 1.5).requires_grad_(), pair[1]).isfinite().all()

    def test_no_gradient_takes_its_way_through_the_reference(self, random_alexnet, pair):
        def kept(call) -> int:
            sizes: list[int] = []
            with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
                call()
            return sum(sizes)

        x = pair[0].clone().requires_grad_()
        assert kept(lambda: random_alexnet(x, pair[1])) < 1.5 * kept(lambda: random_alexnet.represent(x))


class TestEvalMode:
    def test_kept_when_a_parent_trains(self, random_alexnet, pair):
        parent = nn.ModuleList([random_alexnet]).train()
        assert parent.training
        assert not any(module.training for module in random_alexnet.backbone.modules())

    def test_kept_by_a_network_of_the_callers_own(self, pair):
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5))
        metric = DeepSSIM(net).train()
        assert torch.equal(metric(*pair), metric(*pair))
        assert net[1].num_batches_tracked == 0


class TestPrecision:
    def test_float64_is_close_to_float32(self, metric, device, pair):
        x, y = (image.to(device) for image in pair)
        single = metric.to(device)(x, y)
        double = metric.double()(x.double(), y.double())
        assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
        torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)])
    def test_autocast_and_half_precision_beside_float32(self, metric, best, dtype, pair):
        x, y = pair
        expected = metric(x, y)
        found = [metric(x.to(dtype), y.to(dtype)), metric(x.to(dtype), y)]
        with torch.autocast("cpu", dtype=dtype):
            representation = metric.represent(x)
            found += [metric(x, y), metric(x.to(dtype), y)]
            assert metric(y, y).tolist() == [best, best]
        assert {matrix.dtype for view in representation.views for matrix in view} == {torch.float32}
        for scores in found:
            assert scores.dtype == torch.float32
            torch.testing.assert_close(scores, expected, rtol=0, atol=1e-2)

    def test_cuda_agrees_with_the_cpu(self, metric, pair):
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        x, y = pair
        on_cpu, kept = metric(x, y), metric.represent(y)
        metric.cuda()
        for dtype in (torch.float16, torch.bfloat16):
            with torch.autocast("cuda", dtype):
                torch.testing.assert_close(metric(x.cuda(), y.cuda()).cpu(), on_cpu, rtol=0, atol=1e-2)
        torch.testing.assert_close(metric(x.cuda(), y.cuda()).cpu(), on_cpu, rtol=0, atol=1e-4)
        torch.testing.assert_close(metric.compare(metric.represent(x.cuda()), kept.to("cuda")).cpu(), on_cpu, rtol=0, atol=1e-4)


class TestState:
    def test_state_dict_round_trip(self, pair):
        metrics = []
        for seed, fusion in ((1, (0.2, 0.8)), (2, (0.6, 0.4))):
            torch.manual_seed(seed)
            metrics.append(MSDS(2, fusion, backbone="squeezenet1_1", weights=None))
        one, two = metrics
        expected = one(*pair)
        assert not torch.equal(two(*pair), expected)
        assert one.source() != two.source()
        two.load_state_dict(one.state_dict())
        assert torch.equal(two(*pair), expected)
        assert one.source() == two.source()

    def test_the_source_tells_weights_apart_and_not_types_or_layouts(self, random_alexnet):
        metric = copy.deepcopy(random_alexnet)
        source = metric.source()
        assert metric.double().source() == metric.float().to(memory_format=torch.channels_last).source() == source
        view = metric.backbone.net[0].weight.numpy()
        view *= 1.01
        changed = metric.source()
        view *= -1  # through a view that was there before
        assert len({source, changed, metric.source()}) == 3
        assert metric.bfloat16().float().source() not in (source, changed)

    def test_many_threads_build_change_and_score_at_once(self, random_alexnet_file, pair):
        expected = DeepSSIM("alexnet", random_alexnet_file)(*pair)

        def work(_: int) -> bool:
            metric = DeepSSIM("alexnet", random_alexnet_file)
            twin = copy.deepcopy(metric)
            twin.apply(lambda module: isinstance(module, nn.Conv2d) and nn.init.zeros_(module.weight))
            return torch.equal(metric(*pair), expected)

        with ThreadPoolExecutor(3) as pool:
            assert all(pool.map(work, range(6)))

    def test_building_a_pretrained_metric_leaves_torch_as_it_was(self):

        def state():
            return (
                torch.get_default_dtype(),
                torch.get_num_threads(),
                torch.is_grad_enabled(),
                torch.backends.cudnn.benchmark,
                torch.get_float32_matmul_precision(),
                torch.get_rng_state().tolist(),
                np.random.get_state()[1].tolist(),
            )

        before = state()
        MSDS(backbone="efficientnet_lite0")
        assert state() == before

    @pytest.mark.parametrize("learn_fusion", [False, True])
    def test_a_metric_made_in_inference_mode_gives_gradients_outside_of_it(self, pair, learn_fusion):
        with torch.inference_mode():
            metric = MSDS(2, backbone="alexnet", weights=None, layers="relu2", learn_fusion=learn_fusion)
        x = pair[0].clone().requires_grad_()
        metric(x, pair[1]).sum().backward()
        assert x.grad.abs().max() > 0


@pytest.mark.parametrize("saliency", [False, True])
@pytest.mark.parametrize("together", [0, 2**30])
def test_images_that_share_a_pass_score_as_alone(together, saliency, monkeypatch, lite0, pair):
    maps = [torch.rand(2, *pair[0].shape[-2:]) for _ in range(2)] if saliency else [None, None]
    metric = MSDS(2, backbone=lite0, saliency_threshold=0.3)
    monkeypatch.setitem(metric_module.ONE_PASS_PIXELS, "cpu", together)
    scores = metric(*pair, *maps)
    for i in range(2):
        a, b = (
            metric.represent(image[i : i + 1], None if m is None else m[i : i + 1]) for image, m in zip(pair, maps, strict=True)
        )
        torch.testing.assert_close(scores[i : i + 1], metric.compare(a, b), rtol=0, atol=1e-6)


def test_values_of_each_image_are_looked_at_once(random_alexnet, pair, monkeypatch):
    looked = []
    original = Tensor.aminmax
    monkeypatch.setattr(Tensor, "aminmax", lambda image: looked.append(image.shape) or original(image))
    metric = MultiScale(random_alexnet, 2)
    metric(*pair)
    assert len(looked) == 2
    metric.represent(pair[0])
    assert len(looked) == 3


def test_vmap_and_grad_equal_each_pair_alone(metric, pair):
    def score(x: Tensor, y: Tensor) -> Tensor:
        return metric(x[None], y[None]).squeeze()

    x = pair[0].clone().requires_grad_()
    metric(x, pair[1]).sum().backward()
    mapped = torch.func.vmap(torch.func.grad(score))(*pair)
    torch.testing.assert_close(mapped, x.grad, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(torch.func.vmap(score)(*pair), metric(*pair), rtol=0, atol=1e-6)


class TestCompile:
    @pytest.fixture(autouse=True)
    def _fresh(self):
        torch.compiler.reset()
        yield
        torch.compiler.reset()

    @pytest.fixture
    def msds(self) -> MSDS:
        return MSDS(2, (0.3, 0.7), backbone="squeezenet1_1", weights=None, layers=("relu1", "fire3"))

    @pytest.mark.slow
    @pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
    def test_without_a_graph_break(self, msds, pair, backend):
        represent, compare = (torch.compile(part, fullgraph=True, backend=backend) for part in (msds.represent, msds.compare))
        with torch.no_grad():
            torch.testing.assert_close(compare(*map(represent, pair)), msds(*pair), rtol=0, atol=1e-5)
        gradients = []
        for metric in (msds, torch.compile(msds, fullgraph=True, backend=backend)):
            image = pair[0].clone().requires_grad_()
            metric(image, pair[1]).sum().backward()
            gradients.append(image.grad)
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)

    @pytest.mark.slow
    def test_few_graphs_for_many_sizes(self, msds):
        graphs = []

        def count(graph, _):
            graphs.append(graph)
            return graph.forward

        compiled = torch.compile(msds, fullgraph=True, backend=count)
        with torch.no_grad():
            for height, width in [(128, 130), (140, 131), (133, 177), (192, 135), (160, 160), (129, 155)]:
                x, y = torch.rand(2, 2, 3, height, width)
                torch.testing.assert_close(compiled(x, y), msds(x, y), rtol=0, atol=1e-5)
        assert len(graphs) <= 3  # one for the first size, one for any, one for square images

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["msds-fast", "msds-align", "msds-hybrid", "msds-auto", "deepssim-lite-fast"])
    def test_export_of_one_size_and_of_any(self, name, pair):
        metric = registry.create(name, weights=None)
        # So large that no map has a side of one position, which torch takes for another case.
        sides = {place: torch.export.Dim(label, min=136, max=4096) for place, label in ((2, "height"), (3, "width"))}
        with torch.no_grad():
            program = torch.export.export(metric, pair)
            torch.testing.assert_close(program.module()(*pair), metric(*pair), rtol=0, atol=1e-5)
            x, y = torch.rand(2, 2, 3, 144, 208)
            program = torch.export.export(metric, (x, y), dynamic_shapes=(sides, sides))
            for size in ((144, 208), (401, 390)):
                x, y = torch.rand(2, 2, 3, *size)
                torch.testing.assert_close(program.module()(x, y), metric(x, y), rtol=0, atol=1e-5)
