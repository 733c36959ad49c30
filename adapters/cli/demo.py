"""``msds demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from msds_plugin.adapters.cli.shared.terminal import exit_code, progress, say, setup, show_table


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Picture to save (.png, .pdf, .svg, ...).")] = Path("demo.png"),
) -> None:
    """Distort photographs, score them, and draw the result.

    The photographs are scikit-image's. Nothing is downloaded: the metrics use VGG16 if its weights are on this machine,
    otherwise EfficientNet-Lite0.
    """
    import pandas as pd

    from msds_plugin import registry
    from msds_plugin.adapters.research.demo import COUNT, check_picture, choose_metrics, draw, photographs, score
    from msds_plugin.adapters.scorers import create_scorer

    with setup():
        check_picture(output)
        names, backbone = choose_metrics()
        scorers = [create_scorer(name) for name in names]
    titles = {**{name: registry.get(name).title for name in names}, "SSIM": "SSIM"}
    say(f"{' and '.join(titles[name] for name in names)} on {backbone}")
    rows = []
    try:
        with progress("scoring", COUNT) as advance:
            for name, photo in photographs().items():
                for row in score(photo, scorers):
                    rows.append({"photo": name, **row})
                    advance()
    except KeyboardInterrupt:
        say("Interrupted")
        raise typer.Exit(exit_code()) from None
    table = pd.DataFrame(rows)
    with setup():
        draw(table, output, titles)
    means = table.groupby(["distortion", "level"], sort=False).mean(numeric_only=True).reset_index()
    columns = {**titles, "PSNR": "PSNR"}
    cells = [
        [f"{row['distortion']}", f"{row['strength']:g}", *(f"{row[name]:.3f}" for name in columns)]
        for row in means.to_dict("records")
    ]
    show_table(["distortion", "strength", *columns.values()], cells, numbers=len(columns))
    say("Means over the photographs; crops were enlarged to the reference's size for SSIM and PSNR, and for them only")
    say(f"Picture saved as {output}")
