"""The options by which the user states what image files do not say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from ..images.samples import Reading

PEAK = typer.Option(
    "--peak", help="The value that is white in files of signed, 32-bit or floating-point values, which are refused without."
)
BACKGROUND = typer.Option("--background", help="What transparent pixels are laid over: a colour's name, or #rrggbb.")
MAX_PIXELS = typer.Option("--max-pixels", min=1, help="Larger images are refused, TIFFs aside. [default: 178956970]")


def reading_of(peak: float | None, background: str, max_pixels: int | None) -> Reading:
    """What these options say.

    Raises:
        ValueError: a peak that is not positive, or a background that is no colour.
    """
    from ..images.samples import MAX_PIXELS as MOST
    from ..images.samples import Reading, colour

    return Reading(peak, colour(background), max_pixels or MOST)
