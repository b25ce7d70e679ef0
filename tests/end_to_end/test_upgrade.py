"""The release at commit 5484959 is upgraded while people scroll: what either acknowledged is there once, and nothing
comes again that either showed.

Its folder has a log that is half flushed, a memory and a catalog; its tables are in MariaDB, as it made and left them.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy.engine import URL, Engine

from recommendation_service.flush.dead_letters import DeadLetters
from recommendation_service.log.marks import registered
from recommendation_service.memory.memory_file import DAMAGED_FOLDER
from tests.end_to_end.service import PATIENCE_SECONDS, Service, recs
from tests.faults.clients import People, Tab, Where
from tests.faults.counter import NAME, SecondReader
from tests.faults.ledger import FEED, FEEDBACK, Ledger, broken, found_in
from tests.servers import LOOPBACK, wait_until
from tests.support.old_data_dir import OldDataDir, as_of_now, copy_tables, unpacked

WORKERS = 2
OUTSIDER = 900_000  # users from here on are in no catalog
PAGES = 12  # between two things that happen


@pytest.fixture
def old(tmp_path: Path) -> OldDataDir:
    found = unpacked(tmp_path / "service")
    as_of_now(found)
    return found


@pytest.fixture
def engine(old: OldDataDir, mariadb_url: URL) -> Iterator[Engine]:
    engine = sqlalchemy.create_engine(mariadb_url)
    copy_tables(old, engine)
    yield engine
    engine.dispose()


@pytest.fixture
def ledger(old: OldDataDir) -> Ledger:
    """With what the release before had acknowledged and shown."""
    ledger = Ledger()
    for event in old.events:
        ledger.send([event["event_id"]])
        ledger.acknowledge([event["event_id"]])
    for feed in old.feeds:
        ledger.show(feed["user_id"], feed["request_id"], [(kind, number) for kind, number in feed["items"]], [])
    return ledger


@pytest.fixture
def second_reader(old: OldDataDir, tmp_path: Path) -> Iterator[SecondReader]:
    """Of the whole log, that release's records too."""
    reader = SecondReader(tmp_path, old.data_dir / "events")
    reader.start()
    assert wait_until(lambda: NAME in registered(old.data_dir / "events"), PATIENCE_SECONDS), reader.log
    yield reader
    reader.kill()


@pytest.fixture
def settings(engine: Engine) -> dict[str, str]:
    return {
        "DATABASE_URL": engine.url.render_as_string(hide_password=False),
        "CATALOG_REFRESHER": "false",  # nothing of that catalog is in the operator's tables
        "EVENTS_RETENTION_DAYS": "36500",
        "FLUSH_INTERVAL_SECONDS": "1",
        "SEEN_MEGABYTES": "16",
        "SHED_LOAD_AFTER_SECONDS": "60",  # a 503 is to be the start's
    }


@pytest.fixture
def service(old: OldDataDir, settings: dict[str, str], second_reader: SecondReader) -> Iterator[Service]:
    """Just started: nobody listens yet."""
    with Service.gunicorn(old.data_dir.parent, WORKERS, settings) as service:
        yield service


@pytest.fixture
def tabs(old: OldDataDir, ledger: Ledger, service: Service) -> Iterator[list[Tab]]:
    """Two of each of the release's users, and of others after them, who ask and tell until they are answered."""
    tabs = []
    for group, user in enumerate(user for user in old.users if user):
        people = People([user, *range(OUTSIDER + group, OUTSIDER + 1_000, 10)])
        for side in "ab":
            rng = random.Random(f"{group}{side}")
            where = Where(LOOPBACK, service.client.base_url.port or 0)
            tabs.append(Tab(f"{group}{side}", where, ledger, people, rng, pause_seconds=0.05))
    for tab in tabs:
        tab.start()
    yield tabs
    stop(tabs)


def stop(tabs: list[Tab]) -> None:
    for tab in tabs:
        tab.stop()
    for tab in tabs:
        tab.join(PATIENCE_SECONDS)
        assert tab.error is None, tab.error


def let_scroll(service: Service, ledger: Ledger) -> None:
    """For some more pages, and what is done on them."""
    for call in (FEED, FEEDBACK):
        wanted = ledger.count(call) + PAGES
        service.wait_until(lambda call=call, wanted=wanted: ledger.count(call) >= wanted)  # type: ignore[misc]


def scroll_anonymously(old: OldDataDir, service: Service, ledger: Ledger) -> None:
    body = service.feed(user_id=0, size=6, session_id=old.session)
    ledger.show(0, body["request_id"], [(item["type"], item["id"]) for item in body["items"]], body["relaxed"])


def test_an_upgrade_under_load_loses_and_repeats_nothing(
    old: OldDataDir,
    engine: Engine,
    settings: dict[str, str],
    ledger: Ledger,
    service: Service,
    tabs: list[Tab],
    second_reader: SecondReader,
) -> None:
    events_dir, began = old.data_dir / "events", time.monotonic()
    (segment,) = events_dir.glob("*.segment")
    service.wait_until_ready()
    starting = (began, time.monotonic() + 3)  # an answer that was on its way is noted a little later
    scroll_anonymously(old, service, ledger)
    let_scroll(service, ledger)

    before, started = service.workers, service.log.count("Application startup complete")
    service.process.send_signal(signal.SIGHUP)
    service.wait_until(lambda: len(service.workers) == WORKERS and not before & service.workers)
    service.wait_until(lambda: service.log.count("Application startup complete") >= started + WORKERS)
    scroll_anonymously(old, service, ledger)
    let_scroll(service, ledger)

    stop(tabs)
    flushed = recs("events", "flush", folder=old.data_dir.parent, settings=settings)
    assert flushed.returncode == 0, flushed.stderr
    assert wait_until(second_reader.is_at_the_end, PATIENCE_SECONDS), second_reader.log
    found = found_in(engine)
    found.counted, found.dead_letters = second_reader.counted(), len(DeadLetters(events_dir).all())
    assert broken(ledger, found, [starting], []) == []
    assert wait_until(lambda: not segment.exists(), PATIENCE_SECONDS)
    assert not (old.data_dir / "seen" / DAMAGED_FOLDER).exists()
    assert "Traceback" not in service.log
