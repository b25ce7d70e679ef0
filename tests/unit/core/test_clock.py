"""The service's time of day: which clock it goes by, and when something may be deleted for its age."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy
from hypothesis import given
from hypothesis import strategies as st

from recommendation_service.core.clock import Agreement, Clock, later_token
from recommendation_service.core.clock_watch import LOOK_SECONDS, ClockWatch, Sight, judge

DAY = 86_400.0
WAIT = DAY
TOLERANCE = 300.0
START = 1_790_000_000.0


@dataclass
class Machine:
    """Its kernel's clocks, and the database's beside it."""

    folder: Path
    up: float = 1_000.0  # CLOCK_BOOTTIME
    ahead: float = 0.0  # of the machine's time of day
    database_ahead: float | None = 0.0  # None: it does not answer

    def clock(self) -> Clock:
        return Clock(self.folder, TOLERANCE, wall=lambda: START + self.up + self.ahead, boot=lambda: self.up)

    def watch(
        self, clock: Clock, last_event: float | None = None, address: str = "mysql+pymysql://nowhere/none"
    ) -> ClockWatch:
        watch = ClockWatch(clock, sqlalchemy.create_engine(address, poolclass=sqlalchemy.NullPool), WAIT)
        watch._database_offset = lambda: None if self.database_ahead is None else START + self.database_ahead  # type: ignore[method-assign]
        watch._last_event = lambda: last_event  # type: ignore[method-assign]
        return watch

    def problem(self) -> str | None:
        agreement = self.clock().agreement
        assert agreement is not None
        return agreement.problem

    def true_time(self) -> float:
        return START + self.up


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


JUMPS = [pytest.param(days * DAY, id=f"{days:+} days") for days in (1, -1, 60, -60, 450, -450)]


@pytest.mark.parametrize("jump", JUMPS)
def test_a_jump_of_the_machines_clock_does_not_move_the_services_time(machine: Machine, jump: float) -> None:
    clock, other = machine.clock(), machine.clock()
    watch = machine.watch(clock, last_event=machine.true_time())
    watch.look()
    assert watch.may_delete()
    machine.ahead = jump
    assert abs(clock.now() - machine.true_time()) < 1, "not even before anybody has looked"
    watch.look()
    other.follow()
    assert abs(clock.now() - machine.true_time()) < 1
    assert abs(other.now() - machine.true_time()) < 1, "a process that started before"
    assert abs(machine.clock().now() - machine.true_time()) < 1, "a process that starts now"
    assert not watch.may_delete()
    assert "the database's" in str(machine.problem())
    machine.ahead = 0.0
    machine.up += LOOK_SECONDS + 1
    watch.look()
    assert machine.problem() is None
    assert not watch.may_delete(), "it is waited out"
    machine.up += WAIT
    watch.look()
    assert watch.may_delete()


@pytest.mark.parametrize("jump", JUMPS)
def test_a_machine_that_starts_with_a_wrong_clock_goes_by_the_databases(machine: Machine, jump: float) -> None:
    machine.ahead = jump
    clock = machine.clock()
    watch = machine.watch(clock, last_event=machine.true_time() - 60)
    watch.look()
    assert abs(clock.now() - machine.true_time()) < 1
    assert not watch.may_delete()


@pytest.mark.parametrize("jump", JUMPS)
def test_a_jump_of_both_clocks_is_believed_and_nothing_is_deleted_for_a_time(machine: Machine, jump: float) -> None:
    """As where the database is on the same machine: what was last seen speaks against both."""
    clock = machine.clock()
    watch = machine.watch(clock, last_event=machine.true_time())
    watch.look()
    machine.ahead = machine.database_ahead = jump
    watch.look()
    assert abs(clock.now() - machine.true_time() - jump) < 1
    assert not watch.may_delete()
    machine.up += WAIT + LOOK_SECONDS
    watch.look()
    assert watch.may_delete()


def test_a_machine_that_was_off_for_long_waits_before_it_deletes(machine: Machine) -> None:
    clock = machine.clock()
    watch = machine.watch(clock, last_event=machine.true_time() - 100 * DAY)
    watch.look()
    assert abs(clock.now() - machine.true_time()) < 1
    assert not watch.may_delete()
    machine.up += WAIT + LOOK_SECONDS
    watch.look()
    assert watch.may_delete()


def test_where_the_newest_event_is_recent_a_new_folder_need_not_wait(machine: Machine) -> None:
    watch = machine.watch(machine.clock(), last_event=machine.true_time() - 3_600)
    watch.look()
    assert watch.may_delete()


def test_a_database_whose_clock_is_wrong_is_not_believed_against_two(machine: Machine) -> None:
    clock = machine.clock()
    watch = machine.watch(clock, last_event=machine.true_time())
    watch.look()
    machine.database_ahead = 60 * DAY
    machine.up += LOOK_SECONDS + 1
    watch.look()
    assert abs(clock.now() - machine.true_time()) < 1
    assert not watch.may_delete()


@pytest.mark.parametrize("jump", JUMPS)
def test_an_embedded_database_has_no_clock_and_what_was_last_seen_is_believed_for_a_time(
    machine: Machine, jump: float
) -> None:
    machine.database_ahead = None
    clock = machine.clock()
    watch = machine.watch(clock, machine.true_time() - 60, address="sqlite://")
    watch.look()
    assert watch.may_delete()
    machine.ahead = jump
    watch.look()
    assert abs(clock.now() - machine.true_time()) < 1
    assert not watch.may_delete()
    for _ in range(3):
        machine.up += WAIT / 2
        watch.look()
    assert abs(clock.now() - machine.true_time() - jump) < 1, "it has been so for a day"
    machine.up += WAIT
    watch.look()
    assert watch.may_delete()


def test_an_embedded_databases_time_that_nothing_confirms_is_the_machines(machine: Machine) -> None:
    """As where it booted with a wrong clock, which a time server then sets right."""
    machine.ahead, machine.database_ahead = 450 * DAY, None
    clock = machine.clock()
    watch = machine.watch(clock, address="sqlite://")
    watch.look()
    machine.ahead = 0.0
    watch.look()
    assert abs(clock.now() - machine.true_time()) < 1
    assert not watch.may_delete()


def test_what_a_time_server_mends_is_followed_at_once(machine: Machine) -> None:
    clock = machine.clock()
    watch = machine.watch(clock, last_event=machine.true_time())
    watch.look()
    machine.ahead = machine.database_ahead = 2.5
    machine.up += LOOK_SECONDS + 1
    watch.look()
    assert abs(clock.now() - machine.true_time() - 2.5) < 0.01
    assert watch.may_delete()


def test_without_an_agreement_the_machines_clock_is_followed(machine: Machine) -> None:
    clock = machine.clock()
    machine.ahead = 60 * DAY
    clock.follow()
    assert abs(clock.now() - machine.true_time() - 60 * DAY) < 1


def test_a_damaged_file_counts_as_none(machine: Machine) -> None:
    (machine.folder / "clock.json").write_text("{")
    assert machine.clock().agreement is None
    machine.watch(machine.clock()).look()
    assert machine.clock().agreement is not None


offsets = st.floats(-1e9, 1e9)


@given(
    machine=offsets,
    database=st.none() | offsets,
    known=st.none() | st.tuples(offsets, st.booleans(), st.none() | st.floats(0, 1e6), st.none() | st.floats(0, 1e6)),
    continuous=st.booleans(),
    up=st.floats(0, 1e6),
)
def test_nothing_is_certain_where_two_disagree(
    machine: float,
    database: float | None,
    known: tuple[float, bool, float | None, float | None] | None,
    continuous: bool,
    up: float,
) -> None:
    before = known and Agreement("boot", known[0], 0.0, known[1], known[2], jumped=known[3])
    found = judge(
        Sight("boot", up, machine, database, has_database=True),
        before or None,
        continuous=continuous,
        tolerance=TOLERANCE,
        wait=WAIT,
    )
    certain = found.settled is not None and up - found.settled >= WAIT
    clocks = [at for at in (machine, database, before.offset if before else None) if at is not None]
    if certain:
        assert max(clocks) - min(clocks) <= 2 * TOLERANCE
    assert any(abs(found.offset - clock) <= TOLERANCE for clock in clocks), "it is the time of one of them"


def test_a_token_is_later_than_the_last_one_whatever_the_clock_says() -> None:
    last = later_token(None)
    far = f"{int(last) + int(450 * DAY * 1e9):020d}"
    assert later_token(last) > last
    assert later_token(far) > far
    assert later_token("no number") >= last
