"""Stage 4: LinUCB with one shared-parameter model a kind.

Source: Li, Chu, Langford & Schapire, A Contextual-Bandit Approach to Personalized News Article
Recommendation, WWW 2010; the score is line 9 of algorithm 1, θᵀx + α √(xᵀA⁻¹x). The prior mean is not
0 but 10 on feature 17, the hand-set sum, so the ranking before any feedback is today's.
"""

from math import isfinite, sqrt

import numpy as np

from recommendation_service.model.columns import Bytes, CatalogArrays, Float64
from recommendation_service.model.kinds import KINDS
from recommendation_service.model.policy_arrays import PolicyArrays
from recommendation_service.ranking.compiled import compiled, inlined, part
from recommendation_service.ranking.request import RankingRequest
from recommendation_service.ranking.working_memory import Scoring, WorkingMemory

LOG2_E = 1.4426950408889634
LN2_HIGH, LN2_LOW = 0.6931471803691238, 1.9082149292705877e-10  # together ln 2; the first has 21 bits to spare
VANISHING = 1e-280  # weights of less in all are weighed anew, see ``weight_against``
ROUNDING = 1.5 * 2.0**52  # what is added to it is rounded to a whole number


@inlined
def predict(X: Float64, start: int, end: int, theta: Float64, precision_root: Float64, scoring: Scoring) -> None:
    """For columns x of ``X`` (d, P) from start to end: mean = θᵀx and width = √(xᵀA⁻¹x) = ‖R⁻¹x‖ with A = RRᵀ.

    ``precision_root`` is (R⁻¹)ᵀ, upper triangular. All columns are gone through once for four of its entries, which the
    machine does for several columns at a time; of a diagonal one, as before any feedback, all but d are passed over.
    """
    mean, width, projected = scoring.mean[start:end], scoring.width[start:end], scoring.projected[start:end]
    mean[:] = 0.0
    width[:] = 0.0
    for i in range(len(theta)):
        x, weight = X[i, start:end], theta[i]
        for c in range(len(mean)):
            mean[c] += weight * x[c]
    for j in range(len(theta)):
        projected[:] = 0.0
        i = 0
        while i <= j:
            if i + 3 <= j and precision_root[i, j] != 0.0:
                x0, x1, x2, x3 = X[i, start:end], X[i + 1, start:end], X[i + 2, start:end], X[i + 3, start:end]
                entry0, entry1 = precision_root[i, j], precision_root[i + 1, j]
                entry2, entry3 = precision_root[i + 2, j], precision_root[i + 3, j]
                for c in range(len(mean)):
                    projected[c] = projected[c] + entry0 * x0[c] + entry1 * x1[c] + entry2 * x2[c] + entry3 * x3[c]
                i += 4
            else:
                entry = precision_root[i, j]
                if entry != 0.0:
                    x = X[i, start:end]
                    for c in range(len(mean)):
                        projected[c] += entry * x[c]
                i += 1
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


@part
def score_pool(
    X: Float64,
    start: int,
    end: int,
    theta: Float64,
    precision_root: Float64,
    alpha: float,
    temperature: float,
    scoring: Scoring,
) -> None:
    """Scores of a pool's candidates, which are columns start to end of ``X``, and their softmax numerators
    exp((score − best)/temperature)."""
    predict(X, start, end, theta, precision_root, scoring)
    mean, width = scoring.mean[start:end], scoring.width[start:end]
    scores, weights = scoring.score[start:end], scoring.weight[start:end]
    best = -np.inf
    for c in range(len(scores)):
        score = mean[c] + alpha * width[c]
        scores[c] = score if isfinite(score) else -np.inf
        best = max(best, scores[c])
    if best == -np.inf:
        weights[:] = 0.0
        return
    for c in range(len(scores)):
        weights[c] = exp_of_negative((scores[c] - best) / temperature)


@compiled
def score_candidates(
    catalog: CatalogArrays, policy: PolicyArrays, request: RankingRequest, memory: WorkingMemory
) -> None:
    """Stage 4: of all candidates. A score that is not a number has weight 0: it sinks."""
    for kind in range(len(KINDS)):
        start, end = memory.pool_offsets[kind], memory.pool_offsets[kind + 1]
        if start < end:
            theta, root = policy.theta[kind], policy.precision_root[kind]
            score_pool(memory.X, start, end, theta, root, policy.alpha[kind], policy.temperature[kind], memory.scoring)


@inlined
def best_of_eligible(scores: Float64, eligible: Bytes, start: int, end: int) -> float:
    """-∞ where no score is a number."""
    best = -np.inf
    for c in range(start, end):
        if eligible[c]:
            best = max(best, scores[c])
    return best


@inlined
def weight_against(score: float, best: float, temperature: float) -> float:
    """The softmax numerator among candidates whose weights all vanish beside the pool's best: against the best of
    themselves; where no score is a number, evenly."""
    return 1.0 if best == -np.inf else exp_of_negative((score - best) / temperature)
