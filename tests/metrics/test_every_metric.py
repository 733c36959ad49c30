"""Every metric: the same score however images are held and representations kept."""

import copy
import io
import pickle
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from msds_plugin import MultiScale, registry
from msds_plugin.aligned import AlignedMSDS
from msds_plugin.hybrid import MDSI, HaarPSI
from msds_plugin.spips import SPIPS
from msds_plugin.windows import as_windows

FAST = ("msds-auto", "msds-hybrid", "msds-align", "msds-retarget", "msds-fast", "deepssim-lite-fast")
METRICS = {
    **{name: partial(registry.create, name) for name in FAST},
    "aligned in tiles": lambda: AlignedMSDS(2, backbone="alexnet", weights=None, tile=32),
    "haarpsi": HaarPSI,
    "mdsi": MDSI,
    "haarpsi on a pyramid": lambda: MultiScale(HaarPSI(), 2, (0.3, 0.7)),
    "spips": lambda: SPIPS.untrained("alexnet", None).requires_grad_(False),
}


@pytest.fixture(scope="module", params=METRICS)
def metric(request):
    torch.manual_seed(0)
    return METRICS[request.param]()


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    y = F.interpolate(torch.rand(2, 3, 9, 10, generator=generator), (66, 72), mode="bicubic").clamp(0, 1)
    return (y + 0.08 * torch.randn(y.shape, generator=generator)).clamp(0, 1), y


def one_by_one(metric, x, y):
    return torch.cat([metric(x[i : i + 1], y[i : i + 1]) for i in range(2)])


def compared(change):
    return lambda metric, x, y: metric.compare(*(change(metric.represent(image)) for image in (x, y)))


def held(change):
    return lambda metric, x, y: metric(change(x), change(y))


def through_pickle(value):
    return pickle.loads(pickle.dumps(value))


def by_a_copy(metric, x, y):
    file = io.BytesIO()
    torch.save(metric, file)
    file.seek(0)
    for twin in (copy.deepcopy(metric), torch.load(file, weights_only=False)):
        assert twin.source() == metric.source()
        score = twin.compare(metric.represent(x), twin.represent(y))
    return score


def in_windows(metric, x, y):
    if not metric.reads_windows:
        pytest.skip("reads no windows")
    return metric(as_windows(x), as_windows(y))


#: Ways to come to a score, and what it may differ by.
WAYS = {
    "one by one": (one_by_one, 1e-5),
    "represented": (compared(lambda kept: kept), 1e-6),
    "pickled representations": (compared(through_pickle), 1e-6),
    "half of the bits": (compared(lambda kept: kept.to(torch.bfloat16)), 0.05),
    "channels last": (held(lambda image: image.to(memory_format=torch.channels_last)), 1e-5),
    "cut out of a larger image": (held(lambda image: F.pad(image, (1, 2, 3, 4))[..., 3:-4, 1:-2]), 1e-5),
    "in windows": (in_windows, 2e-5),
    "in half precision": (held(torch.Tensor.half), 0.01),
    "under autocast": (torch.autocast("cpu", torch.bfloat16)(lambda metric, x, y: metric(x, y)), 0.02),
    "in inference mode": (torch.inference_mode()(lambda metric, x, y: metric(x.clone(), y.clone())), 1e-6),
    "mapped": (lambda metric, x, y: torch.func.vmap(lambda a, b: metric(a[None], b[None])[0])(x, y), 1e-5),
    "by a copy": (by_a_copy, 1e-6),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_same_score(way, metric, images):
    score, tolerance = WAYS[way]
    torch.testing.assert_close(score(metric, *images), metric(*images), rtol=0, atol=tolerance)


def test_one_image_beside_many(metric, images):
    x, y = images
    kept = metric.represent(x), metric.represent(y)
    torch.testing.assert_close(metric.compare(kept[0], kept[1][:1]), metric(x, y[:1].repeat(2, 1, 1, 1)), rtol=0, atol=1e-5)
    torch.testing.assert_close(metric.compare(kept[0][:1], kept[1]), metric(x[:1].repeat(2, 1, 1, 1), y), rtol=0, atol=1e-5)


def test_a_representation_in_a_file(metric, images, tmp_path):
    x, y = images
    metric.save(metric.represent(y), tmp_path / "y.safetensors")
    torch.testing.assert_close(metric.compare(metric.represent(x), metric.load(tmp_path / "y.safetensors")), metric(x, y))


def test_identical_images_score_best_and_their_gradients_are_finite(metric, images):
    x, y = (images[1].clone().requires_grad_() for _ in range(2))
    score = metric(x, y)
    score.sum().backward()
    assert score.tolist() == [0.0 if metric.lower_is_better else 1.0] * 2
    assert x.grad.isfinite().all()
    assert y.grad.isfinite().all()


def test_an_image_of_nan_is_refused_and_in_training_counts_alone(metric, images):
    x, y = images
    broken = x.clone()
    broken[1, 0, 5, 5] = torch.nan
    for arguments in ((broken, y), (x, broken)):
        with pytest.raises(ValueError, match="not finite"):
            metric(*arguments)
    scores = metric(broken.requires_grad_(), y).detach()
    torch.testing.assert_close(scores[0], metric(x, y)[0], rtol=0, atol=1e-5)
    assert scores[1].isnan()
