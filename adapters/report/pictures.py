"""What the report shows: figures of each data set and the images that metrics judge worst."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from ..benchmark.summary import Scores, Summary
from ..common.scorer import Scorer
from ..images.large import is_large
from ..images.pairs import Pair
from ..images.preview import preview
from ..images.read import ImageFileError, Reading
from ..maps import has_map, overlay_of
from . import figures
from .text import figure

#: Longest side of an image in the gallery, in pixels.
THUMBNAIL = 360
SIDES = ("reference", "distorted")


class Pictures:
    """Pictures kept as files for the Markdown and as text for the page."""

    def __init__(self, directory: Path) -> None:
        self.folder = directory / "figures"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.names: dict[str, str] = {}

    def keep(self, content: bytes, name: str, suffix: str, alt: str) -> dict[str, str]:
        """A picture as text, and the path of its file."""
        slug = _slug(name)[-120:]
        if self.names.setdefault(slug, name) != name:  # ms-ssim and ms_ssim are two metrics
            slug = f"{slug}-{len(self.names)}"
            self.names[slug] = name
        path = self.folder / f"{slug}.{suffix}"
        path.write_bytes(content)
        kind = {"svg": "svg+xml", "jpg": "jpeg"}[suffix]
        uri = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
        return {"uri": uri, "path": f"figures/{path.name}", "alt": alt}


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")


def draw(
    scores: Scores,
    summed: Summary,
    errors: pd.DataFrame,
    dataset: str,
    pictures: Pictures,
    worst: int,
    reading: Reading,
    scorers: Sequence[Scorer] = (),
) -> dict[str, Any]:
    """The pictures of one data set, by what they show; ``scorers`` that can say where two images differ show it."""
    table = summed.table[summed.table["dataset"] == dataset]
    pairs = summed.significance[summed.significance["dataset"] == dataset]
    by_srcc = table.sort_values("srcc", ascending=False, na_position="last")["metric"].tolist()
    scatters = []
    for row in table.to_dict("records"):
        metric = row["metric"]
        rows = scores.of(dataset, metric)
        caption = f"SRCC {figure(row['srcc'])}, PLCC {figure(row['plcc'])}, RMSE {figure(row['rmse'])}"
        drawn = figures.scatter(rows[rows["score"].notna()], summed.mappings[dataset, metric], metric, caption)
        alt = f"opinions of {dataset} over the scores of {metric}, with the fitted curve: {caption}"
        scatters.append(pictures.keep(figures.to_svg(drawn), f"{dataset}-scatter-{metric}", "svg", alt))
    kinds = summed.by_distortion[summed.by_distortion["dataset"] == dataset]
    heat = None
    if kinds["distortion"].nunique() > 1:
        order = list(dict.fromkeys(kinds["distortion"]))
        wide = kinds.pivot(index="metric", columns="distortion", values="srcc").loc[by_srcc, order]
        heat = pictures.keep(
            figures.to_svg(figures.heat_map(wide)), f"{dataset}-distortions", "svg", f"SRCC by metric and type on {dataset}"
        )
    matrix = None
    if len(pairs):
        drawn = figures.significance_matrix(pairs, by_srcc)
        matrix = pictures.keep(
            figures.to_svg(drawn), f"{dataset}-significance", "svg", f"differences in SRCC between metrics on {dataset}"
        )
    speed = figures.to_svg(figures.speed_against_accuracy(table))
    own = errors[errors["dataset"] == dataset]
    able = {scorer.name: scorer for scorer in scorers if has_map(scorer)}
    return {
        "name": dataset,
        "scatter": scatters,
        "heat": heat,
        "matrix": matrix,
        "speed": pictures.keep(speed, f"{dataset}-speed", "svg", f"SRCC over seconds per image on {dataset}"),
        "gallery": [
            {
                "metric": metric,
                "cases": [_case(row, pictures, dataset, reading, able) for row in part.head(worst).to_dict("records")],
            }
            for metric, part in own.groupby("metric", sort=False)
        ],
    }


def _case(
    row: Mapping[str, Any], pictures: Pictures, dataset: str, reading: Reading, able: Mapping[str, Scorer]
) -> dict[str, Any]:
    names = {side: Path(row[side]).name for side in SIDES}
    kind = f", {row['distortion']}" if isinstance(row["distortion"], str) else ""
    caption = (
        f"{names['distorted']} beside {names['reference']}{kind}: opinion {row['opinion']:.4g}, predicted "
        f"{row['predicted']:.4g} from a score of {row['score']:.4g}, error {row['error']:.4g}"
    )
    found: dict[str, Any] = {"caption": caption}
    for side, name in names.items():
        found[side] = pictures.keep(_thumbnail(row[side], reading), f"{dataset}-{side}-{row[side]}", "jpg", side)
        found[f"{side}_name"] = name
    map_of = _map(row, able, reading)
    found["map"] = map_of and pictures.keep(map_of, f"{dataset}-map-{row['metric']}-{row['distorted']}", "jpg", "map")
    return found


def _map(row: Mapping[str, Any], able: Mapping[str, Scorer], reading: Reading) -> bytes | None:
    """Where the metric sees the two differ; None where it cannot say."""
    scorer = able.get(row["metric"])
    pair = Pair(Path(row["reference"]), Path(row["distorted"]))
    if scorer is None or is_large(pair.reference) or is_large(pair.distorted):
        return None
    try:
        drawn = overlay_of(pair, scorer, reading)
    except Exception:  # sizes that differ, too little memory, a file gone since: no reason to lose the report
        return None
    drawn.thumbnail((THUMBNAIL, THUMBNAIL))
    return _jpeg(drawn)


def _thumbnail(path: str, reading: Reading) -> bytes:
    try:
        small = preview(path, THUMBNAIL, reading)
    except ImageFileError:  # gone since, for example: no reason to lose the report
        small = Image.new("RGB", (THUMBNAIL, THUMBNAIL), "lightgrey")
    return _jpeg(small)


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
