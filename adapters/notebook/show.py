"""Scores as text and as a table with pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

_SIDE = 96
_IN_A_ROW = 8


def thumbnail(image: Tensor) -> str:
    """An image (1, 3, H, W) in [0, 1] as a small picture, a data address for HTML."""
    pixels = (image[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(pixels)
    picture.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _heading(metric: str, lower_is_better: bool) -> str:
    return f"{metric}, {'lower' if lower_is_better else 'higher'} is better"


def to_text(values: npt.NDArray[np.float64], metric: str, lower_is_better: bool, notes: Sequence[str]) -> str:
    """One line of scores, and one for each note."""
    shown = ", ".join(f"{value:.4f}" for value in values[:_IN_A_ROW])
    more = f", … {len(values)} in all" if len(values) > _IN_A_ROW else ""
    mean = f" (mean {values.mean():.4f})" if len(values) > 1 else ""
    return "\n".join([f"{_heading(metric, lower_is_better)}: {shown}{more}{mean}", *(f"  {note}" for note in notes)])


def to_html(
    values: npt.NDArray[np.float64],
    metric: str,
    lower_is_better: bool,
    notes: Sequence[str],
    pictures: Sequence[tuple[str, str]],
) -> str:
    """A table with one row per pair, those that have pictures first."""
    rows = [
        f"<tr><td>{index}</td>"
        + "".join(f'<td><img src="{source}" alt=""></td>' for source in pair)
        + f"<td>{values[index]:.4f}</td></tr>"
        for index, pair in enumerate(pictures)
    ]
    left = len(values) - len(pictures)
    tail = f"<p>and {left} more; mean {values.mean():.4f}</p>" if left else ""
    said = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return (
        f"<table><caption>{escape(_heading(metric, lower_is_better))}</caption>"
        "<tr><th></th><th>distorted</th><th>reference</th><th>score</th></tr>"
        + "".join(rows)
        + f"</table>{tail}"
        + (f"<ul>{said}</ul>" if said else "")
    )
