"""Opinion-scored data sets as tables: pyiqa's by name, or any CSV."""

from __future__ import annotations

import os
import re
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from msds_plugin.adapters.images.labels import check_lines, find_images, is_number, numbers, places, read_labels
from msds_plugin.adapters.images.listing import is_meant_as_image
from msds_plugin.errors import MissingDependencyError

#: What a column may be called, in any case, by what it holds; the first three are needed.
COLUMNS = {
    "reference": ("reference", "ref", "ref_name", "reference_name", "ref_img", "ref_image", "ref_path", "hq_name"),
    "distorted": (
        "distorted", "dist", "dis", "dist_name", "distorted_name", "dist_img", "dis_img", "img_name", "dist_path", "image",
        "image_name", "img", "filename",
    ),
    "score": ("score", "mos", "dmos", "mos_label", "elo_score", "votes"),
    "distortion": ("distortion", "dist_type", "distortion_type", "type"),
    "std": ("std", "mos_std", "dmos_std", "score_std", "sd"),
    "variance": ("var", "variance"),
}  # fmt: skip
_PAIR = ["reference", "distorted"]
_NEEDED = [*_PAIR, "score"]
_ACCEPTED = "; ".join(f"{key}: {', '.join(names)}" for key, names in COLUMNS.items())
#: Sub-folders in which published sets keep their images.
_FOLDERS = {"reference": ("reference_images", "images"), "distorted": ("distorted_images", "images")}
#: TID and KADID name a distorted image by its reference, the type of distortion and its level.
_BY_REFERENCE = re.compile(r"(.*[iI]\d\d)_\d\d_\d+(\.\w+)")

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
        notes: what a user should know of how it was read.

    Raises:
        ValueError: a column is missing, a pair is there twice, or an opinion is no finite number.
    """

    name: str
    table: pd.DataFrame
    lower_is_better: bool
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        missing = [key for key in _NEEDED if key not in self.table]
        if missing:
            raise ValueError(f"the table of {self.name} has no column {', '.join(missing)}")
        twice = self.table.loc[self.table.duplicated(_PAIR), "distorted"]
        if len(twice):
            raise ValueError(f"{self.name} lists a pair twice: {twice.iloc[0]}")
        wrong = ~np.isfinite(self.table["score"].to_numpy(float, na_value=np.nan))
        if wrong.any():
            names = ", ".join(map(str, self.table.loc[wrong, "distorted"].head(3)))
            raise ValueError(f"{self.name} has no finite opinion for {int(wrong.sum())} images: {names}")


def load_csv(
    path: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    lower_is_better: bool = False,
    name: str | None = None,
) -> Dataset:
    """A data set from a table of text.

    Columns are taken by name (:data:`COLUMNS`, any case; DMOS first if lower is better). Where the header has none of these
    names, or there is no header, two columns of names and the first of numbers after them (or before) are taken; of the names
    the reference is what has fewer different ones, else what comes first. A table of TID's or KADID's names without references
    (``mos_with_names.txt``) is read too. Separators, encodings and numbers may be as in :func:`read_labels` and
    :func:`numbers`; images are found as by :func:`find_images`.

    Args:
        path: the file.
        root: folder the image names are relative to; None for the table's own folder.
        lower_is_better: the scores are difference scores (DMOS).
        name: for tables; None for the file's stem.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a missing column, no rows, an empty cell, scores that are not finite numbers, negative deviations, a pair
            twice; names the file and the line.
    """
    path = Path(path)
    cells = read_labels(path)
    found, rows = _columns(path, cells, lower_is_better)
    if rows.empty:
        raise ValueError(f"{path} has no rows")
    table = pd.DataFrame({key: rows[place] for key, place in found.items()})
    for key in [key for key in _NEEDED if key in found]:
        check_lines(path, f"no {key}", table[key].eq(""))
    for key in [key for key in ("score", "std", "variance") if key in found]:
        column = table[key]
        table[key] = numbers(column, f"{path}: the column for {key}", cells.attrs["separator"])
        bad = table.index[table[key].isna() & (key == "score" or column.ne(""))]
        if len(bad):
            lines = f"line{'s' * (len(bad) > 1)} {', '.join(map(str, bad[:5]))}"
            raise ValueError(f"{path} has no finite {key} in {lines}: {column[bad[0]]!r}")
        check_lines(path, f"a negative {key}", table[key].lt(0) & (key != "score"))
    if "variance" in table:
        table["std"] = np.sqrt(table.pop("variance"))
    if "distortion" in table:
        table["distortion"] = table["distortion"].where(table["distortion"].ne(""), None)
    if "reference" not in table:
        table.insert(0, "reference", table["distorted"].str.replace(_BY_REFERENCE, r"\1\2", regex=True))
    base, otherwise = path.parent if root is None else Path(root), 0
    for key, folders in _FOLDERS.items():
        table[key], count = find_images(table[key], base, *(base / folder for folder in folders))
        otherwise += count
    twice = table.index[table.duplicated(_PAIR)]
    if len(twice):
        raise ValueError(f"{path} lists the pair of line {twice[0]} twice: {table['distorted'][twice[0]]}")
    taken = {key: cells.iloc[0][found[key]] for key in _NEEDED if key in found}
    notes = []
    if len(rows) < len(cells) and not any(title.lower() in COLUMNS[key] for key, title in taken.items()):
        # What is in them may mislead, as where the rows are numbered.
        said = ", ".join(f"{key}: {title}" for key, title in taken.items())
        notes.append(f"{path}: its columns have no known names; taken as {said}")
    if otherwise:
        notes.append(f"{path}: {otherwise} names differ from the files' in case, slashes or accents; the files are taken")
    return Dataset(name or path.stem, table.reset_index(drop=True), lower_is_better, tuple(notes))


def _columns(path: Path, cells: pd.DataFrame, lower_is_better: bool) -> tuple[dict[str, int], pd.DataFrame]:
    """Which column holds what, and the rows below the header, if there is one."""
    first = cells.iloc[0]
    # Of a table with MOS and DMOS, the latter where lower is said to be better.
    known = {key: sorted(names, key=lambda name: lower_is_better and "dmos" not in name) for key, names in COLUMNS.items()}
    found = places(path, first, known)
    header = bool(found) or not any(is_meant_as_image(cell) or is_number(cell) for cell in first)
    rows = cells.iloc[1:] if header else cells
    if rows.empty:
        return found, rows
    if not found.keys() & set(_NEEDED):
        found |= _by_content(path, rows.drop(columns=list(found.values())))
    missing = [key for key in _NEEDED if key not in found]
    if missing and not (missing == ["reference"] and rows[found["distorted"]].str.fullmatch(_BY_REFERENCE).all()):
        raise ValueError(
            f"{path} has no column for {', '.join(missing)}: its header is {', '.join(filter(None, first))}. "
            f"Accepted names, in any case: {_ACCEPTED}"
        )
    return found, rows


def _by_content(path: Path, rows: pd.DataFrame) -> dict[str, int]:
    """Columns by what is in them: names of images, and the first column of numbers after them, or else before; or by place."""
    used: list[Any] = [place for place in rows if rows[place].ne("").any()]
    numeric = [place for place in used if rows[place].map(is_number).mean() >= 0.5]
    images = [place for place in used if rows[place].map(is_meant_as_image).mean() > 0.5]
    after = [place for place in numeric if place > max(images, default=-1)] or numeric
    if numeric and len(images) == 2:
        if rows[images[0]].nunique() > rows[images[1]].nunique():  # several versions of each reference
            images.reverse()
        return {"reference": images[0], "distorted": images[1], "score": after[0]}
    if numeric and len(images) == 1 and rows[images[0]].str.fullmatch(_BY_REFERENCE).all():
        return {"distorted": images[0], "score": after[0]}
    if len(used) >= 3 and not images and used[2] in numeric:
        return dict(zip(_NEEDED, used, strict=False))
    raise ValueError(
        f"{path} has {len(used)} columns, of which {len(images)} hold names of images and {len(numeric)} numbers: reference, "
        f"distorted and score are needed, separated by commas, semicolons or tabs. Accepted names of columns: {_ACCEPTED}"
    )


def load_pyiqa(name: str, root: str | os.PathLike[str]) -> Dataset:
    """A full-reference data set by pyiqa's name (``pyiqa.get_dataset_info()``), through pyiqa's own loader.

    Standard deviations come from pyiqa's meta-info file where it has them, types of distortion from the images' names.
    ``root`` holds pyiqa's data sets (its ``data_root``); what is missing there pyiqa downloads.

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
    table = pd.DataFrame([item[:3] for item in dataset.paths_mos], columns=_NEEDED)
    table = table.astype({"reference": str, "distorted": str, "score": float})
    meta: pd.DataFrame | None = getattr(dataset, "meta_info", None)
    column = next((each for each in meta if str(each).lower() in COLUMNS["std"]), None) if meta is not None else None
    if meta is not None and column is not None:
        folder = dataset.opt["dataroot_target"]
        std = {os.path.join(folder, str(path)): float(each) for path, each in zip(meta.iloc[:, 1], meta[column], strict=True)}
        table["std"] = table["distorted"].map(std)
    if name in _DISTORTION:
        table["distortion"] = [_distortion(path, *_DISTORTION[name]) for path in table["distorted"]]
    return Dataset(name, table, lower_is_better)


def _distortion(path: str, pattern: str, names: str) -> str | None:
    found = re.search(pattern, Path(path).as_posix())
    if found is None or not names:
        return found and found[1]
    return dict(enumerate(names.split(", "), 1)).get(int(found[1]), found[1])
