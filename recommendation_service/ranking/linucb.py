"""Stage 4: LinUCB with one shared-parameter model a kind.

Source: Li, Chu, Langford & Schapire, A Contextual-Bandit Approach to Personalized News Article
Recommendation, WWW 2010; the score is line 9 of algorithm 1, θᵀx + α √(xᵀA⁻¹x). The prior mean is not
0 but 10 on feature 17, the hand-set sum, so the ranking before any feedback is today's.
"""

from math import isfinite, sqrt

import numpy as np

from recommendation_service.model.columns import CatalogArrays, Float64
from recommendation_service.model.kinds import KINDS
from recommendation_service.model.policy_arrays import PolicyArrays
from recommendation_service.ranking.compiled import compiled, inlined
from recommendation_service.ranking.request import RankingRequest
from recommendation_service.ranking.working_memory import WorkingMemory

LOG2_E = 1.4426950408889634
LN2_HIGH, LN2_LOW = 0.6931471803691238, 1.9082149292705877e-10  # together ln 2; the first has 21 bits to spare
ROUNDING = 1.5 * 2.0**52  # what is added to it is rounded to a whole number


@inlined
def predict(
    X: Float64, start: int, theta: Float64, precision_root: Float64, mean: Float64, width: Float64, projected: Float64
) -> None:
    """For each column x of ``X`` (d, P) from ``start`` on, as many as ``mean`` has room for: mean = θᵀx and
    width = √(xᵀA⁻¹x) = ‖R⁻¹x‖ with A = RRᵀ.

    ``precision_root`` is (R⁻¹)ᵀ, upper triangular. All columns are gone through once for each of its entries, which the
    machine does for several at a time; a diagonal one, as before any feedback, has only d.
    """
    end = start + len(mean)
    mean[:] = 0.0
    width[:] = 0.0
    for i in range(len(theta)):
        x, weight = X[i, start:end], theta[i]
        for c in range(len(mean)):
            mean[c] += weight * x[c]
    for j in range(len(theta)):
        projected[:] = 0.0
        for i in range(j + 1):
            entry = precision_root[i, j]
            if entry != 0.0:
                x = X[i, start:end]
                for c in range(len(mean)):
                    projected[c] += entry * x[c]
        for c in range(len(mean)):
            width[c] += projected[c] * projected[c]
    for c in range(len(mean)):
        width[c] = sqrt(width[c])


@inlined
def exp_of_negative(x: float) -> float:
    """eˣ for x ≤ 0 within two units in the last place; 0 below -700. Without a branch or a call, so that the machine
    does several at a time: 2ⁿ eʳ with |r| ≤ ln 2 / 2, and the Taylor series of eʳ to its 13th power."""
    n = (x * LOG2_E + ROUNDING) - ROUNDING
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    total = 1.0 / 6227020800.0
    total = total * r + 1.0 / 479001600.0
    total = total * r + 1.0 / 39916800.0
    total = total * r + 1.0 / 3628800.0
    total = total * r + 1.0 / 362880.0
    total = total * r + 1.0 / 40320.0
    total = total * r + 1.0 / 5040.0
    total = total * r + 1.0 / 720.0
    total = total * r + 1.0 / 120.0
    total = total * r + 1.0 / 24.0
    total = total * r + 1.0 / 6.0
    total = total * r + 0.5
    total = total * r + 1.0
    total = total * r + 1.0
    power = np.int64((np.int64(max(n, -1010.0)) + 1023) << 52).view(np.float64)
    return total * power if x > -700.0 else 0.0


@compiled
def score_candidates(
    catalog: CatalogArrays, policy: PolicyArrays, request: RankingRequest, memory: WorkingMemory
) -> None:
    """Scores of all candidates, and their softmax numerators exp((score − best)/temperature).

    A score that is not a number has weight 0: it sinks.
    """
    for kind in range(len(KINDS)):
        start, end = memory.pool_offsets[kind], memory.pool_offsets[kind + 1]
        if start == end:
            continue
        alpha, temperature = policy.alpha[kind], policy.temperature[kind]
        mean, width, scores = memory.mean[start:end], memory.width[start:end], memory.score[start:end]
        weights, projected = memory.weight[start:end], memory.projected[start:end]
        predict(memory.X, start, policy.theta[kind], policy.precision_root[kind], mean, width, projected)
        best = -np.inf
        for c in range(len(scores)):
            score = mean[c] + alpha * width[c]
            scores[c] = score if isfinite(score) else -np.inf
            best = max(best, scores[c])
        if best == -np.inf:
            weights[:] = 0.0
            continue
        for c in range(len(scores)):
            weights[c] = exp_of_negative((scores[c] - best) / temperature)
