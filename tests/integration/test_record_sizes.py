"""What a feed of the demo takes in the log and in a real database, and that its explanation is still that of what was
served. docs/events.md says the numbers."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from pydantic import SecretStr
from sqlalchemy import NullPool, create_engine
from sqlalchemy.engine import URL, Engine

from recommendation_service.catalog.builder import build_catalog
from recommendation_service.catalog.store import CatalogStore
from recommendation_service.core.config import Settings
from recommendation_service.demo import load_invented
from recommendation_service.demo.schema import metadata
from recommendation_service.feed.explain import Choice, Why, why
from recommendation_service.feed.generation import Generation
from recommendation_service.feed.pipeline import FeedPipeline, Slate
from recommendation_service.feed.request import FeedRequest
from recommendation_service.flush.event_writer import EventWriter
from recommendation_service.flush.lookup import find_feed
from recommendation_service.flush.migrations import migrate
from recommendation_service.flush.tables import make_writing_engine
from recommendation_service.log.records import FeedRecord, decode, encode_feeds
from recommendation_service.model.kinds import ENDPOINTS
from recommendation_service.serving.recording import record_of
from tests.unit.sources.operator_database import NOW, POLICY, OperatorDatabase

SCALE = 0.1
FEEDS = 300  # of each endpoint
ROWS = 5_000
MOST_BYTES_IN_THE_LOG = 1_000
MOST_BYTES_IN_RECS_EVENTS = 1_600
AGE_DAYS = 20.0  # of every item, as far as explanations go
SESSION_ID = str(uuid.UUID(int=7))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> FeedPipeline:
    folder = tmp_path_factory.mktemp("demo")
    url = URL.create("sqlite", database=str(folder / "demo.sqlite"))
    load_invented(create_engine(url, poolclass=NullPool), scale=SCALE, now=NOW)
    settings = OperatorDatabase.settings_of(url, folder)
    store = CatalogStore(settings.catalog_dir, 1)
    catalog = store.open(store.publish(build_catalog(OperatorDatabase.reader(settings), settings, POLICY, NOW)))
    return FeedPipeline(Generation(catalog, POLICY), seed=5)


def feeds(pipeline: FeedPipeline, endpoint: str, count: int = FEEDS) -> Iterator[tuple[Slate, bytes]]:
    """Of as many users, with their records."""
    users = pipeline.catalog.arrays.user_id
    for number in range(count):
        user, request_id = int(users[number % len(users)]), secrets.token_hex(16)
        slate = pipeline.rank(
            FeedRequest(
                endpoint,
                user,
                24,
                request_id,
                explain=True,
                session_id=SESSION_ID,
                happened_ms=1_795_000_000_000 + number,
            )
        )
        [record] = encode_feeds([record_of(slate)])
        yield slate, record


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_feed_of_24_takes_at_most_1000_bytes_in_the_log(pipeline: FeedPipeline, endpoint: str) -> None:
    sizes = [len(record) for _, record in feeds(pipeline, endpoint)]
    assert max(sizes) <= MOST_BYTES_IN_THE_LOG


def recorded(payload: bytes) -> FeedRecord:
    record = decode(payload)
    assert isinstance(record, FeedRecord)
    return record


@pytest.fixture
def engine(mariadb_url: URL, tmp_path: Path) -> Iterator[Engine]:
    settings = Settings(
        database_url=SecretStr(mariadb_url.render_as_string(hide_password=False)), data_dir=tmp_path / "data"
    )
    made = make_writing_engine(settings)
    metadata.tables["activity_log"].create(made)
    migrate(made)
    yield made
    made.dispose()


def page_bytes(engine: Engine, table: str) -> int:
    """What of the server's memory has rows of a table, indices included; the file grows by megabytes."""
    with engine.connect() as connection:
        statement = (
            "SELECT COUNT(*) * @@innodb_page_size FROM information_schema.innodb_buffer_page "
            "WHERE table_name = CONCAT('`', DATABASE(), '`.`', %s, '`') AND page_type = 'INDEX'"
        )
        return int(connection.exec_driver_sql(statement, (table,)).scalar_one())


def test_the_row_of_a_feed_of_24_takes_at_most_1600_bytes_of_recs_events(
    pipeline: FeedPipeline, engine: Engine
) -> None:
    some = [recorded(payload) for _, payload in feeds(pipeline, "total")]
    records = [
        msgspec.structs.replace(
            some[number % FEEDS], event_id=secrets.token_bytes(16), request_id=secrets.token_bytes(16)
        )
        for number in range(ROWS)
    ]
    outcome = EventWriter(engine).write(records)
    assert outcome.inserted == {"feed": ROWS}, outcome.problem
    assert page_bytes(engine, "recs_events") / ROWS <= MOST_BYTES_IN_RECS_EVENTS


def reasons(record: FeedRecord) -> list[Why]:
    slots = record.slots()
    return [
        reason_of(
            slot,
            Choice(
                int(slots.kinds[slot]),
                int(slots.pools[slot]),
                int(slots.relaxed[slot]),
                float(slots.propensities[slot]),
                slots.features[slot],
            ),
        )
        for slot in range(record.size)
    ]


def reason_of(slot: int, choice: Choice) -> Why:
    return why(POLICY, choice, slot, AGE_DAYS)


def numbers_of(reason: Why) -> list[float]:
    return [
        *(reason.propensity, reason.score, reason.expected, reason.bonus),
        *reason.terms.values(),
        *reason.features.values(),
    ]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_the_explanation_of_a_record_is_what_was_served_to_4_digits(
    pipeline: FeedPipeline, engine: Engine, tmp_path: Path, endpoint: str
) -> None:
    for slate, payload in feeds(pipeline, endpoint, 20):
        served = [reason_of(slot, choice) for slot, choice in enumerate(slate.choices)]
        record = recorded(payload)
        EventWriter(engine).write([record])
        of_row = find_feed(engine, tmp_path, slate.request.request_id)
        assert of_row is not None
        for read in (record, of_row):
            for was, reason in zip(served, reasons(read), strict=True):
                assert numbers_of(reason) == pytest.approx(numbers_of(was), rel=5e-5, abs=0)
                assert (reason.slot, reason.pool, reason.relaxed) == (was.slot, was.pool, was.relaxed)


def test_a_learned_policys_explanation_is_too(pipeline: FeedPipeline) -> None:
    """Not only the hand-set sum counts then."""
    [(slate, payload)] = feeds(pipeline, "total", 1)
    theta = np.random.default_rng(3).normal(0, 1, 20)
    exact = np.array([choice.x for choice in slate.choices]) @ theta
    assert recorded(payload).slots().features @ theta == pytest.approx(exact, abs=5e-4)
