"""``msds export``: a metric as an ONNX file."""

import sys

import pytest
import torch
from torch.nn import functional as F

from msds_plugin import DeepSSIM
from msds_plugin.adapters import export as module
from msds_plugin.adapters.scorers import create_scorer
from msds_plugin.errors import MissingDependencyError

SMALL = "deepssim-lite,backbone=squeezenet1_1,weights=None"


def pair(x_side, y_side):
    coarse = torch.rand(1, 3, 12, 12)
    x, y = [F.interpolate(coarse, side, mode="bicubic").clamp(0, 1) for side in (x_side, y_side)]
    return (x + 0.05 * torch.randn_like(x)).clamp(0, 1), y


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["msds-fast", "deepssim-lite-fast", "msds-align"])
def test_scores_of_onnxruntime_are_torchs(metric, tmp_path, msds):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "metric.onnx"
    msds("export", "-m", metric, path)
    assert 12e6 < path.stat().st_size < 16e6
    session = onnxruntime.InferenceSession(path)
    expected = create_scorer(metric, "cpu", "torch").metric
    small = (expected.smallest, expected.smallest + 3)
    for sides in ((small, small), ((65, 97), (65, 97)), ((240, 321), (333, 200)), ((1080, 1920), (1080, 1920))):
        x, y = pair(*sides)
        (found,) = session.run(None, {"distorted": x.numpy(), "reference": y.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), expected(x, y), atol=1e-5, rtol=0)
    (same,) = session.run(None, {"distorted": y.numpy(), "reference": y.numpy()})
    assert same[0] == float(not expected.lower_is_better)


@pytest.fixture
def installed(monkeypatch):
    """As if the packages of the extra were there."""
    monkeypatch.setattr(module, "find_spec", lambda name: True)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("metric", "complaint"),
    [
        ("msds-hybrid", "does more than compare matrices"),
        (f"{SMALL},tile=64", "leave out tile and saliency"),
        (f"{SMALL},saliency=gbvs", "leave out tile and saliency"),
    ],
)
def test_what_cannot_be_exported(metric, complaint, tmp_path, msds):
    msds("export", "-m", metric, "metric.onnx", code=2, stderr=complaint)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("installed")
def test_where_to(tmp_path, msds):
    msds("export", "-m", SMALL, "metric.pt", code=2, stderr="must end in .onnx")
    msds("export", "-m", SMALL, "none/metric.onnx", code=2, stderr="make it first")


def test_packages_that_are_missing_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "find_spec", lambda name: name != "onnxscript")
    with pytest.raises(MissingDependencyError, match=r"needs onnxscript: pip install 'msds-plugin\[onnx\]'"):
        module.export(SMALL, tmp_path / "metric.onnx")


@pytest.mark.usefixtures("installed")
def test_other_scores_than_torchs_leave_what_was_there(monkeypatch, tmp_path):
    metric = DeepSSIM("squeezenet1_1", weights=None)

    class Session:
        """A runtime that is a little off."""

        def __init__(self, path, providers):
            assert path.read_text() == "new"

        def run(self, outputs, given):
            x, y = (torch.from_numpy(each) for each in given.values())
            return [(metric(x, y).detach() + 2e-5).numpy()]

    monkeypatch.setitem(sys.modules, "onnxruntime", type("Runtime", (), {"InferenceSession": Session}))
    monkeypatch.setattr(module, "_exportable", lambda name: metric)
    monkeypatch.setattr(module, "_write", lambda metric, path: path.write_text("new"))
    path = tmp_path / "metric.onnx"
    path.write_text("old")
    with pytest.raises(RuntimeError, match=r"differs by 2.*nothing is written"):
        module.export(SMALL, path)
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["metric.onnx"]
