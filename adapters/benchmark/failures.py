"""Where a metric fails: the images it judges worst, and whether its error goes with their high frequencies."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
from scipy import fft, signal
from torch import Tensor

from msds_plugin.adapters.benchmark import statistics
from msds_plugin.adapters.benchmark.summary import Scores
from msds_plugin.adapters.images.read import ImageFileError, Reading, decode, is_large, to_tensor

#: Cycles per pixel above which energy counts as high-frequency: half of what a row of pixels can carry.
FREQUENCY = 0.25
#: The share of the images, those with the largest errors, that are looked at as outliers.
OUTLIERS = 0.1


def high_frequency_share(image: Tensor, frequency: float = FREQUENCY) -> float:
    r"""The share of an image's spectral energy above a frequency, whatever its direction.

    .. math:: \sum_{|f| > f_0} P(f) \,/\, \sum_{f \ne 0} P(f)

    with P the power spectrum of the luma (ITU-R BT.601) after its mean is taken away and a Hann window laid over it, so that
    the borders do not count as edges.

    Args:
        image: (1, 3, H, W) or (3, H, W), in [0, 1].
        frequency: f0 in cycles per pixel, between 0 and 0.707 (a diagonal pattern of single pixels); 0.5 is a pattern of
            single rows or columns.

    Returns:
        In [0, 1]; NaN for an image of one colour.
    """
    rgb = image.reshape(3, *image.shape[-2:]).double().cpu().numpy()
    luma = np.tensordot((0.299, 0.587, 0.114), rgb, 1)
    height, width = luma.shape
    window = np.outer(signal.windows.hann(height + 2)[1:-1], signal.windows.hann(width + 2)[1:-1])
    centred = (luma - (luma * window).sum() / window.sum()) * window
    if np.abs(centred).max() < 1e-9:
        return math.nan
    power = np.abs(fft.rfft2(centred)) ** 2
    power[:, 1 : (width + 1) // 2] *= 2  # the half of the spectrum that rfft2 leaves out
    power[0, 0] = 0
    radius = np.hypot(fft.fftfreq(height)[:, None], fft.rfftfreq(width)[None, :])
    return float(power[radius > frequency].sum() / power.sum())


def energies(
    paths: Iterable[str],
    reading: Reading = Reading(),  # noqa: B008 (frozen)
    frequency: float = FREQUENCY,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """:func:`high_frequency_share` of image files, each read once; NaN for one that cannot be read, or not as a whole."""
    unique = list(dict.fromkeys(paths))

    def share(path: str) -> float:
        try:
            return math.nan if is_large(path) else high_frequency_share(to_tensor(decode(path, reading)), frequency)
        except ImageFileError:
            return math.nan

    found: dict[str, float] = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for path, each in zip(unique, pool.map(share, unique), strict=True):
            found[path] = each
            advance()
    return found


def errors(scores: Scores, mappings: Mapping[tuple[str, str], statistics.Mapping]) -> pd.DataFrame:
    """Every scored pair with its ``predicted`` opinion (the score after the mapping) and ``error``, its distance from the
    opinion; worst first.
    """
    scored = scores.table[scores.table["error"].isna()].drop(columns="error")
    parts = []
    for (dataset, metric), rows in scored.groupby(["dataset", "metric"], sort=False):
        predicted = mappings[str(dataset), str(metric)](rows["score"])
        distance = np.abs(predicted - rows["opinion"])
        parts.append(rows.assign(predicted=predicted, error=distance).sort_values("error", ascending=False, kind="stable"))
    return pd.concat(parts, ignore_index=True) if parts else scored.assign(predicted=0.0, error=0.0)


def relations(
    errors: pd.DataFrame, energy: Mapping[str, float], resamples: int = statistics.RESAMPLES, seed: int = statistics.SEED
) -> pd.DataFrame:
    """Whether each metric's errors go with the high-frequency energy of the images.

    Args:
        errors: from :func:`errors`.
        energy: from :func:`energies`, by path, of references and distorted images.
        resamples, seed: of the bootstrap over references.

    Returns:
        One row per data set, metric and image (``reference`` or ``distorted``): ``srcc`` of error and energy, its 95 %
        interval ``low``, ``high``; ``outliers``, the tenth of the pairs with the largest errors (at least one), and how many
        of them are ``above_median`` in energy; ``count``; ``verdict``: ``grows``, ``falls`` (the interval leaves out zero)
        or ``not shown``.
    """
    rows = []
    for (dataset, metric), part in errors.groupby(["dataset", "metric"], sort=False):
        for image in ("reference", "distorted"):
            known = part.assign(share=part[image].map(energy)).dropna(subset="share")
            share = known["share"]
            worst = share.iloc[: math.ceil(OUTLIERS * len(share))]  # the errors come worst first
            low, high = statistics.correlation_interval(known["error"], share, known["reference"], resamples, seed)
            verdict = "grows" if low > 0 else "falls" if high < 0 else "not shown"
            above = int((worst > share.median()).sum())
            found = statistics.srcc(known["error"], share), low, high, len(worst), above, len(known), verdict
            rows.append((dataset, metric, image, *found))
    columns = ["dataset", "metric", "image", "srcc", "low", "high", "outliers", "above_median", "count", "verdict"]
    return pd.DataFrame(rows, columns=columns)
