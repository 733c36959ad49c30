"""``msds weights``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .shared.terminal import clean_stdout, say, setup, show_table


def weights(
    backbone: Annotated[str | None, typer.Argument(help="Backbone whose weights FILE holds.")] = None,
    file: Annotated[Path | None, typer.Argument(help="The published file, fetched on another machine.")] = None,
) -> None:
    """List the pretrained weights that each backbone needs, or put a file of them where they are looked for.

    Without arguments: every backbone, where its file comes from, where it is looked for, whether it is there and its SHA-256.
    With BACKBONE and FILE: check that FILE is the published one and copy it there. Nothing is downloaded.
    """
    from ..weights import inventory, put_in_place

    with setup(), clean_stdout():
        if backbone is not None and file is None:
            raise ValueError(f"which file? msds weights {backbone} FILE")
        if backbone is not None and file is not None:
            say(f"The weights of {backbone} are in place: {put_in_place(backbone, file)}")
            return
        rows = [
            [row.backbone, row.state, row.sha256[:16] if row.sha256 else "-", str(row.path or "-"), row.source]
            for row in inventory()
        ]
    show_table(["backbone", "state", "sha256", "looked for at", "comes from"], rows)
