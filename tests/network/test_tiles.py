"""Tiles give what the whole image gives: values, gradients, levels, files."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from msds_plugin import BACKBONES, MSDS, DeepSSIM, DeepSSIMLite, MSDSAlign, MultiScale, tiles
from msds_plugin.functional import gram_matrix, pyramid
from msds_plugin.windows import Windows, halvings


@pytest.fixture(autouse=True)
def _single_thread():
    # float64 convolutions in groups run many times faster so.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    monkeypatch.setattr(tiles, "SMALL", 64)


def build(name: str, kind: type[nn.Module] = DeepSSIM, **options: object) -> nn.Module:
    return kind(backbone=name, weights=None, **options).double()


def saliency(height: int, width: int) -> Tensor:
    """Salient in scattered pixels and in a corner."""
    maps = (torch.rand(1, 1, height, width, dtype=torch.float64) > 0.98).double()
    maps[..., : height // 3, : width // 2] = 0.7
    return maps


def difference(a, b) -> float:
    """Largest difference of two representations, relative to each Gram matrix's largest entry."""
    pairs = [pair for level in zip(a.views, b.views, strict=True) for pair in zip(*level, strict=True)]
    return max(((p - q).abs().max() / p.abs().max()).item() for p, q in pairs)


SLOW = pytest.mark.slow
CHOICES = [
    pytest.param("vgg16", None, 64, marks=SLOW),
    pytest.param("vgg16", ["relu2_2", "relu1_1"], 16, marks=SLOW),
    ("alexnet", None, 32),
    ("squeezenet1_1", None, 32),
    pytest.param("squeezenet1_1", ["relu1"], 1, marks=SLOW),
    pytest.param("squeezenet1_1", list(BACKBONES["squeezenet1_1"].layers), 48, marks=SLOW),
    pytest.param("efficientnet_lite0", None, 64, marks=SLOW),
    ("efficientnet_lite0", ["stage2", "stage0"], 32),
]


@pytest.mark.parametrize(("name", "layers", "tile"), CHOICES)
@pytest.mark.parametrize("size", [(129, 67), (66, 97), (31, 31)])
def test_equal_to_the_whole_image(name, layers, tile, size):
    metric = build(name, layers=layers)
    image, maps = torch.rand(1, 3, *size, dtype=torch.float64), saliency(*size)
    with torch.no_grad():
        whole = metric.represent(image), metric.represent(image, maps)
        metric.tile = tile
        tiled = metric.represent(image), metric.represent(image, maps)
    assert difference(whole[0], tiled[0]) <= 1e-12
    assert difference(whole[1], tiled[1]) <= 1e-12


@pytest.mark.parametrize(
    ("name", "size", "tile"),
    [
        pytest.param("vgg16", (20, 400), 16, marks=SLOW),
        pytest.param("alexnet", (500, 33), 16, marks=SLOW),
        ("squeezenet1_1", (19, 610), 32),
        pytest.param("efficientnet_lite0", (17, 1300), 64, marks=SLOW),
    ],
)
def test_margins_suffice_where_no_tile_sees_the_whole_image(name, size, tile):
    metric = build(name)
    image = torch.rand(1, 3, *size, dtype=torch.float64)
    spans = tiles.spans(max(size), tile, metric.backbone.geometry(), metric.smallest)
    assert all(span.begin > 0 or span.end < max(size) for span in spans)
    assert any(span.begin > 0 and span.end < max(size) for span in spans)
    with torch.no_grad():
        whole = metric.represent(image)
        metric.tile = tile
        assert difference(whole, metric.represent(image)) <= 1e-12


@pytest.mark.parametrize(
    ("name", "size", "tile"), [("squeezenet1_1", (19, 610), 32), pytest.param("vgg16", (20, 400), 16, marks=SLOW)]
)
def test_margins_are_not_larger_than_needed(name, size, tile, monkeypatch):
    """With one position less of margin the result differs: the test above would notice a wrong table."""
    metric = build(name)
    image = torch.rand(1, 3, *size, dtype=torch.float64)
    margins = tiles._margins
    with torch.no_grad():
        whole = metric.represent(image)
        metric.tile = tile
        step = max(layer.stride for layer in metric.backbone.geometry())
        monkeypatch.setattr(tiles, "_margins", lambda layers: tuple(max(0, m - 2 * step) for m in margins(layers)))
        assert difference(whole, metric.represent(image)) > 1e-9


@pytest.mark.parametrize("length", [1, 7, 31, 32, 33, 100, 1000, 1025])
@pytest.mark.parametrize("core", [1, 30, 64, 5000])
@pytest.mark.parametrize("name", BACKBONES)
def test_spans_own_every_position_once(length, core, name):
    table = BACKBONES[name]
    layers = list(table.layers.values())
    spans = tiles.spans(length, core, layers, table.smallest)
    step = max(layer.stride for layer in layers)
    assert [span.first for span in spans[1:]] == [span.last for span in spans[:-1]]
    assert spans[0].first == 0
    assert spans[-1].first < length <= spans[-1].last
    for span in spans:
        assert span.begin % step == 0
        assert 0 <= span.begin <= span.first
        assert span.end <= length
        assert len(span) >= min(length, table.smallest)
        assert span.last - span.first <= max(step, core + step - 1)
        for layer in layers:
            last = span.last - layer.stride
            assert span.begin == 0 or span.begin <= span.first + layer.start
            assert span.end == length or span.end >= last + layer.start + layer.receptive_field


def test_single_precision_and_sizes_that_differ(golden, device):
    distorted, reference = golden("parrots_scale75.png").to(device), golden("parrots.png").to(device)
    metric = MSDS(levels=2, backbone="squeezenet1_1", weights=None).to(device)
    with torch.no_grad():
        whole = metric.level_scores(distorted, reference)
        metric.tile = 96
        tiled = metric.level_scores(distorted, reference)
    torch.testing.assert_close(tiled, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [DeepSSIM, DeepSSIMLite])
def test_batches_and_identical_images(kind):
    x, y = torch.rand(2, 2, 3, 70, 60, dtype=torch.float64)
    whole, tiled = build("alexnet", kind), build("alexnet", kind, tile=32)
    tiled.load_state_dict(whole.state_dict())
    torch.testing.assert_close(tiled(x, y), whole(x, y), atol=1e-12, rtol=0)
    perfect = 1.0 if kind is DeepSSIM else 0.0
    assert (tiled(x, x) == perfect).all()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param("vgg16", DeepSSIMLite, marks=SLOW),
        ("squeezenet1_1", DeepSSIMLite),
        ("squeezenet1_1", MSDS),
        pytest.param("efficientnet_lite0", MSDS, marks=SLOW),
    ],
)
def test_gradients(name, kind, device):
    metric = build(name, kind, **({"levels": 2} if kind is MSDS else {})).to(device)
    x = torch.rand(1, 3, 64, 130, dtype=torch.float64, device=device, requires_grad=True)
    y = torch.rand(1, 3, 66, 64, dtype=torch.float64, device=device)
    (whole,) = torch.autograd.grad(metric(x, y).sum(), x)
    metric.tile = 64
    (tiled,) = torch.autograd.grad(metric(x, y).sum(), x)
    assert whole.abs().max() > 0
    torch.testing.assert_close(tiled, whole, atol=1e-9 * whole.abs().max().item(), rtol=0)


def test_backward_keeps_no_tile():
    def kept_for_backward(call) -> int:
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            call()
        return sum(sizes)

    metric = build("alexnet", DeepSSIMLite, tile=64)
    metric.float()
    x = torch.rand(1, 3, 400, 400, requires_grad=True)
    tiled = kept_for_backward(lambda: metric.represent(x))
    metric.tile = None
    assert tiled < kept_for_backward(lambda: metric.represent(x)) / 10


def test_pyramid_of_windows(monkeypatch):
    monkeypatch.setattr("msds_plugin.windows._STRIP", 500)
    image = torch.rand(1, 3, 75, 101)
    for level, whole in zip(halvings(image, 4), pyramid(image, 4), strict=True):
        assert level.shape == whole.shape
        height, width = whole.shape[-2:]
        assert torch.equal(level.read(0, 0, height, width), whole)
        assert torch.equal(level.read(2, 3, height - 3, width - 4), whole[..., 2:-1, 3:-1])


def test_images_read_in_windows(recorded):
    """Scores of an image that is never read whole, saliency maps included, on every level."""
    x, y = torch.rand(1, 3, 150, 131, dtype=torch.float64), torch.rand(1, 3, 97, 140, dtype=torch.float64)
    maps_x, maps_y = saliency(150, 131), saliency(97, 140)
    metric = build("squeezenet1_1", MSDS, levels=2)
    with torch.no_grad():
        whole = metric(x, y, maps_x, maps_y)
        metric.tile = 32
        sources = [recorded(image) for image in (x, y, maps_x, maps_y)]
        assert all(isinstance(source, Windows) for source in sources)
        torch.testing.assert_close(metric(*sources), whole, atol=1e-9, rtol=0)
    assert all(height * width < 150 * 131 / 2 for *_, height, width in sources[0].windows if height > 2)


def test_each_pixel_is_read_about_once(recorded):
    image = torch.rand(1, 3, 600, 600)
    metric = DeepSSIM(backbone="alexnet", weights=None, layers="relu1", tile=64)
    source = recorded(image)
    metric.represent(source)
    read = sum(height * width for *_, height, width in source.windows)
    assert read < 600 * 600 * (1 + 2 * 16 / 60) ** 2


def test_windows_are_checked(recorded):
    metric = DeepSSIM(backbone="alexnet", weights=None)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        metric.represent(recorded(255 * torch.rand(1, 3, 64, 64)))
    with pytest.raises(ValueError, match="RGB"):
        metric.represent(recorded(torch.rand(1, 1, 64, 64)))
    with pytest.raises(ValueError, match="too small"):
        metric.represent(recorded(torch.rand(1, 3, 16, 64)))
    with pytest.raises(ValueError, match="one reference per"):
        metric(recorded(torch.rand(2, 3, 64, 64)), torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match="saliency map"):
        metric.represent(recorded(torch.rand(1, 3, 64, 64)), torch.rand(1, 1, 32, 64))
    with pytest.raises(TypeError, match="whole images"):
        MultiScale(nn.L1Loss())(recorded(torch.rand(1, 3, 64, 64)), torch.rand(1, 3, 64, 64))


@pytest.mark.parametrize("tile", [0, -5, 1.5, "large", True])
def test_what_is_not_a_tile(tile):
    assert DeepSSIM(backbone="alexnet", weights=None, tile=np.int64(64)).tile == 64
    for kind in (partial(DeepSSIM, "alexnet"), MSDSAlign):
        with pytest.raises(ValueError, match="tile must be"):
            kind(weights=None, tile=tile)


def test_unknown_geometry_is_refused(recorded):
    own = nn.Conv2d(3, 4, 3)
    with pytest.raises(ValueError, match="not known"):
        DeepSSIM(backbone=own, tile="auto")
    with pytest.raises(ValueError, match="not known"):
        MSDS(backbone=own).represent(recorded(torch.rand(1, 3, 64, 64)))
    with pytest.raises(ValueError, match="not known"):
        DeepSSIM(backbone="timm:resnet18", weights=None, tile=64)


@pytest.mark.parametrize("place", ["encoder", "encoder.backbones.0", "encoder.backbones.0.net"])
@pytest.mark.parametrize("change", ["forward", "wrapper"])
def test_what_tiles_would_pass_by_is_refused(place, change):
    metric = build("alexnet", tile=64)
    whole = metric.get_submodule(place)
    if change == "forward":
        whole.forward = lambda *given: None
    else:
        whole.__class__ = type("Wrapper", (type(whole),), {"forward": lambda self, *given: None})
    with pytest.raises(ValueError, match="would not count: in tiles"):
        metric(*torch.rand(2, 1, 3, 70, 80).double())


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("name", [pytest.param(name, marks=[SLOW] * (name == "vgg16")) for name in BACKBONES])
def test_windows_of_any_backbone_in_tiles_of_their_own_choice(name, mode, recorded):
    """What is measured to choose them does not depend on which kernels run."""
    metric = MSDS(2, backbone=name, weights=None)
    x, y = torch.rand(2, 1, 3, 130, 140)
    with mode():
        found = metric(recorded(x), recorded(y))
        torch.testing.assert_close(found, metric(x, y), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "layers"), [("alexnet", None), pytest.param("vgg16", None, marks=SLOW), ("squeezenet1_1", ["relu1"])]
)
def test_auto_follows_the_memory_there_is(name, layers, monkeypatch, recorded):
    metric = DeepSSIM(backbone=name, weights=None, layers=layers, tile="auto")
    source = recorded(torch.rand(1, 3, 100, 90))

    def tile(budget: int, gradient: bool = False) -> int:
        monkeypatch.setattr(tiles, "_budget", lambda device: budget)
        return tiles._Tiles(metric.backbone, source, None, gradient, gram_matrix).affordable()

    assert tile(1 << 40) == 100
    if layers is None:
        assert tile(1 << 10) == sum(tiles._margins(metric.backbone.geometry()))
        source.shape = (1, 3, 100_000, 100_000)
        assert 700 < tile(1 << 28) < tile(1 << 29) < 30_000
        assert tile(1 << 29, gradient=True) < tile(1 << 29)
