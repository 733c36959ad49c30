"""The picture of the demonstration."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .run import DISTORTIONS, SIZE, Distortion, Photo, photographs

# Okabe and Ito's colours, which colour-blind readers can tell apart; the markers differ too.
STYLES = (("#0072B2", "o"), ("#D55E00", "s"), ("#000000", "^"))
PSNR_STYLE = ("#009E73", "D")
CAPTION = (
    "Curves are means over {photos} photographs; higher is better everywhere. The metrics are not on one scale: compare the "
    "shapes of their curves, not the heights. A crop has another size than its reference. {deep} compare the two as they are; "
    "SSIM and PSNR cannot, so for them it was enlarged to the reference's size, which moves every pixel and is much of what "
    "they then measure. A shift likewise changes nearly every pixel and hardly the picture: whether that should cost anything "
    "depends on the use."
)


def check_picture(path: Path) -> None:
    """Raise an error unless a picture can be saved at ``path``.

    Raises:
        ValueError: a suffix that matplotlib cannot write.
        FileNotFoundError: the folder does not exist.
    """
    known = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix.lower().lstrip(".") not in known:
        raise ValueError(f"a picture cannot be written as {path.name!r}: its name must end in {', '.join(sorted(known))}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write {path.name} to: make it first")


def draw(table: pd.DataFrame, path: Path, titles: Mapping[str, str], photo: str = "chelsea") -> None:
    """Save one picture: an example of each distortion, and every score over its strength.

    Args:
        table: the rows of :func:`~msds_plugin.adapters.demo.run`.
        path: file to write; its suffix chooses the format.
        titles: name in the legend of every score column other than PSNR.
        photo: name of the photograph whose distorted versions are shown.
    """
    figure = Figure(figsize=(16, 12.6), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)  # without pyplot, whose settings and windows belong to the caller
    levels = len(DISTORTIONS[0].strengths)
    grid = figure.add_gridspec(
        len(DISTORTIONS),
        levels + 4,
        width_ratios=[*[1.0] * levels, 0.26, 1.75, 0.26, 1.3],
        left=0.03,
        right=0.985,
        top=0.895,
        bottom=0.125,
        wspace=0.06,
        hspace=0.32,
    )
    means = table.groupby(["distortion", "level"]).mean(numeric_only=True)
    base = photographs()[photo]
    for row, distortion in enumerate(DISTORTIONS):
        for column, strength in enumerate(distortion.strengths):
            axes = figure.add_subplot(grid[row, column])
            _thumbnail(axes, distortion.apply(base, strength), distortion.unit.format(strength))
            if column == 0:
                axes.set_ylabel(distortion.name, fontsize=16, fontweight="bold", labelpad=6)
        similarity, decibel = (figure.add_subplot(grid[row, levels + place]) for place in (1, 3))
        for (name, title), style in zip(titles.items(), STYLES, strict=False):
            _curve(similarity, means.loc[distortion.name][name], title, style)
        _curve(decibel, means.loc[distortion.name]["PSNR"], "PSNR", PSNR_STYLE)
        _decorate(similarity, distortion, (0, 1.04))
        _decorate(decibel, distortion, (8, 42))
        if distortion.resizes:
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


def _thumbnail(axes: Axes, image: Photo, label: str) -> None:
    height, width = image.shape[:2]
    left, top = (SIZE - width) / 2, (SIZE - height) / 2
    axes.imshow(image, interpolation="lanczos", extent=(left, left + width, top + height, top))
    axes.set(xlim=(0, SIZE), ylim=(SIZE, 0), xticks=[], yticks=[])
    axes.set_xlabel(label, fontsize=12, labelpad=4)
    axes.spines[:].set_color("0.8")


def _curve(axes: Axes, values: pd.Series[float], title: str, style: tuple[str, str]) -> None:
    color, marker = style
    axes.plot(values.tolist(), label=title, color=color, marker=marker, linewidth=2.2, markersize=7)


def _decorate(axes: Axes, distortion: Distortion, limits: tuple[float, float]) -> None:
    axes.set_xticks(range(len(distortion.strengths)), [f"{strength:g}" for strength in distortion.strengths])
    axes.set_ylim(limits)
    axes.tick_params(labelsize=11)
    axes.grid(axis="y", color="0.88")
    axes.spines[["top", "right"]].set_visible(False)
