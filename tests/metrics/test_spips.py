"""SPIPS: its maps, its learned part and its file. Its training is tested beside the other research."""

import pytest
import torch

from msds_plugin import WeightsFileError, registry, spips
from msds_plugin.adapters.scorers import create_scorer
from msds_plugin.spips import SPIPS, load_weights, save_weights
from msds_plugin.windows import as_windows

PLAIN = {"backbone": "alexnet", "backbone_weights": None}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Weights that were never trained."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("spips") / "spips.safetensors"
    facts = {"backbone": "alexnet", "low": "relu1,relu2", "high": "relu3,relu4,relu5"}
    save_weights(path, SPIPS.untrained(**PLAIN).fusion.state_dict(), facts)
    return path


def test_a_file_makes_the_metric(file, pair):
    x, y = pair
    made = registry.create("spips", weights=file, backbone_weights=None)
    assert made(y, y).tolist() == [0, 0]
    assert (made(x, y) > 0).all()
    assert not any(parameter.requires_grad for parameter in made.parameters())
    assert (made.low, made.high, made.lower_is_better) == (("relu1", "relu2"), ("relu3", "relu4", "relu5"), True)
    stronger = torch.stack([made((y + s * torch.randn_like(y)).clamp(0, 1), y)[0] for s in (0.02, 0.08, 0.3)])
    assert (stronger.diff() > 0).all()
    facts, _ = load_weights(file)
    assert facts["backbone"] == "alexnet"
    with pytest.raises(ValueError, match="msds train -m spips"):
        registry.create("spips")


@pytest.mark.parametrize("runtime", [None, "torch", "openvino"])
def test_commands_make_it_from_its_file(file, pair, runtime):
    torch.manual_seed(0)
    made = create_scorer("spips", "cpu", runtime, weights=file, backbone_weights=None).metric
    torch.manual_seed(0)
    assert torch.equal(made(*pair), registry.create("spips", weights=file, backbone_weights=None)(*pair))


@pytest.mark.parametrize(
    "backbone", [pytest.param(name, marks=[pytest.mark.slow] * (name == "vgg16")) for name in spips.STREAMS]
)
def test_streams_of_a_backbone_by_name(backbone):
    metric = SPIPS.untrained(backbone, None)
    assert (metric.low, metric.high) == spips.STREAMS[backbone]
    x, y = torch.rand(2, 1, 3, 64, 64)
    assert metric.inputs(x, y).maps.shape == (1, 3 + len(metric.low) + len(metric.high), 8, 8)
    assert metric(x, y).item() > 0
    with pytest.raises(ValueError, match="streams are known of efficientnet_lite0, alexnet, vgg16"):
        SPIPS.untrained("squeezenet1_1")


def test_files_that_are_not_weights(tmp_path, random_alexnet):
    with pytest.raises(FileNotFoundError, match="no weights of SPIPS"):
        SPIPS(tmp_path / "none.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"damaged")
    with pytest.raises(WeightsFileError, match="damaged"):
        SPIPS(tmp_path / "damaged.safetensors")
    random_alexnet.save(random_alexnet.represent(torch.rand(1, 3, 64, 64)), tmp_path / "other.safetensors")
    with pytest.raises(WeightsFileError, match="does not hold weights of SPIPS"):
        SPIPS(tmp_path / "other.safetensors")
    save_weights(tmp_path / "empty.safetensors", {"a": torch.ones(1)}, {"backbone": "alexnet", "low": "relu1", "high": "relu5"})
    with pytest.raises(WeightsFileError, match="another network"):
        SPIPS(tmp_path / "empty.safetensors", backbone_weights=None)


def test_maps_are_zero_for_identical_images_and_in_range_for_others():
    x, y = torch.rand(2, 2, 3, 65, 80)
    for found in (spips.psnr_map, spips.ssim_maps):
        assert found(y, y).abs().max() == 0
        assert found(x, y).min() > 0
        assert found(x, y).max() <= 1
        assert found(1 - y, y).max() <= 1


def test_ssim_map_as_piq():
    import piq

    x, y = torch.rand(2, 1, 3, 64, 64, dtype=torch.float64)
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).view(1, 3, 1, 1)
    grey = [(image * luma).sum(1, keepdim=True) for image in (x, y)]
    luminance, structure = spips._ssim(*grey)
    ours = ((1 - luminance) * (1 - structure))[..., 5:-5, 5:-5].mean()
    torch.testing.assert_close(ours, piq.ssim(*grey, downsample=False), rtol=0, atol=1e-6)


def test_gradients():
    made = SPIPS.untrained(**PLAIN).double()
    y = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    x = torch.rand(1, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda image: made(image, y), x, fast_mode=True)


def test_bad_images(file):
    made = SPIPS(file, backbone_weights=None)
    y = torch.rand(1, 3, 64, 64)
    for x, message in ((y[..., :60], "one size"), (y * 255, r"in \[0, 1\]")):
        with pytest.raises(ValueError, match=message):
            made(x, y)
    with pytest.raises(ValueError, match="too small"):
        made(y[..., :20], y[..., :20])
    with pytest.raises(TypeError, match="cannot read them in windows"):
        made(as_windows(y), y)
