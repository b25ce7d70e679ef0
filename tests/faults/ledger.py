"""What the clients know, and what has to be true of the database because of it.

A client knows which events were acknowledged (202) and which items a user was shown. What was sent and never
acknowledged may be in the database, but once at most; what was in an answer that was lost was not shown.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import sqlalchemy
from sqlalchemy.engine import Engine

from tests.faults.counter import Counted

FEED, FEEDBACK = "feed", "feedback"
NOT_WAITED_FOR = "not waited for"  # the client's own doing
MOST_NAMED = 5  # of what is wrong in one way

Item = tuple[str, int]  # type, id
Span = tuple[float, float]  # of time.monotonic()


class Answer(NamedTuple):
    """How one call ended."""

    when: float  # time.monotonic()
    call: str  # FEED or FEEDBACK
    outcome: str  # "200", "503 not_ready", or what the client met instead of an answer

    @property
    def is_good(self) -> bool:
        return self.outcome in {"200", "202"}

    @property
    def status(self) -> str:
        """The answer's, or empty where there was none."""
        word = self.outcome.split()[0]
        return word if word.isdigit() else ""


class Repeat(NamedTuple):
    """Items that a user was shown again though the feed did not say that `seen` gave way."""

    user: int
    earlier: str  # request ids of the two feeds
    later: str
    items: int
    when: float  # time.monotonic() of the later
    seconds: float  # after the earlier

    def __str__(self) -> str:
        return (
            f"{self.items} items of feed {self.earlier} in feed {self.later} of user {self.user}, "
            f"{self.seconds:.1f} s later"
        )


@dataclass
class Found:
    """What the database and the disk have at the end."""

    events: Counter[str] = field(default_factory=Counter)  # event_id: rows of recs_events, feeds aside
    activities: Counter[str] = field(default_factory=Counter)  # the same of activity_log
    feeds: Counter[str] = field(default_factory=Counter)  # request_id: rows of recs_events that are feeds
    feed_activities: Counter[str] = field(default_factory=Counter)
    counted: Counted = field(default_factory=Counted)  # by the second reader of the log
    dead_letters: int = 0
    dead_segments: int = 0  # that no living worker writes to
    damaged_segments: int = 0
    eternal_keys: list[str] = field(default_factory=list)  # of Redis, without a time to live


def found_in(engine: Engine) -> Found:
    """What the two tables have."""
    found = Found()
    with engine.connect() as connection:
        rows = connection.execute(sqlalchemy.text("SELECT event = 'feed', event_id, request_id FROM recs_events"))
        for is_feed, event_id, request_id in rows:
            (found.feeds if is_feed else found.events)[request_id if is_feed else event_id] += 1
        written_here = "SELECT properties FROM activity_log WHERE properties LIKE '{\"event\"\\:%'"
        for properties in connection.execute(sqlalchemy.text(written_here)).scalars():
            event: dict[str, Any] = json.loads(properties)
            if event["event"] == "feed":
                found.feed_activities[event["request_id"]] += 1
            else:
                found.activities[event["event_id"]] += 1
    return found


class Ledger:
    """Written to by all clients at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.sent: Counter[str] = Counter()  # event_id: times
        self.acknowledged: Counter[str] = Counter()
        self.answers: list[Answer] = []
        self.retries: Counter[str] = Counter()  # call: times that it was made again
        self.repeats: list[Repeat] = []
        self.repeated_answers = 0  # that an Idempotency-Key gave again
        self.other_answers: list[str] = []  # ... which were other bytes
        self.seen_gave_way = 0  # feeds that say so
        self.items_shown = 0
        self.feeds: dict[str, float] = {}  # request_id of each that was shown: when
        self._shown: dict[int, dict[Item, tuple[str, float]]] = defaultdict(dict)

    def note(self, call: str, outcome: str) -> None:
        with self._lock:
            self.answers.append(Answer(time.monotonic(), call, outcome))

    def retry(self, call: str) -> None:
        with self._lock:
            self.retries[call] += 1

    def send(self, event_ids: Iterable[str]) -> None:
        with self._lock:
            self.sent.update(event_ids)

    def acknowledge(self, event_ids: Iterable[str]) -> None:
        with self._lock:
            self.acknowledged.update(event_ids)

    def show(self, user: int, request_id: str, items: list[Item], relaxed: list[str]) -> None:
        """A feed that reached its client. The same feed again shows nothing more."""
        now = time.monotonic()
        with self._lock:
            if request_id in self.feeds:
                return
            self.feeds[request_id] = now
            self.items_shown += len(items)
            gave_way = "seen" in relaxed
            self.seen_gave_way += gave_way
            shown = self._shown[user]
            if gave_way:
                return  # it may be here before the feed that it repeats, which would then look like the repetition
            again = Counter(shown[item] for item in items if item in shown)
            for (earlier, when), count in again.items():
                self.repeats.append(Repeat(user, earlier, request_id, count, now, now - when))
            shown.update(dict.fromkeys(items, (request_id, now)))

    def answer_again(self, key: str, *, is_same: bool) -> None:
        with self._lock:
            self.repeated_answers += 1
            if not is_same:
                self.other_answers.append(key)

    @property
    def users(self) -> int:
        return len(self._shown)

    def count(self, call: str) -> int:
        """Calls that were answered well."""
        with self._lock:
            return sum(answer.call == call and answer.is_good for answer in self.answers)

    def longest_gap_seconds(self, begin: float, end: float) -> float:
        """The longest time without an answered feed, of gaps whose middle is in this span."""
        with self._lock:
            times = sorted(answer.when for answer in self.answers if answer.call == FEED and answer.is_good)
        return max((b - a for a, b in itertools.pairwise(times) if begin <= (a + b) / 2 < end), default=0.0)


def is_within(when: float, spans: Iterable[Span]) -> bool:
    return any(begin <= when <= end for begin, end in spans)


def broken(ledger: Ledger, found: Found, starting: Sequence[Span], disk_full: Sequence[Span]) -> list[str]:
    """Every promise that was not kept, a sentence each. ``starting``: when the service was down or came up."""
    problems: list[str] = []

    def must_be_empty(what: str, wrong: Iterable[object]) -> None:
        listed = list(wrong)
        if listed:
            more = f" and {len(listed) - MOST_NAMED} more" if len(listed) > MOST_NAMED else ""
            problems.append(f"{what}: {len(listed)} ({', '.join(map(str, listed[:MOST_NAMED]))}{more})")

    for table, rows in (("recs_events", found.events), ("activity_log", found.activities)):
        must_be_empty(f"acknowledged, and not in {table}", (e for e in ledger.acknowledged if not rows[e]))
        must_be_empty(f"more than once in {table}", (e for e, count in rows.items() if count > 1))
        must_be_empty(f"in {table}, and sent by nobody", (e for e in rows if e not in ledger.sent))
    counted = found.counted
    uncounted = (e for e in ledger.acknowledged if not counted.events[e])
    must_be_empty("acknowledged, and not counted by the second reader", uncounted)
    must_be_empty("given to the second reader more than once", (p for p, count in counted.places.items() if count > 1))
    must_be_empty("events that only one of the two readers had", found.events.keys() ^ counted.events.keys())
    must_be_empty("feeds that only one of the two readers had", found.feeds.keys() ^ counted.feeds.keys())
    must_be_empty("told to the second reader", counted.told)
    must_be_empty("in only one of the two tables", found.events.keys() ^ found.activities.keys())
    for table, rows in (("recs_events", found.feeds), ("activity_log", found.feed_activities)):
        must_be_empty(f"feeds more than once in {table}", (e for e, count in rows.items() if count > 1))
    must_be_empty("feeds in only one of the two tables", found.feeds.keys() ^ found.feed_activities.keys())
    must_be_empty("feeds that repeat another", ledger.repeats)
    must_be_empty("other bytes for the same Idempotency-Key", ledger.other_answers)
    must_be_empty(
        "feeds that were not recorded though there was room",
        (
            feed
            for feed, when in ledger.feeds.items()
            if feed not in found.feeds and not is_within(when, [*starting, *disk_full])
        ),
    )
    for call, excused in ((FEED, starting), (FEEDBACK, [*starting, *disk_full])):
        wrong = Counter(
            answer.outcome
            for answer in ledger.answers
            if answer.call == call
            and answer.status not in {"", "200", "202"}
            and not (answer.status == "503" and is_within(answer.when, excused))
        )
        problems += [f"{call} answered {outcome}: {count}" for outcome, count in wrong.items()]
    if found.dead_letters:
        problems.append(f"dead letters: {found.dead_letters}")
    if found.dead_segments:
        problems.append(f"segments left that no worker writes to: {found.dead_segments}")
    if found.damaged_segments:
        problems.append(f"damaged segments: {found.damaged_segments}")
    must_be_empty("keys in Redis without a time to live", found.eternal_keys)
    return problems
