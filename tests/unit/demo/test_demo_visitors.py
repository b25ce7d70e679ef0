"""Simulated people: tastes that turn at the rate that is set, deeds that follow from them, and whom they may ask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recommendation_service import serve
from recommendation_service.demo.loading import DemoError
from recommendation_service.demo.visitors import APPETITES, USED_TO, WORTH, Turning, Usual, Visitor, field_of
from recommendation_service.demo.visits import Api, Tally, is_local
from recommendation_service.demo.vocabulary import vocabulary
from recommendation_service.learning.format import load_learning
from recommendation_service.model.words import EVENT_NAMES

FIELDS = len(vocabulary().fields)


def item(number: int, field: int, **features: float) -> dict[str, Any]:
    words = vocabulary().fields[field]
    return {
        "type": "resume",
        "id": number,
        "description": f"{words.skills[0]} y {words.knowledges[0]}",
        "role_objectives": list(words.objectives[:1]),
        "why": {"features": features},
    }


def visitor(seed: int = 0, drift: float = 60.0) -> Visitor:
    random = np.random.default_rng(seed)
    return Visitor(7, Turning(random, FIELDS, drift), random, Usual())


def test_a_taste_turns_into_an_unrelated_one_in_the_time_that_is_set() -> None:
    """In 50 dimensions directions that are drawn are nearly at right angles."""
    likeness = []
    for seed in range(40):
        turning = Turning(np.random.default_rng(seed), 50, 60.0)
        at = [turning.at(seconds) for seconds in (0.0, 6.0, 59.999, 60.0, 120.0, 600.0)]
        assert [float(np.linalg.norm(one)) for one in at] == pytest.approx([1.0] * 6)
        likeness.append([float(at[0] @ one) for one in at])
        assert at[2] @ at[3] > 0.999, "nothing jumps"
    means = np.abs(np.mean(likeness, axis=0))
    assert means[1] > 0.95
    assert max(means[2:]) < 0.1


def test_an_items_field_is_read_from_its_words() -> None:
    assert [field_of(item(1, field)) for field in range(FIELDS)] == list(range(FIELDS))
    assert 0 <= field_of({"id": 99, "name": "", "description": ""}) < FIELDS


def test_what_a_person_likes_is_watched_and_liked_more() -> None:
    person, appetite = visitor(drift=1e9), np.zeros(len(APPETITES))
    taste = person.fields.at(0)
    best, worst = int(np.argmax(taste)), int(np.argmin(taste))

    def worth(field: int) -> float:
        return sum(person.look([item(n, field) for n in range(8)], appetite, 0).reward for _ in range(100))

    assert worth(best) > 3 * max(worth(worst), 0.1)


def test_an_appetite_is_for_what_an_item_has_more_or_less_of() -> None:
    person, appetite = visitor(drift=1e9), np.zeros(len(APPETITES))
    appetite[APPETITES.index("recency")] = 5.0
    feed = [item(n, 0, recency=float(n < 4)) for n in range(8)]
    viewed = [event["item_id"] for _ in range(100) for event in person.look(feed, appetite, 0).events]
    counts = np.bincount(viewed, minlength=8)
    assert counts[:4].sum() > counts[4:].sum()


def test_a_feed_of_what_people_have_an_appetite_for_is_worth_more_than_one_of_other_items() -> None:
    """Or no ranking would be better than another."""
    person, appetite = visitor(drift=1e9), np.zeros(len(APPETITES))
    appetite[APPETITES.index("recency")] = 1.0
    feeds = [[item(n, 0, recency=recency) for n in range(10)] for recency in (0.0, 1.0)]
    for _ in range(USED_TO // 20):
        for feed in feeds:
            person.look(feed, appetite, 0)
    without, full = (sum(person.look(feed, appetite, 0).reward for _ in range(100)) for feed in feeds)
    assert full > 2 * max(without, 1.0)


def test_deeds_are_events_that_the_service_takes_in_the_order_of_the_feed() -> None:
    person = visitor()
    events = [
        event
        for turn in range(300)
        for event in person.look([item(n, n) for n in range(8)], np.zeros(len(APPETITES)), turn).events
    ]
    assert {event["event"] for event in events} == set(EVENT_NAMES) - {"rating"}
    assert all(0 <= event["watch_seconds"] <= 30 for event in events if event["event"] == "view")
    assert all(event["position"] == event["item_id"] for event in events)


def test_what_a_deed_is_worth_is_what_the_learner_takes_it_for() -> None:
    """And the demo's learning file is that which ships but for its times."""
    shipped, demo = load_learning(), load_learning(Path(serve.LEARNING_TO_WATCH["learning_file"]))
    for name, worth in WORTH.items():
        assert shipped.rules[name].reward == worth  # type: ignore[index]
    times = {"version", "half_life_days", "settle_minutes"}
    assert demo.model_dump(exclude=times) == shipped.model_dump(exclude=times)
    assert demo.settle_ms < 60_000


def test_invented_people_go_to_this_machine_only_unless_that_is_wanted() -> None:
    for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8"):
        assert is_local(host)
    for host in ("192.0.2.1", "no-such-host.invalid"):
        assert not is_local(host)
        with pytest.raises(DemoError, match="--yes-not-local"):
            Api(f"http://{host}:5005", "/api", None, anywhere=False)
    assert Api("http://192.0.2.1/recs/", "/api", None, anywhere=True).url == "http://192.0.2.1"
    for wrong in ("ftp://127.0.0.1", "http://", ""):
        with pytest.raises(DemoError, match="no address of a service"):
            Api(wrong, "/api", None, anywhere=True)


def test_a_tally_compares_the_first_minute_with_the_latest() -> None:
    tally = Tally()
    for second in range(200):
        tally.add(float(second), 3, 1.0 if second <= 60 else 2.0)
    assert (tally.feeds, tally.events, tally.reward_first, tally.reward_latest) == (200, 600, 1.0, 2.0)
    assert "_latest" not in tally.as_dict()
