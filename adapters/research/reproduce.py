"""The published tables, measured again on the data sets that are at hand."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd

from msds_plugin.adapters.benchmark import statistics
from msds_plugin.adapters.benchmark.datasets import Dataset, load_pyiqa
from msds_plugin.adapters.benchmark.report.document import Document, Section, shown
from msds_plugin.adapters.benchmark.report.page import add_unscored
from msds_plugin.adapters.benchmark.runner import Progress, no_progress
from msds_plugin.adapters.benchmark.runner import run as score
from msds_plugin.adapters.benchmark.summary import summarise
from msds_plugin.adapters.scoring import Run
from msds_plugin.errors import MissingDependencyError


class Published(NamedTuple):
    """A metric as it was published: name with options, configuration and source in words, SRCC and PLCC by data set (several
    where listings differ).
    """

    metric: str
    about: str
    srcc: Mapping[str, tuple[float, ...]]
    plcc: Mapping[str, tuple[float, ...]]


class Set(NamedTuple):
    """A data set of the published tables: title, distorted images of the whole set, who gives it away, what to know."""

    title: str
    images: int
    where: str
    note: str = ""


PUBLISHED: Mapping[str, Published] = {
    "msds": Published(
        "msds,backbone=vgg16,layers=relu5_1,levels=3",
        "VGG16, relu5_1, 3 levels with equal weights (the published weights are learned). D. Kang, X.-H. Chen, B. Liu, "
        "K. Zhang, W. Chen, T. Zhao, MSDS: Deep Structural Similarity with Multiscale Representation, 2026, arXiv 2604.19159.",
        {"tid2013": (0.864,), "csiq": (0.955, 0.964), "kadid10k": (0.921,), "live": (0.967,), "pipal": (0.701,)},
        {"tid2013": (0.911,), "live": (0.966,)},
    ),
    "deepssim": Published(
        "deepssim,backbone=vgg16,layers=relu5_1",
        "VGG16, relu5_1, the image itself. K. Zhang, W. Chen, T. Zhao, Z. Wang, Structural Similarity in Deep Features, IEEE "
        "TPAMI 2025, arXiv 2412.19553: no table of it is recorded here, so its figures stand alone.",
        {},
        {},
    ),
}

#: By pyiqa's names, whose layout and meta-info files are expected.
SETS: Mapping[str, Set] = {
    "tid2013": Set("TID2013", 3000, "https://www.ponomarenko.info/tid2013.htm"),
    "csiq": Set("CSIQ", 866, "https://s2.smu.edu/~eclarson/csiq.html"),
    "kadid10k": Set("KADID-10k", 10125, "https://database.mmsp-kn.de/kadid-10k-database.html"),
    "live": Set("LIVE", 779, "https://live.ece.utexas.edu/research/quality/subjective.htm"),
    "pipal": Set(
        "PIPAL",
        23200,
        "https://github.com/HaomingCai/PIPAL-dataset",
        "Opinions are public for the training part only, which is what is scored; the published figure may be of another part.",
    ),
}


@dataclass(frozen=True)
class Found:
    """What there is of a data set: pyiqa's name, how much, the pairs whose two images are there, what a reader has to know."""

    name: str
    state: Literal["whole", "partial", "missing"]
    data: Dataset | None
    note: str


def look(name: str, root: Path) -> Found:
    """Look for a data set of :data:`SETS` under the folder of pyiqa's data sets, without downloading anything."""
    try:
        import pyiqa
    except ImportError as error:
        raise MissingDependencyError(f"the data sets are read by pyiqa ({error}): pip install 'msds-plugin[pyiqa]'") from error
    known = SETS[name]
    where = f"{known.title} is to be had from {known.where}, or through pyiqa's load_dataset({name!r})"

    def missing(reason: str) -> Found:
        return Found(name, "missing", None, f"{known.title} is missing: {reason}.")

    info: dict[str, Any] = pyiqa.get_dataset_info()[name]
    # pyiqa's paths begin with its default folder for data sets.
    named = {key: root.joinpath(*Path(info[key]).parts[1:]) for key in info if key.startswith(("dataroot", "meta_info"))}
    absent = [str(path) for path in named.values() if not path.exists()]
    if absent:
        return missing(f"no {', '.join(absent)}; {where}, which also brings the meta-info file")
    try:
        data = load_pyiqa(name, str(root))
    except Exception as error:  # pyiqa and pandas fail in many ways on a file that is not what its name says
        return missing(f"{named['meta_info_file']} cannot be used ({type(error).__name__}: {error}); {where}")
    table = data.table
    exists = {path: Path(path).is_file() for path in {*table["reference"], *table["distorted"]}}
    there = table["reference"].map(exists) & table["distorted"].map(exists)
    if there.all():
        said = [f"{known.title} has {len(table)} images here, {known.images} in the whole set."] * (len(table) != known.images)
        return Found(name, "whole", data, " ".join([*said, *([f"{known.title}: {known.note}"] if known.note else [])]))
    lost = next(path for path in (*table["reference"], *table["distorted"]) if not exists[path])
    reason = f"{int((~there).sum())} of {len(table)} pairs cannot be used, the first for want of {lost}; {where}"
    if not there.any():
        return missing(reason)
    part = Dataset(data.name, table[there].reset_index(drop=True), data.lower_is_better)
    note = f"{known.title} is there in part, so its figures are not those of the whole set: {reason}."
    return Found(name, "partial", part, note)


@dataclass(frozen=True)
class Reproduction:
    """Published figures with those measured here.

    Attributes:
        table: one row per metric, data set, statistic (``srcc``, ``plcc``): ``state`` of the set, ``images``, ``measured`` with
            ``low`` and ``high`` (95 % over references), ``published`` (the nearest listing, NaN where there is none),
            ``difference``, ``inside`` (whether the interval holds the published figure; None where that is not known).
        found: what there is of each data set.
        failures: pairs without a score: ``distorted``, ``metric``, ``error``.
        notes: what a reader has to know.
    """

    table: pd.DataFrame
    found: tuple[Found, ...]
    failures: pd.DataFrame
    notes: tuple[str, ...]


def reproduce(
    which: str,
    data_root: str | os.PathLike[str],
    sets: Sequence[str] = tuple(SETS),
    results: str | Path | None = None,
    run: Run = Run(),  # noqa: B008 (frozen)
    progress: Progress = no_progress,
    resamples: int = statistics.RESAMPLES,
    seed: int = statistics.SEED,
) -> Reproduction:
    """Measure the published configuration on the data sets that lie under a folder. Nothing is downloaded but weights.

    Args:
        which: ``msds``, ``deepssim`` or ``all``.
        data_root: the folder that holds data sets in pyiqa's layout, ``meta_info`` among them.
        sets: pyiqa's names, of :data:`SETS`.
        results, run, progress: as for :func:`~msds_plugin.adapters.benchmark.run`.
        resamples, seed: of the bootstrap over references.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: another name of a metric or set.
        MissingDependencyError: pyiqa is not installed.
        WeightsNotFoundError: VGG16's weights are not to be had.
    """
    if which != "all" and which not in PUBLISHED:
        raise ValueError(f"nothing published is known of {which!r}: choose {', '.join(PUBLISHED)} or all")
    unknown = [name for name in sets if name not in SETS]
    if unknown or not sets:
        raise ValueError(f"no data set {', '.join(unknown) or 'given'}: choose from {', '.join(SETS)}")
    if not Path(data_root).is_dir():
        raise FileNotFoundError(f"no folder {data_root}: give the folder that holds the data sets")
    chosen = list(PUBLISHED) if which == "all" else [which]
    found = tuple(look(name, Path(data_root)) for name in sets)
    here = [each.data for each in found if each.data is not None]
    measured = failures = pd.DataFrame()
    if here:
        scores = score([PUBLISHED[name].metric for name in chosen], here, results, run, progress).scores
        measured, failures = summarise(scores, resamples=resamples, seed=seed).table, scores.failures
        measured["metric"] = measured["metric"].map(dict(zip(scores.metrics, chosen, strict=True)))
    rows = [row for name in chosen for each in found for row in _rows(name, each, measured)]
    notes = [f"{name}: {PUBLISHED[name].about}" for name in chosen] + [each.note for each in found if each.note]
    columns = ["metric", "dataset", "statistic", "state", "images", "measured", "low", "high", "published", "difference"]
    return Reproduction(pd.DataFrame(rows, columns=[*columns, "inside"]), found, failures, tuple(notes))


def _rows(name: str, found: Found, measured: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    own: dict[Any, Any] = {}
    if found.data is not None:
        own = measured[(measured["metric"] == name) & (measured["dataset"] == found.name)].iloc[0].to_dict()
    for statistic in ("srcc", "plcc"):
        value, low, high = (own.get(f"{statistic}{end}", float("nan")) for end in ("", "_low", "_high"))
        listed = getattr(PUBLISHED[name], statistic).get(found.name, ())
        nearest = min(listed, key=lambda one: abs(one - value) if value == value else 0, default=float("nan"))
        known = found.state == "whole" and bool(listed) and low == low
        inside = bool(low <= nearest <= high) if known else None
        images = int(own.get("count", 0))
        yield name, found.name, statistic, found.state, images, value, low, high, nearest, value - nearest, inside


def table(made: Reproduction) -> Section:
    """Measured beside published."""
    titles = [SETS[name].title for name in made.table["dataset"]]
    named = made.table.assign(dataset=titles, statistic=made.table["statistic"].str.upper())
    named = named.rename(columns={"low": "measured_low", "high": "measured_high"})
    texts = {"metric": "metric", "dataset": "data set", "statistic": "statistic", "state": "state"}
    figures = {"images": "images", "measured": "measured", "published": "published", "difference": "difference"}
    return shown(named, texts | figures | {"inside": "interval holds it"}, 5, signed="difference")


def write_report(made: Reproduction, directory: str | os.PathLike[str]) -> Path:
    """Write ``report.html``, ``report.md`` and ``reproduction.csv``; the path of the page."""
    page = Document("The published tables, measured again", ", ".join(each.name for each in made.found))
    page.tables["reproduction"] = made.table
    page.heading("Published and measured")
    page.notes(made.notes)
    page.section(table(made))
    if len(made.failures):
        add_unscored(page, made.failures, "failures.csv")
        page.tables["failures"] = made.failures
    return page.write(directory)
