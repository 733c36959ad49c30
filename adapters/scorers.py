"""Any metric by name, ours or pyiqa's, behind one face."""

from __future__ import annotations

import ast
import difflib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from .. import registry
from ..errors import MissingDependencyError
from ..fusion_file import FusionFile
from ..multiscale import MultiScale
from ..representation import Representation
from ..windows import Windows
from . import attach

#: Of the names of pyiqa's metrics on a pyramid.
MULTISCALE_PREFIX = "ms-"


class Representing(Protocol):
    """A metric that can represent an image once and compare it often."""

    def represent(self, image: Tensor | Windows) -> Representation:
        """What is to be kept of images."""

    def compare(self, a: Representation, b: Representation) -> Tensor:
        """Scores (N,) of two representations."""


class MetricUnavailableError(RuntimeError):
    """A metric of a toolkit that cannot be made here."""


@dataclass(frozen=True)
class Scorer:
    """A metric that is ready to score.

    Attributes:
        name: as it was asked for; where another backbone was chosen than the name stands for, with that in parentheses.
        lower_is_better: direction.
        score: (distorted, reference), each (N, 3, H, W) in [0, 1] on ``device``, to (N,).
        device: where images must be.
        module: the metric itself.
        options: what it was made with; None where that is not known.
    """

    name: str
    lower_is_better: bool
    score: Callable[[Tensor, Tensor], Tensor]
    device: torch.device
    module: nn.Module
    options: Mapping[str, Any] | None = None

    @property
    def representing(self) -> Representing | None:
        """The metric, if an image can be represented once and compared often."""
        inner = self.module.metric if isinstance(self.module, MultiScale) else self.module
        return cast(Representing, self.module) if hasattr(inner, "represent") and hasattr(inner, "compare") else None


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """The device of this name; None for the GPU if there is one.

    Raises:
        ValueError: there is no such device here.
    """
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:  # which of them depends on how torch was built
        raise ValueError(f"no device {str(device)!r} here: {str(error).splitlines()[0]}") from error
    return chosen


def create_scorer(metric: str, device: str | torch.device | None = None, **options: Any) -> Scorer:
    """Build a metric by its name, in our registry first, then among pyiqa's.

    Args:
        metric: ``msds``, ``deepssim-fast``, ...; with pyiqa installed, any name of ``pyiqa.list_models()``, among them
            ``ms-<name>`` for the full-reference metric ``<name>`` on a pyramid; with piq installed, ``piq:`` and piq's name
            for it (``piq:fsim``, ``piq:LPIPS``). Options may follow after commas: ``msds,backbone=alexnet,levels=4``; the
            scorer is then named ``msds(alexnet, levels=4)``.
        device: None for the GPU if there is one.
        options: further ones, which do not show in the name.

    Raises:
        ValueError: no metric of this name (names the nearest), options that it does not take, or no such device.
        MissingDependencyError: the name is not ours, and the toolkit that could have it is not installed.
        MetricUnavailableError: the toolkit has the metric but cannot make it, for want of its weights for example.
        WeightsNotFoundError, WeightsFileError: the weights of one of our metrics.
    """
    name, own = parse_metric(metric)
    options |= own
    try:
        scorer = replace(_create(name, choose_device(device), **options), options=options)
    except TypeError as error:
        raise ValueError(f"{metric!r} cannot be made: {error}") from error
    shown = ", ".join(str(value) if key == "backbone" else f"{key}={value}" for key, value in own.items())
    return replace(scorer, name=f"{name}({shown})") if shown else scorer


def on_a_pyramid(name: str) -> bool:
    """Whether the metric of this name takes ``levels`` and ``fusion``."""
    return name.startswith(MULTISCALE_PREFIX) or (name in registry.names() and registry.get(name).multiscale)


def parse_metric(text: str) -> tuple[str, dict[str, Any]]:
    """``msds,backbone=alexnet,levels=4`` as a name and options; values are Python literals where they are, else text.

    A comma inside brackets does not separate: ``msds,fusion=(0.5,0.3,0.2)``.

    Raises:
        ValueError: a part that is not ``option=value``, or an option twice.
    """
    name, *parts = _split(text)
    options: dict[str, Any] = {}
    for part in parts:
        option, equals, value = part.partition("=")
        if not equals or not option.isidentifier() or option in options:
            raise ValueError(f"{text!r}: after the metric's name come options, each once, as option=value; got {part!r}")
        try:
            options[option] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[option] = value
    return name, options


def _split(text: str) -> list[str]:
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _create(name: str, device: torch.device, **options: Any) -> Scorer:
    if name in registry.names():
        metric = registry.create(name, **options).to(device).eval()
        chosen = options.get("backbone", "vgg16")
        label = name if chosen == "vgg16" else f"{name}({chosen if isinstance(chosen, str) else type(chosen).__name__})"
        return Scorer(label, registry.get(name).lower_is_better, metric, device, metric)
    if name.startswith("piq:"):
        from .piq_scorers import create_piq_scorer

        return create_piq_scorer(name, device, **options)
    try:
        import pyiqa
    except ImportError as error:
        raise MissingDependencyError(
            f"no metric named {name!r} here ({', '.join(registry.names())}); "
            f"pyiqa's metrics need pyiqa ({error}): pip install 'msds-plugin[pyiqa]'"
        ) from error
    attach()  # for the ms- forms of metrics that have come straight into pyiqa
    known = pyiqa.list_models()
    if name not in known:
        near = difflib.get_close_matches(name, known) or registry.names()
        raise ValueError(f"no metric named {name!r}; did you mean {', '.join(near)}?")
    try:
        model = pyiqa.create_metric(name, device=device, **options)
    except Exception as error:  # each of its metrics fails in its own way
        raise MetricUnavailableError(f"pyiqa cannot make {name!r} ({type(error).__name__}: {error})") from error

    def score(distorted: Tensor, reference: Tensor) -> Tensor:
        scores = model(distorted, reference) if model.metric_mode == "FR" else model(distorted)
        if scores.numel() != len(distorted):
            raise ValueError(f"{name} gave {scores.numel()} scores for {len(distorted)} images")
        return cast(Tensor, scores).reshape(-1)

    return Scorer(name, bool(model.lower_better), score, device, model)


def create_scorers(
    names: Iterable[str],
    device: str | torch.device | None = None,
    fusion: str | os.PathLike[str] | None = None,
    **options: Any,
) -> list[Scorer]:
    """Build several metrics, each name once, with options for those of them that take a backbone.

    Args:
        names: each with its own options after commas if need be, see :func:`create_scorer`.
        device: None for the GPU if there is one.
        fusion: file of fusion weights that ``msds fit`` wrote, for the metric it names, with its levels and, unless you give
            another, its backbone and layers.
        options: ``backbone``, ``weights``, ... for the metrics whose names promise no other network.

    Raises:
        ValueError: options, but no metric that takes them; fusion weights of a metric that is not among the names; and as
            :func:`create_scorer`.
        FileNotFoundError, FusionFileError: no such file of fusion weights, a damaged one, or one for another backbone.
    """
    wanted = {metric: parse_metric(metric)[0] for metric in names}
    takers = [name for name in registry.names() if registry.get(name).takes_backbone]
    if options and not set(wanted.values()) & set(takers):
        raise ValueError(f"{' and '.join(options)} can be chosen for {', '.join(takers)}, not for {', '.join(wanted)}")
    chosen = {name: options if name in takers else {} for name in wanted.values()}
    if fusion is not None:
        file = FusionFile.load(fusion)
        if file.metric not in chosen:
            raise ValueError(f"{fusion} holds fusion weights for {file.metric}, which is not among {', '.join(wanted)}")
        chosen[file.metric] = chosen[file.metric] | {"fusion": fusion, "levels": file.levels}
        if file.metric in registry.names() and "backbone" not in options:
            network = {"backbone": file.target.backbone} if file.metric in takers else {}
            chosen[file.metric] |= {**network, "layers": file.target.layers}
    return [create_scorer(metric, device, **chosen[name]) for metric, name in wanted.items()]


def describe_metrics(with_toolkits: bool = False) -> list[tuple[str, str, str, str, str]]:
    """Every metric that :func:`create_scorer` knows, as (name, title, better direction, range, summary).

    Args:
        with_toolkits: pyiqa's and piq's too, of those that are installed.

    Raises:
        MissingDependencyError: theirs are asked for, but neither is installed.
    """
    rows = []
    for name in registry.names():
        metric = registry.get(name)
        low, high = metric.score_range
        direction = "lower" if metric.lower_is_better else "higher"
        rows.append((name, metric.title, direction, f"{low:g}, {high:g}", metric.summary))
    if not with_toolkits:
        return rows
    theirs = [describe() for toolkit, describe in (("pyiqa", _of_pyiqa), ("piq", _of_piq)) if find_spec(toolkit)]
    if not theirs:
        raise MissingDependencyError("neither pyiqa nor piq is installed: pip install 'msds-plugin[pyiqa,piq]'")
    return sum(theirs, rows)


def _of_pyiqa() -> list[tuple[str, str, str, str, str]]:
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    rows = []
    for name, config in sorted(DEFAULT_CONFIGS.items()):
        if name not in registry.names():
            kind = "full-reference" if config.get("metric_mode") == "FR" else "no-reference"
            direction = "lower" if config.get("lower_better") else "higher"
            rows.append((name, name, direction, config.get("score_range", ""), f"pyiqa, {kind}"))
    return rows


def _of_piq() -> list[tuple[str, str, str, str, str]]:
    from .piq_scorers import METRICS, PREFIX

    return [
        (PREFIX + name, name, "lower" if lower_is_better else "higher", "", "piq, full-reference")
        for name, lower_is_better in METRICS.items()
    ]
