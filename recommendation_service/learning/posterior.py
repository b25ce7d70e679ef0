"""From sums to a policy: the posterior of a Bayesian linear model for each slot kind.

A reward is y = θᵀx + c + noise, in points of the kind's score; the prior of θ is normal about today's weights, with
precision λI, and that of the level c is flat, as no choice depends on it. Prior and noise are undiscounted constants:
A = λI + Σγ^(T-t)(x - x̄)(x - x̄)ᵀ/σ². With nothing seen A is λI, so an item of a kind that nobody has seen has the
prior's width. Each posterior is factorized anew, so no error builds up from one to the next.

Source: Bishop, Pattern Recognition and Machine Learning, equations 3.50 and 3.51; with one matrix for mean and width,
as Russac, Vernade & Cappé 2019 (D-LinUCB) have it with two.
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
    points: Floats  # (K,) of the score, that a reward of 1 is worth
    noise: float  # standard deviation of a reward


def posterior(sums: Floats, model: Model) -> Learned:
    """``sums`` (K, d + 2, d + 2): of z = (x, 1, r), at the time that the posterior is of."""
    d = model.mean.shape[1]
    theta, A = np.empty_like(model.mean), np.empty((len(sums), d, d))
    for kind, (total, mean, points) in enumerate(zip(sums, model.mean, model.points, strict=True)):
        variance = (points * model.noise) ** 2
        squares, products = total[:d, :d], total[:d, d + 1]
        count = total[d, d]
        if count > 0:  # about the means: the level is whatever it is
            squares = squares - np.outer(total[:d, d], total[d, :d]) / count
            products = products - total[:d, d] * total[d, d + 1] / count
        A[kind] = model.precision * np.eye(d) + (squares + squares.T) / (2 * variance)
        b = model.precision * mean + points * products / variance
        root = np.linalg.cholesky(A[kind])
        theta[kind] = np.linalg.solve(root.T, np.linalg.solve(root, b))
    return Learned(theta, A)
