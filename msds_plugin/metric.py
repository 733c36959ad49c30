"""The one class of metric, and the representations that its images are compared by."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import operator
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from msds_plugin.checks import HALF, check_pair, check_size, check_source, is_true
from msds_plugin.errors import WeightsFileError
from msds_plugin.weights import read_safetensors
from msds_plugin.windows import Image, Windows

__all__ = ["Images", "Metric", "PairMetric", "Representation", "digest"]

R = TypeVar("R", bound="Representation")

#: Pixels that go through a network at once, by kind of device: beyond this a larger batch costs memory and saves no time.
ONE_PASS_PIXELS = {"cpu": 2**20, "cuda": 2**23}


def fit_together(x: Image, y: Image) -> bool:
    """Whether two batches can share a pass through a network: tensors of one image size, and not too large together."""
    if not (isinstance(x, Tensor) and isinstance(y, Tensor)) or x.shape[1:] != y.shape[1:]:
        return False
    if torch.is_grad_enabled() and x.requires_grad != y.requires_grad:
        return False  # the gradient of the one would take a way through the other as well
    if torch.compiler.is_compiling():
        return True  # one graph for all sizes
    return (len(x) + len(y)) * x.shape[-2] * x.shape[-1] <= ONE_PASS_PIXELS.get(x.device.type, ONE_PASS_PIXELS["cpu"])


@dataclass(frozen=True, eq=False)
class Representation:
    """What a metric computes of a batch of images, all that a comparison needs. Every metric has a subclass of its own.

    Made by a metric's ``represent``, read by its ``compare``. The first dimension of every tensor is the image.

    Attributes:
        source: metric, networks and layers; only representations of one source can be compared. It does not tell networks
            of other weights apart: :meth:`Metric.save` and :meth:`Metric.load` do.
    """

    source: str

    def __len__(self) -> int:
        """Number of images."""
        return len(_tensors(self)[0])

    def __getitem__(self: R, index: int | slice) -> R:
        """The representation of some of the images, still with a batch dimension."""
        if not isinstance(index, slice) and getattr(index, "ndim", None) == 0:
            index = operator.index(index)  # a number of NumPy or torch, which would take the batch dimension away
        if isinstance(index, int) and not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of a representation of {len(self)}")
        chosen = slice(index, index + 1 or None) if isinstance(index, int) else index
        return self.map_tensors(operator.itemgetter(chosen))

    @staticmethod
    def cat(parts: Sequence[R]) -> R:
        """The images of several representations one after the other, as ``torch.cat`` does for tensors.

        Raises:
            ValueError: none given, or made by different metrics, networks or layers, or of images of different sizes where
                what is represented depends on the size.
            TypeError: of images that are read in windows.
        """
        sources = {part.source for part in parts}
        if len(sources) != 1:
            made_by = f"they were made by {', '.join(sorted(sources))}" if sources else "none was given"
            raise ValueError(f"only representations of one source can be put together: {made_by}")
        kinds = [(_encoded(part, count()), [tensor.shape[1:] for tensor in _tensors(part)]) for part in parts]
        if any(kind != kinds[0] for kind in kinds):
            raise ValueError(f"representations by {parts[0].source} of images of different sizes cannot be put together")
        columns = iter([torch.cat(tensors) for tensors in zip(*map(_tensors, parts), strict=True)])
        return parts[0].map_tensors(lambda _: next(columns))

    def to(self: R, *args: Any, **kwargs: Any) -> R:
        """Move or convert, with the arguments of ``torch.Tensor.to``.

        Raises:
            ValueError: values that float16 cannot hold, as those of most Gram matrices are.
        """

        def moved(tensor: Tensor) -> Tensor:
            found = tensor.to(*args, **kwargs)
            if found.dtype == torch.float16 and not is_true(found.isfinite().all()):
                raise ValueError("the representation holds values that are too large for float16: take bfloat16")
            return found

        return self.map_tensors(moved)

    def detach(self: R) -> R:
        """The same values without a gradient."""
        return self.map_tensors(Tensor.detach)

    def map_tensors(self: R, function: Callable[[Tensor], Tensor]) -> R:
        """The same with every tensor replaced by what ``function`` returns for it, in a fixed order."""
        named = {field.name: _mapped(getattr(self, field.name), function) for field in dataclasses.fields(self)}
        return dataclasses.replace(self, **named)


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Representation):
        return value.map_tensors(function)
    if isinstance(value, tuple):
        return tuple([function(part) if isinstance(part, Tensor) else _mapped(part, function) for part in value])
    return value


def _tensors(representation: Representation) -> list[Tensor]:
    found: list[Tensor] = []

    def take(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    representation.map_tensors(take)
    return found


@dataclass(frozen=True, eq=False)
class Images(Representation):
    """The images themselves (N, C, H, W), for metrics that need both at once."""

    image: Image

    def __len__(self) -> int:
        """Number of images."""
        return self.image.shape[0]

    def of_number(self, number: int) -> Image:
        """The images, a single one so many times; what is read in windows as it is."""
        if len(self) == number or not isinstance(self.image, Tensor):
            return self.image
        return self.image.expand(number, -1, -1, -1)


class Metric(nn.Module):
    """A full-reference metric: an image is represented once and compared with any number of others.

    Subclasses compute ``_represent`` and ``_compare``, or the score of a pair at once in ``_score``; what is given to these
    has been checked.

    Attributes:
        kind: name of what is computed, in descriptions and files.
        lower_is_better: direction of the score.
        levels: of the image pyramid.
        has_map: ``map(x, y)`` exists.
        reads_windows: images that are read in windows are accepted.
        takes_saliency: ``represent`` and ``forward`` accept saliency maps.
    """

    kind: ClassVar[str] = ""
    lower_is_better: bool = False
    levels: int = 1
    has_map: bool = False
    reads_windows: bool = False
    takes_saliency: bool = False

    @property
    def smallest(self) -> int:
        """Shortest side of an image, in pixels."""
        return 1

    @property
    def description(self) -> str:
        """Metric, networks and layers, without weights: what two representations must agree in."""
        return self.kind or type(self).__name__

    def source(self) -> str:
        """All that scores depend on but the images: :attr:`description` and a hash of all weights.

        It takes milliseconds: meant for what is saved, loaded or kept. Hooks and replaced code do not show in it.
        """
        return f"{self.description} weights {digest(*self.weighted_modules())}"

    def weighted_modules(self) -> list[nn.Module]:
        """The modules whose weights scores depend on."""
        return [self]

    def represent(self, image: Image) -> Representation:
        """The representation that :meth:`compare` needs of images (N, 3, H, W) in [0, 1].

        Raises:
            ValueError: values outside [0, 1], or images too small.
            TypeError: not floating point, or read in windows where the metric cannot.
        """
        return self._kept(self._represent(self._checked(image)), image)

    def compare(self, a: Representation, b: Representation) -> Tensor:
        """Scores (N,) of distorted images ``a`` beside references ``b``; one of a single image is compared with all others.

        Raises:
            TypeError: something else than representations.
            ValueError: representations of another metric, network or layers, or of other numbers of images.
        """
        self._check_comparable(a, b)
        return self._compare(a, b)

    def forward(self, x: Image, y: Image) -> Tensor:
        """Scores (N,) of distorted images ``x`` beside references ``y``, (N, 3, H, W) in [0, 1]."""
        self._check_images(x, y)
        return self._score(self._ready(x, "x"), self._ready(y, "y"))

    def save(self, representation: Representation, path: str | os.PathLike[str]) -> None:
        """Write a representation to a safetensors file; :meth:`load` reads it.

        Raises:
            TypeError: no representation, or one that holds images read in windows.
            ValueError: one by another metric, network or layers.
        """
        from safetensors.torch import save_file

        self._check_made_here(representation, "given")
        # Copies, because safetensors refuses two tensors that share memory, as an image that is kept twice does.
        copies = [tensor.detach().clone(memory_format=torch.contiguous_format) for tensor in _tensors(representation)]
        tensors = {str(index): tensor for index, tensor in enumerate(copies)}
        skeleton = json.dumps(_encoded(representation, count()))
        save_file(tensors, path, {"format": _FORMAT, "source": self._representations_source(), "content": skeleton})

    def load(self, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Representation:
        """Read what :meth:`save` wrote. Nothing in the file is executed.

        Raises:
            FileNotFoundError: no such file.
            WeightsFileError: damaged, or another kind of file.
            ValueError: a representation by another metric, or by a network of other weights.
        """
        metadata, tensors = read_safetensors(path, _WHAT, device)
        if metadata.get("format") != _FORMAT:
            raise WeightsFileError(f"{path} is a safetensors file but not a {_WHAT}")
        try:
            found = _decoded(json.loads(metadata["content"]), tensors)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise WeightsFileError(f"{path} is damaged or holds no {_WHAT}: {error}") from error
        source = metadata.get("source")
        if source != self._representations_source():
            raise ValueError(f"{path} was made by {source}, but this metric is {self._representations_source()}")
        if not isinstance(found, Representation):
            raise WeightsFileError(f"{path} is damaged: it holds no representation")
        return found

    def _representations_source(self) -> str:
        """All that representations depend on but the images; scores may depend on more."""
        return self.source()

    @abstractmethod
    def _represent(self, image: Image) -> Representation:
        """The representation of images that have been checked."""

    @abstractmethod
    def _compare(self, a: Any, b: Any) -> Tensor:
        """Scores (N,) of representations that have been checked."""

    def _score(self, x: Image, y: Image) -> Tensor:
        """Scores (N,) of images that have been checked."""
        if fit_together(x, y):
            both = self._represent(torch.cat([x, y]))  # type: ignore[list-item]
            return self._compare(both[: x.shape[0]], both[x.shape[0] :])
        return self._compare(self._represent(x), self._represent(y))

    @staticmethod
    def _kept(representation: R, image: Image) -> R:
        """The representation with a copy of the image where it holds the image itself, which may be overwritten later."""
        return representation.map_tensors(lambda tensor: tensor.clone() if tensor is image else tensor)

    def _check_images(self, *images: Image) -> None:
        """Raise a clear error unless one image, or a pair, is of a kind that the metric takes."""
        if len(images) > 1:
            check_pair(*images)
        else:
            check_source(images[0])

    def _checked(self, image: Image) -> Image:
        self._check_images(image)
        return self._ready(image, "image")

    def _ready(self, image: Image, name: str) -> Image:
        """The image in the type of the metric; half precision, as autocast makes it, is computed in float32."""
        check_size(image, self.smallest >> (self.levels - 1), self.levels, name)
        if not isinstance(image, Tensor):
            if not self.reads_windows:
                raise TypeError(f"{type(self).__name__} needs whole images as tensors, it cannot read them in windows")
            return image
        if image.dtype not in HALF:
            return image
        parameter = next(self.parameters(), None)
        return image.to(torch.float32 if parameter is None else parameter.dtype)

    def _images(self, a: Images, b: Images) -> tuple[Image, Image]:
        """The images of two representations, as many of each, in the type of the metric whatever that of the representation."""
        number = max(len(a), len(b))
        return self._ready(a.of_number(number), "x"), self._ready(b.of_number(number), "y")

    def _check_comparable(self, a: Representation, b: Representation) -> None:
        self._check_made_here(a, "first")
        self._check_made_here(b, "second")
        if 0 in (len(a), len(b)) or (len(a) != len(b) and 1 not in (len(a), len(b))):
            raise ValueError(
                f"{len(a)} images cannot be compared with {len(b)}: the numbers must agree, or one of them be 1, and none be 0"
            )
        devices = list(dict.fromkeys(tensor.device for part in (a, b) for tensor in _tensors(part)))
        if len(devices) > 1:
            raise ValueError(f"the representations are on {devices[0]} and {devices[1]}: move one with .to(device)")

    def _check_made_here(self, representation: Representation, which: str) -> None:
        if not isinstance(representation, Representation):
            raise TypeError(
                f"the {which} argument must be a Representation, got {type(representation).__name__}: call represent"
            )
        if representation.source != self.description:
            raise ValueError(
                f"the {which} representation was made by {representation.source}, but this metric is {self.description}: "
                "only representations by the same metric, backbone, layers and levels can be compared"
            )


class PairMetric(Metric):
    """A metric that needs both images at once, and so represents them by themselves. Subclasses compute ``_score``."""

    def _represent(self, image: Image) -> Images:
        return Images(self.description, image)

    def _compare(self, a: Images, b: Images) -> Tensor:
        return self._score(*self._images(a, b))

    @abstractmethod
    def _score(self, x: Image, y: Image) -> Tensor:
        """Scores (N,) of images that have been checked."""


_FORMAT, _WHAT = "msds_plugin.Representation/2", "saved representation"


def _encoded(value: Any, numbers: Iterator[int]) -> Any:
    """A value of a representation as JSON, its tensors as their numbers."""
    if isinstance(value, Tensor):
        return {"tensor": next(numbers)}
    if isinstance(value, Representation):
        named = {field.name: _encoded(getattr(value, field.name), numbers) for field in dataclasses.fields(value)}
        return {"type": type(value).__name__, "fields": named}
    if isinstance(value, tuple):
        return {"tuple": [_encoded(part, numbers) for part in value]}
    if isinstance(value, Windows):
        raise TypeError("a representation of images that are read in windows holds no values to save or to put together")
    return {"value": value}


def _decoded(content: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    if "tensor" in content:
        return tensors[str(content["tensor"])]
    if "tuple" in content:
        return tuple(_decoded(part, tensors) for part in content["tuple"])
    if "type" in content:
        return _types()[content["type"]](**{name: _decoded(part, tensors) for name, part in content["fields"].items()})
    return content["value"]


def _types() -> dict[str, type[Representation]]:
    found, waiting = {}, [Representation]
    while waiting:
        kind = waiting.pop()
        found[kind.__name__] = kind
        waiting += kind.__subclasses__()
    return found


def digest(*modules: nn.Module) -> str:
    """Tells the values of parameters and buffers apart; the same for the same values in another type, place or layout."""
    found = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted([*module.named_parameters(), *module.named_buffers()]):
            found.update(f"{name} {tuple(tensor.shape)}".encode())
            found.update(b"meta" if tensor.is_meta else _bytes(tensor))
    return found.hexdigest()[:16]


def _bytes(tensor: Tensor) -> bytes:
    values = tensor.detach().cpu()
    if values.is_floating_point():
        single = values.float()
        values = single if torch.equal(single.to(values.dtype), values) else values
    return values.contiguous().numpy().tobytes()
