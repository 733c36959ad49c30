"""Any metric by name, and metrics of one's own."""

import sys
from dataclasses import replace
from functools import partial
from importlib.metadata import EntryPoint

import pytest
import torch
from torch import Tensor, nn

from msds_plugin import MSDS, MissingDependencyError, registry
from msds_plugin.adapters import scorers
from msds_plugin.adapters.scorers import (
    MetricUnavailableError,
    choose_device,
    create_scorer,
    create_scorers,
    describe_metrics,
    parse_metric,
)
from msds_plugin.adapters.wrap import ToolkitMetric, score_each
from msds_plugin.fusion_file import FusionFile
from msds_plugin.metric import Metric


def images(count: int = 2, side: int = 96) -> tuple[Tensor, Tensor]:
    y = torch.rand(count, 3, side, side)
    return (y + 0.2 * torch.rand_like(y)).clamp(0, 1), y


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("msds", {}),
        ("msds,backbone=alexnet,levels=4", {"backbone": "alexnet", "levels": 4}),
        ("msds,fusion=(0.5,0.3,0.2)", {"fusion": (0.5, 0.3, 0.2)}),
        ("msds-fast,layers=[stage1,stage2]", {"layers": ["stage1", "stage2"]}),
    ],
)
def test_names_with_options(text, options):
    assert parse_metric(text) == (text.partition(",")[0], options)


def test_ours():
    x, y = images()
    scorer = create_scorer("msds-fast,levels=2", "cpu", "torch")
    assert (scorer.name, scorer.lower_is_better, scorer.ours, scorer.device.type) == ("msds-fast(levels=2)", False, True, "cpu")
    assert isinstance(scorer.metric, Metric)
    assert not scorer.metric.training
    assert torch.equal(scorer.metric(x, y), registry.create("msds-fast", levels=2)(x, y))
    assert create_scorer("msds", "cpu", backbone="alexnet", weights=None).name == "msds(alexnet)"
    assert create_scorer("msds,levels=2", "cpu", backbone="alexnet", weights=None).name == "msds(alexnet, levels=2)"


@pytest.mark.slow
def test_runtime(monkeypatch):
    x, y = images()
    fast, plain = create_scorer("msds-fast", "cpu"), create_scorer("msds-fast", "cpu", "torch")
    assert (fast.options["runtime"], plain.options["runtime"]) == ("openvino", "torch")
    torch.testing.assert_close(fast.metric(x, y), plain.metric(x, y), rtol=0, atol=1e-5)
    assert create_scorer("msds-fast,runtime=torch", "cpu").options["runtime"] == "torch"
    monkeypatch.setattr(scorers, "find_spec", lambda name: None)
    assert create_scorer("msds-fast", "cpu").options["runtime"] == "torch"


@pytest.mark.parametrize(
    ("name", "lower"), [("psnr", False), ("piq:gmsd", True), ("piq:srsim", False), ("vif", False), ("ms-nlpd", True)]
)
def test_toolkits(name, lower):
    x, y = images(3)
    scorer = create_scorer(name, "cpu")
    assert (scorer.name, scorer.lower_is_better, scorer.ours) == (name, lower, False)
    scores = scorer.metric(x, y)
    each = torch.cat([scorer.metric(x[i : i + 1], y[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(scores, each, rtol=1e-4, atol=1e-5)
    kept = scorer.metric.represent(y[:1])
    torch.testing.assert_close(scorer.metric.compare(scorer.metric.represent(x), kept), scorer.metric(x, y[:1].expand_as(x)))


def test_no_reference():
    x, y = images()
    metric = ToolkitMetric(lambda image: image.mean(), "brightness", full_reference=False)
    torch.testing.assert_close(metric(x, y), x.mean((1, 2, 3)))
    assert metric(x, 1 - y).equal(metric(x, y))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("MSDS-Fast", r"did you mean msds-fast\?"),
        ("LPIPS", r"did you mean lpips\?"),
        ("mdsd", "did you mean .*msds"),
        ("haarpsi", r"did you mean piq:haarpsi\?"),
        ("piq:LPIP", "did you mean piq:LPIPS"),
        ("msds-fast,nonsense=3", "cannot be made: .*nonsense"),
        ("msds-fast,backbone=alexnet", "use msds"),
        *((text, "option=value") for text in ("msds,levels", "msds,levels=1,levels=2", "msds,=3")),
    ],
)
def test_names_that_nobody_knows(name, message):
    with pytest.raises(ValueError, match=message):
        create_scorer(name, "cpu")


def test_without_the_toolkits(monkeypatch):
    monkeypatch.setattr(scorers, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(MissingDependencyError, match=r"piq:LPIPS.*pip install 'msds-plugin\[pyiqa\]'"):
        create_scorer("lpips", "cpu")
    with pytest.raises(MissingDependencyError, match="neither"):
        describe_metrics(with_toolkits=True)


def test_a_metric_that_its_toolkit_cannot_make():
    with pytest.raises(MetricUnavailableError, match=r"pyiqa cannot make 'gmsd' .*nonsense"):
        create_scorer("gmsd,nonsense=1", "cpu")
    with pytest.raises(MetricUnavailableError, match=r"piq cannot make 'fsim' .*nonsense"):
        create_scorer("piq:fsim,nonsense=1", "cpu")
    with pytest.raises(MetricUnavailableError, match=r"pyiqa cannot make 'ssim' .*runtime"):
        create_scorer("ssim,runtime=openvino", "cpu")


def test_several():
    first, second = create_scorers(["msds,levels=1", "deepssim-fast"], "cpu", backbone="alexnet", weights=None)
    assert (first.name, second.name) == ("msds(alexnet, levels=1)", "deepssim-fast")
    with pytest.raises(ValueError, match="backbone can be chosen for"):
        create_scorers(["deepssim-fast"], "cpu", backbone="alexnet")


def test_devices(monkeypatch):
    with pytest.raises(ValueError, match="no device 'nonsense' here"):
        choose_device("nonsense")
    with pytest.raises(ValueError, match="no device 'meta' here: nothing can be computed there"):
        choose_device("meta")
    made = []
    monkeypatch.setattr(torch, "empty", lambda *_, device: made.append(device.type))
    for cuda, mps, first in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        assert choose_device().type == first


def test_descriptions(own_metric):
    registry.register(own_metric)
    rows = {row.name: row for row in describe_metrics()}
    assert list(rows) == registry.names()
    assert rows["msds"][:4] == ("msds", "MSDS", "higher", "-1, 1")
    assert rows["msds"].origin == "msds-plugin" != rows[own_metric.name].origin
    rows = {row.name: row for row in describe_metrics(with_toolkits=True)}
    assert {"lpips", "ms-lpips", "piq:fsim"} <= rows.keys()
    assert (rows["lpips"].better, rows["lpips"].full_reference, rows["lpips"].origin) == ("lower", True, "pyiqa")
    assert not rows["niqe"].full_reference


def test_a_broken_toolkit_does_not_hide_the_others(monkeypatch):
    monkeypatch.setitem(sys.modules, "msds_plugin.adapters.pyiqa", None)
    with pytest.warns(RuntimeWarning, match="pyiqa is installed but cannot be used"):
        rows = describe_metrics(with_toolkits=True)
    assert "piq:ssim" in {row.name for row in rows}


# metrics of one's own


def test_a_metric_of_ones_own(own_metric):
    registry.register(own_metric)
    x, y = images()
    scorer = create_scorer(own_metric.name, "cpu")
    torch.testing.assert_close(scorer.metric(x, y), (x - y).abs().mean((1, 2, 3)))
    assert scorer.lower_is_better
    assert not scorer.ours


class BatchMean(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (x - y).abs().mean()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"factory": BatchMean}, r"returned shape \(\) for 2 images.*one score for each image"),
        ({"lower_is_better": False}, "state lower_is_better=True"),
    ],
)
def test_a_wrong_entry_is_found(own_metric, change, says):
    registry.register(replace(own_metric, **change))
    with pytest.raises(ValueError, match=says):
        create_scorer(own_metric.name, "cpu")


def test_one_score_for_each_image_of_a_metric_that_averages():
    x, y = images(3)
    wanted = (x - y).abs().mean((1, 2, 3))
    for metric in (BatchMean(), lambda a, b: ((a - b).abs().mean((1, 2, 3), keepdim=True), "details")):
        torch.testing.assert_close(score_each(metric, x, y), wanted)
        torch.testing.assert_close(ToolkitMetric(metric, "own")(x, y), wanted)
    with pytest.raises(ValueError, match="one score each"):
        score_each(lambda a, b: torch.zeros(2), x, y)
    with pytest.raises(ValueError, match="float, not a tensor"):
        score_each(lambda a, b: 0.5, x, y)


def test_entry_points(own_metric, monkeypatch):
    found = [EntryPoint("mine", "own_metrics:METRIC", ""), EntryPoint("broken", "no_such_module:METRIC", "")]
    monkeypatch.setattr(scorers, "entry_points", lambda group: found if group == "msds_plugin.metrics" else [])
    monkeypatch.setitem(sys.modules, "own_metrics", type("Module", (), {"METRIC": own_metric}))
    scorers.load_entry_points.cache_clear()
    with pytest.warns(RuntimeWarning, match="no_such_module:METRIC cannot be registered"):
        assert create_scorer(own_metric.name, "cpu").lower_is_better
    scorers.load_entry_points.cache_clear()


def test_fusion_weights_of_a_metric_of_ones_own_that_brings_its_network(tmp_path, own_metric):
    make = partial(MSDS, backbone=nn.Conv2d(3, 4, 3))
    registry.register(replace(own_metric, factory=make, lower_is_better=False, multiscale=True))
    target = create_scorer(own_metric.name, "cpu").metric.target
    file = FusionFile(own_metric.name, target, (0.2, 0.8), None, "set", 9, 3, 3, {}, "2026-01-01", "0.3.0")
    file.save(tmp_path / "fusion.json")
    (scorer,) = create_scorers([own_metric.name], "cpu", fusion=tmp_path / "fusion.json")
    assert scorer.metric.fusion.tolist() == pytest.approx([0.2, 0.8])
