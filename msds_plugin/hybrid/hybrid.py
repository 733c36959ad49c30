"""Several full-reference metrics as one."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import check_pair, check_source, checked_already, values_unchecked
from ..functional import normalise_fusion
from ..fusion_file import FusionTarget
from ..multiscale import Fusion
from ..network.sharing import unchanging
from ..representation import Representation, check_comparable
from ..windows import Windows
from .parts import part_dissimilarities, part_names, part_weights, target_of, weighted
from .term import Term

__all__ = ["Hybrid"]

#: A pair may differ by so many pixels in height and width, as the results of super-resolution do from their reference.
FEW_PIXELS = 8


class Hybrid(nn.Module):
    r"""One score of several full-reference metrics. Higher is better, 1 for identical images and never above.

    Each metric gives a dissimilarity :math:`d_i \ge 0`. They meet on a logarithmic scale, :math:`\log(1 + d_i/\varepsilon) /
    \sigma_i`, are averaged with weights there, and brought back:

    .. math:: 1 - \varepsilon \Big( \exp\Big[\sum_i a_i \log(1 + d_i/\varepsilon)\Big] - 1 \Big), \qquad
        a_i = \frac{w_i/\sigma_i}{\sum_j w_j/\sigma_j},

    which is one minus the geometric mean of the :math:`d_i + \varepsilon` with exponents :math:`a_i`, less
    :math:`\varepsilon`. Nothing is computed from the images but the :math:`d_i`.

    The metrics look at images that lie on each other pixel by pixel, unless all of them have ``represent``. Pairs that differ
    by up to eight pixels in height or width are cropped to the part that they share at the top left, which is said once.

    ``represent`` keeps what the terms keep that have ``represent`` and ``compare`` themselves, and the image for the others.

    Args:
        terms: the metrics. Modules among them move with the hybrid.
        eps: below this a dissimilarity hardly counts, so that one term that sees no difference cannot outvote the others.
        fusion: in place of the terms' own weights one for each term, for each level of those on a pyramid, or for each layer on
            each level, in the order of :meth:`parts`; or the path of a file that ``msds fit`` wrote.

    Shape:
        x, y: (N, 3, H, W), RGB in [0, 1]. Returns (N,).

    Raises:
        FusionFileError: a file of weights that is damaged, or for another metric.
        ValueError: no terms, no weight above 0, ``eps`` not above 0, another number of weights; images that differ more in
            size, values outside [0, 1], a term that returns another number of scores; and what the terms raise.
        TypeError: not floating point, or x and y of different types.

    Example:
        >>> from msds_plugin.hybrid import MDSI, HaarPSI
        >>> metric = Hybrid([Term(HaarPSI()), Term(MDSI(), dissimilarity=None, scale=0.35)])
        >>> x = torch.rand(2, 3, 32, 32)
        >>> metric(x, x)
        tensor([1., 1.])
    """

    exponents: Tensor

    def __init__(self, terms: Sequence[Term], eps: float = 1e-3, fusion: Fusion = None) -> None:
        super().__init__()
        if not terms:
            raise ValueError("a hybrid needs at least one term")
        if not 0 < eps < math.inf:
            raise ValueError(f"eps must be above 0, got {eps}")
        terms = weighted(terms, fusion)
        self.terms = tuple(terms)
        self.eps = eps
        self.modules_of_terms = nn.ModuleList(term.metric for term in terms if isinstance(term.metric, nn.Module))
        with torch.inference_mode(False):  # what is made in inference mode would give no gradients later
            exponents = normalise_fusion([term.weight / term.scale for term in terms], len(terms))
            self.register_buffer("exponents", exponents.to(torch.get_default_dtype()))
        self._cropped_before = False

    @property
    def target(self) -> FusionTarget:
        """What files of weights for it are for."""
        return target_of(self.terms)

    def parts(self, per_layer: bool = False) -> list[list[str]]:
        """By term, the names of what can have a weight: levels, with ``per_layer`` each layer on each; or the term itself."""
        return part_names(self.terms, per_layer)

    def part_weights(self, per_layer: bool = False) -> list[list[float]]:
        """The weights of :meth:`parts`, all together summing to one."""
        return part_weights(self.terms, per_layer)

    @property
    def smallest(self) -> int:
        """Shortest side of an image, in pixels."""
        return max(getattr(term.metric, "smallest", 1) for term in self.terms)

    @property
    def keeps_images(self) -> bool:
        """Whether ``represent`` keeps the images themselves, because a term needs both at once."""
        return not all(_represents(term) for term in self.terms)

    @property
    def source(self) -> str:
        """What two representations must agree in to be comparable."""
        known = [f"{term.metric.source} x{_levels(term)}" for term in self.terms if _represents(term)]  # type: ignore[attr-defined]
        return f"hybrid({'; '.join([*known, 'image'] if self.keeps_images else known)})"

    def forward(self, x: Tensor | Windows, y: Tensor | Windows) -> Tensor:
        """Scores (N,) of distorted images ``x`` beside references ``y``."""
        return self.fuse(self.dissimilarities(x, y))

    def dissimilarities(self, x: Tensor | Windows, y: Tensor | Windows) -> Tensor:
        """What each term finds, (N, terms), 0 where it sees no difference."""
        x, y = self._alike(x, y)
        with checked_already(x, y), unchanging():
            scores = [cast(Any, term.metric)(x, y) for term in self.terms]
        return self._dissimilarities(scores, x.shape[0])

    def part_dissimilarities(self, x: Tensor | Windows, y: Tensor | Windows, per_layer: bool = False) -> list[Tensor]:
        """By term, what each of its :meth:`parts` finds, (N, parts); the term's own is their mean by :meth:`part_weights`."""
        x, y = self._alike(x, y)
        with checked_already(x, y):
            return part_dissimilarities(self.terms, x, y, per_layer)

    def fuse(self, dissimilarities: Tensor) -> Tensor:
        """Scores (N,) of what the terms found, (N, terms)."""
        exponents = self.exponents.to(dissimilarities)
        return 1 - self.eps * torch.expm1((torch.log1p(dissimilarities / self.eps) * exponents).sum(-1))

    def represent(self, image: Tensor | Windows) -> Representation:
        """What is to be kept of images (N, 3, H, W) in [0, 1].

        Raises:
            TypeError: an image that is read in windows, where a term needs the image itself.
        """
        check_source(image)
        if self.keeps_images and not isinstance(image, Tensor):
            raise TypeError("the image itself would be kept, which is not in memory: call the metric with both images")
        with checked_already(image), unchanging():
            parts = [cast(Any, term.metric).represent(image) for term in self.terms if _represents(term)]
            source = self.source
        grams = [level for part in parts for level in part.grams]
        return Representation(tuple([*grams, (cast(Tensor, image),)] if self.keeps_images else grams), source)

    def compare(self, a: Representation, b: Representation) -> Tensor:
        """Scores (N,) of two representations; one of a single image is compared with every image of the other."""
        with unchanging():
            return self._compare(a, b)

    def _compare(self, a: Representation, b: Representation) -> Tensor:
        check_comparable(a, b, self.source, sum(map(_levels, self.terms)) + self.keeps_images)
        number = max(len(a), len(b))
        x, y = (part.grams[-1][0].expand(number, -1, -1, -1) if self.keeps_images else None for part in (a, b))
        if x is not None and y is not None and x.shape != y.shape:
            return self(x, y)  # What is kept is of the whole images, not of the part that they share.
        scores, begin = [], 0
        with values_unchecked():
            for term in self.terms:
                if _represents(term):
                    end = begin + _levels(term)
                    kept = (Representation(part.grams[begin:end], term.metric.source) for part in (a, b))  # type: ignore[attr-defined]
                    scores.append(term.metric.compare(*kept))  # type: ignore[attr-defined]
                    begin = end
                else:
                    scores.append(cast(Any, term.metric)(x, y))
        return self.fuse(self._dissimilarities(scores, number))

    def _dissimilarities(self, scores: Sequence[Tensor], number: int) -> Tensor:
        columns = []
        for term, score in zip(self.terms, scores, strict=True):
            if score.numel() != number:
                name = type(term.metric).__name__
                raise ValueError(f"{name} returned shape {tuple(score.shape)} for {number} images: one score each is needed")
            value = score.reshape(-1)
            columns.append((value if term.dissimilarity is None else term.dissimilarity(value)).clamp_min(0))
        # Windows are read into the memory of the CPU, wherever the networks are.
        place = columns[0].device
        return torch.stack([column.to(place, torch.float32 if column.dtype in _HALF else None) for column in columns], -1)

    def _alike(self, x: Tensor | Windows, y: Tensor | Windows) -> tuple[Tensor | Windows, Tensor | Windows]:
        check_pair(x, y)
        return self._cropped(x, y) if self.keeps_images else (x, y)

    def _cropped(self, x: Tensor | Windows, y: Tensor | Windows) -> tuple[Tensor | Windows, Tensor | Windows]:
        sizes = [tuple(image.shape[-2:]) for image in (x, y)]
        if sizes[0] == sizes[1]:
            return x, y
        first, second = (f"{height} x {width}" for height, width in sizes)
        together = isinstance(x, Tensor) and isinstance(y, Tensor)
        if not together or any(abs(p - q) > FEW_PIXELS for p, q in zip(*sizes, strict=True)):
            raise ValueError(
                f"x has {first} pixels and y {second}: a hybrid compares images that lie on each other pixel by pixel. Take a "
                "metric that needs no alignment: msds-align where content is displaced, msds-retarget where it was cropped or "
                "retargeted, msds-fast for any two sizes"
            )
        height, width = (min(p, q) for p, q in zip(*sizes, strict=True))
        if not self._cropped_before:
            warnings.warn(
                f"x has {first} pixels and y {second}: their common {height} x {width} pixels at the top left are compared "
                "(said once)",
                stacklevel=2,
            )
            self._cropped_before = True
        return x[..., :height, :width], y[..., :height, :width]  # type: ignore[index]


_HALF = (torch.float16, torch.bfloat16)


def _represents(term: Term) -> bool:
    inner = getattr(term.metric, "metric", term.metric)  # a pyramid has the methods, whatever it is built around
    return all(hasattr(metric, "represent") and hasattr(metric, "compare") for metric in (term.metric, inner))


def _levels(term: Term) -> int:
    return getattr(term.metric, "levels", 1) if _represents(term) else 0
