"""`recs learn`, and the process that the service keeps."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from recommendation_service import cli
from recommendation_service.core.clock import Clock
from recommendation_service.core.config import Settings
from recommendation_service.core.errors import SourceError
from recommendation_service.learning import process
from recommendation_service.learning.format import load_learning
from recommendation_service.learning.ledger import FILE, put_aside
from recommendation_service.learning.status import read_status
from recommendation_service.log.records import now_ms
from recommendation_service.processes.leases import open_lease
from recommendation_service.processes.registry import LEARNER
from tests.servers import wait_until
from tests.support.events import feed, write_segment
from tests.unit.learning.test_learner import shown

SOON_SECONDS = 60.0


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings by the environment, and a log with a feed of an hour ago of which two items were seen."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    settings = Settings(data_dir=tmp_path, learner="store")
    moment = now_ms() - 3_600_000
    served = feed(6, happened_ms=moment)
    times = {"happened_ms": moment + 1_000, "received_ms": moment + 2_000}
    write_segment(settings.events_dir, [served, shown(served, 0, **times), shown(served, 1, "match", **times)])
    return settings


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ["learn", *arguments])


def told(*arguments: str) -> Any:
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_without_a_service_it_learns_here_and_says_what(given: Settings) -> None:
    assert run("--status").exit_code == 0, "nothing yet"
    totals = told("--once")["totals"]
    assert totals["slots"] == {"AU": 2}
    assert told("--status")["totals"] == totals
    shown_to_people = run("--status").stdout
    assert "AU 2" in shown_to_people
    assert totals["version"] in shown_to_people


def test_anew_keeps_what_was_learned_aside_and_begins_with_what_the_log_has(given: Settings) -> None:
    assert told("--anew") == {"kept": None}
    told("--once")
    kept = Path(told("--anew")["kept"])
    assert kept.exists()
    assert not (given.learning_dir / FILE).exists()
    assert told("--once")["totals"]["slots"] == {"AU": 2}


def test_a_disk_that_cannot_be_used_is_one_sentence(given: Settings) -> None:
    given.learning_dir.touch()  # where a folder should be
    assert isinstance(done := run("--once").exception, SourceError)
    assert str(given.learning_dir) in str(done)


def test_two_ways_at_once_and_a_learner_that_runs_are_refused(given: Settings) -> None:
    assert run("--once", "--anew").exit_code == 2
    with open_lease(LEARNER, given.learning_dir) as lease:
        assert lease.take()
        assert "runs already" in str(run().exception)
        assert "has not answered within 1 s" in str(run("--once", "--timeout", "1").exception)


def test_the_process_says_why_it_cannot_learn_and_goes_on_once_it_can(
    given: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt = given.learning_dir / FILE
    spoilt.parent.mkdir()
    spoilt.write_bytes(b"no database at all")
    monkeypatch.setattr(process, "RETRY_SECONDS", 0.05)
    stop = threading.Event()
    thread = threading.Thread(target=process.keep_learning, args=(given, load_learning(), Clock(), stop))
    thread.start()

    def error() -> str | None:
        status = read_status(given.learning_dir)
        return status.error if status is not None else None

    try:
        assert wait_until(lambda: "cannot be used" in (error() or ""), SOON_SECONDS)
        assert spoilt.read_bytes() == b"no database at all"
        assert put_aside(given.learning_dir, datetime.now(UTC)) is not None
        assert wait_until(lambda: error() is None, SOON_SECONDS)
    finally:
        stop.set()
        thread.join(SOON_SECONDS)
    assert not thread.is_alive()
