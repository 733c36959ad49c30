"""From scores to the scale of the opinions: the logistic curve that VQEG recommends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from .correlation import Array, as_column, as_pair, pearson, rmse, varied

#: Of the parameters of :func:`rise` for standard scores. A curve that has only one of its two bends within the data would
#: otherwise send the other end to infinity, and no fit would converge.
RISE_BOUNDS = ((-10.0, 0.0, -10.0, 1e-3), (10.0, 20.0, 10.0, 10.0))


@dataclass(frozen=True)
class Mapping:
    """From a metric's scores to the scale of the opinions; monotonic. Call it with scores.

    Attributes:
        kind: ``logistic``: b2 + (b1 - b2) / (1 + exp(-(x - b3) / b4)); ``linear``: b1 x + b2; ``constant``: b1.
        parameters: b1, b2, ...
        reason: why it is not the logistic; empty if it is.
    """

    kind: Literal["logistic", "linear", "constant"]
    parameters: tuple[float, ...]
    reason: str = ""

    def __call__(self, prediction: ArrayLike) -> Array:
        """Scores on the scale of the opinions."""
        x = as_column(prediction)
        if self.kind == "logistic":
            top, bottom, middle, softness = self.parameters
            return rise(x, np.array([bottom, top - bottom, middle, softness]))[0]
        if self.kind == "linear":
            return self.parameters[0] * x + self.parameters[1]
        return np.full_like(x, self.parameters[0])


def fit_mapping(prediction: ArrayLike, opinion: ArrayLike) -> Mapping:
    """The monotonic logistic of four parameters that VQEG recommends, by least squares.

    It may rise or fall; the sign of the correlation decides. The ends of the curve and its middle stay within ten standard
    deviations of the means. The solver starts from (max y, min y, mean x, ± std x / 4), and once more with a slope four times
    softer; the better of the two is kept. Where neither converges, or the outcome is worse than a straight line, the straight
    line is returned, and ``reason`` says so.

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
        constant = "opinions" if np.ptp(y) == 0 else "scores"
        return Mapping("constant", (float(y.mean()),), f"the {constant} are all the same")
    slope, intercept = (float(value) for value in np.polyfit(x - x.mean(), y, 1))
    line = Mapping("linear", (slope, intercept - slope * float(x.mean())))
    if len(x) < 5:
        return Mapping("linear", line.parameters, "fewer than five items")
    fits = [Mapping("logistic", parameters) for parameters in _logistic_fits(x, y)]
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


def rise(x: Array, parameters: Array) -> tuple[Array, Array]:
    """A logistic curve (which falls where softness is negative), and its derivatives (items, 4) by its parameters."""
    offset, gain, middle, softness = parameters
    steps = (x - middle) / softness
    share = special.expit(steps)
    slope = gain * share * (1 - share) / softness
    return offset + gain * share, np.column_stack([np.ones_like(share), share, -slope, -slope * steps])


def _logistic_fits(x: Array, y: Array) -> Iterator[tuple[float, ...]]:
    # Standard scores on both axes: the optimum is the same, and the solver's tolerances mean the same for every metric.
    centre, scale, low, span = x.mean(), x.std(), y.mean(), y.std()
    u, v = (x - centre) / scale, (y - low) / span
    sign = -1.0 if pearson(u, v) < 0 else 1.0

    def residuals(parameters: Array) -> Array:
        return rise(sign * u, parameters)[0] - v

    def jacobian(parameters: Array) -> Array:
        return rise(sign * u, parameters)[1]

    for softness in (0.25, 1.0):
        start = np.clip((v.min(), np.ptp(v), 0.0, softness), *RISE_BOUNDS)
        fit = optimize.least_squares(residuals, start, jacobian, bounds=RISE_BOUNDS, x_scale="jac", ftol=1e-12)
        if fit.success:
            bottom, gain, middle, width = (float(value) for value in fit.x)
            top = bottom + gain
            yield top * span + low, bottom * span + low, sign * middle * scale + centre, sign * width * scale
