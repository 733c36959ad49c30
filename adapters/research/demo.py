"""The demonstration: scikit-image's photographs, distorted at rising strength, scored and drawn."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from skimage import data, metrics, transform

from msds_plugin.adapters.images.read import to_tensor
from msds_plugin.adapters.research.distortions import Photo, blur, jpeg, noise, to_bytes
from msds_plugin.adapters.scorers import Scorer
from msds_plugin.adapters.scoring.files import check_file
from msds_plugin.backbones import BACKBONES
from msds_plugin.weights import cached, hub_path

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea")
#: The one whose distorted versions are shown.
SHOWN = "chelsea"
SIZE = 256
#: Pixels around a photograph that a shift moves into view.
MARGIN = 16
# Okabe and Ito's colours, which colour-blind readers can tell apart; the markers differ too.
STYLES = (("#0072B2", "o"), ("#D55E00", "s"), ("#000000", "^"), ("#009E73", "D"))
CAPTION = (
    "Curves are means over {photos} photographs; higher is better everywhere. The metrics are not on one scale: compare the "
    "shapes of their curves, not the heights. A crop has another size than its reference. {deep} compare the two as they are; "
    "SSIM and PSNR cannot, so for them it was enlarged to the reference's size, which moves every pixel and is much of what "
    "they then measure. A shift likewise changes nearly every pixel and hardly the picture: whether that should cost anything "
    "depends on the use."
)


class Series(NamedTuple):
    """One kind of change."""

    name: str
    unit: str  # a format string for a strength
    strengths: tuple[float, ...]
    apply: Callable[[Photo, float], Photo]  # of a photograph with its margin, to one without


def inner(photo: Photo) -> Photo:
    """A photograph without its margin."""
    return photo[MARGIN:-MARGIN, MARGIN:-MARGIN]


def _shift(photo: Photo, pixels: float) -> Photo:
    first = MARGIN - int(pixels)
    return photo[first : first + SIZE, first : first + SIZE]


def _crop(photo: Photo, percent: float) -> Photo:
    side = round(SIZE * percent / 100)
    first = (SIZE - side) // 2
    return inner(photo)[first : first + side, first : first + side]


SERIES = (
    Series("blur", "σ = {:g} px", (0.5, 1, 2, 3, 5), lambda photo, sigma: inner(blur(photo, sigma))),
    Series("noise", "σ = {:g} of 255", (5, 10, 20, 40, 60), lambda photo, deviation: noise(inner(photo), deviation)),
    Series("JPEG", "quality {:g}", (70, 40, 20, 10, 5), lambda photo, quality: jpeg(inner(photo), quality)),
    Series("shift", "{:g} px", (1, 2, 4, 8, 16), _shift),
    Series("crop", "{:g} % of each side", (95, 90, 80, 65, 50), _crop),
)
#: Number of rows that :func:`run` yields.
COUNT = len(PHOTOGRAPHS) * sum(len(series.strengths) for series in SERIES)


def photographs() -> dict[str, Photo]:
    """Three photographs of scikit-image, each 288 x 288 pixels: 256 x 256 and a margin around them."""
    side, found = SIZE + 2 * MARGIN, {}
    for name in PHOTOGRAPHS:
        photo = getattr(data, name)()
        short = min(photo.shape[:2])
        top, left = ((length - short) // 2 for length in photo.shape[:2])
        square = photo[top : top + short, left : left + short]
        found[name] = to_bytes(transform.resize(square, (side, side), anti_aliasing=True))
    return found


def choose_metrics() -> tuple[tuple[str, str], str]:
    """Names of MSDS and DeepSSIM that need no download here, and the reason for that choice of backbone."""
    url = str(BACKBONES["vgg16"].url)
    path = hub_path(url)
    if cached(url):
        return ("msds", "deepssim"), f"VGG16, whose weights are in {path.parent}"
    return ("msds-fast", "deepssim-fast"), f"EfficientNet-Lite0, as VGG16's weights ({path.name}) are not in {path.parent}"


@torch.inference_mode()
def score(photo: Photo, scorers: Sequence[Scorer]) -> Iterator[dict[str, Any]]:
    """Score a photograph under every change at every strength.

    Yields:
        Rows: ``distortion``, ``level`` (1 is the mildest), ``strength``, one column per scorer, ``SSIM`` and ``PSNR`` (dB), for
        which an image of another size is resized.
    """
    reference = inner(photo)
    kept = [scorer.metric.represent(to_tensor(reference, scorer.device)) for scorer in scorers]
    for series in SERIES:
        for level, strength in enumerate(series.strengths, 1):
            image = series.apply(photo, strength)
            row = {"distortion": series.name, "level": level, "strength": strength}
            for scorer, represented in zip(scorers, kept, strict=True):
                distorted = scorer.metric.represent(to_tensor(image, scorer.device))
                row[scorer.name] = float(scorer.metric.compare(distorted, represented))
            if image.shape != reference.shape:
                image = np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
            row["SSIM"] = float(metrics.structural_similarity(reference, image, channel_axis=2))
            row["PSNR"] = float(metrics.peak_signal_noise_ratio(reference, image))
            yield row


def check_picture(path: Path) -> None:
    """Raise an error unless a picture of this suffix can be saved there."""
    known = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix.lower().lstrip(".") not in known:
        raise ValueError(f"a picture cannot be written as {str(path)!r}: its name must end in {', '.join(sorted(known))}")
    check_file(path)


def draw(table: pd.DataFrame, path: Path, titles: Mapping[str, str]) -> None:
    """Save one picture: an example of each change, and every score over its strength.

    ``table`` has the rows of :func:`score` and the ``photo`` of each, ``titles`` the names of its columns other than PSNR.
    """
    figure = Figure(figsize=(16, 12.6), dpi=100, facecolor="white")
    levels = len(SERIES[0].strengths)
    space = {"left": 0.03, "right": 0.985, "top": 0.895, "bottom": 0.125, "wspace": 0.06, "hspace": 0.32}
    grid = figure.add_gridspec(len(SERIES), levels + 4, width_ratios=[*[1.0] * levels, 0.26, 1.75, 0.26, 1.3], **space)
    means = table.groupby(["distortion", "level"]).mean(numeric_only=True)
    photo = photographs()[SHOWN]
    for row, series in enumerate(SERIES):
        for column, strength in enumerate(series.strengths):
            axes, image = figure.add_subplot(grid[row, column]), series.apply(photo, strength)
            edge = (SIZE - len(image)) / 2
            axes.imshow(image, interpolation="lanczos", extent=(edge, SIZE - edge, SIZE - edge, edge))
            axes.set(xlim=(0, SIZE), ylim=(SIZE, 0), xticks=[], yticks=[])
            axes.set_xlabel(series.unit.format(strength), fontsize=12, labelpad=4)
            axes.spines[:].set_color("0.8")
            if column == 0:
                axes.set_ylabel(series.name, fontsize=16, fontweight="bold", labelpad=6)
        similarity, decibel = (figure.add_subplot(grid[row, levels + place]) for place in (1, 3))
        own = means.loc[series.name]
        for (name, title), (colour, marker) in zip({**titles, "PSNR": "PSNR"}.items(), STYLES, strict=False):
            style: dict[str, Any] = {"color": colour, "marker": marker, "linewidth": 2.2, "markersize": 7}
            (decibel if name == "PSNR" else similarity).plot(own[name].tolist(), label=title, **style)
        for axes, limits in ((similarity, (0, 1.04)), (decibel, (8, 42))):
            axes.set_xticks(range(levels), [f"{strength:g}" for strength in series.strengths])
            axes.set_ylim(limits)
            axes.tick_params(labelsize=11)
            axes.grid(axis="y", color="0.88")
            axes.spines[["top", "right"]].set_visible(False)
        if series.name == "crop":
            similarity.text(0, 0.04, "SSIM: crop enlarged", fontsize=11)
            decibel.text(4, 39, "crop enlarged", ha="right", va="top", fontsize=11)
        if row == 0:
            similarity.set_title("similarity", fontsize=14, pad=8)
            decibel.set_title("PSNR in dB", fontsize=14, pad=8)
    lines = [*similarity.get_lines(), *decibel.get_lines()]
    figure.legend(handles=lines, loc="upper right", bbox_to_anchor=(0.985, 0.985), ncols=len(lines), fontsize=14, frameon=False)
    figure.text(0.012, 0.962, "Photographs distorted at rising strength", fontsize=21, fontweight="bold", va="center")
    deep = " and ".join(title for name, title in titles.items() if name != "SSIM")
    caption = CAPTION.format(photos=table["photo"].nunique(), deep=deep)
    figure.text(0.012, 0.085, textwrap.fill(caption, 166), fontsize=12.5, va="top", linespacing=1.35)
    figure.savefig(path)
