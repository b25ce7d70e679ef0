"""Who is in which arm: always the same, evenly, and independently of any other experiment."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest

from recommendation_service.experiments.assignment import Assignment

PEOPLE = 20_000
# Numbers as tables have them: from 1 on, or with gaps that are a power of two.
NUMBERS = {"from 1 on": range(1, PEOPLE + 1), "of one shard": range(1 << 40, (1 << 40) + 1024 * PEOPLE, 1024)}
CERTAIN = 1e-4  # of a test of which some dozens are made


def likelihood_of(counts: npt.ArrayLike, expected: npt.ArrayLike | None = None) -> float:
    """Of counts as far from the expected ones, or from even ones: χ²."""
    from scipy.stats import chisquare  # here: all processes of a run collect this file, and it takes a second

    return float(chisquare(counts, expected).pvalue)


def arms(salt: str, shares: list[float], numbers: range) -> np.ndarray:
    of = Assignment(salt, shares).of
    return np.array([of(number, 0, "") for number in numbers])


def test_the_same_person_is_always_in_the_same_arm() -> None:
    """What it is today is what it is on another machine, and of the next release: these numbers are for ever."""
    assert arms("bolder", [0.5, 0.5], range(1, 25)).tolist() == [
        *(0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1),
        *(1, 0, 1, 1, 0, 1, 1, 1, 0, 1, 0, 0),
    ]
    of = Assignment("bolder", [0.5, 0.5]).of
    assert {of(7, session, request) for session in (0, 9) for request in ("a", "b")} == {of(7, 0, "")}
    assert {of(0, 9, request) for request in "abcdefgh"} == {of(0, 9, "")}
    assert {of(0, 0, request) for request in "abcdefgh"} == {0, 1}


@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.95, 0.05], [0.2, 0.3, 0.1, 0.4], [1 / 3] * 3])
def test_arms_have_their_shares(numbers: str, shares: list[float]) -> None:
    for salt in ("a", "b", "bolder", "canary-20261129T101500"):
        counts = np.bincount(arms(salt, shares, NUMBERS[numbers]), minlength=len(shares))
        assert likelihood_of(counts, np.array(shares) * PEOPLE) > CERTAIN, salt


@pytest.mark.parametrize("numbers", NUMBERS)
def test_another_salt_is_another_draw(numbers: str) -> None:
    salts = ["a", "b", "c", "bolder", "bolder-2", ""]
    of = {salt: arms(salt, [0.5, 0.5], NUMBERS[numbers]) for salt in salts}
    for one, other in itertools.combinations(salts, 2):
        together = np.bincount(2 * of[one] + of[other], minlength=4)
        assert likelihood_of(together) > CERTAIN, (one, other)


def test_users_sessions_and_requests_are_drawn_apart() -> None:
    of = Assignment("bolder", [0.5, 0.5]).of
    users, sessions = (
        [of(*who, "") for who in people]
        for people in ([(n, 0) for n in range(1, 2001)], [(0, n) for n in range(1, 2001)])
    )
    assert likelihood_of(np.bincount(2 * np.array(users) + np.array(sessions))) > CERTAIN
    requests = np.bincount([of(0, 0, f"{n:032x}") for n in range(2000)])
    assert likelihood_of(requests) > CERTAIN


def test_whoever_is_in_a_small_arm_stays_in_it_as_that_arm_grows() -> None:
    """Of one salt: so a canary whose share is raised, as another experiment, keeps its people."""
    small, large = (arms("canary", [1 - share, share], range(1, 5001)) for share in (0.05, 0.2))
    assert small.sum() < large.sum()
    assert (large[small == 1] == 1).all()


def test_shares_that_are_rounded_leave_nobody_without_an_arm() -> None:
    counts = np.bincount(arms("a", [0.1] * 10, NUMBERS["from 1 on"]))
    assert len(counts) == 10
    assert likelihood_of(counts) > CERTAIN
