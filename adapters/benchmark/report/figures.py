"""The pictures of a benchmark: matplotlib figures with colours that the colour-blind can tell apart."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from msds_plugin.adapters.benchmark.statistics import LEVEL, Mapping

#: Of the palette by Okabe and Ito.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"
#: Worse, not shown to differ, better: pale enough for black text; in print without colour the triangles still tell.
_PALE = ["#f7c9a8", "#ffffff", "#b5d8ef"]
#: More points than this are drawn as pixels, so that the file stays small.
MANY_POINTS = 1500


def to_svg(figure: Figure) -> bytes:
    """A figure as SVG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "msds-plugin"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, dpi=150)
    return buffer.getvalue()


def scatter(rows: pd.DataFrame, mapping: Mapping, title: str, caption: str) -> Figure:
    """Opinions over scores, the columns ``score`` and ``opinion`` of ``rows``, with the fitted curve."""
    figure, axes = _figure(3.2, 2.8)
    many = len(rows) > MANY_POINTS
    axes.scatter(
        rows["score"], rows["opinion"], s=6 if many else 14, c=BLUE, alpha=0.35 if many else 0.6, lw=0, rasterized=many
    )
    if len(rows):
        x = np.linspace(rows["score"].min(), rows["score"].max(), 200)
        axes.plot(x, mapping(x), color=ORANGE, lw=2)
    axes.set_title(title, fontsize=10, fontweight="bold", loc="left", pad=16)
    axes.text(0, 1.02, caption, transform=axes.transAxes, fontsize=8, color=GREY, va="bottom")
    axes.set_xlabel("score", fontsize=9)
    axes.set_ylabel("opinion", fontsize=9)
    return figure


def heat_map(values: pd.DataFrame) -> Figure:
    """SRCC of every metric (rows) on every type of distortion (columns), written into the cells."""
    figure, axes = _figure(1.9 + 0.62 * values.shape[1], 1.5 + 0.3 * values.shape[0])
    colours = colormaps["cividis"]
    axes.imshow(values, cmap=colours, vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(values.to_numpy(float)):
        bright = np.isfinite(value) and value > 0.55
        text = f"{value:.2f}" if np.isfinite(value) else "–"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color="black" if bright else "white")
    axes.set_facecolor("#444444")
    _label(axes, list(map(str, values.columns)), list(map(str, values.index)))
    return figure


def significance_matrix(pairs: pd.DataFrame, metrics: Sequence[str]) -> Figure:
    """Difference in SRCC of row minus column, marked where it is shown by the corrected test, of ``metrics`` in this order."""
    turned = pairs.rename(columns={"a": "b", "b": "a"}).assign(difference=-pairs["difference"])
    both = pd.concat([pairs, turned]).pivot(index="a", columns="b", values=["difference", "p_holm"]).loc[list(metrics)]
    difference, shown = both["difference"][list(metrics)], both["p_holm"][list(metrics)] < LEVEL
    side = 0.5 * len(metrics)
    figure, axes = _figure(1.9 + side, 1.3 + 0.72 * side)
    axes.imshow(np.sign(difference.where(shown, 0)), cmap=ListedColormap(_PALE), vmin=-1, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(difference.to_numpy(float)):
        sure = bool(shown.iat[row, column])
        mark = ("▲ " if value > 0 else "▼ ") if sure else ""
        number = f"{value:+.2f}".replace("0.", ".", 1) if np.isfinite(value) else "–"
        text, weight, colour = "·" if row == column else mark + number, "bold" if sure else "normal", "black" if sure else GREY
        axes.text(column, row, text, ha="center", va="center", fontsize=7, fontweight=weight, color=colour)
    _label(axes, metrics, metrics)
    return figure


def speed_against_accuracy(table: pd.DataFrame) -> Figure:
    """SRCC with its interval over seconds per image."""
    figure, axes = _figure(7.2, 4.4)
    known = table[table["srcc"].notna() & (table["seconds"] > 0)].sort_values("srcc")
    low, high = known["srcc_low"].fillna(known["srcc"]), known["srcc_high"].fillna(known["srcc"])
    error = np.clip([known["srcc"] - low, high - known["srcc"]], 0, None)
    axes.errorbar(known["seconds"], known["srcc"], yerr=error, fmt="o", color=BLUE, ecolor="#9ecae1", ms=6, lw=2, capsize=0)
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.08)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("seconds per image (logarithmic; left is faster)", fontsize=9)
    axes.set_ylabel("SRCC with 95 % interval", fontsize=9)
    axes.grid(True, which="major", color="#dddddd", lw=0.8)
    axes.set_axisbelow(True)
    for row in known.to_dict("records"):
        axes.annotate(row["metric"], (row["seconds"], row["srcc"]), (7, -3), textcoords="offset points", fontsize=8)
    return figure


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.tick_params(labelsize=8)
    for spine in ("top", "right"):
        axes.spines[spine].set_visible(False)
    return figure, axes


def _label(axes: Axes, columns: Sequence[str], rows: Sequence[str]) -> None:
    axes.set_xticks(range(len(columns)), columns, rotation=40, ha="left", fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
    axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", lw=1.5)
    axes.tick_params(which="minor", length=0, top=False, bottom=False, left=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
