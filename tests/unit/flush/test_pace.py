"""By when what waits is to be in the database, and how much of its time a flush works."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recommendation_service.flush.pace import HURRY_SECONDS, LEAST_SHARE, Promise, rest_seconds, share_of_work

seconds = st.floats(0, 10 * HURRY_SECONDS)
shares = st.floats(0, 3)


@given(seconds, shares, st.floats(0, 1), st.floats(0, 0.05))
def test_the_share_grows_with_what_is_at_stake_and_has_no_step(
    overdue: float, filled: float, more_overdue: float, more_filled: float
) -> None:
    before, after = share_of_work(overdue, filled), share_of_work(overdue + more_overdue, filled + more_filled)
    assert LEAST_SHARE <= before <= after <= 1
    assert after - before <= max(more_overdue / HURRY_SECONDS, more_filled) + 1e-9


def test_in_time_a_flush_works_a_tenth_of_the_time_and_late_or_with_a_full_log_all_of_it() -> None:
    assert share_of_work(0, 0) == LEAST_SHARE == 0.1
    assert share_of_work(HURRY_SECONDS, 0) == share_of_work(0, 1) == share_of_work(0, 5) == 1
    assert share_of_work(HURRY_SECONDS / 2, 0.1) == pytest.approx(0.55)
    assert rest_seconds(0.2, 0.1) == pytest.approx(1.8)
    assert rest_seconds(0.2, 1) == 0


class Clock:
    seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds

    def ms(self) -> int:
        return int(self.seconds * 1000) + 50_000_000


def promise(clock: Clock) -> Promise:
    return Promise(60, 50, clock, clock.ms)


def test_what_waits_is_promised_for_the_interval_after_the_oldest_was_accepted() -> None:
    clock = Clock()
    made = promise(clock)
    assert (made.seconds(), made.overdue_seconds()) == (None, 0)
    made.note(clock.ms() - 20_000, 1)
    assert made.seconds() == 40
    clock.seconds += 45
    made.note(clock.ms() - 65_000, 2)
    assert (made.seconds(), made.overdue_seconds()) == (-5, 5)


def test_a_user_at_the_threshold_is_promised_at_once() -> None:
    clock = Clock()
    made = promise(clock)
    made.note(clock.ms(), 49)
    assert made.seconds() == 60
    made.note(clock.ms(), 50)
    clock.seconds += 3
    made.note(clock.ms(), 70)
    assert made.overdue_seconds() == 3
    made.kept()
    assert made.seconds() is None
    made.note(clock.ms(), 1)
    assert made.seconds() == 60


def test_what_is_written_already_is_late_no_more() -> None:
    clock = Clock()
    made = promise(clock)
    oldest_ms = clock.ms() - 90_000
    made.note(oldest_ms, 1)
    assert made.overdue_seconds() == 30
    made.partly_kept(oldest_ms + 20_000)
    assert made.overdue_seconds() == 10
    made.partly_kept(oldest_ms + 20_000)
    made.partly_kept(oldest_ms)  # of another worker's, later in the log
    assert made.overdue_seconds() == 10


def test_a_clock_that_moves_while_events_wait_changes_no_promise() -> None:
    clock = Clock()
    made = Promise(60, 50, clock, lambda: clock.ms() + moved_ms)
    moved_ms = 0
    made.note(clock.ms(), 1)
    moved_ms = -3_600_000
    clock.seconds += 10
    made.note(clock.ms(), 1)
    assert made.seconds() == 50
