"""What the metrics are given: fusion weights, wrapped metrics, saliency maps, and what they refuse."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from msds_plugin import MSDS, DeepSSIM, DeepSSIMLite, MSDSLite, MultiScale, registry
from msds_plugin.windows import as_windows

FUSION = (0.1, 0.2, 0.7)


class TestFusion:
    def test_scores_are_fused_from_those_of_the_levels(self, lite0, pair):
        metric = MSDS(3, FUSION, backbone=lite0)
        levels = metric.level_scores(*pair)
        assert levels.shape == (2, 3)
        torch.testing.assert_close(metric(*pair), levels @ torch.tensor(FUSION))
        torch.testing.assert_close(levels[:, 0], DeepSSIM(lite0)(*pair))
        halved = [nn.functional.avg_pool2d(image, 2) for image in pair]
        torch.testing.assert_close(levels[:, 1], DeepSSIM(lite0)(*halved))

    def test_one_level_is_deepssim(self, lite0, pair):
        torch.testing.assert_close(MSDS(1, backbone=lite0)(*pair), DeepSSIM(lite0)(*pair), rtol=0, atol=1e-6)

    @pytest.mark.parametrize("learn_fusion", [False, True])
    def test_weights_sum_to_one(self, learn_fusion, lite0):
        metric = MSDS(3, (1, 2, 7), learn_fusion, backbone=lite0)
        torch.testing.assert_close(metric.fusion.detach(), torch.tensor(FUSION))
        assert MSDS(4, learn_fusion=learn_fusion, backbone=lite0).fusion.tolist() == [0.25] * 4

    def test_learned_weights_get_gradients_and_nothing_else_does(self, lite0, pair):
        metric = MSDS(3, learn_fusion=True, backbone=lite0)
        trainable = [name for name, parameter in metric.named_parameters() if parameter.requires_grad]
        assert trainable == ["fusion_logits"]
        optimiser = torch.optim.SGD([metric.fusion_logits], lr=100.0)
        before = metric(*pair).sum()
        before.backward()
        assert (metric.fusion_logits.grad != 0).all()
        optimiser.step()
        assert metric.fusion.sum().item() == pytest.approx(1, abs=1e-6)
        assert (metric.fusion >= 0).all()
        assert metric(*pair).sum() < before

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"levels": 2, "fusion": (1, 2, 3)}, "3 weights for 2 levels"),
            ({"fusion": 0.5}, "1 weights for 3 levels"),
            ({"levels": 0}, "at least 1, got 0"),
            ({"fusion": (0, 1, 1), "learn_fusion": True}, "zero cannot be learned"),
        ],
    )
    def test_impossible_options(self, options, message, lite0):
        with pytest.raises(ValueError, match=message):
            MSDS(**options, backbone=lite0)


class TestMultiScale:
    @pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
    def test_a_function(self, shape):
        def distance(x, y):
            return (x - y).abs().mean((1, 2, 3)).reshape(shape)

        x, y = torch.rand(2, 2, 3, 32, 40)
        metric = MultiScale(distance, 2, (0.25, 0.75))
        halved = [nn.functional.avg_pool2d(image, 2) for image in (x, y)]
        expected = 0.25 * distance(x, y).flatten() + 0.75 * distance(*halved).flatten()
        torch.testing.assert_close(metric(x, y), expected)
        torch.testing.assert_close(metric.compare(metric.represent(x), metric.represent(y)), expected)

    def test_a_level_too_small_for_a_foreign_metric(self):
        def picky(x, y):
            if min(x.shape[-2:]) < 20:
                raise RuntimeError("kernel size can't be greater than actual input size")
            return (x - y).abs().mean((1, 2, 3))

        with pytest.raises(ValueError, match=r"level 1 of 2 would be 16 x 20, where the metric fails .*kernel size"):
            MultiScale(picky, 2)(*torch.rand(2, 1, 3, 32, 40))
        with pytest.raises(ValueError, match=r"level 0 of 2 .*no number of levels fits"):
            MultiScale(picky, 2)(*torch.rand(2, 1, 3, 12, 12))
        with pytest.raises(ZeroDivisionError):
            MultiScale(lambda x, y: 1 / 0, 2)(*torch.rand(2, 1, 3, 32, 40))
        with pytest.raises(ValueError, match="the metric returned float, not a tensor of scores"):
            MultiScale(lambda x, y: 0.5, 2)(*torch.rand(2, 1, 3, 32, 40))

    @pytest.mark.parametrize("kind", [DeepSSIM, DeepSSIMLite])
    def test_around_deepssim_is_msds(self, kind, random_alexnet, pair):
        around, msds = MultiScale(kind(random_alexnet.backbone), 2, (1, 3)), MSDS if kind is DeepSSIM else MSDSLite
        expected = msds(2, (1, 3), backbone=random_alexnet.backbone)(*pair)
        torch.testing.assert_close(around(*pair), expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(around.compare(*map(around.represent, pair)), expected, rtol=0, atol=1e-6)
        assert around.lower_is_better == (kind is DeepSSIMLite)

    def test_around_a_metric_with_levels_of_its_own(self, random_alexnet):
        metric = MultiScale(MSDS(2, backbone=random_alexnet.backbone), 2)
        x, y = torch.rand(2, 1, 3, 128, 128)
        assert metric(x, y).item() < 1
        assert metric.compare(metric.represent(y), metric.represent(y)).item() == 1

    @pytest.mark.parametrize("levels", [1.5, 2.0, True, "2", None, torch.tensor(1.5)])
    def test_levels_that_are_no_number(self, levels, random_alexnet):
        for make in (lambda: MSDS(levels, backbone=random_alexnet.backbone), lambda: MultiScale(nn.PixelUnshuffle(2), levels)):
            with pytest.raises(TypeError, match="levels must be a whole number of at least 1, got"):
                make()


class TestSaliency:
    def test_nothing_changes_where_all_is_salient(self, metric, pair):
        everywhere = torch.ones_like(pair[0][:, :1])
        torch.testing.assert_close(metric(*pair, everywhere, everywhere), metric(*pair), rtol=0, atol=1e-6)

    @pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float64])
    def test_shapes_and_types(self, metric, pair, dtype):
        maps = [torch.rand(2, 1, 129, 135).round() for _ in range(2)]
        expected = metric(*pair, *maps)
        assert not torch.equal(expected, metric(*pair))
        assert torch.equal(metric(*pair, *(m.squeeze(1).to(dtype) for m in maps)), expected)

    def test_threshold(self, lite0, pair):
        saliency = torch.rand(2, 1, 129, 135)
        above = DeepSSIM(lite0, saliency_threshold=0.5)(*pair, saliency, saliency)
        binary = (saliency > 0.5).float()
        assert torch.equal(above, DeepSSIM(lite0)(*pair, binary, binary))

    def test_one_map_alone(self, metric, pair):
        saliency = torch.rand(2, 1, 129, 135).round()
        assert torch.equal(metric(*pair, None, saliency), metric.compare(*map(metric.represent, pair, (None, saliency))))
        with pytest.raises(ValueError, match="one reference per distorted image"):
            metric(pair[0], pair[1][:1], saliency)

    @pytest.mark.parametrize("shape", [(2, 1, 129, 134), (1, 1, 129, 135), (2, 3, 129, 135), (129, 135), (2, 64, 64), (2, 129)])
    def test_a_wrong_shape(self, metric, pair, shape):
        with pytest.raises(ValueError, match=r"saliency map .* must have shape \(N, 1, H, W\) or \(N, H, W\)"):
            metric(*pair, torch.rand(shape))

    def test_no_tensor(self, metric, pair):
        with pytest.raises(TypeError, match=r"saliency map must be a torch\.Tensor .* got ndarray"):
            metric(*pair, torch.rand(2, 1, 129, 135).numpy())

    @pytest.mark.parametrize("windows", [False, True])
    @pytest.mark.parametrize("tile", [None, 64])
    @pytest.mark.parametrize("kind", ["nan", "one nan", "infinite", "zeros", "one of zeros", "integers", "negative"])
    def test_maps_that_say_nothing(self, kind, tile, windows, random_alexnet, pair):
        good = torch.rand(2, 1, *pair[0].shape[-2:])
        maps = {
            "nan": good * torch.nan,
            "one nan": good.index_put(
                (torch.tensor(1), torch.tensor(0), torch.tensor(5), torch.tensor(5)), torch.tensor(torch.nan)
            ),
            "infinite": good / 0,
            "zeros": good * 0,
            "one of zeros": good * torch.tensor([1.0, 0.0]).view(-1, 1, 1, 1),
            "integers": (good * 0).to(torch.uint8),
            "negative": -good,
        }[kind]
        message = "NaN or infinite" if kind in ("nan", "one nan", "infinite") else "nowhere above the threshold of 0,"
        metric = MSDS(2, backbone=random_alexnet.backbone.tapped(["relu2"]), tile=tile)
        given = as_windows(maps) if windows else maps
        for call in (lambda: metric(*pair, None, given), lambda: metric.represent(pair[0], given)):
            with pytest.raises(ValueError, match=f"the saliency map .*{message}"):
                call()

    def test_a_network_whose_first_layer_is_not_known(self):
        metric = DeepSSIM(nn.Conv2d(3, 8, 3))
        x = torch.rand(1, 3, 16, 16)
        with pytest.raises(ValueError, match="saliency maps need a backbone by name"):
            metric(x, x, x[:, :1])


def rand(*shape: int, **options) -> Tensor:
    return torch.rand(*(shape or (2, 3, 140, 150)), **options)


class TestErrors:
    @pytest.mark.parametrize(
        ("image", "error", "message"),
        [
            (torch.zeros(2, 3, 140, 150, dtype=torch.uint8), TypeError, r"floating-point .* got torch.uint8.* divide by 255"),
            (rand() * 255, ValueError, r"values in \[0, 1\], got .*divide 8-bit values by 255"),
            (rand() - 0.5, ValueError, r"values in \[0, 1\]"),
            (rand().fill_(float("nan")), ValueError, "not finite"),
            (rand().index_fill(2, torch.tensor(0), float("inf")), ValueError, "not finite"),
            (rand(2, 1, 140, 150), ValueError, "repeat a grey channel three times"),
            (rand(2, 4, 140, 150), ValueError, "drop an alpha channel"),
            (rand(3, 140, 150), ValueError, "add a batch dimension"),
            (rand(0, 3, 140, 150), ValueError, "empty batch"),
            (rand(2, 3, 0, 150), ValueError, "too small"),
            (np.zeros((2, 3, 140, 150)), TypeError, "must be a torch.Tensor .* got ndarray"),
        ],
        ids=["uint8", "[0, 255]", "negative", "nan", "inf", "grey", "alpha", "3-d", "empty", "no pixels", "numpy"],
    )
    def test_images(self, metric, image, error, message):
        good = rand()
        for arguments in ((image, good), (good, image), (image, image)):
            with pytest.raises(error, match=message):
                metric(*arguments)
        with pytest.raises(error, match=message):
            metric.represent(image)

    def test_the_message_names_the_image(self, metric):
        with pytest.raises(ValueError, match="the distorted image x"):
            metric(rand() * 2, rand())
        with pytest.raises(ValueError, match="the reference image y"):
            metric(rand(), rand() * 2)

    def test_an_overshoot_of_resampling_is_tolerated(self, metric):
        assert metric(rand() * 1.0005, rand()).isfinite().all()

    @pytest.mark.parametrize(
        ("x", "y", "error", "message"),
        [
            (rand(), rand(1, 3, 140, 150), ValueError, "x has 2 images and y has 1"),
            (rand(), rand(dtype=torch.float64), TypeError, "x is torch.float32 and y is torch.float64"),
            (rand(), rand(device="meta", requires_grad=True), ValueError, "x is on cpu and y on meta"),
            (rand(dtype=torch.float64), rand(dtype=torch.float64), TypeError, "image is torch.float64 but the metric"),
        ],
        ids=["batch", "dtype", "device", "float64"],
    )
    def test_pairs(self, metric, x, y, error, message):
        with pytest.raises(error, match=message):
            metric(x, y)

    def test_float64_under_autocast(self, metric):
        with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(TypeError, match=r"image is torch.float64"):
            metric.represent(rand(dtype=torch.float64))

    @pytest.mark.parametrize(
        ("size", "levels", "message"),
        [
            ((129, 300), 4, r"129 x 300 pixels .* level 3 of 4 would be 16 x 37, below .* 31 x 31; use levels=3 or"),
            ((300, 61), 3, r"300 x 61 pixels .* level 1 of 3 would be 150 x 30, .* use levels=1 or"),
            ((30, 300), 2, r"30 x 300 pixels .* level 0 of 2 would be 30 x 300, .* no number of levels fits"),
        ],
    )
    def test_too_many_levels(self, random_alexnet, size, levels, message):
        metric = MSDS(levels, backbone=random_alexnet.backbone)
        with pytest.raises(ValueError, match=message):
            metric(rand(1, 3, *size), rand(1, 3, *size))

    def test_smallest_is_the_smallest(self, metric):
        side = metric.smallest
        assert metric(rand(1, 3, side, side), rand(1, 3, side, side)).shape == (1,)
        with pytest.raises(ValueError, match="too small"):
            metric(rand(1, 3, side, side - 1), rand(1, 3, side, side))

    def test_channels_that_blocks_do_not_divide(self):
        x = rand(1, 3, 16, 16)
        with pytest.raises(ValueError, match=r"6 channels .* multiple of 4"):
            DeepSSIM(nn.Conv2d(3, 6, 3))(x, x)
        assert DeepSSIMLite(nn.Conv2d(3, 6, 3))(x, x).item() == 0


class TestIncomparable:
    def check(self, metric, a, b, message, error=ValueError):
        for arguments in ((a, b), (b, a)):
            with pytest.raises(error, match=message):
                metric.compare(*arguments)

    def test_other_layers_levels_or_metric(self, random_alexnet):
        x, metric = rand(1, 3, 63, 63), random_alexnet
        own = metric.represent(x)
        others = [
            DeepSSIM("alexnet", weights=None, layers="relu4"),
            DeepSSIM("squeezenet1_1", weights=None),
            DeepSSIM(metric.backbone, saliency="gbvs"),
            DeepSSIMLite(metric.backbone),
            MSDS(2, backbone=metric.backbone),
        ]
        for other in others:
            self.check(metric, own, other.represent(x), "only representations by the same metric, backbone, layers and levels")

    def test_other_numbers_of_images(self, metric):
        two, three = (metric.represent(rand(n, 3, 128, 128)) for n in (2, 3))
        self.check(metric, two, three, "cannot be compared .* one of them be 1")

    def test_other_devices(self, metric):
        own = metric.represent(rand(1, 3, 128, 128))
        self.check(metric, own, own.to("meta"), r"are on .* move one with .to\(device\)")

    def test_images_instead_of_representations(self, metric):
        x = rand(1, 3, 128, 128)
        self.check(metric, x, metric.represent(x), "must be a Representation, got Tensor: call represent", TypeError)


@pytest.mark.parametrize("name", ["msds-auto", "msds-retarget", "deepssim-fast"])
def test_the_default_device_does_not_matter(name, photographs):
    metric, y = registry.create(name), photographs[0][..., :96, :96]
    x = y.flip(-1)
    score, shares = metric(x, y), metric.map(x, y) if metric.has_map else None
    with torch.device("meta"):  # as of torch.set_default_device
        assert torch.equal(metric(x, y), score)
        assert shares is None or torch.equal(metric.map(x, y), shares)
