"""What was published, on which data sets, with which configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MSDS = (
    "D. Kang, X.-H. Chen, B. Liu, K. Zhang, W. Chen, T. Zhao, MSDS: Deep Structural Similarity with Multiscale Representation, "
    "2026, arXiv 2604.19159"
)
DEEPSSIM = (
    "K. Zhang, W. Chen, T. Zhao, Z. Wang, Structural Similarity in Deep Features, IEEE TPAMI 2025, arXiv 2412.19553: no table "
    "of it is recorded here, so its figures stand alone"
)


@dataclass(frozen=True)
class Published:
    """A metric as it was published.

    Attributes:
        metric: by name, with the published options.
        configuration: in words.
        source: where it was published.
        srcc, plcc: by data set; several where listings differ.
    """

    metric: str
    configuration: str
    source: str
    srcc: Mapping[str, tuple[float, ...]]
    plcc: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Set:
    """A data set of the published tables.

    Attributes:
        title: as written in tables.
        images: distorted images of the whole set, in pyiqa's table.
        where: who gives it away.
        note: what to know when reading the figures.
    """

    title: str
    images: int
    where: str
    note: str = ""


PUBLISHED: Mapping[str, Published] = {
    "msds": Published(
        "msds,backbone=vgg16,layers=relu5_1,levels=3",
        "VGG16, relu5_1, 3 levels with equal weights (the published weights are learned)",
        MSDS,
        {"tid2013": (0.864,), "csiq": (0.955, 0.964), "kadid10k": (0.921,), "live": (0.967,), "pipal": (0.701,)},
        {"tid2013": (0.911,), "live": (0.966,)},
    ),
    "deepssim": Published("deepssim,backbone=vgg16,layers=relu5_1", "VGG16, relu5_1, the image itself", DEEPSSIM, {}, {}),
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
