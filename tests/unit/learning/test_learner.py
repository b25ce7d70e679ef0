"""From a real log to policy versions: rewards, sums, marks, and what becomes of what is damaged."""

from __future__ import annotations

import os
import random
import re
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recommendation_service.core.config import Settings
from recommendation_service.learning.arms import ArmTotals, totals_in
from recommendation_service.learning.format import LearningFile, load_learning
from recommendation_service.learning.learner import Learner
from recommendation_service.learning.ledger import FILE as FILE_NAME
from recommendation_service.learning.ledger import LedgerRefused, put_aside
from recommendation_service.learning.person import pending_of
from recommendation_service.learning.publishing import OtherFeatures
from recommendation_service.log.forgotten import note_forgotten
from recommendation_service.log.marks import Place
from recommendation_service.log.reader import ReaderTaken
from recommendation_service.log.records import FeedRecord, Record
from recommendation_service.log.retention import remove_passed
from recommendation_service.model.features import COLLABORATIVE_NAMES, FEATURE_NAMES
from recommendation_service.model.kinds import KINDS, PINNED
from recommendation_service.policies.journal import Deed
from recommendation_service.policies.policy import read_policy_file
from recommendation_service.policies.store import BY_LEARNER, PolicyStore
from recommendation_service.ranking.packed_slots import pack_as_they_are
from tests.support.events import HAPPENED_MS, feed, feedback, write_segment
from tests.support.older_records import AS_READ, IN_THE_LOG
from tests.support.policies import FEATURES

FILE = load_learning()
SETTLED_MS = HAPPENED_MS + FILE.settle_ms + 1
AU = KINDS.index("AU")


class World:
    """A folder with a log, and a learner whose clock the test moves."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.settings = Settings(data_dir=folder, learner="store", **settings)
        self.now_ms = SETTLED_MS
        self.file: LearningFile = FILE

    def write(self, records: Iterable[Record | bytes], **options: Any) -> Path:
        return write_segment(self.settings.events_dir, records, **options)

    def learner(self) -> Learner:
        return Learner(self.settings, self.file, lambda: self.now_ms / 1000)

    def learn(self) -> Learner:
        """With a learner that has read and settled all, and is closed."""
        learner = self.learner()
        while learner.step():
            pass
        learner.close()
        return learner


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def shown(record: FeedRecord, place: int, event: str = "impression", **fields: Any) -> Record:
    """Feedback to one item of a feed."""
    item = int(record.slots().items[place])
    given = {"item_type": item & 1, "item_id": item >> 1, "request_id": record.request_id.hex(), "event": event}
    return feedback(**{"happened_ms": HAPPENED_MS + 5_000, "received_ms": HAPPENED_MS + 6_000, **given, **fields})


def totals_of(world: World) -> dict[str, ArmTotals]:
    with closing(sqlite3.connect(world.settings.learning_dir / FILE_NAME)) as ledger:
        return totals_in(ledger)


def sums_of(learner: Learner) -> np.ndarray[Any, Any]:
    return learner.ledger.sums.at(HAPPENED_MS / 1000)


def count(learner: Learner, kind: int) -> float:
    return float(sums_of(learner)[kind, FEATURES, FEATURES])


def reward(learner: Learner, kind: int) -> float:
    return float(sums_of(learner)[kind, FEATURES, FEATURES + 1])


def test_only_what_was_seen_teaches_and_a_match_is_worth_one(world: World) -> None:
    served = feed(6)
    world.write([served, shown(served, 0), shown(served, 1), shown(served, 1, "match")])

    learner = world.learn()

    assert count(learner, AU) == pytest.approx(2)
    assert reward(learner, AU) == pytest.approx(1)
    assert learner.totals.slots == {"AU": 2}
    assert learner.totals.events == {"impression": {"request": 2}, "match": {"request": 1}}


def test_what_an_editor_pinned_teaches_nothing_and_brings_its_arm_nothing(world: World) -> None:
    drawn = feed(6).slots()
    pools = np.where(np.arange(6) == 1, PINNED, drawn.pools).astype(np.uint8)
    served = feed(6, packed=pack_as_they_are(drawn._replace(pools=pools)), arm="test:one")
    world.write([served, shown(served, 0), shown(served, 1), shown(served, 1, "match")])

    learner = world.learn()

    assert learner.totals.slots == {"AU": 1}
    assert reward(learner, AU) == 0
    assert totals_of(world)["test:one"].reward == 0


@pytest.mark.parametrize("names_the_feed", [True, False])
@pytest.mark.parametrize("settled_before", [True, False])
def test_nothing_is_learned_from_a_feed_that_was_not_personal(
    world: World, settled_before: bool, names_the_feed: bool
) -> None:
    """Nor from what was done with it, before or after it was due; and nothing of that goes to a feed before."""
    fields: dict[str, Any] = {} if names_the_feed else {"request_id": None}
    earlier, served = feed(6, happened_ms=HAPPENED_MS - 1_000), feed(6, personal=False)
    world.write([earlier, shown(earlier, 3)])
    world.write(
        [served] if settled_before else [served, shown(served, 0, **fields), shown(served, 1, "match", **fields)]
    )
    learner = world.learn()
    if settled_before:
        world.write([shown(served, 0, **fields), shown(served, 1, "match", **fields)])
        learner = world.learn()

    assert learner.totals.all_slots == 1
    assert learner.totals.left == {"not_personal": 3}
    assert float(np.abs(sums_of(learner)).sum()) > 0


def test_a_person_is_told_what_the_learner_keeps_and_nothing_of_another(world: World) -> None:
    mine, anonymous = feed(6), feed(6, user_id=0, session_id="mine")
    others = [feed(6, user_id=8), feed(6, user_id=0, session_id="another")]
    assert pending_of(world.settings.learning_dir, 7, None) == {}
    world.write([one for served in (mine, anonymous, *others) for one in (served, shown(served, 0), shown(served, 1))])
    world.learn()

    for person in ((7, None), (0, "mine")):
        found = pending_of(world.settings.learning_dir, *person)
        pending = {"pending_feeds": 1, "pending_events": 2, "unmatched_events": 0, "weighed_feeds": 0}
        assert found == pending | {"learned_slots": 2.0, "learned_reward": 0.0, "experiment_feeds": 0}
    assert set(pending_of(world.settings.learning_dir, 9, None).values()) == {0}


def test_a_ledger_of_before_feeds_could_be_other_than_personal_is_read(world: World) -> None:
    served = feed(6)
    world.write([served, shown(served, 1, "match")])
    world.now_ms = HAPPENED_MS
    world.learn()
    with closing(sqlite3.connect(world.settings.learning_dir / FILE_NAME)) as ledger:
        for table, column in (("feeds", "personal"), ("feeds", "arm"), ("feeds", "counted")):
            ledger.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        for table in ("person_rewards", "arm_people", "arm_totals"):
            ledger.execute(f"DROP TABLE {table}")
        ledger.commit()
    world.now_ms = SETTLED_MS

    assert world.learn().totals.all_slots == 2


def test_a_version_is_published_that_nobody_serves(world: World) -> None:
    served = feed(6)
    world.write([served, shown(served, 0), shown(served, 1, "match")])
    learner = world.learner()

    learner.learn_all()

    store = PolicyStore(world.settings.policy_dir, 10)
    [version] = store.versions()
    assert store.current() is None
    assert store.manifest(version)["by"] == BY_LEARNER
    assert "learned from 2 shown items: AU" in store.manifest(version)["why"]
    assert not learner.publish(), "nothing was learned since"
    learner.close()


def feeds_and_feedback(seed: int) -> list[Record]:
    """Feeds of some users, and feedback of every kind, some of it twice, late, or without the feed's name."""
    draw = random.Random(seed)
    records: list[Record] = []
    for number in range(8):
        user, moment = draw.randint(1, 3), HAPPENED_MS + 1_000 * number
        arm = draw.choice(["", "bolder:control", "bolder:bold"])
        served = feed(draw.randint(2, 9), user_id=user, happened_ms=moment, arm=arm)
        records.append(served)
        for _ in range(draw.randint(0, 6)):
            event = draw.choice(["impression", "view", "match", "rating", "skip", "hide", "like"])
            at = moment + draw.choice([1_000, 60_000, 3_000_000, 90_000_000])
            fields = {"user_id": user, "value": 5.0, "happened_ms": at, "received_ms": at + 1}
            records += [shown(served, draw.randrange(served.size), event, **fields)] * draw.choice([1, 1, 2])
    return records


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
def test_in_whatever_order_it_comes_and_however_often_the_learner_dies_the_sums_are_the_same(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It dies after each step, sometimes before the reader's own mark was written: then that is behind the sums."""
    records = feeds_and_feedback(seed)
    at_once = World(tmp_path_factory.mktemp("at-once"))
    at_once.write(records)
    at_once.now_ms += 100_000_000
    expected = at_once.learn()

    draw = random.Random(seed)
    world = World(tmp_path_factory.mktemp("in-pieces"))
    world.now_ms += 100_000_000
    draw.shuffle(records)
    while records:
        some = [records.pop() for _ in range(min(len(records), draw.randint(1, 8)))]
        world.write(some)
        if records:  # what is missing would else be found to be missing for ever
            world.now_ms, now_ms = HAPPENED_MS + 9_000, world.now_ms
        mark = world.settings.events_dir / "readers" / "learn.json"
        before = mark.read_bytes() if mark.exists() else None
        learner = world.learn()
        if before is not None and draw.random() < 0.5:
            mark.write_bytes(before)
        if records:
            world.now_ms = now_ms

    assert sums_of(learner) == pytest.approx(sums_of(expected), rel=1e-12, abs=1e-9)
    assert learner.totals.slots == expected.totals.slots
    arms, arms_at_once = totals_of(world), totals_of(at_once)
    assert arms == {arm: (*of[:2], pytest.approx(of.reward), of.latest_ms) for arm, of in arms_at_once.items()}
    assert {of.feeds for of in arms.values()} <= set(range(1, 9))


def test_an_event_costs_as_much_however_many_feeds_its_user_had(world: World) -> None:
    """Steps of SQLite's machine: it fell behind the log by those who came often."""

    def steps(feeds: int) -> int:
        learner, done = world.learner(), []
        database = learner.ledger._database
        with closing(learner):
            requests = [number.to_bytes(16) for number in range(feeds)]
            database.executemany(
                "INSERT OR IGNORE INTO feeds (request, happened, user, packed) VALUES (?, 0, 7, x'')",
                [(request,) for request in requests],
            )
            database.executemany(
                "INSERT OR IGNORE INTO happenings VALUES (?, 202, 'save', 0.6, 0, 0, 0, ?)",
                [(request, "table:likes" if place == 3 else "request") for place, request in enumerate(requests)],
            )
            database.set_progress_handler(lambda: done.append(1), 1)
            assert learner.ledger.rows.feeds_told_of(7, 202, "save") == [requests[3]]
            assert learner.ledger.rows.feeds_told_of(8, 202, "save") == []
            database.set_progress_handler(None, 1)
        return len(done)

    assert steps(1_000) == steps(10)


def test_what_comes_late_replaces_the_default(world: World) -> None:
    served = feed(6)
    world.write([served, shown(served, 0)])
    learner = world.learn()
    assert (count(learner, AU), reward(learner, AU)) == (pytest.approx(1), 0)

    at = HAPPENED_MS + 20 * 3_600_000
    world.now_ms = at + 1_000
    world.write([shown(served, 0, "match", happened_ms=at, received_ms=at + 500)])
    learner = world.learn()

    assert (count(learner, AU), reward(learner, AU)) == (pytest.approx(1), pytest.approx(1))
    assert learner.totals.slots == {"AU": 1}


def test_what_comes_after_its_hours_counts_for_nothing(world: World) -> None:
    served = feed(6)
    at = HAPPENED_MS + 25 * 3_600_000
    world.now_ms = at + 1_000
    world.write([served, shown(served, 0), shown(served, 0, "match", happened_ms=at, received_ms=at + 500)])
    learner = world.learn()
    assert reward(learner, AU) == 0
    assert learner.totals.left == {"late": 1}


def test_nothing_is_settled_before_its_time_or_before_the_log_is_read_to_its_end(world: World) -> None:
    served = feed(6)
    world.now_ms = HAPPENED_MS + FILE.settle_ms - 1
    world.write([served, shown(served, 0)])
    assert not sums_of(world.learn()).any()
    world.now_ms += 1
    assert count(world.learn(), AU) == pytest.approx(1)


def test_without_impressions_what_stands_before_the_last_that_was_acted_on_was_seen(world: World) -> None:
    served = feed(9)
    world.write([served, shown(served, 4, "match")])
    learner = world.learn()
    assert learner.totals.slots == {"AU": 4, "FW": 1}
    assert reward(learner, AU) == pytest.approx(1)


def test_with_impressions_only_those_were_seen_and_what_was_acted_on(world: World) -> None:
    served = feed(9)
    world.write([served, shown(served, 0), shown(served, 4, "match")])
    assert world.learn().totals.slots == {"AU": 2}


def test_feedback_without_the_feeds_name_is_found_by_user_and_item(world: World) -> None:
    earlier, other, latest = feed(6), feed(6, user_id=8), feed(6, happened_ms=HAPPENED_MS + 100)
    world.write([shown(latest, 1, "match", request_id=None)])  # of another worker, whose segment is older
    world.write([earlier, other, latest])
    world.now_ms += 100
    learner = world.learn()
    assert learner.totals.events == {"match": {"user": 1}}
    assert learner.totals.slots == {"AU": 2}


def test_of_anonymous_people_the_session_says_whose_it_was(world: World) -> None:
    mine, other = feed(6, user_id=0, session_id="mine"), feed(6, user_id=0, session_id="other")
    named = {"user_id": 0, "request_id": None}
    world.write([mine, other, shown(mine, 0, "match", session_id="mine", **named), shown(mine, 0, "match", **named)])
    learner = world.learn()
    assert learner.totals.events == {"match": {"user": 1}}
    assert learner.totals.left == {"no_feed": 1}


def test_rewards_for_unknown_feeds_are_counted_once_nothing_can_come_of_them(world: World) -> None:
    unknown = feed(3)
    world.write([shown(unknown, 0, "match"), shown(unknown, 0, "match", request_id="not one of ours")])
    assert world.learn().totals.left == {"no_feed": 1}
    world.now_ms += FILE.longest_ms
    assert world.learn().totals.left == {"no_feed": 2}


def test_each_event_of_an_item_counts_once_the_first_by_its_time(world: World) -> None:
    served = feed(6)
    first = shown(served, 0, "rating", value=5.0)
    world.write([served, shown(served, 0, "rating", value=1.0, happened_ms=HAPPENED_MS + 5_900), first, first])
    learner = world.learn()
    assert reward(learner, AU) == pytest.approx(0.6)
    assert learner.totals.left == {"again": 2}


def test_feeds_of_other_features_and_of_other_kinds_pools_teach_nothing(world: World) -> None:
    fewer = feed(3)
    slots = fewer.slots()
    fewer = feed(3, packed=pack_as_they_are(slots._replace(features=slots.features[:, :17])))
    standing_in = feed(3, packed=pack_as_they_are(slots._replace(pools=np.array([0, 1, 3], np.uint8))))
    world.write([fewer, standing_in, *(shown(one, place) for one in (fewer, standing_in) for place in range(3))])
    learner = world.learn()
    assert learner.totals.slots == {"AU": 1, "FW": 1}
    assert learner.totals.left == {"dimensions": 1}


def test_a_feed_of_an_older_release_teaches_as_well_as_one_of_today(world: World) -> None:
    world.write([IN_THE_LOG, shown(AS_READ, 0, user_id=4711, happened_ms=AS_READ.happened_ms)])
    world.now_ms = AS_READ.happened_ms + FILE.settle_ms
    assert world.learn().totals.slots == {"VMP": 1}


def test_records_of_another_release_and_a_record_that_ends_in_its_middle_are_passed_over(world: World) -> None:
    served = feed(6)
    path = world.write([served, b"\x91\xa6event9", shown(served, 0), shown(served, 1)])
    content = bytearray(path.read_bytes())
    last = content.rindex(b"RECS")
    content[last + 40 :] = bytes(len(content) - last - 40)
    path.write_bytes(content)
    learner = world.learn()
    assert learner.totals.slots == {"AU": 1}
    assert learner.totals.left == {"undecodable": 1}


def test_a_segment_that_is_read_anew_counts_once(world: World) -> None:
    """As its place is not one that a reader can have come to, it is given from its beginning."""
    served = feed(6)
    path = world.write([served, shown(served, 0), shown(served, 1)])
    before = world.learn()
    place = before.ledger.mark.places[path.name].position
    os.truncate(path, place - 8)
    more = feed(6)
    world.write([more, shown(more, 0)])
    learner = world.learn()
    assert learner.totals.slots == {"AU": 3}
    assert "again" not in learner.totals.left


def test_a_feed_of_the_future_does_not_age_all_others(world: World) -> None:
    served, ahead = feed(6), feed(6, happened_ms=HAPPENED_MS + 10 * 365 * 86_400_000)
    world.write([served, ahead, shown(served, 0), shown(ahead, 0)])
    world.learn()
    world.now_ms += FILE.settle_ms
    learner = world.learn()
    assert count(learner, AU) == pytest.approx(2, rel=0.01)
    assert learner.totals.left == {"clock": 1}


def test_what_is_owed_to_a_forgotten_user_is_dropped_and_what_comes_after_counts(world: World) -> None:
    world.now_ms = HAPPENED_MS + 10_000
    served = feed(6)
    world.write([served, shown(served, 0)])
    world.learn()
    note_forgotten(world.settings.events_dir, 7, HAPPENED_MS + 20_000)
    later = feed(6, happened_ms=HAPPENED_MS + 30_000)
    world.write([later, shown(later, 1)])
    world.now_ms = later.happened_ms + FILE.settle_ms
    for _ in range(2):  # and a start anew forgets nobody again
        assert world.learn().totals.slots == {"AU": 1}


def test_beyond_the_most_feeds_the_oldest_give_way(tmp_path: Path) -> None:
    world = World(tmp_path, learn_pending_feeds=100)
    world.write([feed(2, happened_ms=HAPPENED_MS + number) for number in range(130)])
    learner = world.learn()
    assert learner.totals.left == {"crowded": 30}


def test_a_reader_that_was_cut_off_goes_on(world: World) -> None:
    served = feed(6)
    path = world.write([served, shown(served, 0)])
    world.learner().close()
    remove_passed(world.settings.events_dir, {path.name: Place(path.stat().st_size, finished=True)}, 0)
    more = feed(6)
    world.write([more, shown(more, 0)])
    learner = world.learn()
    assert learner.totals.slots == {"AU": 1}
    assert learner.totals.left == {"missed": 2}


# One person's part.


def with_part(world: World, slots: float) -> World:
    world.file = FILE.model_copy(update={"person_slots": slots})
    return world


def test_beyond_a_persons_part_nothing_is_learned_whatever_is_done_later(world: World) -> None:
    with_part(world, 4)
    one, two, other = feed(3), feed(6, happened_ms=HAPPENED_MS + 1), feed(3, user_id=8)
    seen = [shown(served, place) for served in (one, two, other) for place in range(3)]
    world.write([one, two, other, *seen])
    learner = world.learn()
    assert learner.totals.slots == {"AU": 5, "FW": 2}
    assert learner.totals.left == {"person": 2}

    liked = {"happened_ms": HAPPENED_MS + 9_000, "received_ms": HAPPENED_MS + 10_000}
    world.write([shown(two, 0, "match", **liked), shown(two, 1, "match", **liked), shown(two, 4, "match", **liked)])
    learner = world.learn()
    assert reward(learner, AU) == pytest.approx(1), "what counted is corrected, and nothing of what did not is added"
    assert learner.totals.slots == {"AU": 5, "FW": 2}
    assert learner.totals.left == {"person": 3}


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), most=st.sampled_from((1.0, 3.5, 20.0)))
def test_the_sums_hold_no_more_of_a_person_than_the_file_says(
    seed: int, most: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """In whatever order and over however many half-lives the feeds come."""
    draw = random.Random(seed)
    world = with_part(World(tmp_path_factory.mktemp("part")), most)
    month = round(FILE.half_life_seconds * 1000)
    feeds = [feed(6, happened_ms=HAPPENED_MS - draw.randrange(3 * month)) for _ in range(8)]
    for served in draw.sample(feeds, len(feeds)):
        at = {"happened_ms": served.happened_ms + 5_000, "received_ms": served.happened_ms + 6_000}
        world.write([served, *(shown(served, place, **at) for place in range(6))])
        learner = world.learn()
    latest = max(served.happened_ms for served in feeds) / 1000
    here = learner.ledger.sums.at(latest)[:, FEATURES, FEATURES].sum()
    assert 0 < here <= most * (1 + 1e-9)


def test_part_of_a_session_and_of_who_was_forgotten(world: World) -> None:
    with_part(world, 1)
    mine, other = (feed(3, user_id=0, session_id=name) for name in ("mine", "other"))
    nobody = feed(3, user_id=0, session_id=None)
    user, again = feed(3), feed(3, happened_ms=HAPPENED_MS + 30_000)
    served = [mine, other, nobody, user]
    world.write([*served, *(shown(one, place) for one in served for place in range(2))])
    assert world.learn().totals.slots == {"AU": 5}
    note_forgotten(world.settings.events_dir, 7, HAPPENED_MS + 20_000)
    world.write([again, *(shown(again, place) for place in range(2))])
    world.now_ms = again.happened_ms + FILE.settle_ms
    assert world.learn().totals.slots == {"AU": 6}


# What was learned, damaged or of another release.


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for place in range(4096, len(content), 512):
        content[place : place + 64] = bytes(64)
    path.write_bytes(content)


def of_another_layout(path: Path) -> None:
    change(path, "layout", "99")


def with_other_features(path: Path) -> None:
    change(path, "sums", lambda text: text.replace("recency", "moon_phase"))


def with_wrong_sums(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        [[total]] = database.execute("SELECT value FROM known WHERE name = 'total'")
        database.execute("UPDATE known SET value = ? WHERE name = 'total'", (bytes(8) + total[8:-1] + b"x",))


def change(path: Path, name: str, to: Any) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        [[value]] = database.execute("SELECT value FROM known WHERE name = ?", (name,))
        new = to(bytes(value).decode()) if callable(to) else to
        database.execute("UPDATE known SET value = ? WHERE name = ?", (new.encode(), name))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (damage, "cannot be used"),
        (lambda path: path.write_bytes(b"no database"), "cannot be used"),
        (of_another_layout, "its layout is 99, and this one's 1"),
        (with_other_features, "moon_phase, which this release does not have"),
        (with_wrong_sums, "do not match their checksum"),
    ],
)
def test_what_cannot_be_trusted_is_refused_kept_and_begun_anew_when_somebody_says_so(
    world: World, spoil: Any, said: str
) -> None:
    served = feed(6)
    world.write([served, shown(served, 0)])
    world.learn()
    path = world.settings.learning_dir / FILE_NAME
    spoil(path)
    spoilt = path.read_bytes()

    for _ in range(2):
        with pytest.raises(LedgerRefused, match=said):
            world.learner()
    assert path.read_bytes() == spoilt

    kept = put_aside(world.settings.learning_dir, datetime.now(UTC))
    assert kept is not None
    assert kept.read_bytes() == spoilt
    assert world.learn().totals.slots == {"AU": 1}, "what the log still has is learned again"


def test_a_file_of_before_there_were_fleets_and_parts_of_persons_is_taken_up(world: World) -> None:
    served = feed(6)
    world.write([served, shown(served, 0)])
    world.learn()
    with closing(sqlite3.connect(world.settings.learning_dir / FILE_NAME)) as database, database:
        for table in ("persons", "others", "handed_over"):
            database.execute(f"DROP TABLE {table}")
        database.execute("DELETE FROM known WHERE name IN ('identity', 'abroad')")
    more = feed(6)
    world.write([more, shown(more, 0)])
    learner = world.learn()
    assert learner.totals.slots == {"AU": 2}
    assert world.learn().ledger.fleet.identity == learner.ledger.fleet.identity


def test_one_learner_learns_at_a_time(world: World) -> None:
    learner = world.learner()
    with pytest.raises(ReaderTaken, match="learn"):
        world.learner()
    learner.close()
    world.learner().close()


# What is published.


def test_a_version_is_of_the_file_that_is_served_and_the_only_shadow_of_the_learners(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.settings = Settings(data_dir=tmp_path, learner="shadow", policy_keep=2)
    store = PolicyStore(world.settings.policy_dir, 2)
    people = Deed(datetime.now(UTC), "ana", "bolder")
    own = store.publish(read_policy_file().replace(b"alpha = 1.3", b"alpha = 2.5"), None, people)
    store.shadow([own], people)
    versions = []
    for number in range(4):
        served = feed(6, happened_ms=HAPPENED_MS + number)
        world.write([served, shown(served, 0, "match")])
        world.now_ms += 1
        learner = world.learner()
        learner.learn_all()
        learner.close()
        versions.append(learner.totals.version)

    assert store.current() == own
    assert store.shadows() == (own, versions[-1])
    assert set(store.versions()) == {own, *versions[-2:]}, "the learner crowds out no version of people"
    policy = store.open(str(versions[-1]))
    assert policy.file.kind("AU").alpha == 2.5
    assert policy.pools_digest == store.open(own).pools_digest


def test_another_half_life_is_taken_up_with_what_was_learned(world: World) -> None:
    served = feed(6)
    world.write([served, shown(served, 0)])
    world.learn()
    world.file = FILE.model_copy(update={"half_life_days": 3.0})
    learner = world.learn()
    assert learner.ledger.sums.half_life_seconds == 3 * 86_400
    assert learner.totals.slots == {"AU": 1}
    assert learner.ledger.sums.at(world.now_ms / 1000)[AU, -2, -2] == pytest.approx(1, rel=0.01)


def test_a_feature_that_the_served_policy_adds_is_learned_of_by_the_next_learner(world: World) -> None:
    served = feed(6)
    world.write([served, shown(served, 0, "match"), shown(served, 1)])
    learner = world.learner()
    while learner.step():
        pass
    added = b'version = "added"\n[[added_features]]\nname = "age"\ncolumn = "age_days"\nscale = 30.0\n'
    content = re.sub(rb'^version = ".*"\n', b"", read_policy_file(), flags=re.M)
    sections = content.split(b"[cuts]", 1)
    store = PolicyStore(world.settings.policy_dir, 10)
    store.publish(added + b"[cuts]" + sections[1], None, Deed(datetime.now(UTC), "ana", "age"))
    with pytest.raises(OtherFeatures):
        learner.publish()
    learner.close()

    learner = world.learner()
    learner.learn_all()
    learner.close()
    assert learner.ledger.sums.features == (*FEATURE_NAMES, *COLLABORATIVE_NAMES, "age")
    policy = store.open(str(learner.totals.version))
    assert policy.feature_names[-1] == "age"
    assert not policy.arrays.theta[:, -1].any()
    assert learner.totals.slots == {"AU": 2}
