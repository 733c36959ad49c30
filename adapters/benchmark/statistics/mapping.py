"""From scores to the scale of the opinions: the logistic curve that VQEG recommends."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from msds_plugin.adapters.benchmark.statistics.correlation import Array, as_column, as_pair, pearson, rmse, varied


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

    ``scipy.optimize.curve_fit`` starts from VQEG's values (max y, min y, mean x, std x / 4), from softer and steeper slopes and
    from a step in the widest gap between scores; the best end is taken. Where none converges (a curve that has only one of
    its two bends within the data sends the other end to infinity) the fit is repeated with ends and middle held within ten
    standard deviations of the means. Where a straight line is better still, it is returned, and ``reason`` says so.

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
    if not varied(x, y):
        constant = "one image is" if len(x) == 1 else f"{'opinions' if np.ptp(y) == 0 else 'scores'} are all"
        return Mapping("constant", (float(y.mean()),), f"the {constant} the same" if len(x) > 1 else "there is one image only")
    slope, intercept = (float(value) for value in np.polyfit(x - x.mean(), y, 1))
    line = Mapping("linear", (slope, intercept - slope * float(x.mean())))
    if len(x) < 5:
        return Mapping("linear", line.parameters, "fewer than five items")
    fits = list(_fits(x, y))
    if not fits:
        return Mapping("linear", line.parameters, "the logistic fit did not converge")
    best = min(fits, key=lambda fit: rmse(fit(x), y))
    if rmse(best(x), y) > rmse(line(x), y) * (1 + 1e-3):
        return Mapping("linear", line.parameters, "the logistic fit ended worse than a straight line")
    return best


def plcc(prediction: ArrayLike, opinion: ArrayLike) -> float:
    """Pearson's correlation after :func:`fit_mapping`, never negative; NaN for constant values, NaN or fewer than two items."""
    x, y = as_pair(prediction, opinion)
    return pearson(fit_mapping(x, y)(x), y) if varied(x, y) else float("nan")


_Bounds: TypeAlias = tuple[float | Sequence[float], float | Sequence[float]]


def _logistic(x: Array, top: float, bottom: float, middle: float, softness: float) -> Array:
    return np.asarray((top - bottom) / (1 + np.exp(-(x - middle) / softness)) + bottom)


def _fits(x: Array, y: Array) -> Iterator[Mapping]:
    centre, scale, low, span = float(x.mean()), float(x.std()), float(y.mean()), float(y.std())
    u, v = (x - centre) / scale, (y - low) / span  # so that the solver's tolerances mean the same for every metric
    sign = -1.0 if pearson(u, v) < 0 else 1.0
    ordered = np.sort(u)
    gap = int(np.diff(ordered).argmax())
    starts = {
        "VQEG's, falling": (0.0, -0.25),
        "a softer slope": (0.0, sign),
        "a steeper slope": (0.0, 0.05 * sign),
        "a step in the widest gap": (float(ordered[gap : gap + 2].mean()), 0.05 * sign),
    }
    found = {name: _solved(u, v, (v.max(), v.min(), *start)) for name, start in starts.items()}
    own = _solved(x, y, (y.max(), y.min(), centre, scale / 4))  # as it stands, in the units of the scores
    found["VQEG's"] = None if own is None else np.array([0, 0, (own[2] - centre) / scale, own[3] / scale])
    if not any(parameters is not None for parameters in found.values()):
        steepest, softest = (1e-3, 10.0) if sign > 0 else (-10.0, -1e-3)
        bounds = [-10.0, -10.0, -10.0, steepest], [10.0, 10.0, 10.0, softest]
        for softness in (0.25, 1.0):
            found[f"softness {softness}, within bounds"] = _solved(u, v, (v.max(), v.min(), 0.0, sign * softness), bounds)
    for name, parameters in found.items():
        if parameters is None:
            continue
        middle, softness = float(parameters[2]), float(parameters[3])
        share = special.expit((u - middle) / softness)
        if (
            width := float(np.ptp(share))
        ) > 0:  # the best ends for this middle and slope; it may be nearly flat, and be scaled up
            gain, offset = (float(value) for value in np.polyfit((share - share.min()) / width, v, 1))
            gain, offset = gain / width, offset - gain / width * float(share.min())
            ends = sorted((offset * span + low, (offset + gain) * span + low), reverse=True)
            softness = -softness if gain < 0 else softness  # one form of each curve: the top first
            yield Mapping("logistic", (*ends, middle * scale + centre, softness * scale), start=name)


def _solved(x: Array, y: Array, start: Sequence[float], bounds: _Bounds = (-np.inf, np.inf)) -> Array | None:
    """Parameters of :func:`_logistic`; None where the solver does not converge."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", optimize.OptimizeWarning)  # of the covariance, which is not used
            found, _ = optimize.curve_fit(_logistic, x, y, np.clip(start, *bounds), bounds=bounds)
    except (RuntimeError, ValueError):
        return None
    return np.asarray(found) if np.isfinite(found).all() and found[3] != 0 else None
