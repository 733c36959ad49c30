"""Weights of the parts of a metric, learned from opinions and drawn towards equal ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from msds_plugin.adapters.benchmark import statistics

Array = NDArray[np.float64]

#: How strongly weights are drawn towards equal ones, to choose from; the first leaves them equal.
STRENGTHS = (float("inf"), 1.0, 0.1, 0.01, 1e-3, 1e-4)
#: Folds of references by which the strength is chosen, at most.
INNER_FOLDS = 5
#: Items from which weights can be learned.
LEAST = 6
#: Of one fit: opinions that have nothing to do with the scores would take thousands.
MOST_STEPS = 100
#: How far the softmax logit of a part may be from that of the first.
_LOGIT_BOUND = 12.0
#: Of offset, gain, middle and softness of the mapping for standard scores. A curve that has only one of its two bends within
#: the data would otherwise send the other end to infinity, and no fit would converge.
_CURVE_BOUNDS = ((-10.0, 0.0, -10.0, 1e-3), (10.0, 20.0, 10.0, 10.0))


def linear(scores: Array, weights: Array) -> tuple[Array, Array]:
    """Fused scores (items,) of the levels of a pyramid, and their slopes (items, parts)."""
    return scores @ weights, scores


@dataclass(frozen=True)
class Geometric:
    r"""How a hybrid fuses what its parts find: :math:`\sum_t w_t \log(1 + d_t/\varepsilon) / \sigma_t` over its terms.

    :math:`w_t` is the sum of the weights of the parts of a term, :math:`d_t` the mean of what they find by these weights.
    ``sizes`` are the numbers of parts of the terms, ``scales`` and ``eps`` are the hybrid's.
    """

    sizes: Sequence[int]
    scales: Sequence[float]
    eps: float

    def __call__(self, scores: Array, weights: Array) -> tuple[Array, Array]:
        """Fused dissimilarities (items,), and their slopes (items, parts)."""
        slopes = np.empty_like(scores)
        end = 0
        for size, scale in zip(self.sizes, self.scales, strict=True):
            columns = slice(end, end := end + size)
            whole = weights[columns].sum()
            shares = weights[columns] / whole if whole > 0 else np.full(size, 1 / size)
            found = scores[:, columns] @ shares
            own = (scores[:, columns] - found[:, None]) / (found[:, None] + self.eps)
            slopes[:, columns] = (np.log1p(found[:, None] / self.eps) + own) / scale
        return slopes @ weights, slopes


@dataclass(frozen=True)
class Problem:
    """Scores of parts beside opinions.

    Attributes:
        scores: (items, parts).
        opinion: (items,).
        opposite: a good metric falls where the opinions rise.
        equal: the weights that others are drawn towards, (parts,), positive, summing to one; None for equal ones.
        combine: how parts become one score, :func:`linear` or :class:`Geometric`.
    """

    scores: Array
    opinion: Array
    opposite: bool = False
    equal: Array | None = None
    combine: Callable[[Array, Array], tuple[Array, Array]] = linear

    @property
    def start(self) -> Array:
        """The weights that others are drawn towards."""
        parts = self.scores.shape[1]
        return np.full(parts, 1 / parts) if self.equal is None else self.equal

    def rows(self, chosen: NDArray[np.bool_]) -> Problem:
        """The same of some of the items."""
        return replace(self, scores=self.scores[chosen], opinion=self.opinion[chosen])

    def fused(self, weights: Array) -> Array:
        """Scores (items,) by these weights."""
        return self.combine(self.scores, weights)[0]


def learn_weights(problem: Problem, strength: float) -> Array:
    r"""The weights whose fused scores have the highest PLCC with the opinions after a logistic mapping.

    .. math:: \min_{z, b}\ \frac1n \sum_i \bigl(b_1 + b_2\,\sigma((s_i(w) - b_3) / b_4) - y_i\bigr)^2
        + \lambda \sum_j \frac{(w_j - p_j)^2}{p_j}, \qquad w = \mathrm{softmax}(z)

    by scipy's bounded least squares from :math:`p`. With the mapping's gain and offset free, the least squared error is the
    highest PLCC. The mapping may only go the way that the metric and the opinions say, so weights cannot profit from a wrong
    direction. The outcome depends on the numbers alone.

    Opinions are brought to a standard deviation of one; :math:`p` is ``problem.start``, :math:`\lambda` is ``strength``,
    infinite for :math:`p` itself. The weights (parts,) are not negative and sum to one.

    Raises:
        ValueError: fewer than six items, or values that are all the same.
    """
    scores, y = problem.scores, problem.opinion
    if len(y) < LEAST:
        raise ValueError(f"{len(y)} scored images are too few to learn {scores.shape[1]} weights: at least {LEAST} are needed")
    if np.ptp(y) == 0 or not np.ptp(scores, axis=0).any():
        raise ValueError(f"weights cannot be learned: the {'opinions' if np.ptp(y) == 0 else 'scores'} are all the same")
    return _Fit(problem, strength).weights


class _Fit:
    """A fit in standard scores, the same for every part, so that the weights mean the same; rising with the opinions."""

    def __init__(self, problem: Problem, strength: float) -> None:
        self.prior = problem.start
        slopes = problem.combine(problem.scores, self.prior)[1]
        self.place, self.scale = float(slopes.mean()), float(slopes.std(0).max()) * (-1.0 if problem.opposite else 1.0)
        self.mean, self.deviation = float(problem.opinion.mean()), float(problem.opinion.std())
        self.problem, self.target = problem, (problem.opinion - self.mean) / self.deviation
        free = 0 if np.isinf(strength) else len(self.prior) - 1
        self.pull = np.sqrt((strength if free else 0.0) * len(self.target) / self.prior)
        low, high = _CURVE_BOUNDS
        fused = (problem.fused(self.prior) - self.place) / self.scale
        curve = np.clip((self.target.min(), np.ptp(self.target), fused.mean(), 0.5), low, high)
        found = optimize.least_squares(
            self._residuals,
            [*np.zeros(free), *curve],
            self._derivatives,
            bounds=([*(-_LOGIT_BOUND,) * free, *low], [*(_LOGIT_BOUND,) * free, *high]),
            x_scale="jac",
            ftol=1e-10,
            max_nfev=MOST_STEPS,
        ).x
        self.weights, self.curve = self._softmax(found[:-4]), found[-4:]

    def _softmax(self, logits: Array) -> Array:
        """Weights; the logits are those of the parts after the first, beyond those of the prior; none for the prior itself."""
        if not len(logits):
            return self.prior
        return np.asarray(special.softmax(np.concatenate([[0.0], logits]) + np.log(self.prior)))

    def _residuals(self, parameters: Array) -> Array:
        """What is to be squared, by logits and curve."""
        weights = self._softmax(parameters[:-4])
        fused = (self.problem.fused(weights) - self.place) / self.scale
        residuals = _rise(fused, parameters[-4:])[0] - self.target
        return np.concatenate([residuals, self.pull * (weights - self.prior)])

    def _derivatives(self, parameters: Array) -> Array:
        free, weights = len(parameters) - 4, self._softmax(parameters[:-4])
        raw, slopes = self.problem.combine(self.problem.scores, weights)
        fused = (raw - self.place) / self.scale
        by_curve = _rise(fused, parameters[-4:])[1]
        by_fused = -by_curve[:, 2:3]  # what moves the middle down moves the scores up
        own = weights[1 : free + 1] * ((slopes[:, 1 : free + 1] - self.place) / self.scale - fused[:, None])
        by_logit = self.pull[:, None] * (np.diag(weights) - np.outer(weights, weights))[:, 1 : free + 1]
        return np.block([[by_fused * own, by_curve], [by_logit, np.zeros((len(weights), 4))]])

    def errors(self, problem: Problem) -> Array:
        """Squared errors (items,) of the opinions predicted for other items."""
        predicted = _rise((problem.fused(self.weights) - self.place) / self.scale, self.curve)[0]
        return np.asarray((predicted - (problem.opinion - self.mean) / self.deviation) ** 2)


def _rise(x: Array, parameters: Array) -> tuple[Array, Array]:
    """A logistic curve, and its derivatives (items, 4) by its parameters."""
    offset, gain, middle, softness = parameters
    steps = (x - middle) / softness
    share = special.expit(steps)
    slope = gain * share * (1 - share) / softness
    return offset + gain * share, np.column_stack([np.ones_like(share), share, -slope, -slope * steps])


def choose_strength(problem: Problem, references: Any, seed: int = statistics.SEED) -> float:
    """How strongly to draw weights towards equal ones, by cross-validation over references.

    The strongest of :data:`STRENGTHS` whose error on references left out is no more than one standard error (of the paired
    difference, over references) above the smallest: so weights leave their equals only where the data insist.
    """
    codes = np.unique(references, return_inverse=True)[1]
    count = int(codes.max()) + 1
    if count < 2:
        return STRENGTHS[0]
    fold = divide(codes, min(INNER_FOLDS, count), seed)
    errors = np.empty((len(codes), len(STRENGTHS)))
    for index in range(fold.max() + 1):
        held = fold == index
        rest = problem.rows(~held)
        if len(rest.opinion) < LEAST or np.ptp(rest.opinion) == 0:
            return STRENGTHS[0]
        for column, strength in enumerate(STRENGTHS):
            errors[held, column] = _Fit(rest, strength).errors(problem.rows(held))
    by_reference = np.stack([errors[codes == code].mean(0) for code in range(count)])
    excess = by_reference - by_reference[:, [int(by_reference.mean(0).argmin())]]
    allowed = excess.mean(0) <= excess.std(0, ddof=1) / np.sqrt(count)
    return STRENGTHS[int(allowed.argmax())]


def divide(codes: NDArray[np.intp], folds: int, seed: int) -> NDArray[np.intp]:
    """The fold of each row; all rows of a reference, by its number, are in one, and the folds hold equally many references."""
    order = np.random.default_rng(seed).permutation(int(codes.max()) + 1)
    return np.asarray((order % folds)[codes])
