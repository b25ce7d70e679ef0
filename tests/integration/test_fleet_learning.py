"""Machines that learn together by Redis: their sums are one learner's, one publishes, and nothing counts twice."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from typer.testing import CliRunner

from recommendation_service import cli
from recommendation_service.core.blocking_redis import BlockingRedis, open_blocking_redis
from recommendation_service.core.errors import PolicyError
from recommendation_service.learning import fleet, parts
from recommendation_service.learning.abroad import HandedOver
from recommendation_service.learning.backup import back_up, put_back
from recommendation_service.learning.fleet import CutOff, NotThisMachine
from recommendation_service.learning.learner import Learner
from recommendation_service.learning.ledger import FILE, identity_in
from recommendation_service.log.forgotten import note_forgotten
from recommendation_service.log.records import Record
from recommendation_service.policies.fleet import Fenced
from recommendation_service.policies.journal import Deed
from recommendation_service.policies.store import PolicyStore
from tests.servers import LOOPBACK, PrivateRedis
from tests.support.events import HAPPENED_MS, feed
from tests.unit.learning.test_learner import World, shown

# As a second hand-over of one that is noted: item, name, reward, shows, when it happened and came.
EVENT = (100 << 1, "impression", 0.0, True, HAPPENED_MS + 5_000, HAPPENED_MS + 6_000)


class Fleet:
    """Machines by name, and the learners that were opened."""

    def __init__(self, folder: Path, redis: PrivateRedis) -> None:
        self.folder = folder
        self.redis = redis
        self._opened: list[Learner] = []

    def world(self, name: str) -> World:
        """A machine's folder."""
        address = {"redis_host": LOOPBACK, "redis_port": self.redis.port, "redis_username": self.redis.user}
        return World(self.folder / name, **address, redis_password=self.redis.password)

    def learner(self, name: str) -> Learner:
        """A machine's, that has learned all that its log has."""
        learner = self.world(name).learner()
        self._opened.append(learner)
        while learner.step():
            pass
        return learner

    def kill(self, learner: Learner) -> None:
        """As a process that ends at once: nothing is let go of in Redis."""
        self._opened.remove(learner)
        assert learner.fleet is not None
        learner.fleet.fence = None
        learner.close()

    def connection(self) -> BlockingRedis:
        connection = open_blocking_redis(self.world("any").settings)
        assert connection is not None
        return connection

    def close(self) -> None:
        for learner in self._opened:
            learner.close()


@pytest.fixture
def machines(tmp_path: Path, redis: PrivateRedis) -> Iterator[Fleet]:
    found = Fleet(tmp_path, redis)
    yield found
    redis.start()
    found.close()


def teach(world: World, seed: int, feeds: int = 2) -> list[Record]:
    """Feeds of one person, and what was done with their items."""
    draw = random.Random(seed)
    records: list[Record] = []
    for number in range(feeds):
        served = feed(6, user_id=100 * seed + number + 1, happened_ms=HAPPENED_MS - draw.randrange(10**8))
        at = {"happened_ms": served.happened_ms + 5_000, "received_ms": served.happened_ms + 6_000}
        records += [served, *(shown(served, place, **at) for place in range(5)), shown(served, 3, "match", **at)]
    world.write(records)
    return records


def of(learner: Learner) -> fleet.LearningFleet:
    assert learner.fleet is not None
    return learner.fleet


def share(learner: Learner) -> None:
    """Once more where the connection was one of before."""
    with suppress(CutOff):
        of(learner).share(learner._now(), at_once=True)
        return
    of(learner).share(learner._now(), at_once=True)


def all_slots(learner: Learner) -> int:
    """Of the merged sums."""
    share(learner)
    return of(learner).merge(learner._now())[1]


def versions(world: World) -> list[str]:
    return PolicyStore(world.settings.policy_dir, 10).versions()


def test_what_three_machines_learned_is_what_one_would_have(machines: Fleet, tmp_path: Path) -> None:
    alone = World(tmp_path / "alone")
    learners = []
    for number, name in enumerate(("one", "two", "three"), start=1):
        alone.write(teach(machines.world(name), number))
        learners.append(machines.learner(name))
        share(learners[-1])
    one = alone.learner()
    one.learn_all()
    one.close()

    assert learners[1].publish(asked=True)

    expected = PolicyStore(alone.settings.policy_dir, 10).open(versions(alone)[0]).arrays
    [version] = versions(machines.world("two"))
    store = PolicyStore(machines.world("two").settings.policy_dir, 10)
    found = store.open(version).arrays
    total, _, _ = of(learners[1]).merge(learners[1]._now())
    np.testing.assert_allclose(total.at(HAPPENED_MS / 1000), one.ledger.sums.at(HAPPENED_MS / 1000), rtol=1e-14)
    np.testing.assert_allclose(found.theta, expected.theta, atol=1e-9)
    assert "30 shown items of 3 machines" in store.manifest(version)["why"]
    for other in (learners[0], learners[2]):
        assert not other.publish(), "one publishes, and what it published is known"
        assert other.totals.version == version
        assert of(other).publisher == of(learners[1]).status()["machine"]
    assert not learners[1].publish(), "nothing was learned since"


def test_a_machine_that_dies_is_cut_off_and_comes_back_counts_once(machines: Fleet, redis: PrivateRedis) -> None:
    for number, name in enumerate(("one", "two"), start=1):
        teach(machines.world(name), number)
        share(machines.learner(name))
    one, two = machines._opened
    assert all_slots(two) == 20

    machines.kill(one)
    one = machines.learner("one")
    assert all_slots(one) == all_slots(two) == 20

    redis.kill()
    teach(machines.world("one"), 3)
    while one.step():
        pass
    with pytest.raises(CutOff, match="publishes nothing"):
        one.publish(asked=True)
    assert one.totals.all_slots == 20, "it learns on"
    assert of(one).status()["cut_off"] is True
    assert versions(machines.world("one")) == []
    redis.start()  # and has lost everything
    assert all_slots(two) == 20, "what the other had is known"
    assert all_slots(one) == all_slots(two) == 30


def test_at_whatever_moment_a_machine_dies_nothing_is_lost_or_counted_twice(
    machines: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies before or after each thing that Redis is asked, then begins again."""
    teach(machines.world("other"), 1)
    share(machines.learner("other"))
    teach(machines.world("one"), 2)
    ask = BlockingRedis.script
    left, is_done = 0, False

    def dying(self: BlockingRedis, *arguments: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0 and not is_done:
            raise KeyboardInterrupt
        answer = ask(self, *arguments)
        if left == 0:
            raise KeyboardInterrupt
        return answer

    monkeypatch.setattr(BlockingRedis, "script", dying)
    for number in range(1, 16):
        for is_done in (False, True):
            teach(machines.world("one"), 10 * number + is_done, 1)
            left = 0
            learner = machines.learner("one")
            left = number
            with suppress(KeyboardInterrupt):
                learner.publish(asked=True)
            left = 0
            machines.kill(learner)
    learner = machines.learner("one")
    assert learner.totals.all_slots == 10 + 30 * 5
    assert all_slots(learner) == 20 + 30 * 5
    assert learner.publish(asked=True) or learner.totals.version_slots == 20 + 30 * 5
    assert all_slots(machines._opened[0]) == 20 + 30 * 5


def test_who_was_paused_while_another_began_to_publish_does_not_publish_over_it(machines: Fleet) -> None:
    for number, name in enumerate(("one", "two"), start=1):
        teach(machines.world(name), number)
        share(machines.learner(name))
    one, two = machines._opened
    share(one)
    fence = of(one).fence
    assert fence is not None
    assert two.publish(asked=True)
    with pytest.raises(Fenced):
        one._publisher.publish(one.ledger.sums.at(one._now()), 1, None, one._now(), 1, fence)
    assert versions(machines.world("one")) == versions(machines.world("two"))


def test_what_a_machine_learned_outlives_its_disk_and_a_redis_that_lost_all(
    machines: Fleet, redis: PrivateRedis
) -> None:
    for number, name in enumerate(("gone", "one"), start=1):
        teach(machines.world(name), number)
        share(machines.learner(name))
    gone, one = machines._opened
    assert all_slots(one) == 20
    machines.kill(gone)
    shutil.rmtree(machines.folder / "gone")
    again = machines.learner("gone")
    assert all_slots(again) == 20, "its new file is of another machine, and wipes nothing"
    redis.execute("FLUSHALL")
    assert all_slots(one) == 20


def test_the_copy_of_a_folder_and_an_older_file_that_was_put_back_replace_nothing(machines: Fleet) -> None:
    teach(machines.world("one"), 1)
    share(one := machines.learner("one"))
    machines.kill(one)
    shutil.copytree(machines.folder / "one", machines.folder / "copy")
    teach(machines.world("one"), 2)
    share(one := machines.learner("one"))
    copy = machines.learner("copy")
    for _ in range(3):
        with pytest.raises(NotThisMachine, match="take-over"):
            share(copy)
        share(one)
    assert "take-over" in str(of(copy).problem)
    machines.kill(copy)
    with machines.connection() as connection:
        machine = identity_in(machines.world("copy").settings.learning_dir)
        assert machine is not None
        fleet.strike(connection, machine, 0, in_any_case=True, until_written=True)
    share(machines.learner("copy"))
    with pytest.raises(NotThisMachine):
        share(one)


def test_a_machine_that_was_struck_off_counts_no_more_and_says_so(machines: Fleet, redis: PrivateRedis) -> None:
    for number, name in enumerate(("one", "two"), start=1):
        teach(machines.world(name), number)
        share(machines.learner(name))
    one, two = machines._opened
    assert all_slots(two) == 20
    with machines.connection() as connection:
        assert fleet.strike(connection, one.ledger.fleet.identity.machine, 0)
        assert not fleet.strike(connection, "nobody", 0)
    assert all_slots(two) == 10
    redis.execute("FLUSHALL")
    assert all_slots(two) == 10, "nor after Redis lost it"
    with pytest.raises(NotThisMachine, match="struck off"):
        share(one)


def test_beginning_anew_takes_the_place_of_what_was_learned_before(
    machines: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    teach(machines.world("one"), 1)
    share(one := machines.learner("one"))
    machines.kill(one)
    settings = machines.world("one").settings
    for name in ("redis_host", "redis_port", "redis_username", "data_dir"):
        monkeypatch.setenv(name.upper(), str(getattr(settings, name)))
    monkeypatch.setenv("REDIS_PASSWORD", machines.redis.password)
    logs = structlog.get_config()
    done = CliRunner().invoke(cli.app, ["learn", "--anew"])
    structlog.configure(**logs)
    assert done.exit_code == 0, done.output
    assert not (settings.learning_dir / FILE).exists()
    teach(machines.world("one"), 2, 1)
    share(again := machines.learner("one"))
    assert all_slots(again) == again.totals.all_slots


def test_feedback_that_comes_to_another_machine_teaches_the_one_that_made_the_feed_once(
    machines: Fleet, redis: PrivateRedis
) -> None:
    one, two = machines.learner("one"), machines.learner("two")
    served, other = feed(6), feed(6, user_id=8)
    at = {"happened_ms": HAPPENED_MS + 5_000, "received_ms": HAPPENED_MS + 6_000}
    machines.world("one").write([served, other])
    machines.world("two").write(
        [
            *(shown(served, place, **at) for place in (0, 1)),
            shown(served, 1, "match", **at),
            shown(other, 3, "match", **at, user_id=8, request_id=None),
        ]
    )

    def step(learner: Learner) -> None:
        while learner.step():
            pass

    step(one)
    redis.kill()
    step(two)
    redis.start()
    assert two.totals.left == {}
    share(two)
    step(two)
    assert two.totals.left == {"elsewhere": 4}
    assert two.totals.slots == two.totals.events == {}
    share(one)
    step(one)
    assert one.totals.events == {"impression": {"request": 2}, "match": {"request": 1, "user": 1}}
    assert one.totals.slots == {"AU": 2 + 3, "FW": 1}
    machines.kill(one)
    one = machines.learner("one")
    two.ledger.abroad.add(HandedOver(served.request_id, 7, None, *EVENT))
    step(two)
    step(one)
    assert one.totals.slots == {"AU": 2 + 3, "FW": 1}, "what is handed over twice counts once"
    assert one.totals.left == {"again": 1}


def test_what_redis_lost_before_it_was_read_is_handed_over_once_more(machines: Fleet, redis: PrivateRedis) -> None:
    served = feed(6)
    machines.world("one").write([served])
    machines.world("two").write([shown(served, 0)])
    one, two = machines.learner("one"), machines.learner("two")
    assert two.totals.left == {"elsewhere": 1}
    redis.execute("FLUSHALL")
    for learner in (one, two, two, one):
        learner.step()
    assert one.totals.slots == {"AU": 1}
    assert two.totals.left == {"elsewhere": 1}


def test_a_segment_of_feeds_that_is_read_later_is_no_reason_to_hand_over(machines: Fleet) -> None:
    world = machines.world("one")
    served = feed(6)
    world.write([shown(served, 0)], name="00")
    world.write([served], name="01")
    one = machines.learner("one")
    assert one.totals.left == {}
    assert one.totals.slots == {"AU": 1}


def test_what_is_handed_over_of_a_forgotten_user_or_for_nobody_is_dropped(machines: Fleet, redis: PrivateRedis) -> None:
    world = machines.world("one")
    world.write([shown(feed(6), 0), shown(feed(6, user_id=8), 0, user_id=8)])
    redis.kill()
    learner = world.learner()
    assert not learner.step()
    assert len(learner.ledger.abroad.waiting()) == 2
    note_forgotten(world.settings.events_dir, 7, HAPPENED_MS + 20_000)
    world.write([feed(3, happened_ms=HAPPENED_MS + 30_000)])
    learner.step()
    assert len(learner.ledger.abroad.waiting()) == 1
    world.now_ms += world.file.longest_ms
    learner.step()
    assert learner.ledger.abroad.waiting() == {}
    assert learner.totals.left == {"no_feed": 1}
    learner.close()


def test_a_backup_that_is_put_back_takes_the_place_of_what_the_fleet_has_of_its_machine(
    machines: Fleet, tmp_path: Path
) -> None:
    teach(machines.world("one"), 1)
    share(one := machines.learner("one"))
    settings = machines.world("one").settings
    now = datetime.now(UTC)
    back_up(settings, tmp_path / "backup", now)
    teach(machines.world("one"), 2)
    while one.step():
        pass
    share(one)
    machines.kill(one)
    other = machines.world("other")
    put_back(other.settings, other.file, tmp_path / "backup", None, Deed(now, "ana", ""), only_check=False)
    restored = machines.learner("other")
    assert all_slots(restored) == 10, "and not 10 and 20"
    share(restored)
    with pytest.raises(NotThisMachine):
        share(machines.learner("one"))


def spoilt(value: bytes) -> bytes:
    return value[:200] + b"damaged" + value[207:]


def of_another_release(value: bytes) -> bytes:
    return value.replace(b"recs-sums 1 ", b"recs-sums 2 ", 1)


def nonsense(_: bytes) -> bytes:
    return b"nothing of ours"


@pytest.mark.parametrize(
    ("change", "told"),
    [(spoilt, "damaged"), (nonsense, "damaged"), (of_another_release, "another release")],
)
def test_sums_that_are_damaged_or_of_another_release_are_refused_and_named(
    machines: Fleet, change: Callable[[bytes], bytes], told: str
) -> None:
    for number, name in enumerate(("one", "two"), start=1):
        teach(machines.world(name), number)
        share(machines.learner(name))
    one, two = machines._opened
    machine = one.ledger.fleet.identity.machine
    with machines.connection() as connection:
        key = connection.key("{fleet}:sums")
        value = connection.call(lambda client: client.hget(key, machine))
        connection.call(lambda client: client.hset(key, machine, change(value)))
    assert all_slots(two) == 10
    [refused] = of(two).status()["machines"]
    assert refused["machine"] == machine
    assert told in refused["refused"]
    assert two.publish(asked=True), "what the others learned is published"


def test_sums_of_other_features_are_refused_and_those_of_fewer_are_taken(machines: Fleet) -> None:
    teach(machines.world("one"), 1)
    one = machines.learner("one")
    own = one.ledger.sums
    part = parts.Part("other", "host", 1, 0, 7, own)
    fewer = replace(part, machine="fewer", sums=type(own)(own.kinds, own.features[:-1], own.half_life_seconds))
    more = replace(part, machine="more", sums=type(own)(own.kinds, (*own.features, "moon"), own.half_life_seconds))
    slower = replace(part, machine="slower", sums=type(own)(own.kinds, own.features, 2 * own.half_life_seconds))
    found = [parts.decode_part(each.machine, each.encoded("ab")) for each in (part, fewer, more, slower)]
    total, taken, refused = parts.merged(own, found, one._now())
    assert [each.machine for each in taken] == ["other", "fewer", "slower"]
    assert "moon" in refused["more"]
    np.testing.assert_allclose(total.at(one._now()), 2 * own.at(one._now()), rtol=1e-14)


def test_anything_else_in_redis_stops_nobody(machines: Fleet, redis: PrivateRedis) -> None:
    teach(machines.world("one"), 1)
    one = machines.learner("one")
    with machines.connection() as connection:
        names = [
            connection.key("{fleet}:" + name)
            for name in ("sums", "lease", "fence", "published", "policies", "feedback")
        ]
    for spoil in (("SET", "x"), ("RPUSH", "x")):
        for name in names:
            redis.execute("DEL", name)
            redis.execute(spoil[0], name, *spoil[1:])
        with suppress(PolicyError):
            one.publish(asked=True)
        redis.execute("DEL", names[1])
        one.step()
        assert all_slots(one) == 10
    one.totals.version_slots = 0
    assert one.publish(asked=True)
    assert PolicyStore(machines.world("one").settings.policy_dir, 10).is_learners(versions(machines.world("one"))[0])


def test_every_key_has_an_end(machines: Fleet, redis: PrivateRedis) -> None:
    teach(machines.world("one"), 1)
    machines.learner("one").publish(asked=True)
    ends = "for _, key in ipairs(redis.call('KEYS', '*')) do if redis.call('TTL', key) < 0 then return key end end"
    assert redis.execute("EVAL", ends, "0") == "$-1"
