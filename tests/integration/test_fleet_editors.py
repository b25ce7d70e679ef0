"""Machines that share a Redis hold what editors rule on any of them, whatever fails in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from recommendation_service.core.blocking_redis import open_blocking_redis
from recommendation_service.core.errors import Conflict
from recommendation_service.editors.fleet import STATE, Elsewhere, FleetRulings, FleetUnreachable
from recommendation_service.editors.rulings import Rulings, ruled
from recommendation_service.editors.store import FILE, NotKept, RulingsStore
from tests.servers import PrivateRedis
from tests.support.redis_workers import redis_settings
from tests.unit.editors.test_rulings import pin, ruling
from tests.unit.editors.test_store import unwritable


class Machine:
    """A DATA_DIR whose editors are the fleet's."""

    def __init__(self, stack: ExitStack, folder: Path, redis: PrivateRedis) -> None:
        settings = redis_settings(redis, data_dir=folder)
        connection = open_blocking_redis(settings)
        assert connection is not None
        stack.callback(connection.close)
        self.redis = connection
        self.folder = settings.editors_dir
        self.store = RulingsStore(self.folder, FleetRulings(connection))

    @property
    def held(self) -> set[tuple[str, int | str]]:
        state, problem = self.store.read()
        assert problem is None
        return {(one.action, one.id) for one in state.held}

    def lose_redis(self) -> None:
        self.redis.script("return redis.call('DEL', KEYS[1])", [STATE])


@pytest.fixture
def machine(tmp_path: Path, redis: PrivateRedis) -> Iterator[Callable[[str], Machine]]:
    with ExitStack() as stack:
        yield lambda name: Machine(stack, tmp_path / name, redis)


def test_what_is_ruled_on_one_machine_holds_on_all_with_its_history(machine: Callable[[str], Machine]) -> None:
    one, two = machine("one"), machine("two")
    assert one.store.rule(pin())[1], "the fleet was told"
    two.store.follow()
    two.store.rule(ruling("takedown", 7))
    one.store.follow()

    assert one.held == two.held == {("pin", 812), ("takedown", 7)}
    assert one.store.read() == two.store.read()
    assert one.store.history() == two.store.history()
    stamps = one.store.stamp(), two.store.stamp()
    one.store.follow()
    two.store.follow()
    assert (one.store.stamp(), two.store.stamp()) == stamps, "nothing is written where nothing changed"


def test_of_changes_at_once_each_is_made_after_the_other(machine: Callable[[str], Machine]) -> None:
    one, two = machine("one"), machine("two")
    one.store.rule(pin())
    read = FleetRulings(two.redis)
    found = read.read()
    assert found is not None
    one.store.rule(ruling("takedown", 7))
    with pytest.raises(Elsewhere):
        read.swap(ruled(found, ruling("takedown", 8)))
    two.store.rule(ruling("takedown", 8))
    assert two.held == {("pin", 812), ("takedown", 7), ("takedown", 8)}


def test_without_redis_nothing_is_changed_but_here_and_the_fleet_is_told_later(
    machine: Callable[[str], Machine], redis: PrivateRedis
) -> None:
    one, two = machine("one"), machine("two")
    one.store.rule(pin(5, 1))
    two.store.follow()
    redis.kill()
    with pytest.raises(FleetUnreachable, match="does not answer"):
        one.store.rule(ruling("takedown", 7))
    with pytest.raises(FleetUnreachable):
        two.store.follow()
    assert one.held == two.held == {("pin", 5)}, "what there was holds on"

    assert not one.store.rule(ruling("takedown", 7), alone=True)[1]
    assert not one.store.rule(pin(6, 2), alone=True)[1]
    assert one.held == {("pin", 5), ("takedown", 7), ("pin", 6)}
    redis.start()
    # Redis has lost all of it, and the other machine is the first to look and to change something.
    two.store.rule(pin(9, 2))
    one.store.follow()
    two.store.follow()
    assert one.held == two.held == {("pin", 5), ("takedown", 7), ("pin", 9)}, "a place has one pin, a takedown stays"
    assert one.store.read()[0].alone == ()


def test_what_redis_loses_or_has_of_before_is_put_there_again(machine: Callable[[str], Machine]) -> None:
    one, two, three = machine("one"), machine("two"), machine("three")
    one.store.rule(pin())
    old = one.store.read()[0]
    one.store.rule(ruling("takedown", 7))
    two.store.follow()
    one.lose_redis()
    two.store.follow()
    three.store.follow()
    assert three.held == one.held

    one.redis.script("return redis.call('SET', KEYS[1], ARGV[1])", [STATE], old.encoded())  # from a backup
    two.store.follow()
    fresh = machine("four")
    fresh.store.follow()
    assert fresh.held == {("pin", 812), ("takedown", 7)}
    one.redis.script("return redis.call('SET', KEYS[1], ARGV[1])", [STATE], b"nonsense")
    two.store.follow()
    one.redis.script("redis.call('DEL', KEYS[1]) return redis.call('RPUSH', KEYS[1], 'a list')", [STATE])
    two.store.follow()
    assert FleetRulings(one.redis).read() == two.store.read()[0]


def test_a_machine_with_rulings_of_its_own_brings_them_into_the_fleet(
    machine: Callable[[str], Machine], tmp_path: Path
) -> None:
    one = machine("one")
    one.store.rule(pin(1, 1))
    one.store.rule(ruling("takedown", 2))
    RulingsStore(tmp_path / "two" / "editors").rule(ruling("takedown", 3))
    two = machine("two")
    two.store.follow()
    one.store.follow()
    assert one.held == two.held == {("pin", 1), ("takedown", 2), ("takedown", 3)}


def test_a_damaged_file_is_the_fleets_again(machine: Callable[[str], Machine]) -> None:
    one = machine("one")
    one.store.rule(ruling("takedown", 2))
    (one.folder / FILE).write_bytes(b"nonsense")
    one.store.follow()
    assert one.held == {("takedown", 2)}


def test_a_fleet_that_ruled_nothing_is_asked_no_more_than_whether_it_did(machine: Callable[[str], Machine]) -> None:
    one = machine("one")
    one.store.follow()
    one.store.follow()
    assert one.store.read() == (Rulings(), None)
    assert not (one.folder / FILE).exists()


def test_what_could_not_be_written_down_is_followed_once_it_can(machine: Callable[[str], Machine]) -> None:
    one, two = machine("one"), machine("two")
    one.store.rule(pin())
    two.store.follow()
    one.store.rule(ruling("takedown", 7))
    with unwritable(two.folder):
        for _ in range(2):
            with pytest.raises(NotKept):
                two.store.follow()
    assert two.held == {("pin", 812)}
    two.store.follow()
    assert two.held == {("pin", 812), ("takedown", 7)}


def test_where_the_fleet_has_a_ruling_that_the_machine_cannot_keep_it_says_so(
    machine: Callable[[str], Machine],
) -> None:
    one, two = machine("one"), machine("two")
    one.store.rule(pin())
    with unwritable(one.folder), pytest.raises(NotKept, match="The fleet has the ruling; this machine follows it once"):
        one.store.rule(ruling("takedown", 7))
    two.store.follow()
    assert two.held == {("pin", 812), ("takedown", 7)}
    one.store.follow()
    assert one.held == two.held
    assert one.store.history() == two.store.history()


def test_what_the_fleet_was_told_is_not_told_again_where_it_could_not_be_written_down(
    machine: Callable[[str], Machine], tmp_path: Path
) -> None:
    one = machine("one")
    one.store.rule(pin())
    RulingsStore(tmp_path / "two" / "editors").rule(ruling("takedown", 3))
    two = machine("two")
    with unwritable(two.folder):
        for _ in range(3):
            with pytest.raises(NotKept):
                two.store.follow()
    one.store.follow()
    assert one.held == {("pin", 812), ("takedown", 3)}
    assert one.store.rule(ruling("release", 3))[0].number == 3
    two.store.follow()
    assert one.held == two.held == {("pin", 812)}


def test_who_is_outrun_at_each_attempt_is_told_and_rules_nothing_alone(
    machine: Callable[[str], Machine], tmp_path: Path
) -> None:
    one = machine("one")
    numbers = iter(range(100, 200))

    class Outrun(FleetRulings):
        def swap(self, state: Rulings) -> None:
            one.store.rule(ruling("takedown", next(numbers)))
            super().swap(state)

    RulingsStore(tmp_path / "two" / "editors").rule(ruling("takedown", 3))
    two = machine("two")
    before = two.store.read()
    for alone in (False, True):
        with pytest.raises(Conflict, match="other machines changed what editors ruled at each attempt"):
            RulingsStore(two.folder, Outrun(two.redis)).rule(pin(), alone=alone)
    assert two.store.read() == before
