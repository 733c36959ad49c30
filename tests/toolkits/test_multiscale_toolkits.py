"""Any full-reference metric of pyiqa and piq on a pyramid."""

import importlib.util
import re
import sys
from collections.abc import Callable, Container, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import piq
import pyiqa
import pytest
import torch
from pyiqa.default_model_configs import DEFAULT_CONFIGS
from pyiqa.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from msds_plugin import registry
from msds_plugin.adapters import attach

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
FUSION = (0.3, 0.7)
SLOW = {"ms_ssim", "cw_ssim", "mad", "vif"}
WEIGHTLESS = ["psnr", "psnry", "ssim", "ssimc", "ms_ssim", "fsim", "vif", "gmsd", "nlpd", "vsi", "cw_ssim", "mad"]
PIQ_NETWORKS = ["LPIPS", "DISTS", "PieAPP", "ContentLoss", "StyleLoss"]
NOT_BUILT = "fgresq_pair"  # not with transformers 5, which pyiqa's code for it does not know


def _load(path: Path) -> Any:
    spec: Any = importlib.util.spec_from_file_location(path.stem, path)
    sys.modules[path.stem] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


#: It measures every metric, with random weights for those whose files are not here.
SCRIPT = _load(ROOT / "docs/research/measure_multiscale.py")


def names_of(toolkit: str, *without: str) -> list[str]:
    """The full-reference metrics of a toolkit but some."""
    names = [re.sub(r"^ms-|^MultiScale\(|[()]", "", found.name) for found in SCRIPT.candidates() if found.toolkit == toolkit]
    return [name for name in names if name not in without]


def slow(names: Iterable[str], which: Container[str]) -> list[object]:
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in which)) for name in names]


NETWORKS = names_of("pyiqa", *WEIGHTLESS, NOT_BUILT)


@pytest.fixture
def own_metric(request: pytest.FixtureRequest, toolkits_as_before: None) -> str:
    """A metric that a user puts straight into pyiqa; the parameter is what it returns for absolute differences (N,)."""
    shape = getattr(request, "param", lambda scores: scores)

    class OwnMetric(nn.Module):
        def __init__(self, gain: float = 1.0) -> None:
            super().__init__()
            self.gain = gain

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return shape(self.gain * (x - y).abs().mean((1, 2, 3)))

    ARCH_REGISTRY.register(OwnMetric)
    DEFAULT_CONFIGS["own"] = {
        "metric_opts": {"type": "OwnMetric"}, "metric_mode": "FR", "lower_better": True, "score_range": "0, 5"
    }  # fmt: skip
    return "own"


def pair(side: int, count: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    coarse = F.interpolate(torch.rand(count, 3, side // 8, side // 8, generator=generator), (side, side), mode="bilinear")
    noise = torch.rand(count, 3, side, side, generator=generator) * torch.linspace(0.1, 0.4, count).view(-1, 1, 1, 1)
    return (0.6 * coarse + noise).clamp(0, 1), coarse


# pyiqa


def test_every_full_reference_metric_has_its_multiscale_form_and_no_other() -> None:
    wrapped = {name.removeprefix("ms-") for name in pyiqa.list_models(filter="ms-*")}
    bases = {name for name in pyiqa.list_models("FR") if not name.startswith("ms-")}
    assert wrapped == bases - {name for name in registry.names() if registry.get(name).multiscale}
    assert {"lpips", "dists", "ssim", "ms_ssim", "deepssim"} <= wrapped
    assert "msds" not in wrapped
    assert DEFAULT_CONFIGS["ms_ssim"]["metric_opts"]["type"] == "MS_SSIM"


@pytest.mark.slow
def test_none_is_built_at_registration(python: Callable[[str], object]) -> None:
    code = (
        "import sys, msds_plugin, pyiqa; assert 'ms-topiq_fr' in pyiqa.list_models(filter='ms-*');"
        "built = {'pyiqa.archs.ahiq_arch', 'pyiqa.archs.topiq_arch', 'pyiqa.archs.vsi_arch'} & set(sys.modules);"
        "assert not built, built"
    )
    python(code)


@pytest.mark.parametrize("name", slow(WEIGHTLESS, SLOW))
def test_pyiqa_metric_is_fused_from_its_own_scores(name: str) -> None:
    x, y = pair({"ms_ssim": 352, "cw_ssim": 128, "vif": 96}.get(name, 64))
    base = pyiqa.create_metric(name, device=CPU)
    metric = pyiqa.create_metric(f"ms-{name}", device=CPU, levels=2, fusion=FUSION)
    levels = [(x, y), tuple(F.avg_pool2d(image, 2) for image in (x, y))]
    each = [
        sum(w * base(p[i : i + 1], q[i : i + 1]).flatten() for w, (p, q) in zip(FUSION, levels, strict=True)) for i in range(2)
    ]
    scores = metric(x, y)
    assert scores.shape == (2, 1)
    torch.testing.assert_close(scores.flatten(), torch.cat(each), rtol=1e-4, atol=1e-5)
    assert (metric.lower_better, metric.score_range) == (base.lower_better, base.score_range)


def test_grey_images_are_passed_on_as_they_are() -> None:
    x, y = (image[:, :1] for image in pair(64))
    ours, theirs = (pyiqa.create_metric(name, device=CPU) for name in ("ms-ssim", "ssim"))
    expected = sum(theirs(F.avg_pool2d(x, side), F.avg_pool2d(y, side)) for side in (1, 2, 4)) / 3
    torch.testing.assert_close(ours(x, y).flatten(), expected.flatten())


@pytest.mark.usefixtures("torch_home")
def test_lpips_with_real_weights() -> None:
    net = "squeeze"
    x, y = pair(96)
    base = pyiqa.create_metric("lpips", net=net, device=CPU)
    metric = pyiqa.create_metric("ms-lpips", net=net, levels=2, device=CPU)
    torch.testing.assert_close(metric(x, y), (base(x, y) + base(F.avg_pool2d(x, 2), F.avg_pool2d(y, 2))) / 2)
    assert metric.lower_better


@pytest.mark.parametrize("name", ["ms-ssim", "ms-nlpd", "ms-deepssim-fast"])
def test_as_loss_gradients_flow_into_images_that_leave_the_range(name: str) -> None:
    x, y = pair(96)
    x = (1.2 * x - 0.1).requires_grad_()
    loss = pyiqa.create_metric(name, as_loss=True, levels=2, device=CPU)(x, y)
    loss.backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert (x.grad.flatten(1).abs().sum(1) > 0).all()


@pytest.mark.parametrize("name", slow(NETWORKS, {*NETWORKS} - {"wadiqam_fr"}))  # they take seconds
def test_metrics_without_weights_at_hand_work_with_random_ones(name: str) -> None:
    with SCRIPT.random_weights():
        options = {"device": CPU, **SCRIPT.OPTIONS.get(name, {})}
        base, metric = pyiqa.create_metric(name, **options), pyiqa.create_metric(f"ms-{name}", levels=2, **options)
    metric.net.metric.metric.metric.load_state_dict(base.net.state_dict())
    count = 1 if name.startswith("afine") else 2  # afine takes one pair at a time
    x, y = pair(256 if name == "dmm" else 128, count)
    scores = metric(x.clone(), y.clone())
    assert scores.shape == (count, 1)
    if name == "ahiq":  # it scores random crops
        assert scores.isfinite().all()
        return
    both = base(x.clone(), y.clone()).flatten(), base(F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)).flatten()
    torch.testing.assert_close(scores.flatten(), sum(both) / 2, rtol=1e-3, atol=1e-5)
    assert (metric.lower_better, metric.score_range) == (base.lower_better, base.score_range)


@pytest.mark.parametrize(
    "own_metric",
    [lambda s: s, lambda s: s.view(-1, 1, 1, 1), lambda s: s.mean(), lambda s: s.mean()[None], lambda s: (s, 1)],
    indirect=True,
    ids=["(N,)", "(N, 1, 1, 1)", "scalar mean", "(1,) mean", "tuple"],
)
def test_a_metric_put_straight_into_pyiqa_gets_one_score_per_image(own_metric: str) -> None:
    attach()
    assert "ms-own" in pyiqa.list_models(filter="ms-*")
    metric = pyiqa.create_metric("ms-own", gain=2.0, levels=2, device=CPU)
    x, y = torch.rand(3, 3, 8, 8), torch.zeros(3, 3, 8, 8)
    torch.testing.assert_close(metric(x, y), 2 * x.mean((1, 2, 3))[:, None])
    assert (metric.lower_better, metric.score_range) == (True, "0, 5")


@pytest.mark.parametrize("own_metric", [lambda s: s.repeat(4)], indirect=True)
def test_a_metric_with_several_scores_per_image_is_refused(own_metric: str) -> None:
    attach()
    with pytest.raises(ValueError, match="one score each"):
        pyiqa.create_metric(f"ms-{own_metric}", device=CPU)(torch.rand(3, 3, 8, 8), torch.rand(3, 3, 8, 8))


@pytest.mark.usefixtures("toolkits_as_before")
def test_a_metric_of_our_registry_that_comes_later() -> None:
    factory = lambda: nn.PairwiseDistance()  # noqa: E731
    registry.register(registry.Metric("own-late", "OwnLate", factory, True, (0, 9), "own"))
    registry.register(registry.Metric("own-pyramid", "OwnPyramid", factory, True, (0, 9), "own", multiscale=True))
    assert pyiqa.list_models(filter="ms-own*") == ["ms-own-late"]
    assert DEFAULT_CONFIGS["ms-own-late"]["score_range"] == "0, 9"


def test_a_name_that_somebody_else_has_taken_is_left_alone(own_metric: str) -> None:
    theirs = {"metric_opts": {"type": "OwnMetric"}, "metric_mode": "FR", "lower_better": False}
    DEFAULT_CONFIGS[f"ms-{own_metric}"] = theirs
    attach()
    assert DEFAULT_CONFIGS["ms-own"] is theirs
    assert "ms-ms-own" not in DEFAULT_CONFIGS


def test_multiscale_deepssim_is_msds() -> None:
    x, y = pair(128)
    ours, wrapped = (pyiqa.create_metric(name, device=CPU) for name in ("msds-fast", "ms-deepssim-fast"))
    torch.testing.assert_close(wrapped(x, y), ours(x, y))
    assert not [name for name, value in wrapped.state_dict().items() if "weight" in name and value.numel() > 3]


@pytest.mark.parametrize(
    ("name", "side", "level", "fits"), [("ms-ssim", 40, 2, 2), ("ms-ssim", 20, 1, 1), ("ms-deepssim-fast", 40, 2, 2)]
)
def test_too_small_an_image_is_named_with_the_levels_that_fit(name: str, side: int, level: int, fits: int) -> None:
    metric = pyiqa.create_metric(name, device=CPU)
    x, y = pair(side, 1)
    expected = rf"{side} x {side} pixels is too small: level {level} of 3 .*{side >> level} x {side >> level}.*levels={fits}"
    with pytest.raises(ValueError, match=expected):
        metric(x, y)
    assert pyiqa.create_metric(name, device=CPU, levels=fits)(x, y).isfinite().all()


# piq


def _two_scales(name: str) -> dict[str, Tensor]:
    """Options that let the five-scale SSIMs, which need 161 pixels, work on smaller images."""
    five = ("multi_scale_ssim", "information_weighted_ssim", "MultiScaleSSIMLoss", "InformationWeightedSSIMLoss")
    return {"scale_weights": torch.tensor([0.4, 0.6])} if name in five else {}


@pytest.mark.parametrize("name", names_of("piq", *PIQ_NETWORKS))
def test_piq_metric_is_fused_from_its_own_scores(name: str) -> None:
    made, options = getattr(piq, name), _two_scales(name)
    is_loss = isinstance(made, type)
    own = made(reduction="none", **options) if is_loss else partial(made, reduction="none", **options)
    x, y = pair(96)
    x.requires_grad_()
    each = FUSION[0] * own(x, y) + FUSION[1] * own(F.avg_pool2d(x, 2), F.avg_pool2d(y, 2))
    for reduction, expected in (("none", each), ("mean", each.mean()), ("sum", each.sum())):
        if is_loss:  # with 'sum', piq's own return 1 - sum(score), not sum(1 - score) as documented there
            metric = piq.MultiScale(made(reduction=reduction, **options), levels=2, fusion=FUSION)
        else:
            metric = piq.MultiScale(made, levels=2, fusion=FUSION, reduction=reduction, **options)
        torch.testing.assert_close(metric(x, y), expected)
    (gradient,) = torch.autograd.grad(metric(x, y), x)
    assert gradient.abs().sum() > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", PIQ_NETWORKS)
def test_piq_network_keeps_its_weights_and_its_reduction(name: str) -> None:
    with SCRIPT.random_weights():
        wrapped = getattr(piq, name)(reduction="sum")
    x, y = pair(128)
    metric = piq.MultiScale(wrapped, levels=2, reduction="none")
    scores = metric(x, y)
    assert scores.shape == (2,)
    assert wrapped.reduction == "sum"
    wrapped.reduction = "none"
    torch.testing.assert_close(scores, (wrapped(x, y) + wrapped(F.avg_pool2d(x, 2), F.avg_pool2d(y, 2))) / 2)
    assert {id(p) for p in metric.parameters()} == {id(p) for p in wrapped.parameters()}


def test_piq_options() -> None:
    x, y = pair(64)
    torch.testing.assert_close(piq.MultiScale(piq.ssim, data_range=255)(255 * x, 255 * y), piq.MultiScale(piq.ssim)(x, y))
    with pytest.raises(AssertionError):
        piq.MultiScale(piq.ssim)(255 * x, 255 * y)
    assert piq.MultiScale(piq.SSIMLoss(reduction="sum")).reduction == "sum"
    assert piq.MultiScale(piq.SSIMLoss(reduction="sum"), reduction="mean").reduction == "mean"
    assert piq.MultiScale(piq.ssim).reduction == "mean"
    metric = piq.MultiScale(partial(piq.ssim, kernel_size=7), levels=2)
    assert torch.equal(metric(x, y), piq.MultiScale(piq.ssim, levels=2, kernel_size=7)(x, y))
    assert str(metric.multiscale.target) == "piq.ssim(kernel_size=7)"


def test_piq_refuses_what_cannot_be_wrapped() -> None:
    with pytest.raises(ValueError, match="unknown reduction"):
        piq.MultiScale(piq.ssim, reduction="median")
    with pytest.raises(TypeError, match="LPIPS is a class"):
        piq.MultiScale(piq.LPIPS)
    with pytest.raises(TypeError, match="nonsense"):
        piq.MultiScale(piq.ssim, nonsense=1)
    with pytest.raises(TypeError, match="to the loss itself"):
        piq.MultiScale(piq.SSIMLoss(), data_range=255)
    with pytest.raises(ValueError, match="list"):
        piq.MultiScale(piq.ssim, full=True)(*pair(64))
    with pytest.raises(ValueError, match=r"40 x 40 pixels is too small: level 2 of 3 .*levels=2"):
        piq.MultiScale(piq.SSIMLoss())(*pair(40))


def test_piq_wraps_functions_that_average_over_the_batch() -> None:
    def own(x: Tensor, y: Tensor) -> Tensor:
        return (x - y).square().mean()

    x, y = torch.rand(3, 3, 8, 8), torch.rand(3, 3, 8, 8)
    expected = ((x - y).square().mean((1, 2, 3)) + (F.avg_pool2d(x - y, 2)).square().mean((1, 2, 3))) / 2
    torch.testing.assert_close(piq.MultiScale(own, levels=2, reduction="none")(x, y), expected)
