"""The options by which the user states what image files do not say, the same for every command that reads them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from .terminal import setup

if TYPE_CHECKING:
    from ...images.samples import Reading

_OPTIONS: dict[str, tuple[Any, Any]] = {
    "peak": (
        Annotated[
            float | None,
            typer.Option(
                help="The value that is white in files of signed, 32-bit or floating-point values, which are refused without."
            ),
        ],
        None,
    ),
    "background": (
        Annotated[str, typer.Option(help="What transparent pixels are laid over: a colour's name, or #rrggbb.")],
        "white",
    ),
    "max_pixels": (
        Annotated[int | None, typer.Option(min=1, help="Larger images are refused, TIFFs aside. [default: 178956970]")],
        None,
    ),
}


def reads_images(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options ``--peak``, ``--background`` and ``--max-pixels``; it gets what they say as ``reading``."""
    hints = get_type_hints(command, localns={"Reading": object}, include_extras=True)
    own = [
        parameter.replace(annotation=hints[name])
        for name, parameter in inspect.signature(command).parameters.items()
        if name != "reading"
    ]
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in _OPTIONS.items()
    ]

    @wraps(command)
    def run(peak: float | None = None, background: str = "white", max_pixels: int | None = None, **given: Any) -> None:
        with setup():
            reading = _reading(peak, background, max_pixels)
        command(**given, reading=reading)

    run.__signature__ = inspect.Signature([*own, *more])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *more)}
    return run


def _reading(peak: float | None, background: str, max_pixels: int | None) -> Reading:
    from ...images.samples import MAX_PIXELS, Reading, colour

    return Reading(peak, colour(background), max_pixels or MAX_PIXELS)
