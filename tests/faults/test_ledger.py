"""The ledger finds whatever is wrong: a proof that cannot fail would be none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from tests.faults.counter import Counted
from tests.faults.ledger import FEED, FEEDBACK, Found, Ledger, broken

EVERYWHERE = (float("-inf"), float("inf"))


def a_good_day() -> tuple[Ledger, Found]:
    """Two events acknowledged, one of them sent twice, one lost on the way; two feeds without a repeat."""
    ledger = Ledger()
    ledger.send(["one", "two"])
    ledger.send(["one"])
    ledger.acknowledge(["one", "two"])
    ledger.send(["lost"])
    ledger.show(7, "first", [("resume", "1"), ("challenge", "1")], [])
    ledger.show(7, "second", [("resume", "2")], [])
    ledger.show(8, "other", [("resume", "1")], [])
    ledger.note(FEED, "200")
    ledger.note(FEED, "refused")
    ledger.note(FEEDBACK, "202")
    feeds = Counter(["first", "second", "other"])
    places = Counter([f"segment:{place}" for place in range(6)])
    counted = Counted(places, Counter(["one", "one", "two"]), feeds.copy())  # the log has what was sent twice twice
    return ledger, Found(Counter(["one", "two"]), Counter(["one", "two"]), feeds, feeds.copy(), counted)


def problems(ledger: Ledger, found: Found) -> list[str]:
    return broken(ledger, found, [], [])


def test_a_day_without_losses_breaks_nothing() -> None:
    ledger, found = a_good_day()
    assert problems(ledger, found) == []


def test_what_was_never_acknowledged_may_be_there_once() -> None:
    ledger, found = a_good_day()
    found.events["lost"] = found.activities["lost"] = found.counted.events["lost"] = 1
    assert problems(ledger, found) == []
    found.activities["lost"] = 2
    assert problems(ledger, found) == ["more than once in activity_log: 1 (lost)"]


@pytest.mark.parametrize(
    ("happens", "problem"),
    [
        (lambda found: found.events.pop("one"), "acknowledged, and not in recs_events: 1 (one)"),
        (lambda found: found.activities.pop("two"), "acknowledged, and not in activity_log: 1 (two)"),
        (lambda found: found.events.update(["one"]), "more than once in recs_events: 1 (one)"),
        (lambda found: found.activities.update(["one"]), "more than once in activity_log: 1 (one)"),
        (lambda found: found.events.update(["ghost"]), "in recs_events, and sent by nobody: 1 (ghost)"),
        (lambda found: found.events.update(["lost"]), "in only one of the two tables: 1 (lost)"),
        (lambda found: found.feeds.update(["first"]), "feeds more than once in recs_events: 1 (first)"),
        (lambda found: found.feed_activities.pop("first"), "feeds in only one of the two tables: 1 (first)"),
        (lambda found: found.feeds.pop("first"), "feeds that were not recorded though there was room: 1 (first)"),
        (lambda found: found.counted.events.pop("one"), "acknowledged, and not counted by the second reader: 1 (one)"),
        (
            lambda found: found.counted.places.update(["s:3", "s:3"]),
            "given to the second reader more than once: 1 (s:3)",
        ),
        (lambda found: found.counted.events.update(["new"]), "events that only one of the two readers had: 1 (new)"),
        (lambda found: found.counted.feeds.pop("first"), "feeds that only one of the two readers had: 1 (first)"),
        (lambda found: found.counted.told.append("missed"), "told to the second reader: 1 (missed)"),
        (lambda found: setattr(found, "dead_letters", 3), "dead letters: 3"),
        (lambda found: setattr(found, "dead_segments", 2), "segments left that no worker writes to: 2"),
        (lambda found: setattr(found, "damaged_segments", 1), "damaged segments: 1"),
        (lambda found: found.eternal_keys.append("recs:x"), "keys in Redis without a time to live: 1 (recs:x)"),
    ],
)
def test_what_the_database_has_wrong_is_named(happens: Callable[[Found], object], problem: str) -> None:
    ledger, found = a_good_day()
    happens(found)
    assert problem in problems(ledger, found)


def test_a_feed_that_repeats_another_is_named_unless_it_says_that_seen_gave_way() -> None:
    ledger, found = a_good_day()
    ledger.show(7, "second", [("resume", "2")], [])  # the same answer again
    ledger.show(7, "third", [("challenge", "2")], [])  # a challenge is no video
    found.feeds["third"] = found.feed_activities["third"] = found.counted.feeds["third"] = 1
    ledger.show(7, "fourth", [("resume", "1")], ["seen"])
    found.feeds["fourth"] = found.feed_activities["fourth"] = found.counted.feeds["fourth"] = 1
    assert problems(ledger, found) == []
    ledger.show(7, "fifth", [("challenge", "1"), ("challenge", "2"), ("resume", "3")], ["slot_kind"])
    found.feeds["fifth"] = found.feed_activities["fifth"] = found.counted.feeds["fifth"] = 1
    (problem,) = problems(ledger, found)
    assert problem.startswith("feeds that repeat another: 2 (1 items of feed first in feed fifth of user 7")


def test_a_feed_that_says_that_seen_gave_way_may_come_before_the_feed_that_it_repeats() -> None:
    ledger, found = a_good_day()
    ledger.show(7, "later", [("resume", "5")], ["seen"])
    ledger.show(7, "late", [("resume", "5")], [])
    for feed in ("later", "late"):
        found.feeds[feed] = found.feed_activities[feed] = found.counted.feeds[feed] = 1
    assert problems(ledger, found) == []


def test_other_bytes_under_one_key_are_named() -> None:
    ledger, found = a_good_day()
    ledger.answer_again("a key", is_same=True)
    ledger.answer_again("another", is_same=False)
    assert problems(ledger, found) == ["other bytes for the same Idempotency-Key: 1 (another)"]


def test_a_500_is_never_excused_and_a_503_only_where_it_may_be() -> None:
    ledger, found = a_good_day()
    ledger.note(FEED, "500 internal_error")
    ledger.note(FEED, "503 not_ready")
    ledger.note(FEEDBACK, "503 backlog_full")
    error, not_ready = "feed answered 500 internal_error: 1", "feed answered 503 not_ready: 1"
    assert problems(ledger, found) == [error, not_ready, "feedback answered 503 backlog_full: 1"]
    assert broken(ledger, found, [], [EVERYWHERE]) == [error, not_ready]
    assert broken(ledger, found, [EVERYWHERE], []) == [error]


def test_the_longest_gap_belongs_to_the_span_that_has_its_middle() -> None:
    ledger = Ledger()
    for when in (0.0, 1.0, 4.0, 4.5):
        ledger.note(FEED, "200")
        ledger.answers[-1] = ledger.answers[-1]._replace(when=when)
    assert ledger.longest_gap_seconds(0, 2) == 1.0
    assert ledger.longest_gap_seconds(2, 5) == 3.0
    assert ledger.longest_gap_seconds(6, 7) == 0.0
