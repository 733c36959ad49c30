"""From scores to the scale of the opinions: the logistic curve that VQEG recommends."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, signal, special

from msds_plugin.adapters.benchmark.statistics.correlation import Array, as_column, as_pair, pearson, rmse, varied

#: Middles, at least, and softness of the curves that are tried, in standard deviations of the scores.
_FARTHEST, _STEEPEST, _SOFTEST = 10.0, 1e-3, 10.0
#: How many of the minima on the grid are refined.
_REFINED = 5


@dataclass(frozen=True)
class Mapping:
    """From a metric's scores to the scale of the opinions; monotonic. Call it with scores.

    Attributes:
        kind: ``logistic``: b2 + (b1 - b2) / (1 + exp(-(x - b3) / b4)); ``linear``: b1 x + b2; ``constant``: b1.
        parameters: b1, b2, ...
        reason: why it is not the logistic; empty if it is.
        start: from which start the logistic was found.
    """

    kind: Literal["logistic", "linear", "constant"]
    parameters: tuple[float, ...]
    reason: str = ""
    start: str = ""

    def __call__(self, prediction: ArrayLike) -> Array:
        """Scores on the scale of the opinions."""
        x = as_column(prediction)
        if self.kind == "logistic":
            top, bottom, middle, softness = self.parameters
            return np.asarray(bottom + (top - bottom) * special.expit((x - middle) / softness))
        if self.kind == "linear":
            return self.parameters[0] * x + self.parameters[1]
        return np.full_like(x, self.parameters[0])


def fit_mapping(prediction: ArrayLike, opinion: ArrayLike) -> Mapping:
    """The monotonic logistic of four parameters that VQEG recommends, by least squares; it may rise or fall.

    Fitted by scipy's ``curve_fit`` from VQEG's start (max y, min y, mean x, std x / 4), and from the minima on a grid of
    middles and slopes, as the squared error has several where scores are few or form clusters; the best is taken. Where a
    straight line is better still, it is returned, and ``reason`` says so.

    Args:
        prediction: scores of a metric, finite.
        opinion: opinion scores, finite, as many.

    Raises:
        ValueError: different lengths, nothing at all, or values that are not finite.

    Source: VQEG, "Final report from the Video Quality Experts Group on the validation of objective models of video quality
    assessment", 2000; the same curve as pyiqa's ``logistic_4params``.
    """
    x, y = as_pair(prediction, opinion)
    if not len(x) or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("a mapping needs finite scores, and at least one")
    if len(x) == 1:
        return Mapping("constant", (float(y[0]),), "there is one image only")
    if not varied(x, y):
        return Mapping("constant", (float(y.mean()),), f"the {'opinions' if np.ptp(y) == 0 else 'scores'} are all the same")
    slope, intercept = (float(value) for value in np.polyfit(x - x.mean(), y, 1))
    line = slope, intercept - slope * float(x.mean())
    if len(x) < 5:
        return Mapping("linear", line, "fewer than five items")

    def error(fit: Mapping) -> float:  # VQEG's is taken unless another is better by more than rounding
        return rmse(fit(x), y) * (1 if fit.start == "VQEG's" else 1 + 1e-6)

    best = min(_fits(x, y), key=error, default=None)
    if best is None or rmse(best(x), y) > rmse(Mapping("linear", line)(x), y) * (1 + 1e-3):
        return Mapping("linear", line, "the logistic fit ended worse than a straight line")
    return best


def plcc(prediction: ArrayLike, opinion: ArrayLike) -> float:
    """Pearson's correlation after :func:`fit_mapping`, never negative; NaN for constant values, NaN or fewer than two items."""
    x, y = as_pair(prediction, opinion)
    return pearson(fit_mapping(x, y)(x), y) if varied(x, y) else float("nan")


def _fits(x: Array, y: Array) -> Iterator[Mapping]:
    u, v = (x - x.mean()) / x.std(), (y - y.mean()) / y.std()  # so that tolerances mean the same for every metric
    places = [("a grid's", middle, softness) for middle, softness in _by_grid(u, v)]
    if (found := _by_vqeg(x, y)) is not None:
        places.append(("VQEG's", (found[0] - x.mean()) / x.std(), found[1] / x.std()))
    for start, middle, softness in places:
        share = special.expit((u - middle) / softness)
        width = float(np.ptp(share))
        if width == 0:
            continue
        # The best ends for this middle and slope; the share may be nearly flat, and is scaled up.
        gain, offset = (float(value) for value in np.polyfit((share - share.min()) / width, v, 1))
        gain, offset = gain / width, offset - gain / width * float(share.min())
        ends = sorted((float(end * y.std() + y.mean()) for end in (offset, offset + gain)), reverse=True)
        softness = -softness if gain < 0 else softness  # one form of each curve: the top first
        yield Mapping("logistic", (*ends, float(middle * x.std() + x.mean()), float(softness * x.std())), start=start)


def _by_vqeg(x: Array, y: Array) -> tuple[float, float] | None:
    """Middle and softness found from VQEG's start; None where the solver does not converge."""

    def logistic(x: Array, top: float, bottom: float, middle: float, softness: float) -> Array:
        return np.asarray((top - bottom) / (1 + np.exp(-(x - middle) / softness)) + bottom)

    start = (y.max(), y.min(), x.mean(), x.std() / 4)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", optimize.OptimizeWarning)  # of the covariance, which is not used
            found, _ = optimize.curve_fit(logistic, x, y, start)
    except (RuntimeError, ValueError):
        return None
    return (float(found[2]), float(found[3])) if np.isfinite(found).all() and found[3] != 0 else None


def _by_grid(u: Array, v: Array) -> Iterator[tuple[float, float]]:
    """Middles and softness where the squared error of standard scores has a minimum, from the lowest minima on a grid."""
    inside, far = np.unique(np.quantile(u, np.linspace(0, 1, 41))), max(_FARTHEST, float(np.abs(u).max()))
    middles = np.unique(np.concatenate([inside, (inside[1:] + inside[:-1]) / 2, np.linspace(-far, far, 21)]))
    softness = np.geomspace(_STEEPEST, _SOFTEST, 25)
    errors = np.stack([_squared_error(u, v, middles, each) for each in softness])
    lowest = errors.min(0)

    def error(at: Array) -> float:
        return float(_squared_error(u, v, at[:1], float(np.exp(at[1])))[0])

    minima = signal.find_peaks(-np.pad(lowest, 1, constant_values=np.inf))[0] - 1
    for column in minima[np.argsort(lowest[minima])][:_REFINED]:
        best = np.array([middles[column], np.log(softness[errors[:, column].argmin()])], dtype=np.float64)
        limits = [(-far, far), (float(np.log(_STEEPEST)), float(np.log(_SOFTEST)))]
        found = optimize.minimize(error, best, method="Nelder-Mead", bounds=limits, tol=1e-8)
        yield float(found.x[0]), float(np.exp(found.x[1]))


def _squared_error(u: Array, v: Array, middles: Array, softness: float) -> Array:
    """Mean squared error of curves of these middles with their best ends, of standard scores and opinions."""
    share = special.expit((u[:, None] - middles) / softness)
    share -= share.mean(0)
    power, common = (share**2).mean(0), v @ share / len(v)
    return np.asarray(1 - np.divide(common**2, power, out=np.zeros_like(power), where=power > 1e-30))
