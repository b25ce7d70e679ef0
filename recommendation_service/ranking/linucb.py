"""Stage 4: LinUCB with one shared-parameter model a kind.

Source: Li, Chu, Langford & Schapire, A Contextual-Bandit Approach to Personalized News Article
Recommendation, WWW 2010; the score is line 9 of algorithm 1, θᵀx + α √(xᵀA⁻¹x). The prior mean is not
0 but 10 on feature 17, the hand-set sum, so the ranking before any feedback is today's.
"""

from math import exp, isfinite, sqrt

import numpy as np

from recommendation_service.model.columns import CatalogArrays, Float64
from recommendation_service.model.features import FEATURES
from recommendation_service.model.kinds import KINDS
from recommendation_service.model.policy_arrays import PolicyArrays
from recommendation_service.ranking.compiled import compiled, inlined
from recommendation_service.ranking.request import RankingRequest
from recommendation_service.ranking.working_memory import WorkingMemory


@inlined
def predict(
    X: Float64,
    start: int,
    end: int,
    theta: Float64,
    precision_root: Float64,
    mean: Float64,
    width: Float64,
    projected: Float64,
) -> None:
    """For rows start to end of ``X`` (n, d): mean = θᵀx, width = √(xᵀA⁻¹x) = ‖R⁻¹x‖ with A = RRᵀ.

    ``precision_root`` is (R⁻¹)ᵀ, upper triangular, so that R⁻¹x grows by whole rows, which the machine
    adds several numbers at a time. A diagonal one, as before any feedback, needs no such product.
    """
    diagonal = True
    for i in range(FEATURES):
        for j in range(i + 1, FEATURES):
            diagonal = diagonal and precision_root[i, j] == 0.0
    for row in range(start, end):
        total, squares = 0.0, 0.0
        if diagonal:
            for i in range(FEATURES):
                projected[i] = precision_root[i, i] * X[row, i]
        else:
            projected[:] = 0.0
            for i in range(FEATURES):
                x = X[row, i]
                for j in range(FEATURES):
                    projected[j] += x * precision_root[i, j]
        for i in range(FEATURES):
            total += theta[i] * X[row, i]
            squares += projected[i] * projected[i]
        mean[row] = total
        width[row] = sqrt(squares)


@compiled
def score_candidates(
    catalog: CatalogArrays, policy: PolicyArrays, request: RankingRequest, memory: WorkingMemory
) -> None:
    """Scores of all candidates, and their softmax numerators exp((score − best)/temperature).

    A score that is not a number has weight 0: it sinks.
    """
    mean, width, scores, weights = memory.mean, memory.width, memory.score, memory.weight
    for kind in range(len(KINDS)):
        start, end = memory.pool_offsets[kind], memory.pool_offsets[kind + 1]
        alpha, temperature = policy.alpha[kind], policy.temperature[kind]
        predict(
            memory.X,
            start,
            end,
            policy.theta[kind],
            policy.precision_root[kind],
            mean,
            width,
            memory.projected,
        )
        best = -np.inf
        for c in range(start, end):
            score = mean[c] + alpha * width[c]
            scores[c] = score if isfinite(score) else -np.inf
            best = max(best, scores[c])
        for c in range(start, end):
            weights[c] = 0.0 if scores[c] == -np.inf else exp((scores[c] - best) / temperature)
