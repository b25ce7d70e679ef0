"""What the lists of a method are worth, for each consumption and each basket, and over all of them.

- Of a consumption, whose item is at rank r of the list (from 1, ties of the method resolved by itself): NDCG@k is
  1/log2(1 + r) up to k, else 0, since one item is the ideal; recall@k is whether r is at most k. Both are means over
  consumptions, so that a basket of many counts as many.
- Of a basket: hit@k is whether anything that was taken is among the first k.
- Of the first 10 of a list: novelty is the mean of −log2 of the share of users who had had the item; diversity the mean
  of 1 − Jaccard's index of two items' skills; calibration the divergence of the list's skills from the history's
  (Steck, Calibrated Recommendations, RecSys 2018, equations 2 to 4, with 0.01 of the history's mixed in): 0 is best.
- Of all first tens: coverage is the share of the candidates that came up at all; Gini's index tells how unevenly.
"""

from dataclasses import dataclass

import numpy as np

from recommendation_service.evaluation.interaction_log import Float64, Int64, InteractionLog
from recommendation_service.evaluation.protocol import DAY_SECONDS, Plan
from recommendation_service.evaluation.replay import NOTHING, Answers

CUTOFFS = (10, 24)
SHOWN = 10  # of a list, for what is about lists and not about what was taken
_MIXED_IN = 0.01

OF_CONSUMPTIONS = ("ndcg_10", "ndcg_24", "recall_10", "recall_24")
OF_BASKETS = ("hit_10", "hit_24", "novelty", "diversity", "calibration")
OF_LISTS = ("coverage", "gini")
MEASURES = (*OF_CONSUMPTIONS, *OF_BASKETS, *OF_LISTS)


@dataclass(frozen=True)
class Asked:
    """What was asked for in a plan: the same for all methods."""

    basket_user: Int64  # (b,)
    user: Int64  # (c,) of each consumption
    basket: Int64  # (c,)
    history: Int64  # (c,) items that the user had had
    basket_history: Int64  # (b,)
    age_days: Float64  # (c,) of the item
    candidates: Int64  # of the last refit


@dataclass(frozen=True)
class Measured:
    """Values of one method, by measure: (c,) or (b,), nan where there is none to tell."""

    values: dict[str, Float64]
    shown: Int64  # (b, SHOWN) of the lists


def asked_of(plan: Plan, log: InteractionLog) -> Asked:
    baskets = [basket for stretch in plan.stretches for basket in stretch.baskets]
    sizes = np.array([len(basket.taken) for basket in baskets])
    basket = np.repeat(np.arange(len(baskets)), sizes)
    users = np.array([basket.question.user for basket in baskets])
    history = np.array([len(basket.question.history) for basket in baskets])
    when = np.array([basket.question.when for basket in baskets])
    taken = np.concatenate([basket.taken for basket in baskets])
    age_days = (when[basket] - log.created[taken]) / DAY_SECONDS
    return Asked(users, users[basket], basket, history[basket], history, age_days, plan.stretches[-1].past.candidates)


def measure(plan: Plan, log: InteractionLog, answers: Answers) -> Measured:
    per_consumption: dict[str, list[float]] = {name: [] for name in OF_CONSUMPTIONS}
    per_basket: dict[str, list[float]] = {name: [] for name in OF_BASKETS}
    skills = _skill_shares(log)
    row = 0
    for stretch in plan.stretches:
        had = np.bincount(stretch.past.consumptions.item, minlength=log.items)
        people = len(np.unique(stretch.past.consumptions.user))
        surprise = -np.log2((had + 1) / (people + 1))
        for basket in stretch.baskets:
            answer = answers.lists[row]
            answer, row = answer[answer != NOTHING], row + 1
            ranks = _ranks(answer, basket.taken)
            for k in CUTOFFS:
                gains = np.where(ranks <= k, 1.0 / np.log2(1.0 + ranks), 0.0)
                per_consumption[f"ndcg_{k}"] += gains.tolist()
                per_consumption[f"recall_{k}"] += (ranks <= k).astype(float).tolist()
                per_basket[f"hit_{k}"].append(float((ranks <= k).any()))
            first = answer[:SHOWN]
            per_basket["novelty"].append(float(surprise[first].mean()) if len(first) else np.nan)
            per_basket["diversity"].append(_diversity(skills[first]))
            per_basket["calibration"].append(_divergence(skills[basket.question.history], skills[first]))
    values = {name: np.array(column) for name, column in (per_consumption | per_basket).items()}
    return Measured(values, answers.lists[:, :SHOWN])


def coverage(times_shown: Float64) -> Float64:
    """(d,) of (d, candidates): the share that was shown."""
    return np.asarray((times_shown > 0).mean(axis=-1))


def gini(times_shown: Float64) -> Float64:
    """(d,) of (d, candidates): 0 where each is shown as often as any other, towards 1 where one is shown alone."""
    ordered = np.sort(times_shown, axis=-1)
    n = ordered.shape[-1]
    place = 2 * np.arange(1, n + 1) - n - 1
    return np.asarray((ordered * place).sum(axis=-1) / (n * np.maximum(ordered.sum(axis=-1), 1e-12)))


def _ranks(answer: Int64, taken: Int64) -> Float64:
    """(t,) places in the answer, from 1; inf where it is not there."""
    same = answer[None, :] == taken[:, None]
    return np.where(same.any(axis=1), same.argmax(axis=1) + 1.0, np.inf) if len(answer) else np.full(len(taken), np.inf)


def _skill_shares(log: InteractionLog) -> Float64:
    """(M, skills) each row sums to 1, or to 0 for an item without skills."""
    names = sorted({skill for skills in log.skills for skill in skills})
    number = {name: place for place, name in enumerate(names)}
    shares = np.zeros((log.items, len(names)))
    for item, skills in enumerate(log.skills):
        for skill in set(skills):
            shares[item, number[skill]] = 1.0 / len(set(skills))
    return shares


def _diversity(shares: Float64) -> float:
    """nan where fewer than two items say what they are about."""
    has = (shares[shares.sum(axis=1) > 0] > 0).astype(float)
    if len(has) < 2:
        return np.nan
    both = has @ has.T
    sizes = has.sum(axis=1)
    jaccard = both / (sizes[:, None] + sizes[None, :] - both)
    return float(1.0 - jaccard[np.triu_indices(len(has), 1)].mean())


def _divergence(history: Float64, shown: Float64) -> float:
    """Kullback-Leibler of the list's skills from the history's, in nats; nan where either has none."""
    p, q = history.sum(axis=0), shown.sum(axis=0)
    if p.sum() <= 0 or q.sum() <= 0:
        return np.nan
    p, q = p / p.sum(), q / q.sum()
    q = (1 - _MIXED_IN) * q + _MIXED_IN * p
    some = p > 0
    return float((p[some] * np.log(p[some] / q[some])).sum())
