"""The short form of `make faults`: kills −9 and a full disk under load, and every event counted at the end."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.faults.kinds import KINDS, drawn
from tests.faults.storm import Plan, Report, run

# This seed draws: second reader, MariaDB, Redis, flusher, service and worker killed, disk full.
PLAN = Plan(11959, faults=7, events=5_000, tabs=8, users=200, pause_seconds=0.1, scale=0.1, disk_megabytes=256)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Report]:
    folder = tmp_path_factory.mktemp("storm")
    yield run(PLAN, folder)
    shutil.rmtree(folder, ignore_errors=True)


def test_no_acknowledged_event_is_lost_or_counted_twice_and_no_feed_fails_or_repeats(report: Report) -> None:
    assert report.broken == []
    assert report.figures["events acknowledged"] >= PLAN.events
    assert report.figures["events counted in the log"] >= PLAN.events
    assert report.figures["events in recs_events"] == report.figures["events in activity_log"] >= PLAN.events


def test_the_faults_were_made_and_clients_met_them(report: Report) -> None:
    names = {fault.name for fault in report.struck}
    assert {"flusher killed", "MariaDB killed", "Redis killed, empty afterwards", "service killed"} <= names
    assert "second reader killed" in names
    assert any("disk full" in name for name in names) or report.not_made
    (killed,) = [fault for fault in report.struck if fault.name == "service killed"]
    assert killed.errors  # refused, at least
    assert report.figures["calls retried"] > 0


def test_a_seed_draws_the_same_faults_again_and_each_kind_before_any_comes_twice() -> None:
    names = [kind.name for kind in drawn(3, 2 * len(KINDS), has_disk=True)]
    assert names == [kind.name for kind in drawn(3, 2 * len(KINDS), has_disk=True)]
    assert names != [kind.name for kind in drawn(4, 2 * len(KINDS), has_disk=True)]
    for half in (names[: len(KINDS)], names[len(KINDS) :]):
        assert sorted(half) == sorted(kind.name for kind in KINDS)
    assert not any("disk" in kind.name for kind in drawn(3, len(KINDS), has_disk=False))
