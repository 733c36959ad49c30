"""Opinion-scored data sets as tables: pyiqa's by name, or any CSV."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ...errors import MissingDependencyError
from .labels import Line, is_header, number, read_lines

#: What a column may be called, by what it holds; the first three are needed.
COLUMNS = {
    "reference": ("reference", "ref", "ref_name", "reference_name", "ref_img", "ref_path", "hq_name"),
    "distorted": ("distorted", "dist", "dist_name", "distorted_name", "dist_img", "img_name", "dist_path"),
    "score": ("score", "mos", "dmos", "mos_label", "elo_score", "votes"),
    "distortion": ("distortion", "dist_type", "type"),
    "std": ("std", "mos_std", "dmos_std", "score_std"),
}

_TID = (
    "additive Gaussian noise, noise in colour components, spatially correlated noise, masked noise, high-frequency noise, "
    "impulse noise, quantisation noise, Gaussian blur, denoising, JPEG, JPEG2000, JPEG transmission errors, "
    "JPEG2000 transmission errors, non-eccentricity pattern noise, local blocks, mean shift, contrast change, saturation "
    "change, multiplicative Gaussian noise, comfort noise, compression of noisy images, colour quantisation with dither, "
    "chromatic aberrations, sparse sampling"
)
_KADID = (
    "Gaussian blur, lens blur, motion blur, colour diffusion, colour shift, colour quantisation, colour saturation 1, "
    "colour saturation 2, JPEG2000, JPEG, white noise, white noise in colour, impulse noise, multiplicative noise, denoising, "
    "brighten, darken, mean shift, jitter, non-eccentricity patch, pixelate, quantisation, colour block, high sharpen, "
    "contrast change"
)
_NUMBER = r"_(\d+)_\d+\.\w+$"

#: Where pyiqa's data sets say the type of distortion in the name of the image, and the names of types that are numbered
#: from one; PIPAL's stay numbers.
_DISTORTION: dict[str, tuple[str, str]] = {
    "live": (r"([a-z0-9]+)/[^/]+$", ""),
    "livem": (r"(blurjpeg|blurnoise)/", ""),
    "csiq": (r"\.([A-Za-z0-9]+)\.\d+\.\w+$", ""),
    "tid2008": (_NUMBER, _TID),
    "tid2013": (_NUMBER, _TID),
    "kadid10k": (_NUMBER, _KADID),
    "pipal": (_NUMBER, ""),
}


@dataclass(frozen=True)
class Dataset:
    """Images with opinion scores.

    Attributes:
        name: for tables.
        table: one row per distorted image: ``reference`` and ``distorted`` (paths), ``score`` (float); ``distortion`` (str)
            and ``std`` (float) where they are known.
        lower_is_better: True for difference scores (DMOS).
    """

    name: str
    table: pd.DataFrame
    lower_is_better: bool


def load_csv(
    path: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    lower_is_better: bool = False,
    name: str | None = None,
) -> Dataset:
    """A data set from a CSV file.

    Columns are taken by name (:data:`COLUMNS`, any case) or, if none of these names occurs in the header or there is none, by
    position as in pyiqa's meta-info files: reference, distorted, score. Other columns are ignored. Commas, semicolons or tabs
    may separate them, and numbers have a decimal point or comma. Names are text, whatever they look like.

    Args:
        path: the CSV file; UTF-8, UTF-16 or Latin-1.
        root: folder the image names are relative to; None for the CSV's own folder.
        lower_is_better: the scores are difference scores (DMOS).
        name: for tables; None for the file's stem.

    Raises:
        FileNotFoundError: no such file.
        ValueError: fewer than three columns, a missing column, no rows, an empty cell, too many cells, scores that are not
            finite numbers, a pair twice; names the file and the line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no CSV file at {path}")
    lines = read_lines(path)
    if not lines:
        raise ValueError(f"{path} has no rows")
    places, rows = _columns(path, lines)
    if not rows:
        raise ValueError(f"{path} has no rows")
    width = len(lines[0].cells)
    base = path.parent if root is None else Path(root)
    records = [_record(path, line, places, width) for line in rows]
    bad = [line.number for line, record in zip(rows, records, strict=True) if record["score"] is None]
    if bad:
        raise ValueError(f"{path} has no finite score in lines {', '.join(map(str, bad[:5]))}")
    table = pd.DataFrame(records)
    for key in ("reference", "distorted"):
        table[key] = [str(base / name) for name in table[key]]
    twice = table.index[table.duplicated(["reference", "distorted"])]
    if len(twice):
        raise ValueError(f"{path} lists the pair of line {rows[twice[0]].number} twice: {table['distorted'][twice[0]]}")
    return Dataset(name or path.stem, table, lower_is_better)


def _columns(path: Path, lines: Sequence[Line]) -> tuple[dict[str, int], Sequence[Line]]:
    """Which column holds what, and the rows below the header, if there is one."""
    needed = ("reference", "distorted", "score")
    first = lines[0].cells
    header = is_header(lines[0], {name for names in COLUMNS.values() for name in names})
    titles = [cell.lower() for cell in first] if header else []
    found = {key: titles.index(next(n for n in names if n in titles)) for key, names in COLUMNS.items() if {*names} & {*titles}}
    twice = [titles[place] for place in found.values() if titles.count(titles[place]) > 1]
    if twice:
        raise ValueError(f"{path} has two columns of the name {twice[0]}")
    if not any(key in found for key in needed):
        if len(first) < len(needed):
            raise ValueError(
                f"{path} has {len(first)} columns: at least reference, distorted and score are needed, separated by commas, "
                "semicolons or tabs"
            )
        found |= dict(zip(needed, range(len(needed)), strict=True))
    missing = [key for key in needed if key not in found]
    if missing:
        raise ValueError(f"{path} has no column for {', '.join(missing)}: its header is {', '.join(first)}")
    return found, lines[1:] if header else lines


def _record(path: Path, line: Line, places: Mapping[str, int], width: int) -> dict[str, Any]:
    """The cells of one row by what they hold; a score that is none is None."""
    if any(line.cells[width:]):
        raise ValueError(f"{path}: line {line.number} has {len(line.cells)} fields, the first row {width}")
    cells = {key: line.cells[place] if place < len(line.cells) else "" for key, place in places.items()}
    for key in ("reference", "distorted", "score"):
        if not cells[key]:
            raise ValueError(f"{path}: line {line.number} has no {key}")
    record: dict[str, Any] = {**cells, "score": number(cells["score"])}
    if "std" in cells:
        record["std"] = number(cells["std"]) if cells["std"] else math.nan
        if record["std"] is None:
            raise ValueError(f"{path}: line {line.number} has the standard deviation {cells['std']!r}, which is no number")
    if "distortion" in cells:
        record["distortion"] = cells["distortion"] or None
    return record


def load_pyiqa(name: str, root: str | os.PathLike[str]) -> Dataset:
    """A full-reference data set by pyiqa's name, through pyiqa's own loader and its table of data sets.

    Standard deviations come from pyiqa's meta-info file where it has them, types of distortion from the images' names.

    Args:
        name: ``live``, ``tid2013``, ... of ``pyiqa.get_dataset_info()``.
        root: the folder that holds pyiqa's data sets (its ``data_root``); what is missing there pyiqa downloads.

    Raises:
        MissingDependencyError: pyiqa is not installed.
        ValueError: a name that pyiqa does not know, or a data set without references.
        FileNotFoundError: it is not in ``root`` and cannot be downloaded.
    """
    try:
        import pyiqa
    except ImportError as error:
        raise MissingDependencyError(f"data sets by name need pyiqa ({error}): pip install 'msds-plugin[pyiqa]'") from error
    known: dict[str, dict[str, Any]] = pyiqa.get_dataset_info()
    if name not in known:
        raise ValueError(f"pyiqa knows no data set named {name!r}; it knows {', '.join(known)}")
    info = known[name]
    if info["type"] != "GeneralFRDataset":
        raise ValueError(f"{name} has no reference images: a full-reference data set is needed")
    try:
        with redirect_stdout(sys.stderr):  # pyiqa says there what it loads
            loaded = pyiqa.load_dataset(name, data_root=str(root))
    except (OSError, AssertionError) as error:
        raise FileNotFoundError(f"pyiqa cannot load {name} from {root}: {error}") from error
    return from_pyiqa(loaded, name, bool(info.get("lower_better", False)))


def from_pyiqa(dataset: Any, name: str, lower_is_better: bool) -> Dataset:
    """The table of one of pyiqa's full-reference data set objects, its own split of it if it has one."""
    rows = [(str(item[0]), str(item[1]), float(item[2])) for item in dataset.paths_mos if len(item) >= 3]
    if not rows:
        raise ValueError(f"{name} has no reference images: a full-reference data set is needed")
    table = pd.DataFrame(rows, columns=["reference", "distorted", "score"])
    std = _std_by_image(dataset)
    if std:
        table["std"] = [std.get(path, float("nan")) for path in table["distorted"]]
    if name in _DISTORTION:
        table["distortion"] = [_distortion(path, *_DISTORTION[name]) for path in table["distorted"]]
    return Dataset(name, table, lower_is_better)


def _std_by_image(dataset: Any) -> dict[str, float]:
    meta: pd.DataFrame | None = getattr(dataset, "meta_info", None)
    if meta is None:
        return {}
    column = next((name for name in meta if str(name).lower() in COLUMNS["std"]), None)
    if column is None:
        return {}
    folder = dataset.opt["dataroot_target"]
    return {os.path.join(folder, str(path)): float(std) for path, std in zip(meta.iloc[:, 1], meta[column], strict=True)}


def _distortion(path: str, pattern: str, names: str) -> str | None:
    found = re.search(pattern, Path(path).as_posix())
    if found is None or not names:
        return found and found[1]
    return dict(enumerate(names.split(", "), 1)).get(int(found[1]), found[1])
