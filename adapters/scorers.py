"""Any metric by name, ours or a toolkit's, ready to score."""

from __future__ import annotations

import difflib
import inspect
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

from msds_plugin import registry
from msds_plugin.adapters.names import parse_metric
from msds_plugin.checks import MissingDependencyError

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
]

PIQ = "piq:"
#: piq's full-reference metrics, and whether lower is better: piq itself says nowhere which of them are distances.
PIQ_METRICS = {
    **dict.fromkeys(("psnr", "ssim", "multi_scale_ssim", "information_weighted_ssim", "vif_p", "fsim", "srsim", "vsi"), False),
    **dict.fromkeys(("dss", "haarpsi"), False),
    **dict.fromkeys(("gmsd", "multi_scale_gmsd", "mdsi", "LPIPS", "DISTS", "PieAPP", "ContentLoss", "StyleLoss"), True),
}
#: Of these, what divides by the largest value in the batch.
_DEPENDS_ON_BATCH = ("srsim",)
#: Entry points of packages that bring metrics: each a registry.Metric, or a function that registers some.
_ENTRY_POINTS = "msds_plugin.metrics"


class MetricUnavailableError(RuntimeError):
    """A metric of a toolkit that cannot be made here."""


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
    """

    name: str
    metric: Metric
    device: torch.device
    options: Mapping[str, Any]
    lower_is_better: bool
    ours: bool


class Row(NamedTuple):
    """A metric as ``msds list`` shows it.

    Attributes:
        name, title, better, range, summary: as shown; ``better`` is ``lower`` or ``higher``.
        full_reference: False for a metric that needs no reference.
        origin: the package that it is from.
    """

    name: str
    title: str
    better: str
    range: str
    summary: str
    full_reference: bool
    origin: str


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """The device of this name; None for the first of CUDA, Apple's GPU and CPU that is here.

    Raises:
        ValueError: there is no such device here.
    """
    import torch

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:  # which of them depends on how torch was built
        raise ValueError(f"no device {str(device)!r} here: {str(error).splitlines()[0]}") from error
    return chosen


def create_scorer(metric: str, device: str | torch.device | None = None, runtime: str | None = None, **options: Any) -> Scorer:
    """Build a metric by its name: one of ours, or of pyiqa, or of piq.

    Args:
        metric: ``msds``, ``deepssim-fast``, ...; with pyiqa installed, any name of ``pyiqa.list_models()``, among them
            ``ms-<name>`` for the full-reference metric ``<name>`` on a pyramid; with piq installed, ``piq:`` and piq's name
            for it (``piq:fsim``, ``piq:LPIPS``). Options may follow after commas: ``msds,backbone=alexnet,levels=4``; the
            scorer is then named ``msds(alexnet, levels=4)``.
        device: see :func:`choose_device`.
        runtime: of our metrics, ``"torch"`` or ``"openvino"``; None for OpenVINO on a CPU where it is installed. Toolkits'
            metrics have no choice of it.
        options: further ones, which do not show in the name.

    Raises:
        ValueError: no metric of this name (names the nearest), options that it does not take, or no such device.
        MissingDependencyError: the name is not ours, and the toolkit that could have it is not installed.
        MetricUnavailableError: the toolkit has the metric but cannot make it, for want of its weights for example.
        WeightsNotFoundError, WeightsFileError: the weights of one of our metrics.
    """
    name, stated = parse_metric(metric)
    options |= stated
    runtime = options.pop("runtime", runtime)
    place = choose_device(device)
    row = registry.get(name) if is_registered(name) else None
    try:
        if row is not None:
            made, options = _create_ours(row, place, runtime, options)
        else:
            made = (_create_piq if name.startswith(PIQ) else _create_pyiqa)(name, place, options)
    except TypeError as error:
        raise ValueError(f"{metric!r} cannot be made: {error}") from error
    shown = stated
    if row is not None and options.get("backbone", "vgg16") != "vgg16":
        shown = {"backbone": options["backbone"], **stated}
    parts = [_text(value) if key == "backbone" else f"{key}={value}" for key, value in shown.items()]
    label = f"{name}({', '.join(parts)})" if parts else name
    lower_is_better = made.lower_is_better if row is None else row.lower_is_better
    return Scorer(label, made, place, options, lower_is_better, row is not None and row.built_in)


def _text(value: object) -> str:
    return value if isinstance(value, str) else type(value).__name__


def create_scorers(
    names: Iterable[str],
    device: str | torch.device | None = None,
    runtime: str | None = None,
    fusion: str | os.PathLike[str] | None = None,
    **options: Any,
) -> list[Scorer]:
    """Build several metrics, each name once, with options for those of them that take a backbone.

    Args:
        names: each with its own options after commas if need be.
        device, runtime: see :func:`create_scorer`.
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
        from msds_plugin.fusion_file import FusionFile

        file = FusionFile.load(fusion)
        if file.metric not in chosen:
            raise ValueError(f"{fusion} holds fusion weights for {file.metric}, which is not among {', '.join(wanted)}")
        chosen[file.metric] = chosen[file.metric] | {"fusion": fusion, "levels": file.levels}
        if file.metric in registry.names() and "backbone" not in options:
            network = {"backbone": file.target.backbone} if file.metric in takers else {}
            chosen[file.metric] |= {**network, "layers": file.target.layers}
    return [create_scorer(metric, device, runtime, **chosen[name]) for metric, name in wanted.items()]


def _create_ours(
    row: registry.Metric, device: torch.device, runtime: str | None, options: dict[str, Any]
) -> tuple[Metric, dict[str, Any]]:
    """The metric, and its options with the runtime among them."""
    from msds_plugin.adapters.wrap import create

    if row.built_in:
        fast = device.type == "cpu" and isinstance(options.get("backbone", ""), str) and find_spec("openvino")
        options = {**options, "runtime": runtime or ("openvino" if fast else "torch")}
    return create(row.name, **options).to(device).eval(), options


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
    return ToolkitMetric(model, variant(name, options), bool(model.lower_better), model.metric_mode == "FR")


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
    module: Callable[..., Any]
    try:
        if inspect.isfunction(made):
            inspect.signature(made).bind(None, None, **options)
            module = partial(made, data_range=1.0, reduction="none", **options)
        else:
            module = made(reduction="none", **options).to(device).eval()
    except Exception as error:  # each of its metrics fails in its own way
        raise MetricUnavailableError(f"piq cannot make {own!r} ({type(error).__name__}: {error})") from error
    return ToolkitMetric(module, variant(name, options), PIQ_METRICS[own], singly=own in _DEPENDS_ON_BATCH)


def _unknown(name: str, pyiqa_names: Iterable[str]) -> str:
    """The message for a name that nobody knows, with the nearest names whatever their case."""
    by_lower = {own.lower(): PIQ + own for own in PIQ_METRICS}
    by_lower |= {shown.lower(): shown for shown in [*(PIQ + own for own in PIQ_METRICS), *pyiqa_names, *registry.names()]}
    near = difflib.get_close_matches(name.lower(), by_lower)
    exact = by_lower.get(name.lower())
    suggested = [exact] if exact else list(dict.fromkeys(by_lower[each] for each in near)) or registry.names()
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
            warnings.warn(
                f"the metrics of {entry.value} cannot be registered ({type(error).__name__}: {error})",
                RuntimeWarning,
                stacklevel=2,
            )


def describe_metrics(with_toolkits: bool = False) -> list[Row]:
    """Every metric that :func:`create_scorer` knows; none is built.

    Args:
        with_toolkits: pyiqa's and piq's too, of those that are installed. One that cannot be imported is left out, with a
            RuntimeWarning that says why.

    Raises:
        MissingDependencyError: theirs are asked for, but neither is installed.
    """
    load_entry_points()
    rows = []
    for name in registry.names():
        row = registry.get(name)
        low, high = row.score_range
        origin = row.factory.__module__.partition(".")[0].replace("msds_plugin", "msds-plugin")
        rows.append(Row(name, row.title, _better(row.lower_is_better), f"{low:g}, {high:g}", row.summary, True, origin))
    if not with_toolkits:
        return rows
    installed = [toolkit for toolkit in ("pyiqa", "piq") if find_spec(toolkit)]
    if not installed:
        raise MissingDependencyError("neither pyiqa nor piq is installed: pip install 'msds-plugin[pyiqa,piq]'")
    for name, config in _pyiqa_table().items() if "pyiqa" in installed else ():
        full = config.get("metric_mode") == "FR"
        summary = f"pyiqa, {'full' if full else 'no'}-reference"
        better, bounds = _better(config.get("lower_better")), config.get("score_range", "")
        rows.append(Row(name, name, better, bounds, summary, full, "pyiqa"))
    for name, lower in PIQ_METRICS.items() if "piq" in installed else ():
        rows.append(Row(PIQ + name, name, _better(lower), "", "piq, full-reference", True, "piq"))
    return rows


def _pyiqa_table() -> Mapping[str, Mapping[str, Any]]:
    try:
        from msds_plugin.adapters.pyiqa import their_metrics

        return their_metrics()
    except Exception as error:  # a broken installation raises whatever its parts run into
        warnings.warn(
            f"pyiqa is installed but cannot be used, its metrics are left out ({type(error).__name__}: {error})",
            RuntimeWarning,
            stacklevel=3,
        )
        return {}


def _better(lower: object) -> str:
    return "lower" if lower else "higher"
