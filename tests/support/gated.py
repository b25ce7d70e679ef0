"""The gate in a simulation: people with tastes as in tastes.py, what serves, and learned policies in its shadow."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recommendation_service.learning.format import LearningFile
from recommendation_service.learning.gate import Rules, due, judge
from recommendation_service.learning.posterior import Model, believed_matrices, posterior
from recommendation_service.learning.publishing import model_of
from recommendation_service.learning.steps import BETTER_BY, Offered, expected_gain, next_step
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
    """A version beside the one that serves, or several, one after the other."""

    policy: Policy
    scores: Floats  # (people, candidates)
    feeds: list[tuple[Places, Floats, Floats, Floats, Flags]] = field(default_factory=list)  # by it or what serves:
    # persons, rewards, propensities of what serves and its own, and which it made itself
    count: int = 0
    looked: int = 0

    def add(self, *columns: npt.NDArray[np.generic]) -> None:
        self.feeds.append(columns)  # type: ignore[arg-type]
        self.count += len(columns[0])

    def weighed(self, look: int) -> WeighedFeeds:
        persons, rewards, logged, target, live = (np.concatenate(column)[:look] for column in zip(*self.feeds))  # noqa: B905
        columns = (column[:, None].astype(float) for column in (rewards, logged, target))
        return mixed(*columns, persons.astype(np.int64), live)


class People(NamedTuple):
    """Who come until the next version, what is on offer to each, and the chances of the draw."""

    person: Places  # (feeds,)
    offer: Places  # (feeds, offered)
    noise: Floats  # likewise
    even: Flags  # (feeds,) drawn evenly: ...
    anything: Places  # ... this one

    def shown(self, temperature: float, scores: Floats) -> Places:
        """(feeds,) which of the offer; ``scores``: (people, candidates)."""
        drawn = (scores[self.person[:, None], self.offer] + temperature * self.noise).argmax(axis=1)
        return np.where(self.even, self.anything, drawn)


class Deed(NamedTuple):
    feed: int
    what: str  # "promoted" or "returned"
    gain: float  # what a feed of it truly brings more than one of what served, at that moment, as a share of that


@dataclass
class Gated:
    """What happened: cumulative regrets, and what the gate did."""

    gated: Floats
    prior: Floats
    did: list[Deed]


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
    did: list[Deed] = []
    at = 0
    while at < course.feeds:
        block = course.block_at(at)
        feeds, rows = np.arange(at, at + block), np.arange(block)
        person = draw.integers(len(pools.X), size=block)
        offer = draw.random((block, pools.X.shape[1])).argpartition(offered, axis=1)[:, :offered]
        noise, even = draw.gumbel(size=offer.shape), draw.random(block) < floor
        people = People(person, offer, noise, even, draw.integers(offered, size=block))
        X = pools.X[person[:, None], offer]
        worth = np.clip(course.level + np.einsum("fcd,fd->fc", X - middle[person], worths[feeds]), 0.0, 1.0)
        best = worth.max(axis=1)
        mine, priors = people.shown(_heat(serves, kind), scores), people.shown(_heat(prior, kind), scores_prior)
        made = draw.random(block)
        tried = [shadow for shadow in (candidate, back) if shadow is not None]
        lives = [(place * live_share <= made) & (made < (place + 1) * live_share) for place in range(len(tried))]
        by_serves = made >= live_share * len(tried)
        for shadow, live in zip(tried, lives, strict=True):
            mine = np.where(live, people.shown(_heat(shadow.policy, kind), shadow.scores), mine)
        gated[feeds], lost[feeds] = best - worth[rows, mine], best - worth[rows, priors]
        rewards = (draw.random(block) < worth[rows, mine]).astype(float)
        at += block
        now = BEGAN + feeds[-1] / course.feeds_a_day * DAY
        times = BEGAN + feeds / course.feeds_a_day * DAY
        sums.add(np.full(block, kind), X[rows, mine], rewards, times, np.ones(block))
        logged = _shares(scores, serves, kind, person, offer)[rows, mine]
        for shadow, live in zip(tried, lives, strict=True):
            target = _shares(shadow.scores, shadow.policy, kind, person, offer)[rows, mine]
            own = by_serves | live
            shadow.add(*(column[own] for column in (person, rewards, logged, target, live)))
        served = None
        for shadow in tried:
            look = due(shadow.count, shadow.looked, rules.most_feeds)
            if look is None:
                continue
            shadow.looked = look
            verdict = judge(shadow.weighed(look), look, rules, "", NOW, "").verdict
            if verdict == BETTER:
                served = shadow
                break
            if verdict == WORSE or look >= rules.most_feeds:
                candidate, back = (None if one is shadow else one for one in (candidate, back))
        if served is not None:
            is_back = served is back
            brings, brought = (
                float((_shares(of, policy, kind, person, offer) * worth).sum(axis=1).mean())
                for of, policy in ((served.scores, served.policy), (scores, serves))
            )
            did.append(Deed(at, "returned" if is_back else "promoted", brings / brought - 1.0))
            if is_back:
                back, candidate = None, Shadow(candidate.policy, candidate.scores) if candidate is not None else None
            else:
                back, candidate = Shadow(serves, scores), None
            serves, scores = served.policy, served.scores
        decided = [[(kind, pools.X[person[place], offer[place]])] for place in range(min(block, DECIDED))]
        learned = _as_varied(prior, sums.at(now), model, file, decided)
        offers = Offered(decided)
        step, older = next_step(serves, learned, offers, support, model.points, live_share), 0.0
        if candidate is not None:
            older = expected_gain(serves, candidate.policy, offers, learned.theta, model.points)
        if step.gain > BETTER_BY * max(older, 0.0):
            policy = Policy(prior.file, *step.learned)
            if candidate is None:
                candidate = Shadow(policy, scores_of(policy, pools))
            candidate.policy, candidate.scores = policy, scores_of(policy, pools)
    return Gated(np.cumsum(gated), np.cumsum(lost), did)


def _heat(policy: Policy, kind: int) -> float:
    return float(policy.arrays.temperature[kind])


def _shares(scores: Floats, policy: Policy, kind: int, person: Places, offer: Places) -> Floats:
    """(feeds, offered) propensities."""
    of = scores[person[:, None], offer] / _heat(policy, kind)
    weights = np.exp(of - of.max(axis=1, keepdims=True))
    floor = float(policy.arrays.floor)
    return np.asarray((1 - floor) * weights / weights.sum(axis=1, keepdims=True) + floor / of.shape[1])


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
