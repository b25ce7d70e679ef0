"""Stage 4: LinUCB with one shared-parameter model a kind.

Source: Li, Chu, Langford & Schapire, A Contextual-Bandit Approach to Personalized News Article
Recommendation, WWW 2010; the score is line 9 of algorithm 1, θᵀx + α √(xᵀA⁻¹x). The prior mean is not
0 but 10 on feature 17, the hand-set sum, so the ranking before any feedback is today's.
"""

from math import isfinite, sqrt

import numpy as np

from recommendation_service.model.columns import Bytes, Float64
from recommendation_service.ranking.compiled import compiled, fused, inlined, part
from recommendation_service.ranking.frame import Frame
from recommendation_service.ranking.request import RankingRequest
from recommendation_service.ranking.working_memory import Scoring

LOG2_E = 1.4426950408889634
LN2_HIGH, LN2_LOW = 0.6931471803691238, 1.9082149292705877e-10  # together ln 2; the first has 21 bits to spare
VANISHING = 1e-280  # weights of less in all are weighed anew, see ``weight_against``
SQUARE = 4  # entries of a root that are taken together
ROUNDING = 1.5 * 2.0**52  # what is added to it is rounded to a whole number


@fused
def predict(X: Float64, start: int, end: int, theta: Float64, precision_root: Float64, scoring: Scoring) -> None:
    """For columns x of ``X`` (d, P) from start to end: mean = θᵀx and width = xᵀA⁻¹x = ‖R⁻¹x‖² with A = RRᵀ.

    ``precision_root`` is (R⁻¹)ᵀ, upper triangular. It is taken in squares of four by four: all columns are gone through
    once for each, which the machine does for several columns at a time. Squares of zeros are passed over: of a diagonal
    root, as before any feedback, those on the diagonal are left. Each sum is added up in the order of the features.
    """
    mean, width, projected = scoring.mean[start:end], scoring.width[start:end], scoring.projected
    p0, p1, p2, p3 = projected[0, start:end], projected[1, start:end], projected[2, start:end], projected[3, start:end]
    mean[:] = 0.0
    width[:] = 0.0
    for j in range(0, len(theta), SQUARE):
        is_alone = True
        for i in range(0, j, SQUARE):
            a0, b0, c0, d0 = _column(precision_root, i, j)
            a1, b1, c1, d1 = _column(precision_root, i, j + 1)
            a2, b2, c2, d2 = _column(precision_root, i, j + 2)
            a3, b3, c3, d3 = _column(precision_root, i, j + 3)
            if (
                a0 == b0 == c0 == d0 == 0.0
                and a1 == b1 == c1 == d1 == 0.0
                and a2 == b2 == c2 == d2 == 0.0
                and a3 == b3 == c3 == d3 == 0.0
            ):
                continue
            x0, x1, x2, x3 = _rows(X, i, start, end)
            if is_alone:
                for c in range(len(mean)):
                    v0, v1, v2, v3 = x0[c], x1[c], x2[c], x3[c]
                    p0[c] = a0 * v0 + b0 * v1 + c0 * v2 + d0 * v3
                    p1[c] = a1 * v0 + b1 * v1 + c1 * v2 + d1 * v3
                    p2[c] = a2 * v0 + b2 * v1 + c2 * v2 + d2 * v3
                    p3[c] = a3 * v0 + b3 * v1 + c3 * v2 + d3 * v3
            else:
                for c in range(len(mean)):
                    v0, v1, v2, v3 = x0[c], x1[c], x2[c], x3[c]
                    p0[c] = p0[c] + a0 * v0 + b0 * v1 + c0 * v2 + d0 * v3
                    p1[c] = p1[c] + a1 * v0 + b1 * v1 + c1 * v2 + d1 * v3
                    p2[c] = p2[c] + a2 * v0 + b2 * v1 + c2 * v2 + d2 * v3
                    p3[c] = p3[c] + a3 * v0 + b3 * v1 + c3 * v2 + d3 * v3
            is_alone = False
        # The square on the diagonal, which is the last one of its four entries, and the mean of its four features.
        x0, x1, x2, x3 = _rows(X, j, start, end)
        t0, t1, t2, t3 = theta[j], _at(theta, j + 1), _at(theta, j + 2), _at(theta, j + 3)
        a0, _, _, _ = _column(precision_root, j, j)
        a1, b1, _, _ = _column(precision_root, j, j + 1)
        a2, b2, c2, _ = _column(precision_root, j, j + 2)
        a3, b3, c3, d3 = _column(precision_root, j, j + 3)
        if is_alone:
            for c in range(len(mean)):
                v0, v1, v2, v3 = x0[c], x1[c], x2[c], x3[c]
                mean[c] = mean[c] + t0 * v0 + t1 * v1 + t2 * v2 + t3 * v3
                q0 = a0 * v0
                q1 = a1 * v0 + b1 * v1
                q2 = a2 * v0 + b2 * v1 + c2 * v2
                q3 = a3 * v0 + b3 * v1 + c3 * v2 + d3 * v3
                width[c] = width[c] + q0 * q0 + q1 * q1 + q2 * q2 + q3 * q3
        else:
            for c in range(len(mean)):
                v0, v1, v2, v3 = x0[c], x1[c], x2[c], x3[c]
                mean[c] = mean[c] + t0 * v0 + t1 * v1 + t2 * v2 + t3 * v3
                q0 = p0[c] + a0 * v0
                q1 = p1[c] + a1 * v0 + b1 * v1
                q2 = p2[c] + a2 * v0 + b2 * v1 + c2 * v2
                q3 = p3[c] + a3 * v0 + b3 * v1 + c3 * v2 + d3 * v3
                width[c] = width[c] + q0 * q0 + q1 * q1 + q2 * q2 + q3 * q3


@inlined
def _rows(X: Float64, i: int, start: int, end: int) -> tuple[Float64, Float64, Float64, Float64]:
    """Four features; behind the last one, the last one, which then counts nothing."""
    last = len(X) - 1
    return (
        X[i, start:end],
        X[min(i + 1, last), start:end],
        X[min(i + 2, last), start:end],
        X[min(i + 3, last), start:end],
    )


@inlined
def _at(values: Float64, i: int) -> float:
    return values[i] if i < len(values) else 0.0


@inlined
def _column(root: Float64, i: int, j: int) -> tuple[float, float, float, float]:
    """Four entries of one column."""
    d = len(root)
    if j >= d:
        return 0.0, 0.0, 0.0, 0.0
    return (
        root[i, j],
        root[i + 1, j] if i + 1 < d else 0.0,
        root[i + 2, j] if i + 2 < d else 0.0,
        root[i + 3, j] if i + 3 < d else 0.0,
    )


@fused
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
    for c in range(len(scores)):
        width[c] = sqrt(width[c])
        score = mean[c] + alpha * width[c]
        scores[c] = score if isfinite(score) else -np.inf
    best = -np.inf
    for c in range(len(scores)):
        best = max(best, scores[c])
    if best == -np.inf:
        weights[:] = 0.0
        return
    for c in range(len(scores)):
        weights[c] = exp_of_negative((scores[c] - best) / temperature)


@compiled
def score_candidates(frame: Frame, request: RankingRequest) -> None:
    """Stage 4: of all candidates. A score that is not a number has weight 0: it sinks."""
    policy, memory = frame.policy, frame.memory
    for kind in range(len(policy.pool)):
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


@inlined
def over_floor(share: float, floor: float, eligible: int) -> float:
    """Probability of one of ``eligible`` candidates whose share of the weights is given, where ``floor`` of the draws
    are even: whatever one thinks of an item, it is drawn now and then, so that any other policy can be weighed."""
    return (1.0 - floor) * share + floor / eligible
