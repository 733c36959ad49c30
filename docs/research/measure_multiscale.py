"""The figures of docs/research/multiscale.md, each metric alone and on a pyramid.

    TORCH_HOME=DIR python docs/research/measure_multiscale.py [NAME ...] > table.md

Metrics whose pretrained weights are not on this machine get random ones: the sizes that a network takes do not depend on
its weights. Nothing is downloaded.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"  # read at import

import piq
import pyiqa
import timm
import torch
from pyiqa.default_model_configs import DEFAULT_CONFIGS
from pyiqa.utils import download_util
from torch import Tensor, nn
from torch.nn import functional as F

import msds_plugin.msds

LARGEST = 1024
#: AHIQ scores 20 random crops by default; two are enough to see whether it works.
OPTIONS: dict[str, dict[str, Any]] = {"ahiq": {"num_crop": 2}}


class _Nothing(dict[str, Any]):
    """A file of weights that holds none."""

    def __missing__(self, key: str) -> _Nothing:
        return self


def _refuse(url: str, *_: Any, **__: Any) -> None:
    raise OSError(f"not on this machine: {url}")


def _load_random(path: str | os.PathLike[str], *_: Any, **__: Any) -> Any:
    name = os.path.basename(path)
    if name == "lpips_weights.pt":
        return [torch.rand(1, channels, 1, 1) for channels in (64, 128, 256, 512, 512)]
    if name == "dists_weights.pt":
        return {"alpha": torch.rand(1, 1475, 1, 1), "beta": torch.rand(1, 1475, 1, 1)}
    if name == "PieAPPv0.1.pth":
        state = piq.pieapp.PieAPPModel().state_dict()
        return state | {"ref_score_subtract.weight": state["ref_score_subtract.weight"].squeeze(1)}
    return _Nothing()


def _afine_clip(*_: Any, **__: Any) -> tuple[nn.Module, None]:
    from pyiqa.archs.afineclip_model import AFINECLIP

    return AFINECLIP(512, 224, 12, 768, 32, 77, 49408, 512, 8, 12).float(), None


def _clip_vision(_: str) -> nn.Module:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    return CLIPVisionModel(CLIPVisionConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12, patch_size=16))


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Let every attempt to download fail at once."""
    with (
        mock.patch.object(torch.hub, "download_url_to_file", _refuse),
        mock.patch.object(download_util, "download_url_to_file", _refuse),
        mock.patch("urllib.request.urlopen", _refuse),
    ):
        yield


@contextlib.contextmanager
def random_weights() -> Iterator[None]:
    """Leave networks with the random values of their constructors wherever they ask for a file of weights."""
    load_state_dict, create_model = nn.Module.load_state_dict, timm.create_model

    def load_unless_empty(module: nn.Module, state: Any, *args: Any, **options: Any) -> Any:
        if not state:
            return torch.nn.modules.module._IncompatibleKeys([], [])
        return load_state_dict(module, state, *args, **options)

    def create_untrained(name: str, *args: Any, **options: Any) -> Any:
        return create_model(name, *args, **{**options, "pretrained": False})

    def no_download(*_: Any, **__: Any) -> None:
        """Leave the file out: what should be read from it is made up."""

    torch.manual_seed(0)
    with (
        mock.patch.object(nn.Module, "load_state_dict", load_unless_empty),
        mock.patch.object(timm, "create_model", create_untrained),
        mock.patch.object(torch.hub, "download_url_to_file", no_download),
        mock.patch.object(download_util, "download_url_to_file", no_download),
        mock.patch.object(torch, "load", _load_random),
        mock.patch("pyiqa.archs.afine_arch.load", _afine_clip),
        mock.patch("transformers.CLIPVisionModel.from_pretrained", _clip_vision),
    ):
        yield


Metric = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Candidate:
    """A metric to be measured: ``build(levels, as_loss)`` makes its multiscale form."""

    toolkit: str
    name: str
    build: Callable[[int, bool], Metric]


def candidates() -> list[Candidate]:
    """Every full-reference metric of both toolkits."""

    def of_pyiqa(name: str) -> Candidate:
        def build(levels: int, as_loss: bool) -> Metric:
            options = {"levels": levels, "as_loss": as_loss, "device": torch.device("cpu"), **OPTIONS.get(name, {})}
            return pyiqa.create_metric(f"ms-{name}", **options)

        return Candidate("pyiqa", f"ms-{name}", build)

    def of_piq(name: str) -> Candidate:
        wrapped = getattr(piq, name)
        loss = isinstance(wrapped, type)

        def build(levels: int, as_loss: bool) -> Metric:
            reduction = "mean" if as_loss else "none"
            return piq.MultiScale(wrapped() if loss else wrapped, levels, reduction=reduction)

        return Candidate("piq", f"MultiScale({name}{'()' if loss else ''})", build)

    ours = set(msds_plugin.registry.names())
    names = [n for n, c in DEFAULT_CONFIGS.items() if c["metric_mode"] == "FR" and not n.startswith("ms-") and n not in ours]
    return [of_pyiqa(n) for n in names] + [of_piq(n) for n in sorted(vars(piq), key=str.lower) if _compares_images(n)]


def _compares_images(name: str) -> bool:
    thing = getattr(piq, name)
    if getattr(thing, "__module__", "").startswith("msds_plugin") or name.startswith("_"):
        return False
    function = thing.forward if isinstance(thing, type) and issubclass(thing, nn.Module) else thing
    if not inspect.isfunction(function):
        return False
    images = [parameter for parameter in inspect.signature(function).parameters if parameter != "self"][:2]
    features_not_images = isinstance(thing, type) and issubclass(thing, piq.base.BaseFeatureMetric)
    return images in (["x", "y"], ["prediction", "target"]) and not features_not_images


def pair(side: int, count: int = 1) -> tuple[Tensor, Tensor]:
    """A reference with coarse and fine detail, and the same with noise and less contrast."""
    generator = torch.Generator().manual_seed(side)
    coarse = F.interpolate(torch.rand(count, 3, max(1, side // 8), max(1, side // 8), generator=generator), (side, side))
    reference = 0.7 * coarse + 0.3 * torch.rand(count, 3, side, side, generator=generator)
    noise = torch.rand(count, 3, side, side, generator=generator)
    return (0.1 + 0.7 * reference + 0.2 * noise).clamp(0, 1), reference


def smallest_side(build: Callable[[], Metric]) -> tuple[int | None, set[str]]:
    """Side of the smallest square images that get a finite score, and the errors below it that were not ValueErrors."""
    metric, others = build(), set[str]()

    def works(side: int) -> bool:
        nonlocal metric
        try:
            with torch.no_grad():
                return bool(metric(*pair(side)).isfinite().all())
        except ValueError:
            pass
        except Exception as error:
            others.add(type(error).__name__)
        metric = build()  # a metric that failed may have kept half of what it computed
        return False

    high = 1
    while not works(high):
        high *= 2
        if high > LARGEST:
            return None, others
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if works(middle) else (middle, high)
    return high, others


def batches(metric: Metric, side: int) -> str:
    """Whether two images in a batch get the scores that each gets alone."""
    x, y = pair(side, 2)
    try:
        with torch.no_grad():
            together = metric(x.clone(), y.clone()).flatten()
            alone = torch.cat([metric(x[i : i + 1].clone(), y[i : i + 1].clone()).flatten() for i in range(2)])
    except Exception as error:
        return f"no ({type(error).__name__})"
    return "yes" if torch.allclose(together, alone, rtol=1e-3, atol=1e-5) else "other scores"


def gradient(loss: Metric, side: int) -> str:
    """Whether a gradient that is finite and not all zero reaches the distorted image."""
    x, y = pair(side)
    x.requires_grad_()
    try:
        loss(x, y).sum().backward()
    except Exception as error:
        return f"no ({type(error).__name__})"
    if x.grad is None or not x.grad.abs().sum() > 0:
        return "no"
    return "yes" if x.grad.isfinite().all() else "not finite"


def measure(candidate: Candidate) -> str:
    """One row of the table."""
    row = [candidate.toolkit, f"`{candidate.name}`"]
    try:
        with offline():
            candidate.build(1, False)
        weights, environment = "real or none", offline
    except Exception:
        weights, environment = "random", random_weights
    with environment():
        try:
            (one, _), (three, errors) = (smallest_side(lambda n=levels: candidate.build(n, False)) for levels in (1, 3))
            if one is None or three is None:
                return " | ".join([*row, weights, f"not up to {LARGEST} pixels", "", "", "", "", ", ".join(sorted(errors))])
            side = max(256, three)
            batch, slope = batches(candidate.build(3, False), side), gradient(candidate.build(3, True), side)
        except Exception as error:
            return " | ".join([*row, f"cannot be built: {type(error).__name__}: {error}"])
    return " | ".join([*row, weights, "yes", str(one), str(three), batch, slope, ", ".join(sorted(errors))])


def main() -> None:
    """Print the table; arguments choose metrics by name."""
    warnings.simplefilter("ignore")
    # Side of the image that a metric which fails is tried on to see whether the size was why: enough for all of these.
    msds_plugin.msds._LARGE = 224
    chosen = [c for c in candidates() if not sys.argv[1:] or c.name in sys.argv[1:]]
    print("| toolkit | metric | weights | works | 1 level from | 3 levels from | batch of 2 | gradient | other errors |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for candidate in chosen:
        with contextlib.redirect_stdout(sys.stderr):  # pyiqa prints what it loads
            row = measure(candidate)
        print(f"| {row} |", flush=True)


if __name__ == "__main__":
    main()
