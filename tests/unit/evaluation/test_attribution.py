"""Events brought to a million feeds at once, beside what the learner makes of one feed at a time."""

from __future__ import annotations

from array import array
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from recommendation_service.evaluation import attribution
from recommendation_service.evaluation.attribution import LATEST_FEEDS, Deeds, Shown, attribute, latest_that_showed
from recommendation_service.learning.format import EventReward, LearningFile, load_learning
from recommendation_service.learning.rewards import Happening, rewards_of

HOUR_MS = 3_600_000
# A third seldom comes to the same sum in another order.
WORTH = (0.1, 1 / 3, -0.7, 0.0)


class Scene(NamedTuple):
    feeds: list[list[int]]  # items
    shown: Shown
    users: npt.NDArray[np.int64]
    made_ms: npt.NDArray[np.int64]
    whose: npt.NDArray[np.int64]
    deeds: Deeds
    names: list[str]
    file: LearningFile


def scene(seed: int, kind: str) -> Scene:
    """Feeds of 0 to 6 slots of few items, some twice; deeds of some of them, before, after and much after."""
    draw = np.random.default_rng(seed)
    feeds, deeds, people = 300, 1500, 9
    file = load_learning().model_copy(
        update={
            "default": -0.05,
            "events": load_learning().events | {"glance": EventReward(reward=0, hours=1, shows=True)},
        }
    )
    names = [*list(file.rules)[:3], "glance"]
    items = [draw.integers(0, 8, draw.integers(0, 7)).tolist() for _ in range(feeds)]
    lengths = np.array([len(one) for one in items])
    made = np.sort(draw.integers(0, 5 * HOUR_MS, feeds) // HOUR_MS * HOUR_MS)  # many at one moment
    shown = Shown(array(kind, [item for one in items for item in one]), np.cumsum(lengths) - lengths, lengths)
    of = np.where(draw.random(deeds) < 0.3, -1, draw.integers(0, feeds, deeds))
    happened = np.where(of < 0, draw.integers(0, 6 * HOUR_MS, deeds), made[of] + draw.integers(0, 30, deeds) * HOUR_MS)
    worth = draw.choice(WORTH, deeds)
    done = Deeds(of, draw.integers(0, 9, deeds), happened, worth, draw.integers(0, 4, deeds).astype(np.uint16))
    users, whose = draw.integers(-2, people, feeds), draw.integers(-3, people + 2, deeds)
    return Scene(items, shown, users, made, whose, done, names, file)


def one_at_a_time(given: Scene) -> npt.NDArray[np.float32]:
    width = max(map(len, given.feeds))
    found = np.where(np.arange(width) < [[len(one)] for one in given.feeds], np.float32(0), np.float32(np.nan))
    deeds = given.deeds
    for feed, items in enumerate(given.feeds):
        told: dict[tuple[int, str], Happening] = {}
        own = np.flatnonzero(deeds.feeds == feed)
        for at in own[np.lexsort((deeds.rewards[own], deeds.happened_ms[own]))].tolist():
            item, name = int(deeds.items[at]), given.names[deeds.name[at]]
            rule = given.file.rules[name]
            if deeds.happened_ms[at] - given.made_ms[feed] <= rule.hours_ms:
                told.setdefault((item, name), Happening(item, float(deeds.rewards[at]), rule.shows))
        brought = rewards_of(items, list(told.values()), given.file)
        found[feed, : len(items)] = np.where(np.isnan(brought), 0.0, brought)
    return found


def search(given: Scene, at: int) -> int:
    """The user's latest feed that showed the item, by hand."""
    user, item, until = int(given.whose[at]), int(given.deeds.items[at]), int(given.deeds.happened_ms[at])
    own = [feed for feed in range(len(given.feeds)) if given.users[feed] == user and given.made_ms[feed] <= until]
    latest = [feed for feed in own[-LATEST_FEEDS:] if item in given.feeds[feed]]
    return latest[-1] if latest and user != 0 else -1


@pytest.mark.parametrize("kind", ["I", "q"])
@pytest.mark.parametrize("seed", range(5))
def test_all_feeds_at_once_have_the_learners_rewards_to_the_last_bit(
    seed: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attribution, "_FEEDS_AT_ONCE", 64)
    monkeypatch.setattr(attribution, "_DEEDS_AT_ONCE", 32)
    given = scene(seed, kind)
    nameless = np.flatnonzero(given.deeds.feeds < 0)
    told = given.whose[nameless], given.deeds.items[nameless], given.deeds.happened_ms[nameless]
    latest = latest_that_showed(given.users, given.made_ms, given.shown, *told)
    assert latest.tolist() == [search(given, at) for at in nameless.tolist()]
    assert 20 < np.count_nonzero(latest >= 0) < len(latest) - 20
    given.deeds.feeds[nameless] = latest

    wanted = one_at_a_time(given)
    rewards = np.where(np.isnan(wanted), np.float32(np.nan), np.float32(0))
    attribute(rewards, given.shown, given.made_ms, given.deeds, given.names, given.file)
    assert rewards.tobytes() == wanted.tobytes()
    assert len(np.unique(wanted[~np.isnan(wanted)])) >= 8


def test_no_feed_and_no_deed_are_no_fault() -> None:
    none, file = np.zeros(0, np.int64), load_learning()
    shown = Shown(array("I"), none, none)
    assert latest_that_showed(
        none, none, shown, np.ones(2, np.int64), np.ones(2, np.int64), np.ones(2, np.int64)
    ).tolist() == [-1, -1]
    rewards = np.zeros((0, 0), np.float32)
    attribute(rewards, shown, none, Deeds(none, none, none, np.zeros(0), np.zeros(0, np.uint16)), [], file)
    assert rewards.size == 0
