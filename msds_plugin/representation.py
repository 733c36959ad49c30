"""What is kept of an image in order to compare it with others."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import WeightsFileError

_FORMAT = "msds_plugin.Representation/1"


@dataclass(frozen=True, eq=False)
class Representation:
    """Gram matrices of a batch of images: all that a comparison needs, whatever the images' size was.

    Made by a metric's ``represent``, read by its ``compare``.

    Attributes:
        grams: per pyramid level, per layer, a tensor (N, C, C).
        source: what made the matrices; only representations of one source and number of levels can be compared.
    """

    grams: tuple[tuple[Tensor, ...], ...]
    source: str

    def __len__(self) -> int:
        """Number of images."""
        return self.grams[0][0].shape[0]

    def __getitem__(self, index: int | slice) -> Representation:
        """The representation of some of the images, still with a batch dimension."""
        chosen = slice(index, index + 1 or None) if isinstance(index, int) else index
        if isinstance(index, int) and not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of a representation of {len(self)}")
        return self._map(lambda gram: gram[chosen])

    @staticmethod
    def cat(parts: Sequence[Representation]) -> Representation:
        """The images of several representations one after the other, as ``torch.cat`` does for tensors.

        Raises:
            ValueError: none given, or made by different metrics, backbones, layers or weights.
        """
        sources = {part.source for part in parts}
        if len(sources) != 1:
            made_by = f"they were made by {', '.join(sorted(sources))}" if sources else "none was given"
            raise ValueError(f"only representations of one source can be put together: {made_by}")
        levels = zip(*(part.grams for part in parts), strict=True)
        grams = tuple(tuple(torch.cat(layer) for layer in zip(*level, strict=True)) for level in levels)
        return Representation(grams, parts[0].source)

    def level(self, index: int) -> Representation:
        """The representation of one pyramid level, as the metric without the pyramid makes it of that level's image."""
        return Representation((self.grams[index],), self.source)

    def to(self, *args: object, **kwargs: object) -> Representation:
        """Move or convert, with the arguments of ``torch.Tensor.to``."""
        return self._map(lambda gram: gram.to(*args, **kwargs))  # type: ignore[call-overload]

    def detach(self) -> Representation:
        """The same values without a gradient."""
        return self._map(Tensor.detach)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file; :meth:`load` reads it."""
        from safetensors.torch import save_file

        tensors = {
            f"{level}.{layer}": g.detach().contiguous() for level, gs in enumerate(self.grams) for layer, g in enumerate(gs)
        }
        save_file(tensors, path, {"format": _FORMAT, "source": self.source})

    @staticmethod
    def load(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Representation:
        """Read what :meth:`save` wrote. Nothing in the file is executed.

        Raises:
            FileNotFoundError: no such file.
            WeightsFileError: damaged, or another kind of file.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt", str(device)) as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        except SafetensorError as error:
            raise WeightsFileError(f"{path} is damaged or not a saved representation: {error}") from error
        if metadata.get("format") != _FORMAT:
            raise WeightsFileError(f"{path} is a safetensors file but not a saved representation")
        places = sorted(tuple(map(int, name.split("."))) for name in tensors)
        levels = [
            [tensors[f"{level}.{layer}"] for level, layer in places if level == wanted] for wanted in {p[0] for p in places}
        ]
        return Representation(tuple(map(tuple, levels)), metadata["source"])

    def _map(self, function: Callable[[Tensor], Tensor]) -> Representation:
        return Representation(tuple(tuple(map(function, grams)) for grams in self.grams), self.source)


def check_comparable(a: Representation, b: Representation, source: str, levels: int = 1) -> None:
    """Raise a clear error unless a metric of this ``source`` and number of ``levels`` can compare the two."""
    for name, representation in (("first", a), ("second", b)):
        if not isinstance(representation, Representation):
            raise TypeError(
                f"the {name} argument must be a Representation, got {type(representation).__name__}: call represent"
            )
        if representation.source != source:
            raise ValueError(
                f"the {name} representation was made by {representation.source}, but this metric is {source}: "
                "only representations by the same metric, backbone, layers and weights can be compared"
            )
        if len(representation.grams) != levels:
            raise ValueError(
                f"the {name} representation has {len(representation.grams)} level(s), but this metric compares {levels}: "
                "make it with the same levels, or choose one with level()"
            )
    if len(a) != len(b) and 1 not in (len(a), len(b)):
        raise ValueError(f"{len(a)} images cannot be compared with {len(b)}: the numbers must agree, or one of them be 1")
    if a.grams[0][0].device != b.grams[0][0].device:
        raise ValueError(
            f"the representations are on {a.grams[0][0].device} and {b.grams[0][0].device}: move one with .to(device)"
        )
