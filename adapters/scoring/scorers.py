"""Any metric by name, ours or pyiqa's, behind one face."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch

from ... import registry
from ...fusion_file import FusionFile
from ..common.names import parse_metric
from ..common.scorer import MetricUnavailableError, Scorer, choose_device

__all__ = ["MetricUnavailableError", "create_scorer", "create_scorers"]


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


def _create(name: str, device: torch.device, **options: Any) -> Scorer:
    if name in registry.names():
        metric = registry.create(name, **options).to(device).eval()
        chosen = options.get("backbone", "vgg16")
        label = name if chosen == "vgg16" else f"{name}({chosen if isinstance(chosen, str) else type(chosen).__name__})"
        return Scorer(label, registry.get(name).lower_is_better, metric, device, metric)
    from ..piq.scorers import METRICS, PREFIX, create_piq_scorer

    if name.startswith(PREFIX):
        return create_piq_scorer(name, device, **options)
    from ..pyiqa.scorers import create_pyiqa_scorer

    try:
        return create_pyiqa_scorer(name, device, **options)
    except ValueError as error:
        if name not in METRICS:
            raise
        raise ValueError(f"neither we nor pyiqa have a metric named {name!r}; did you mean {PREFIX}{name}?") from error


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
