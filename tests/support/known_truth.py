"""Feeds whose truth is known: drawn slot by slot without replacement under a limit on creators, as the service draws
them, while the policy that serves learns; with three ways in which what a slot brings hangs together with the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from recommendation_service.estimates.estimate import CONFIDENCE, estimate
from recommendation_service.estimates.logged import LoggedFeeds
from recommendation_service.estimates.sequences import Gains

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

RewardKind = Literal["additive", "earlier slots", "cascade"]
REWARD_KINDS: tuple[RewardKind, ...] = ("additive", "earlier slots", "cascade")

CREATORS, VIDEOS_EACH, TOPICS, TASTES = 20, 3, 6, 5
VIDEOS = CREATORS * VIDEOS_EACH
WINDOW = 12  # no creator twice within so many slots
_AT_ONCE = 2_000  # feeds, whose tables stay in the processor's cache
STRETCHES = 5  # of a log, after each of which it is chosen anew who serves


Truth = dict[str, dict[RewardKind, float]]  # by the policy's name


@dataclass(frozen=True)
class Ranker:
    """A policy: how far it is on the way from knowing little to what people like, and how far off to a side."""

    name: str
    taste: float
    aside: float = 0.0


SERVING = (Ranker("first", 0.0), Ranker("second", 0.15), Ranker("third", 0.3))
# Of growing distance; the last has lost what the others know.
TARGETS = (Ranker("small", 0.3), Ranker("middle", 0.7), Ranker("large", 1.5, 1.0), Ranker("worse", -0.4))


# What a feed of so many slots brings on average, from 1,000,000 draws of true_values, which take minutes.
TRUTHS: dict[int, Truth] = {
    6: {
        "first": {"additive": 1.21478, "earlier slots": 1.02704, "cascade": 1.00194},
        "second": {"additive": 1.31566, "earlier slots": 1.11466, "cascade": 1.0721},
        "third": {"additive": 1.41135, "earlier slots": 1.19866, "cascade": 1.13719},
        "small": {"additive": 1.41135, "earlier slots": 1.19866, "cascade": 1.13719},
        "middle": {"additive": 1.62862, "earlier slots": 1.39274, "cascade": 1.27993},
        "large": {"additive": 1.85163, "earlier slots": 1.60305, "cascade": 1.42181},
        "worse": {"additive": 0.94156, "earlier slots": 0.79406, "cascade": 0.8021},
    },
    24: {
        "first": {"additive": 4.20903, "earlier slots": 2.24477, "cascade": 2.12023},
        "second": {"additive": 4.39105, "earlier slots": 2.37534, "cascade": 2.17921},
        "third": {"additive": 4.55007, "earlier slots": 2.49404, "cascade": 2.22987},
        "small": {"additive": 4.55007, "earlier slots": 2.49404, "cascade": 2.22987},
        "middle": {"additive": 4.8765, "earlier slots": 2.74905, "cascade": 2.33156},
        "large": {"additive": 5.133, "earlier slots": 2.97526, "cascade": 2.41646},
        "worse": {"additive": 3.6234, "earlier slots": 1.8618, "cascade": 1.92053},
    },
}


@numba.njit(cache=True)
def _fill(
    chances: Floats,
    of_videos: Floats,
    of_creators: Floats,
    of_all: Floats,
    videos: Floats,
    items: Integers,
    propensities: Floats,
) -> None:
    """Draws ``items`` (n, s) by ``chances`` (s, n), and ``propensities`` (P, s, n) of all policies.

    What each policy, the first of which serves, has not taken: ``of_videos`` (n · VIDEOS, P), ``of_creators``
    (n · CREATORS, P), and ``of_all`` (n, P) of creators who are not barred; ``videos`` (n · CREATORS, VIDEOS_EACH): of
    the first. All but the first are changed.
    """
    slots, n = chances.shape
    creators = np.zeros(CREATORS)
    rows = np.zeros(slots, np.int64)
    for person in range(n):
        first = person * CREATORS
        for creator in range(CREATORS):
            creators[creator] = 0.0
            for video in range(VIDEOS_EACH):
                creators[creator] += videos[first + creator, video]
        for slot in range(slots):
            drawn = 0.0
            for creator in range(CREATORS):
                drawn += creators[creator]
            drawn *= chances[slot, person]
            creator, up_to, before = 0, creators[0], 0.0
            while creator < CREATORS - 1 and up_to <= drawn:
                creator += 1
                before = up_to
                up_to += creators[creator]
            row = rows[slot] = first + creator
            video, up_to, within = 0, videos[row, 0], drawn - before
            while video < VIDEOS_EACH - 1 and up_to <= within:
                video += 1
                up_to += videos[row, video]
            items[person, slot] = creator * VIDEOS_EACH + video
            videos[row, video] = 0.0
            creators[creator] = 0.0
            place = row * VIDEOS_EACH + video
            for policy in range(of_all.shape[1]):
                chosen = of_videos[place, policy]
                propensities[policy, slot, person] = chosen / of_all[person, policy]
                of_all[person, policy] -= of_creators[row, policy]
                of_creators[row, policy] -= chosen
            if slot >= WINDOW - 1:
                back = rows[slot - WINDOW + 1]
                for video in range(VIDEOS_EACH):
                    creators[back - first] += videos[back, video]
                for policy in range(of_all.shape[1]):
                    of_all[person, policy] += of_creators[back, policy]


class World:
    """Videos, and the people who come; ``slots`` of each feed."""

    def __init__(self, slots: int, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.slots = slots
        self._item = generator.standard_normal((TASTES, VIDEOS)) / np.sqrt(TASTES)
        self._aside = generator.standard_normal((TASTES, VIDEOS)) / np.sqrt(TASTES)
        self._topic = generator.integers(0, TOPICS, VIDEOS)
        self._known = 0.6 * self._item + 0.8 * generator.standard_normal((TASTES, VIDEOS)) / np.sqrt(TASTES)
        self._seed = seed

    def people(self, count: int, generator: np.random.Generator) -> tuple[Floats, Floats]:
        """Their vectors (count, d), and how much more or less each likes anything (count,)."""
        return generator.standard_normal((count, TASTES)), 0.5 * generator.standard_normal(count)

    def _weights(self, vectors: Floats, ranker: Ranker) -> Floats:
        """(n, VIDEOS) with which it draws."""
        return np.asarray(np.exp(vectors @ (self._known + ranker.taste * self._item + ranker.aside * self._aside)))

    def draw(
        self, vectors: Floats, serving: Ranker, targets: Sequence[Ranker], generator: np.random.Generator
    ) -> tuple[Integers, Floats, Floats]:
        """Items and propensities (n, s), and those of each target (T, n, s)."""
        parts = [
            self._draw_some(vectors[at : at + _AT_ONCE], serving, targets, generator)
            for at in range(0, len(vectors), _AT_ONCE)
        ]
        items, logged, of_targets = zip(*parts, strict=True)
        return np.concatenate(items), np.concatenate(logged), np.concatenate(of_targets, axis=1)

    def _draw_some(
        self, vectors: Floats, serving: Ranker, targets: Sequence[Ranker], generator: np.random.Generator
    ) -> tuple[Integers, Floats, Floats]:
        """A creator is drawn by what is left of its videos, then one of these: no slot goes through all videos."""
        n = len(vectors)
        weights = np.stack([self._weights(vectors, ranker) for ranker in (serving, *targets)], axis=2)
        of_creators = weights.reshape(n * CREATORS, VIDEOS_EACH, -1).sum(axis=1)  # (rows, policies) not taken
        of_all = of_creators.reshape(n, CREATORS, -1).sum(axis=1)  # (n, policies) neither taken nor barred
        of_videos = weights.reshape(n * VIDEOS, -1)
        videos = of_videos[:, 0].reshape(n * CREATORS, VIDEOS_EACH).copy()
        items = np.zeros((n, self.slots), np.int64)
        propensities = np.zeros((len(targets) + 1, self.slots, n))
        _fill(generator.random((self.slots, n)), of_videos, of_creators, of_all, videos, items, propensities)
        return items, propensities[0].T, propensities[1:].transpose(0, 2, 1)

    def likes(self, vectors: Floats, moods: Floats, items: Integers) -> Floats:
        """(n, s) with what probability an item alone would be rewarded: .15 on average."""
        of_item = np.take_along_axis(vectors @ self._item, items, axis=1)
        return np.asarray(1.0 / (1.0 + np.exp(2.2 - 1.0 * of_item - moods[:, np.newaxis])))

    def expected(self, kind: RewardKind, likes: Floats, items: Integers) -> Floats:
        """(n, s) of each slot, given the whole feed."""
        if kind == "additive":
            return likes
        if kind == "earlier slots":
            return likes * self._freshness(items)
        goes_on = 1.0 - 0.02 - 0.25 * likes
        looked_at = np.cumprod(np.pad(goes_on, ((0, 0), (1, 0)), constant_values=1.0), axis=1)[:, :-1]
        return np.asarray(looked_at * likes)

    def rewards(self, kind: RewardKind, likes: Floats, items: Integers, generator: np.random.Generator) -> Floats:
        """(n, s), 0 or 1 each."""
        if kind != "cascade":
            return (generator.random(likes.shape) < self.expected(kind, likes, items)).astype(np.float64)
        liked = generator.random(likes.shape) < likes
        stops = generator.random(likes.shape) < np.where(liked, 0.27, 0.02)
        left = np.cumsum(np.pad(stops, ((0, 0), (1, 0)))[:, :-1], axis=1) > 0
        return (liked & ~left).astype(np.float64)

    def _freshness(self, items: Integers) -> Floats:
        """(n, s) what is left of the liking of a topic of which there was more before."""
        topics = self._topic[items]
        before = np.zeros_like(items)
        for slot in range(1, items.shape[1]):
            before[:, slot] = np.count_nonzero(topics[:, :slot] == topics[:, slot : slot + 1], axis=1)
        return np.asarray(0.6 ** np.minimum(before, 4))


def true_values(world: World, draws: int, seed: int = 1) -> Truth:
    """Of each policy and kind of rewards, what a feed brings on average: from many draws, by the same people and
    chances for all policies."""
    found: Truth = {}
    for ranker in (*SERVING, *TARGETS):
        generator = np.random.default_rng(seed)
        sums = dict.fromkeys(REWARD_KINDS, 0.0)
        for _ in range(draws // _AT_ONCE):
            vectors, moods = world.people(_AT_ONCE, generator)
            items, _, _ = world.draw(vectors, ranker, (), generator)
            likes = world.likes(vectors, moods, items)
            for kind in REWARD_KINDS:
                sums[kind] += float(world.expected(kind, likes, items).sum())
        found[ranker.name] = {kind: round(each / (draws // _AT_ONCE * _AT_ONCE), 5) for kind, each in sums.items()}
    return found


@dataclass(frozen=True)
class Log:
    """What was logged of one kind of rewards, as it is weighed for each target."""

    served: Sequence[Ranker]  # in each stretch
    of_targets: Sequence[LoggedFeeds]


def make_log(world: World, kind: RewardKind, targets: Sequence[Ranker], feeds: int, seed: int) -> Log:
    """Each user has three feeds on average. After each stretch the best so far serves, or any, evenly."""
    generator = np.random.default_rng([seed, REWARD_KINDS.index(kind)])
    vectors, moods = world.people(feeds // 3, generator)
    brought: dict[Ranker, list[float]] = {ranker: [] for ranker in SERVING}
    served, parts = [], []
    for stretch in range(STRETCHES):
        serving = SERVING[int(generator.integers(len(SERVING)))]
        if stretch and generator.random() < 0.5:
            serving = max((each for each in SERVING if brought[each]), key=lambda each: float(np.mean(brought[each])))
        users = generator.integers(0, len(vectors), feeds // STRETCHES)
        items, logged, of_targets = world.draw(vectors[users], serving, targets, generator)
        rewards = world.rewards(kind, world.likes(vectors[users], moods[users], items), items, generator)
        brought[serving].append(float(rewards.sum(axis=1).mean()))
        served.append(serving)
        parts.append((rewards, logged, users, *of_targets))
    rewards, logged, users, *of_targets = (np.concatenate(column) for column in zip(*parts, strict=True))
    ones = np.ones(len(users))
    return Log(served, [LoggedFeeds(rewards, logged, target, users, ones) for target in of_targets])


class Seen(NamedTuple):
    """What one log says of one target, beside the truth."""

    least_ess: float
    is_refused: bool
    is_covered: bool  # the difference, by the interval of the products
    guardrail_is_above: bool  # its lower bound
    sequence_is_missed: bool  # at the end of any stretch
    single_is_covered: bool
    difference: float  # true
    error: float  # of the estimate
    guardrail_error: float
    single_error: float


def see(world: World, truth: Truth, kind: RewardKind, feeds: int, seed: int) -> dict[str, Seen]:
    """By target."""
    log = make_log(world, kind, TARGETS, feeds, seed)
    served = np.array([truth[ranker.name][kind] for ranker in log.served])
    return {
        target.name: _see(logged, truth[target.name][kind] - np.cumsum(served) / np.arange(1, STRETCHES + 1))
        for target, logged in zip(TARGETS, log.of_targets, strict=True)
    }


def _see(logged: LoggedFeeds, differences: Floats) -> Seen:
    """``differences``: (STRETCHES,) the truth of all feeds up to the end of each stretch."""
    found, gains = estimate(logged, bounds=(0.0, 1.0)), Gains(logged, logged.slots, (0.0, 1.0))
    looks = [gains.bounds(CONFIDENCE, (1 + look) * logged.feeds // STRETCHES) for look in range(STRETCHES)]
    true = float(differences[-1])
    return Seen(
        float(found.ess.min()),
        found.refusal is not None,
        found.lower <= true <= found.upper,
        found.guardrail.lower > true,
        any(not look.lower <= truth <= look.upper for look, truth in zip(looks, differences, strict=True)),
        found.single.lower <= true <= found.single.upper,
        true,
        found.difference - true,
        found.guardrail.difference - true,
        found.single.difference - true,
    )
