"""People with tastes, simulated: items of one kind from the pools of the real pipeline, rewards by tastes that drift,
and a learner of this service beside the ranking that it began with.

Each feed shows one item to one person, drawn from the softmax over the scores of what the pool has for the person at
that moment, as a slot is. The truth is linear in the features, in points of the kind's score; a reward is 0 or 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.worlds import make_catalog
from recommendation_service.feed.generation import Generation
from recommendation_service.feed.pipeline import FeedPipeline
from recommendation_service.learning.format import LearningFile
from recommendation_service.learning.posterior import Model, believed_matrices, posterior
from recommendation_service.learning.publishing import model_of
from recommendation_service.learning.sums import Sums
from recommendation_service.learning.variety import as_varied, shares
from recommendation_service.model.kinds import KINDS
from recommendation_service.policies.policy import Policy, load_policy
from tests.support.policies import ALL_FEATURE_NAMES as FEATURE_NAMES
from tests.support.slates import candidate_features, request_for

Floats = npt.NDArray[np.float64]
D = len(FEATURE_NAMES)
DAY = 86400.0
BEGAN = 1_790_000_000.0


@dataclass(frozen=True)
class Pools:
    """Of a kind: what it has for each of so many people."""

    kind: int
    X: Floats  # (people, candidates, d)

    @property
    def items(self) -> Floats:
        return self.X.reshape(-1, D)

    @property
    def differences(self) -> Floats:
        """Of each item from the others of its pool."""
        return np.asarray((self.X - self.X.mean(axis=1, keepdims=True)).reshape(-1, D))


def real_pools(folder: Path, kinds: Sequence[str], people: int = 60, videos: int = 1_500) -> list[Pools]:
    """Of each kind what the pipeline makes of a catalog with the demo's words and tastes."""
    policy = load_policy()
    pipeline = FeedPipeline(Generation(make_catalog(videos, folder, policy), policy))
    found: list[list[Floats]] = [[] for _ in kinds]
    for user in pipeline.catalog.arrays.user_id[:people].tolist():
        pipeline.rank(request_for(user))
        for of_kind, kind in zip(found, kinds, strict=True):
            of_kind.append(candidate_features(pipeline, kind))
    sizes = [min(map(len, of_kind)) for of_kind in found]
    return [
        Pools(KINDS.index(kind), np.array([X[:size] for X in of_kind]))
        for kind, of_kind, size in zip(kinds, found, sizes, strict=True)
    ]


@dataclass(frozen=True)
class Tastes:
    """What people like: how much better or worse than the others an item is, is linear in its features.

    ``spread``: its standard deviation among the items of a pool, in rewards. ``turn_days``: after so many days tastes
    are others, by then without regard to what they were; None: they are the prior's, and stay.
    """

    turn_days: float | None = 60.0
    spread: float = 0.08

    def path(self, pools: Pools, prior: Floats, days: Floats, draw: np.random.Generator) -> Floats:
        """(n, d) what each feature is worth at each time, in rewards."""
        if self.turn_days is None:
            return np.broadcast_to(self._scaled(pools, prior), (len(days), D))
        differs = pools.differences.std(axis=0)
        usual = np.where(differs > 1e-3, 1 / np.maximum(differs, 1e-3), 0.0)
        one, other = (self._scaled(pools, draw.normal(size=D) * usual) for _ in range(2))
        turns = days[:, None] / self.turn_days * np.pi / 2
        return np.asarray(np.cos(turns) * one + np.sin(turns) * other)

    def _scaled(self, pools: Pools, weights: Floats) -> Floats:
        return np.asarray(weights * self.spread / (pools.differences @ weights).std())


@dataclass(frozen=True)
class Course:
    """How a simulation goes."""

    feeds: int = 100_000
    feeds_a_day: float = 1_000.0
    block: int = 200  # feeds between versions at first
    offered: int = 40  # of the pool, what the person may be shown at that moment
    level: float = 0.3  # reward of the average item

    def block_at(self, at: int) -> int:
        """How many feeds there are until the next version, after so many: more, once versions change little."""
        return min(max(self.block, at // 20), 2_000, self.feeds - at)


def regrets(
    pools: Pools, tastes: Tastes, file: LearningFile, seed: int, course: Course | None = None
) -> tuple[Floats, Floats]:
    """Cumulative regret of the learner and of its prior after each feed, in rewards: the best on offer less the chosen.

    Both choose from the same offers, by the same random numbers.
    """
    course = course or Course()
    draw = np.random.default_rng(seed)
    policy = load_policy()
    model = model_of(policy, file)
    worths = tastes.path(pools, policy.arrays.theta[pools.kind], np.arange(course.feeds) / course.feeds_a_day, draw)
    middle = pools.X.mean(axis=1, keepdims=True)
    sums = Sums(KINDS, FEATURE_NAMES, file.half_life_seconds)
    learned, lost = np.empty(course.feeds), np.empty(course.feeds)
    scores_prior = scores_learner = scores_of(policy, pools)
    temperature = given = float(policy.arrays.temperature[pools.kind])
    offered = min(course.offered, pools.X.shape[1] // 2)
    at = 0
    while at < course.feeds:
        block = course.block_at(at)
        feeds = np.arange(at, at + block)
        person = draw.integers(len(pools.X), size=block)
        offer = draw.random((block, pools.X.shape[1])).argpartition(offered, axis=1)[:, :offered]
        noise = draw.gumbel(size=offer.shape)
        X = pools.X[person[:, None], offer]
        worth = course.level + np.einsum("fcd,fd->fc", X - middle[person], worths[feeds])
        worth = np.clip(worth, 0.0, 1.0)
        rows, best = np.arange(block), worth.max(axis=1)
        mine = (scores_learner[person[:, None], offer] + temperature * noise).argmax(axis=1)
        priors = (scores_prior[person[:, None], offer] + given * noise).argmax(axis=1)
        learned[feeds], lost[feeds] = best - worth[rows, mine], best - worth[rows, priors]
        rewards = (draw.random(block) < worth[rows, mine]).astype(float)
        times = BEGAN + feeds / course.feeds_a_day * DAY
        kinds = np.full(block, pools.kind)
        sums.add(kinds, X[rows, mine], rewards, times, np.ones(block))
        at += block
        known = sums.at(times[-1])
        posterior_now = posterior(known, model)
        scores_learner = scores_of(Policy(policy.file, *posterior_now), pools)
        decided = [(person[place], offer[place]) for place in range(min(block, 60))]  # what decisions record
        before, after = ([scores[one] for one in decided] for scores in (scores_prior, scores_learner))
        slots = [[pools.X[one] for one in decided] if kind == pools.kind else [] for kind in range(len(KINDS))]
        believed = believed_matrices(known, model)
        share = shares(slots, believed, model.precision, file.variety)[pools.kind]
        temperature = as_varied(before, after, given, share)
    return np.cumsum(learned), np.cumsum(lost)


def scores_of(policy: Policy, pools: Pools) -> Floats:
    """(people, candidates)"""
    arrays, kind = policy.arrays, pools.kind
    widths = np.linalg.norm(pools.items @ arrays.precision_root[kind], axis=1)
    scores = pools.items @ arrays.theta[kind] + arrays.alpha[kind] * widths
    return np.asarray(scores.reshape(pools.X.shape[:2]))


# A drift for which this half-life, in observations, is about the best.
HALF_LIFE, DRIFT = 2_000.0, 3e-7
PRIOR_IS_RIGHT = Tastes(turn_days=None)


def coverage(pools: Pools, drift: float, half_life: float, seed: int = 1, runs: int = 40) -> float:
    """How often an item's worth beside the others is within 1.96 widths of its estimate, after six half-lives.

    ``half_life``: in observations. ``drift``: variance of what a weight moves between two of them, where the prior's is
    1. The truth keeps to the prior meanwhile, as the model has it.
    """
    draw = np.random.default_rng(seed)
    steps = int(6 * half_life)
    model = Model(np.zeros((1, D)), 1.0, 100.0, np.ones(1), 1.0)
    middle = pools.items.mean(axis=0)
    truth = np.empty((steps, runs, D))
    truth[0] = draw.normal(size=(runs, D))
    moved = np.sqrt(drift) * draw.normal(size=(steps, runs, D))
    for step in range(1, steps):
        truth[step] = np.sqrt(1 - drift) * truth[step - 1] + moved[step]
    covered = []
    for run in range(runs):
        X = pools.items[draw.integers(len(pools.items), size=steps)]
        rewards = np.einsum("nd,nd->n", X, truth[:, run]) + draw.normal(size=steps) + 3.0
        sums = Sums(KINDS[:1], FEATURE_NAMES, half_life)
        sums.add(np.zeros(steps, int), X, rewards, np.arange(1.0, steps + 1), np.ones(steps))
        theta, A, _ = posterior(sums.at(float(steps)), model)
        items = pools.items[draw.integers(len(pools.items), size=200)] - middle
        widths = np.linalg.norm(np.linalg.solve(np.linalg.cholesky(A[0]), items.T), axis=0)
        covered.append(np.abs(items @ (theta[0] - truth[-1, run])) <= 1.96 * widths)
    return float(np.mean(covered))
