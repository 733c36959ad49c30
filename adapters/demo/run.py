"""The demonstration: scikit-image's photographs, distorted at rising strength, and scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from skimage import data, filters, metrics, transform

from ...backbones import BACKBONES
from ...representation import Representation
from ...weights import hub_path
from ..common.scorer import Scorer
from ..images.read import to_tensor

Photo: TypeAlias = npt.NDArray[np.uint8]

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea")
SIZE = 256
#: Pixels around a photograph that a shift moves into view.
MARGIN = 16


@dataclass(frozen=True)
class Distortion:
    """One kind of distortion.

    Attributes:
        name: as shown in the table.
        unit: format string of a strength with its unit.
        strengths: from mild to severe.
        apply: (photograph with its margin, strength) to the distorted photograph without margin.
        resizes: the result is smaller than the reference.
    """

    name: str
    unit: str
    strengths: tuple[float, ...]
    apply: Callable[[Photo, float], Photo]
    resizes: bool = False


def _inner(photo: Photo) -> Photo:
    return photo[MARGIN:-MARGIN, MARGIN:-MARGIN]


def _to_bytes(image: npt.NDArray[Any]) -> Photo:
    return (image.clip(0, 1) * 255).round().astype(np.uint8)


def _blur(photo: Photo, sigma: float) -> Photo:
    return _inner(_to_bytes(filters.gaussian(photo / 255, sigma, channel_axis=2)))


def _noise(photo: Photo, deviation: float) -> Photo:
    noise = np.random.default_rng(0).normal(0, deviation / 255, _inner(photo).shape)
    return _to_bytes(_inner(photo) / 255 + noise)


def _jpeg(photo: Photo, quality: float) -> Photo:
    file = BytesIO()
    Image.fromarray(_inner(photo)).save(file, "JPEG", quality=int(quality))
    return np.array(Image.open(file))


def _shift(photo: Photo, pixels: float) -> Photo:
    first = MARGIN - int(pixels)
    return photo[first : first + SIZE, first : first + SIZE]


def _crop(photo: Photo, percent: float) -> Photo:
    side = round(SIZE * percent / 100)
    first = (SIZE - side) // 2
    return _inner(photo)[first : first + side, first : first + side]


DISTORTIONS = (
    Distortion("blur", "σ = {:g} px", (0.5, 1, 2, 3, 5), _blur),
    Distortion("noise", "σ = {:g} of 255", (5, 10, 20, 40, 60), _noise),
    Distortion("JPEG", "quality {:g}", (70, 40, 20, 10, 5), _jpeg),
    Distortion("shift", "{:g} px", (1, 2, 4, 8, 16), _shift),
    Distortion("crop", "{:g} % of each side", (95, 90, 80, 65, 50), _crop, resizes=True),
)


def photographs() -> dict[str, Photo]:
    """Three photographs of scikit-image, each 288 x 288 pixels: 256 x 256 and a margin around them."""
    side = SIZE + 2 * MARGIN
    return {name: _square(getattr(data, name)(), side) for name in PHOTOGRAPHS}


def _square(photo: Photo, side: int) -> Photo:
    short = min(photo.shape[:2])
    top, left = ((length - short) // 2 for length in photo.shape[:2])
    return _to_bytes(transform.resize(photo[top : top + short, left : left + short], (side, side), anti_aliasing=True))


def choose_metrics() -> tuple[tuple[str, str], str]:
    """Names of MSDS and DeepSSIM that need no download here, and the reason for that choice of backbone."""
    url = BACKBONES["vgg16"].url
    assert url is not None  # torchvision's weights have one
    path = hub_path(url)
    if path.is_file():
        return ("msds", "deepssim"), f"VGG16, whose weights are in {path.parent}"
    return ("msds-fast", "deepssim-fast"), f"EfficientNet-Lite0, as VGG16's weights ({path.name}) are not in {path.parent}"


def count() -> int:
    """Number of rows that :func:`run` yields."""
    return len(PHOTOGRAPHS) * sum(len(distortion.strengths) for distortion in DISTORTIONS)


def run(scorers: Sequence[Scorer]) -> Iterator[dict[str, Any]]:
    """Score every photograph under every distortion at every strength.

    Args:
        scorers: of metrics that have ``represent`` and ``compare``.

    Yields:
        Rows: ``photo``, ``distortion``, ``level`` (1 is the mildest), ``strength``, one column per scorer, ``SSIM`` and
        ``PSNR`` (dB). SSIM and PSNR are of the distorted image, resized to the reference's size if it has another one.
    """
    for name, photo in photographs().items():
        reference = _inner(photo)
        kept = [_represent(scorer, [reference]) for scorer in scorers]
        for distortion in DISTORTIONS:
            images = [distortion.apply(photo, strength) for strength in distortion.strengths]
            scores = [_compare(scorer, images, it) for scorer, it in zip(scorers, kept, strict=True)]
            for level, (strength, image) in enumerate(zip(distortion.strengths, images, strict=True)):
                row = {"photo": name, "distortion": distortion.name, "level": level + 1, "strength": strength}
                deep = {scorer.name: values[level] for scorer, values in zip(scorers, scores, strict=True)}
                yield {**row, **deep, **_classical(image, reference)}


def _represent(scorer: Scorer, images: Sequence[Photo]) -> Representation:
    assert scorer.representing is not None  # MSDS and DeepSSIM can
    with torch.inference_mode():
        return scorer.representing.represent(torch.cat([to_tensor(image.copy(), scorer.device) for image in images]))


def _compare(scorer: Scorer, images: Sequence[Photo], reference: Representation) -> list[float]:
    assert scorer.representing is not None
    equal = len({image.shape for image in images}) == 1
    batches = [images] if equal else [[image] for image in images]
    with torch.inference_mode():
        parts = [scorer.representing.compare(_represent(scorer, batch), reference) for batch in batches]
    return torch.cat(parts).tolist()


def _classical(distorted: Photo, reference: Photo) -> dict[str, float]:
    if distorted.shape != reference.shape:
        distorted = np.asarray(Image.fromarray(distorted).resize(reference.shape[1::-1], Image.Resampling.BICUBIC))
    return {
        "SSIM": float(metrics.structural_similarity(reference, distorted, channel_axis=2)),
        "PSNR": float(metrics.peak_signal_noise_ratio(reference, distorted)),
    }
