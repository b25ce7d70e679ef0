"""What people in the arms of experiments were shown and what it brought, from a real log."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from recommendation_service.experiments.assignment import Assignment
from recommendation_service.experiments.evidence import evidence, verdicts
from recommendation_service.learning.arms import MOST_KEPT, ArmTotals, Rows, rows_in
from recommendation_service.learning.status import read_status
from recommendation_service.log.forgotten import note_forgotten
from recommendation_service.log.records import Record
from recommendation_service.policies.experiment import Arm, Experiment
from recommendation_service.policies.experiments import start_experiment
from recommendation_service.policies.journal import Deed
from recommendation_service.policies.policy import read_policy_file
from recommendation_service.policies.store import PolicyStore
from tests.support.events import HAPPENED_MS, feed
from tests.unit.learning.test_learner import FILE_NAME, World, shown, totals_of

BOLD, CONTROL = "bolder:bold", "bolder:control"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def rows(world: World, arm: str) -> list[tuple[float, ...]]:
    """Of each person feeds and rewards, and before."""
    with closing(sqlite3.connect(world.settings.learning_dir / FILE_NAME)) as ledger:
        return sorted(zip(*(column.tolist() for column in rows_in(ledger, arm)), strict=True))


def test_each_feed_counts_once_with_all_that_it_brought_seen_or_not(world: World) -> None:
    mine = [feed(6, arm=BOLD) for _ in range(3)]
    other, outside = feed(6, user_id=8, arm=CONTROL), feed(6, user_id=9)
    first = [shown(mine[0], 0), shown(mine[0], 1, "match"), shown(mine[1], 0, "view", watch_seconds=15)]
    world.write([*mine, other, outside, *first, shown(outside, 0, "match", user_id=9)])
    world.learn()
    assert totals_of(world) == {
        BOLD: ArmTotals(1, 3, pytest.approx(1.15), HAPPENED_MS),
        CONTROL: ArmTotals(1, 1, 0.0, HAPPENED_MS),
    }
    assert rows(world, BOLD) == [(3.0, pytest.approx(1.15), 0.0, 0.0)]

    world.write([mine[0], *first, shown(mine[2], 2, "match"), shown(other, 0, "skip", user_id=8)])
    world.now_ms += 1000
    world.learn()
    assert totals_of(world)[BOLD] == (1, 3, pytest.approx(2.15), HAPPENED_MS)
    assert totals_of(world)[CONTROL] == (1, 1, pytest.approx(-0.2), HAPPENED_MS)


def test_a_session_is_a_person_and_without_one_a_request_is(world: World) -> None:
    sessions = [feed(3, user_id=0, session_id=name, arm=BOLD) for name in ("a", "a", "7")]
    requests = [feed(3, user_id=0, session_id=None, arm=BOLD) for _ in range(4)]
    world.write([feed(3, user_id=7, arm=BOLD), *sessions, *requests])
    world.learn()
    assert totals_of(world)[BOLD][:2] == (7, 8)


def test_what_a_person_did_before_is_known_and_nothing_of_it_is_of_the_experiment(world: World) -> None:
    before, within = feed(6), feed(6, happened_ms=HAPPENED_MS + 3_600_000, arm=BOLD)
    world.write([before, shown(before, 0), shown(before, 1, "match")])
    world.learn()
    world.write([within])
    world.now_ms += 3_600_000
    world.learn()
    late = {"happened_ms": HAPPENED_MS + 7_200_000, "received_ms": HAPPENED_MS + 7_200_001}
    world.write([shown(before, 3, "match", **late), shown(within, 0, "match", **late)])
    world.now_ms += 3_700_000
    world.learn()
    assert rows(world, BOLD) == [(1.0, 1.0, pytest.approx(2.0, rel=1e-3), pytest.approx(1.0, rel=1e-3))]


def test_a_person_who_is_forgotten_is_in_no_row(world: World) -> None:
    world.write([feed(6, arm=BOLD), feed(6, user_id=8, arm=BOLD)])
    world.learn()
    note_forgotten(world.settings.events_dir, 7, world.now_ms)
    world.learn()
    assert rows(world, BOLD) == [(1.0, 0.0, 0.0, 0.0)]
    assert totals_of(world)[BOLD].people == 2


def test_people_of_the_latest_experiments_are_kept_and_of_all_the_totals(world: World) -> None:
    names = [f"e{number}" for number in range(MOST_KEPT + 2)]
    world.write([feed(3, arm=f"{name}:a", happened_ms=HAPPENED_MS + place) for place, name in enumerate(names)])
    world.learn()
    assert [len(rows(world, f"{name}:a")) for name in names] == [0, 0, *[1] * MOST_KEPT]
    assert set(totals_of(world)) == {f"{name}:a" for name in names}


def begun(world: World) -> Experiment:
    store = PolicyStore(world.settings.policy_dir, 10)
    deed = Deed(datetime(2026, 9, 21, tzinfo=UTC), "ana", "to see")
    arms = [Arm("control", "current", 0.5), Arm("bold", "current", 0.5)]
    return start_experiment(store, "bolder", arms, deed, salt=None, expect=None, until_now=read_policy_file())


def log_of(experiment: Experiment, people: int, lost: float) -> list[Record]:
    """Two feeds of each person, who does the more in the second arm; without the records of some people of it."""
    draw = np.random.default_rng(5)
    of = Assignment(experiment.salt, experiment.shares).of
    records: list[Record] = []
    for user in range(1, people + 1):
        place = of(user, 0, "")
        if place == 1 and draw.random() < lost:
            continue
        for _ in range(2):
            served = feed(3, user_id=user, arm=experiment.labels[place])
            records.append(served)
            if draw.random() < (0.2, 0.6)[place]:
                records.append(shown(served, 0, "match", user_id=user))
    return records


@pytest.mark.parametrize("lost", [0.0, 0.5])
def test_the_ratio_is_quiet_until_the_log_is_thinned_on_purpose(world: World, lost: float) -> None:
    experiment = begun(world)
    world.write(log_of(experiment, 600, lost))
    learner = world.learner()
    while learner.step():
        pass
    learner.tell()
    learner.close()

    status = read_status(world.settings.learning_dir)
    found = evidence(experiment, world.settings.learning_dir)

    assert status is not None
    assert status.experiment is not None
    assert found is not None
    assert status.experiment["ratio_p_value"] == found.ratio
    assert status.experiment["arms"]["bold"]["people"] == found.arms[1].people
    assert found.is_askew == (lost > 0)
    assert found.arms[1].beside is not None
    assert found.arms[1].beside.lower > 0
    said = verdicts(found)
    assert said[-1] == "bold is better than control."
    assert ("nothing below can be believed" in said[0]) == (lost > 0)


def test_before_anything_was_counted_there_is_no_evidence(world: World) -> None:
    experiment = begun(world)
    assert evidence(experiment, world.settings.learning_dir) is None
    world.learn()
    assert evidence(experiment, world.settings.learning_dir) is None
    world.write([feed(3, arm=experiment.labels[0])])
    world.learn()
    found = evidence(experiment, world.settings.learning_dir)
    assert found is not None
    assert [(arm.people, arm.reward, arm.beside) for arm in found.arms] == [(1, 0.0, None), (0, None, None)]
    assert verdicts(found) == ["bold: nothing can be said yet, with fewer than 100 people in control and bold."]
    assert set(Rows._fields) == {"feeds", "rewards", "earlier_slots", "earlier_rewards"}
