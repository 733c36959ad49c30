"""Learned fusion weights on disk: a small JSON file that says what they are for and where they come from."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["FusionFile", "FusionFileError", "FusionTarget"]

FORMAT = "msds_plugin.Fusion/1"


class FusionFileError(ValueError):
    """A file of fusion weights that cannot be read, or that is for another metric."""


@dataclass(frozen=True)
class FusionTarget:
    """The metric that runs on each level: fusion weights learned for one are not those of another.

    Attributes:
        base: ``deepssim``, ``deepssim-lite``, or a toolkit's metric with its options, ``lpips(net=squeeze)``.
        backbone: name of its feature network, None where that is not ours.
        layers: names of the layers.
    """

    base: str
    backbone: str | None = None
    layers: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.base} on {self.backbone}[{', '.join(self.layers)}]" if self.backbone else self.base


@dataclass(frozen=True)
class FusionFile:
    """Fusion weights and where they come from.

    Attributes:
        metric: name of the metric they were learned for.
        target: what runs on each level.
        weights: one per level, level 0 (the image itself) first, or one for each of ``parts``; non-negative, summing to one.
        fingerprint: tells the weights of the backbone from others, for the record (it is not compared); None without one.
        dataset, images, references: what they were learned from.
        folds: number of folds of the evaluation.
        held_out: what it found: ``srcc`` and ``plcc`` of ``equal`` and ``learned`` weights, and ``p`` of their difference.
        date: of the fit, YYYY-MM-DD.
        version: of this package.
        parts: what each weight is for, where that is not a level: a layer on a level (``level 0 stage1``), a term of a hybrid.
    """

    metric: str
    target: FusionTarget
    weights: tuple[float, ...]
    fingerprint: str | None
    dataset: str
    images: int
    references: int
    folds: int
    held_out: Mapping[str, float]
    date: str
    version: str
    parts: tuple[str, ...] = ()

    @property
    def levels(self) -> int:
        """Number of levels."""
        named = {found.group() for part in self.parts if (found := re.search(r"\blevel \d+", part))}
        return len(named) if self.parts else len(self.weights)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it; :meth:`load` reads it."""
        fields = asdict(self)
        target, parts = fields.pop("target"), fields.pop("parts")
        named = {"parts": parts} if parts else {}
        content = {"format": FORMAT, "metric": self.metric, **target, "levels": self.levels, **named, **fields}
        Path(path).write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")

    @staticmethod
    def load(path: str | os.PathLike[str]) -> FusionFile:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: no such file.
            FusionFileError: not such a file, another version of it, or one with wrong content; says what is wrong.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"no file of fusion weights at {path}")
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_refuse, object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise FusionFileError(f"{path} is not a file of fusion weights: {error}") from error
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise FusionFileError(f'{path} is not a file of fusion weights of this version: it lacks "format": {FORMAT!r}')
        _check(path, content)
        target = FusionTarget(content.pop("base"), content.pop("backbone"), tuple(content.pop("layers")))
        levels, parts = content.pop("levels"), tuple(content.pop("parts", ()))
        found = FusionFile(target=target, parts=parts, **{**content, "weights": tuple(map(float, content["weights"]))})
        if parts and len(parts) != len(found.weights):
            raise FusionFileError(f"{path} names {len(parts)} parts but holds {len(found.weights)} weights")
        if found.levels != levels:
            what = "levels among its parts" if parts else "weights"
            raise FusionFileError(f"{path} says {levels} levels but holds {found.levels} {what}")
        if not found.weights or min(found.weights) < 0 or not math.isclose(sum(found.weights), 1, abs_tol=1e-6):
            raise FusionFileError(f"{path}: weights must be non-negative and sum to one, got {list(found.weights)}")
        return found

    def weights_for(
        self, target: FusionTarget, levels: int, layers: Sequence[str], path: str | os.PathLike[str]
    ) -> tuple[float, ...]:
        """The weights, if they are for ``levels`` levels of ``target``, whose layers may have weights of their own.

        Raises:
            FusionFileError: they are for another metric, or another number of levels.
        """
        self.check_target(target, path)
        if self.levels != levels:
            raise FusionFileError(f"{path} holds weights for {self.levels} levels, not {levels}: pass levels={self.levels}")
        if self.parts and self.parts != (expected := tuple(level_parts(levels, layers))):
            raise FusionFileError(f"{path} holds weights for {', '.join(self.parts)}, not for {', '.join(expected)}")
        return self.weights

    def check_target(self, target: FusionTarget, path: str | os.PathLike[str]) -> None:
        """Raise a FusionFileError unless the weights are for this metric."""
        if target != self.target:
            raise FusionFileError(
                f"{path} holds fusion weights for {self.metric} ({self.target}), but this metric is {target}: "
                "use them with that metric, or learn others with msds fit"
            )


def level_parts(levels: int, layers: Sequence[str] = ()) -> list[str]:
    """What the weights of a pyramid are for: its levels, or each layer on each level."""
    return [f"level {level} {layer}".strip() for level in range(levels) for layer in (layers or [""])]


_NUMBER = (int, float)
_TYPES: Mapping[str, tuple[type | tuple[type, ...], str]] = {
    **dict.fromkeys(("metric", "base", "dataset", "date", "version"), (str, "a string")),
    **dict.fromkeys(("backbone", "fingerprint"), ((str, type(None)), "a string or null")),
    **dict.fromkeys(("levels", "images", "references", "folds"), (int, "a whole number")),
    **dict.fromkeys(("layers", "parts"), (list, "a list of strings")),
    "weights": (list, "a list of numbers"),
    "held_out": (dict, "an object of numbers"),
}
_OPTIONAL = {"parts"}


def _check(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    wrong = [f"it lacks {key!r}" for key in _TYPES.keys() - content.keys() - _OPTIONAL]
    wrong += [f"it has an unknown {key!r}" for key in content.keys() - _TYPES.keys()]
    if wrong:
        raise FusionFileError(f"{path} is not a file of fusion weights: {', '.join(sorted(wrong))}")
    for key, (types, words) in _TYPES.items():
        if key not in content:
            continue
        value = content[key]
        inner = value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else []
        if not _is(value, types) or not all(_is(each, str if key in ("layers", "parts") else _NUMBER) for each in inner):
            raise FusionFileError(f"{path}: {key!r} must be {words}, got {value!r}")


def _is(value: object, types: type | tuple[type, ...]) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number of JSON")


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a name occurs twice in it")
    return content
