"""``msds_plugin.score``: from anything that holds images to scores."""

from __future__ import annotations

import base64
import glob
import io
import os
import threading
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from numpy.lib.mixins import NDArrayOperatorsMixin
from PIL import Image
from torch import Tensor

from msds_plugin import registry
from msds_plugin.adapters.images.codecs import orientation_of, profile_of, values_of
from msds_plugin.adapters.images.colours import FRAMES, Samples, to_colours, to_pillow, turn
from msds_plugin.adapters.images.large import LargeImage
from msds_plugin.adapters.images.listing import list_images
from msds_plugin.adapters.images.pairs import Matching, Pair, match
from msds_plugin.adapters.images.read import ImageFileError, Opened, Picture, Reading, open_image, reconcile
from msds_plugin.adapters.scorers import DEFAULT, Scorer, create_scorer, each_once, parse_metric
from msds_plugin.adapters.scoring.details import with_regimes
from msds_plugin.adapters.scoring.files import content, replace_file
from msds_plugin.adapters.scoring.loop import Run, score_pairs
from msds_plugin.adapters.scoring.maps import figure, map_of
from msds_plugin.adapters.scoring.masks import find_masks
from msds_plugin.adapters.wrap import MULTISCALE_PREFIX
from msds_plugin.checks import check_range

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Scores", "score"]

_ALPHA = "is laid over white, as it has an alpha channel"
_TURNED = "is turned as its EXIF orientation {} says"
_DEEP = "has 16 bits, which are kept"
#: Sequences of images. Not iterators: Path.glob gives files in no particular order.
_SEVERAL = (list, tuple, pd.Series, pd.api.extensions.ExtensionArray)
#: Pairs that are shown as pictures, scores in one line, and pixels of a picture's side.
_PICTURED, _IN_A_ROW, _SIDE = 6, 8, 96
#: Held while Pillow decodes an image, which it does at the first use: several threads may have the same one.
_LOADING = threading.Lock()


class Scores(NDArrayOperatorsMixin, Sequence[float]):
    """Scores of pairs of images by one metric: a sequence of floats that shows itself, in a notebook with small pictures.

    A single score acts as a number: ``float(scores)``, ``scores > 0.9``, ``f"{scores:.3f}"``. Several act as an array.

    Attributes:
        values: (N,) float64.
        metric: its name.
        lower_is_better: direction.
        names: of the distorted images: paths, or ``x[0]``, ``x[1]``, ...
        notes: what was done to images beyond reading 8-bit RGB, each kind once.
        regimes: how MSDS-Auto judged each pair, with ``details``; else None.

    Example:
        >>> scores = Scores([0.5, 1.0], "msds", False)
        >>> scores
        msds, higher is better: 0.5000, 1.0000 (mean 0.7500)
        >>> scores[1], scores.mean()
        (1.0, 0.75)
        >>> f"{Scores([0.25], 'msds', False):.1f}", Scores([0.25], "msds", False) < 0.3
        ('0.2', True)
    """

    def __init__(
        self,
        values: Sequence[float],
        metric: str,
        lower_is_better: bool,
        notes: Sequence[str] = (),
        regimes: Sequence[str] | None = None,
        made: _Made | None = None,
    ) -> None:
        self.values: npt.NDArray[np.float64] = np.asarray(values, dtype=np.float64)
        self.metric = metric
        self.lower_is_better = lower_is_better
        self.notes = tuple(notes)
        self.regimes = None if regimes is None else list(regimes)
        self.names = [str(x) for x, _ in made.pairs] if made else [f"x[{index}]" for index in range(len(self.values))]
        self._made = made

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any) -> Any:
        chosen = self.values[index]
        return chosen.tolist() if isinstance(chosen, np.ndarray) else float(chosen)

    def __float__(self) -> float:
        if len(self) != 1:
            raise TypeError(f"{len(self)} scores are not one number: take one by its index, or mean()")
        return float(self.values[0])

    def __format__(self, spec: str) -> str:
        return ", ".join(format(value, spec) for value in self) if spec else str(self)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.values, dtype=dtype)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if any(isinstance(each, Scores) for each in options.get("out", ())):
            del options["out"]  # scores += 1 gives numbers of their own
        values = [each.values if isinstance(each, Scores) else each for each in inputs]
        found = getattr(ufunc, method)(*values, **options)
        return found.item() if np.shape(found) == (1,) else found

    def __round__(self, digits: int | None = None) -> float:
        return round(float(self), digits)

    def mean(self, **options: Any) -> float:
        """The arithmetic mean; ``options``: those that :func:`numpy.mean` hands on."""
        return float(self.values.mean(**options))

    def to_frame(self) -> pd.DataFrame:
        """A table with one row per pair: ``distorted``, ``reference`` where known, and the metric's column."""
        references = {"reference": [str(y) for _, y in self._made.pairs]} if self._made else {}
        return pd.DataFrame({**references, "distorted": self.names, **self._columns})

    @property
    def _columns(self) -> dict[str, Sequence[Any] | npt.NDArray[Any]]:
        regimes = {} if self.regimes is None else {f"{self.metric} regime": self.regimes}
        return {self.metric: self.values, **regimes}

    def explain(self, index: int | None = None) -> str:
        """What a score means: the JPEG quality, Gaussian blur, noise and shift that score the same, a line each.

        Args:
            index: of the pair; None for the mean.

        Raises:
            ValueError: these scores were not made by :func:`score`.
        """
        from msds_plugin.adapters.scoring.ladders import explain

        if self._made is None:
            raise ValueError("these scores were not made by msds_plugin.score, so that it is not known what made them")
        return explain(self._made.scorer, self.mean() if index is None else self[index])

    def map(self, index: int = 0) -> Figure:
        """Where the images of a pair differ: a figure of the distorted image with the map over it and a colour bar.

        The colours go up to the 99th percentile of the map's absolute values, which the bar states.

        Raises:
            ValueError: the metric has no map, or the images differ in size, or had a mask.
        """
        if self._made is None or self._made.masked:
            raise ValueError("scores with a mask, or that were not made by msds_plugin.score, have no map")
        opened = reconcile(*(_open(given.image) for given in self._made.pairs[index]))
        return figure(*map_of(self._made.scorer, *opened), f"{self.metric} = {self[index]:.4f}")

    def __repr__(self) -> str:
        shown = ", ".join(f"{value:.4f}" for value in self.values[:_IN_A_ROW])
        more = f", … {len(self)} in all" if len(self) > _IN_A_ROW else ""
        mean = f" (mean {self.mean():.4f})" if len(self) > 1 else ""
        regimes = [f"judged as {', '.join(self.regimes[:_IN_A_ROW])}{more and ', …'}"] if self.regimes else []
        return "\n  ".join([f"{self._heading}: {shown}{more}{mean}", *regimes, *self.notes])

    @property
    def _heading(self) -> str:
        return f"{self.metric}, {'lower' if self.lower_is_better else 'higher'} is better"

    def _repr_html_(self) -> str:
        return _html([self])


class ScoreTable(dict[str, Scores]):
    """Scores by several metrics: :class:`Scores` by their names, in the order they were asked for."""

    def to_frame(self) -> pd.DataFrame:
        """A table with one row per pair and one column per metric."""
        first, *others = self.values()
        return first.to_frame().assign(**{name: cells for each in others for name, cells in each._columns.items()})

    def __repr__(self) -> str:
        return "\n".join(map(repr, self.values()))

    def _repr_html_(self) -> str:
        return _html(list(self.values()))


def _html(scores: Sequence[Scores]) -> str:
    """A table with one row per pair that has pictures, one column per metric, and the means."""
    first = scores[0]
    pictures = first._made.pictures if first._made else []
    shown = len(pictures)
    table = pd.DataFrame({"": [escape(name) for name in first.names[:shown]]})
    for place, side in enumerate(("distorted", "reference")):
        table[side] = [f'<img src="{sources[place]}" alt="">' for sources in pictures]
    for each in scores:
        table[escape(each._heading)] = [f"{value:.4f}" for value in each.values[:shown]]
        if each.regimes:
            table[f"{escape(each.metric)} regime"] = each.regimes[:shown]
    means = ", ".join(f"{escape(each.metric)} {each.mean():.4f}" for each in scores)
    more = f"<p>and {len(first) - shown} more; mean {means}</p>" if len(first) > shown else ""
    notes = "".join(f"<li>{escape(note)}</li>" for note in first.notes)
    with pd.option_context("display.max_colwidth", None):
        return table.to_html(index=False, escape=False, border=0) + more + (f"<ul>{notes}</ul>" if notes else "")


def score(
    x: Any,
    y: Any,
    metric: str | Sequence[str] | None = None,
    device: str | torch.device | None = None,
    runtime: str | None = None,
    mask: Any = None,
    details: bool = False,
    **options: Any,
) -> Any:
    """Score distorted images beside their references, whatever holds them.

    Args:
        x: distorted image or images: paths, folders, patterns of paths (``"results/*.png"``), PIL images, numpy arrays (uint8,
            uint16, bool or float in [0, 1]; grey (H, W), RGB (H, W, 3) or RGBA), tensors ((3, H, W) or (1, H, W)), batches of
            either (N, ...), or lists or pandas columns of any of these. An EXIF orientation is applied, 16 bits are kept,
            transparency is laid over white, pairs whose colour profiles differ are compared in sRGB: ``notes`` say where.
        y: references; a single one serves every image of ``x``. Two folders are matched by name, as ``msds score`` does. The
            sizes of a pair may differ if the metric allows.
        metric: any name of ``msds list --all``, options after commas if need be: ``"msds,backbone=alexnet"``; or several. None
            for the one that README recommends.
        device: None for the GPU if there is one.
        runtime: ``"torch"`` or ``"openvino"``; None for OpenVINO on a CPU where it is installed, else torch.
        mask: image, or one for each reference, that is white (more than 0.5) where the reference counts; or a folder of files
            with the names of the references. It is the saliency of DeepSSIM, MSDS and their forms; for other metrics both
            images are cropped to its bounding box.
        details: also how MSDS-Auto judged each pair: ``regimes`` of the result.
        options: those of the metric.

    Returns:
        :class:`Scores`, one per image of ``x``, a sequence of floats; of several metrics a mapping from names to these.

    Raises:
        ValueError: no metric of this name (names the nearest), other numbers of x and y, a file that cannot be read,
            values outside [0, 1], sizes that the metric does not take, a mask of another size or that is nowhere white.
        TypeError: what holds no image, or values whose range is not known.

    Example:
        >>> y = np.zeros((64, 64, 3), np.uint8)
        >>> x = y.copy()
        >>> x[16:48, 16:48] = 255
        >>> scores = score([x, y], y, "msds", backbone="alexnet", weights=None, levels=1)
        >>> len(scores), scores[1]
        (2, 1.0)
    """
    metric = DEFAULT if metric is None else metric
    if not isinstance(metric, Iterable):
        raise TypeError(f"a metric is a name that msds list shows, or several are a list of these; got {type(metric).__name__}")
    names = [metric] if isinstance(metric, str) else each_once(metric)
    pairs, matching = _paired(x, y)
    left_out = [f"{path} has no counterpart: it is left out" for path in matching.unmatched]
    left_out += [f"{folder} is a folder in a folder: it is left out" for folder, _ in matching.left_out]
    references = list(dict.fromkeys(reference for _, reference in pairs))
    masks = {} if mask is None else _masks(mask, references, matching.unmatched)
    reader = _Reader({given for pair in pairs[:_PICTURED] for given in pair}, left_out)
    run = Run(None if device is None else str(device), runtime, masks=masks, note=reader.note)
    scorers = [_scorer(name, run, options) for name in names]
    judged = with_regimes(scorers) if details else scorers
    values: dict[tuple[_Given, str], float] = {}
    asked = [cast(Any, Pair)(reference, distorted) for distorted, reference in pairs]
    with closing(score_pairs(asked, judged, run, opener=reader.open)) as results:
        for result in results:
            if result.error is not None:
                raise reader.error or ValueError(f"{result.pair.distorted}: {result.error}")
            values[cast(Any, result.pair.distorted), result.metric] = result.score
    pictures = [(reader.thumbnails[distorted], reader.thumbnails[reference]) for distorted, reference in pairs[:_PICTURED]]
    columns: dict[str, Any] = {
        each.name: [each.shown(values[distorted, each.name]) for distorted, _ in pairs] for each in judged
    }
    found = ScoreTable()
    for each in scorers:
        made, regimes = _Made(each, pairs, pictures, bool(masks)), columns.get(f"{each.name} regime")
        found[each.name] = Scores(columns[each.name], each.name, each.lower_is_better, reader.notes, regimes, made)
    return found[scorers[0].name] if isinstance(metric, str) else found


def save_image(given: Any, path: Path) -> None:
    """Write an image of any kind that :func:`score` takes as a PNG of 8 bits in sRGB.

    Raises:
        TypeError, ValueError: no image, values outside [0, 1], a file of several frames, or an image that is read in windows.
    """
    opened = _open(given)
    if isinstance(opened, LargeImage):
        raise ValueError(f"{given} is too large to be copied as a PNG")
    if FRAMES in opened.notes:
        raise ValueError(f"{given} holds several frames or pages: give each as an image")
    picture = opened.in_srgb()
    if np.issubdtype(picture.colours.dtype, np.floating):  # as bytes, values beyond white would begin again at black
        check_range(torch.from_numpy(picture.colours), "the image")
    replace_file(path, lambda part: to_pillow(picture.colours).save(part, "PNG"))


@dataclass(frozen=True, eq=False)
class _Given:
    """An image as the caller holds it, and what it is called in notes."""

    name: str
    image: Any

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class _Made:
    """What :func:`score` made scores of: distorted images and references, the first of which have pictures for a notebook."""

    scorer: Scorer
    pairs: Sequence[tuple[_Given, _Given]]
    pictures: Sequence[tuple[str, str]]
    masked: bool


def _paired(x: Any, y: Any) -> tuple[list[tuple[_Given, _Given]], Matching]:
    """Distorted images and their references, and how the images of folders were matched."""
    if _is_folder(x) and _is_path(y) and os.path.exists(y):
        found = match(Path(y), Path(x))
        once = {pair.reference: _Given(str(pair.reference), pair.reference) for pair in found.pairs}
        return [(_Given(str(pair.distorted), pair.distorted), once[pair.reference]) for pair in found.pairs], found
    found = Matching((), "as they were given")
    distorted, references = _split(x, "x"), _split(y, "y")
    if len(references) == 1:
        return [(each, references[0]) for each in distorted], found
    if len(references) != len(distorted):
        raise ValueError(f"{len(distorted)} distorted images and {len(references)} references: give one each, or a single one")
    pairs = list(zip(distorted, references, strict=True))
    if _is_path(x) or _is_path(y):  # a folder or a pattern, whose order is not the caller's
        for one, other in pairs:
            if _is_path(one.image) and _is_path(other.image) and Path(one.image).stem != Path(other.image).stem:
                raise ValueError(f"{one} beside {other}: their names differ, so give lists of paths in the order of the pairs")
    return pairs, found


def _masks(mask: Any, references: Sequence[_Given], unused: Iterable[Path]) -> dict[_Given, _Given]:
    """The mask of each reference; masks of ``unused`` images are passed over."""
    if _is_folder(mask):
        if not all(_is_path(each.image) for each in references):
            raise ValueError("a folder of masks is for references that are files: give a list of masks")
        found = find_masks(Path(mask), [Path(each.image) for each in references], unused)
        return {each: _Given(str(found[Path(each.image)]), found[Path(each.image)]) for each in references}
    masks = _split(mask, "mask")
    if len(masks) not in (1, len(references)):
        raise ValueError(f"{len(masks)} masks and {len(references)} references: give one each, or a single one")
    return dict(zip(references, masks * len(references) if len(masks) == 1 else masks, strict=True))


def _is_path(given: object) -> bool:
    return isinstance(given, (str, os.PathLike))


def _is_folder(given: Any) -> bool:
    return _is_path(given) and os.path.isdir(given)


def _split(given: Any, side: str) -> list[_Given]:
    """The images in what was given for one side."""
    images: list[Any] = [given]
    if _is_folder(given):
        images = list(list_images(given))
    elif _is_path(given) and glob.has_magic(os.fspath(given)) and not os.path.exists(given):
        images = sorted(glob.glob(os.fspath(given), recursive=True))
    elif isinstance(given, _SEVERAL) or (isinstance(given, (np.ndarray, Tensor)) and given.ndim in (1, 4)):
        images = list(given)
    if not images:
        raise ValueError(f"no file matches {given}" if _is_path(given) else "no image in an empty list")
    places = [side] if len(images) == 1 else [f"{side}[{index}]" for index in range(len(images))]
    return [_Given(str(image) if _is_path(image) else place, image) for place, image in zip(places, images, strict=True)]


class _Reader:
    """Opens what was given, and keeps what is to be said and shown of it."""

    def __init__(self, pictured: Collection[_Given], notes: Iterable[str]) -> None:
        self.notes = list(notes)
        self.thumbnails: dict[_Given, str] = {}
        self.error: Exception | None = None
        self._pictured = pictured

    def note(self, text: str) -> None:
        self.notes.append(text.partition("; said once")[0])

    def open(self, pair: Pair, reading: Reading, reference: Opened | None) -> Opened:
        given = cast(_Given, pair.reference if reference is None else pair.distorted)
        try:
            opened = _open(given.image)
        except Exception as error:
            known = _is_path(given.image) or not isinstance(error, TypeError | ValueError)
            self.error = self.error or (error if known else type(error)(f"{given}: {error}"))
            raise
        if given in self._pictured:
            self.thumbnails[given] = _thumbnail(opened)
        return opened


def _thumbnail(image: Opened) -> str:
    """A small picture of an image, as a data address for HTML."""
    picture = to_pillow(image.thin(_SIDE) if isinstance(image, LargeImage) else image.colours)
    picture.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _open(given: Any) -> Opened:
    """One image of any kind; a TypeError for no image, and for values of a type without a known range."""
    if _is_path(given):
        opened = open_image(given, Reading())
        return opened if isinstance(opened, LargeImage) else _noted(opened)
    if isinstance(given, Image.Image):
        return _noted(_from_pil(given))
    if isinstance(given, np.ma.MaskedArray) and np.ma.is_masked(given):
        raise TypeError(
            "a masked array is not an image: fill what is masked (array.filled(0)), in both images alike, or weight places "
            "with a metric's saliency="
        )
    if isinstance(given, np.ndarray):
        return _noted(_from_array(np.asarray(given)))
    if isinstance(given, Tensor):
        return _noted(_from_tensor(given))
    raise TypeError(
        f"an image is a path, a PIL image, a numpy array or a torch tensor, not {type(given).__name__}; several are a list"
    )


def _noted(picture: Picture) -> Picture:
    """With notes on how it was turned, and on its depth."""
    turned = (_TURNED.format(picture.orientation),) if picture.orientation in range(2, 9) else ()
    return replace(picture, notes=picture.notes + turned + (_DEEP,) * (picture.colours.dtype == np.uint16))


def _from_pil(image: Image.Image) -> Picture:
    try:
        with _LOADING:
            values, samples = values_of(image)
            orientation = orientation_of(image)
    except OSError as error:  # Pillow decodes late
        raise ImageFileError(f"cannot read {getattr(image, 'filename', 'the image')}: {error}") from error
    if samples.bits == 32:
        raise TypeError(f"a PIL image of mode {image.mode} has no known range: give an array with values in [0, 1]")
    colours, transparent = to_colours(values, samples, Reading())
    profile = None if image.mode in ("CMYK", "LAB") else profile_of(image)
    return Picture(turn(colours, orientation), profile, (_ALPHA,) * transparent, orientation=orientation)


def _from_array(array: npt.NDArray[Any]) -> Picture:
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or array.size == 0:
        raise ValueError(
            f"an array is (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), got {array.shape}; "
            "for channels first give a tensor, torch.from_numpy(array)"
        )
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    whole = array.dtype.kind == "u" and array.dtype.itemsize <= 2
    if not whole and not np.issubdtype(array.dtype, np.floating):
        raise TypeError(f"values of type {array.dtype} have no known range: give uint8, uint16, or floats in [0, 1]")
    values = np.require(array, array.dtype.newbyteorder("=") if whole else np.float32, ["C", "W"])
    transparent = False
    if values.shape[2] == 4:
        samples = Samples(8 * values.itemsize, "unsigned" if whole else "floating-point", 3, alpha=3)
        values, transparent = to_colours(values, samples, Reading(peak=1.0))
    return Picture(values, notes=(_ALPHA,) * transparent)


def _from_tensor(tensor: Tensor) -> Picture:
    image = tensor.detach().cpu()
    image = image[None] if image.dim() == 2 else image[0] if image.dim() == 4 and len(image) == 1 else image
    if image.dim() != 3 or image.shape[0] not in (1, 3):
        raise ValueError(
            f"a tensor is (3, H, W), (1, H, W), (H, W) or a batch (N, 3, H, W), got {tuple(tensor.shape)}; "
            "for channels last give an array, tensor.numpy()"
        )
    values = image.float() if image.is_floating_point() else image  # NumPy has no bfloat16
    return _from_array(values.permute(1, 2, 0).numpy())


def _scorer(metric: str, run: Run, options: dict[str, Any]) -> Scorer:
    """A scorer, the one of an earlier call where nothing that it is made of can have changed unnoticed: tensors, modules and a
    user's own code may change in place, random weights are new each time. Files count by their content."""
    name, stated = parse_metric(metric)
    every = {**options, **stated}
    plain = all(isinstance(value, str | int | float | bool | None) for value in every.values())
    name = name.removeprefix(MULTISCALE_PREFIX)
    own = name in registry.names() and not registry.get(name).built_in
    if own or not plain or every.get("weights", "") is None:
        return create_scorer(metric, run.device, run.runtime, **options)
    files = [content(value) for value in every.values() if isinstance(value, str) and os.path.isfile(value)]
    return _kept_scorer(metric, run.device, run.runtime, tuple(sorted(options.items())), *files)


@lru_cache(maxsize=4, typed=True)
def _kept_scorer(
    metric: str, device: str | None, runtime: str | None, options: tuple[tuple[str, Any], ...], *files: str
) -> Scorer:
    return create_scorer(metric, device, runtime, **dict(options))
