"""Any metric by name, ours or a toolkit's, ready to score."""

from __future__ import annotations

import ast
import difflib
import inspect
import math
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from msds_plugin import registry
from msds_plugin.errors import MissingDependencyError, WeightsFileError, WeightsNotFoundError

if TYPE_CHECKING:  # the list of metrics needs no torch
    import torch

    from msds_plugin.metric import Metric

__all__ = [
    "MetricUnavailableError",
    "Row",
    "Scorer",
    "choose_device",
    "create_scorer",
    "create_scorers",
    "describe_metrics",
    "parse_metric",
]

#: The metric where none is named.
DEFAULT = "msds-auto"
PIQ = "piq:"
#: piq's full-reference metrics, and whether lower is better: piq itself says nowhere which of them are distances.
PIQ_METRICS = {
    **dict.fromkeys(("psnr", "ssim", "multi_scale_ssim", "information_weighted_ssim", "vif_p", "fsim", "srsim", "vsi"), False),
    **dict.fromkeys(("dss", "haarpsi"), False),
    **dict.fromkeys(("gmsd", "multi_scale_gmsd", "mdsi", "LPIPS", "DISTS", "PieAPP", "ContentLoss", "StyleLoss"), True),
}
#: What divides by the largest value in the batch, or takes statistics over it.
_DEPENDS_ON_BATCH = ("piq:srsim", "vif", "ms-vif")
#: Entry points of packages that bring metrics: each a registry.Metric, or a function that registers some.
_ENTRY_POINTS = "msds_plugin.metrics"


class MetricUnavailableError(RuntimeError):
    """A metric of a toolkit that cannot be made here."""


#: Why a metric of a known name cannot be made here.
UNAVAILABLE = (MetricUnavailableError, MissingDependencyError, WeightsFileError, WeightsNotFoundError)


@dataclass(frozen=True)
class Scorer:
    """A metric of any origin, ready to score.

    Attributes:
        name: as asked for, with options in parentheses: ``msds(alexnet, levels=4)``.
        metric: (distorted, reference), each (N, 3, H, W) in [0, 1] on ``device``, to (N,).
        device: where images must be.
        options: what the metric was made with; of our own metrics also the runtime.
        lower_is_better: direction.
        ours: it is of this package, and safe to call from several threads at once.
        words: of a metric whose scores are places in a list of words, that list.
    """

    name: str
    metric: Metric
    device: torch.device
    options: Mapping[str, Any]
    lower_is_better: bool
    ours: bool
    words: Sequence[str] = ()

    def shown(self, score: float) -> float | str:
        """The score, or the word that it stands for."""
        return self.words[int(score)] if self.words and not math.isnan(score) else score


class Row(NamedTuple):
    """A metric as ``msds list`` shows it; ``better`` is ``lower`` or ``higher``, ``origin`` the package that it is from."""

    name: str
    title: str
    better: str
    range: str
    summary: str
    full_reference: bool
    origin: str


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """The device of this name, None for the first of CUDA, Apple's GPU and CPU; a ValueError if it is not here."""
    import torch

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
        if chosen.type == "meta":
            raise RuntimeError("nothing can be computed there")
    except (RuntimeError, AssertionError) as error:  # which of them depends on how torch was built
        raise ValueError(f"no device {str(device)!r} here: {str(error).splitlines()[0]}") from error
    return chosen


def parse_metric(text: str) -> tuple[str, dict[str, Any]]:
    """``msds,backbone=alexnet,levels=4`` as a name and options; values are Python literals where they are, else text.

    A comma inside brackets does not separate, and names in them need no quotes: ``msds-fast,layers=[stage1,stage2]``. A part
    that is not ``option=value``, or an option twice, is a ValueError.
    """
    name, *parts = at_commas(text)
    options: dict[str, Any] = {}
    for part in parts:
        option, equals, value = part.partition("=")
        if not equals or not option.isidentifier() or option in options:
            raise ValueError(f"{text!r}: after the metric's name come options, each once, as option=value; got {part!r}")
        options[option] = _value(value.strip())
    return name, options


def each_once(names: Iterable[str]) -> list[str]:
    """The names of metrics, without those that say the same as an earlier one: ``msds,levels=4`` and ``msds, levels=4``."""
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(repr(parse_metric(name)), name)
    return list(first.values())


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        pass
    if len(text) > 1 and text[0] + text[-1] in ("[]", "()"):  # a list of names without quotes
        values = [_value(part) for part in at_commas(text[1:-1]) if part]
        return values if text[0] == "[" else tuple(values)
    return text


def at_commas(text: str) -> list[str]:
    """A text cut at its commas, but not at those in brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def create_scorer(metric: str, device: str | torch.device | None = None, runtime: str | None = None, **options: Any) -> Scorer:
    """Build a metric by its name: one of ours, or of pyiqa, or of piq.

    Args:
        metric: ``msds``, ``deepssim-fast``, ...; with pyiqa installed, any name of ``pyiqa.list_models()``, among them
            ``ms-<name>`` for the full-reference metric ``<name>`` on a pyramid; with piq installed, ``piq:`` and piq's name
            for it (``piq:fsim``, ``piq:LPIPS``). Options may follow after commas: ``msds,backbone=alexnet,levels=4``; the
            scorer is then named ``msds(alexnet, levels=4)``.
        device: see :func:`choose_device`.
        runtime: of our metrics, ``"torch"`` or ``"openvino"``; None for OpenVINO on a CPU where it is installed. Toolkits'
            metrics and SPIPS have no choice of it.
        options: further ones, which do not show in the name.

    Raises:
        ValueError: no metric of this name (names the nearest), options that it does not take, or no such device.
        MissingDependencyError: the name is not ours, and the toolkit that could have it is not installed.
        MetricUnavailableError: the toolkit has the metric but cannot make it, for want of its weights for example.
        WeightsNotFoundError, WeightsFileError: the weights of one of our metrics.
    """
    name, stated = parse_metric(metric)
    options |= stated
    place = choose_device(device)
    row = registry.get(name) if is_registered(name) else None
    has_runtimes = row is not None and row.built_in and not row.torch_only
    if has_runtimes:
        runtime = options.pop("runtime", runtime)
    try:
        if row is None:
            made = (_create_piq if name.startswith(PIQ) else _create_pyiqa)(name, place, options)
        elif has_runtimes and isinstance(options.get("backbone", ""), str):
            options["runtime"] = runtime or ("openvino" if place.type == "cpu" and find_spec("openvino") else "torch")
            made = cast("Metric", row.factory(**options)).to(place).eval()
        else:
            from msds_plugin.adapters.wrap import create

            if has_runtimes:
                options["runtime"] = runtime or "torch"
            made = create(name, **options).to(place).eval()
    except TypeError as error:
        raise ValueError(f"{metric!r} cannot be made: {error}") from error
    shown = stated
    if row is not None and options.get("backbone", "vgg16") != "vgg16":
        shown = {"backbone": options["backbone"], **stated}
    if not isinstance(shown.get("backbone", ""), str):
        shown["backbone"] = type(shown["backbone"]).__name__
    parts = [value if key == "backbone" else f"{key}={value}" for key, value in shown.items()]
    label = f"{name}({', '.join(parts)})" if parts else name
    lower_is_better = made.lower_is_better if row is None else row.lower_is_better
    return Scorer(label, made, place, options, lower_is_better, row is not None and row.built_in)


def create_scorers(
    names: Iterable[str],
    device: str | torch.device | None = None,
    runtime: str | None = None,
    fusion: str | os.PathLike[str] | None = None,
    lacking: dict[str, str] | None = None,
    **options: Any,
) -> list[Scorer]:
    """Build several metrics, each name once, with options for those of them that take a backbone.

    Args:
        names: each with its own options after commas if need be.
        device, runtime: see :func:`create_scorer`.
        fusion: file of fusion weights that ``msds fit`` wrote, for the metric it names, with its levels and, unless you give
            another, its backbone and layers.
        lacking: gets, by name, why some cannot be made for want of weights or of a toolkit; None where all must be made.
        options: ``backbone``, ``weights``, ... for the metrics whose names promise no other network.

    Raises:
        ValueError: options or fusion weights, but no metric that takes them; and as :func:`create_scorer`.
        FileNotFoundError, FusionFileError: no such file of fusion weights, a damaged one, or one for another backbone.
    """
    wanted = {metric: parse_metric(metric)[0] for metric in each_once(names)}
    takers = [name for name in registry.names() if registry.get(name).takes_backbone]
    if options and not set(wanted.values()) & set(takers):
        raise ValueError(f"{' and '.join(options)} can be chosen for {', '.join(takers)}, not for {', '.join(wanted)}")
    chosen = {name: options if name in takers else {} for name in wanted.values()}
    if fusion is not None:
        from msds_plugin.fusion_file import FusionFile

        file = FusionFile.load(fusion)
        if file.metric not in chosen:
            raise ValueError(f"{fusion} holds fusion weights for {file.metric}, which is not among {', '.join(wanted)}")
        chosen[file.metric] = chosen[file.metric] | {"fusion": fusion, "levels": file.levels}
        if file.metric in registry.names() and registry.get(file.metric).built_in and "backbone" not in options:
            network = {"backbone": file.target.backbone} if file.metric in takers else {}
            chosen[file.metric] |= {**network, "layers": file.target.layers}
    scorers = []
    first: Exception | None = None
    for metric, name in wanted.items():
        try:
            scorers.append(create_scorer(metric, device, runtime, **chosen[name]))
        except UNAVAILABLE as error:
            if lacking is None:
                raise
            first, lacking[metric] = first or error, str(error)
    if first is not None and not scorers:
        raise first
    return scorers


def _create_pyiqa(name: str, device: torch.device, options: dict[str, Any]) -> Metric:
    try:
        import pyiqa

        from msds_plugin.adapters.pyiqa import attach
    except ImportError as error:
        message = f"{_unknown(name, [])} pyiqa's metrics need pyiqa ({error}): pip install 'msds-plugin[pyiqa]'"
        raise MissingDependencyError(message) from error
    from msds_plugin.adapters.wrap import ToolkitMetric, variant

    attach()  # for the ms- forms of metrics that have been put straight into pyiqa
    known = pyiqa.list_models()
    if name not in known:
        raise ValueError(_unknown(name, known))
    try:
        model = pyiqa.create_metric(name, device=device, **options)
    except Exception as error:  # each of its metrics fails in its own way
        raise MetricUnavailableError(f"pyiqa cannot make {name!r} ({type(error).__name__}: {error})") from error
    full, singly = model.metric_mode == "FR", name in _DEPENDS_ON_BATCH
    return ToolkitMetric(model, variant(name, options), bool(model.lower_better), full, singly)


def _create_piq(name: str, device: torch.device, options: dict[str, Any]) -> Metric:
    own = name.removeprefix(PIQ)
    if own not in PIQ_METRICS:
        raise ValueError(_unknown(name, []))
    try:
        import piq
    except ImportError as error:
        raise MissingDependencyError(f"{name} needs piq ({error}): pip install 'msds-plugin[piq]'") from error
    from msds_plugin.adapters.wrap import ToolkitMetric, variant

    made: Any = getattr(piq, own)
    try:
        if inspect.isfunction(made):
            inspect.signature(made).bind(None, None, **options)
            made = partial(made, data_range=1.0, reduction="none", **options)
        else:
            made = made(reduction="none", **options).to(device).eval()
    except Exception as error:  # each of its metrics fails in its own way
        raise MetricUnavailableError(f"piq cannot make {own!r} ({type(error).__name__}: {error})") from error
    return ToolkitMetric(made, variant(name, options), PIQ_METRICS[own], singly=name in _DEPENDS_ON_BATCH)


def _unknown(name: str, pyiqa_names: Iterable[str]) -> str:
    """The message for a name that nobody knows, with the nearest names whatever their case."""
    known = [*(PIQ + own for own in PIQ_METRICS), *pyiqa_names, *registry.names()]
    by_lower = {own.lower(): PIQ + own for own in PIQ_METRICS} | {each.lower(): each for each in known}
    near = [name.lower()] if name.lower() in by_lower else difflib.get_close_matches(name.lower(), by_lower)
    suggested = list(dict.fromkeys(by_lower[each] for each in near)) or registry.names()
    return f"no metric named {name!r}; did you mean {', '.join(suggested)}?"


def is_registered(name: str) -> bool:
    """Whether a metric of this name is registered, by this package or one that brings metrics as entry points."""
    if name not in registry.names():
        load_entry_points()
    return name in registry.names()


@cache
def load_entry_points() -> None:
    """Register the metrics that other packages bring; one that cannot be loaded costs a warning and nothing else."""
    for entry in entry_points(group=_ENTRY_POINTS):
        try:
            found = entry.load()
            if isinstance(found, registry.Metric):
                registry.register(found)
            elif callable(found):
                found()
        except Exception as error:
            message = f"the metrics of {entry.value} cannot be registered ({type(error).__name__}: {error})"
            warnings.warn(message, RuntimeWarning, stacklevel=2)


def describe_metrics(with_toolkits: bool = False) -> list[Row]:
    """Every metric that :func:`create_scorer` knows, those of installed toolkits too if asked for; none is built.

    Raises:
        MissingDependencyError: toolkits' are asked for, but none is installed; one that is broken costs a RuntimeWarning only.
    """
    load_entry_points()
    better = ("higher", "lower")
    rows = []
    for row in map(registry.get, registry.names()):
        origin = row.factory.__module__.partition(".")[0].replace("msds_plugin", "msds-plugin")
        bounds = "{:g}, {:g}".format(*row.score_range)
        rows.append(Row(row.name, row.title, better[row.lower_is_better], bounds, row.summary, True, origin))
    installed = [toolkit for toolkit in ("pyiqa", "piq") if with_toolkits and find_spec(toolkit)]
    if with_toolkits and not installed:
        raise MissingDependencyError("neither pyiqa nor piq is installed: pip install 'msds-plugin[pyiqa,piq]'")
    if "pyiqa" in installed:
        try:
            from msds_plugin.adapters.pyiqa import their_metrics

            for name, config in their_metrics().items():
                full, lower = config.get("metric_mode") == "FR", bool(config.get("lower_better"))
                summary, bounds = f"pyiqa, {'full' if full else 'no'}-reference", config.get("score_range", "")
                rows.append(Row(name, name, better[lower], bounds, summary, full, "pyiqa"))
        except Exception as error:  # a broken installation raises whatever its parts run into
            message = f"pyiqa is installed but cannot be used, its metrics are left out ({type(error).__name__}: {error})"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
    if "piq" in installed:
        summary = "piq, full-reference"
        rows += [Row(PIQ + name, name, better[lower], "", summary, True, "piq") for name, lower in PIQ_METRICS.items()]
    return rows
