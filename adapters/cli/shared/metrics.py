"""Metrics as the commands make them: one that cannot be made costs its own scores only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msds_plugin.adapters.cli.shared.terminal import say

if TYPE_CHECKING:
    from msds_plugin.adapters.scorers import Scorer
    from msds_plugin.adapters.scoring.options import Run


def make_scorers(
    names: Sequence[str],
    run: Run,
    fusion: Path | None = None,
    saliency: Mapping[str, Any] | None = None,
    **options: Any,
) -> tuple[list[Scorer], dict[str, str]]:
    """The metrics, and by their names why others cannot be made, for want of weights or of a toolkit.

    Args:
        names: see ``create_scorers``.
        run: device and runtime.
        fusion: file of fusion weights.
        saliency: options of the metrics that take saliency; the others are named on stderr.
        options: ``backbone``, ``weights``, ... for the metrics that take them.

    Raises:
        ValueError: unknown names or options, or saliency for none that takes it.
        MetricUnavailableError, MissingDependencyError, WeightsNotFoundError, WeightsFileError: none can be made.
    """
    made, missing = _make(names, run, fusion, options)
    if saliency is None:
        return list(made.values()), missing
    takers = {name for name, scorer in made.items() if scorer.metric.takes_saliency}
    without = ", ".join(scorer.name for name, scorer in made.items() if name not in takers)
    if not takers:
        raise ValueError(f"--saliency has no effect on {without}: leave it out")
    if without:
        say(f"Without saliency, which it does not take: {without}")
    more = "".join(f",{option}={value}" for option, value in saliency.items())
    again, _ = _make([name + more if name in takers else name for name in made], run, fusion, options)
    return list(again.values()), missing


def _make(
    names: Sequence[str], run: Run, fusion: Path | None, options: dict[str, Any]
) -> tuple[dict[str, Scorer], dict[str, str]]:
    from msds_plugin import registry
    from msds_plugin.adapters.names import parse_metric
    from msds_plugin.adapters.scorers import MetricUnavailableError, create_scorers
    from msds_plugin.checks import MissingDependencyError, WeightsFileError, WeightsNotFoundError
    from msds_plugin.fusion_file import FusionFile

    unavailable = (MetricUnavailableError, MissingDependencyError, WeightsFileError, WeightsNotFoundError)
    try:
        return dict(zip(names, create_scorers(names, run.device, run.runtime, fusion, **options), strict=True)), {}
    except unavailable as error:
        cause = error
    made: dict[str, Scorer] = {}
    missing: dict[str, str] = {}
    fused = None if fusion is None else FusionFile.load(fusion).metric
    for name in names:
        plain = parse_metric(name)[0]
        own = options if plain in registry.names() and registry.get(plain).takes_backbone else {}
        file = fusion if plain == fused else None
        try:
            (made[name],) = create_scorers([name], run.device, run.runtime, file, **own)
        except unavailable as error:
            missing[name] = str(error)
    if not made:
        raise cause
    return made, missing
