"""Weights of the parts of a metric, learned from opinions and drawn towards equal ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from msds_plugin.adapters.benchmark import statistics

Array = NDArray[np.float64]

#: How strongly weights are drawn towards equal ones, to choose from; the first leaves them equal.
STRENGTHS = (float("inf"), 1.0, 0.1, 0.01, 1e-3, 1e-4)
#: Folds of references by which the strength is chosen, at most.
INNER_FOLDS = 5
#: Of one fit: opinions that have nothing to do with the scores would take thousands.
MOST_STEPS = 100
#: How far the softmax logit of a part may be from that of the first.
_LOGIT_BOUND = 12.0


#: Of the parameters of :func:`_rise` for standard scores. A curve that has only one of its two bends within the data would
#: otherwise send the other end to infinity, and no fit would converge.
_RISE_BOUNDS = ((-10.0, 0.0, -10.0, 1e-3), (10.0, 20.0, 10.0, 10.0))


def linear(scores: Array, weights: Array) -> tuple[Array, Array]:
    """Fused scores (items,) of the levels of a pyramid, and their slopes (items, parts)."""
    return scores @ weights, scores


@dataclass(frozen=True)
class Geometric:
    r"""How a hybrid fuses what its parts find: :math:`\sum_t w_t \log(1 + d_t/\varepsilon) / \sigma_t` over its terms.

    :math:`w_t` is the sum of the weights of the parts of a term, :math:`d_t` the mean of what they find by these weights.

    Attributes:
        sizes: number of parts of each term.
        scales: of each term.
        eps: of the hybrid.
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


Combine = Callable[[Array, Array], tuple[Array, Array]]


@dataclass(frozen=True)
class Problem:
    """Scores of parts beside opinions.

    Attributes:
        scores: (items, parts).
        opinion: (items,).
        opposite: a good metric falls where the opinions rise.
        equal: the weights that others are drawn towards, (parts,), positive, summing to one; None for equal ones.
        combine: how parts become one score.
    """

    scores: Array
    opinion: Array
    opposite: bool = False
    equal: Array | None = None
    combine: Combine = field(default=linear)

    @property
    def start(self) -> Array:
        """The weights that others are drawn towards."""
        count = self.scores.shape[1]
        return np.full(count, 1 / count) if self.equal is None else self.equal

    def rows(self, chosen: NDArray[np.bool_]) -> Problem:
        """The same of some of the items."""
        return Problem(self.scores[chosen], self.opinion[chosen], self.opposite, self.equal, self.combine)

    def fused(self, weights: Array) -> Array:
        """Scores (items,) by these weights."""
        return self.combine(self.scores, weights)[0]


def learn_weights(
    level_scores: ArrayLike,
    opinion: ArrayLike,
    opposite: bool = False,
    strength: float = 0.0,
    equal: ArrayLike | None = None,
    combine: Combine = linear,
) -> Array:
    r"""The weights whose fused scores have the highest PLCC with the opinions after a logistic mapping.

    .. math:: \min_{z, b}\ \frac1n \sum_i \bigl(b_2 + (b_1 - b_2)\,\sigma((s_i(w) - b_3) / b_4) - y_i\bigr)^2
        + \lambda \sum_j \frac{(w_j - p_j)^2}{p_j}, \qquad w = \mathrm{softmax}(z)

    by bounded least squares. With the mapping's gain and offset free, the least squared error is the highest PLCC. The mapping
    may only go the way that the metric and the opinions say, so weights cannot profit from a wrong direction. Without
    :math:`\lambda` the fit starts from equal weights and from each part in turn, and the best end is taken; with it, from equal
    weights. The outcome depends on the numbers alone.

    Args:
        level_scores: (items, parts).
        opinion: (items,); they are brought to a standard deviation of one.
        opposite: a good metric falls where the opinions rise.
        strength: :math:`\lambda`; infinite for ``equal`` itself.
        equal: :math:`p`, (parts,), positive, summing to one; None for equal weights.
        combine: how parts become one score, :func:`linear` or :class:`Geometric`.

    Returns:
        (parts,), non-negative, summing to one.

    Raises:
        ValueError: fewer items than unknowns (parts + 3, with a strength 6), values that are not finite, or that are all the
            same.

    Source of the mapping: VQEG, 2000, as in :func:`statistics.fit_mapping`.
    """
    prior = None if equal is None else np.asarray(equal, dtype=np.float64)
    problem = Problem(
        np.asarray(level_scores, dtype=np.float64),
        np.asarray(opinion, dtype=np.float64).reshape(-1),
        opposite,
        prior,
        combine,
    )
    _check(problem, strength)
    return _Fit.of(problem, strength).weights


def _check(problem: Problem, strength: float) -> None:
    scores, y = problem.scores, problem.opinion
    if scores.ndim != 2 or len(scores) != len(y):
        raise ValueError(f"level scores must be (items, levels) for {len(y)} opinions, got shape {scores.shape}")
    count = scores.shape[1]
    least = 6 if strength else count + 3
    if len(y) < least:
        raise ValueError(f"{len(y)} scored images are too few to learn {count} weights: at least {least} are needed")
    if not (np.isfinite(scores).all() and np.isfinite(y).all()):
        raise ValueError("weights can only be learned from finite scores and opinions")
    if np.ptp(y) == 0 or not np.ptp(scores, axis=0).any():
        raise ValueError(f"weights cannot be learned: the {'opinions' if np.ptp(y) == 0 else 'scores'} are all the same")


@dataclass(frozen=True)
class _Fit:
    """A fit in standard scores, the same for every part, so that the weights mean the same; rising with the opinions."""

    weights: Array
    curve: Array
    place: float
    scale: float
    sign: float
    opinion_place: float
    opinion_scale: float

    @staticmethod
    def of(problem: Problem, strength: float) -> _Fit:
        slopes = problem.combine(problem.scores, problem.start)[1]
        place, scale = float(slopes.mean()), float(slopes.std(0).max())
        sign = -1.0 if problem.opposite else 1.0
        mean, deviation = float(problem.opinion.mean()), float(problem.opinion.std())
        target = (problem.opinion - mean) / deviation
        prior, free = problem.start, 0 if np.isinf(strength) else problem.scores.shape[1] - 1
        pull = np.sqrt(strength * len(target) / prior) if free else np.empty(0)

        def predicted(parameters: Array) -> tuple[Array, Array]:
            weights = _softmax(parameters[:-4], prior)
            raw, raw_slopes = problem.combine(problem.scores, weights)
            fused = (raw - place) / scale * sign
            values, by_curve = _rise(fused, parameters[-4:])
            by_fused = -by_curve[:, 2:3]  # what moves the middle down moves the scores up
            own = weights[1 : free + 1] * ((raw_slopes[:, 1 : free + 1] - place) / scale * sign - fused[:, None])
            return values, np.hstack([by_fused * own, by_curve])

        def residuals(parameters: Array) -> Array:
            weights = _softmax(parameters[:-4], prior)
            drawn = pull * (weights - prior) if free and strength else np.empty(0)
            return np.concatenate([predicted(parameters)[0] - target, drawn])

        def jacobian(parameters: Array) -> Array:
            slopes = predicted(parameters)[1]
            if not (free and strength):
                return slopes
            weights = _softmax(parameters[:-4], prior)
            by_logit = (np.diag(weights) - np.outer(weights, weights))[:, 1:]
            return np.vstack([slopes, np.hstack([pull[:, None] * by_logit, np.zeros((len(weights), 4))])])

        low, high = _RISE_BOUNDS
        bounds = ([*(-_LOGIT_BOUND,) * free, *low], [*(_LOGIT_BOUND,) * free, *high])
        fits = []
        for logits in _starts(free, strength):
            fused = (problem.fused(_softmax(logits, prior)) - place) / scale * sign
            curve = np.clip((target.min(), np.ptp(target), fused.mean(), 0.5), low, high)
            start = [*logits, *curve]
            fits.append(
                optimize.least_squares(
                    residuals, start, jacobian, bounds=bounds, x_scale="jac", ftol=1e-10, max_nfev=MOST_STEPS
                )
            )
        best = min(fits, key=lambda fit: fit.cost).x
        return _Fit(_softmax(best[:-4], prior), best[-4:], place, scale, sign, mean, deviation)

    def errors(self, problem: Problem) -> Array:
        """Squared errors (items,) of the opinions predicted for other items."""
        fused = (problem.fused(self.weights) - self.place) / self.scale * self.sign
        predicted = _rise(fused, self.curve)[0]
        return np.asarray((predicted - (problem.opinion - self.opinion_place) / self.opinion_scale) ** 2)


def _rise(x: Array, parameters: Array) -> tuple[Array, Array]:
    """A logistic curve, and its derivatives (items, 4) by its parameters."""
    offset, gain, middle, softness = parameters
    steps = (x - middle) / softness
    share = special.expit(steps)
    slope = gain * share * (1 - share) / softness
    return offset + gain * share, np.column_stack([np.ones_like(share), share, -slope, -slope * steps])


def _softmax(logits: Array, prior: Array) -> Array:
    """Weights; the logits are those of the parts after the first, beyond those of ``prior``; none for ``prior`` itself."""
    if not len(logits):
        return prior
    return np.asarray(special.softmax(np.concatenate([[0.0], logits]) + np.log(prior)))


def _starts(free: int, strength: float) -> list[Array]:
    if strength or not free:
        return [np.zeros(free)]
    return [np.zeros(free), *((2.0 * row[1:] - 2.0 * row[0]) for row in np.eye(free + 1))]


def choose_strength(problem: Problem, references: Any, seed: int = statistics.SEED) -> float:
    """How strongly to draw weights towards equal ones, by cross-validation over references.

    The strongest of :data:`STRENGTHS` whose error on references left out is no more than one standard error (of the paired
    difference, over references) above the smallest: so weights leave their equals only where the data insist.
    """
    codes = np.unique(references, return_inverse=True)[1]
    count = int(codes.max()) + 1
    folds = min(INNER_FOLDS, count)
    if folds < 2:
        return STRENGTHS[0]
    fold = divide(codes, folds, seed)
    errors = np.empty((len(codes), len(STRENGTHS)))
    for index in range(folds):
        held = fold == index
        rest = problem.rows(~held)
        if len(rest.opinion) < 6 or np.ptp(rest.opinion) == 0:
            return STRENGTHS[0]
        for column, strength in enumerate(STRENGTHS):
            errors[held, column] = _Fit.of(rest, strength).errors(problem.rows(held))
    by_reference = np.stack([errors[codes == code].mean(0) for code in range(count)])
    excess = by_reference - by_reference[:, [int(by_reference.mean(0).argmin())]]
    allowed = excess.mean(0) <= excess.std(0, ddof=1) / np.sqrt(count)
    return STRENGTHS[int(allowed.argmax())]


def divide(codes: NDArray[np.intp], folds: int, seed: int) -> NDArray[np.intp]:
    """The fold of each row; all rows of a reference, by its number, are in one, and the folds hold equally many references."""
    order = np.random.default_rng(seed).permutation(int(codes.max()) + 1)
    return np.asarray((order % folds)[codes])
