"""Backbones x layers x levels x comparisons on one opinion-scored set; features are computed once per image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import pandas as pd
import torch

from ...functional import pyramid
from ..benchmark.datasets import Dataset
from ..benchmark.runner import Progress, no_progress
from ..common.scorer import choose_device
from ..images.read import Picture, Reading, decode, to_tensor
from ..results.keys import pair_key
from ..results.store import Outcome, Results
from .comparisons import COMPARISONS, Described, compare, describe
from .networks import RANDOM, Network, at_hand, make_networks

LEVELS = 3
_KIND = "study"
#: To be raised when scores come out differently.
_RECIPE = 2

Key = tuple[str, int, str]
Features = list[tuple[list[Described], float]]


@dataclass(frozen=True)
class Study:
    """Every cell of the grid on every pair.

    Attributes:
        table: one row per pair and cell: ``backbone``, ``layer``, ``level``, ``comparison``, ``reference``, ``distorted``,
            ``opinion``, ``distortion``, ``score`` (a distance; NaN where it failed), ``seconds`` (for the features of the
            distorted image at all layers of this level, and the comparison), ``error``.
        networks: ``backbone``, ``parameters``, ``accuracy``, ``source``.
        dataset: name.
        opinion_lower_is_better: direction of the opinions.
        notes: networks that are left out, and why.
    """

    table: pd.DataFrame
    networks: pd.DataFrame
    dataset: str
    opinion_lower_is_better: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _How:
    """What is the same for every image of a study."""

    levels: int
    device: torch.device
    reading: Reading


def run_study(
    data: Dataset,
    backbones: Sequence[str] | None = None,
    levels: int = LEVELS,
    comparisons: Sequence[str] = tuple(COMPARISONS),
    results: str | Path | None = None,
    device: str | torch.device | None = None,
    progress: Progress = no_progress,
    reading: Reading | None = None,
) -> Study:
    """Score every pair with every backbone, layer, level and comparison, or take the score from the results file.

    Args:
        data: images with opinion scores.
        backbones: names of :data:`BACKBONES`, ``torchvision:<model>`` or ``timm:<model>``, with ``:random`` for random values
            of a fixed seed; None for those whose weights are at hand, each with its random twin.
        levels: of the pyramid, from 1.
        comparisons: of :data:`COMPARISONS`.
        results: file that keeps the scores, image by image; None to keep none.
        device: None for the GPU if there is one.
        progress: shows how far it is.
        reading: what the image files do not say: see :class:`Reading`.

    Raises:
        ValueError: an unknown backbone or comparison, no levels, or no backbone whose weights are here.
        ResultsFileError: the results file is something else.
    """
    if levels < 1:
        raise ValueError(f"levels must be at least 1, got {levels}")
    unknown = [name for name in comparisons if name not in COMPARISONS]
    if unknown or not comparisons:
        raise ValueError(f"no comparison {', '.join(unknown) or 'given'}: choose from {', '.join(COMPARISONS)}")
    chosen = choose_device(device)
    named, elsewhere = at_hand() if backbones is None else (list(backbones), [])
    networks, notes = make_networks(named, chosen)
    how = _How(levels, chosen, reading or Reading())
    with Results(results) as kept, progress("study", len(networks) * len(data.table)) as advance:
        tables = [_of_network(network, data, how, comparisons, kept, advance) for network in networks]
    rows = [(each.name, each.parameters, each.accuracy, each.source) for each in networks]
    described = pd.DataFrame(rows, columns=["backbone", "parameters", "accuracy", "source"])
    return Study(pd.concat(tables, ignore_index=True), described, data.name, data.lower_is_better, (*elsewhere, *notes))


def _of_network(
    network: Network,
    data: Dataset,
    how: _How,
    comparisons: Sequence[str],
    kept: Results,
    advance: Callable[[], None],
) -> pd.DataFrame:
    grid: list[Key] = list(product(network.backbone.layers, range(how.levels), comparisons))
    numbers = {key: kept.metric(_name(network, key), _identity(network, key, how)) for key in grid}
    pairs = list(zip(data.table["reference"], data.table["distorted"], strict=True))
    keys = [pair_key(*pair) for pair in pairs]
    done = set.intersection(*(kept.scored(number) for number in numbers.values()))
    by_reference: dict[str, list[tuple[str, str]]] = {}
    for (reference, distorted), key in zip(pairs, keys, strict=True):
        if key in done:
            advance()
        else:
            by_reference.setdefault(reference, []).append((distorted, key))
    for reference, missing in by_reference.items():
        described = _or_error(partial(_Reference, network, reference, how))
        for distorted, key in missing:
            kept.add(_outcomes(network, numbers, described, reference, distorted, key))
            advance()
    rows = []
    for (layer, level, comparison), number in numbers.items():
        own = {"backbone": network.name, "layer": layer, "level": level, "comparison": comparison}
        base = data.table.rename(columns={"score": "opinion"}).reset_index(drop=True)
        if "distortion" not in base:
            base["distortion"] = None
        found = kept.frame(number).reindex(keys).reset_index(drop=True)
        part = pd.concat([base[["reference", "distorted", "opinion", "distortion"]], found], axis=1)
        rows.append(part.assign(**own))
    table = pd.concat(rows, ignore_index=True)
    columns = ["backbone", "layer", "level", "comparison", "reference", "distorted", "opinion", "distortion", "score"]
    return table[[*columns, "seconds", "error"]]


def _name(network: Network, key: Key) -> str:
    layer, level, comparison = key
    return f"{_KIND} {network.name} {layer} level {level} {comparison}"


def _identity(network: Network, key: Key, how: _How) -> Mapping[str, object]:
    layer, level, comparison = key
    stated = {} if how.reading == Reading() else {"reading": [how.reading.peak, *how.reading.background]}
    return stated | {
        "kind": _KIND,
        "recipe": _RECIPE,
        "backbone": network.name.removesuffix(RANDOM),
        "weights": network.backbone.fingerprint,
        "layer": layer,
        "level": level,
        "comparison": comparison,
        "device": how.device.type,
    }


class _Reference:
    """A reference image, and what a network finds in it: once, and once more if a distorted image has another profile."""

    def __init__(self, network: Network, path: str, how: _How) -> None:
        self.network, self.how = network, how
        self.picture = decode(path, how.reading)
        self.found: dict[bool, Features] = {}

    def features(self, in_srgb: bool) -> Features:
        """Of the image as it is, or in sRGB."""
        if in_srgb not in self.found:
            picture = self.picture.in_srgb() if in_srgb else self.picture
            self.found[in_srgb] = _features(self.network, picture, self.how)
        return self.found[in_srgb]

    def beside(self, path: str) -> tuple[Features, Features]:
        """The features of a distorted image and its own, as the two are compared: in sRGB where their profiles differ."""
        picture = decode(path, self.how.reading)
        differ = picture.profile != self.picture.profile
        return _features(self.network, picture.in_srgb() if differ else picture, self.how), self.features(differ)


def _features(network: Network, picture: Picture, how: _How) -> Features:
    """For each level the described features of all layers, and the seconds they took."""
    image = to_tensor(picture).to(how.device)
    found = []
    with torch.inference_mode():
        for level in pyramid(image, how.levels):
            start = perf_counter()
            described = describe(network.backbone(level))
            found.append((described, perf_counter() - start))
    return found


T = TypeVar("T")


def _or_error(make: Callable[[], T]) -> T | Exception:
    try:
        return make()
    except Exception as error:  # whatever is wrong with one image must not cost the others
        return error


def _outcomes(
    network: Network,
    numbers: Mapping[Key, int],
    reference: _Reference | Exception,
    reference_path: str,
    distorted_path: str,
    key: str,
) -> list[Outcome]:
    both = reference if isinstance(reference, Exception) else _or_error(lambda: reference.beside(distorted_path))
    outcomes = []
    for (layer, level, comparison), number in numbers.items():
        given = (number, key, reference_path, distorted_path)
        if isinstance(both, Exception):
            outcomes.append(Outcome(*given, None, None, " ".join(str(both).split()) or type(both).__name__))
            continue
        place = network.backbone.layers.index(layer)
        (x, seconds), (y, _) = (features[level] for features in both)
        start = perf_counter()
        try:
            score = compare(comparison, x[place], y[place])
        except ValueError as error:
            outcomes.append(Outcome(*given, None, None, str(error)))
            continue
        outcomes.append(Outcome(*given, score, seconds + perf_counter() - start))
    return outcomes
