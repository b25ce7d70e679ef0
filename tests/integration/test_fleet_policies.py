"""Machines that share a Redis serve one policy: what is decided on one holds on all, whatever fails in between."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from recommendation_service import cli
from recommendation_service.core.blocking_redis import open_blocking_redis
from recommendation_service.core.errors import PolicyError
from recommendation_service.policies.experiment import Arm
from recommendation_service.policies.experiments import start_experiment, stop_experiment
from recommendation_service.policies.fleet import Fenced, FleetPolicies, FleetUnreachable, State, decoded
from recommendation_service.policies.journal import Deed
from recommendation_service.policies.policy import read_policy_file
from recommendation_service.policies.store import NOTHING_SERVED, POLICY, PolicyStore
from tests.servers import LOOPBACK, PrivateRedis
from tests.support.redis_workers import redis_settings

START = datetime(2026, 11, 29, 10, tzinfo=UTC)


class Machine:
    """A DATA_DIR with a store that follows the fleet."""

    def __init__(self, stack: ExitStack, folder: Path, redis: PrivateRedis, *, may_go_alone: bool = False) -> None:
        settings = redis_settings(redis, data_dir=folder)
        connection = open_blocking_redis(settings)
        assert connection is not None
        stack.callback(connection.close)
        self.redis = connection
        self.settings = settings
        self.fleet = FleetPolicies(connection, may_go_alone=may_go_alone)
        self.store = PolicyStore(settings.policy_dir, settings.policy_keep, self.fleet)
        self.alone = PolicyStore(settings.policy_dir, settings.policy_keep)

    def publish(self, number: int, **options: bool) -> str:
        return publish(self.store, number, **options)


def publish(store: PolicyStore, number: int, **options: bool) -> str:
    content = read_policy_file().replace(b"alpha = 1.3", f"alpha = {1 + number / 100}".encode())
    return store.publish(content, None, deed(number), **options)


def deed(number: int) -> Deed:
    return Deed(START + timedelta(minutes=number), "ana", f"change {number}")


@pytest.fixture
def machine(tmp_path: Path, redis: PrivateRedis) -> Iterator[Callable[..., Machine]]:
    with ExitStack() as stack:
        yield lambda name, **options: Machine(stack, tmp_path / name, redis, **options)


def test_what_is_decided_on_one_machine_is_served_and_journaled_on_all(machine: Callable[..., Machine]) -> None:
    one, two = machine("one"), machine("two")
    first, second = one.publish(1), one.publish(2)
    aside = one.publish(3, aside=True)

    two.store.follow()
    assert two.store.served() == one.store.served()
    assert set(two.store.versions()) == {first, second, aside}
    assert two.store.verify(aside) == []
    assert two.store.journal.entries() == one.store.journal.entries()

    two.store.pin(aside, deed(4))
    two.store.shadow([first], deed(5))
    one.store.follow()
    assert (one.store.current(), one.store.pinned(), one.store.shadows()) == (aside, aside, (first,))
    one.store.unpin(deed(6))
    assert one.store.rollback(deed(7)) == second, "the journal of both is one"
    two.store.follow()
    assert two.store.served() == one.store.served()


def test_an_experiment_is_the_fleets_and_over_on_all_machines_with_its_reason(machine: Callable[..., Machine]) -> None:
    one, two = machine("one"), machine("two")
    one.publish(1)
    other = one.publish(2, aside=True)
    arms = [Arm("control", "current", 0.5), Arm("bold", other, 0.5)]
    begun = start_experiment(one.store, "bolder", arms, deed(3), salt=None, expect=None, until_now=b"")
    two.store.follow()
    assert two.store.experiment() == begun
    assert set(begun.versions) <= set(two.store.versions())
    with pytest.raises(PolicyError, match="experiment bolder of ana runs"):
        start_experiment(two.store, "another", arms, deed(4), salt=None, expect=None, until_now=b"")
    stop_experiment(two.store, "bolder", deed(5))
    two.publish(6)
    one.store.follow()
    assert one.store.experiment() is None
    assert one.store.ended_experiments() == two.store.ended_experiments()
    assert [over.why for over in one.store.ended_experiments()] == ["change 5"]


def test_what_a_release_without_experiments_put_there_is_followed() -> None:
    state = State(3, 1.0, NOTHING_SERVED)
    content = json.loads(state.encoded())
    del content["served"]["experiment"]
    assert decoded(json.dumps(content).encode()) == state


def test_of_two_changes_at_once_one_is_refused_and_what_was_expected_is_compared_over_the_fleet(
    machine: Callable[..., Machine],
) -> None:
    one, two = machine("one"), machine("two")
    first, second = one.publish(1), one.publish(2)
    two.store.follow()
    one.fleet.follow(one.store)
    two.store.promote(first, deed(3))
    with pytest.raises(PolicyError, match="just now"):
        one.fleet.agree(one.store, [], one.store.served(), [])
    with pytest.raises(PolicyError, match=f"is {first}, not {second}"):
        one.store.promote(second, deed(4), expect=second)
    assert one.store.current() == first


def test_a_machine_that_is_killed_between_the_fleets_agreement_and_its_own_serves_it_afterwards(
    machine: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = machine("one")
    first, second = one.publish(1), one.publish(2)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(one.store, "apply", killed)
    with pytest.raises(KeyboardInterrupt):
        one.store.promote(first, deed(3))
    assert one.store.current() == second
    machine("one").store.follow()
    assert one.store.current() == first
    assert [entry.why for entry in one.store.journal.entries()].count("change 3") == 1


def test_a_redis_that_lost_everything_has_it_again_and_the_latest_holds(
    machine: Callable[..., Machine], redis: PrivateRedis
) -> None:
    one, two, stale = machine("one"), machine("two"), machine("stale")
    first = one.publish(1)
    stale.store.follow()
    second = two.publish(2)
    redis.execute("FLUSHALL")
    stale.store.follow()  # it comes first, with what it knew
    two.store.follow()
    for one_of_them in (one, stale, machine("new")):
        one_of_them.store.follow()
        assert one_of_them.store.current() == second
        assert set(one_of_them.store.versions()) == {first, second}


def test_what_each_served_before_there_was_a_fleet_gives_way_to_the_latest_and_an_empty_machine_changes_nothing(
    machine: Callable[..., Machine],
) -> None:
    empty, one, two = machine("empty"), machine("one"), machine("two")
    publish(one.alone, 1)
    later = publish(two.alone, 2)
    for _ in range(2):
        for each in (empty, one, two):
            each.store.follow()
    assert {each.store.current() for each in (empty, one, two)} == {later}


def test_a_machine_that_is_cut_off_serves_on_and_changes_nothing_unless_it_is_told_to(
    machine: Callable[..., Machine], redis: PrivateRedis
) -> None:
    one, two, alone = machine("one"), machine("two"), machine("one", may_go_alone=True)
    first, second = one.publish(1), one.publish(2)
    two.store.follow()
    redis.kill()
    with pytest.raises(FleetUnreachable, match="does not answer"):
        one.store.promote(first, deed(3))
    assert one.store.current() == second
    alone.store.promote(first, deed(4))
    assert one.store.current() == first
    redis.start()  # empty: the other machine has what the fleet serves
    for each in (two, one):
        with suppress(FleetUnreachable):  # by a connection of before
            each.store.follow()
        each.store.follow()
    assert one.store.current() == second
    assert one.store.journal.entries()[-1].did == "follow"


@pytest.mark.parametrize("damage", [("SETRANGE", "200", "damage"), ("DEL",), ("HSET", "a", "b")])
def test_a_version_that_is_damaged_in_redis_is_not_served_until_it_is_whole(
    machine: Callable[..., Machine], redis: PrivateRedis, damage: tuple[str, ...]
) -> None:
    one, two = machine("one"), machine("two")
    version = one.publish(1)
    key = one.redis.key("{fleet}:policy:" + version)
    if damage[0] == "HSET":
        redis.execute("DEL", key)
    redis.execute(damage[0], key, *damage[1:])
    with pytest.raises(PolicyError, match=version):
        two.store.follow()
    assert two.store.current() is None
    one.store.follow()
    one.fleet.renew(one.store)
    two.store.follow()
    assert two.store.current() == version
    assert (two.store.folder / version / POLICY).read_bytes() == (one.store.folder / version / POLICY).read_bytes()


def test_a_state_that_nobody_can_read_is_put_there_again(machine: Callable[..., Machine], redis: PrivateRedis) -> None:
    one, two = machine("one"), machine("two")
    version = one.publish(1)
    for spoil in (("SET", "no state"), ("HSET", "a", "b")):
        key = one.redis.key("{fleet}:policies")
        redis.execute("DEL", key)
        redis.execute(spoil[0], key, *spoil[1:])
        one.store.follow()
        two.store.follow()
        assert two.store.current() == version


def test_who_does_not_merge_any_more_publishes_nothing(machine: Callable[..., Machine], redis: PrivateRedis) -> None:
    one = machine("one")
    redis.execute("SET", one.redis.key("{fleet}:fence"), "8", "EX", "100")
    one.fleet.fence = "7"
    with pytest.raises(Fenced):
        one.publish(1, aside=True)
    assert one.store.versions() == [], "and keeps none"
    one.fleet.fence = "8"
    one.publish(1, aside=True)


def test_old_versions_go_from_redis_too(machine: Callable[..., Machine], redis: PrivateRedis) -> None:
    one = machine("one")
    one.store = PolicyStore(one.settings.policy_dir, 2, one.fleet)
    for number in range(6):
        one.publish(number)
    keys = redis.execute("EVAL", "return #redis.call('KEYS', '*policy:*')", "0")
    assert int(keys[1:]) <= 4


def test_commands_say_why_nothing_was_changed_and_how_to_do_it_here(
    tmp_path: Path, redis: PrivateRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "HOST": LOOPBACK,
        "PORT": redis.port,
        "USERNAME": redis.user,
        "PASSWORD": redis.password,
    }.items():
        monkeypatch.setenv(f"REDIS_{name}", str(value))

    def on(name: str, *arguments: str) -> object:
        monkeypatch.setenv("DATA_DIR", str(tmp_path / name))
        done = CliRunner().invoke(cli.app, ["policy", *arguments, "--json"])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            return str(done.exception)
        return json.loads(done.stdout)

    version = on("one", "publish")["version"]  # type: ignore[index]
    on("two", "publish", "--aside")
    assert on("two", "list")["current"] == version  # type: ignore[index]
    redis.kill()
    assert "--here" in str(on("two", "pin", version, "--why", "fair"))
    assert on("two", "pin", version, "--why", "fair", "--here") == {"current": version, "pinned": version}
