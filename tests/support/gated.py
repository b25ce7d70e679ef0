"""The gate in a simulation: people with tastes as in tastes.py, what serves, and learned policies in its shadow."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from recommendation_service.learning.format import LearningFile
from recommendation_service.learning.gate import Rules, due, judge
from recommendation_service.learning.posterior import Model, believed_matrices, posterior
from recommendation_service.learning.publishing import model_of
from recommendation_service.learning.steps import MUCH_BETTER, expected_gain, next_step
from recommendation_service.learning.sums import Sums
from recommendation_service.learning.variety import as_varied, shares
from recommendation_service.learning.weighed import WeighedFeeds, mixed
from recommendation_service.model.kinds import KINDS
from recommendation_service.policies.evidence import BETTER, WORSE
from recommendation_service.policies.policy import Learned, Policy, load_policy
from tests.support.tastes import BEGAN, DAY, FEATURE_NAMES, Course, Floats, Pools, Tastes, scores_of

NOW = datetime(2026, 11, 1, tzinfo=UTC)
Places = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
DECIDED = 40  # feeds whose decisions are looked at


@dataclass
class Shadow:
    """A version beside the one that serves."""

    policy: Policy
    scores: Floats  # (people, candidates)
    begins: int  # place in the log at which it came into the shadow
    target: list[Floats] = field(default_factory=list)
    live: list[Flags] = field(default_factory=list)  # feeds that it made itself
    counts: list[Flags] = field(default_factory=list)  # and with those that what serves made: no other shadow
    looked: int = 0


@dataclass
class Gated:
    """What happened: cumulative regrets, and what the gate did at which feed."""

    gated: Floats
    prior: Floats
    did: list[tuple[int, str]]


def gated_regrets(
    pools: Pools,
    tastes: Tastes,
    file: LearningFile,
    seed: int,
    course: Course | None = None,
    rules: Rules = Rules(50_000, 0.99, 0.0),  # noqa: B008
    support: float = 0.3,
    live_share: float = 0.2,
) -> Gated:
    """Regret as in ``tastes.regrets``, of what the gate serves and of the prior, which draw over the same floor."""
    course = course or Course()
    draw = np.random.default_rng(seed)
    prior = load_policy()
    kind, floor = pools.kind, float(prior.arrays.floor)
    model = model_of(prior, file)
    worths = tastes.path(pools, prior.arrays.theta[kind], np.arange(course.feeds) / course.feeds_a_day, draw)
    middle = pools.X.mean(axis=1, keepdims=True)
    sums = Sums(KINDS, FEATURE_NAMES, file.half_life_seconds)
    gated, lost = np.empty(course.feeds), np.empty(course.feeds)
    offered = min(course.offered, pools.X.shape[1] // 2)
    scores_prior = scores_of(prior, pools)
    serves, scores = prior, scores_prior
    candidate: Shadow | None = None
    back: Shadow | None = None
    log: list[list[Floats]] = [[], [], []]  # persons, rewards, logged propensities, since what serves was served
    did: list[tuple[int, str]] = []
    at = 0
    while at < course.feeds:
        block = min(course.block, course.feeds - at)
        feeds = np.arange(at, at + block)
        person = draw.integers(len(pools.X), size=block)
        offer = draw.random((block, pools.X.shape[1])).argpartition(offered, axis=1)[:, :offered]
        noise, even = draw.gumbel(size=offer.shape), draw.random(block) < floor
        anything = draw.integers(offered, size=block)
        X = pools.X[person[:, None], offer]
        worth = np.clip(course.level + np.einsum("fcd,fd->fc", X - middle[person], worths[feeds]), 0.0, 1.0)
        rows, best = np.arange(block), worth.max(axis=1)
        mine, priors = (
            np.where(even, anything, (one[person[:, None], offer] + heat * noise).argmax(axis=1))
            for one, heat in ((scores, _heat(serves, kind)), (scores_prior, _heat(prior, kind)))
        )
        # What each of the shadows makes itself.
        made = draw.random(block)
        by: dict[int, Flags] = {}
        for place, shadow in enumerate(filter(None, (candidate, back))):
            is_live = (place * live_share <= made) & (made < (place + 1) * live_share)
            own = np.where(
                even,
                anything,
                (shadow.scores[person[:, None], offer] + _heat(shadow.policy, kind) * noise).argmax(axis=1),
            )
            mine, by[id(shadow)] = np.where(is_live, own, mine), is_live
        by_serves = made >= live_share * len(by)
        gated[feeds], lost[feeds] = best - worth[rows, mine], best - worth[rows, priors]
        rewards = (draw.random(block) < worth[rows, mine]).astype(float)
        at += block
        sums.add(np.full(block, kind), X[rows, mine], rewards, BEGAN + feeds / course.feeds_a_day * DAY, np.ones(block))
        for column, values in zip(
            log, (person, rewards, _share(scores, serves, kind, person, offer, mine)), strict=True
        ):
            column.append(values)
        for shadow in filter(None, (candidate, back)):
            shadow.target.append(_share(shadow.scores, shadow.policy, kind, person, offer, mine))
            shadow.live.append(by[id(shadow)])
            shadow.counts.append(by_serves | by[id(shadow)])
        served = None
        for shadow in filter(None, (candidate, back)):
            count = int(sum(each.sum() for each in shadow.counts))
            look = due(count, shadow.looked, rules.most_feeds)
            if look is None:
                continue
            shadow.looked = look
            verdict = judge(_logged(log, shadow, look), look, rules, "", NOW, "").verdict
            if verdict == BETTER:
                served = shadow
                break
            if verdict == WORSE or look >= rules.most_feeds:
                candidate, back = (None if one is shadow else one for one in (candidate, back))
        if served is not None:
            did.append((at, "returned" if served is back else "promoted"))
            back, candidate = (None, candidate) if served is back else (Shadow(serves, scores, 0), None)
            serves, scores = served.policy, served.scores
            log = [[], [], []]
            if candidate is not None:
                candidate = Shadow(candidate.policy, candidate.scores, 0)
        if candidate is None or candidate.looked:
            decided = [[(kind, pools.X[person[place], offer[place]])] for place in range(min(block, DECIDED))]
            learned = _as_varied(prior, sums.at(BEGAN + feeds[-1] / course.feeds_a_day * DAY), model, file, decided)
            step = next_step(serves, learned, decided, support, model.points, live_share)
            policy, older = Policy(prior.file, *step.learned), 0.0
            if candidate is not None:
                older = expected_gain(serves, candidate.policy, decided, learned.theta, model.points)
            if step.gain > MUCH_BETTER * max(older, 0.0):
                candidate = Shadow(policy, scores_of(policy, pools), sum(map(len, log[0])))
    return Gated(np.cumsum(gated), np.cumsum(lost), did)


def _heat(policy: Policy, kind: int) -> float:
    return float(policy.arrays.temperature[kind])


def _share(scores: Floats, policy: Policy, kind: int, person: Places, offer: Places, chosen: Places) -> Floats:
    """Propensity of what was chosen."""
    of = scores[person[:, None], offer] / _heat(policy, kind)
    weights = np.exp(of - of.max(axis=1, keepdims=True))
    floor = float(policy.arrays.floor)
    share = weights[np.arange(len(of)), chosen] / weights.sum(axis=1)
    return np.asarray((1 - floor) * share + floor / of.shape[1])


def _logged(log: list[list[Floats]], shadow: Shadow, look: int) -> WeighedFeeds:
    counts, live, target = (np.concatenate(column) for column in (shadow.counts, shadow.live, shadow.target))
    places = np.flatnonzero(counts)[:look]
    persons, rewards, logged = (np.concatenate(column)[shadow.begins :][places] for column in log)
    columns = (column[:, None].astype(float) for column in (rewards, logged, target[places]))
    return mixed(*columns, persons.astype(np.int64), live[places])


def _as_varied(
    prior: Policy, sums: Floats, model: Model, file: LearningFile, decided: list[list[tuple[int, Floats]]]
) -> Learned:
    learned = posterior(sums, model)
    kind = decided[0][0][0]
    slots = [[X for [(_, X)] in decided] if k == kind else [] for k in range(len(KINDS))]
    share = shares(slots, believed_matrices(sums, model), model.precision, file.variety)[kind]
    temperature = prior.arrays.temperature.copy()
    after = Policy(prior.file, *learned)
    one, other = (
        [
            X @ p.arrays.theta[kind] + p.arrays.alpha[kind] * np.linalg.norm(X @ p.arrays.precision_root[kind], axis=1)
            for X in slots[kind]
        ]
        for p in (prior, after)
    )
    temperature[kind] = as_varied(one, other, float(temperature[kind]), float(share))
    return learned._replace(temperature=temperature)
