"""From sums to a policy: the posterior of a Bayesian linear model for each slot kind.

A reward is y = θᵀx + c + noise, in points of the kind's score; the prior of θ is normal about today's weights, with
precision λI, and that of the level c is flat, as no choice depends on it. Prior and noise are undiscounted constants:
A = λI + Σγ^(T-t)(x - x̄)(x - x̄)ᵀ/σ². With nothing seen A is λI, so an item of a kind that nobody has seen has the
prior's width. Each posterior is factorized anew, so no error builds up from one to the next.

How far the prior's mean is to be believed is itself learned, by kind: its precision is the one under which what was
seen is most probable (empirical Bayes). Where today's weights predict what people do, little moves them; where they do
not, they are left soon. The widths keep the precision that is given: what nobody has seen is tried as boldly, whatever
others taught.

Source: Bishop, Pattern Recognition and Machine Learning, equations 3.50 and 3.51, and of the evidence 3.86; with one
matrix of the data for mean and width, as Russac, Vernade & Cappé 2019 (D-LinUCB) have it with two.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recommendation_service.policies.policy import Learned

Floats = npt.NDArray[np.float64]


class Model(NamedTuple):
    """What is the same for all times; of K kinds and d features."""

    mean: Floats  # (K, d) the prior's
    precision: float  # λ, of one point of the score
    factor: float  # the precision of the mean is looked for so much above and below; 1: it is the one given
    points: Floats  # (K,) of the score, that a reward of 1 is worth
    noise: float  # standard deviation of a reward


# Precisions that are tried; and what is to be expected of one before anything is seen: within ten times of the given.
_TRIED = 41
_EXPECTED = np.log(10.0)


class _Seen(NamedTuple):
    """Of a kind, in points of its score and per variance of a reward, about the means: the level is whatever it is."""

    squares: Floats  # (d, d)
    products: Floats  # (d,)


def posterior(sums: Floats, model: Model) -> Learned:
    """``sums`` (K, d + 2, d + 2): of z = (x, 1, r), at the time that the posterior is of."""
    theta, A = np.empty_like(model.mean), np.empty((len(sums), *2 * model.mean.shape[1:]))
    for kind, precision in enumerate(mean_precisions(sums, model)):
        mean, (squares, products) = model.mean[kind], _seen(sums, model, kind)
        A[kind] = model.precision * np.eye(len(mean)) + squares
        believed = np.linalg.cholesky(_prior(mean, precision) + squares)
        theta[kind] = mean + np.linalg.solve(believed.T, np.linalg.solve(believed, products - squares @ mean))
    return Learned(theta, A)


def mean_precisions(sums: Floats, model: Model) -> Floats:
    """(K,) λ of the prior's mean.

    Under y - Xμ ~ N(0, σ²I + XPXᵀ), P being the prior's covariance, the log density of what was seen is, but for a
    constant, ½(qᵀ(P⁻¹ + S)⁻¹q - log|I + PS|), of S = XᵀX/σ² and q = Xᵀ(y - Xμ)/σ².
    """
    factors = np.geomspace(1 / model.factor, model.factor, _TRIED)
    found = np.full(len(sums), model.precision)
    for kind, mean in enumerate(model.mean):
        squares, products = _seen(sums, model, kind)
        if not squares.any() or model.factor == 1.0:
            continue
        # P⁻¹ is λI but for the direction of μ, so one decomposition of S serves all λ (Sherman & Morrison 1950).
        precisions = model.precision * factors
        length, shrunk = float(mean @ mean), _shrunk(mean, precisions)
        of_seen, directions = np.linalg.eigh(squares)
        q, mu = directions.T @ (products - squares @ mean), directions.T @ mean
        widths = 1 / (precisions[:, np.newaxis] + np.maximum(of_seen, 0.0))
        left = 1 - shrunk * (widths @ mu**2)
        explained = widths @ q**2 + shrunk * (widths @ (q * mu)) ** 2 / left
        of_prior = len(mean) * np.log(precisions) - np.log1p(precisions * length)
        wider = np.log(left) - np.log(widths).sum(axis=1) - of_prior
        likely = (explained - wider - (np.log(factors) / _EXPECTED) ** 2) / 2
        found[kind] = precisions[np.argmax(likely)]
    return found


def _shrunk(mean: Floats, precision: float | Floats) -> float | Floats:
    """What the length's being uncertain takes from the precision in the mean's direction, per square of its length."""
    return precision**2 / (1 + precision * float(mean @ mean))


def _prior(mean: Floats, precision: float) -> Floats:
    """(d, d) the inverse of I/λ + μμᵀ. Besides being as uncertain in all directions, the prior's mean is uncertain in
    its length by as much as that is. How many points a reward is worth is a guess, and no order follows from it."""
    return np.asarray(precision * np.eye(len(mean)) - _shrunk(mean, precision) * np.outer(mean, mean))


def believed_matrices(sums: Floats, model: Model) -> Floats:
    """(K, d, d) those that the means follow from: what is still unknown of them."""
    precisions = mean_precisions(sums, model)
    return np.array([_prior(model.mean[k], precisions[k]) + _seen(sums, model, k).squares for k in range(len(sums))])


def _seen(sums: Floats, model: Model, kind: int) -> _Seen:
    d, points = model.mean.shape[1], model.points[kind]
    total, variance = sums[kind], (points * model.noise) ** 2
    squares, products, count = total[:d, :d], total[:d, d + 1], total[d, d]
    if count > 0:
        squares = squares - np.outer(total[:d, d], total[d, :d]) / count
        products = products - total[:d, d] * total[d, d + 1] / count
    return _Seen((squares + squares.T) / (2 * variance), points * products / variance)
